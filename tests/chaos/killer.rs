//! Kills and pauses processes at random, by seed.

use std::{collections::BTreeMap, time::Duration};

use nix::{sys::signal::Signal, unistd::Pid};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{harness::Cluster, workers::Workers};

pub struct Killer {
    random: StdRng,
    /// Process, and when it goes on.
    paused: Vec<(i32, tokio::time::Instant)>,
    counts: BTreeMap<String, usize>,
}

impl Killer {
    pub fn new(random: StdRng) -> Self {
        Self { random, paused: Vec::new(), counts: BTreeMap::new() }
    }

    /// Waits a little, then kills one to three processes at once, or pauses one.
    pub async fn strike(&mut self, cluster: &Cluster, workers: &Workers) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(300..1_500))).await;
        self.wake(false);
        let mut victims: Vec<(String, i32)> =
            cluster.processes().into_iter().map(|process| (process.role, process.pid)).collect();
        victims.extend(workers.pids().into_iter().map(|pid| ("worker".to_owned(), pid)));
        if self.random.random_bool(0.15) {
            let (role, pid) = victims.choose(&mut self.random).unwrap().clone();
            signal(pid, Signal::SIGSTOP);
            let time = Duration::from_millis(self.random.random_range(1_000..5_000));
            self.paused.push((pid, tokio::time::Instant::now() + time));
            *self.counts.entry(format!("{role} paused")).or_default() += 1;
            return;
        }
        for _ in 0..self.random.random_range(1..=3) {
            let (role, pid) = victims.choose(&mut self.random).unwrap().clone();
            signal(pid, Signal::SIGKILL);
            *self.counts.entry(format!("{role} killed")).or_default() += 1;
        }
    }

    /// Lets everything go on.
    pub async fn rest(&mut self, cluster: &Cluster) {
        self.wake(true);
        cluster.green().await;
    }

    pub fn summary(&self) -> String {
        let counts: Vec<String> = self.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
        counts.join(", ")
    }

    fn wake(&mut self, all: bool) {
        let now = tokio::time::Instant::now();
        self.paused.retain(|(pid, until)| {
            let due = all || *until <= now;
            if due {
                signal(*pid, Signal::SIGCONT);
            }
            !due
        });
    }
}

fn signal(pid: i32, signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
}
