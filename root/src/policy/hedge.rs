//! When a late call is made a second time, elsewhere, and how much of that there may be (Dean and Barroso, "The Tail
//! at Scale", CACM 2013, "hedged requests").

use std::time::Duration;

/// How calls are hedged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeConfig {
    /// Hedges per call, at most, over time; 0 makes none. Default 0.05.
    pub ratio: f64,
    /// Hedges that may be made at once after a quiet time. Default 10.
    pub burst: f64,
    /// A call is late after this many times what is usual (the moving 95th percentile). Default 1.5.
    pub factor: f64,
    /// But never sooner. Default 5 ms.
    pub after_min: Duration,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self { ratio: 0.05, burst: 10.0, factor: 1.5, after_min: Duration::from_millis(5) }
    }
}

impl HedgeConfig {
    /// After how long a call is late whose like usually takes `usual` (`None`: not known, so it never is).
    pub fn late_after(&self, usual: Option<Duration>) -> Option<Duration> {
        usual.filter(|_| self.ratio > 0.0).map(|usual| usual.mul_f64(self.factor).max(self.after_min))
    }
}

/// A token bucket: calls earn, hedges spend.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    tokens: f64,
}

impl Budget {
    /// Full.
    pub fn new(config: &HedgeConfig) -> Self {
        Self { tokens: config.burst }
    }

    /// A call was made that is not a hedge.
    pub fn earn(&mut self, config: &HedgeConfig) {
        self.tokens = (self.tokens + config.ratio).min(config.burst);
    }

    /// Whether one hedge may be made; it then has been paid for.
    pub fn spend(&mut self) -> bool {
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_a_multiple_of_the_usual() {
        let config = HedgeConfig::default();
        let ms = Duration::from_millis;
        assert_eq!(config.late_after(Some(ms(20))), Some(ms(30)));
        assert_eq!(config.late_after(Some(ms(1))), Some(ms(5)));
        assert_eq!(config.late_after(None), None);
        assert_eq!(HedgeConfig { ratio: 0.0, ..config }.late_after(Some(ms(20))), None);
    }

    #[test]
    fn hedges_stay_within_their_share_and_burst() {
        let config = HedgeConfig::default();
        let mut budget = Budget::new(&config);
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
        let mut hedges = 0;
        for _ in 0..10_000 {
            budget.earn(&config);
            hedges += u32::from(budget.spend());
        }
        assert!((495..=500).contains(&hedges), "{hedges}");
        (0..10_000).for_each(|_| budget.earn(&config));
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    }
}
