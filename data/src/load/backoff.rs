//! How long to wait before trying again: exponential, with jitter, within a time to give up.

use std::time::{Duration, Instant};

use rand::Rng;

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A server cannot make the loader sleep for longer than this at a time.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The state of trying one thing again and again.
#[derive(Debug)]
pub(super) struct Backoff {
    give_up_after: Duration,
    failing_since: Option<Instant>,
    attempts: u32,
}

/// The time is up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GiveUp {
    pub(super) tried: Duration,
}

impl Backoff {
    pub(super) fn new(give_up_after: Duration) -> Self {
        Self { give_up_after, failing_since: None, attempts: 0 }
    }

    /// Something went forward: the time to give up begins anew with the next failure.
    pub(super) fn progressed(&mut self) {
        self.failing_since = None;
        self.attempts = 0;
    }

    /// The pause after one more failure: random between half and the whole of 100 ms, 200 ms, … 10 s, so that loaders that
    /// failed together do not come back together; at least what the server asks for.
    pub(super) fn pause(&mut self, now: Instant, retry_after: Option<Duration>) -> Result<Duration, GiveUp> {
        let since = *self.failing_since.get_or_insert(now);
        let tried = now.duration_since(since);
        let whole = PAUSE_MAX.min(PAUSE_FIRST.saturating_mul(1 << self.attempts.min(20)));
        self.attempts += 1;
        let jittered = whole.mul_f64(rand::rng().random_range(0.5..=1.0));
        let pause = jittered.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX));
        if tried >= self.give_up_after {
            return Err(GiveUp { tried });
        }
        Ok(pause.min(self.give_up_after - tried))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let start = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(100));
        let mut now = start;
        let mut pauses = Vec::new();
        let end = loop {
            match backoff.pause(now, None) {
                Ok(pause) => {
                    now += pause;
                    pauses.push(pause);
                }
                Err(end) => break end,
            }
        };
        assert!(pauses[0] >= Duration::from_millis(50) && pauses[0] <= Duration::from_millis(100));
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX) && pauses.len() < 40);
        assert_eq!(end.tried, Duration::from_secs(100));
        backoff.progressed();
        assert!(backoff.pause(now, Some(Duration::from_secs(7))).unwrap() >= Duration::from_secs(7));
    }
}
