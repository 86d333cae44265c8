//! The index that is loaded into: asks whether it is there, creates it when it is missing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::backoff::Backoff;
use super::bulk::is_for_now;
use super::client::{Client, ClientError, Reply};
use super::report::{Observer, Report};
use super::{LoadError, LoadOptions};
use crate::readers::{ReadOptions, field_types};

/// How long the very first connection is tried: a wrong endpoint should not take minutes to be noticed.
const FIRST_CONTACT_FOR: Duration = Duration::from_secs(5);
/// An index is given at most so many shards without being told.
const SHARDS_MAX: usize = 64;

/// The state of the index before and during loading.
pub(super) struct Preparation<'a> {
    client: &'a Client,
    options: &'a LoadOptions,
    observer: &'a dyn Observer,
    exists: bool,
    field_types: BTreeMap<String, String>,
}

impl<'a> Preparation<'a> {
    /// Connects, learns what the index is, and adds the given mapping to an index that exists.
    pub(super) async fn begin(
        client: &'a Client,
        options: &'a LoadOptions,
        observer: &'a dyn Observer,
    ) -> Result<Self, LoadError> {
        let mut this = Self { client, options, observer, exists: false, field_types: BTreeMap::new() };
        let path = [options.index.as_str(), "_mapping"];
        let reply = this.ask(FIRST_CONTACT_FOR.min(options.retry_for), async || client.get(&path).await).await?;
        match reply.status {
            404 => {}
            _ if reply.is_success() => {
                this.exists = true;
                let indices = reply.json();
                let mappings = indices.as_object().into_iter().flatten().map(|(_, index)| &index["mappings"]);
                mappings.for_each(|mapping| this.field_types.extend(field_types(mapping)));
            }
            _ => return Err(refused("asking for the mapping", &reply)),
        }
        if let Some(mapping) = this.given_mapping() {
            this.field_types.extend(field_types(&mapping));
            if this.exists {
                let reply =
                    this.ask(options.retry_for, async || client.send_json(Method::PUT, &path, &mapping).await).await?;
                if !reply.is_success() {
                    return Err(refused("adding the mapping to the index", &reply));
                }
            }
        }
        Ok(this)
    }

    pub(super) fn exists(&self) -> bool {
        self.exists
    }

    /// How the inputs are to be read: cells as the index types their fields, as far as that is known.
    pub(super) fn read_options(&self) -> ReadOptions {
        ReadOptions {
            format: self.options.format,
            id_field: self.options.id_field.clone(),
            record_bytes_max: self.options.record_bytes_max,
            field_types: self.field_types.clone(),
        }
    }

    /// Creates the index, unless it is there, with the mapping given or else with one that fits.
    pub(super) async fn ensure_index(&mut self, fitting: &Value) -> Result<(), LoadError> {
        if self.exists {
            return Ok(());
        }
        let mut settings = match &self.options.mapping {
            Some(body) => body.get("settings").cloned().unwrap_or_else(|| json!({})),
            None => json!({}),
        };
        let has_shards = settings.get("number_of_shards").is_some()
            || settings.pointer("/index/number_of_shards").is_some()
            || settings.get("index.number_of_shards").is_some();
        if let Some(shards) = self.options.shards {
            settings["number_of_shards"] = Value::from(shards);
        } else if !has_shards {
            settings["number_of_shards"] = Value::from(self.leaves().await);
        }
        if let Some(replicas) = self.options.replicas {
            settings["number_of_replicas"] = Value::from(replicas);
        }
        let mappings = self.given_mapping().unwrap_or_else(|| fitting.clone());
        let body = json!({ "settings": settings, "mappings": mappings });
        let path = [self.options.index.as_str()];
        let client = self.client;
        let reply =
            self.ask(self.options.retry_for, async || client.send_json(Method::PUT, &path, &body).await).await?;
        // Someone else may have created it in between; or an earlier attempt, whose answer was lost, did.
        let exists_now = reply.json()["error"]["type"] == "resource_already_exists_exception";
        if !reply.is_success() && !exists_now {
            return Err(refused("creating the index", &reply));
        }
        self.exists = true;
        Ok(())
    }

