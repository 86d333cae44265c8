//! The pure core of the lease: observations, results and the time go in, actions come out.
//!
//! ```text
//!                 counter stood still for the lease time,
//!                 or nobody holds it, or it is our own
//!     Following ───────────────────────────────────────────> Acquiring
//!        ^  ^────────── lost to another, or unknown ────────────│
//!        │                                                      v
//!        └── not renewed for 2/3 of it, or taken over ─────── Leading ── shutdown ──> Ended
//! ```
//!
//! At most one commit is under way. Times are measured from any fixed point, on a monotonic clock. A
//! renewal counts from the moment it was *sent*, an expiry from the moment a change was *seen*; so with
//! clocks that run equally fast the holder stops a third of the lease time before anyone takes over.

use std::time::Duration;

use bytes::Bytes;
use trawl_proto::{Epoch, NodeName};

use crate::catalog::{EpochRecord, LeaseRecord, keys};
use crate::store::{Guard, Revision, Write};

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The lease's records as of a revision of the store.
    Observed(Observation),
    /// The commit that was under way has ended.
    Committed(Outcome),
    /// Time has passed.
    Tick,
    /// Give the lease back and end.
    Shutdown,
}

/// The lease's records, each with the revision that wrote it.
#[derive(Clone, Debug, Default)]
pub(super) struct Observation {
    pub(super) at: Revision,
    pub(super) lease: Option<(LeaseRecord, Revision)>,
    pub(super) epoch: Option<(EpochRecord, Revision)>,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It took place as this revision.
    Done(Revision),
    /// A guard did not hold.
    Lost,
    /// It may or may not have taken place.
    Unknown,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send a commit and report its outcome.
    Commit(Vec<Guard>, Vec<Write>),
    /// Forget the commit under way; its outcome is not wanted any more.
    Abandon,
    /// We lead, at this epoch; guards name the revision.
    Lead(Epoch, Revision),
    /// We do not lead any more.
    Follow,
}

/// One candidate's state.
#[derive(Clone, Debug)]
pub(super) struct Core {
    name: NodeName,
    process: String,
    lease_time: Duration,
    wall_clock_ms: u64,
    seen: Option<Observation>,
    /// When the lease's record was last seen to change.
    changed_at: Duration,
    /// No new attempt before this.
    retry_at: Duration,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Following,
    Acquiring {
        sent_at: Duration,
        lease: LeaseRecord,
    },
    Leading {
        lease: LeaseRecord,
        /// The revision of `lease/epoch` that made us the holder.
        revision: Revision,
        /// When the last renewal that succeeded was sent.
        renewed_at: Duration,
        /// When the renewal under way was sent.
        renewing: Option<Duration>,
    },
    /// Waiting for an acquisition that a shutdown came across, or for the release.
    Ending {
        acquiring: Option<LeaseRecord>,
    },
    Ended,
}

impl Core {
    /// A candidate that has seen nothing yet.
    pub(super) fn new(name: NodeName, process: String, lease_time: Duration) -> Self {
        Self {
            name,
            process,
            lease_time,
            wall_clock_ms: 0,
            seen: None,
            changed_at: Duration::ZERO,
            retry_at: Duration::ZERO,
            state: State::Following,
        }
    }

    /// Tells the wall clock's time, which is shown as the beginning of a leadership.
    pub(super) fn set_wall_clock(&mut self, now_ms: u64) {
        self.wall_clock_ms = now_ms;
    }

    /// Whether nothing is left to do after a shutdown.
    pub(super) fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The highest epoch seen.
    pub(super) fn highest(&self) -> Epoch {
        let seen = self.seen.as_ref().and_then(|seen| seen.epoch.as_ref());
        seen.map(|(record, _)| record.epoch).unwrap_or_default()
    }

