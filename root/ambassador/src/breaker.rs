//! Whether a root is asked: a circuit breaker as a pure state machine. Time is given to it.
//!
//! ```text
//!            failures in a row, of requests or of checks
//!   closed ────────────────────────────────────────────> open, for a pause
//!      ^                                                   │ the pause is over
//!      └──────── the probe is answered ────── half-open <──┘
//!                                                 └── it is not: open, for twice the pause
//! ```
//!
//! Probes are health checks: no request of an application finds out whether a root is back.

use std::time::Duration;

use tokio::time::Instant;

/// When a root is left alone, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Requests in a row that a root may fail.
    pub failures_max: u32,
    /// Checks in a row that it may fail.
    pub checks_max: u32,
    /// The first pause.
    pub pause: Duration,
    /// The longest: each is twice the one before.
    pub pause_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let pause = Duration::from_millis(250);
        Self { failures_max: 3, checks_max: 2, pause, pause_max: Duration::from_secs(10) }
    }
}

/// What a breaker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The root is asked.
    Closed,
    /// It is not, until then.
    Open { until: Instant },
    /// It is not, but a probe is on its way.
    HalfOpen,
}

/// The breaker of one root.
#[derive(Debug)]
pub(crate) struct Breaker {
    patience: Patience,
    state: State,
    /// Requests failed in a row.
    failures: u32,
    /// Checks failed in a row.
    checks: u32,
    /// The pause of the next opening.
    pause: Duration,
    /// When it last closed: a root that falls again soon after is left alone for longer.
    closed: Instant,
    opened: u64,
}

impl Breaker {
    /// The breaker of a root that nothing is known of: it is probed first.
    pub(crate) fn new(patience: Patience, now: Instant) -> Self {
        let state = State::Open { until: now };
        Self { patience, state, failures: 0, checks: 0, pause: patience.pause, closed: now, opened: 0 }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// How often it has opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// A request was answered, in whatever way. Answers of a time before it opened do not close it.
    pub(crate) fn answered(&mut self) {
        self.failures = 0;
    }

    /// A request could not be brought to the root, or its connection broke. True when that opened it.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = self.is_closed() && self.failures >= self.patience.failures_max;
        if opens {
            self.open(now);
        }
        opens
    }

    /// Whether a check is a probe now: the pause is over. It counts as on its way from here on.
    pub(crate) fn probe(&mut self, now: Instant) -> bool {
        let due = matches!(self.state, State::Open { until } if now >= until);
        if due {
            self.state = State::HalfOpen;
        }
        due
    }

    /// What a check came to. True when that opened or closed it.
    pub(crate) fn checked(&mut self, is_well: bool, now: Instant) -> bool {
        match (self.state, is_well) {
            (State::Closed, true) => {
                self.checks = 0;
                if now.saturating_duration_since(self.closed) > self.patience.pause_max {
                    self.pause = self.patience.pause;
                }
                false
            }
            (State::Closed, false) => {
                self.checks = self.checks.saturating_add(1);
                let opens = self.checks >= self.patience.checks_max;
                if opens {
                    self.open(now);
                }
                opens
            }
            (State::HalfOpen, true) => {
                self.state = State::Closed;
                self.closed = now;
                (self.failures, self.checks) = (0, 0);
                true
            }
            (State::HalfOpen, false) => {
                self.open(now);
                false
            }
            // A check that began before it opened.
            (State::Open { .. }, _) => false,
        }
    }

    fn open(&mut self, now: Instant) {
        if self.is_closed() {
            self.opened += 1;
        }
        self.state = State::Open { until: now + self.pause };
        self.pause = (self.pause * 2).min(self.patience.pause_max);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn closed(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(Patience::default(), now);
        assert!(breaker.probe(now) && breaker.checked(true, now));
        breaker
    }

    #[test]
    fn a_new_root_is_probed_first() {
        let now = Instant::now();
        let mut breaker = Breaker::new(Patience::default(), now);
        assert!(!breaker.is_closed());
        assert!(breaker.probe(now));
        assert!(!breaker.probe(now), "one probe at a time");
        assert!(breaker.checked(true, now));
        assert!(breaker.is_closed());
        assert_eq!(breaker.opened(), 0);
    }

    #[test]
    fn failures_in_a_row_open_it_and_others_do_not() {
        let now = Instant::now();
        let mut breaker = closed(now);
        for _ in 0..10 {
            assert!(!breaker.failed(now) && !breaker.failed(now));
            breaker.answered();
        }
        assert!(!breaker.failed(now) && !breaker.failed(now) && breaker.failed(now));
        assert_eq!(breaker.state(), State::Open { until: now + 250 * MS });
        breaker.answered();
        assert!(!breaker.is_closed(), "a late answer proves nothing");
        assert!(!breaker.probe(now + 249 * MS));
        assert!(breaker.probe(now + 250 * MS));
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_a_root_that_stays_well_is_forgiven() {
        let mut now = Instant::now();
        let mut breaker = closed(now);
        assert!(!breaker.checked(false, now) && breaker.checked(false, now));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let State::Open { until } = breaker.state() else { panic!("{breaker:?}") };
            pauses.push((until - now).as_millis());
            now = until;
            assert!(breaker.probe(now));
            breaker.checked(false, now);
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        now += 10_000 * MS;
        assert!(breaker.probe(now) && breaker.checked(true, now));
        now += 11_000 * MS;
        breaker.checked(true, now);
        for _ in 0..3 {
            breaker.failed(now);
        }
        assert_eq!(breaker.state(), State::Open { until: now + 250 * MS });
        assert_eq!(breaker.opened(), 2);
    }

    proptest! {
        /// Whatever happens: it is never open for longer than the bound, and a root that answers its checks is asked again.
        #[test]
        fn it_always_lets_a_root_back(events in prop::collection::vec((0_u8..4, 0_u64..3_000), 0..200)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(Patience::default(), now);
            for (event, wait) in events {
                now += Duration::from_millis(wait);
                match event {
                    0 => breaker.answered(),
                    1 => drop(breaker.failed(now)),
                    _ => {
                        breaker.probe(now);
                        breaker.checked(event == 2, now);
                    }
                }
                if let State::Open { until } = breaker.state() {
                    prop_assert!(until <= now + Patience::default().pause_max);
                }
            }
            now += Patience::default().pause_max;
            breaker.probe(now);
            breaker.checked(true, now);
            prop_assert!(breaker.is_closed());
        }
    }
}
