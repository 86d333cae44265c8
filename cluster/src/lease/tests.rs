//! The lease: its core against a simulated store with slow, lost and repeated messages; its driver
//! under a paused clock.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use trawl_proto::{Epoch, NodeName};

use super::core::{Action, Core, Event, Observation, Outcome};
use super::{Config, Lease};
use crate::catalog::keys;
use crate::memory::{SharedStore, State};
use crate::store::{Guard, Revision, Write};
use crate::{Error, Store};

const LEASE: Duration = Duration::from_millis(3_000);

/// What happens to a commit or an observation, drawn by proptest.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// Until it reaches the store.
    there_ms: u64,
    /// Until the answer is back.
    back_ms: u64,
    /// The answer never comes; the sender learns that after `back_ms`.
    answer_lost: bool,
    /// It never reaches the store.
    lost: bool,
}

fn fate() -> impl Strategy<Value = Fate> {
    let delay = || prop_oneof![8 => 0u64..20, 2 => 0u64..500, 1 => 0u64..6_000];
    (delay(), delay(), prop::bool::weighted(0.1), prop::bool::weighted(0.1))
        .prop_map(|(there_ms, back_ms, answer_lost, lost)| Fate { there_ms, back_ms, answer_lost, lost })
}

/// Something on its way.
enum Message {
    /// To the store.
    Commit { by: usize, ticket: u64, guards: Vec<Guard>, writes: Vec<Write>, fate: Fate },
    /// Back from it.
    Answer { by: usize, ticket: u64, outcome: Outcome },
    /// A watch's delivery.
    Observe { by: usize, observation: Observation },
}

struct Candidate {
    core: Core,
    /// What it believes: its epoch and guard.
    leads: Option<(Epoch, Revision)>,
    /// The commit whose outcome it still wants.
    ticket: Option<u64>,
    /// Paused until then: neither messages nor time reach it.
    paused_until: Duration,
    alive: bool,
}

struct Simulation {
    now: Duration,
    store: State,
    candidates: Vec<Candidate>,
    messages: Vec<(Duration, u64, Message)>,
    fates: Vec<Fate>,
    next_number: u64,
    /// Every epoch that anyone led at, with its holder.
    epochs: Vec<(Epoch, usize)>,
}

fn read<T: DeserializeOwned>(store: &State, key: &str) -> Option<(T, Revision)> {
    store.get(key).map(|entry| (serde_json::from_slice(&entry.value).unwrap(), entry.revision))
}

impl Simulation {
    fn new(candidates: usize, fates: Vec<Fate>) -> Self {
        let candidate = |n: usize| Candidate {
            core: Core::new(NodeName(format!("root-{n}")), format!("process-{n}"), LEASE),
            leads: None,
            ticket: None,
            paused_until: Duration::ZERO,
            alive: true,
        };
        let mut simulation = Self {
            now: Duration::ZERO,
            store: State::default(),
            candidates: (0..candidates).map(candidate).collect(),
            messages: Vec::new(),
            fates,
            next_number: 0,
            epochs: Vec::new(),
        };
        simulation.broadcast();
        simulation
    }

    fn fate(&mut self) -> Fate {
        self.next_number += 1;
        let quick = Fate { there_ms: 1, back_ms: 1, answer_lost: false, lost: false };
        if self.fates.is_empty() { quick } else { self.fates[self.next_number as usize % self.fates.len()] }
    }

    fn send(&mut self, after_ms: u64, message: Message) {
        self.next_number += 1;
        self.messages.push((self.now + Duration::from_millis(after_ms), self.next_number, message));
    }

    /// Every watch delivers the present records, sooner or later (and never out of order, which is
    /// what a watch promises; later deliveries overtake by being newer).
    fn broadcast(&mut self) {
        for by in 0..self.candidates.len() {
            let observation = Observation {
                at: self.store.revision(),
                lease: read(&self.store, keys::LEASE),
                epoch: read(&self.store, keys::LEASE_EPOCH),
            };
            let delay = self.fate().there_ms.min(900);
            self.send(delay, Message::Observe { by, observation });
        }
    }

