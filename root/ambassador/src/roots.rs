//! The set of roots, and which of them is asked next.
//!
//! Of two picked by chance the one with less load is taken (*power of two choices*). The load is `tower`'s peak EWMA: the
//! moving average of a root's latencies, of which a high one counts at once, times its requests in flight.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::Service;
use tower::load::{CompleteOnResponse, Load, PeakEwma};

use crate::breaker::{Breaker, Patience, State};
use crate::check;
use crate::discover::Address;
use crate::wire::{Connector, Sending, Wire};

/// What a root's latency is taken for until it is known.
const LATENCY_FIRST: Duration = Duration::from_millis(1);
/// How fast high latencies are forgotten.
const LATENCY_DECAY: Duration = Duration::from_secs(10);

/// One root.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) address: Address,
    pub(crate) wire: Wire,
    measured: Mutex<PeakEwma<Wire, CompleteOnResponse>>,
    breaker: Mutex<Breaker>,
    /// Until when it asked not to be asked.
    resting: Mutex<Option<Instant>>,
    /// Somebody has reason to believe that it is not well.
    pub(crate) doubted: Notify,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Ends its checks when it is no root any more.
    _checks: DropGuard,
}

impl Root {
    fn start(address: Address, wire: Wire, settings: &Settings) -> Arc<Self> {
        let decay = LATENCY_DECAY.as_nanos() as f64;
        let measured = PeakEwma::new(wire.clone(), LATENCY_FIRST, decay, CompleteOnResponse::default());
        let stop = CancellationToken::new();
        let root = Arc::new(Self {
            address,
            wire,
            measured: Mutex::new(measured),
            breaker: Mutex::new(Breaker::new(settings.patience, Instant::now())),
            resting: Mutex::new(None),
            doubted: Notify::new(),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            _checks: stop.clone().drop_guard(),
        });
        check::start(&root, settings.check_interval, settings.check_time, stop);
        root
    }

    /// Sends a request; what that takes is part of the root's load.
    pub(crate) fn send(&self, sending: Sending) -> impl Future<Output = reqwest::Result<reqwest::Response>> + use<> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.measured.lock().call(sending)
    }

    pub(crate) fn answered(&self) {
        self.breaker.lock().answered();
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if self.breaker.lock().failed(Instant::now()) {
            tracing::warn!(root = self.address.shown(), "requests fail in a row: the root is left alone");
        }
        self.doubted.notify_one();
    }

    /// It asked not to be asked for so long.
    pub(crate) fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut resting = self.resting.lock();
        *resting = (*resting).max(Some(until));
    }

    pub(crate) fn breaker<R>(&self, with: impl FnOnce(&mut Breaker) -> R) -> R {
        with(&mut self.breaker.lock())
    }

    pub(crate) fn state(&self) -> State {
        self.breaker.lock().state()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.breaker.lock().is_closed()
    }

    pub(crate) fn rests(&self, now: Instant) -> bool {
        self.resting.lock().is_some_and(|until| now < until)
    }
}

/// What is common to all roots.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) connector: Connector,
    pub(crate) patience: Patience,
    pub(crate) check_interval: Duration,
    pub(crate) check_time: Duration,
}

/// All roots known now.
#[derive(Debug)]
pub(crate) struct Roots {
    settings: Settings,
    roots: ArcSwap<Vec<Arc<Root>>>,
}

/// How glad one is to ask a root; the first is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It is well and was not asked.
    Fresh,
    /// It is well.
    Tried,
    /// It is left alone, or asked to be, and was not asked.
    Doubtful,
    /// And was asked.
    Last,
}

