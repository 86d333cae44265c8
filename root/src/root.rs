//! The root's operations, as `http` calls them. Each is one line into the module that does it.

use std::sync::Arc;
use std::time::Duration;

use trawl_cluster::Engine;
use trawl_cluster::view::Viewer;
use trawl_proto::v1;

use crate::config::Config;
use crate::error::Error;
use crate::request::*;

/// What a root can do. Cheap to share behind an `Arc`; every method may be called concurrently.
pub struct Root {
    pub(crate) config: Config,
    pub(crate) engine: Engine,
    pub(crate) viewer: Viewer,
}

impl Root {
    /// The limits and names this root runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Concrete names of indices for an expression: names, commas, `*`, `-exclusions` and `_all` (or
    /// empty). Sorted for wildcards, in the order written for names; none twice.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`].
    pub fn resolve(&self, _expression: &str, _options: ResolveOptions) -> Result<Vec<String>, Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// An index with the mapping that this root knows, dynamic fields included.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`].
    pub async fn index_view(&self, _name: &str) -> Result<IndexView, Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// An index with the mapping as its leaves report it now (as far as they answer): for showing it.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`].
    pub async fn index_view_latest(&self, _name: &str) -> Result<IndexView, Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Searches.
    ///
    /// # Errors
    /// What `lower` answers; [`Error::SearchFailed`]; a shard that failed beside others that did not is
    /// not an error but in [`SearchResponse::shards`].
    pub async fn search(&self, _request: SearchRequest) -> Result<SearchResponse, Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Counts matches exactly.
    ///
    /// # Errors
    /// As [`Root::search`].
    pub async fn count(&self, _indices: &[String], _lower: &Lower) -> Result<(u64, ShardsSummary), Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Writes: each item is durable in its shard's log, or has its error. Missing indices are made.
    ///
    /// # Errors
    /// Only what concerns the whole write, for example too many bytes in flight.
    pub async fn write(&self, _items: Vec<WriteItem>, _options: WriteOptions) -> Result<WriteResult, Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Documents of one index by (`_id`, routing), in the order asked; `Ok(None)` when there is none.
    /// `realtime` sees every acknowledged operation, else what a search would see.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`]; all else is per document.
    #[allow(clippy::type_complexity)]
    pub async fn get(
        &self,
        _index: &str,
        _ids: Vec<(String, Option<String>)>,
        _realtime: bool,
        _options: v1::FetchOptions,
    ) -> Result<Vec<Result<Option<v1::Document>, Error>>, Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Makes an index and waits, at most `wait`, until every shard is served.
    ///
    /// # Errors
    /// [`Error::IndexExists`]; [`Error::Invalid`] for a bad name or number.
    pub async fn create_index(&self, _name: &str, _index: CreateIndex, _wait: Duration) -> Result<Created, Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Deletes indices with all they hold.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`] when one is not there (any more).
    pub async fn delete_index(&self, _names: &[String]) -> Result<(), Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Adds fields to the mappings of indices.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it contradicts what is there.
    pub async fn put_mapping(&self, _names: &[String], _update: &serde_json::Value) -> Result<(), Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Makes everything acknowledged so far visible on every serving replica.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`]; a replica that did not is in the summary.
    pub async fn refresh(&self, _names: &[String]) -> Result<ShardsSummary, Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Nodes, indices and replicas as they are now.
    ///
    /// # Errors
    /// None at present; leaves that do not answer are shown as such.
    pub async fn status(&self) -> Result<ClusterStatus, Error> {
        Err(Error::Unavailable("starting".to_owned()))
    }

    /// Health of some indices (all when empty).
    pub fn health(&self, _names: &[String]) -> Health {
        Health {
            status: HealthStatus::Red,
            timed_out: false,
            nodes: 0,
            leaves: 0,
            shards_served: 0,
            replicas_serving: 0,
            replicas_recovering: 0,
            replicas_unassigned: 0,
            indices: Vec::new(),
        }
    }

    /// Health once it is at least this good, or when the time is over (`timed_out`).
    pub async fn wait_health(&self, names: &[String], _wanted: HealthStatus, _timeout: Duration) -> Health {
        self.health(names)
    }

    /// Whether the first picture of the cluster is in, so that requests make sense (`/readyz`).
    pub fn ready(&self) -> bool {
        false
    }
}

/// How `http` holds it.
pub type SharedRoot = Arc<Root>;
