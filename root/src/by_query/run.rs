//! Carries out one job, as long as the claim is held.
//!
//! Documents are found page by page in the order of (`_tie`, `_id`), which does not change while
//! others are written. Only those are taken whose operation was in the log at the start; each is
//! written on condition that it still is the one that was found. A batch is noted before it is
//! written, under a message id of its own: whoever goes on after a crash writes the same batch again,
//! and is told what came of it the first time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_cluster::Error as EngineError;
use trawl_cluster::work_queue::{Claim, Receipt};
use trawl_proto::v1::outcome::Result as Came;
use trawl_proto::v1::{self, operation, sort_key, sort_value, value};

use super::{Action, Failed, Job, ParseQuery, Planned, Progress, Target, read_progress};
use crate::catalog;
use crate::error::Error;
use crate::lifecycle::now_ms;
use crate::request::{
    FoundHit, ItemOutcome, Lower, Lowered, Refresh, SearchRequest, TrackTotal, WriteItem, WriteOptions, WriteOutcome,
};
use crate::root::Root;

/// Failures that are kept.
const FAILURES_MAX: usize = 100;
/// Ids and routings of one batch, in bytes: what is noted has its limit.
const PLANNED_BYTES_MAX: usize = 512 << 10;
/// Sources of one batch, in bytes.
const SOURCE_BYTES_MAX: usize = 16 << 20;
/// How long one page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a step is tried before the job rests.
const TRIES_MAX: u32 = 12;
/// First and longest pause between two tries.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How a run under one claim ended.
pub(super) enum Ended {
    /// The job is over: done, failed or cancelled.
    Done(Box<Progress>),
    /// Something it needs is not there: later.
    Later(String),
    /// The claim is not held any more.
    Lost,
}

/// Why a step does not come to an end.
enum Trouble {
    Over(Error),
    Later(String),
    Lost,
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::ClaimLost(_) => Self::Lost,
            error => Self::Later(error.to_string()),
        }
    }
}

/// A job under a claim.
pub(super) struct Run<'a> {
    root: &'a Root,
    job: Job,
    lower: Lower,
    receipt: Receipt,
    progress: Progress,
    cancelled: CancellationToken,
}

impl<'a> Run<'a> {
    /// Goes on where the last claim stopped.
    pub(super) fn new(root: &'a Root, parse: ParseQuery, claim: Claim) -> Result<Self, Error> {
        let unreadable = |error: serde_json::Error| Error::Internal(format!("the job cannot be read: {error}"));
        let job = Job::read(&claim.body)?;
        let progress = read_progress(&claim.progress).map_err(unreadable)?;
        let lower = parse(job.query.as_deref(), &job.query_params, job.now_ms)?;
        Ok(Self { root, job, lower, receipt: claim.receipt, progress, cancelled: CancellationToken::new() })
    }

    /// Runs to the end, or until the claim is lost.
    pub(super) async fn run(mut self) -> Ended {
        let held = held(self.root, self.receipt, self.cancelled.clone());
        tokio::select! {
            ended = self.work() => ended,
            () = held => Ended::Lost,
        }
    }

    async fn work(&mut self) -> Ended {
        match self.steps().await {
            Ok(()) => {}
            Err(Trouble::Later(reason)) => return Ended::Later(reason),
            Err(Trouble::Lost) => return Ended::Lost,
            Err(Trouble::Over(error)) => self.progress.error = Some(described(&error)),
        }
        if self.job.refresh && self.progress.error.is_none() {
            let names: Vec<String> = self.job.targets.iter().map(|target| target.name.clone()).collect();
            if let Err(error) = self.root.refresh(&names).await {
                tracing::warn!(task = self.receipt.task.0, %error, "what a job wrote is not visible yet");
            }
        }
        self.progress.cancelled = self.cancelled.is_cancelled();
        self.progress.took_ms = Some(now_ms().saturating_sub(self.progress.started_ms));
        Ended::Done(Box::new(std::mem::take(&mut self.progress)))
    }

