//! What the sidecar counts. Every line that is read is in one of these.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Of one sink.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Of {
    /// Its URL without parameters.
    pub sink: String,
}

/// Of one format.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Form {
    /// Its name.
    pub format: String,
}

/// Of one kind of mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Mark {
    /// Its name.
    pub mark: &'static str,
}

/// All counters. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Bytes read from files.
    pub bytes_read: Counter<u64, AtomicU64>,
    /// Lines read from files.
    pub lines_read: Counter<u64, AtomicU64>,
    /// Records that lines became.
    pub records: Family<Form, Counter>,
    /// Records with a mark.
    pub marked: Family<Mark, Counter>,
    /// Lines that rotation removed before they were read or shipped; estimated from the average length where they were
    /// never read.
    pub lines_lost: Counter<u64, AtomicU64>,
    /// Their bytes.
    pub bytes_lost: Counter<u64, AtomicU64>,
    /// Generations of files begun.
    pub generations: Counter<u64, AtomicU64>,
    /// Copies and compressed leftovers of files that were read already.
    pub copies: Counter<u64, AtomicU64>,
    /// Files that cannot be read, and failed reads.
    pub read_errors: Counter<u64, AtomicU64>,
    /// Checkpoints that could not be written; nothing new is shipped meanwhile.
    pub checkpoint_errors: Counter<u64, AtomicU64>,
    /// Files followed.
    pub files: Gauge<i64, AtomicI64>,
    /// Files that wait because too many are open.
    pub files_waiting: Gauge<i64, AtomicI64>,
    /// Bytes in files that are not read yet.
    pub bytes_behind: Gauge<i64, AtomicI64>,
    /// Records that a sink has taken.
    pub shipped: Family<Of, Counter>,
    /// Records that a sink said it already had.
    pub duplicates: Family<Of, Counter>,
    /// Records that a sink refused and got in a plainer form.
    pub simplified: Family<Of, Counter>,
    /// Records that a sink refused for good.
    pub rejected: Family<Of, Counter>,
    /// Records that a sink's filters left out.
    pub filtered: Family<Of, Counter>,
    /// Records that the limit of a buffer on disk dropped, or that a damaged buffer held.
    pub dropped: Family<Of, Counter>,
    /// Attempts to ship that failed and were made again.
    pub retries: Family<Of, Counter>,
    /// Writes to a buffer on disk that failed.
    pub buffer_errors: Family<Of, Counter>,
    /// Bytes waiting in memory.
    pub queue_bytes: Family<Of, Gauge>,
    /// Bytes waiting in the buffer on disk.
    pub buffer_bytes: Family<Of, Gauge>,
    /// Whether the last attempt to ship failed.
    pub failing: Family<Of, Gauge>,
}

impl Metrics {
    /// Registers everything under `trawl_sidecar_`.
    pub fn register(registry: &mut Registry) -> Self {
        let own = Self::default();
        let r = registry.sub_registry_with_prefix("trawl_sidecar");
        r.register("read_bytes", "Bytes read from files", own.bytes_read.clone());
        r.register("lines", "Lines read from files", own.lines_read.clone());
        r.register("records", "Records that lines became, by format", own.records.clone());
        r.register(
            "marked_records",
            "Records with a mark: cut, invalid_utf8, unparsed, unterminated",
            own.marked.clone(),
        );
        r.register(
            "lost_lines",
            "Lines removed before they were shipped (estimated where never read)",
            own.lines_lost.clone(),
        );
        r.register("lost_bytes", "Bytes of lines removed before they were shipped", own.bytes_lost.clone());
        r.register("generations", "Files begun, anew after truncation", own.generations.clone());
        r.register("copies", "Copies and compressed leftovers of files that were read already", own.copies.clone());
        r.register("read_errors", "Failed reads of files", own.read_errors.clone());
        r.register("checkpoint_errors", "Checkpoints that could not be written", own.checkpoint_errors.clone());
        r.register("files", "Files followed", own.files.clone());
        r.register("waiting_files", "Files that wait because too many are open", own.files_waiting.clone());
        r.register("behind_bytes", "Bytes in files that are not read yet", own.bytes_behind.clone());
        r.register("shipped_records", "Records taken by a sink", own.shipped.clone());
        r.register("duplicate_records", "Records that a sink already had", own.duplicates.clone());
        r.register("simplified_records", "Records refused and shipped in a plainer form", own.simplified.clone());
        r.register("rejected_records", "Records refused for good", own.rejected.clone());
        r.register("filtered_records", "Records left out by a sink's filters", own.filtered.clone());
        r.register("dropped_records", "Records dropped at the limit of a buffer on disk", own.dropped.clone());
        r.register("retries", "Attempts to ship that failed", own.retries.clone());
        r.register("buffer_errors", "Failed writes to a buffer on disk", own.buffer_errors.clone());
        r.register("queue_bytes", "Bytes waiting in memory", own.queue_bytes.clone());
        r.register("buffer_bytes", "Bytes waiting in the buffer on disk", own.buffer_bytes.clone());
        r.register("failing", "1 while a sink does not take anything", own.failing.clone());
        own
    }
}
