//! Membership: a node's record in the store, whose counter grows while the process lives.
//!
//! The newest process of a name wins: an older one notices at its next beat that its record was
//! taken over, and stops beating. At a clean shutdown the record is removed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::{NodeRecord, decode, keys};
use crate::store::{Guard, Revision, Write};
use crate::vital::vital;
use crate::{Error, Speaks, Store, outage, protocol};

/// How long the removal of the record at a clean shutdown may take.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(1);

/// A registered node. Dropping it does not deregister; the shutdown token does.
#[derive(Debug)]
pub struct Membership {
    state: watch::Receiver<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Beating,
    Replaced,
    Stopped,
}

impl Membership {
    /// Writes the record, if the node may take part, and keeps its counter growing every third of the lease
    /// time, until `shutdown`; then removes the record. Spawns one task.
    ///
    /// # Errors
    /// When the record cannot be written at first; [`Error::Refused`] for a node that does not speak the
    /// cluster's protocol. Later failures are retried for ever.
    pub async fn register(
        store: Arc<dyn Store>,
        record: NodeRecord,
        lease_time: Duration,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let key = keys::node(record.role, &record.name);
        let revision = join(&*store, &key, &record).await?;
        let (sender, state) = watch::channel(State::Beating);
        let mut heart = Heart { store, key, record, revision: Some(revision) };
        vital("membership", async move {
            let replaced = shutdown.run_until_cancelled(heart.beat(lease_time / 3)).await.is_some();
            if replaced {
                tracing::error!(node = %heart.record.name, "another process has registered under this name");
                sender.send_replace(State::Replaced);
                return;
            }
            if tokio::time::timeout(DEREGISTER_TIMEOUT, heart.deregister()).await.is_err() {
                tracing::warn!(node = %heart.record.name, "could not deregister in time");
            }
            sender.send_replace(State::Stopped);
        });
        Ok(Self { state })
    }

    /// Returns when another process has registered under the same name (never, if none does).
    pub async fn replaced(&self) {
        if self.state.clone().wait_for(|state| *state == State::Replaced).await.is_err() {
            std::future::pending().await
        }
    }

    /// Returns when the node has left after a shutdown (at once, if it was replaced).
    pub async fn stopped(&self) {
        let _ = self.state.clone().wait_for(|state| *state != State::Beating).await;
    }
}

/// Writes the record of a node that may take part. The protocol may be raised meanwhile, so it is looked at again then.
async fn join(store: &dyn Store, key: &str, record: &NodeRecord) -> Result<Revision, Error> {
    loop {
        let guard = protocol::admit(store, Speaks::of(record)).await?;
        match store.commit(&[guard], &[Write::Put(key.to_owned(), encode(record))]).await {
            Err(Error::Conflict(_)) => {}
            other => return other,
        }
    }
}

/// The task behind a [`Membership`].
struct Heart {
    store: Arc<dyn Store>,
    key: String,
    record: NodeRecord,
    /// The revision that holds our record; `None` when it was removed by someone.
    revision: Option<Revision>,
}

impl Heart {
    /// Returns when another process has taken the name.
    async fn beat(&mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            match self.beat_once().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    outage::warn(&error, format_args!("cannot renew the membership of {}", self.record.name));
                }
            }
        }
    }

    /// False when the name is another's.
    async fn beat_once(&mut self) -> Result<bool, Error> {
        self.record.counter += 1;
        let guard = match self.revision {
            Some(revision) => Guard::At(self.key.clone(), revision),
            None => Guard::Absent(self.key.clone()),
        };
        match self.store.commit_unhurried(&[guard], &[Write::Put(self.key.clone(), encode(&self.record))]).await {
            Ok(revision) => {
                self.revision = Some(revision);
                Ok(true)
            }
            Err(Error::Conflict(_)) => self.look().await,
            Err(error) => Err(error),
        }
    }

    /// After a conflict: a commit whose answer was lost, a removed record, or another process.
    async fn look(&mut self) -> Result<bool, Error> {
        let entry = self.store.get(&self.key).await?;
        self.revision = entry.as_ref().map(|entry| entry.revision);
        Ok(entry.is_none_or(|entry| {
            decode::<NodeRecord>(&entry.key, &entry.value).is_ok_and(|found| found.process == self.record.process)
        }))
    }

    async fn deregister(&mut self) {
        // A beat may have been cut off by the shutdown, so the revision is looked up again.
        let removed = async {
            if self.look().await?
                && let Some(revision) = self.revision
            {
                self.store.commit(&[Guard::At(self.key.clone(), revision)], &[Write::Delete(self.key.clone())]).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = removed.await {
            tracing::warn!(node = %self.record.name, error = &error as &dyn std::error::Error, "could not deregister");
        }
    }
}

fn encode(record: &NodeRecord) -> Bytes {
    serde_json::to_vec(record).expect("a record of strings and numbers is always JSON").into()
}
