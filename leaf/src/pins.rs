//! Searchers kept between the query and the fetch phase.
//!
//! A fetch needs the very searcher that scored the hits: another one has other addresses. Bounded in
//! time and number; when one is gone, hits are found by `_id` instead.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ShardSearcher;

/// Pinned searchers by id.
pub struct Pins {
    keep: Duration,
    pins_max: usize,
    pinned: Mutex<Pinned>,
}

#[derive(Default)]
struct Pinned {
    searchers: HashMap<u64, (Arc<ShardSearcher>, Instant)>,
    /// (when it was pinned, which), oldest first. A searcher pinned again has several entries; only
    /// the one with its latest instant counts.
    order: VecDeque<(Instant, u64)>,
}

impl Pins {
    /// Keeps at most `pins_max` searchers, each for `keep` after it was pinned last.
    pub fn new(keep: Duration, pins_max: usize) -> Self {
        Self { keep, pins_max, pinned: Mutex::default() }
    }

    /// Keeps a searcher; one that is kept already, for longer.
    pub fn pin(&self, searcher: &Arc<ShardSearcher>) {
        let now = Instant::now();
        let mut pinned = self.pinned.lock();
        let is_recent = pinned.searchers.get(&searcher.id).is_some_and(|(_, at)| now - *at < self.keep / 8);
        if !is_recent {
            pinned.searchers.insert(searcher.id, (searcher.clone(), now));
            pinned.order.push_back((now, searcher.id));
        }
        self.drop_old(&mut pinned, now);
    }

    /// The searcher of this id, while it is kept.
    pub fn get(&self, id: u64) -> Option<Arc<ShardSearcher>> {
        let mut pinned = self.pinned.lock();
        self.drop_old(&mut pinned, Instant::now());
        pinned.searchers.get(&id).map(|(searcher, _)| searcher.clone())
    }

    /// Lets go of what is over time; called regularly so that an idle leaf keeps no old files.
    pub fn expire(&self) {
        self.drop_old(&mut self.pinned.lock(), Instant::now());
    }

    /// Number of searchers kept.
    pub fn len(&self) -> usize {
        self.pinned.lock().searchers.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn drop_old(&self, pinned: &mut Pinned, now: Instant) {
        while let Some((at, id)) = pinned.order.front().copied() {
            let is_over = now - at >= self.keep || pinned.searchers.len() > self.pins_max;
            let is_stale = pinned.searchers.get(&id).is_none_or(|(_, latest)| *latest != at);
            if !is_over && !is_stale {
                return;
            }
            pinned.order.pop_front();
            if !is_stale {
                pinned.searchers.remove(&id);
            }
        }
    }
}
