//! The limits of a root by name, and how often each one refused something.
//!
//! The values stand in [`Config`](crate::Config); here is what is common to all of them, so that metrics,
//! the README and the code use the same names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// A limit that a request can run into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Connections of HTTP clients.
    Connections,
    /// Time for a request's head.
    HeaderTime,
    /// Time between two pieces of a request's body.
    BodyTime,
    /// Bytes of one request's body, uncompressed.
    BodySize,
    /// Bytes of all request bodies held at once.
    BodiesInFlight,
    /// Operations in one `_bulk`.
    BulkOperations,
    /// Bytes of one document.
    DocumentSize,
    /// Bytes of operations that are being written.
    WriteBytesInFlight,
    /// Bytes of a shard's log.
    LogSize,
    /// How far all replicas of a shard are behind its log.
    LogAge,
    /// Copies of shards, for each leaf that is there.
    ShardsPerLeaf,
    /// Indices that one request makes by writing to them.
    NewIndices,
    /// Appends that wait for the engine.
    AppendQueue,
    /// Searches, counts and gets at work.
    SearchesInFlight,
    /// `from + size` of a search.
    ResultWindow,
    /// Buckets of an answer's aggregations.
    Buckets,
}

impl Limit {
    /// All of them, in the order of a request's way.
    pub const ALL: [Self; 16] = [
        Self::Connections,
        Self::HeaderTime,
        Self::BodyTime,
        Self::BodySize,
        Self::BodiesInFlight,
        Self::BulkOperations,
        Self::DocumentSize,
        Self::WriteBytesInFlight,
        Self::LogSize,
        Self::LogAge,
        Self::ShardsPerLeaf,
        Self::NewIndices,
        Self::AppendQueue,
        Self::SearchesInFlight,
        Self::ResultWindow,
        Self::Buckets,
    ];

    /// The value of the metric's label `limit`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::HeaderTime => "header_time",
            Self::BodyTime => "body_time",
            Self::BodySize => "body_size",
            Self::BodiesInFlight => "bodies_in_flight",
            Self::BulkOperations => "bulk_operations",
            Self::DocumentSize => "document_size",
            Self::WriteBytesInFlight => "write_bytes_in_flight",
            Self::LogSize => "log_size",
            Self::LogAge => "log_age",
            Self::ShardsPerLeaf => "shards_per_leaf",
            Self::NewIndices => "new_indices",
            Self::AppendQueue => "append_queue",
            Self::SearchesInFlight => "searches_in_flight",
            Self::ResultWindow => "result_window",
            Self::Buckets => "buckets",
        }
    }
}

/// The label of [`Refusals`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabel {
    limit: &'static str,
}

/// How often each limit refused something. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Refusals(pub(crate) Family<LimitLabel, Counter>);

impl Default for Refusals {
    /// Every limit begins at zero, so that a rate can be taken from the start.
    fn default() -> Self {
        let family = Family::default();
        for limit in Limit::ALL {
            let _ = family.get_or_create(&LimitLabel { limit: limit.name() });
        }
        Self(family)
    }
}

impl Refusals {
    /// Counts one refusal.
    pub fn count(&self, limit: Limit) {
        self.0.get_or_create(&LimitLabel { limit: limit.name() }).inc();
    }

    /// How often the limit refused something.
    pub fn of(&self, limit: Limit) -> u64 {
        self.0.get_or_create(&LimitLabel { limit: limit.name() }).get()
    }
}
