//! Work that can be cut off anywhere, and a check of what it was promised.
//!
//! [`work`] does a bit of everything on one engine and says each promise that it was given, as a line; it
//! is made to be killed, or to lose its engine. [`check`] opens the engine anew and looks whether every
//! promise is kept and everything that belongs together is there together or not at all. Not in the
//! suite's list: what is killed, and how, is particular to an engine.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trawl_proto::{Epoch, Generation, Incarnation, Seq, ShardKey};

use super::Open;
use crate::dead_letters::{DeadLetter, LetterKey};
use crate::shard_log::{Append, Base};
use crate::store::{Guard, Write};
use crate::work_queue::{NewTask, Receipt, TaskId, TaskState};
use crate::{Engine, EngineOptions, Error};

/// Takes a promise.
pub type Say = Arc<dyn Fn(String) + Send + Sync>;

/// Longer than any run.
const LEASE: Duration = Duration::from_secs(36_000);

/// The logs that all workers use: appended to; trimmed; begun anew.
fn shards() -> [ShardKey; 3] {
    [ShardKey::new("crash", 0), ShardKey::new("crash", 1), ShardKey::new("crash", 2)]
}

fn batch(shard: &ShardKey, name: &str, claim: Option<Receipt>) -> Append {
    Append {
        shard: shard.clone(),
        mapping_version: 1,
        operations: 1,
        body: body(name),
        message_id: Some(name.to_owned()),
        claim,
        log_bytes_max: None,
    }
}

/// Large enough for several pages, and never twice the same.
fn body(name: &str) -> Bytes {
    let mut random = StdRng::seed_from_u64(xxhash_rust::xxh3::xxh3_64(name.as_bytes()));
    let mut bytes = vec![0; random.random_range(10..9_000)];
    random.fill(&mut bytes[..]);
    bytes.extend_from_slice(name.as_bytes());
    bytes.into()
}

/// Works until something fails or the process is killed. `name` is not used twice in one storage.
pub async fn work(engine: Engine, name: &str, seed: u64, say: Say) {
    let mut tasks = tokio::task::JoinSet::new();
    let worker = |kind: &str, n: u64| Worker {
        engine: engine.clone(),
        name: format!("{name}.{kind}"),
        random: StdRng::seed_from_u64(seed ^ n),
        say: say.clone(),
    };
    tasks.spawn(worker("append", 1).append());
    tasks.spawn(worker("store", 2).store());
    tasks.spawn(worker("queue", 3).queue());
    tasks.spawn(worker("letters", 4).letters());
    tasks.spawn(worker("trim", 5).trim());
    tasks.spawn(worker("restart", 6).restart());
    tasks.spawn(worker("life", 7).life());
    for result in tasks.join_all().await {
        if let Err(error) = result {
            assert!(matches!(error, Error::Unavailable(_) | Error::Busy), "{error:?}");
        }
    }
}

struct Worker {
    engine: Engine,
    name: String,
    random: StdRng,
    say: Say,
}

impl Worker {
    fn say(&self, promise: impl Into<String>) {
        (self.say)(promise.into());
    }

    async fn append_one(&self, shard: &ShardKey, name: &str, claim: Option<Receipt>) -> Result<Seq, Error> {
        let results = self.engine.log.append(vec![batch(shard, name, claim)]).await?;
        let appended = results.into_iter().next().unwrap()?;
        self.say(format!("appended {} {name}", shard.number));
        Ok(appended.last)
    }

    async fn append(mut self) -> Result<(), Error> {
        let shard = &shards()[0];
        for step in 0u64.. {
            let name = format!("{}.{step}", self.name);
            self.append_one(shard, &name, None).await?;
            if self.random.random_ratio(1, 4) {
                self.append_one(shard, &name, None).await?;
            }
        }
        Ok(())
    }

    /// Counts by compare-and-set, two keys at a time.
    async fn store(self) -> Result<(), Error> {
        let keys = ["a", "b"].map(|side| format!("crash/{}/{side}", self.name));
        let mut guards: Vec<Guard> = keys.iter().cloned().map(Guard::Absent).collect();
        for count in 1u64.. {
            let value = Bytes::from(count.to_string());
            let writes: Vec<Write> = keys.iter().map(|key| Write::Put(key.clone(), value.clone())).collect();
            let revision = match count % 3 {
                0 => self.engine.store.commit_unhurried(&guards, &writes).await?,
                _ => self.engine.store.commit(&guards, &writes).await?,
            };
            guards = keys.iter().map(|key| Guard::At(key.clone(), revision)).collect();
            self.say(format!("counted {} {count}", self.name));
        }
        Ok(())
    }