    /// 1. Remember where the logs end, and how much there is to do.
    /// 2. Write what an earlier claim was about to write.
    /// 3. Page by page: plan, note, write, note.
    async fn steps(&mut self) -> Result<(), Trouble> {
        if self.progress.started_ms == 0 {
            self.begin().await?;
        }
        if !self.progress.planned.is_empty() {
            self.write(None).await?;
        }
        while !self.is_over() {
            let began = Instant::now();
            let Some(sources) = self.plan().await? else { continue };
            let documents = self.progress.planned.len();
            self.note().await?;
            self.write(Some(sources)).await?;
            self.throttle(documents, began).await;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let progress = &self.progress;
        progress.target >= self.job.targets.len()
            || self.cancelled.is_cancelled()
            || !progress.failures.is_empty()
            || (progress.version_conflicts > 0 && !self.job.proceed)
            || self.job.max_docs.is_some_and(|max| progress.done() >= max)
    }

    async fn begin(&mut self) -> Result<(), Trouble> {
        for at in 0..self.job.targets.len() {
            let target = self.job.targets[at].clone();
            let shards: Vec<_> = self.record(&target)?.shard_keys().collect();
            let heads = self.root.engine.log.heads(&shards).await?;
            let bound = |head: Option<trawl_cluster::shard_log::Head>| {
                head.map_or((0, 0), |head| (head.incarnation.0, head.last.0))
            };
            self.progress.bounds.push(heads.into_iter().map(bound).collect());
            let names = [target.name];
            let (root, lower) = (self.root, self.lower.clone());
            let counted = tried(&self.cancelled, || {
                let (names, lower) = (names.clone(), lower.clone());
                Box::pin(async move { root.count(&names, &lower).await })
            });
            let counted = counted.await?;
            self.progress.total += counted.map_or(0, |(count, _)| count);
        }
        if let Some(max) = self.job.max_docs {
            self.progress.total = self.progress.total.min(max);
        }
        self.progress.started_ms = now_ms();
        self.note().await
    }

    /// The index, if it is still the one that was meant.
    fn record(&self, target: &Target) -> Result<Arc<trawl_cluster::catalog::IndexRecord>, Trouble> {
        let record = catalog::record(&self.root.viewer.view(), &target.name).map_err(Trouble::Over)?;
        if record.uid.0 != target.uid {
            return Err(Trouble::Over(Error::NoSuchIndex(target.name.clone())));
        }
        Ok(record)
    }

    /// Finds the next documents and puts them into the progress; returns their sources. `None`: there
    /// were none here, look on.
    async fn plan(&mut self) -> Result<Option<Vec<Bytes>>, Trouble> {
        let target = self.job.targets[self.progress.target].clone();
        let record = self.record(&target)?;
        let left = self.job.max_docs.map_or(u64::MAX, |max| max.saturating_sub(self.progress.done()));
        let size = u64::from(self.job.batch).min(left).max(1) as u32;
        let request = self.page(&target, size);
        let root = self.root;
        let found = tried(&self.cancelled, || {
            let request = request.clone();
            Box::pin(async move {
                let response = root.search(request).await?;
                match response.timed_out {
                    true => Err(Error::Timeout("a page was not complete in time".to_owned())),
                    false => Ok(response),
                }
            })
        });
        let Some(found) = found.await? else { return Ok(None) };
        if found.hits.is_empty() {
            (self.progress.target, self.progress.after) = (self.progress.target + 1, None);
            return Ok(None);
        }
        let bounds = self.progress.bounds.get(self.progress.target).cloned().unwrap_or_default();
        let (mut bytes, mut source_bytes, mut sources) = (0, 0, Vec::new());
        for FoundHit { id, document, sort, .. } in found.hits {
            bytes += id.len() + document.routing.as_ref().map_or(0, String::len);
            source_bytes += document.source.len();
            if !sources.is_empty() && (bytes > PLANNED_BYTES_MAX || source_bytes > SOURCE_BYTES_MAX) {
                break;
            }
            self.progress.after = Some((tie_of(&sort), id.clone()));
            let slot = trawl_data::routing::slot(document.routing.as_deref().unwrap_or(&id));
            let shard = trawl_data::routing::shard_of_slot(slot, record.shards) as usize;
            let (term, seq) = bounds.get(shard).copied().unwrap_or_default();
            if (document.primary_term, document.seq) > (term, seq) {
                // Written since the start: not what was asked for.
                continue;
            }
            sources.push(document.source);
            self.progress.planned.push(Planned {
                id,
                routing: document.routing,
                seq: document.seq,
                term: document.primary_term,
            });
        }
        Ok((!sources.is_empty()).then_some(sources))
    }

    fn page(&self, target: &Target, size: u32) -> SearchRequest {
        let (lower, after) = (self.lower.clone(), self.progress.after.clone());
        let source = self.job.action == Action::Update;
        let lower: Lower = Arc::new(move |view| {
            let key = |by| v1::SortKey { by: Some(by), ..v1::SortKey::default() };
            let value = |kind| v1::SortValue { kind: Some(kind) };
            let search_after = after.iter().flat_map(|(tie, id)| {
                let id = v1::Value { kind: Some(value::Kind::String(id.clone())) };
                [value(sort_value::Kind::Tie(*tie)), value(sort_value::Kind::Value(id))]
            });
            Ok(Lowered {
                sort: vec![key(sort_key::By::Tie(true)), key(sort_key::By::Id(true))],
                search_after: search_after.collect(),
                fetch: v1::FetchOptions { source, ..v1::FetchOptions::default() },
                ..lower(view)?
            })
        });
        SearchRequest {
            size,
            track_total: TrackTotal::No,
            timeout: PAGE_TIMEOUT,
            allow_partial: false,
            ..SearchRequest::new(vec![target.name.clone()], lower)
        }
    }

    /// Notes the progress with the task; whoever claims it next begins there.
    async fn note(&mut self) -> Result<(), Trouble> {
        let bytes: Bytes =
            serde_json::to_vec(&self.progress).map_err(|error| Trouble::Later(error.to_string()))?.into();
        let (queue, lease) = (&self.root.engine.queue, self.root.config.by_query.lease);
        if queue.extend(self.receipt, lease, Some(bytes)).await? {
            self.cancelled.cancel();
        }
        Ok(())
    }

    /// Writes what is planned, until every outcome is known, and notes it.
    async fn write(&mut self, sources: Option<Vec<Bytes>>) -> Result<(), Trouble> {
        let target = self.job.targets[self.progress.target.min(self.job.targets.len() - 1)].clone();
        self.record(&target)?;
        let sources = match sources {
            Some(sources) => sources,
            None => self.sources(&target).await?,
        };
        let items: Vec<WriteItem> = self
            .progress
            .planned
            .iter()
            .zip(sources)
            .map(|(planned, source)| self.item(&target, planned, source))
            .collect();
        let key = format!("by_query/{}/{}", self.receipt.task.0, self.progress.batches);
        let mut pause = PAUSE_MIN;
        for _ in 0..TRIES_MAX {
            let options = WriteOptions {
                refresh: Refresh::False,
                idempotency_key: Some(key.clone()),
                claim: Some(self.receipt),
                ..WriteOptions::default()
            };
            let reason = match self.root.write(items.clone(), options).await {
                Ok(result) => match unsettled(&result.items)? {
                    None => return self.settle(&target, result.items).await,
                    Some(reason) => reason,
                },
                Err(Error::ClaimLost(_)) => return Err(Trouble::Lost),
                Err(error) => error.to_string(),
            };
            tracing::debug!(task = self.receipt.task.0, reason, "a batch is written again");
            self.progress.retries += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(Trouble::Later("a batch could not be written".to_owned()))
    }

    /// The sources of what an earlier claim planned. A document that has changed since gets a condition
    /// that does not hold, whatever its source.
    async fn sources(&self, target: &Target) -> Result<Vec<Bytes>, Trouble> {
        let planned = &self.progress.planned;
        if self.job.action == Action::Delete {
            return Ok(vec![Bytes::new(); planned.len()]);
        }
        let ids: Vec<_> = planned.iter().map(|planned| (planned.id.clone(), planned.routing.clone())).collect();
        let options = v1::FetchOptions { source: true, ..v1::FetchOptions::default() };
        let (root, name) = (self.root, &target.name);
        let found = tried(&self.cancelled, || {
            let (name, ids, options) = (name.clone(), ids.clone(), options.clone());
            Box::pin(async move {
                let found = root.get(&name, ids, true, options).await?;
                found.into_iter().collect::<Result<Vec<_>, Error>>()
            })
        });
        let Some(found) = found.await? else { return Err(Trouble::Later("cancelled".to_owned())) };
        let empty = || Bytes::from_static(b"{}");
        Ok(found.into_iter().map(|document| document.map_or_else(empty, |document| document.source)).collect())
    }

    fn item(&self, target: &Target, planned: &Planned, source: Bytes) -> WriteItem {
        let kind = match self.job.action {
            Action::Delete => operation::Kind::Delete,
            Action::Update => operation::Kind::Index,
        };
        let operation = v1::Operation {
            kind: kind.into(),
            id: planned.id.clone(),
            routing: planned.routing.clone(),
            source,
            if_seq_no: Some(planned.seq),
            if_primary_term: Some(planned.term),
            ..v1::Operation::default()
        };
        WriteItem { index: target.name.clone(), operation }
    }

    async fn settle(&mut self, target: &Target, items: Vec<ItemOutcome>) -> Result<(), Trouble> {
        let mut failures: HashMap<String, Failed> = HashMap::new();
        for item in items {
            let failed = |error_type: &str, reason: String, status| Failed {
                index: target.name.clone(),
                id: item.id.clone(),
                error_type: error_type.to_owned(),
                reason,
                status,
            };
            let outcome = match item.result {
                Ok(written) => match written.outcome {
                    WriteOutcome::Done(outcome) => outcome,
                    WriteOutcome::Accepted { .. } => continue,
                },
                Err(error) => {
                    let (error_type, reason, status) = described(&error);
                    failures.insert(item.id.clone(), failed(&error_type, reason, status));
                    continue;
                }
            };
            let error = outcome.error.clone().unwrap_or_default();
            match outcome.result() {
                Came::Deleted => self.progress.deleted += 1,
                Came::Created | Came::Updated | Came::Noop => self.progress.updated += 1,
                Came::VersionConflict | Came::NotFound | Came::Missing => {
                    self.progress.version_conflicts += 1;
                    if !self.job.proceed {
                        failures.insert(item.id.clone(), failed(&error.r#type, error.reason, 409));
                    }
                }
                Came::Rejected | Came::Unspecified => {
                    failures.insert(item.id.clone(), failed(&error.r#type, error.reason, 400));
                }
            }
        }
        // In the order in which they were found.
        for planned in std::mem::take(&mut self.progress.planned) {
            if let Some(failure) = failures.remove(&planned.id)
                && self.progress.failures.len() < FAILURES_MAX
            {
                self.progress.failures.push(failure);
            }
        }
        self.progress.batches += 1;
        self.note().await
    }

    /// Waits as long as these documents take at the rate that was asked for.
    async fn throttle(&mut self, documents: usize, began: Instant) {
        let Some(rate) = self.job.requests_per_second.filter(|_| !self.is_over()) else { return };
        let due = began + Duration::from_secs_f64((documents as f64 / rate).min(86_400.0));
        let waiting = Instant::now();
        let _ = self.cancelled.run_until_cancelled(tokio::time::sleep_until(due)).await;
        self.progress.throttled_ms += waiting.elapsed().as_millis() as u64;
    }
}

/// Returns when the claim is lost; keeps it until then, and hears of a cancellation.
async fn held(root: &Root, receipt: Receipt, cancelled: CancellationToken) {
    let lease = root.config.by_query.lease;
    loop {
        tokio::time::sleep(lease / 3).await;
        match root.engine.queue.extend(receipt, lease, None).await {
            Ok(true) => cancelled.cancel(),
            Ok(false) => {}
            Err(EngineError::ClaimLost(_)) => return,
            Err(error) => tracing::debug!(%error, "cannot extend the claim now"),
        }
    }
}

/// Tries a read until it succeeds; `None` when the job is cancelled meanwhile.
async fn tried<'a, T>(
    cancelled: &CancellationToken,
    read: impl Fn() -> BoxFuture<'a, Result<T, Error>> + Send + Sync,
) -> Result<Option<T>, Trouble> {
    let mut pause = PAUSE_MIN;
    let mut reason = String::new();
    for _ in 0..TRIES_MAX {
        match read().await {
            Ok(value) => return Ok(Some(value)),
            Err(error @ (Error::Invalid { .. } | Error::NoSuchIndex(_))) => return Err(Trouble::Over(error)),
            Err(error) => reason = error.to_string(),
        }
        if cancelled.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(None);
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Err(Trouble::Later(reason))
}

/// Why a batch has to be written again: what came of some item is not known, or may be better later.
fn unsettled(items: &[ItemOutcome]) -> Result<Option<String>, Trouble> {
    for item in items {
        match &item.result {
            Ok(written) => {
                if let WriteOutcome::Accepted { .. } = written.outcome {
                    return Ok(Some("an outcome is not known yet".to_owned()));
                }
            }
            Err(Error::ClaimLost(_)) => return Err(Trouble::Lost),
            Err(Error::Invalid { .. } | Error::NoSuchIndex(_) | Error::TooLarge(_)) => {}
            Err(error) => return Ok(Some(error.to_string())),
        }
    }
    Ok(None)
}

fn tie_of(sort: &[v1::SortValue]) -> u64 {
    match sort.first().and_then(|value| value.kind.as_ref()) {
        Some(sort_value::Kind::Tie(tie)) => *tie,
        _ => 0,
    }
}

/// An error that ends a job, as it is noted.
fn described(error: &Error) -> (String, String, u16) {
    let reason = error.to_string();
    match error {
        Error::NoSuchIndex(_) => ("index_not_found_exception".to_owned(), reason, 404),
        Error::Invalid { error_type, .. } => ((*error_type).to_owned(), reason, 400),
        Error::TooLarge(_) => ("content_too_long_exception".to_owned(), reason, 413),
        _ => ("exception".to_owned(), reason, 500),
    }
}