impl Roots {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, roots: ArcSwap::default() }
    }

    pub(crate) fn all(&self) -> Arc<Vec<Arc<Root>>> {
        self.roots.load_full()
    }

    /// From now on these are the roots. Those that stay keep their connections and what is known of them.
    pub(crate) fn set(&self, found: &BTreeSet<Address>) {
        let before = self.all();
        if before.len() == found.len() && before.iter().all(|root| found.contains(&root.address)) {
            return;
        }
        let known = |address: &Address| before.iter().find(|root| root.address == *address).cloned();
        let made = |address: &Address| match Wire::new(address, &self.settings.connector) {
            Ok(wire) => Some(Root::start(address.clone(), wire, &self.settings)),
            Err(error) => {
                tracing::error!(root = address.shown(), %error, "this root cannot be connected to");
                None
            }
        };
        let after: Vec<_> = found.iter().filter_map(|address| known(address).or_else(|| made(address))).collect();
        let shown: Vec<String> = found.iter().map(Address::shown).collect();
        tracing::info!(roots = shown.join(", "), "these are the roots");
        self.roots.store(Arc::new(after));
    }

    /// The root to ask next.
    pub(crate) fn pick(&self, tried: &[Arc<Root>]) -> Option<Arc<Root>> {
        self.best(tried, |_| true)
    }

    /// A root that is well and was not tried.
    pub(crate) fn pick_fresh(&self, tried: &[Arc<Root>]) -> Option<Arc<Root>> {
        self.best(tried, |rank| rank == Rank::Fresh)
    }

    fn best(&self, tried: &[Arc<Root>], wanted: impl Fn(Rank) -> bool) -> Option<Arc<Root>> {
        let (roots, now) = (self.roots.load(), Instant::now());
        let rank = |root: &Arc<Root>| match (
            root.is_closed() && !root.rests(now),
            tried.iter().any(|tried| Arc::ptr_eq(tried, root)),
        ) {
            (true, false) => Rank::Fresh,
            (true, true) => Rank::Tried,
            (false, false) => Rank::Doubtful,
            (false, true) => Rank::Last,
        };
        let ranked: Vec<(Rank, &Arc<Root>)> = roots.iter().map(|root| (rank(root), root)).collect();
        let best = ranked.iter().map(|(rank, _)| *rank).min().filter(|best| wanted(*best))?;
        let equals: Vec<&Arc<Root>> = ranked.iter().filter(|(rank, _)| *rank == best).map(|(_, root)| *root).collect();
        lighter_of_two(&equals, |root| root.measured.lock().load()).map(|root| (*root).clone())
    }

    /// How many are in each state: closed, half-open, open.
    pub(crate) fn states(&self) -> [i64; 3] {
        let mut states = [0; 3];
        for root in self.roots.load().iter() {
            let place = match root.state() {
                State::Closed => 0,
                State::HalfOpen => 1,
                State::Open { .. } => 2,
            };
            states[place] += 1;
        }
        states
    }
}

/// Of two picked by chance the one with less load.
fn lighter_of_two<T, L: PartialOrd>(candidates: &[T], load: impl Fn(&T) -> L) -> Option<&T> {
    match candidates {
        [] => None,
        [one] => Some(one),
        several => {
            let places = rand::seq::index::sample(&mut rand::rng(), several.len(), 2);
            let (one, other) = (&several[places.index(0)], &several[places.index(1)]);
            Some(if load(other) < load(one) { other } else { one })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_heaviest_of_several_is_never_picked() {
        let loads = [5.0, 1.0, 3.0];
        for _ in 0..200 {
            assert_ne!(lighter_of_two(&loads, |load| *load), Some(&5.0));
        }
        assert_eq!(lighter_of_two(&[7.0], |load| *load), Some(&7.0));
        assert_eq!(lighter_of_two(&[0.0; 0], |load| *load), None);
    }

    #[tokio::test]
    async fn roots_that_are_not_well_come_last_and_known_ones_are_kept() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let roots = Roots::new(Settings {
            connector: Connector { connect_time: Duration::from_secs(1), authorities: None },
            patience: Patience::default(),
            // None is made during the test.
            check_interval: Duration::from_secs(3_600),
            check_time: Duration::from_secs(1),
        });
        assert!(roots.pick(&[]).is_none());
        let address = |port: u16| Address::parse(&format!("127.0.0.1:{port}"), false).unwrap();
        roots.set(&(1..=3).map(address).collect());
        let all = roots.all();
        for root in &all[..2] {
            root.breaker(|breaker| {
                breaker.probe(Instant::now());
                breaker.checked(true, Instant::now())
            });
        }
        for _ in 0..50 {
            let first = roots.pick(&[]).unwrap();
            assert!(first.is_closed());
            let second = roots.pick(std::slice::from_ref(&first)).unwrap();
            assert!(second.is_closed() && !Arc::ptr_eq(&first, &second));
            assert!(roots.pick(&[first.clone(), second.clone()]).unwrap().is_closed());
            assert!(roots.pick_fresh(&[first, second]).is_none());
        }
        all[0].rest(Duration::from_secs(60));
        assert!(Arc::ptr_eq(&roots.pick(&[]).unwrap(), &all[1]));
        roots.set(&(2..=4).map(address).collect());
        assert!(Arc::ptr_eq(&roots.all()[0], &all[1]), "known roots are kept");
        assert_eq!(roots.all().len(), 3);
    }
}
