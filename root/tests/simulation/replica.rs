//! A model replica: applies the rows of its log in order, by the real leaf's rules of what fits
//! ([`trawl_cluster::fit`]).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use trawl_cluster::fit::{Fit, Standing, fit};
use trawl_cluster::shard_log::{Head, Record};
use trawl_cluster::{Error, Viewer};
use trawl_proto::v1::failure::Kind;
use trawl_proto::{Generation, Seq, ShardKey, failure, v1};

use crate::disk::Saved;
use crate::leaf::Leaf;
use crate::process::COPY_PORT;

/// Between two looks at the log.
const LOOK: Duration = Duration::from_millis(250);
/// What was applied is committed at the latest after this.
const COMMIT_INTERVAL: Duration = Duration::from_millis(1_200);
/// Before a replica that could not be made anew tries again.
const RETRY: Duration = Duration::from_millis(700);
/// For a copy.
const COPY_TIME: Duration = Duration::from_secs(10);

/// One replica that runs.
pub struct Replica {
    shard: ShardKey,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Applied, of which some is committed.
    applied: Saved,
    committed: Generation,
    serving: bool,
    open: bool,
    /// It is being made anew: it holds nothing that anybody could count on.
    empty: bool,
    broken: bool,
    head: Seq,
}

/// Why a replica does not go on from where it stands.
enum Stop {
    /// Open again and look.
    Reopen,
    /// It has to be made anew.
    Anew(String),
    /// The engine is away.
    Pause,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Trimmed { .. } => Stop::Reopen,
            _ => Stop::Pause,
        }
    }
}

impl Replica {
    pub fn new(shard: ShardKey) -> Self {
        Self { shard, state: Mutex::default() }
    }

    pub fn is_serving(&self) -> bool {
        self.state.lock().unwrap().serving
    }

    pub fn can_be_copied(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.open && !state.broken
    }

