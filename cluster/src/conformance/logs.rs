//! Cases of the logs.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::StreamExt;
use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use super::{Open, engine, next, trim};
use crate::shard_log::{Append, Appended, Mark, Record, ShardLog, chain};
use crate::{EngineOptions, Error};

const SEEN: Mark = Mark { incarnation: Incarnation(1), seq: Seq(1), chain: 1 };

fn shard(number: u32) -> ShardKey {
    ShardKey::new("index", number)
}

fn batch(shard: &ShardKey, operations: u32, body: impl Into<String>) -> Append {
    let body = Bytes::from(body.into());
    Append {
        shard: shard.clone(),
        mapping_version: 1,
        operations,
        body,
        message_id: None,
        claim: None,
        log_bytes_max: None,
    }
}

fn named(shard: &ShardKey, operations: u32, id: &str) -> Append {
    Append { message_id: Some(id.to_owned()), ..batch(shard, operations, format!("body of {id}")) }
}

async fn append(log: &dyn ShardLog, batch: Append) -> Result<Appended, Error> {
    log.append(vec![batch]).await.unwrap().pop().unwrap()
}

/// Checks that rows follow each other from a position on, and that their chains are right.
struct Checker {
    last: Seq,
    chain: u64,
    mapping_version: u64,
    time_ms: u64,
}

impl Checker {
    fn new() -> Self {
        Self { last: Seq(0), chain: 0, mapping_version: 0, time_ms: 0 }
    }

    fn check(&mut self, record: &Record) {
        assert_eq!(record.first, self.last.next());
        assert!(record.last >= record.first);
        assert_eq!(record.chain, chain(self.chain, record.first, &record.body));
        assert!(record.mapping_version >= self.mapping_version && record.time_ms >= self.time_ms);
        assert_eq!(record.apply_version, 1);
        *self = Self {
            last: record.last,
            chain: record.chain,
            mapping_version: record.mapping_version,
            time_ms: record.time_ms,
        };
    }
}

/// Appenders and tails through two instances: every tail sees every row once, in order, linked.
pub async fn concurrent_appends_are_tailed_without_gaps(open: &Open) {
    const PRODUCERS: usize = 4;
    const BATCHES: usize = 25;
    let logs = [engine(open).await.log, engine(open).await.log];
    let shards = [shard(0), shard(1)];
    logs[0].create(Epoch(1), &shards).await.unwrap();
    let mut producers = tokio::task::JoinSet::new();
    for n in 0..PRODUCERS {
        let (log, shards) = (logs[n % 2].clone(), shards.clone());
        producers.spawn(async move {
            let mut appended = Vec::new();
            for step in 0..BATCHES {
                let operations = 1 + (step as u32 + n as u32) % 3;
                let both =
                    shards.iter().map(|shard| batch(shard, operations, format!("{n} {step} {shard} ").repeat(20)));
                let both: Vec<Append> = both.collect();
                let bodies: Vec<Bytes> = both.iter().map(|batch| batch.body.clone()).collect();
                let results = log.append(both).await.unwrap();
                for ((shard, body), result) in shards.iter().zip(bodies).zip(results) {
                    let Appended { incarnation, first, last, duplicate } = result.unwrap();
                    assert_eq!(
                        (incarnation, duplicate, last.0 + 1 - first.0),
                        (Incarnation(1), false, operations.into())
                    );
                    appended.push((shard.clone(), first, last, body));
                }
            }
            appended
        });
    }
    let mut tails = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (log, shard) = (logs[n / 2].clone(), shards[n % 2].clone());
        tails.spawn(async move {
            let mut records = log.tail(&shard, Seq(0));
            let mut checker = Checker::new();
            let mut seen = Vec::new();
            for _ in 0..PRODUCERS * BATCHES {
                let record = next(&mut records).await.unwrap();
                checker.check(&record);
                seen.push((record.first, record.last, record.body));
            }
            (shard, seen, checker)
        });
    }
    let mut appended: HashMap<ShardKey, BTreeMap<Seq, (Seq, Bytes)>> = HashMap::new();
    for (shard, first, last, body) in producers.join_all().await.into_iter().flatten() {
        assert!(appended.entry(shard).or_default().insert(first, (last, body)).is_none());
    }
    for (shard, seen, checker) in tails.join_all().await {
        let expected = appended[&shard].iter().map(|(first, (last, body))| (*first, *last, body.clone()));
        assert!(seen.into_iter().eq(expected));
        let head = logs[1].heads(&[shard]).await.unwrap()[0].clone().unwrap();
        assert_eq!((head.last, head.chain), (checker.last, checker.chain));
    }
}

