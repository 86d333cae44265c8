//! The pure part of the viewer: changes of the store in, pictures out; time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use trawl_proto::{Generation, Incarnation, IndexUid, NodeName, Seq, ShardKey};

use super::{Leader, Node, View};
use crate::Error;
use crate::catalog::{
    AssignmentRecord, DrainRecord, IndexRecord, LeaseRecord, MoveRecord, NodeRecord, ProtocolRecord, Record, Role,
    ServingRecord, SkipRecord, decode, keys,
};
use crate::store::{Change, Entry, Revision, Update};

/// The picture in the making, and what has to be remembered to keep it current.
pub(super) struct ViewState {
    lease_time: Duration,
    view: View,
    changed: bool,
    seen: Option<Revision>,
    /// All keys of the store, by which a repeated snapshot shows what has gone.
    keys: BTreeSet<String>,
    /// Keys that carry a counter: nodes and the lease.
    beats: HashMap<String, Beat>,
    lease: Option<LeaseRecord>,
    /// Who vouches for a shard, counted or not.
    vouchers: BTreeMap<ShardKey, BTreeMap<NodeName, ServingRecord>>,
}

/// A counter as last seen.
struct Beat {
    process: String,
    counter: u64,
    changed_at: Instant,
    alive: bool,
}

/// What a key means.
enum Key<'a> {
    Index(&'a str),
    Mapping(IndexUid, u64),
    Node(Role, NodeName),
    Assignment(ShardKey),
    Serving(ShardKey, NodeName),
    Skip(ShardKey, Generation),
    Drain(NodeName),
    Move(ShardKey, NodeName),
    Lease,
    Protocol,
    Other,
}

impl ViewState {
    pub(super) fn new(lease_time: Duration) -> Self {
        Self {
            lease_time,
            view: View::default(),
            changed: false,
            seen: None,
            keys: BTreeSet::new(),
            beats: HashMap::new(),
            lease: None,
            vouchers: BTreeMap::new(),
        }
    }

    /// The revision up to which changes have been applied; `None` before the first snapshot.
    pub(super) fn seen(&self) -> Option<Revision> {
        self.seen
    }

