//! `GET /_ambassador/status`: what it sees and does.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::breaker::State;
use crate::proxy::Shared;
use crate::roots::Root;

/// The whole status.
pub(crate) fn status(shared: &Shared) -> Value {
    let now = Instant::now();
    let roots: Vec<Value> = shared.roots.all().iter().map(|root| of_root(root, now)).collect();
    let repeats: serde_json::Map<String, Value> =
        shared.metrics.repeats().into_iter().map(|(reason, count)| (reason.to_owned(), count.into())).collect();
    json!({
        "roots": roots,
        "requests_in_flight": shared.metrics.in_flight.get(),
        "requests_max": shared.config.requests_max,
        "requests_refused": shared.metrics.busy.get(),
        "kept_bytes": shared.config.kept_bytes_max.saturating_sub(shared.room.free()),
        "repeats": repeats,
        "repeats_refused": shared.metrics.repeats_refused.get(),
    })
}

fn of_root(root: &Root, now: Instant) -> Value {
    let (state, opened) = root.breaker(|breaker| (breaker.state(), breaker.opened()));
    let (name, probe_in_ms) = match state {
        State::Closed => ("closed", None),
        State::HalfOpen => ("half_open", None),
        State::Open { until } => ("open", Some(until.saturating_duration_since(now).as_millis() as u64)),
    };
    json!({
        "url": root.address.base,
        "address": root.address.at,
        "breaker": name,
        "probe_in_ms": probe_in_ms,
        "resting": root.rests(now),
        "requests": root.requests.load(Ordering::Relaxed),
        "failures": root.failures.load(Ordering::Relaxed),
        "ejected": opened,
    })
}