    /// Goes on to the next thing that happens; false when there is nothing before the end.
    fn advance(&mut self, end: Duration) -> bool {
        let delivery = |(at, _, message): &(Duration, u64, Message)| match message {
            Message::Commit { .. } => *at,
            Message::Answer { by, .. } | Message::Observe { by, .. } => (*at).max(self.candidates[*by].paused_until),
        };
        let message = (0..self.messages.len()).min_by_key(|n| (delivery(&self.messages[*n]), self.messages[*n].1));
        let wake = |n: &usize| {
            let candidate = &self.candidates[*n];
            candidate
                .core
                .next_wake()
                .filter(|_| candidate.alive)
                .map(|wake| wake.max(candidate.paused_until).max(self.now))
        };
        let waking = (0..self.candidates.len()).filter(|n| wake(n).is_some()).min_by_key(|n| wake(n));
        let message_at = message.map(|n| delivery(&self.messages[n]));
        let wake_at = waking.and_then(|n| wake(&n));
        match (message_at, wake_at) {
            (Some(at), wake) if wake.is_none_or(|wake| at <= wake) => {
                if at > end {
                    return false;
                }
                self.now = self.now.max(at);
                let (_, _, message) = self.messages.swap_remove(message.unwrap());
                self.deliver(message);
            }
            (_, Some(at)) => {
                if at > end {
                    return false;
                }
                self.now = at;
                self.step(waking.unwrap(), Event::Tick);
            }
            _ => return false,
        }
        true
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Commit { by, ticket, guards, writes, fate } => {
                let outcome = match self.store.commit(&guards, &writes) {
                    Ok(revision) => {
                        self.broadcast();
                        Outcome::Done(revision)
                    }
                    Err(_) => Outcome::Lost,
                };
                let outcome = if fate.answer_lost { Outcome::Unknown } else { outcome };
                self.send(fate.back_ms, Message::Answer { by, ticket, outcome });
            }
            Message::Answer { by, ticket, outcome } => {
                if self.candidates[by].ticket == Some(ticket) {
                    self.candidates[by].ticket = None;
                    self.step(by, Event::Committed(outcome));
                }
            }
            Message::Observe { by, observation } => self.step(by, Event::Observed(observation)),
        }
    }

    fn step(&mut self, by: usize, event: Event) {
        if !self.candidates[by].alive {
            return;
        }
        for action in self.candidates[by].core.step(self.now, event) {
            match action {
                Action::Commit(guards, writes) => {
                    assert_eq!(self.candidates[by].ticket, None, "one commit at a time");
                    let fate = self.fate();
                    let ticket = self.next_number;
                    self.candidates[by].ticket = Some(ticket);
                    if fate.lost {
                        self.send(fate.back_ms, Message::Answer { by, ticket, outcome: Outcome::Unknown });
                    } else {
                        self.send(fate.there_ms, Message::Commit { by, ticket, guards, writes, fate });
                    }
                }
                Action::Abandon => self.candidates[by].ticket = None,
                Action::Lead(epoch, revision) => {
                    self.candidates[by].leads = Some((epoch, revision));
                    self.epochs.push((epoch, by));
                }
                Action::Follow => self.candidates[by].leads = None,
            }
        }
        self.check();
    }

    /// Of those who are not paused, one leads at most; a guard of an epoch that is over never holds. Who
    /// has come out of a pause at this very instant has not looked at the clock yet, and may believe
    /// for that long that it leads: nothing but the guard helps against that.
    fn check(&self) {
        let up_to_date = |candidate: &&Candidate| candidate.core.next_wake().is_none_or(|wake| wake > self.now);
        let running =
            |candidate: &&Candidate| candidate.alive && candidate.paused_until <= self.now && up_to_date(candidate);
        let leading: Vec<Epoch> = self
            .candidates
            .iter()
            .filter(running)
            .filter_map(|candidate| candidate.leads)
            .map(|(epoch, _)| epoch)
            .collect();
        assert!(leading.len() <= 1, "two lead at {:?}: {leading:?}", self.now);
        let present = self.store.get(keys::LEASE_EPOCH).map(|entry| entry.revision);
        let valid = self
            .candidates
            .iter()
            .filter(|candidate| candidate.leads.is_some_and(|(_, revision)| Some(revision) == present));
        assert!(valid.count() <= 1);
    }

    fn run_to(&mut self, end: Duration) {
        while self.advance(end) {}
        self.now = end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is slow, lost or paused: never two leaders at once, never an epoch twice; and when
    /// the trouble is over there soon is one.
    #[test]
    fn one_leads_at_a_time_and_soon_again(
        candidates in 1usize..4,
        fates in proptest::collection::vec(fate(), 1..60),
        troubles in proptest::collection::vec((0usize..4, 0u64..8_000, 0u64..9_000), 0..6),
    ) {
        let mut simulation = Simulation::new(candidates, fates);
        for (who, after_ms, pause_ms) in troubles {
            let end = simulation.now + Duration::from_millis(after_ms);
            simulation.run_to(end);
            let who = who % candidates;
            let until = simulation.now + Duration::from_millis(pause_ms);
            simulation.candidates[who].paused_until = until;
        }
        let end = simulation.now + Duration::from_secs(10);
        simulation.run_to(end);

        simulation.fates.clear();
        // What is still on its way may take its time.
        let end = simulation.now + Duration::from_secs(15) + 3 * LEASE;
        simulation.run_to(end);
        prop_assert_eq!(simulation.candidates.iter().filter(|candidate| candidate.leads.is_some()).count(), 1);
        let before = simulation.epochs.len();
        let end = simulation.now + 5 * LEASE;
        simulation.run_to(end);
        prop_assert_eq!(simulation.epochs.len(), before, "a quiet lease stays where it is");
        prop_assert!(simulation.epochs.is_sorted_by(|(a, _), (b, _)| a < b), "{:?}", simulation.epochs);
    }

    /// The death of the holder costs no more than the lease time and what messages take.
    #[test]
    fn a_dead_holder_is_followed_after_the_lease_time(at_ms in 100u64..9_000) {
        let mut simulation = Simulation::new(3, Vec::new());
        simulation.run_to(Duration::from_millis(at_ms));
        let dead = simulation.candidates.iter().position(|candidate| candidate.leads.is_some()).unwrap();
        simulation.candidates[dead].alive = false;
        simulation.candidates[dead].leads = None;
        let died = simulation.now;
        simulation.run_to(died + LEASE * 2 / 3 - Duration::from_millis(10));
        prop_assert_eq!(simulation.epochs.len(), 1, "nobody takes over early");
        simulation.run_to(died + LEASE + Duration::from_millis(300));
        prop_assert_eq!(simulation.epochs.len(), 2);
        prop_assert_eq!(simulation.epochs[1].0, Epoch(2));
    }
}

