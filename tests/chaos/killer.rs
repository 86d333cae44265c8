//! Kills and pauses processes at random, by seed.

use std::{collections::BTreeMap, fmt, time::Duration};

use nix::{sys::signal::Signal, unistd::Pid};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{crew::Crew, harness::Cluster};

pub struct Killer {
    random: StdRng,
    /// How often the loader is struck at most: each time it waits for its claim to run out.
    loader_strikes_max: usize,
    /// Process, and when it goes on.
    paused: Vec<(i32, tokio::time::Instant)>,
    /// By role: killed, paused.
    strikes: BTreeMap<String, (usize, usize)>,
}

impl Killer {
    pub fn new(random: StdRng, loader_strikes_max: usize) -> Self {
        Self { random, loader_strikes_max, paused: Vec::new(), strikes: BTreeMap::new() }
    }

    /// Waits a little, then kills one to three processes at once, or pauses one.
    pub async fn strike(&mut self, cluster: &Cluster, crews: &[Crew]) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(300..1_500))).await;
        self.wake(false);
        let mut victims: Vec<(String, i32)> =
            cluster.processes().into_iter().map(|process| (process.role, process.pid)).collect();
        victims.extend(crews.iter().filter_map(Crew::process));
        let loader_strikes = self.strikes.get("loader").map_or(0, |(killed, paused)| killed + paused);
        victims.retain(|(role, _)| role != "loader" || loader_strikes < self.loader_strikes_max);
        if self.random.random_bool(0.15) {
            let (role, pid) = victims.choose(&mut self.random).unwrap().clone();
            signal(pid, Signal::SIGSTOP);
            let time = Duration::from_millis(self.random.random_range(1_000..5_000));
            self.paused.push((pid, tokio::time::Instant::now() + time));
            self.strikes.entry(role).or_default().1 += 1;
            return;
        }
        for _ in 0..self.random.random_range(1..=3) {
            // A short load may be through before it is chosen once.
            let spared = victims.iter().find(|(role, _)| role == "loader" && !self.strikes.contains_key(role));
            let (role, pid) = spared.or_else(|| victims.choose(&mut self.random)).unwrap().clone();
            signal(pid, Signal::SIGKILL);
            self.strikes.entry(role).or_default().0 += 1;
        }
    }

    /// Lets everything go on.
    pub async fn rest(&mut self, cluster: &Cluster) {
        self.wake(true);
        cluster.green().await;
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

impl fmt::Display for Killer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strikes: Vec<String> =
            self.strikes.iter().map(|(role, (killed, paused))| format!("{role} {killed}/{paused}")).collect();
        write!(f, "killed/paused: {}", strikes.join(", "))
    }
}

fn signal(pid: i32, signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
}
