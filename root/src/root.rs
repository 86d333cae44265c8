//! The root's operations, as `http` calls them. Each is one line into the module that does it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, SemaphorePermit};
use trawl_cluster::Engine;
use trawl_cluster::catalog::IndexRecord;
use trawl_cluster::store::Revision;
use trawl_cluster::view::{View, Viewer};
use trawl_proto::v1;

use crate::by_query::ByQuery;
use crate::catalog::{self, Mappings};
use crate::config::Config;
use crate::engine_gate::EngineGate;
use crate::error::Error;
use crate::fields::Fields;
use crate::hedging::Hedging;
use crate::ingest::lag::Lags;
use crate::leaf_client::LeafClients;
use crate::limits::Limit;
use crate::logs::LogDepths;
use crate::metrics::Metrics;
use crate::newcomers::{self, Newcomers};
use crate::request::*;
use crate::statistics::StatisticsCache;
use crate::{get, health, ingest, lifecycle, refresh, search, status};

/// What a root can do. Cheap to share behind an `Arc`; every method may be called concurrently.
pub struct Root {
    pub(crate) config: Config,
    pub(crate) engine: Engine,
    pub(crate) viewer: Viewer,
    pub(crate) leaves: LeafClients,
    pub(crate) mappings: Mappings,
    pub(crate) fields: Fields,
    pub(crate) hedging: Hedging,
    pub(crate) statistics: StatisticsCache,
    pub(crate) metrics: Metrics,
    /// Whether the logs can be appended to.
    pub(crate) log_gate: EngineGate,
    /// Whether the store can be read and written.
    pub(crate) store_gate: EngineGate,
    /// How far replicas are behind, of indices that have a limit on it.
    pub(crate) lags: Lags,
    /// Grows with every request, so that equal replicas take turns.
    pub(crate) turn: AtomicU64,
    /// Bytes of operations at work.
    pub(crate) write_bytes: AtomicUsize,
    pub(crate) log_depths: LogDepths,
    pub(crate) newcomers: Newcomers,
    /// Bounds the large aggregations that are being merged.
    pub(crate) merges: Arc<Semaphore>,
    pub(crate) by_query: ByQuery,
    reads: Semaphore,
    /// Set when the process is to end.
    retired: AtomicBool,
}

impl Root {
    /// A root over an engine; `viewer` follows the same engine's store.
    pub fn new(config: Config, engine: Engine, viewer: Viewer, registry: &mut Registry) -> Self {
        let search = &config.search;
        let log_depths = LogDepths::default();
        registry.register_collector(Box::new(log_depths.clone()));
        Self {
            log_depths,
            newcomers: Newcomers::default(),
            merges: Arc::new(Semaphore::new(search.merges_max.max(1))),
            by_query: ByQuery::default(),
            leaves: LeafClients::new(config.leaves.clone(), config.speaks),
            mappings: Mappings::new(search.mappings_max),
            fields: Fields::default(),
            hedging: Hedging::new(search.hedge),
            statistics: StatisticsCache::new(search.statistics_entries_max, search.statistics_age_max),
            metrics: Metrics::new(registry),
            log_gate: EngineGate::default(),
            store_gate: EngineGate::default(),
            lags: Lags::default(),
            turn: AtomicU64::new(rand::random::<u32>().into()),
            write_bytes: AtomicUsize::new(0),
            reads: Semaphore::new(search.in_flight_max),
            retired: AtomicBool::new(false),
            config,
            engine,
            viewer,
        }
    }

    /// The limits and names this root runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Concrete names of indices for an expression: names, commas, `*`, `-exclusions` and `_all` (or
    /// empty). Sorted for wildcards, in the order written for names; none twice.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`].
    pub fn resolve(&self, expression: &str, options: ResolveOptions) -> Result<Vec<String>, Error> {
        catalog::resolve(&self.viewer.view(), expression, options)
    }

    /// Returns when this root knows every index of an expression that there is: one that was made through
    /// another root a moment ago may not be in the view yet.
    pub async fn await_known(&self, expression: &str) {
        newcomers::wait(self, expression).await;
    }

    /// An index with the mapping that this root knows, dynamic fields included.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`].
    pub async fn index_view(&self, name: &str) -> Result<IndexView, Error> {
        let view = self.viewer.view();
        let record = catalog::record(&view, name)?;
        self.view_of(&view, &record)
    }

    /// An index with the mapping as its leaves report it now (as far as they answer): for showing it.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`].
    pub async fn index_view_latest(&self, name: &str) -> Result<IndexView, Error> {
        let view = self.viewer.view();
        let record = catalog::record(&view, name)?;
        self.fields.refresh(&self.leaves, &view, &record, self.config.leaves.status_timeout).await;
        self.view_of(&view, &record)
    }

    pub(crate) fn view_of(&self, view: &View, record: &Arc<IndexRecord>) -> Result<IndexView, Error> {
        let catalog_mapping = self.mappings.of(view, record)?;
        let mapping = self.fields.mapping(record, &catalog_mapping);
        Ok(IndexView { record: record.clone(), mapping, catalog_mapping })
    }

