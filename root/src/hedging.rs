//! What a root remembers to tell when a call is late: how long calls of each phase take per index, and the budget.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use trawl_proto::IndexUid;

use crate::plan::Target;
use crate::policy::hedge::{Budget, HedgeConfig};
use crate::policy::quantile::MovingQuantile;

/// Of the times that calls take, the share that is not late.
const QUANTILE: f64 = 0.95;
/// Groups (index and phase) that are remembered.
const GROUPS_MAX: usize = 10_000;

/// Calls that take about as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Searching, with the documents or without.
    Search,
    /// Searching with aggregations.
    Aggregate,
    /// Counting.
    Count,
    /// Statistics of terms.
    Statistics,
    /// Documents of winners.
    Fetch,
    /// Documents by id.
    Get,
}

/// Shared by all requests of a root.
pub struct Hedging {
    config: HedgeConfig,
    groups: Cache<(IndexUid, Phase), Arc<Mutex<MovingQuantile>>>,
    budget: Mutex<Budget>,
}

impl Hedging {
    /// Nothing observed yet, and a full budget.
    pub fn new(config: HedgeConfig) -> Self {
        Self { config, groups: Cache::new(GROUPS_MAX), budget: Mutex::new(Budget::new(&config)) }
    }

    /// Notes a call for these targets that is not a hedge; after how long it is late, if that is known.
    pub fn called(&self, targets: &[&Target], phase: Phase) -> Option<Duration> {
        self.budget.lock().earn(&self.config);
        uids(targets)
            .map(|uid| self.config.late_after(self.usual(uid, phase)))
            .try_fold(Duration::ZERO, |late, next| next.map(|next| late.max(next)))
    }

    /// Notes how long a call took.
    pub fn answered(&self, targets: &[&Target], phase: Phase, took: Duration) {
        uids(targets).for_each(|uid| self.group(uid, phase).lock().observe(took));
    }

    /// Notes a call that took at least so long and is not waited for any more.
    pub fn given_up(&self, targets: &[&Target], phase: Phase, took: Duration) {
        uids(targets).for_each(|uid| self.group(uid, phase).lock().observe_at_least(took));
    }

    /// Whether one more hedge may be made; it then has been paid for.
    pub fn may(&self) -> bool {
        self.budget.lock().spend()
    }

    fn usual(&self, uid: &IndexUid, phase: Phase) -> Option<Duration> {
        self.groups.get(&(uid.clone(), phase)).and_then(|group| group.lock().get())
    }

    fn group(&self, uid: &IndexUid, phase: Phase) -> Arc<Mutex<MovingQuantile>> {
        let key = (uid.clone(), phase);
        self.groups.get(&key).unwrap_or_else(|| {
            let group = Arc::new(Mutex::new(MovingQuantile::new(QUANTILE)));
            self.groups.insert(key, group.clone());
            group
        })
    }
}

/// The indices of targets, each once: targets of one index stand together.
fn uids<'t>(targets: &'t [&Target]) -> impl Iterator<Item = &'t IndexUid> {
    targets.chunk_by(|one, next| one.index.uid == next.index.uid).map(|same| &same[0].index.uid)
}