    /// A new picture, if anything but counters has changed since the last call.
    pub(super) fn take_changed(&mut self) -> Option<Arc<View>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.view.revision = self.seen.unwrap_or_default();
        Some(Arc::new(self.view.clone()))
    }

    /// When the next counter will have stood still for the lease time.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.beats.values().filter(|beat| beat.alive).map(|beat| beat.changed_at + self.lease_time).min()
    }

    /// Declares dead whose counter has stood still for the lease time.
    pub(super) fn expire(&mut self, now: Instant) {
        let lease_time = self.lease_time;
        let late = |beat: &&mut Beat| beat.alive && now.duration_since(beat.changed_at) >= lease_time;
        for beat in self.beats.values_mut().filter(late) {
            beat.alive = false;
            self.changed = true;
        }
        if self.changed {
            self.refresh_liveness();
        }
    }

    /// Takes in counters that were read directly. The watch brings the same records too.
    pub(super) fn observe(&mut self, entries: impl IntoIterator<Item = Entry>, now: Instant) {
        for entry in entries {
            match parse_key(&entry.key) {
                Some(Key::Node(..)) => {
                    if let Ok(record) = read::<NodeRecord>(&entry)
                        && self.beats.contains_key(&entry.key)
                    {
                        self.beat(&entry.key, &record.process, record.counter, now);
                    }
                }
                Some(Key::Lease) => {
                    if let Ok(record) = read::<LeaseRecord>(&entry)
                        && self.beats.contains_key(&entry.key)
                    {
                        self.beat(&entry.key, &record.process, record.counter, now);
                    }
                }
                _ => {}
            }
        }
        self.refresh_liveness();
    }

    /// Applies one step of the watch.
    pub(super) fn apply(&mut self, change: Change, now: Instant) {
        match change {
            Change::Snapshot(entries, revision) => {
                let present: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
                let gone: Vec<String> =
                    self.keys.iter().filter(|key| !present.contains(key.as_str())).cloned().collect();
                for key in gone {
                    self.delete(&key);
                }
                for entry in entries {
                    self.put(entry, now);
                }
                self.changed |= self.seen.is_none();
                self.seen = Some(revision);
            }
            Change::Changed(updates, revision) => {
                for update in updates {
                    match update {
                        Update::Put(entry) => self.put(entry, now),
                        Update::Deleted(key) => self.delete(&key),
                    }
                }
                self.seen = Some(revision);
            }
        }
    }

    fn put(&mut self, entry: Entry, now: Instant) {
        if self.view.revisions.get(entry.key.as_str()) == Some(&entry.revision) {
            return;
        }
        let understood = match parse_key(&entry.key) {
            Some(Key::Index(name)) => read(&entry).map(|record| self.put_index(name, record)),
            Some(Key::Mapping(uid, version)) => {
                self.view.mappings.insert((uid, version), entry.value.clone());
                Ok(())
            }
            Some(Key::Node(role, name)) => {
                read(&entry).map(|record| self.put_node(&entry.key, role, name, record, now))
            }
            Some(Key::Lease) => read(&entry).map(|record| self.put_lease(record, now)),
            Some(Key::Protocol) => read(&entry).map(|record| self.put_protocol(Some(record))),
            Some(Key::Assignment(shard)) => read::<AssignmentRecord>(&entry).map(|record| {
                self.view.assignments.insert(shard.clone(), Arc::new(record));
                self.recount(&shard);
            }),
            Some(Key::Serving(shard, leaf)) => read(&entry).map(|record| {
                self.vouchers.entry(shard.clone()).or_default().insert(leaf, record);
                self.recount(&shard);
            }),
            Some(Key::Skip(shard, at)) => read::<SkipRecord>(&entry).map(|record| {
                let skips = self.view.skips.entry(shard).or_default();
                Arc::make_mut(skips).insert(at, record.reason.into());
            }),
            Some(Key::Drain(leaf)) => read::<DrainRecord>(&entry).map(|_| {
                self.view.drains.insert(leaf);
            }),
            Some(Key::Move(shard, from)) => read::<MoveRecord>(&entry).map(|record| {
                self.view.moves.insert((shard, from), record.to);
            }),
            Some(Key::Other) => Ok(()),
            None => {
                tracing::warn!(key = entry.key, "ignoring a record under a key that cannot be understood");
                Ok(())
            }
        };
        let counted = matches!(parse_key(&entry.key), Some(Key::Node(..) | Key::Lease));
        self.keys.insert(entry.key.clone());
        match understood {
            Ok(()) => {
                self.changed |= self.view.unreadable.remove(&entry.key).is_some() || !counted;
                if !counted {
                    self.view.revisions.insert(entry.key.into(), entry.revision);
                }
            }
            Err(error) => {
                tracing::error!(revision = entry.revision.0, %error, "a record of the store cannot be understood");
                self.view.revisions.remove(entry.key.as_str());
                self.view.unreadable.insert(entry.key, error.to_string());
                self.changed = true;
            }
        }
    }

    fn delete(&mut self, key: &str) {
        if !self.keys.remove(key) {
            return;
        }
        self.changed = true;
        self.view.revisions.remove(key);
        self.view.unreadable.remove(key);
        self.beats.remove(key);
        match parse_key(key) {
            Some(Key::Index(name)) => {
                if let Some(record) = self.view.indices.remove(name) {
                    self.view.uids.remove(&record.uid);
                }
            }
            Some(Key::Mapping(uid, version)) => {
                self.view.mappings.remove(&(uid, version));
            }
            Some(Key::Node(role, name)) => {
                self.view.nodes.remove(&(role, name.clone()));
                self.recount_leaf(role, &name);
            }
            Some(Key::Assignment(shard)) => {
                self.view.assignments.remove(&shard);
                self.recount(&shard);
            }
            Some(Key::Serving(shard, leaf)) => {
                if let Some(vouchers) = self.vouchers.get_mut(&shard) {
                    vouchers.remove(&leaf);
                    if vouchers.is_empty() {
                        self.vouchers.remove(&shard);
                    }
                }
                self.recount(&shard);
            }
            Some(Key::Skip(shard, at)) => {
                if let Some(skips) = self.view.skips.get_mut(&shard) {
                    Arc::make_mut(skips).remove(&at);
                    if skips.is_empty() {
                        self.view.skips.remove(&shard);
                    }
                }
            }
            Some(Key::Drain(leaf)) => {
                self.view.drains.remove(&leaf);
            }
            Some(Key::Move(shard, from)) => {
                self.view.moves.remove(&(shard, from));
            }
            Some(Key::Lease) => {
                self.lease = None;
                self.view.leader = None;
            }
            Some(Key::Protocol) => self.put_protocol(None),
            Some(Key::Other) | None => {}
        }
    }

    fn put_index(&mut self, name: &str, record: IndexRecord) {
        let record = Arc::new(record);
        self.view.uids.insert(record.uid.clone(), record.clone());
        if let Some(old) = self.view.indices.insert(name.to_owned(), record.clone())
            && old.uid != record.uid
        {
            self.view.uids.remove(&old.uid);
        }
    }

    fn put_node(&mut self, key: &str, role: Role, name: NodeName, record: NodeRecord, now: Instant) {
        self.beat(key, &record.process, record.counter, now);
        let before = self.view.nodes.get(&(role, name.clone()));
        let same_process = before.is_some_and(|node| node.record.process == record.process);
        let only_counted = before
            .is_some_and(|node| node.alive && NodeRecord { counter: record.counter, ..node.record.clone() } == record);
        self.view.nodes.insert((role, name.clone()), Node { record, alive: true });
        self.changed |= !only_counted;
        if !same_process {
            self.recount_leaf(role, &name);
        }
    }

    fn put_protocol(&mut self, record: Option<ProtocolRecord>) {
        self.view.protocol = record.map(|record| record.protocol);
        // Leaves that do not speak it serve no more.
        let shards: Vec<ShardKey> = self.vouchers.keys().cloned().collect();
        for shard in shards {
            self.recount(&shard);
        }
    }

    fn put_lease(&mut self, record: LeaseRecord, now: Instant) {
        if record.holder.is_some() {
            self.beat(keys::LEASE, &record.process, record.counter, now);
        } else {
            // A lease that was given back has no counter to watch.
            self.beats.remove(keys::LEASE);
        }
        self.lease = Some(record);
        self.refresh_leader();
    }

    fn beat(&mut self, key: &str, process: &str, counter: u64, now: Instant) {
        let beat = self.beats.get(key);
        if beat.is_some_and(|beat| beat.process == process && beat.counter == counter) {
            return;
        }
        let beat = Beat { process: process.to_owned(), counter, changed_at: now, alive: true };
        self.beats.insert(key.to_owned(), beat);
    }

    /// Carries the counters' verdicts over to nodes and leader.
    fn refresh_liveness(&mut self) {
        for ((role, name), node) in &mut self.view.nodes {
            let alive = self.beats.get(&keys::node(*role, name)).is_some_and(|beat| beat.alive);
            self.changed |= node.alive != alive;
            node.alive = alive;
        }
        self.refresh_leader();
    }

    fn refresh_leader(&mut self) {
        let alive = self.beats.get(keys::LEASE).is_some_and(|beat| beat.alive);
        let leader = self.lease.as_ref().filter(|_| alive).and_then(|lease| {
            let name = lease.holder.clone()?;
            Some(Leader { name, epoch: lease.epoch, since_ms: lease.since_ms })
        });
        self.changed |= self.view.leader != leader;
        self.view.leader = leader;
    }

    fn recount_leaf(&mut self, role: Role, leaf: &NodeName) {
        if role != Role::Leaf {
            return;
        }
        let vouched = self.vouchers.iter().filter(|(_, vouchers)| vouchers.contains_key(leaf));
        let shards: Vec<ShardKey> = vouched.map(|(shard, _)| shard.clone()).collect();
        for shard in shards {
            self.recount(&shard);
        }
    }

    /// Works out anew who serves a shard.
    fn recount(&mut self, shard: &ShardKey) {
        let counts = |leaf: &NodeName, voucher: &ServingRecord| {
            let assigned = self.view.assignments.get(shard).is_some_and(|record| record.leaves.contains(leaf));
            let vouches = |node: &Node| node.record.process == voucher.process && self.view.takes_part(&node.record);
            assigned && self.view.leaf(leaf).is_some_and(vouches)
        };
        let vouchers = self.vouchers.get(shard).into_iter().flatten();
        let serving: Vec<NodeName> =
            vouchers.filter(|(leaf, voucher)| counts(leaf, voucher)).map(|(leaf, _)| leaf.clone()).collect();
        if serving.is_empty() {
            self.view.serving.remove(shard);
        } else {
            self.view.serving.insert(shard.clone(), serving);
        }
    }
}

