//! Remembers that the cluster engine is out of reach, so that not every request waits to find out.
//!
//! The first request that fails closes the gate. While it is closed requests are refused at once, but for
//! one now and then that is let through to try; when that one succeeds the gate is open again.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

/// Between two tries while the engine is out of reach.
const TRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long one that tries may take at most: an engine that is back answers sooner.
const TRY_WAIT_MAX: Duration = Duration::from_secs(1);

/// The gate in front of one part of the engine.
#[derive(Debug, Default)]
pub struct EngineGate(Mutex<Option<Closed>>);

#[derive(Debug)]
struct Closed {
    reason: String,
    next_try: Instant,
}

impl EngineGate {
    /// Lets the caller through, who has to [`EngineGate::note`] what came of it within the time returned:
    /// `wait_max`, or less while the engine is out of reach.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while the engine is known to be out of reach.
    pub fn enter(&self, wait_max: Duration) -> Result<Duration, Error> {
        self.enter_at(Instant::now(), wait_max)
    }

    fn enter_at(&self, now: Instant, wait_max: Duration) -> Result<Duration, Error> {
        let mut closed = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &mut *closed {
            None => Ok(wait_max),
            Some(closed) if now < closed.next_try => Err(Error::Unavailable(closed.reason.clone())),
            Some(closed) => {
                // Nobody else tries until this one has had its time.
                let wait = wait_max.min(TRY_WAIT_MAX);
                closed.next_try = now + wait + TRY_INTERVAL;
                Ok(wait)
            }
        }
    }

    /// Notes what came of a call: whether the engine answered, in whatever way.
    pub fn note<T>(&self, result: &Result<T, Error>) {
        self.note_at(Instant::now(), result);
    }

    fn note_at<T>(&self, now: Instant, result: &Result<T, Error>) {
        let mut closed = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *closed = match result {
            Err(Error::Unavailable(reason)) => Some(Closed { reason: reason.clone(), next_try: now + TRY_INTERVAL }),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_at_a_time_tries_while_the_engine_is_gone() {
        let (gate, wait) = (EngineGate::default(), Duration::from_secs(5));
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let enters = |ms: u64| gate.enter_at(at(ms), wait).is_ok();
        let gone: Result<(), Error> = Err(Error::Unavailable("gone".to_owned()));
        assert!(enters(0));
        gate.note_at(at(0), &gone);
        assert_eq!(gate.enter_at(at(1), wait).unwrap_err().to_string(), "gone");
        assert_eq!(gate.enter_at(at(500), wait).unwrap(), TRY_WAIT_MAX, "one may try");
        assert!(!enters(500), "and only one");
        assert!(!enters(1_500), "while it may still be waiting");
        gate.note_at(at(1_500), &gone);
        assert!(!enters(1_999));
        assert!(enters(2_000));
        gate.note_at(at(5_600), &Err::<(), _>(Error::Conflict("lost".to_owned())));
        assert!(enters(5_600) && enters(5_600), "an answer is an answer");
        assert_eq!(gate.enter_at(at(5_700), wait).unwrap(), wait);
        gate.note_at(at(6_000), &gone);
        assert!(enters(6_500));
        assert!(enters(12_000), "who tried and never came back does not close it for good");
    }
}
