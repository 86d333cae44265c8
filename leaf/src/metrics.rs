//! What a leaf counts about writing. Names carry their unit; one line of help each.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use trawl_proto::v1::Outcome;

/// The label of [`Metrics::operations`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// The outcome, in lower case.
    pub result: &'static str,
}

/// Counters of the write side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Operations applied, by outcome.
    pub operations: Family<ResultLabel, Counter>,
    /// Commits of all replicas.
    pub commits: Counter,
    /// Time a commit took, with the new searcher.
    pub commit_seconds: Histogram,
    /// How often a replica stopped with an error.
    pub failures: Counter,
    /// Rejected operations handed to the dead letters, by every replica that rejected them.
    pub dead_letters: Counter,
    /// How often a replica met an operation that panics or hangs.
    pub poisons: Counter,
    /// Threads that hang in such operations.
    pub draft_threads_abandoned: Gauge,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            operations: Family::default(),
            commits: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            failures: Counter::default(),
            dead_letters: Counter::default(),
            poisons: Counter::default(),
            draft_threads_abandoned: Gauge::default(),
        };
        registry.register("trawl_leaf_operations", "Operations applied, by outcome", metrics.operations.clone());
        registry.register("trawl_leaf_commits", "Commits of all replicas", metrics.commits.clone());
        registry.register(
            "trawl_leaf_commit_seconds",
            "Time that a commit and its new searcher took",
            metrics.commit_seconds.clone(),
        );
        registry.register("trawl_leaf_replica_failures", "Times a replica stopped", metrics.failures.clone());
        registry.register(
            "trawl_leaf_dead_letters",
            "Rejected operations handed to the dead letters, by every replica that rejected them",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "trawl_leaf_poisons",
            "Times a replica met an operation that panics or hangs",
            metrics.poisons.clone(),
        );
        registry.register(
            "trawl_leaf_draft_threads_abandoned",
            "Threads that hang in an operation and cannot be ended",
            metrics.draft_threads_abandoned.clone(),
        );
        metrics
    }

    /// Counts outcomes.
    pub fn count(&self, outcomes: &[Outcome]) {
        use trawl_proto::v1::outcome::Result;
        for outcome in outcomes {
            let result = match outcome.result() {
                Result::Unspecified => "unknown",
                Result::Created => "created",
                Result::Updated => "updated",
                Result::Deleted => "deleted",
                Result::NotFound => "not_found",
                Result::VersionConflict => "version_conflict",
                Result::Rejected => "rejected",
                Result::Noop => "noop",
                Result::Missing => "missing",
            };
            self.operations.get_or_create(&ResultLabel { result }).inc();
        }
    }
}