    async fn queue(mut self) -> Result<(), Error> {
        let queue = self.engine.queue.clone();
        for step in 0u64.. {
            let task = |n: u64| NewTask {
                key: Some(format!("{}.{step}.{n}", self.name)),
                body: body(&n.to_string()),
                attempts_max: 2,
            };
            let ids = queue.push(&self.name, (0..3).map(task).collect()).await?;
            ids.iter().for_each(|id| self.say(format!("pushed {}", id.0)));
            for _ in 0..4 {
                let Some(claim) = queue.claim(&self.name, LEASE, "w").await? else { break };
                let (receipt, id) = (claim.receipt, claim.receipt.task);
                match self.random.random_range(0..5) {
                    0 => {
                        queue.nack(receipt, Duration::ZERO, Some("bad")).await?;
                    }
                    1 => {
                        queue.cancel(id).await?;
                        queue.ack(receipt, Bytes::from("stopped")).await?;
                        self.say(format!("dead {}", id.0));
                        if self.random.random_ratio(1, 2) {
                            // From here on it may be ready again.
                            self.say(format!("replaying {}", id.0));
                            queue.replay(&[id]).await?;
                        }
                    }
                    _ => {
                        queue.extend(receipt, LEASE, Some(Bytes::from("half"))).await?;
                        self.append_one(
                            &shards()[0],
                            &format!("{}.of.{}.{}", self.name, id.0, receipt.claim),
                            Some(receipt),
                        )
                        .await?;
                        queue.ack(receipt, Bytes::from("result")).await?;
                        self.say(format!("done {}", id.0));
                    }
                }
            }
        }
        Ok(())
    }

    /// Letters of a shard of its own, handed over as two replicas would, some taken out again.
    async fn letters(mut self) -> Result<(), Error> {
        let shard = ShardKey::new(format!("letters.{}", self.name), 0);
        self.engine.log.create(Epoch(1), std::slice::from_ref(&shard)).await?;
        let letter = |seq: u64| DeadLetter {
            key: LetterKey { shard: shard.clone(), at: Generation { incarnation: Incarnation(1), seq: Seq(seq) } },
            id: seq.to_string(),
            operation: body(&seq.to_string()),
            mapping_version: 1,
            error_type: "document_parsing_exception".to_owned(),
            reason: "crash".to_owned(),
            time_ms: seq,
        };
        for step in 0u64.. {
            let (first, last) = (3 * step + 1, 3 * step + 3);
            let through = letter(last).key.at;
            for _ in 0..2 {
                self.engine.letters.record(&shard, through, (first..=last).map(letter).collect()).await?;
                self.say(format!("recorded {} {last}", shard.index_uid));
            }
            if self.random.random_ratio(1, 3) {
                self.say(format!("removing {} {first}", shard.index_uid));
                self.engine.letters.remove(&[letter(first).key]).await?;
                self.say(format!("removed {} {first}", shard.index_uid));
                self.engine.letters.record(&shard, through, (first..=last).map(letter).collect()).await?;
            }
        }
        Ok(())
    }

    async fn trim(mut self) -> Result<(), Error> {
        let shard = &shards()[1];
        for step in 0u64.. {
            let last = self.append_one(shard, &format!("{}.{step}", self.name), None).await?;
            if self.random.random_ratio(1, 3) {
                let heads = self.engine.log.heads(std::slice::from_ref(shard)).await?;
                let seen = heads.into_iter().flatten().next().ok_or_else(|| Error::NoSuchLog(shard.clone()))?.mark();
                self.engine.log.trim(Epoch(1), shard, seen, Seq(last.0 - 1)).await?;
                self.say(format!("trimmed {}", last.0 - 1));
            }
        }
        Ok(())
    }

