//! Carries out what the lease's core decides: follows the records, keeps the time, sends the commits.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_proto::Epoch;
use trawl_proto::clock::unix_ms;

use super::core::{Action, Core, Event, Observation, Outcome};
use super::{Config, Held};
use crate::catalog::{Record, decode, keys};
use crate::store::{Change, Entry, Revision, Update};
use crate::{Error, Store, outage};

/// How long giving the lease back may take at a shutdown.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The task behind a [`Lease`](super::Lease).
pub(super) struct Driver {
    store: Arc<dyn Store>,
    core: Core,
    name: String,
    started: Instant,
    /// The records as the watch brought them.
    observed: Observation,
    under_way: Option<BoxFuture<'static, Result<Revision, Error>>>,
    leading: watch::Sender<Option<Epoch>>,
    held: watch::Sender<Held>,
}

impl Driver {
    pub(super) fn new(
        store: Arc<dyn Store>,
        config: Config,
        leading: watch::Sender<Option<Epoch>>,
        held: watch::Sender<Held>,
    ) -> Self {
        Self {
            store,
            name: config.name.to_string(),
            core: Core::new(config.name, config.process, config.lease_time),
            started: Instant::now(),
            observed: Observation::default(),
            under_way: None,
            leading,
            held,
        }
    }

    /// Runs until the lease is given back after `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.store.watch(keys::LEASES);
        let mut give_up: Option<Instant> = None;
        while !self.core.ended() {
            let wake = self.core.next_wake().map(|wake| self.started + wake);
            let event = tokio::select! {
                biased;
                outcome = finished(&mut self.under_way) => {
                    self.under_way = None;
                    Event::Committed(self.outcome(outcome))
                }
                () = shutdown.cancelled(), if give_up.is_none() => {
                    give_up = Some(Instant::now() + RELEASE_TIMEOUT);
                    Event::Shutdown
                }
                change = changes.next() => match change {
                    Some(change) => self.observe(change),
                    None => return,
                },
                () = sleep_until(wake) => Event::Tick,
                () = sleep_until(give_up) => {
                    tracing::warn!(node = self.name, "could not give the lease back in time");
                    return;
                }
            };
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        self.core.set_wall_clock(unix_ms());
        let on_purpose = matches!(event, Event::Shutdown);
        for action in self.core.step(self.started.elapsed(), event) {
            match action {
                Action::Commit(guards, writes) => {
                    let store = self.store.clone();
                    self.under_way = Some(Box::pin(async move { store.commit(&guards, &writes).await }));
                }
                Action::Abandon => self.under_way = None,
                Action::Lead(epoch, revision) => {
                    tracing::info!(node = self.name, %epoch, "leading");
                    self.tell(Some((epoch, revision)));
                }
                Action::Follow => {
                    match on_purpose {
                        true => tracing::info!(node = self.name, "not leading any more"),
                        false => tracing::warn!(node = self.name, "not leading any more: the lease is lost"),
                    }
                    self.tell(None);
                }
            }
        }
        let highest = self.core.highest();
        self.held.send_if_modified(|held| std::mem::replace(&mut held.highest, highest) != highest);
    }

    fn tell(&mut self, ours: Option<(Epoch, Revision)>) {
        // Guards first: who hears of a leadership must be able to act on it.
        self.held.send_modify(|held| held.ours = ours);
        self.leading.send_replace(ours.map(|(epoch, _)| epoch));
    }

    fn outcome(&self, outcome: Result<Revision, Error>) -> Outcome {
        match outcome {
            Ok(revision) => Outcome::Done(revision),
            Err(Error::Conflict(_)) => Outcome::Lost,
            Err(error) => {
                outage::warn(&error, format_args!("{} cannot commit to the lease", self.name));
                Outcome::Unknown
            }
        }
    }

    fn observe(&mut self, change: Change) -> Event {
        let (updates, at) = match change {
            Change::Snapshot(entries, revision) => {
                self.observed = Observation::default();
                (entries.into_iter().map(Update::Put).collect(), revision)
            }
            Change::Changed(updates, revision) => (updates, revision),
        };
        for update in updates {
            match update {
                Update::Put(entry) if entry.key == keys::LEASE => self.observed.lease = read(&entry),
                Update::Put(entry) if entry.key == keys::LEASE_EPOCH => self.observed.epoch = read(&entry),
                Update::Deleted(key) if key == keys::LEASE => self.observed.lease = None,
                Update::Deleted(key) if key == keys::LEASE_EPOCH => self.observed.epoch = None,
                Update::Put(_) | Update::Deleted(_) => {}
            }
        }
        self.observed.at = at;
        Event::Observed(self.observed.clone())
    }
}

fn read<T: Record>(entry: &Entry) -> Option<(T, Revision)> {
    match decode(&entry.key, &entry.value) {
        Ok(record) => Some((record, entry.revision)),
        Err(error) => {
            // Taken for absent, the record's guard keeps us from overwriting what a newer version wrote.
            tracing::error!(key = entry.key, %error, "the lease cannot be understood");
            None
        }
    }
}

async fn finished(under_way: &mut Option<BoxFuture<'static, Result<Revision, Error>>>) -> Result<Revision, Error> {
    match under_way {
        Some(commit) => commit.await,
        None => pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}
