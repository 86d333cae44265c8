//! What a root counts, for `/metrics`. Every name is documented where it is registered.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use trawl_cluster::dead_letters::LetterCounts;

use crate::limits::Refusals;

/// The counters of one root. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Searches answered, in whatever way.
    pub searches: Counter,
    /// Searches that failed altogether.
    pub searches_failed: Counter,
    /// Searches whose answer lacks something.
    pub searches_partial: Counter,
    /// From arrival to answer.
    pub search_seconds: Histogram,
    /// Searches, counts and gets at work.
    pub reads_in_flight: Gauge,
    /// Shards asked again elsewhere after a failure.
    pub leaf_retries: Counter,
    /// Calls made a second time because the first was late.
    pub hedges: Counter,
    /// Of these, those whose answer was accepted for some shard.
    pub hedges_won: Counter,
    /// Late calls that were not made a second time because the budget was spent.
    pub hedges_refused: Counter,
    /// Calls to leaves that were cancelled because their answers had come from elsewhere.
    pub calls_cancelled: Counter,
    /// Searches that had to ask for statistics first.
    pub statistics_asked: Counter,
    /// Searches scattered once more, because statistics or fields had changed.
    pub searches_repeated: Counter,
    /// Operations that became durable.
    pub operations: Counter,
    /// Operations that were refused or failed before they were durable.
    pub operations_failed: Counter,
    /// Durable operations whose outcome was not known in time.
    pub operations_accepted: Counter,
    /// Bytes of operations at work.
    pub write_bytes_in_flight: Gauge,
    /// From arrival to answer.
    pub write_seconds: Histogram,
    /// Operations that this root, leading, had skipped because they panic or hang.
    pub operations_skipped: Counter,
    /// The dead letters, as of the last look.
    pub dead_letters: LetterGauges,
    /// 1 while this root leads.
    pub leading: Gauge,
    /// Control-plane writes that the engine refused because another root leads.
    pub fenced: Counter,
    /// What was refused, by the limit that was reached.
    pub refusals: Refusals,
    /// Logs that lost history and were repaired by this root.
    pub incarnations_begun: Counter,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            searches: Counter::default(),
            searches_failed: Counter::default(),
            searches_partial: Counter::default(),
            search_seconds: latency(),
            reads_in_flight: Gauge::default(),
            leaf_retries: Counter::default(),
            hedges: Counter::default(),
            hedges_won: Counter::default(),
            hedges_refused: Counter::default(),
            calls_cancelled: Counter::default(),
            statistics_asked: Counter::default(),
            searches_repeated: Counter::default(),
            operations: Counter::default(),
            operations_failed: Counter::default(),
            operations_accepted: Counter::default(),
            write_bytes_in_flight: Gauge::default(),
            write_seconds: latency(),
            operations_skipped: Counter::default(),
            dead_letters: LetterGauges::default(),
            leading: Gauge::default(),
            fenced: Counter::default(),
            refusals: Refusals::default(),
            incarnations_begun: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("trawl_root");
        registry.register("searches", "Searches answered, in whatever way", metrics.searches.clone());
        registry.register("searches_failed", "Searches that failed altogether", metrics.searches_failed.clone());
        registry.register(
            "searches_partial",
            "Searches whose answer lacks something",
            metrics.searches_partial.clone(),
        );
        registry.register(
            "search_seconds",
            "Time from a search's arrival to its answer",
            metrics.search_seconds.clone(),
        );
        registry.register("reads_in_flight", "Searches, counts and gets at work", metrics.reads_in_flight.clone());
        registry.register("leaf_retries", "Shards asked again elsewhere after a failure", metrics.leaf_retries.clone());
        registry.register("hedges", "Calls made a second time because the first was late", metrics.hedges.clone());
        registry.register("hedges_won", "Hedges whose answer was accepted for some shard", metrics.hedges_won.clone());
        let help = "Late calls that were not made a second time because the budget was spent";
        registry.register("hedges_refused", help, metrics.hedges_refused.clone());
        let help = "Calls to leaves that were cancelled because their answers had come from elsewhere";
        registry.register("calls_cancelled", help, metrics.calls_cancelled.clone());
        registry.register(
            "statistics_asked",
            "Searches that had to ask for term statistics first",
            metrics.statistics_asked.clone(),
        );
        registry.register(
            "searches_repeated",
            "Searches scattered once more because statistics or fields had changed",
            metrics.searches_repeated.clone(),
        );
        registry.register("operations", "Operations that became durable", metrics.operations.clone());
        registry.register(
            "operations_failed",
            "Operations that were refused or failed before they were durable",
            metrics.operations_failed.clone(),
        );
        registry.register(
            "operations_accepted",
            "Durable operations whose outcome was not known in time",
            metrics.operations_accepted.clone(),
        );
        registry.register(
            "write_bytes_in_flight",
            "Bytes of operations that are being written",
            metrics.write_bytes_in_flight.clone(),
        );
        registry.register("write_seconds", "Time from a write's arrival to its answer", metrics.write_seconds.clone());
        registry.register(
            "operations_skipped",
            "Operations that this root, leading, had skipped because they panic or hang",
            metrics.operations_skipped.clone(),
        );
        metrics.dead_letters.register(registry);
        registry.register("leading", "1 while this root leads", metrics.leading.clone());
        let help = "Control-plane writes of this root that the engine refused because another root leads";
        registry.register("fenced", help, metrics.fenced.clone());
        let help = "Requests and operations that were refused, by the limit that was reached";
        registry.register("limit_refusals", help, metrics.refusals.0.clone());
        let help = "Logs that had lost history and went on behind what a replica held";
        registry.register("incarnations_begun", help, metrics.incarnations_begun.clone());
        metrics
    }
}

/// What is known of the dead letters of the whole cluster.
#[derive(Clone, Debug, Default)]
pub struct LetterGauges {
    kept: Gauge,
    bytes: Gauge,
    aged_out: Gauge,
}

impl LetterGauges {
    fn register(&self, registry: &mut Registry) {
        registry.register("dead_letters_kept", "Rejected operations that are kept", self.kept.clone());
        registry.register("dead_letters_bytes", "Bytes of the rejected operations kept", self.bytes.clone());
        registry.register(
            "dead_letters_aged_out",
            "Rejected operations that made room for newer ones, ever",
            self.aged_out.clone(),
        );
    }

    /// Takes over what the engine counts.
    pub fn set(&self, counts: LetterCounts) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.kept.set(number(counts.kept));
        self.bytes.set(number(counts.bytes));
        self.aged_out.set(number(counts.aged_out));
    }
}

/// 0.1 ms to 26 s in steps of a factor of two.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 19))
}