    async fn restart(mut self) -> Result<(), Error> {
        let shard = &shards()[2];
        for step in 0u64.. {
            self.append_one(shard, &format!("{}.{step}", self.name), None).await?;
            if self.random.random_ratio(1, 8) {
                let head = self.engine.log.heads(std::slice::from_ref(shard)).await?.remove(0).unwrap();
                let base = Base {
                    seq: Seq(head.trimmed.0 + self.random.random_range(0..5)),
                    chain: self.random.random(),
                    mapping_version: 1,
                    time_ms: 1,
                };
                match self.engine.log.restart(Epoch(1), shard, head.incarnation, Seq(0), base).await {
                    Ok(head) => self.say(format!("restarted {}", head.incarnation)),
                    // Another worker was faster.
                    Err(Error::OtherIncarnation { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// A log of its own that is made and removed.
    async fn life(self) -> Result<(), Error> {
        let shard = ShardKey::new(format!("life.{}", self.name), 0);
        let one = std::slice::from_ref(&shard);
        for step in 0u64.. {
            self.engine.log.create(Epoch(1), one).await?;
            self.say(format!("made {}", shard.index_uid));
            for n in 0..3 {
                let results =
                    self.engine.log.append(vec![batch(&shard, &format!("{}.{step}.{n}", self.name), None)]).await?;
                results.into_iter().next().unwrap()?;
            }
            self.say(format!("removing-log {}", shard.index_uid));
            self.engine.log.remove(Epoch(1), one).await?;
            self.say(format!("gone {}", shard.index_uid));
            self.say(format!("making {}", shard.index_uid));
        }
        Ok(())
    }
}

/// Makes what [`work`] needs.
pub async fn prepare(open: &Open) {
    open(EngineOptions::default()).await.log.create(Epoch(1), &shards()).await.unwrap();
}

/// Checks every promise that was ever said, in the order of saying.
pub async fn check(open: &Open, said: &[String]) {
    let engine = open(EngineOptions::default()).await;
    let mut promises: HashMap<&str, Vec<&str>> = HashMap::new();
    for line in said {
        let (kind, rest) = line.split_once(' ').unwrap();
        promises.entry(kind).or_default().push(rest);
    }
    let of = |kind: &str| promises.get(kind).cloned().unwrap_or_default();
    check_logs(&engine, &of("appended"), &of("trimmed"), &of("restarted")).await;
    check_store(&engine, &of("counted")).await;
    check_queue(&engine, &of("pushed"), &of("done"), &of("dead"), &of("replaying")).await;
    check_letters(&engine, said).await;
    check_lives(&engine, said).await;
}

async fn check_logs(engine: &Engine, appended: &[&str], trimmed: &[&str], restarted: &[&str]) {
    for shard in shards() {
        let head = engine.log.heads(std::slice::from_ref(&shard)).await.unwrap().remove(0).unwrap();
        let mut rows: HashMap<Bytes, u32> = HashMap::new();
        let mut last = head.trimmed;
        while last < head.last {
            for record in engine.log.read(&shard, last, 4 << 20).await.unwrap() {
                assert_eq!(record.first, last.next());
                last = record.last;
                *rows.entry(record.body).or_default() += 1;
            }
        }
        assert!(rows.values().all(|times| *times == 1), "a batch is twice in the log of {shard}");
        let number = shard.number.to_string();
        let names = appended.iter().filter_map(|rest| rest.strip_prefix(&number)?.strip_prefix(' '));
        if shard.number == 1 {
            // What was trimmed is known by its message id only.
            let most = trimmed.iter().map(|seq| seq.parse().unwrap()).max().unwrap_or(0);
            assert!(head.trimmed.0 >= most, "trimmed through {} where {most} was said", head.trimmed);
            continue;
        }
        for name in names {
            assert!(rows.contains_key(&body(name)), "{name} is not in the log of {shard}");
        }
        let most = restarted.iter().map(|incarnation| incarnation.parse().unwrap()).max().unwrap_or(0);
        assert!(shard.number != 2 || head.incarnation.0 >= most);
    }
    // Sent again, a batch is not written again. A few of them will do.
    for rest in appended.iter().rev().step_by(1 + appended.len() / 50) {
        let (number, name) = rest.split_once(' ').unwrap();
        let shard = ShardKey::new("crash", number.parse::<u32>().unwrap());
        let again = engine.log.append(vec![batch(&shard, name, None)]).await.unwrap().remove(0).unwrap();
        assert!(again.duplicate, "{name} was written again");
    }
}

async fn check_store(engine: &Engine, counted: &[&str]) {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for rest in counted {
        let (name, count) = rest.split_once(' ').unwrap();
        counts.insert(name, count.parse().unwrap());
    }
    for (name, count) in counts {
        let keys = ["a", "b"].map(|side| format!("crash/{name}/{side}"));
        let values = keys.iter().map(|key| engine.store.get(key));
        let values = futures::future::try_join_all(values).await.unwrap();
        let values: Vec<_> = values.into_iter().map(|entry| entry.unwrap()).collect();
        assert_eq!((&values[0].value, values[0].revision), (&values[1].value, values[1].revision), "half a commit");
        let found: u64 = std::str::from_utf8(&values[0].value).unwrap().parse().unwrap();
        // One more may have been committed and not been said.
        assert!(found == count || found == count + 1, "{name} stands at {found}, {count} was said");
    }
}

async fn check_queue(engine: &Engine, pushed: &[&str], done: &[&str], dead: &[&str], replaying: &[&str]) {
    let id = |text: &&str| TaskId(text.parse().unwrap());
    let mut kinds = std::collections::BTreeSet::new();
    for id in pushed.iter().map(id) {
        let task = engine.queue.task(id).await.unwrap();
        kinds.insert(task.unwrap_or_else(|| panic!("task {} is lost", id.0)).kind);
    }
    for id in done.iter().map(id) {
        assert_eq!(engine.queue.task(id).await.unwrap().unwrap().state, TaskState::Done, "task {}", id.0);
    }
    for id in dead.iter().filter(|id| !replaying.contains(id)).map(id) {
        assert_eq!(engine.queue.task(id).await.unwrap().unwrap().state, TaskState::Dead, "task {}", id.0);
    }
    for kind in kinds {
        let tasks = engine.queue.tasks(&kind, None, TaskId(0), usize::MAX).await.unwrap();
        let count = |state| tasks.iter().filter(|task| task.state == state).count() as u64;
        let counts = engine.queue.counts(&kind).await.unwrap();
        let found = [counts.ready, counts.claimed, counts.done, counts.dead];
        let states = [TaskState::Ready, TaskState::Claimed, TaskState::Done, TaskState::Dead];
        assert_eq!(found, states.map(count), "{kind}");
        assert_eq!(tasks.len() % 3, 0, "a push is whole");
    }
}

async fn check_letters(engine: &Engine, said: &[String]) {
    let listed = engine.letters.letters(None, None, usize::MAX).await.unwrap();
    let counts = engine.letters.counts().await.unwrap();
    let bytes: usize = listed.iter().map(|letter| letter.operation.len()).sum();
    assert_eq!((counts.kept, counts.bytes, counts.aged_out), (listed.len() as u64, bytes as u64, 0));
    let mut kept: HashMap<(String, u64), &str> = HashMap::new();
    for line in said {
        let mut words = line.split(' ');
        let (kind, index, seq) = (words.next().unwrap(), words.next().unwrap(), words.next());
        let seq = || seq.unwrap().parse::<u64>().unwrap();
        match kind {
            "recorded" => (seq() - 2..=seq()).for_each(|seq| {
                kept.entry((index.to_owned(), seq)).or_insert("kept");
            }),
            "removing" | "removed" => {
                kept.insert((index.to_owned(), seq()), kind);
            }
            _ => {}
        }
    }
    let found: std::collections::HashSet<(String, u64)> =
        listed.iter().map(|letter| (letter.key.shard.index_uid.0.clone(), letter.key.at.seq.0)).collect();
    for (key, state) in kept {
        assert!(state == "removing" || found.contains(&key) == (state == "kept"), "{key:?} was {state}");
    }
}

async fn check_lives(engine: &Engine, said: &[String]) {
    let mut last: HashMap<&str, &str> = HashMap::new();
    for line in said {
        let (kind, index) = line.split_once(' ').unwrap();
        if ["made", "removing-log", "making"].contains(&kind) {
            last.insert(index, kind);
        }
    }
    for (index, kind) in last {
        let head = engine.log.heads(&[ShardKey::new(index, 0)]).await.unwrap().remove(0);
        assert!(kind != "made" || head.is_some(), "the log of {index} is lost");
    }
}
