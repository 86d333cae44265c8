//! Repairs logs that lost history: an engine restored from a backup, or failed over to a standby that
//! was behind.
//!
//! Every replica compares the log with what it holds, and says so when the log lost some of it
//! (`Broken`). Then a new incarnation of the log begins behind the most advanced of them: the rows that
//! were acknowledged since the loss go along, behind everything that was applied before. That replica
//! goes on; those that stand elsewhere copy from it.
//!
//! Nothing is remembered but since when a log is known to be broken: a leader that takes over asks
//! again. The repair itself is one fenced transaction of the log.

mod decide;
mod fork;
pub(super) mod history;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::future::join_all;
use tokio::time::Instant;
use trawl_cluster::shard_log::{Base, Head};
use trawl_cluster::view::View;
use trawl_cluster::{Error, outage};
use trawl_proto::{Epoch, Generation, Incarnation, NodeName, Seq, ShardKey, v1};

use self::decide::{Decision, Report, decide};
use self::fork::{Fork, Search, Step};
use self::history::NewHistory;
use super::fenced;
use crate::leaf_client::LeafClient;
use crate::root::Root;

/// Bytes of the log read at a time in search of the fork.
const READ_BYTES: usize = 4 << 20;

/// Looks for broken logs and repairs them, for as long as the epoch lasts; returns only when it is over.
pub(super) async fn run(root: &Root, epoch: Epoch) {
    let mut repairer = Repairer { root, epoch, since: HashMap::new(), new_history: None };
    loop {
        tokio::time::sleep(root.config.lead.repair_interval).await;
        match repairer.round().await {
            Ok(()) => {}
            Err(Error::Fenced { .. }) => return,
            Err(error) => outage::warn(&error, "logs cannot be repaired now"),
        }
    }
}

struct Repairer<'a> {
    root: &'a Root,
    epoch: Epoch,
    /// Since when logs are known to be broken.
    since: HashMap<ShardKey, Instant>,
    /// The engine's history while it is new.
    new_history: Option<NewHistory>,
}

