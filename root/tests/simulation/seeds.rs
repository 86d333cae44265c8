//! Runs many seeds, and one of them when it has failed.
//!
//! `TRAWL_TEST_SEEDS=2000` runs so many (200 unless said), `TRAWL_TEST_SEED=n` one, with its
//! trace, `TRAWL_TEST_DETAILS=1` with every call and connection in it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::engine::Engine;
use crate::trace;

/// What came of a seed.
#[derive(Debug)]
pub struct Outcome {
    pub violations: Vec<String>,
    pub trace: Vec<String>,
    pub epochs: u64,
    pub accepted: u64,
    pub trims: u64,
}

impl Outcome {
    pub fn of(engine: &Engine) -> Self {
        let checks = &engine.checks;
        let mut violations = checks.violations.clone();
        violations.extend(trace::panics().into_iter().map(|panic| format!("panicked: {panic}")));
        Self {
            violations,
            trace: trace::lines(),
            epochs: checks.epochs() as u64,
            accepted: checks.accepted,
            trims: checks.trims,
        }
    }
}

/// Runs one seed on this thread.
pub fn one(seed: u64, is_detailed: bool, run: impl Fn(u64) -> Outcome) -> Outcome {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !trace::note_panic(&panic.to_string()) {
                before(panic);
            }
        }));
    });
    let _logs = trace::begin(is_detailed);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
    trace::end();
    caught.unwrap_or_else(|_| Outcome {
        violations: trace::panics(),
        trace: trace::lines(),
        epochs: 0,
        accepted: 0,
        trims: 0,
    })
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs the seeds that are asked for, on all cores, and fails with the first that fails.
pub fn all(test: &str, run: impl Fn(u64) -> Outcome + Sync) {
    if let Some(seed) = from_environment("TRAWL_TEST_SEED") {
        let outcome = one(seed, std::env::var_os("TRAWL_TEST_DETAILS").is_some(), run);
        outcome.trace.iter().for_each(|line| println!("{line}"));
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        return;
    }
    let count = from_environment("TRAWL_TEST_SEEDS").unwrap_or(200);
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(0), Mutex::new(None));
    let totals = [const { AtomicU64::new(0) }; 3];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let outcome = one(seed, false, &run);
                    for (total, of_seed) in totals.iter().zip([outcome.epochs, outcome.accepted, outcome.trims]) {
                        total.fetch_add(of_seed, Ordering::Relaxed);
                    }
                    if !outcome.violations.is_empty() {
                        failed.lock().unwrap().get_or_insert((seed, outcome));
                    }
                }
            });
        }
    });
    if let Some((seed, outcome)) = failed.into_inner().unwrap() {
        let from = outcome.trace.len().saturating_sub(60);
        outcome.trace[from..].iter().for_each(|line| println!("{line}"));
        let command = format!("TRAWL_TEST_SEED={seed} cargo test --workspace --test simulation {test} -- --nocapture");
        println!("seed {seed} failed; again, with all of its trace: {command}");
        panic!("seed {seed}: {:#?}", outcome.violations);
    }
    let [epochs, accepted, trims] = totals.map(AtomicU64::into_inner);
    println!(
        "{test}: {count} seeds in {:.1} s: {epochs} epochs, {accepted} writes of leaders, {trims} trims",
        began.elapsed().as_secs_f64()
    );
}
