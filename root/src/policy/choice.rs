//! Which replica is expected to answer first.
//!
//! The cost of asking a leaf grows with how long it takes and with the cube of what already waits there (C3: Suresh
//! et al., NSDI 2015, section 3.1): the cube keeps a fast leaf from being buried. Of many replicas only two, chosen at
//! random, are compared (Mitzenmacher, "The Power of Two Choices", 2001), so that many roots do not all run to the same.

use std::time::Duration;

/// Weight of one answer in the moving mean and variance.
const WEIGHT: f64 = 0.1;
/// A leaf that was not asked for so long is believed to be faster by a factor of e: else one that was slow once would
/// never be tried again.
const FORGET: Duration = Duration::from_secs(10);
/// Costs that differ by less than this factor are equal, and replicas take turns.
const ALIKE: f64 = 1.3;

/// What is known of how long a leaf takes to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Seconds.
    mean: f64,
    /// Seconds squared.
    variance: f64,
    seen: u32,
}

impl Estimate {
    /// Takes over how long an answer took.
    pub fn observe(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        let weight = if self.seen == 0 { 1.0 } else { WEIGHT.max(1.0 / f64::from(self.seen + 1)) };
        let off = took - self.mean;
        self.mean += weight * off;
        self.variance = (1.0 - weight) * (self.variance + weight * off * off);
        self.seen = self.seen.saturating_add(1);
    }

    /// Takes over that an answer took at least so long and was not waited for.
    pub fn observe_at_least(&mut self, took: Duration) {
        if took.as_secs_f64() > self.mean {
            self.observe(took);
        }
    }

    /// The mean in seconds as it counts when nothing was heard for `idle`; `None` when nothing ever was.
    fn mean(&self, idle: Duration) -> Option<f64> {
        (self.seen > 0).then(|| self.mean * (-idle.as_secs_f64() / FORGET.as_secs_f64()).exp())
    }
}

/// One leaf as a candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Candidate {
    /// What is known of it.
    pub estimate: Estimate,
    /// For how long nothing was heard from it.
    pub idle: Duration,
    /// Requests that wait for its answer, and those that this request already gave it.
    pub waiting: usize,
}

/// The costs of candidates for one shard, in steps: equal ones are as good as each other.
///
/// A leaf that nothing is known of costs as much as the slowest other, so that it is tried when that is free, and not
/// flooded.
pub fn costs(candidates: &[Candidate]) -> Vec<u32> {
    let slowest = candidates.iter().filter_map(|candidate| candidate.estimate.mean(candidate.idle)).fold(0.0, f64::max);
    let cost = |candidate: &Candidate| {
        let mean = candidate.estimate.mean(candidate.idle).unwrap_or(slowest);
        let fades = if candidate.estimate.mean > 0.0 { mean / candidate.estimate.mean } else { 0.0 };
        let deviation = candidate.estimate.variance.sqrt() * fades;
        let ahead = 1.0 + candidate.waiting as f64;
        // Below 0.1 ms leaves do not differ.
        deviation + mean.max(1e-4) * ahead.powi(3)
    };
    candidates.iter().map(|candidate| ((cost(candidate) / 1e-4).ln() / ALIKE.ln()).max(0.0) as u32).collect()
}

/// The two of `count` candidates that are compared, by a number that differs from request to request.
pub fn two_of(count: usize, random: u64) -> (usize, usize) {
    let count = count.max(1) as u64;
    let first = random % count;
    let second = (first + 1 + (random / count) % (count - 1).max(1)) % count;
    (first as usize, second as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn candidate(ms: u32, waiting: usize) -> Candidate {
        let mut estimate = Estimate::default();
        (0..50).for_each(|_| estimate.observe(MS * ms));
        Candidate { estimate, idle: Duration::ZERO, waiting }
    }

    #[test]
    fn the_faster_and_the_freer_cost_less() {
        let costs_of = |candidates: &[Candidate]| costs(candidates);
        let costs = costs_of(&[candidate(2, 0), candidate(20, 0), candidate(2, 1)]);
        assert!(costs[0] < costs[1] && costs[0] < costs[2]);
        // A leaf ten times as fast is not preferred any more when three wait there.
        let costs = costs_of(&[candidate(2, 3), candidate(20, 0)]);
        assert!(costs[0] > costs[1]);
        let costs = costs_of(&[candidate(20, 0), candidate(21, 0)]);
        assert!(costs[0].abs_diff(costs[1]) <= 1);
    }

    #[test]
    fn an_uneven_leaf_costs_more_than_an_even_one() {
        let mut uneven = candidate(2, 0);
        (0..50).for_each(|n| uneven.estimate.observe(if n % 10 == 0 { MS * 100 } else { MS }));
        assert!(costs(&[uneven, candidate(5, 0)])[0] > costs(&[uneven, candidate(5, 0)])[1]);
    }

    #[test]
    fn a_leaf_nobody_knows_costs_as_much_as_the_slowest() {
        let costs = costs(&[candidate(2, 0), candidate(9, 0), Candidate::default()]);
        assert_eq!(costs[2], costs[1]);
        assert!(costs[0] < costs[2]);
    }

    #[test]
    fn a_slow_leaf_is_tried_again_after_a_while() {
        let slow = candidate(100, 0);
        let idle = Candidate { idle: Duration::from_secs(60), ..slow };
        assert!(costs(&[slow, candidate(2, 0)])[0] > costs(&[slow, candidate(2, 0)])[1]);
        assert!(costs(&[idle, candidate(2, 0)])[0] < costs(&[idle, candidate(2, 0)])[1]);
    }

    #[test]
    fn what_was_not_waited_for_counts_when_it_was_long() {
        let mut estimate = candidate(2, 0).estimate;
        estimate.observe_at_least(MS);
        assert_eq!(estimate, candidate(2, 0).estimate);
        estimate.observe_at_least(MS * 500);
        assert!(estimate.mean > 0.04);
    }

    #[test]
    fn two_different_ones_are_compared_and_all_have_their_turn() {
        for count in 2..9 {
            let mut pairs = std::collections::BTreeSet::new();
            for random in 0..1_000 {
                let (first, second) = two_of(count, random);
                assert!(first != second && first < count && second < count);
                pairs.insert((first, second));
            }
            assert_eq!(pairs.len(), count * (count - 1));
        }
        assert_eq!(two_of(1, 7), (0, 0));
    }
}
