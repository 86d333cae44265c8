//! A quantile of the latest times, in constant space.
//!
//! Stochastic approximation (Robbins and Monro, 1951) on the logarithm: each time above the estimate raises it by
//! `step * q`, each below lowers it by `step * (1 - q)`, so it rests where a share `q` of the times is below.

use std::time::Duration;

/// How far one time moves the logarithm of the estimate; and the first times, until it is about right.
const STEP: f64 = 0.1;
const STEP_FIRST: f64 = 0.5;
/// So many are the first.
const FIRST: u32 = 20;

/// A moving quantile of durations.
#[derive(Clone, Copy, Debug)]
pub struct MovingQuantile {
    quantile: f64,
    /// Logarithm of the seconds.
    ln: f64,
    seen: u32,
}

impl MovingQuantile {
    /// Nothing seen yet. `quantile` lies between 0 and 1.
    pub fn new(quantile: f64) -> Self {
        Self { quantile, ln: 0.0, seen: 0 }
    }

    /// Takes over a time that something took.
    pub fn observe(&mut self, took: Duration) {
        let ln = took.as_secs_f64().max(1e-6).ln();
        if self.seen == 0 {
            self.ln = ln;
        }
        let step = if self.seen < FIRST { STEP_FIRST } else { STEP };
        self.ln += if ln > self.ln { step * self.quantile } else { -step * (1.0 - self.quantile) };
        self.seen = self.seen.saturating_add(1);
    }

    /// Takes over that something took at least so long and was not waited for. Tells nothing when others take longer.
    pub fn observe_at_least(&mut self, took: Duration) {
        if self.get().is_some_and(|usual| took >= usual) {
            self.observe(took);
        }
    }

    /// The estimate; `None` before there is a reasonable one.
    pub fn get(&self) -> Option<Duration> {
        (self.seen >= FIRST).then(|| Duration::from_secs_f64(self.ln.exp()))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Exponentially distributed times of this mean.
    fn times(mean_ms: f64, seed: u64) -> impl Iterator<Item = Duration> {
        let mut random = StdRng::seed_from_u64(seed);
        std::iter::repeat_with(move || {
            let uniform: f64 = random.random_range(1e-9..1.0);
            Duration::from_secs_f64(-uniform.ln() * mean_ms / 1e3)
        })
    }

    #[test]
    fn it_rests_where_the_share_is_below_and_follows_a_change() {
        for seed in 0..20 {
            let mut quantile = MovingQuantile::new(0.95);
            times(2.0, seed).take(10).for_each(|took| quantile.observe(took));
            assert_eq!(quantile.get(), None);
            for mean in [2.0, 20.0, 1.0] {
                times(mean, seed + 99).take(2_000).for_each(|took| quantile.observe(took));
                let usual = quantile.get().map_or(0.0, |usual| usual.as_secs_f64() * 1e3);
                // The 95th percentile of an exponential distribution is three times its mean.
                assert!(usual > 2.0 * mean && usual < 4.5 * mean, "seed {seed}: {usual} ms for a mean of {mean} ms");
            }
        }
    }

    #[test]
    fn what_was_not_waited_for_raises_it_only_from_above() {
        let mut quantile = MovingQuantile::new(0.95);
        times(2.0, 1).take(500).for_each(|took| quantile.observe(took));
        let before = quantile.get();
        quantile.observe_at_least(Duration::from_micros(10));
        assert_eq!(quantile.get(), before);
        quantile.observe_at_least(Duration::from_secs(1));
        assert!(quantile.get() > before);
    }
}