    /// Follows the log until the replica is closed.
    pub async fn run(self: Arc<Self>, leaf: Arc<Leaf>, viewer: Viewer) {
        loop {
            match self.follow(&leaf).await {
                Stop::Reopen => {}
                Stop::Pause => tokio::time::sleep(LOOK).await,
                Stop::Anew(reason) => {
                    tracing::info!(shard = %self.shard, reason, "replica is made anew");
                    *self.state.lock().unwrap() = State { empty: true, ..State::default() };
                    leaf.changed.notify_one();
                    if !self.recover(&leaf, &viewer).await {
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
    }

    async fn follow(&self, leaf: &Leaf) -> Stop {
        match self.try_follow(leaf).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn try_follow(&self, leaf: &Leaf) -> Result<std::convert::Infallible, Stop> {
        let target = self.open(leaf).await?;
        let mut pending_since = None;
        loop {
            let Some(head) = self.head(leaf).await? else { return Err(Stop::Reopen) };
            let (standing, behind) = self.standing(&head);
            let rows = match behind {
                true => leaf.engine.log.read(&self.shard, standing.at.seq, 4_096).await?,
                false => Vec::new(),
            };
            if !matches!(fit(&head, standing, rows.first()), Fit::Continues) {
                // What the log has lost must not be lost here as well.
                self.commit(leaf);
                return Err(Stop::Reopen);
            }
            if !rows.is_empty() {
                pending_since.get_or_insert_with(Instant::now);
            }
            rows.into_iter().try_for_each(|row| self.apply(row))?;
            let caught_up = self.state.lock().unwrap().applied.at.seq >= target;
            let is_due = pending_since.is_some_and(|since: Instant| since.elapsed() >= COMMIT_INTERVAL);
            if is_due || (caught_up && !self.is_serving()) {
                self.commit(leaf);
                pending_since = None;
            }
            if caught_up && !self.is_serving() {
                self.state.lock().unwrap().serving = true;
                leaf.changed.notify_one();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns where the log ended when the replica was found to continue it.
    async fn open(&self, leaf: &Leaf) -> Result<Seq, Stop> {
        loop {
            let Some(head) = self.head(leaf).await? else { return Err(Stop::Pause) };
            let saved = leaf.disk.lock().unwrap().replicas.get(&self.shard).cloned();
            let saved = match saved {
                Some(saved) => saved,
                None if head.trimmed > Seq(0) => return Err(Stop::Anew("nothing on disk".to_owned())),
                None => {
                    let at = Generation { incarnation: head.incarnation, seq: Seq(0) };
                    Saved { at, ..Saved::default() }
                }
            };
            {
                let mut state = self.state.lock().unwrap();
                (state.committed, state.open, state.empty) = (saved.at, true, false);
                state.applied = saved;
            }
            let (standing, behind) = self.standing(&head);
            let next = match behind && standing.at.seq >= head.trimmed {
                true => leaf.engine.log.read(&self.shard, standing.at.seq, 1).await?.into_iter().next(),
                false => None,
            };
            match fit(&head, standing, next.as_ref()) {
                Fit::Continues => {
                    self.state.lock().unwrap().broken = false;
                    return Ok(head.last);
                }
                Fit::Begins(incarnation) => {
                    self.state.lock().unwrap().applied.at.incarnation = incarnation;
                    self.commit(leaf);
                }
                Fit::Behind(reason) => return Err(Stop::Anew(reason)),
                Fit::Broken(reason) => {
                    tracing::info!(shard = %self.shard, reason, "the log has lost history");
                    self.state.lock().unwrap().broken = true;
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    async fn head(&self, leaf: &Leaf) -> Result<Option<Head>, Stop> {
        let heads = leaf.engine.log.heads(std::slice::from_ref(&self.shard)).await?;
        let head = heads.into_iter().next().flatten();
        if let Some(head) = &head {
            self.state.lock().unwrap().head = head.last;
        }
        Ok(head)
    }

    fn standing(&self, head: &Head) -> (Standing, bool) {
        let state = self.state.lock().unwrap();
        let standing = Standing { at: state.applied.at, chain: state.applied.chain };
        (standing, head.last > state.applied.at.seq)
    }

    fn apply(&self, row: Record) -> Result<(), Stop> {
        let saved = &mut self.state.lock().unwrap().applied;
        let links = trawl_cluster::shard_log::chain(saved.chain, row.first, &row.body) == row.chain;
        if row.first != saved.at.seq.next() || !links {
            return Err(Stop::Reopen);
        }
        saved.at = Generation { incarnation: row.incarnation, seq: row.last };
        (saved.chain, saved.mapping_version, saved.time_ms) = (row.chain, row.mapping_version, row.time_ms);
        saved.rows.push(row);
        Ok(())
    }

    fn commit(&self, leaf: &Leaf) {
        let mut state = self.state.lock().unwrap();
        // A replica that was closed meanwhile has no place on the disk any more.
        let is_open = leaf.replicas.lock().unwrap().contains_key(&self.shard);
        if is_open {
            leaf.disk.lock().unwrap().replicas.insert(self.shard.clone(), state.applied.clone());
            state.committed = state.applied.at;
        }
    }

    /// From a leaf that serves the shard; else from a log that reaches back to its start.
    async fn recover(&self, leaf: &Leaf, viewer: &Viewer) -> bool {
        let view = viewer.view();
        let serving = view.serving.get(&self.shard).cloned().unwrap_or_default();
        let sources = serving.into_iter().filter(|source| *source != leaf.name);
        let sources: Vec<_> = sources.filter(|source| view.leaf(source).is_some_and(|node| node.alive)).collect();
        for source in &sources {
            let copied = async {
                let mut wire = leaf.net.dial(&source.0, COPY_PORT).await.ok()?;
                leaf.copies.wanted.send(&mut wire, self.shard.clone()).await.ok()?;
                leaf.copies.given.receive(&mut wire).await.ok()?
            };
            if let Ok(Some(saved)) = timeout(COPY_TIME, copied).await {
                tracing::info!(shard = %self.shard, %source, at = %saved.at, "replica was copied");
                leaf.disk.lock().unwrap().replicas.insert(self.shard.clone(), saved);
                return true;
            }
        }
        if !sources.is_empty() {
            return false;
        }
        let starts = matches!(self.head(leaf).await, Ok(Some(head)) if head.trimmed == Seq(0));
        if starts {
            leaf.disk.lock().unwrap().replicas.remove(&self.shard);
        }
        starts
    }

    /// As the real leaf's status.
    pub fn status(&self) -> v1::ReplicaStatus {
        let state = self.state.lock().unwrap();
        let phase = match state.serving {
            true => v1::replica_status::State::Serving,
            false => v1::replica_status::State::Recovering,
        };
        v1::ReplicaStatus {
            shard: Some((&self.shard).into()),
            state: phase.into(),
            incarnation: state.applied.at.incarnation.0,
            applied: state.applied.at.seq.0,
            committed: state.committed.seq.0,
            documents: state.applied.rows.len() as u64,
            bytes_on_disk: state.applied.rows.len() as u64 * 100,
            head: state.head.0.max(state.applied.at.seq.0),
            chain: state.applied.chain,
            broken: state.broken,
            ..Default::default()
        }
    }

    pub fn is_broken(&self) -> bool {
        self.state.lock().unwrap().broken
    }

    /// As the real leaf's history.
    pub fn history(&self, points: bool) -> v1::HistoryResponse {
        let state = self.state.lock().unwrap();
        if state.empty {
            return v1::HistoryResponse::default();
        }
        if !state.open {
            return v1::HistoryResponse {
                failure: Some(failure(Kind::Unavailable, "the replica is not open")),
                ..Default::default()
            };
        }
        if !state.broken {
            return v1::HistoryResponse { committed: Some(state.committed.into()), ..Default::default() };
        }
        let rows = &state.applied.rows;
        let rows = v1::RowHistory {
            operations: rows.iter().map(|row| (row.last.0 + 1 - row.first.0) as u32).collect(),
            chains: rows.iter().map(|row| row.chain).collect(),
            before: 0,
        };
        v1::HistoryResponse {
            broken: true,
            committed: Some(state.committed.into()),
            chain: state.applied.chain,
            mapping_version: state.applied.mapping_version,
            time_ms: state.applied.time_ms,
            rows: points.then_some(rows),
            ..Default::default()
        }
    }
}
