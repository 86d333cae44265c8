//! What an ambassador counts, for `/metrics`. Every name is documented where it is registered.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::kind::Kind;

/// A label of one value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfKind {
    kind: Name,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Because {
    reason: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct InState {
    state: Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name(&'static str);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// Why a request was sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Unsent,
    Lost,
    Refused,
    Late,
}

impl Reason {
    const fn name(self) -> Name {
        Name(match self {
            Self::Unsent => "not_connected",
            Self::Lost => "connection_lost",
            Self::Refused => "refused",
            Self::Late => "late",
        })
    }
}

/// The counters.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<OfKind, Counter>,
    pub(crate) seconds: Histogram,
    pub(crate) in_flight: Gauge,
    repeats: Family<Because, Counter>,
    pub(crate) repeats_refused: Counter,
    pub(crate) busy: Counter,
    roots: Family<InState, Gauge>,
    pub(crate) bytes_kept: Gauge,
    pub(crate) registry: Arc<Registry>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let of = registry.sub_registry_with_prefix("trawl_ambassador");
        let requests = Family::default();
        of.register("requests", "Requests answered, by kind and status", requests.clone());
        let seconds = Histogram::new(exponential_buckets(0.000_25, 2.0, 18));
        of.register("request_seconds", "Time from a request's arrival to the head of its answer", seconds.clone());
        let in_flight = Gauge::default();
        of.register("requests_in_flight", "Requests at work", in_flight.clone());
        let repeats = Family::default();
        of.register("repeats", "Requests sent to a root once more, by reason", repeats.clone());
        let repeats_refused = Counter::default();
        let help = "Requests that were not sent once more because the budget was spent";
        of.register("repeats_refused", help, repeats_refused.clone());
        let busy = Counter::default();
        of.register("requests_refused", "Requests refused because too many were at work", busy.clone());
        let roots = Family::default();
        of.register("roots", "Roots known, by state", roots.clone());
        let bytes_kept = Gauge::default();
        of.register("kept_bytes", "Bytes of bodies kept", bytes_kept.clone());
        let registry = Arc::new(registry);
        Self { requests, seconds, in_flight, repeats, repeats_refused, busy, roots, bytes_kept, registry }
    }

    pub(crate) fn answered(&self, kind: Kind, status: u16) {
        self.requests.get_or_create(&OfKind { kind: Name(kind.name()), status }).inc();
    }

    pub(crate) fn repeated(&self, reason: Reason) {
        self.repeats.get_or_create(&Because { reason: reason.name() }).inc();
    }

    /// How often each reason came up.
    pub(crate) fn repeats(&self) -> [(&'static str, u64); 4] {
        [Reason::Unsent, Reason::Lost, Reason::Refused, Reason::Late].map(|reason| {
            let name = reason.name();
            (name.0, self.repeats.get_or_create(&Because { reason: name }).get())
        })
    }

    pub(crate) fn set_roots(&self, [closed, half_open, open]: [i64; 3]) {
        for (state, count) in [("closed", closed), ("half_open", half_open), ("open", open)] {
            self.roots.get_or_create(&InState { state: Name(state) }).set(count);
        }
    }
}
