//! Telling of an engine that is out of reach, without saying it again and again.
//!
//! Everything that a process does for the cluster fails then, many times a second. Whatever it was that
//! failed, one line in ten seconds is enough; the others are there at level `debug`. The engine itself
//! tells when it begins and when it is over.

use std::fmt::Display;

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::Error;

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// When this process told of it last.
static TOLD: Mutex<Option<Instant>> = Mutex::new(None);

/// Logs a warning: what cannot be done, and why.
pub fn warn(error: &Error, what: impl Display) {
    match matches!(error, Error::Unavailable(_)) && !is_due(&mut TOLD.lock(), Instant::now()) {
        true => tracing::debug!(%error, "{what}"),
        false => tracing::warn!(%error, "{what}"),
    }
}

/// Whether it is time to tell of it; who is told so does.
pub(crate) fn is_time() -> bool {
    is_due(&mut TOLD.lock(), Instant::now())
}

/// Notes that it was told just now.
pub(crate) fn told() {
    *TOLD.lock() = Some(Instant::now());
}

fn is_due(told: &mut Option<Instant>, now: Instant) -> bool {
    let due = told.is_none_or(|told| now.duration_since(told) >= INTERVAL);
    if due {
        *told = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_an_interval_is_enough() {
        let (mut told, start) = (None, Instant::now());
        let mut at = |ms: u64| is_due(&mut told, start + Duration::from_millis(ms));
        assert_eq!([0, 1, 9_999, 10_000, 10_001, 25_000].map(&mut at), [true, false, false, true, false, true]);
    }
}