    /// Searches.
    ///
    /// # Errors
    /// What `lower` answers; [`Error::SearchFailed`]; a shard that failed beside others that did not is
    /// not an error but in [`SearchResponse::shards`].
    pub async fn search(&self, request: SearchRequest) -> Result<SearchResponse, Error> {
        let _reading = self.reading()?;
        let response = search::search(self, request).await;
        self.metrics.searches.inc();
        match &response {
            Err(_) => _ = self.metrics.searches_failed.inc(),
            Ok(response) => {
                self.metrics.search_seconds.observe(response.took.as_secs_f64());
                if response.timed_out || response.shards.failed > 0 {
                    self.metrics.searches_partial.inc();
                }
            }
        }
        response
    }

    /// Counts matches exactly.
    ///
    /// # Errors
    /// As [`Root::search`].
    pub async fn count(&self, indices: &[String], lower: &Lower) -> Result<(u64, ShardsSummary), Error> {
        let _reading = self.reading()?;
        search::count(self, indices, lower).await
    }

    /// Writes: each item is durable in its shard's log, or has its error. Missing indices are made.
    ///
    /// # Errors
    /// Only what concerns the whole write, for example too many bytes in flight.
    pub async fn write(&self, items: Vec<WriteItem>, options: WriteOptions) -> Result<WriteResult, Error> {
        ingest::write(self, items, options).await
    }

    /// Documents of one index by (`_id`, routing), in the order asked; `Ok(None)` when there is none.
    /// `realtime` sees every acknowledged operation, else what a search would see.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`]; all else is per document.
    #[allow(clippy::type_complexity)]
    pub async fn get(
        &self,
        index: &str,
        ids: Vec<(String, Option<String>)>,
        realtime: bool,
        options: v1::FetchOptions,
    ) -> Result<Vec<Result<Option<v1::Document>, Error>>, Error> {
        let _reading = self.reading()?;
        get::get(self, index, ids, realtime, options).await
    }

    /// Makes an index and waits, at most `wait`, until every shard is served.
    ///
    /// # Errors
    /// [`Error::IndexExists`]; [`Error::Invalid`] for a bad name or number.
    pub async fn create_index(&self, name: &str, index: CreateIndex, wait: Duration) -> Result<Created, Error> {
        lifecycle::create(self, name, index, wait).await
    }

    /// Deletes indices with all they hold.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`] when one is not there (any more).
    pub async fn delete_index(&self, names: &[String]) -> Result<(), Error> {
        lifecycle::delete(self, names).await
    }

    /// Adds fields to the mappings of indices.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it contradicts what is there.
    pub async fn put_mapping(&self, names: &[String], update: &serde_json::Value) -> Result<(), Error> {
        for name in names {
            lifecycle::put_mapping(self, name, update).await?;
        }
        Ok(())
    }

    /// Changes settings of all these indices or of none.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`].
    pub async fn change_indices(&self, names: &[String], change: ChangeIndex) -> Result<(), Error> {
        lifecycle::change(self, names, change).await
    }

    /// Makes everything acknowledged so far visible on every serving replica.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`]; a replica that did not is in the summary.
    pub async fn refresh(&self, names: &[String]) -> Result<ShardsSummary, Error> {
        refresh::indices(self, names).await
    }

    /// Nodes, indices and replicas as they are now.
    ///
    /// # Errors
    /// None at present; leaves that do not answer are shown as such.
    pub async fn status(&self) -> Result<ClusterStatus, Error> {
        Ok(status::cluster(self).await)
    }

    /// Health of some indices (all when empty).
    pub fn health(&self, names: &[String]) -> Health {
        health::now(self, names)
    }

    /// Health once it is at least this good, or when the time is over (`timed_out`).
    pub async fn wait_health(&self, names: &[String], wanted: HealthStatus, timeout: Duration) -> Health {
        health::wait(self, names, wanted, timeout).await
    }

    /// Whether new requests make sense (`/readyz`): the first picture of the cluster is in, and the process is not
    /// about to end.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), &'static str> {
        if self.retired.load(Ordering::Relaxed) {
            return Err("this root is about to end");
        }
        match self.viewer.view().revision > Revision::default() {
            true => Ok(()),
            false => Err("the first picture of the cluster is not in yet"),
        }
    }

    /// Tells those who ask that other roots should be asked from now on; requests are still answered.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// One of the bounded number of reads at work.
    fn reading(&self) -> Result<Reading<'_>, Error> {
        let permit = self.reads.try_acquire().map_err(|_| {
            self.metrics.refusals.count(Limit::SearchesInFlight);
            Error::TooManyRequests {
                reason: format!("{} searches are at work already", self.config.search.in_flight_max),
                retry_after: Duration::from_secs(1),
            }
        })?;
        self.metrics.reads_in_flight.inc();
        Ok(Reading { root: self, _permit: permit })
    }
}

struct Reading<'a> {
    root: &'a Root,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.root.metrics.reads_in_flight.dec();
    }
}
