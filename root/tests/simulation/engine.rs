//! The engine's state: the store and the logs, in memory, as their traits describe them.
//!
//! It outlives everything. Whatever it accepts is told to the checks first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use trawl_cluster::Error;
use trawl_cluster::catalog::{IndexRecord, keys};
use trawl_cluster::shard_log::{Append, Appended, Base, Head, Mark, Record, chain};
use trawl_cluster::store::{Change, Entry, Guard, Revision, Update, Write};
use trawl_proto::{Epoch, Incarnation, NodeName, Seq, ShardKey};

use crate::checks::Checks;

/// Everything that is durable in the engine.
#[derive(Default)]
pub struct Engine {
    revision: Revision,
    /// A deleted key stays without a value.
    entries: BTreeMap<String, (Option<Bytes>, Revision)>,
    pub logs: BTreeMap<ShardKey, Log>,
    fenced: Epoch,
    /// The name of a history whose logs nobody has compared with the replicas yet: nothing is appended meanwhile.
    pub new_history: Option<String>,
    pub checks: Checks,
    /// Told after every commit.
    pub wakes: Arc<Notify>,
}

/// One shard's log.
#[derive(Clone, Debug)]
pub struct Log {
    pub head: Head,
    pub rows: VecDeque<Record>,
    ids: BTreeMap<String, Appended>,
    /// All rows since the beginning of this incarnation's history, trimmed or not.
    pub history: Vec<Record>,
}

impl Engine {
    pub fn get(&self, key: &str) -> Option<Entry> {
        let (value, revision) = self.entries.get(key)?;
        Some(Entry { key: key.to_owned(), value: value.clone()?, revision: *revision })
    }

