//! The writes of the control plane, to the store and to the logs.
//!
//! A root may be paused, or cut off, between deciding and writing, and another may lead by the time the write
//! reaches the engine. The engine refuses it then, whatever it writes to. So that a refusal is always heard,
//! a write is carried to its end also when this root has found out meanwhile that it leads no more: it is
//! counted and logged, and the leader that hears of it stops.

use std::path::Path;
use std::time::Duration;

use trawl_cluster::Error;
use trawl_cluster::shard_log::Mark;
use trawl_cluster::store::{Guard, Revision, Write};
use trawl_proto::{Epoch, Seq, ShardKey};

use super::Leader;
use crate::root::Root;

/// Between two looks whether a write that is held back may go.
const HOLD_PAUSE: Duration = Duration::from_millis(10);

impl Leader<'_> {
    /// Commits to the store if the guards hold and the lease is still ours.
    pub(super) async fn commit(
        &self,
        what: &'static str,
        mut guards: Vec<Guard>,
        writes: Vec<Write>,
    ) -> Result<Revision, Error> {
        let (epoch, fence, store) = (self.epoch, self.fence.clone(), self.root.engine.store.clone());
        // First, so that it is the one that a refusal names.
        guards.splice(0..0, fence.guards(epoch)?);
        carry(self.root, what, async move { fence.judge(epoch, store.commit(&guards, &writes).await) }).await
    }

    /// Refuses the late calls of predecessors.
    pub(super) async fn fence_logs(&self) -> Result<(), Error> {
        let (epoch, log) = (self.epoch, self.root.engine.log.clone());
        carry(self.root, "fence-logs", async move { log.fence(epoch).await }).await
    }

    /// Makes logs; those that are there stay.
    pub(super) async fn create_logs(&self, shards: Vec<ShardKey>) -> Result<(), Error> {
        create_logs(self.root, self.epoch, shards).await
    }

    /// Removes logs with all they hold.
    pub(super) async fn remove_logs(&self, shards: Vec<ShardKey>) -> Result<(), Error> {
        let (epoch, log) = (self.epoch, self.root.engine.log.clone());
        carry(self.root, "remove-logs", async move { log.remove(epoch, &shards).await }).await
    }
}

/// Makes logs; those that are there stay.
pub(super) async fn create_logs(root: &Root, epoch: Epoch, shards: Vec<ShardKey>) -> Result<(), Error> {
    let log = root.engine.log.clone();
    carry(root, "create-logs", async move { log.create(epoch, &shards).await }).await
}

/// Trims a log.
pub(super) async fn trim(root: &Root, epoch: Epoch, shard: &ShardKey, seen: Mark, through: Seq) -> Result<(), Error> {
    let (log, shard) = (root.engine.log.clone(), shard.clone());
    carry(root, "trim", async move { log.trim(epoch, &shard, seen, through).await }).await
}

/// Carries a write to its end, in a task of its own: who leads no more is not there to hear what became of it.
pub(super) async fn carry<T: Send + 'static>(
    root: &Root,
    what: &'static str,
    write: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let (name, refused) = (root.config.name.clone(), root.metrics.fenced.clone());
    let hold = root.config.lead.inject_hold.clone();
    let carried = tokio::spawn(async move {
        if let Some(file) = hold {
            held_back(&file, what).await;
        }
        let result = write.await;
        if let Err(error @ Error::Fenced { .. }) = &result {
            refused.inc();
            tracing::warn!(node = %name, what, %error, "refused by the engine: another root leads");
        }
        result
    });
    carried.await.unwrap_or_else(|error| Err(Error::Unavailable(Box::new(error))))
}

/// For tests: waits while the file is there and has the name of the write in it; `FILE.held` tells that it waits.
async fn held_back(file: &Path, what: &str) {
    let is_held = || std::fs::read_to_string(file).is_ok_and(|names| names.split_whitespace().any(|name| name == what));
    while is_held() {
        let _ = std::fs::write(file.with_extension("held"), what);
        tokio::time::sleep(HOLD_PAUSE).await;
    }
}