impl Repairer<'_> {
    async fn round(&mut self) -> Result<(), Error> {
        let view = self.root.viewer.view();
        if !view.unreadable.is_empty() {
            return Ok(());
        }
        self.look_at_history(&view).await?;
        let broken = self.broken(&view).await;
        self.since.retain(|shard, _| broken.contains(shard));
        for shard in broken {
            let since = *self.since.entry(shard.clone()).or_insert_with(Instant::now);
            self.repair(&view, &shard, since).await?;
        }
        Ok(())
    }

    /// The shards of which any replica says that its log lost history.
    async fn broken(&self, view: &View) -> BTreeSet<ShardKey> {
        let clients = view.leaves().filter(|node| node.alive).filter_map(|node| self.root.leaves.client(&node.record));
        let timeout = self.root.config.leaves.status_timeout;
        let calls = clients.map(|client| async move { client.broken(v1::BrokenRequest {}, timeout).await });
        let shards = join_all(calls).await.into_iter().flatten().flat_map(|answer| answer.shards);
        let assigned =
            |shard: &ShardKey| view.uids.contains_key(&shard.index_uid) && view.assignments.contains_key(shard);
        shards.map(ShardKey::from).filter(assigned).collect()
    }

    /// 1. A log that is gone altogether is made again, empty.
    /// 2. Decide on what all replicas say.
    /// 3. Find the fork, and begin the new incarnation.
    async fn repair(&self, view: &View, shard: &ShardKey, since: Instant) -> Result<(), Error> {
        let log = &self.root.engine.log;
        let Some(head) = log.heads(std::slice::from_ref(shard)).await?.into_iter().next().flatten() else {
            tracing::warn!(%shard, "the log is gone and is made again");
            return fenced::create_logs(self.root, self.epoch, vec![shard.clone()]).await;
        };
        let reports = self.reports(view, shard).await;
        let base = match decide(head.incarnation, &reports, since.elapsed(), &self.root.config.lead) {
            Decision::Take(leaf) => leaf,
            Decision::Wait => {
                tracing::info!(%shard, ?reports, "the log has lost history, others may still report");
                return Ok(());
            }
            Decision::Nothing => return Ok(()),
        };
        let Some(history) = self.history(view, shard, &base, Some(&head)).await.filter(|history| history.broken) else {
            return Ok(());
        };
        let Some(fork) = self.fork(shard, &head, &history).await? else {
            tracing::error!(%shard, leaf = %base, "the replica's history cannot be understood");
            return Ok(());
        };
        let highest = reports.values().filter_map(|report| match report {
            Report::Broken(at) => Some(at.incarnation),
            _ => None,
        });
        let highest = highest.max().unwrap_or_default();
        self.restart(shard, &head, highest, fork, &history, &base).await
    }

    async fn reports(&self, view: &View, shard: &ShardKey) -> BTreeMap<NodeName, Report> {
        let leaves = view.assignments.get(shard).map_or(&[][..], |assignment| &assignment.leaves);
        let reports = leaves.iter().map(|leaf| async move {
            let report = match self.history(view, shard, leaf, None).await {
                Some(v1::HistoryResponse { broken: true, committed: Some(at), .. }) => Report::Broken(at.into()),
                Some(_) => Report::Fits,
                None => Report::Silent,
            };
            (leaf.clone(), report)
        });
        join_all(reports).await.into_iter().collect()
    }

    /// What one leaf says of its replica, with the points in reach of a head where one is given; `None` when
    /// it says nothing.
    async fn history(
        &self,
        view: &View,
        shard: &ShardKey,
        leaf: &NodeName,
        points: Option<&Head>,
    ) -> Option<v1::HistoryResponse> {
        let node = view.leaf(leaf).filter(|node| node.alive)?;
        let client: std::sync::Arc<LeafClient> = self.root.leaves.client(&node.record)?;
        let (after, through) = points.map_or((0, 0), |head| (head.trimmed.0, head.last.0));
        let request = v1::HistoryRequest { shard: Some(shard.into()), points: points.is_some(), after, through };
        let answer = client.history(request, self.root.config.leaves.status_timeout).await;
        answer.ok().filter(|history| history.failure.is_none())
    }

    /// The last operation that log and replica share.
    async fn fork(&self, shard: &ShardKey, head: &Head, history: &v1::HistoryResponse) -> Result<Option<Seq>, Error> {
        let Some(mut search) = Search::new(head, history) else { return Ok(None) };
        let mut after = search.after();
        loop {
            let rows = self.root.engine.log.read(shard, after, READ_BYTES).await?;
            let step = rows.iter().map(|row| search.see(row)).find(|step| *step != Step::Next);
            after = match (step, rows.last()) {
                (None, Some(row)) => row.last,
                (Some(Step::Again), _) => search.after(),
                _ => break,
            };
        }
        Ok(Some(match search.fork() {
            Fork::At(seq) => seq,
            Fork::InTime(seq) => {
                tracing::error!(%shard, fork = %seq, "the log has lost more rows than the replica remembers: what was \
                    acknowledged since is told by the log's time");
                seq
            }
        }))
    }

    /// Begins an incarnation that is later than all that any replica has seen.
    async fn restart(
        &self,
        shard: &ShardKey,
        head: &Head,
        highest: Incarnation,
        fork: Seq,
        history: &v1::HistoryResponse,
        leaf: &NodeName,
    ) -> Result<(), Error> {
        let at = history.committed.map(Generation::from).unwrap_or_default();
        let base = Base {
            seq: at.seq,
            chain: history.chain,
            mapping_version: history.mapping_version,
            time_ms: history.time_ms,
        };
        let (mut from, mut fork) = (head.incarnation, fork);
        loop {
            let (epoch, log, key) = (self.epoch, self.root.engine.log.clone(), shard.clone());
            let restart = async move { log.restart(epoch, &key, from, fork, base).await };
            match fenced::carry(self.root, "restart-log", restart).await {
                Ok(begun) => {
                    tracing::warn!(%shard, incarnation = %begun.incarnation, base = %at, %leaf, %fork,
                        log_ended_at = %head.last, appended_again = begun.last.0 - begun.trimmed.0,
                        "the log has lost history: a new incarnation began behind what a replica holds");
                    self.root.metrics.incarnations_begun.inc();
                    if begun.incarnation > highest {
                        return Ok(());
                    }
                    (from, fork) = (begun.incarnation, base.seq);
                }
                // Somebody was here before; the replicas will see.
                Err(Error::OtherIncarnation { found, .. }) => {
                    tracing::info!(%shard, %found, "the log was repaired already");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}
