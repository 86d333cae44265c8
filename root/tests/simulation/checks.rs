//! What must never happen, looked at whenever the engine accepts something.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use trawl_cluster::catalog::{AssignmentRecord, EpochRecord, keys};
use trawl_cluster::shard_log::{Base, Record};
use trawl_cluster::store::Write;
use trawl_proto::{Epoch, NodeName, Seq, ShardKey};

use crate::disk::Disk;
use crate::engine::{Engine, Log};
use crate::trace;

/// How long what a leaf said before it lost its disk may still be acted on.
const WIPED_MS: u64 = 5_000;

/// The number that a batch carries.
pub fn number_of(row: &Record) -> u64 {
    row.body.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

/// What the checks remember.
#[derive(Default)]
pub struct Checks {
    pub now_ms: u64,
    pub violations: Vec<String>,
    /// Which process led at an epoch.
    leaders: BTreeMap<Epoch, String>,
    /// What every leaf has on disk.
    pub disks: BTreeMap<NodeName, Arc<Mutex<Disk>>>,
    /// When a leaf's disk was lost.
    wiped: BTreeMap<NodeName, u64>,
    /// Batches that the engine has lost: whether any replica had them on disk then.
    lost: BTreeMap<u64, bool>,
    /// Control-plane writes that were accepted.
    pub accepted: u64,
    /// Trims that were accepted.
    pub trims: u64,
}

impl Checks {
    pub fn violation(&mut self, text: String) {
        trace::note(format!("VIOLATION {text}"));
        self.violations.push(format!("at {} ms: {text}", self.now_ms));
    }

    /// How many epochs there were.
    pub fn epochs(&self) -> usize {
        self.leaders.len()
    }

    /// Before a commit takes place.
    pub fn commit(&mut self, engine: &Engine, by: &str, writes: &[Write]) {
        let held: Option<EpochRecord> = engine.read(keys::LEASE_EPOCH);
        for write in writes {
            let (key, value) = match write {
                Write::Put(key, value) => (key, Some(value)),
                Write::Delete(key) => (key, None),
            };
            if key == keys::LEASE_EPOCH {
                let new = value.and_then(|value| serde_json::from_slice::<EpochRecord>(value).ok());
                self.lease(by, held.as_ref(), new);
            } else if key.starts_with(keys::ASSIGNMENTS) || key.starts_with(keys::SKIPS) {
                self.control(by, held.as_ref(), key, value.map(|value| &value[..]));
            }
            if let Some(value) = value.filter(|_| key.starts_with(keys::ASSIGNMENTS)) {
                self.assignment(engine, key, value);
            }
        }
    }

    /// Epochs only grow, and each is of one process.
    fn lease(&mut self, by: &str, old: Option<&EpochRecord>, new: Option<EpochRecord>) {
        let Some(new) = new else { return self.violation(format!("{by} removed the epoch")) };
        trace::note(format!("lease: epoch {} holder {:?} {}", new.epoch, new.holder, new.process));
        if new.process != by {
            self.violation(format!("{by} gave the lease to {}", new.process));
        }
        if let Some(old) = old
            && (new.epoch < old.epoch || (new.epoch == old.epoch && new.process != old.process))
        {
            self.violation(format!("epoch {} of {} came after {} of {}", new.epoch, by, old.epoch, old.process));
        }
        if self.leaders.entry(new.epoch).or_insert_with(|| by.to_owned()) != by {
            self.violation(format!("{by} leads at epoch {}, too", new.epoch));
        }
    }

    /// Only the holder writes, and only at its epoch.
    fn control(&mut self, by: &str, held: Option<&EpochRecord>, key: &str, value: Option<&[u8]>) {
        self.accepted += 1;
        let shown = value.map(String::from_utf8_lossy);
        trace::note(format!("accepted from {by}: {key} = {shown:?}"));
        let Some(held) = held.filter(|held| held.holder.is_some() && held.process == by) else {
            return self.violation(format!("{by} wrote {key} while the lease was {held:?}"));
        };
        let of_epoch = value.and_then(|value| serde_json::from_slice::<u64>(value).ok());
        if of_epoch.is_some_and(|epoch| epoch != held.epoch.0) {
            self.violation(format!("{by} wrote {key} for epoch {of_epoch:?} at {}", held.epoch));
        }
    }

    /// A fenced call of the log: only the process that had the epoch makes it.
    pub fn log_call(&mut self, by: &str, epoch: Epoch) {
        if self.leaders.get(&epoch).is_none_or(|leader| leader != by) {
            let leader = self.leaders.get(&epoch).cloned();
            self.violation(format!("{by} called the log at epoch {epoch} of {leader:?}"));
        }
    }

    /// After a change of an assignment somebody assigned still has what the log has not.
    fn assignment(&mut self, engine: &Engine, key: &str, value: &[u8]) {
        let Ok(record) = serde_json::from_slice::<AssignmentRecord>(value) else { return };
        let mut names = record.leaves.clone();
        names.sort();
        names.dedup();
        if names.len() != record.leaves.len() {
            self.violation(format!("{key} names a leaf twice: {:?}", record.leaves));
        }
        let Some((shard, log)) = engine.logs.iter().find(|(shard, _)| keys::assignment(shard) == key) else {
            return self.violation(format!("{key} was written before there was a log"));
        };
        if log.head.trimmed > Seq(0)
            && !record.leaves.iter().any(|leaf| self.holds(engine, leaf, shard, log.head.trimmed))
        {
            self.violation(format!("{key} = {:?}: none of them holds what was trimmed", record.leaves));
        }
    }

    /// Whether a leaf has on disk what a log had through a seq.
    fn holds(&self, engine: &Engine, leaf: &NodeName, shard: &ShardKey, through: Seq) -> bool {
        let (Some(disk), Some(log)) = (self.disks.get(leaf), engine.logs.get(shard)) else { return false };
        let disk = disk.lock().unwrap();
        let Some(saved) = disk.replicas.get(shard) else { return false };
        // A chain value tells of all rows before it.
        let Some(end) = log.history.iter().rev().find(|row| row.last <= through) else { return true };
        saved.rows.iter().rev().any(|row| row.last == end.last && row.chain == end.chain)
    }

    /// A log may be trimmed when every assigned leaf has what goes; a large one, when any has it.
    pub fn trim(&mut self, engine: &Engine, shard: &ShardKey, through: Seq) {
        let Some(log) = engine.logs.get(shard) else { return };
        let Some(assignment) = engine.read::<AssignmentRecord>(&keys::assignment(shard)) else {
            return self.violation(format!("the log of {shard} was trimmed and is not assigned"));
        };
        self.trims += 1;
        let large = engine.log_bytes_max(shard).is_some_and(|bytes_max| log.head.bytes >= bytes_max / 2);
        // A disk that was lost a moment ago was there when the leader asked.
        let was_there = |leaf: &NodeName| self.wiped.get(leaf).is_some_and(|at| at + WIPED_MS > self.now_ms);
        let lacks = |leaf: &&NodeName| !self.holds(engine, leaf, shard, through) && !was_there(leaf);
        let without: Vec<_> = assignment.leaves.iter().filter(lacks).collect();
        trace::note(format!(
            "trim {shard} through {through} of {}, large: {large}, without: {without:?}",
            log.head.last
        ));
        let lost = without.len() == assignment.leaves.len();
        if lost || (!large && !without.is_empty()) {
            self.violation(format!("the log of {shard} was trimmed through {through}, which {without:?} still needs"));
        }
    }

    /// Forgets a leaf's disk, if others hold what the logs have not.
    pub fn wipe(&mut self, engine: &Engine, leaf: &NodeName) {
        let is_held = |(shard, log): (&ShardKey, &Log)| {
            let trimmed = log.head.trimmed;
            let is_recent = |other: &NodeName| self.wiped.get(other).is_some_and(|at| at + WIPED_MS > self.now_ms);
            // What is left on a leaf that is not assigned any more goes as soon as the leaf hears of it.
            let assignment: Option<AssignmentRecord> = engine.read(&keys::assignment(shard));
            let others = assignment.into_iter().flat_map(|assignment| assignment.leaves).filter(|other| other != leaf);
            let mut others = others.filter(|other| !is_recent(other));
            trimmed == Seq(0) || others.any(|other| self.holds(engine, &other, shard, trimmed))
        };
        if engine.logs.iter().all(is_held) {
            trace::note(format!("the disk of {leaf} is lost"));
            self.wiped.insert(leaf.clone(), self.now_ms);
            if let Some(disk) = self.disks.get(leaf) {
                disk.lock().unwrap().replicas.clear();
            }
        }
    }

    /// Whether a disk was lost a moment ago.
    pub fn lost_a_disk(&self) -> bool {
        self.wiped.values().any(|at| at + WIPED_MS > self.now_ms)
    }

    /// Notes rows that the engine has lost.
    pub fn lost(&mut self, shard: &ShardKey, rows: &[Record]) {
        for row in rows {
            let is_on = |disk: &Arc<Mutex<Disk>>| {
                let disk = disk.lock().unwrap();
                disk.replicas.get(shard).is_some_and(|saved| saved.rows.iter().any(|kept| kept.body == row.body))
            };
            let is_held = self.disks.values().any(is_on);
            trace::note(format!("the engine lost {} of {shard}, on any disk: {is_held}", row.last));
            self.lost.insert(number_of(row), is_held);
        }
    }

    /// Whether the engine has lost a batch, and whether any replica had it on disk then.
    pub fn was_lost(&self, number: u64) -> Option<bool> {
        self.lost.get(&number).copied()
    }

    /// The rows behind which a new incarnation begins: those of the replica that was taken.
    pub fn restart(&mut self, engine: &Engine, shard: &ShardKey, base: Base) -> Vec<Record> {
        let _ = engine;
        trace::note(format!("restart {shard} behind {}", base.seq));
        let fits = |disk: &Arc<Mutex<Disk>>| {
            let disk = disk.lock().unwrap();
            let saved = disk.replicas.get(shard)?;
            (saved.at.seq == base.seq && saved.chain == base.chain).then(|| saved.rows.clone())
        };
        let found = self.disks.values().find_map(fits);
        if found.is_none() && base.seq > Seq(0) {
            self.violation(format!("the new incarnation of {shard} begins behind {}, which nobody holds", base.seq));
        }
        found.unwrap_or_default()
    }
}