    /// What stands under a key.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_slice(&self.get(key)?.value).ok()
    }

    pub fn list(&self, prefix: &str) -> (Vec<Entry>, Revision) {
        (self.under(prefix).filter_map(|(key, _)| self.get(key)).collect(), self.revision)
    }

    fn under(&self, prefix: &str) -> impl Iterator<Item = (&String, &(Option<Bytes>, Revision))> {
        self.entries.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// What changed under a prefix since a revision; everything, if none is given.
    pub fn changes(&self, prefix: &str, after: Option<Revision>) -> Option<Change> {
        let Some(after) = after else {
            let (entries, revision) = self.list(prefix);
            return Some(Change::Snapshot(entries, revision));
        };
        let mut newer: Vec<_> = self.under(prefix).filter(|(_, (_, revision))| *revision > after).collect();
        newer.sort_by_key(|(_, (_, revision))| *revision);
        let update = |key: &String| self.get(key).map_or_else(|| Update::Deleted(key.clone()), Update::Put);
        let updates: Vec<Update> = newer.into_iter().map(|(key, _)| update(key)).collect();
        (!updates.is_empty()).then_some(Change::Changed(updates, self.revision))
    }

    pub fn commit(&mut self, by: &str, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error> {
        for guard in guards {
            let (key, expected) = match guard {
                Guard::At(key, revision) => (key, Some(*revision)),
                Guard::Absent(key) => (key, None),
            };
            if self.get(key).map(|entry| entry.revision) != expected {
                return Err(Error::Conflict(guard.clone()));
            }
        }
        let mut checks = std::mem::take(&mut self.checks);
        checks.commit(self, by, writes);
        self.checks = checks;
        self.revision.0 += 1;
        for write in writes {
            let (key, value) = match write {
                Write::Put(key, value) => (key, Some(value.clone())),
                Write::Delete(key) => (key, None),
            };
            self.entries.insert(key.clone(), (value, self.revision));
        }
        self.wakes.notify_waiters();
        Ok(self.revision)
    }

    pub fn fence(&mut self, by: &str, epoch: Epoch) -> Result<(), Error> {
        if epoch < self.fenced {
            return Err(Error::Fenced { epoch, highest: self.fenced });
        }
        self.fenced = epoch;
        self.checks.log_call(by, epoch);
        Ok(())
    }

    pub fn create(&mut self, by: &str, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error> {
        self.fence(by, epoch)?;
        for shard in shards {
            self.logs.entry(shard.clone()).or_insert_with(Log::new);
        }
        Ok(())
    }

    pub fn remove(&mut self, by: &str, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error> {
        self.fence(by, epoch)?;
        for shard in shards {
            self.logs.remove(shard);
        }
        Ok(())
    }

    pub fn trim(&mut self, by: &str, epoch: Epoch, shard: &ShardKey, seen: Mark, through: Seq) -> Result<(), Error> {
        self.fence(by, epoch)?;
        let Some(log) = self.logs.get(shard) else { return Err(Error::NoSuchLog(shard.clone())) };
        if log.head.trimmed >= through {
            return Ok(());
        }
        if log.head.incarnation != seen.incarnation {
            return Err(Error::OtherIncarnation { shard: shard.clone(), found: log.head.incarnation });
        }
        if log.head.mark() != seen && !log.rows.iter().any(|row| (row.last, row.chain) == (seen.seq, seen.chain)) {
            return Err(Error::OtherHistory { shard: shard.clone(), seq: seen.seq });
        }
        let mut checks = std::mem::take(&mut self.checks);
        checks.trim(self, shard, through);
        self.checks = checks;
        let Some(log) = self.logs.get_mut(shard) else { return Err(Error::NoSuchLog(shard.clone())) };
        while let Some(row) = log.rows.front().filter(|row| row.last <= through) {
            log.head.trimmed = row.last;
            log.head.bytes -= row.body.len() as u64;
            log.rows.pop_front();
        }
        Ok(())
    }

    pub fn append(&mut self, append: Append, now_ms: u64) -> Result<Appended, Error> {
        if self.new_history.is_some() {
            return Err(Error::Unavailable("its history is new".into()));
        }
        let Some(log) = self.logs.get_mut(&append.shard) else { return Err(Error::NoSuchLog(append.shard)) };
        if let Some(known) = append.message_id.as_ref().and_then(|id| log.ids.get(id)) {
            return Ok(Appended { duplicate: true, ..*known });
        }
        if let Some(bytes_max) = append.log_bytes_max.filter(|max| log.head.bytes >= *max) {
            return Err(Error::LogFull { shard: append.shard, bytes: log.head.bytes, bytes_max });
        }
        let appended = log.push(append.operations.into(), append.mapping_version, append.body, now_ms);
        if let Some(id) = append.message_id {
            log.ids.insert(id, appended);
        }
        Ok(appended)
    }

    pub fn rows(&self, shard: &ShardKey, after: Seq, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let Some(log) = self.logs.get(shard) else { return Err(Error::NoSuchLog(shard.clone())) };
        if after < log.head.trimmed {
            return Err(Error::Trimmed { shard: shard.clone(), trimmed: log.head.trimmed });
        }
        let mut bytes = 0;
        let fits = |row: &&Record| {
            let fits = bytes == 0 || bytes + row.body.len() <= bytes_max;
            bytes += row.body.len();
            fits
        };
        Ok(log.rows.iter().filter(|row| row.last > after).take_while(fits).cloned().collect())
    }

    /// The limit of a shard's log, where its index has one.
    pub fn log_bytes_max(&self, shard: &ShardKey) -> Option<u64> {
        let indices = self.under(keys::INDICES).filter_map(|(key, _)| self.read::<IndexRecord>(key));
        indices.filter(|index| index.uid == shard.index_uid).find_map(|index| index.log_bytes_max)
    }

    pub fn heads(&self, shards: &[ShardKey]) -> Vec<Option<Head>> {
        shards.iter().map(|shard| self.logs.get(shard).map(|log| log.head.clone())).collect()
    }

    pub fn restart(
        &mut self,
        by: &str,
        epoch: Epoch,
        shard: &ShardKey,
        from: Incarnation,
        fork: Seq,
        base: Base,
    ) -> Result<Head, Error> {
        self.fence(by, epoch)?;
        let Some(log) = self.logs.get(shard) else { return Err(Error::NoSuchLog(shard.clone())) };
        if log.head.incarnation != from {
            return Err(Error::OtherIncarnation { shard: shard.clone(), found: log.head.incarnation });
        }
        let mut checks = std::mem::take(&mut self.checks);
        let history = checks.restart(self, shard, base);
        self.checks = checks;
        let Some(log) = self.logs.get_mut(shard) else { return Err(Error::NoSuchLog(shard.clone())) };
        let old = std::mem::replace(log, Log::new());
        log.head.incarnation = from.next();
        (log.head.last, log.head.trimmed, log.head.chain) = (base.seq, base.seq, base.chain);
        (log.head.mapping_version, log.head.time_ms) = (base.mapping_version, base.time_ms);
        log.history = history;
        let mut moved = BTreeMap::new();
        for row in old.rows.into_iter().filter(|row| row.last > fork) {
            let appended = log.push(row.last.0 + 1 - row.first.0, row.mapping_version, row.body, row.time_ms);
            moved.insert(row.first, appended);
        }
        let renamed = |(id, was): (String, Appended)| {
            let now = moved.get(&was.first).copied().filter(|_| was.last > fork).unwrap_or(was);
            (id, now)
        };
        log.ids = old.ids.into_iter().map(renamed).collect();
        Ok(log.head.clone())
    }
}

impl Engine {
    /// Forgets what a leaf has on disk, if others hold it as well.
    pub fn wipe(&mut self, leaf: &NodeName) {
        let mut checks = std::mem::take(&mut self.checks);
        checks.wipe(self, leaf);
        self.checks = checks;
    }

    /// Forgets the last rows of a log, as an engine does that fails over to a standby that was behind.
    pub fn lose_tail(&mut self, shard: &ShardKey, rows: usize) {
        let Some(log) = self.logs.get_mut(shard) else { return };
        let lost: Vec<Record> = log.rows.split_off(log.rows.len().saturating_sub(rows)).into();
        log.history.truncate(log.history.len() - lost.len());
        log.head.bytes -= lost.iter().map(|row| row.body.len() as u64).sum::<u64>();
        if let Some(first) = lost.first() {
            log.ids.retain(|_, appended| appended.first < first.first);
            log.head.last = Seq(first.first.0 - 1);
            log.head.chain = log.history.last().map_or(0, |row| row.chain);
        }
        self.checks.lost(shard, &lost);
        self.new_history = Some("another".to_owned());
    }

    pub fn accept_history(&mut self, by: &str, epoch: Epoch) -> Result<(), Error> {
        self.fence(by, epoch)?;
        self.new_history = None;
        Ok(())
    }
}

impl Log {
    fn new() -> Self {
        let head = Head {
            incarnation: Incarnation(1),
            last: Seq(0),
            chain: 0,
            trimmed: Seq(0),
            mapping_version: 1,
            bytes: 0,
            time_ms: 0,
        };
        Self { head, rows: VecDeque::new(), ids: BTreeMap::new(), history: Vec::new() }
    }

    fn push(&mut self, operations: u64, mapping_version: u64, body: Bytes, now_ms: u64) -> Appended {
        let head = &mut self.head;
        let (first, last) = (head.last.next(), Seq(head.last.0 + operations));
        head.chain = chain(head.chain, first, &body);
        head.last = last;
        head.mapping_version = head.mapping_version.max(mapping_version);
        head.time_ms = head.time_ms.max(now_ms);
        head.bytes += body.len() as u64;
        let row = Record {
            incarnation: head.incarnation,
            first,
            last,
            mapping_version: head.mapping_version,
            apply_version: 1,
            time_ms: head.time_ms,
            chain: head.chain,
            body,
        };
        self.rows.push_back(row.clone());
        self.history.push(row);
        Appended { incarnation: head.incarnation, first, last, duplicate: false }
    }
}
