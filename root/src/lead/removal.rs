//! Removes what is left of a deleted index.

use trawl_cluster::Error;
use trawl_cluster::catalog::keys;
use trawl_cluster::store::{Revision, Write};
use trawl_proto::{IndexUid, ShardKey};

use super::Leader;

/// Keys removed in one commit.
const KEYS_MAX: usize = 500;

impl Leader<'_> {
    /// 1. Assignments, serving records and skips, so that leaves let go.
    /// 2. The logs.
    /// 3. The mappings, last: as long as one is there, the next leader knows that something is left.
    pub(super) async fn remove(&self, index_uid: &IndexUid, shards: &[ShardKey]) -> Result<Revision, Error> {
        tracing::info!(%index_uid, "removing what is left of a deleted index");
        let under = |prefix: &str| format!("{prefix}{index_uid}/");
        self.remove_keys(&under(keys::ASSIGNMENTS)).await?;
        self.remove_keys(&under(keys::SERVING)).await?;
        self.remove_keys(&under(keys::SKIPS)).await?;
        self.remove_logs(shards.to_vec()).await?;
        self.remove_keys(&under(keys::MAPPINGS)).await
    }

    async fn remove_keys(&self, prefix: &str) -> Result<Revision, Error> {
        let (entries, mut revision) = self.root.engine.store.list(prefix).await?;
        for entries in entries.chunks(KEYS_MAX) {
            let writes: Vec<_> = entries.iter().map(|entry| Write::Delete(entry.key.clone())).collect();
            revision = self.commit("remove", Vec::new(), writes).await?;
        }
        Ok(revision)
    }
}