    /// When time itself will be an event.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        match &self.state {
            State::Following => {
                let takeover = self.takeover_at()?;
                Some(takeover.max(self.retry_at))
            }
            State::Leading { renewed_at, renewing, .. } => {
                let end = *renewed_at + self.lease_time * 2 / 3;
                match renewing {
                    Some(_) => Some(end),
                    None => Some((*renewed_at + self.lease_time / 3).max(self.retry_at).min(end)),
                }
            }
            State::Acquiring { .. } | State::Ending { .. } | State::Ended => None,
        }
    }

    /// Moves on.
    pub(super) fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Observed(observation) => self.observe(now, observation, &mut actions),
            Event::Committed(outcome) => self.committed(now, outcome, &mut actions),
            Event::Tick => {}
            Event::Shutdown => self.shut_down(&mut actions),
        }
        self.decide(now, &mut actions);
        actions
    }

    fn observe(&mut self, now: Duration, observation: Observation, actions: &mut Vec<Action>) {
        // What a watch brings may be older than what our own commit has told us.
        if self.seen.as_ref().is_some_and(|seen| observation.at < seen.at) {
            return;
        }
        let revision = |observation: &Observation| observation.lease.as_ref().map(|(_, revision)| *revision);
        if self.seen.as_ref().is_none_or(|seen| revision(seen) != revision(&observation)) {
            self.changed_at = now;
        }
        if let State::Leading { revision, .. } = &self.state
            && observation.epoch.as_ref().map(|(_, at)| at) != Some(revision)
        {
            self.follow(actions);
        }
        self.seen = Some(observation);
    }

    fn committed(&mut self, now: Duration, outcome: Outcome, actions: &mut Vec<Action>) {
        if !matches!(outcome, Outcome::Done(_)) {
            self.retry_at = now + self.lease_time / 12;
        }
        match (std::mem::replace(&mut self.state, State::Following), outcome) {
            (State::Acquiring { sent_at, lease }, Outcome::Done(revision)) => {
                self.note_acquired(now, &lease, revision);
                // An answer that took so long, or was overtaken by news of a successor, is worth nothing.
                let in_time = now < sent_at + self.lease_time * 2 / 3;
                let ours =
                    self.seen.as_ref().and_then(|seen| seen.epoch.as_ref()).is_some_and(|(_, at)| *at == revision);
                if in_time && ours {
                    actions.push(Action::Lead(lease.epoch, revision));
                    self.state = State::Leading { lease, revision, renewed_at: sent_at, renewing: None };
                } else {
                    self.retry_at = now + self.lease_time / 12;
                }
            }
            (State::Leading { mut lease, revision, renewing: Some(sent_at), .. }, Outcome::Done(at)) => {
                lease.counter += 1;
                if let Some(seen) = self.seen.as_mut().filter(|seen| seen.at < at) {
                    seen.at = at;
                    seen.lease = Some((lease.clone(), at));
                    self.changed_at = now;
                }
                self.state = State::Leading { lease, revision, renewed_at: sent_at, renewing: None };
            }
            (State::Leading { lease, revision, renewed_at, .. }, Outcome::Unknown) => {
                self.state = State::Leading { lease, revision, renewed_at, renewing: None };
            }
            (state @ State::Leading { .. }, _) => {
                self.state = state;
                self.follow(actions);
            }
            (State::Ending { acquiring: Some(lease) }, Outcome::Done(revision)) => {
                actions.push(release(&lease, revision));
                self.state = State::Ending { acquiring: None };
            }
            (State::Ending { .. } | State::Ended, _) => self.state = State::Ended,
            (State::Acquiring { .. } | State::Following, _) => {}
        }
    }

    /// Our own commit is an observation, too.
    fn note_acquired(&mut self, now: Duration, lease: &LeaseRecord, revision: Revision) {
        let epoch = epoch_record(lease);
        if self.seen.as_ref().is_none_or(|seen| seen.at < revision) {
            self.seen = Some(Observation {
                at: revision,
                lease: Some((lease.clone(), revision)),
                epoch: Some((epoch, revision)),
            });
            self.changed_at = now;
        }
    }

    fn shut_down(&mut self, actions: &mut Vec<Action>) {
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Acquiring { lease, .. } => State::Ending { acquiring: Some(lease) },
            State::Leading { lease, revision, renewing, .. } => {
                actions.push(Action::Follow);
                if renewing.is_some() {
                    actions.push(Action::Abandon);
                }
                actions.push(release(&lease, revision));
                State::Ending { acquiring: None }
            }
            State::Following => State::Ended,
            ending @ (State::Ending { .. } | State::Ended) => ending,
        };
    }

    /// What the time alone makes necessary.
    fn decide(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if let State::Leading { renewed_at, .. } = &self.state
            && now >= *renewed_at + self.lease_time * 2 / 3
        {
            self.follow(actions);
            // Whoever could not renew gives others the time to take over.
            self.retry_at = self.retry_at.max(now + self.lease_time / 12);
        }
        let may_take = now >= self.retry_at && self.takeover_at().is_some_and(|at| now >= at);
        match &mut self.state {
            State::Leading { lease, revision, renewed_at, renewing: renewing @ None }
                if now >= (*renewed_at + self.lease_time / 3).max(self.retry_at) =>
            {
                *renewing = Some(now);
                let renewed = LeaseRecord { counter: lease.counter + 1, ..lease.clone() };
                let guard = Guard::At(keys::LEASE_EPOCH.to_owned(), *revision);
                actions.push(Action::Commit(vec![guard], vec![put(keys::LEASE, &renewed)]));
            }
            State::Following if may_take => self.acquire(now, actions),
            _ => {}
        }
    }

    /// When the lease may be taken; `None` before the first observation.
    fn takeover_at(&self) -> Option<Duration> {
        let seen = self.seen.as_ref()?;
        Some(match &seen.lease {
            // Never given, given back, or still in our name although we do not lead.
            None => Duration::ZERO,
            Some((lease, _)) if lease.holder.is_none() || lease.process == self.process => Duration::ZERO,
            Some(_) => self.changed_at + self.lease_time,
        })
    }

    fn acquire(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(seen) = &self.seen else { return };
        let guard = |key: &str, revision: Option<Revision>| match revision {
            Some(revision) => Guard::At(key.to_owned(), revision),
            None => Guard::Absent(key.to_owned()),
        };
        let lease_epoch = seen.lease.as_ref().map(|(lease, _)| lease.epoch).unwrap_or_default();
        let lease = LeaseRecord {
            format: 1,
            holder: Some(self.name.clone()),
            process: self.process.clone(),
            epoch: lease_epoch.max(self.highest()).next(),
            counter: 0,
            since_ms: self.wall_clock_ms,
        };
        let guards = vec![
            guard(keys::LEASE, seen.lease.as_ref().map(|(_, revision)| *revision)),
            guard(keys::LEASE_EPOCH, seen.epoch.as_ref().map(|(_, revision)| *revision)),
        ];
        let writes = vec![put(keys::LEASE, &lease), put(keys::LEASE_EPOCH, &epoch_record(&lease))];
        actions.push(Action::Commit(guards, writes));
        self.state = State::Acquiring { sent_at: now, lease };
    }

    fn follow(&mut self, actions: &mut Vec<Action>) {
        if let State::Leading { renewing, .. } = std::mem::replace(&mut self.state, State::Following) {
            actions.push(Action::Follow);
            if renewing.is_some() {
                actions.push(Action::Abandon);
            }
        }
    }
}

/// Gives the lease back: nobody holds it, the epoch stays.
fn release(lease: &LeaseRecord, revision: Revision) -> Action {
    let released = LeaseRecord { holder: None, counter: lease.counter + 1, ..lease.clone() };
    Action::Commit(
        vec![Guard::At(keys::LEASE_EPOCH.to_owned(), revision)],
        vec![put(keys::LEASE, &released), put(keys::LEASE_EPOCH, &epoch_record(&released))],
    )
}

fn epoch_record(lease: &LeaseRecord) -> EpochRecord {
    EpochRecord { format: 1, epoch: lease.epoch, holder: lease.holder.clone(), process: lease.process.clone() }
}

fn put(key: &str, record: &impl serde::Serialize) -> Write {
    let value = serde_json::to_vec(record).expect("a record of strings and numbers is always JSON");
    Write::Put(key.to_owned(), Bytes::from(value))
}