fn read<T: Record>(entry: &Entry) -> Result<T, Error> {
    decode(&entry.key, &entry.value)
}

/// `None` for a key that starts like one of ours and does not go on like one.
fn parse_key(key: &str) -> Option<Key<'_>> {
    match key {
        keys::LEASE => return Some(Key::Lease),
        keys::PROTOCOL => return Some(Key::Protocol),
        _ => {}
    }
    if let Some(name) = key.strip_prefix(keys::INDICES) {
        return Some(Key::Index(name));
    }
    if let Some(rest) = key.strip_prefix(keys::MAPPINGS) {
        let (uid, version) = rest.rsplit_once('/')?;
        return Some(Key::Mapping(uid.into(), version.parse().ok()?));
    }
    if let Some(rest) = key.strip_prefix(keys::NODES) {
        let (role, name) = rest.split_once('/')?;
        let role = match role {
            "root" => Role::Root,
            "leaf" => Role::Leaf,
            _ => return None,
        };
        return Some(Key::Node(role, name.into()));
    }
    if let Some(rest) = key.strip_prefix(keys::ASSIGNMENTS) {
        let (uid, number) = rest.rsplit_once('/')?;
        return Some(Key::Assignment(ShardKey::new(uid, number.parse().ok()?)));
    }
    if let Some(rest) = key.strip_prefix(keys::SERVING) {
        let (uid, rest) = rest.split_once('/')?;
        let (number, leaf) = rest.split_once('/')?;
        return Some(Key::Serving(ShardKey::new(uid, number.parse().ok()?), leaf.into()));
    }
    if let Some(rest) = key.strip_prefix(keys::SKIPS) {
        let mut parts = rest.rsplitn(4, '/');
        let seq = Seq(parts.next()?.parse().ok()?);
        let incarnation = Incarnation(parts.next()?.parse().ok()?);
        let number = parts.next()?.parse().ok()?;
        return Some(Key::Skip(ShardKey::new(parts.next()?, number), Generation { incarnation, seq }));
    }
    if let Some(leaf) = key.strip_prefix(keys::DRAINS) {
        return Some(Key::Drain(leaf.into()));
    }
    if let Some(rest) = key.strip_prefix(keys::MOVES) {
        let (uid, rest) = rest.split_once('/')?;
        let (number, from) = rest.split_once('/')?;
        return Some(Key::Move(ShardKey::new(uid, number.parse().ok()?), from.into()));
    }
    Some(Key::Other)
}