/// The same message id is one entry and answers with its first place, from wherever and whenever.
pub async fn a_message_id_is_one_entry(open: &Open) {
    let logs = [engine(open).await.log, engine(open).await.log];
    let (one, two) = (shard(0), shard(1));
    logs[0].create(Epoch(1), &[one.clone(), two.clone()]).await.unwrap();
    append(&*logs[0], batch(&one, 5, "before")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (log, batch) = (logs[n % 2].clone(), named(&one, 2, "m"));
        tasks.spawn(async move { append(&*log, batch).await.unwrap() });
    }
    let answers = tasks.join_all().await;
    assert!(answers.iter().all(|answer| (answer.first, answer.last) == (Seq(6), Seq(7))), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1);

    let together = logs[0].append(vec![named(&one, 1, "n"), named(&one, 1, "n"), named(&two, 1, "m")]).await.unwrap();
    let together: Vec<Appended> = together.into_iter().map(Result::unwrap).collect();
    assert_eq!(together.iter().map(|answer| answer.duplicate).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!((together[0].first, together[1].first, together[2].first), (Seq(8), Seq(8), Seq(1)));

    trim(&*logs[1], &one, Seq(8)).await;
    drop(logs);
    let log = engine(open).await.log;
    let answer = append(&*log, named(&one, 2, "m")).await.unwrap();
    assert_eq!((answer.first, answer.last, answer.duplicate), (Seq(6), Seq(7), true));
    assert_eq!(append(&*log, batch(&one, 1, "after")).await.unwrap().first, Seq(9));
}

/// Trimming drops whole rows, spares tails that are ahead of it, and tells those that are not.
pub async fn trimming_frees_and_tells(open: &Open) {
    let logs = [engine(open).await.log, engine(open).await.log];
    let shard = shard(0);
    logs[0].create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    for n in 0..700 {
        // Rows of two operations: 1-2, 3-4, and so on.
        logs[0].append(vec![batch(&shard, 2, format!("{n}"))]).await.unwrap().pop().unwrap().unwrap();
    }
    let mut ahead = logs[1].tail(&shard, Seq(1_399));
    assert_eq!(next(&mut ahead).await.unwrap().first, Seq(1_399));
    let mut slow = logs[1].tail(&shard, Seq(0));
    assert_eq!(next(&mut slow).await.unwrap().last, Seq(2));
    let before = logs[0].heads(std::slice::from_ref(&shard)).await.unwrap()[0].clone().unwrap();

    // 1,305 lies inside a row, which stays.
    trim(&*logs[0], &shard, Seq(1_305)).await;
    let after = logs[1].heads(std::slice::from_ref(&shard)).await.unwrap()[0].clone().unwrap();
    assert_eq!((after.trimmed, after.last, after.chain), (Seq(1_304), before.last, before.chain));
    assert!(after.bytes < before.bytes / 10);
    assert_eq!(logs[1].read(&shard, Seq(1_304), 1).await.unwrap()[0].first, Seq(1_305));
    let trimmed = logs[1].read(&shard, Seq(1_303), 1).await;
    assert!(matches!(trimmed, Err(Error::Trimmed { trimmed: Seq(1_304), .. })), "{trimmed:?}");
    // A tail may have read ahead, but never leaves anything out.
    let mut last = Seq(2);
    let end = loop {
        match next(&mut slow).await {
            Ok(record) if record.last < before.last => {
                assert_eq!(record.first, last.next());
                last = record.last;
            }
            Ok(_) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(matches!(end, None | Some(Error::Trimmed { .. })), "{end:?}");
    let mut behind = logs[1].tail(&shard, Seq(3));
    assert!(matches!(next(&mut behind).await, Err(Error::Trimmed { .. })));
    assert!(behind.next().await.is_none());
    append(&*logs[0], batch(&shard, 1, "new")).await.unwrap();
    assert_eq!(next(&mut ahead).await.unwrap().first, Seq(1_401));

    trim(&*logs[0], &shard, Seq(9_999)).await;
    let empty = logs[0].heads(std::slice::from_ref(&shard)).await.unwrap()[0].clone().unwrap();
    assert_eq!((empty.trimmed, empty.last, empty.bytes), (Seq(1_401), Seq(1_401), 0));
    append(&*logs[1], batch(&shard, 1, "newer")).await.unwrap();
    let record = next(&mut ahead).await.unwrap();
    assert_eq!((record.first, record.chain), (Seq(1_402), chain(empty.chain, Seq(1_402), b"newer")));
}

/// A log at its limit refuses, and takes again after a trim.
pub async fn a_full_log_refuses(open: &Open) {
    let log = open(EngineOptions { log_bytes_max: 1_000, ..EngineOptions::default() }).await.log;
    let (full, other) = (shard(0), shard(1));
    log.create(Epoch(1), &[full.clone(), other.clone()]).await.unwrap();
    append(&*log, named(&full, 1, "first")).await.unwrap();
    let mut last = Seq(1);
    let refused = loop {
        match append(&*log, batch(&full, 1, "x")).await {
            Ok(appended) => last = appended.last,
            Err(error) => break error,
        }
        assert!(last.0 < 1_000);
    };
    assert!(matches!(&refused, Error::LogFull { shard, bytes_max: 1_000, .. } if *shard == full), "{refused:?}");
    let results =
        log.append(vec![batch(&full, 1, "y"), batch(&other, 1, "y"), named(&full, 1, "first")]).await.unwrap();
    assert!(matches!(results[0], Err(Error::LogFull { .. })));
    assert!(results[1].is_ok());
    assert!(results[2].as_ref().unwrap().duplicate);

    trim(&*log, &full, last).await;
    assert_eq!(append(&*log, batch(&full, 1, "z")).await.unwrap().first, last.next());
}

/// A trim that was decided on a log that is not this one any more takes nothing out.
pub async fn only_the_log_that_was_seen_is_trimmed(open: &Open) {
    let log = engine(open).await.log;
    let (one, other) = (shard(0), shard(1));
    log.create(Epoch(1), &[one.clone(), other.clone()]).await.unwrap();
    let mut marks = Vec::new();
    for n in 0..4 {
        append(&*log, batch(&one, 2, format!("{n}"))).await.unwrap();
        append(&*log, batch(&other, 2, format!("other {n}"))).await.unwrap();
        let heads = log.heads(&[one.clone(), other.clone()]).await.unwrap();
        marks.push(heads.into_iter().map(|head| head.unwrap().mark()).collect::<Vec<_>>());
    }
    for seen in [marks[1][1], marks[3][1], Mark { seq: Seq(3), ..marks[1][0] }, Mark { seq: Seq(10), ..marks[3][0] }] {
        let refused = log.trim(Epoch(1), &one, seen, Seq(2)).await;
        assert!(matches!(refused, Err(Error::OtherHistory { .. })), "{seen:?}: {refused:?}");
    }
    let refused = log.trim(Epoch(1), &one, Mark { incarnation: Incarnation(2), ..marks[3][0] }, Seq(2)).await;
    assert!(matches!(refused, Err(Error::OtherIncarnation { found: Incarnation(1), .. })), "{refused:?}");
    assert_eq!(log.read(&one, Seq(0), usize::MAX).await.unwrap().len(), 4);
    log.trim(Epoch(1), &one, marks[1][0], Seq(4)).await.unwrap();
    log.trim(Epoch(1), &one, marks[3][0], Seq(8)).await.unwrap();
    log.trim(Epoch(1), &one, marks[1][0], Seq(4)).await.unwrap();
    assert_eq!(log.heads(std::slice::from_ref(&one)).await.unwrap()[0].clone().unwrap().trimmed, Seq(8));
}

/// A batch that brings its index's own limit is held to that instead of the engine's.
pub async fn an_index_has_a_limit_of_its_own(open: &Open) {
    let log = open(EngineOptions { log_bytes_max: 1_000, ..EngineOptions::default() }).await.log;
    log.create(Epoch(1), &[shard(0)]).await.unwrap();
    let with = |log_bytes_max| Append { log_bytes_max, ..batch(&shard(0), 1, "x") };
    while append(&*log, with(None)).await.is_ok() {}
    append(&*log, with(Some(2_000))).await.unwrap();
    let refused = append(&*log, with(Some(500))).await.unwrap_err();
    assert!(matches!(refused, Error::LogFull { bytes_max: 500, .. }), "{refused:?}");
}

/// Once a higher epoch has been here, a lower one is refused on every log, also on unknown ones.
pub async fn a_deposed_leader_is_refused_everywhere(open: &Open) {
    let (old, new) = (engine(open).await.log, engine(open).await.log);
    old.fence(Epoch(3)).await.unwrap();
    old.create(Epoch(3), &[shard(0)]).await.unwrap();
    append(&*old, batch(&shard(0), 1, "x")).await.unwrap();
    new.fence(Epoch(4)).await.unwrap();
    new.fence(Epoch(4)).await.unwrap();
    let refused = [
        old.fence(Epoch(3)).await,
        old.create(Epoch(3), &[shard(7)]).await,
        old.trim(Epoch(3), &shard(0), SEEN, Seq(1)).await,
        old.trim(Epoch(3), &shard(8), SEEN, Seq(1)).await,
        old.remove(Epoch(3), &[shard(0), shard(9)]).await,
    ];
    for result in refused {
        let fenced = matches!(result, Err(Error::Fenced { epoch: Epoch(3), highest: Epoch(4) }));
        assert!(fenced, "{result:?}");
    }
    let heads = new.heads(&[shard(0), shard(7)]).await.unwrap();
    assert_eq!(heads[0].as_ref().unwrap().trimmed, Seq(0));
    assert!(heads[1].is_none());
    // A fenced call with a higher epoch raises it by itself.
    new.create(Epoch(5), &[shard(7)]).await.unwrap();
    assert!(matches!(new.fence(Epoch(4)).await, Err(Error::Fenced { highest: Epoch(5), .. })));
    // Appends are not the leader's.
    append(&*old, batch(&shard(0), 1, "x")).await.unwrap();
}

/// A removed log refuses and ends its tails; made again it begins anew.
pub async fn a_removed_log_is_gone(open: &Open) {
    let logs = [engine(open).await.log, engine(open).await.log];
    let shard = shard(0);
    let one = std::slice::from_ref(&shard);
    logs[0].create(Epoch(1), one).await.unwrap();
    append(&*logs[0], named(&shard, 1, "m")).await.unwrap();
    // Creating what is there changes nothing.
    logs[1].create(Epoch(1), one).await.unwrap();
    let mut tail = logs[1].tail(&shard, Seq(0));
    assert_eq!(next(&mut tail).await.unwrap().first, Seq(1));
    logs[0].remove(Epoch(1), one).await.unwrap();
    assert!(matches!(next(&mut tail).await, Err(Error::NoSuchLog(_))));
    assert!(matches!(append(&*logs[1], named(&shard, 1, "m")).await, Err(Error::NoSuchLog(_))));

    logs[1].create(Epoch(1), one).await.unwrap();
    let appended = append(&*logs[0], named(&shard, 1, "m")).await.unwrap();
    assert_eq!((appended.first, appended.duplicate), (Seq(1), false));
    assert_eq!(logs[0].read(&shard, Seq(0), 1_000).await.unwrap().len(), 1);
}

/// What was appended is there after all instances have been closed, and goes on from there.
pub async fn logs_outlive_the_engine(open: &Open) {
    let shard = shard(3);
    let head = {
        let log = engine(open).await.log;
        log.create(Epoch(2), std::slice::from_ref(&shard)).await.unwrap();
        for n in 0..10 {
            append(&*log, batch(&shard, 3, format!("{n}").repeat(1_000))).await.unwrap();
        }
        log.heads(std::slice::from_ref(&shard)).await.unwrap()[0].clone().unwrap()
    };
    let log = engine(open).await.log;
    assert_eq!(log.heads(std::slice::from_ref(&shard)).await.unwrap()[0].as_ref(), Some(&head));
    assert!(matches!(log.fence(Epoch(1)).await, Err(Error::Fenced { .. })));
    append(&*log, batch(&shard, 1, "more")).await.unwrap();
    let records = log.read(&shard, Seq(0), usize::MAX).await.unwrap();
    let mut checker = Checker::new();
    records.iter().for_each(|record| checker.check(record));
    assert_eq!((records.len(), checker.last), (11, Seq(31)));
    assert_eq!(records[10].chain, chain(head.chain, Seq(31), b"more"));
}

/// A read begins with the row that holds the position, and stops at about the limit.
pub async fn reads_begin_inside_rows_and_end_at_the_limit(open: &Open) {
    let log = engine(open).await.log;
    let shard = shard(0);
    log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    assert_eq!(log.read(&shard, Seq(0), 1_000).await.unwrap(), []);
    for n in 0..6 {
        append(&*log, batch(&shard, 10, format!("{n}").repeat(100))).await.unwrap();
    }
    for (after, bytes_max, expected) in [
        (0, 0, vec![1]),
        (0, 250, vec![1, 11]),
        (9, 100, vec![1]),
        (10, 100, vec![11]),
        (15, usize::MAX, vec![11, 21, 31, 41, 51]),
        (59, usize::MAX, vec![51]),
        (60, usize::MAX, vec![]),
        (99, usize::MAX, vec![]),
    ] {
        let records = log.read(&shard, Seq(after), bytes_max).await.unwrap();
        assert_eq!(records.iter().map(|record| record.first.0).collect::<Vec<_>>(), expected, "{after} {bytes_max}");
    }
    let mut tail = log.tail(&shard, Seq(15));
    assert_eq!(next(&mut tail).await.unwrap().first, Seq(11));
    assert_eq!(next(&mut tail).await.unwrap().first, Seq(21));
}

/// A log that was never made is an error everywhere, and no head.
pub async fn an_unknown_log_is_an_error(open: &Open) {
    let log = engine(open).await.log;
    let shard = shard(0);
    assert!(matches!(append(&*log, batch(&shard, 1, "x")).await, Err(Error::NoSuchLog(_))));
    assert!(matches!(log.read(&shard, Seq(0), 1).await, Err(Error::NoSuchLog(_))));
    assert!(matches!(log.trim(Epoch(1), &shard, SEEN, Seq(1)).await, Err(Error::NoSuchLog(_))));
    assert!(matches!(next(&mut log.tail(&shard, Seq(0))).await, Err(Error::NoSuchLog(_))));
    assert_eq!(log.heads(std::slice::from_ref(&shard)).await.unwrap(), [None]);
    log.remove(Epoch(1), &[shard]).await.unwrap();
}

/// A batch gets the greatest mapping version so far, and a time that is not before the last.
pub async fn the_mapping_version_and_the_time_never_go_back(open: &Open) {
    let log = engine(open).await.log;
    let shard = shard(0);
    log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    for mapping_version in [2, 5, 3, 5, 7, 1] {
        append(&*log, Append { mapping_version, ..batch(&shard, 1, "x") }).await.unwrap();
    }
    let records = log.read(&shard, Seq(0), usize::MAX).await.unwrap();
    assert_eq!(records.iter().map(|record| record.mapping_version).collect::<Vec<_>>(), [2, 5, 5, 5, 7, 7]);
    assert!(records.is_sorted_by_key(|record| record.time_ms) && records[0].time_ms > 1_500_000_000_000);
    assert_eq!(log.heads(&[shard]).await.unwrap()[0].as_ref().unwrap().mapping_version, 7);
}

/// Results stand in the order of the batches; one that cannot be taken does not harm the others.
pub async fn a_group_answers_each_batch(open: &Open) {
    let log = open(EngineOptions { batch_bytes_max: 1_000, ..EngineOptions::default() }).await.log;
    let shards: Vec<ShardKey> = (0..300).map(shard).collect();
    log.create(Epoch(1), &shards).await.unwrap();
    let mut batches: Vec<Append> = shards.iter().map(|shard| named(shard, 1 + shard.number, "m")).collect();
    batches.insert(7, batch(&shard(0), 1, "x".repeat(1_001)));
    batches.insert(9, batch(&shard(999), 1, "x"));
    let mut results = log.append(batches).await.unwrap();
    assert!(matches!(results.remove(9), Err(Error::NoSuchLog(_))));
    assert!(matches!(results.remove(7), Err(Error::TooLarge { what: "batch", bytes: 1_001, .. })));
    for (number, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap().last, Seq(number as u64 + 1));
    }
    let heads = log.heads(&shards).await.unwrap();
    assert!(
        heads.iter().zip(&shards).all(|(head, shard)| head.as_ref().unwrap().last.0 == u64::from(shard.number) + 1)
    );
    assert!(log.append(Vec::new()).await.unwrap().is_empty());
}

/// A tail may begin behind any seq there is, and gives from there on what a full one gives.
pub async fn tails_resume_at_every_position(open: &Open) {
    let logs = [engine(open).await.log, engine(open).await.log];
    let shard = shard(0);
    logs[0].create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    let sizes = [1, 3, 1, 2, 5, 1, 1, 4];
    for (n, operations) in sizes.into_iter().enumerate() {
        append(&*logs[0], batch(&shard, operations, format!("row {n}"))).await.unwrap();
    }
    let rows = logs[0].read(&shard, Seq(0), usize::MAX).await.unwrap();
    let last = rows[rows.len() - 1].last;
    let mut waiting = Vec::new();
    for after in 0..=last.0 {
        let mut tail = logs[after as usize % 2].tail(&shard, Seq(after));
        for row in rows.iter().filter(|row| row.last.0 > after) {
            assert_eq!(next(&mut tail).await.unwrap(), *row, "behind {after}");
        }
        waiting.push(tail);
    }
    // All of them stand at the end now.
    append(&*logs[1], batch(&shard, 2, "new")).await.unwrap();
    for tail in &mut waiting {
        assert_eq!(next(tail).await.unwrap().first, last.next());
    }
    let mut ahead = logs[0].tail(&shard, Seq(last.0 + 3));
    append(&*logs[0], batch(&shard, 2, "newer")).await.unwrap();
    assert_eq!(next(&mut ahead).await.unwrap().last, Seq(last.0 + 4));
}

/// While rows are appended at one end and trimmed at the other, a tail gives every row in order, or says
/// that it was overtaken.
pub async fn trimming_while_tailing_leaves_nothing_out(open: &Open) {
    const ROWS: u64 = 150;
    let logs = [engine(open).await.log, engine(open).await.log];
    let shard = shard(0);
    logs[0].create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    let tail = |log: &std::sync::Arc<dyn ShardLog>, slow: bool| {
        let mut tail = log.tail(&shard, Seq(0));
        async move {
            let mut checker = Checker::new();
            while checker.last.0 < ROWS {
                match next(&mut tail).await {
                    Ok(record) => checker.check(&record),
                    Err(error) => {
                        let overtaken = matches!(error, Error::Trimmed { trimmed, .. } if trimmed > checker.last);
                        assert!(slow && overtaken, "{error:?} behind {}", checker.last);
                        break;
                    }
                }
                if slow {
                    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
                }
            }
            checker.last
        }
    };
    // The trimmer stays behind the first tail, and does not care about the second.
    let (told, heard) = tokio::sync::watch::channel(0);
    let mut followed = logs[1].tail(&shard, Seq(0));
    let first = async {
        let mut checker = Checker::new();
        while checker.last.0 < ROWS {
            checker.check(&next(&mut followed).await.unwrap());
            told.send_replace(checker.last.0);
        }
    };
    let trim = async {
        let mut trimmed = 0;
        while trimmed < ROWS {
            trimmed = *heard.clone().wait_for(|last| *last > trimmed).await.unwrap();
            trim(&*logs[1], &shard, Seq(trimmed)).await;
        }
    };
    let write = async {
        for n in 0..ROWS {
            append(&*logs[0], batch(&shard, 1, format!("{n}"))).await.unwrap();
        }
    };
    tokio::join!(write, first, trim, tail(&logs[0], true), tail(&logs[1], true));
    let head = logs[0].heads(std::slice::from_ref(&shard)).await.unwrap()[0].clone().unwrap();
    assert_eq!((head.last, head.trimmed, head.bytes), (Seq(ROWS), Seq(ROWS), 0));
}
