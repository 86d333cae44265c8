//! The lease: the right to lead, held by one root at a time.
//!
//! The record in the store carries no time. The holder lets its counter grow every third of the lease
//! time; an observer takes over when its own monotonic clock has seen no growth for the whole of it,
//! by a commit that is guarded by what it saw last and raises the epoch. A holder that could not renew
//! for two thirds of the lease time stops leading before anyone can take over. What makes a late
//! holder harmless is not its clock, though, but the [`Fence`]: every control-plane commit is guarded
//! by `lease/epoch`, a record that changes only with the holder.

mod core;
mod driver;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trawl_proto::{Epoch, NodeName};

use crate::catalog::keys;
use crate::store::{Guard, Revision};
use crate::vital::vital;
use crate::{Error, Store};

/// The lease time unless configured otherwise. It must agree in all processes of a cluster.
pub const LEASE_TIME: Duration = Duration::from_secs(3);

/// Who competes for the lease, and how long it lasts.
#[derive(Clone, Debug)]
pub struct Config {
    /// The root's name.
    pub name: NodeName,
    /// The root's process, as in its node record.
    pub process: String,
    /// The lease time; default [`LEASE_TIME`].
    pub lease_time: Duration,
}

/// A candidate for the lease, and its holder whenever it can be.
#[derive(Debug)]
pub struct Lease {
    leading: watch::Receiver<Option<Epoch>>,
    held: watch::Receiver<Held>,
}

/// What this process knows of the lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    /// Our epoch and the revision of `lease/epoch`, while we lead.
    ours: Option<(Epoch, Revision)>,
    /// The highest epoch seen.
    highest: Epoch,
}

impl Lease {
    /// Competes for the lease until `shutdown`, then gives it back if it is held, so that another
    /// takes over at once. Spawns one task.
    pub fn run(store: Arc<dyn Store>, config: Config, shutdown: CancellationToken) -> Self {
        let (leading_sender, leading) = watch::channel(None);
        let (held_sender, held) = watch::channel(Held::default());
        let driver = driver::Driver::new(store, config, leading_sender, held_sender);
        vital("lease", driver.run(shutdown));
        Self { leading, held }
    }

    /// The epoch at which this process leads, `None` while it does not. Closes after the shutdown,
    /// when the lease has been given back.
    pub fn leading(&self) -> watch::Receiver<Option<Epoch>> {
        self.leading.clone()
    }

    /// Makes the guards of control-plane commits.
    pub fn fence(&self) -> Fence {
        Fence { held: self.held.clone() }
    }

    /// Returns when the task has ended after a shutdown and the lease has been given back.
    pub async fn stopped(&self) {
        let mut leading = self.leading.clone();
        while leading.changed().await.is_ok() {}
    }
}

/// Makes the guards "the lease is still mine at this epoch". Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fence {
    held: watch::Receiver<Held>,
}

impl Fence {
    /// The guards to add to a control-plane commit made at the epoch. The engine checks them in the
    /// commit's own transaction: [`Error::Conflict`] then names `lease/epoch`.
    ///
    /// # Errors
    /// [`Error::Fenced`] when this process knows already that it does not lead at that epoch.
    pub fn guards(&self, epoch: Epoch) -> Result<Vec<Guard>, Error> {
        let held = *self.held.borrow();
        match held.ours {
            Some((ours, revision)) if ours == epoch => Ok(vec![Guard::At(keys::LEASE_EPOCH.to_owned(), revision)]),
            _ => Err(self.refusal(epoch)),
        }
    }

    /// The error of a control-plane write at the epoch that is known to be over.
    fn refusal(&self, epoch: Epoch) -> Error {
        Error::Fenced { epoch, highest: self.held.borrow().highest }
    }

    /// What became of a commit that carried the [`Fence::guards`]: one that the engine refused because the
    /// lease is another's is [`Error::Fenced`].
    ///
    /// # Errors
    /// Those of the commit.
    pub fn judge<T>(&self, epoch: Epoch, committed: Result<T, Error>) -> Result<T, Error> {
        match committed {
            Err(Error::Conflict(Guard::At(key, _))) if key == keys::LEASE_EPOCH => Err(self.refusal(epoch)),
            other => other,
        }
    }
}