    /// Makes what was loaded visible to searches.
    pub(super) async fn refresh(&self, report: Report) -> Result<Report, LoadError> {
        let path = [self.options.index.as_str(), "_refresh"];
        let client = self.client;
        let ask = self.ask(self.options.retry_for, async || client.get(&path).await);
        match ask.await {
            Ok(reply) if reply.is_success() => Ok(report),
            Ok(reply) => Err(LoadError::Refused {
                what: "refreshing the index".to_owned(),
                status: reply.status,
                reason: reply.error_reason(),
                report: Box::new(report),
            }),
            Err(LoadError::GaveUp { tried, last, .. }) => {
                Err(LoadError::GaveUp { tried, last, report: Box::new(report) })
            }
            Err(error) => Err(error),
        }
    }

    /// The object under `mappings`, given as such or within the body of an index's creation.
    fn given_mapping(&self) -> Option<Value> {
        let given = self.options.mapping.as_ref()?;
        match (given.get("mappings"), given.get("settings")) {
            (Some(mappings), _) => Some(mappings.clone()),
            (None, Some(_)) => None,
            (None, None) => Some(given.clone()),
        }
    }

    /// How many leaves the cluster has; 1 when it does not say.
    async fn leaves(&self) -> usize {
        let reply = self.client.get(&["_trawl", "cluster"]).await;
        let cluster = reply.ok().filter(Reply::is_success).map(|reply| reply.json()).unwrap_or_default();
        cluster["leaves"].as_array().map_or(1, Vec::len).clamp(1, SHARDS_MAX)
    }

    /// Asks until there is an answer other than "not now".
    async fn ask(
        &self,
        give_up_after: Duration,
        mut request: impl AsyncFnMut() -> Result<Reply, ClientError>,
    ) -> Result<Reply, LoadError> {
        let mut backoff = Backoff::new(give_up_after);
        loop {
            let reply = request().await;
            let (reason, retry_after) = match &reply {
                Ok(reply) if is_for_now(reply.status) => {
                    (format!("status {}: {}", reply.status, reply.error_reason()), reply.retry_after)
                }
                Ok(_) => return reply.map_err(|error| LoadError::Internal(error.to_string())),
                Err(error) => (error.to_string(), None),
            };
            match (backoff.pause(Instant::now(), retry_after), reply) {
                (Ok(pause), _) => {
                    self.observer.retrying(&reason, pause);
                    tokio::time::sleep(pause).await;
                }
                (Err(_), Err(source)) if source.is_connect() => {
                    return Err(LoadError::CannotConnect { endpoint: self.client.endpoint(), source });
                }
                (Err(give_up), _) => {
                    let report = Box::default();
                    return Err(LoadError::GaveUp { tried: give_up.tried, last: reason, report });
                }
            }
        }
    }
}

/// The uid of an index; `None` when there is no such index. Empty for a cluster that gives indices none.
pub(super) async fn uid(client: &Client, index: &str) -> Result<Option<String>, String> {
    let reply = client.get(&[index, "_settings"]).await.map_err(|error| error.to_string())?;
    match reply.status {
        404 => Ok(None),
        _ if reply.is_success() => {
            let settings = reply.json();
            let uid = settings[index].pointer("/settings/index/uuid").and_then(Value::as_str);
            Ok(Some(uid.unwrap_or_default().to_owned()))
        }
        status => Err(format!("asking for the index: status {status}: {}", reply.error_reason())),
    }
}

fn refused(what: &str, reply: &Reply) -> LoadError {
    LoadError::Refused {
        what: what.to_owned(),
        status: reply.status,
        reason: reply.error_reason(),
        report: Box::default(),
    }
}