fn config(name: &str) -> Config {
    Config { name: name.into(), process: format!("{name}'s process"), lease_time: LEASE }
}

async fn leads(lease: &Lease) -> Epoch {
    lease.leading().wait_for(Option::is_some).await.unwrap().unwrap()
}

fn write() -> [Write; 1] {
    [Write::Put("assignment/x/0".to_owned(), Bytes::new())]
}

#[tokio::test(start_paused = true)]
async fn a_clean_shutdown_hands_over_at_once() {
    let store = Arc::new(SharedStore::default());
    let (first_shutdown, second_shutdown) = (CancellationToken::new(), CancellationToken::new());
    let first = Lease::run(store.clone(), config("root-0"), first_shutdown.clone());
    assert_eq!(leads(&first).await, Epoch(1));
    let second = Lease::run(store.clone(), config("root-1"), second_shutdown.clone());
    tokio::time::sleep(LEASE * 5).await;
    assert_eq!((*first.leading().borrow(), *second.leading().borrow()), (Some(Epoch(1)), None));

    let guards = first.fence().guards(Epoch(1)).unwrap();
    store.commit(&guards, &write()).await.unwrap();
    let early = second.fence().guards(Epoch(1));
    assert!(matches!(early, Err(Error::Fenced { epoch: Epoch(1), highest: Epoch(1) })), "{early:?}");

    let at = tokio::time::Instant::now();
    first_shutdown.cancel();
    assert_eq!(leads(&second).await, Epoch(2));
    assert!(at.elapsed() < Duration::from_millis(100));
    first.stopped().await;
    // A key that the successor never touched, with guards that were made in time.
    let refused = store.commit(&guards, &write()).await;
    assert!(matches!(&refused, Err(Error::Conflict(Guard::At(key, _))) if key == keys::LEASE_EPOCH), "{refused:?}");
    let judged = second.fence().judge(Epoch(1), refused);
    assert!(matches!(judged, Err(Error::Fenced { epoch: Epoch(1), highest: Epoch(2) })), "{judged:?}");
    let lost = Err::<(), _>(Error::Conflict(Guard::Absent("assignment/x/0".to_owned())));
    assert!(matches!(second.fence().judge(Epoch(1), lost), Err(Error::Conflict(_))));
    let late = second.fence().guards(Epoch(1));
    assert!(matches!(late, Err(Error::Fenced { highest: Epoch(2), .. })), "{late:?}");
    let guards = second.fence().guards(Epoch(2)).unwrap();
    store.commit(&guards, &write()).await.unwrap();
    // The holder alone gives it back, and nobody holds it then.
    second_shutdown.cancel();
    second.stopped().await;
    let (lease, _) = read_lease(&store).await;
    assert_eq!((lease.holder, lease.epoch), (None, Epoch(2)));
}

async fn read_lease(store: &SharedStore) -> (crate::catalog::LeaseRecord, Revision) {
    let entry = store.get(keys::LEASE).await.unwrap().unwrap();
    (serde_json::from_slice(&entry.value).unwrap(), entry.revision)
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_steps_down_before_the_lease_is_over() {
    let store = Arc::new(SharedStore::default());
    let lease = Lease::run(store.clone(), config("root-0"), CancellationToken::new());
    assert_eq!(leads(&lease).await, Epoch(1));
    tokio::time::sleep(LEASE * 3).await;
    let at = tokio::time::Instant::now();
    store.0.cut_off(true);
    lease.leading().wait_for(Option::is_none).await.unwrap();
    assert!(at.elapsed() <= LEASE * 2 / 3, "{:?}", at.elapsed());
    assert!(lease.fence().guards(Epoch(1)).is_err());
    tokio::time::sleep(LEASE).await;
    store.0.cut_off(false);
    assert_eq!(leads(&lease).await, Epoch(2));
}
