//! Cases of logs that begin a new incarnation.

use bytes::Bytes;
use futures::StreamExt;
use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use super::{Open, engine, next, trim};
use crate::shard_log::{Append, Appended, Base, Head, ShardLog, chain};
use crate::{EngineOptions, Error};

fn shard() -> ShardKey {
    ShardKey::new("index", 0)
}

fn batch(operations: u32, body: &str, id: Option<&str>) -> Append {
    let body = Bytes::from(body.to_owned());
    let message_id = id.map(str::to_owned);
    Append { shard: shard(), mapping_version: 1, operations, body, message_id, claim: None, log_bytes_max: None }
}

async fn append(log: &dyn ShardLog, batch: Append) -> Appended {
    log.append(vec![batch]).await.unwrap().pop().unwrap().unwrap()
}

async fn head(log: &dyn ShardLog) -> Head {
    log.heads(&[shard()]).await.unwrap().pop().unwrap().unwrap()
}

/// Rows 1-2, 3-4, 5-6, 7-8, 9-10 with bodies `row 0` to `row 4` and message ids `m0` to `m4`.
async fn five_rows(log: &dyn ShardLog) {
    log.create(Epoch(1), &[shard()]).await.unwrap();
    for n in 0..5 {
        append(log, batch(2, &format!("row {n}").repeat(100), Some(&format!("m{n}")))).await;
    }
}

fn base(seq: u64) -> Base {
    Base { seq: Seq(seq), chain: 77, mapping_version: 3, time_ms: 5 }
}

/// Rows behind the fork go on behind the base, wherever that lies; the log is fit for use at once.
pub async fn rows_behind_the_fork_follow_the_base(open: &Open) {
    for (fork, at, kept) in [(4, 5, 2..5), (4, 4, 2..5), (8, 2, 4..5), (0, 1_000, 0..5), (10, 12, 5..5), (3, 6, 1..5)] {
        let logs = [engine(open).await.log, engine(open).await.log];
        five_rows(&*logs[0]).await;
        append_mapping(&*logs[0], 2).await;
        let before = logs[0].read(&shard(), Seq(0), usize::MAX).await.unwrap();
        let answer = logs[0].restart(Epoch(1), &shard(), Incarnation(1), Seq(fork), base(at)).await.unwrap();
        assert_eq!(answer, head(&*logs[1]).await);
        let rows = logs[1].read(&shard(), Seq(at), usize::MAX).await.unwrap();
        let (mut last, mut link, mut bodies) = (Seq(at), 77, Vec::new());
        for row in &rows {
            assert_eq!(
                (row.incarnation, row.first, row.last),
                (Incarnation(2), last.next(), Seq(last.0 + row_len(row)))
            );
            assert_eq!(row.chain, chain(link, row.first, &row.body));
            assert!(row.mapping_version >= 3);
            (last, link) = (row.last, row.chain);
            bodies.push(row.body.clone());
        }
        let expected = kept.map(|n| Bytes::from(format!("row {n}").repeat(100))).chain([Bytes::from("mapping")]);
        assert_eq!(bodies, expected.collect::<Vec<_>>(), "fork {fork} base {at}");
        let times: Vec<u64> = rows.iter().map(|row| row.time_ms).collect();
        let old_times: Vec<u64> = before[before.len() - rows.len()..].iter().map(|row| row.time_ms).collect();
        assert_eq!(times, old_times);
        assert_eq!(
            (answer.incarnation, answer.last, answer.chain, answer.trimmed),
            (Incarnation(2), last, link, Seq(at))
        );
        assert_eq!((answer.mapping_version >= 3, answer.bytes == 0), (true, rows.is_empty()));
        if at > 0 {
            let gone = logs[1].read(&shard(), Seq(at - 1), 1).await;
            assert!(matches!(gone, Err(Error::Trimmed { trimmed, .. }) if trimmed == Seq(at)), "{gone:?}");
        }
        let new = append(&*logs[1], batch(3, "new", None)).await;
        assert_eq!((new.incarnation, new.first, new.last), (Incarnation(2), last.next(), Seq(last.0 + 3)));
        let row = logs[0].read(&shard(), last, 1).await.unwrap().remove(0);
        assert_eq!((row.incarnation, row.chain), (Incarnation(2), chain(link, row.first, b"new")));
        trim(&*logs[0], &shard(), new.last).await;
        assert_eq!(head(&*logs[0]).await.bytes, 0);
        logs[0].remove(Epoch(1), &[shard()]).await.unwrap();
    }
}

fn row_len(row: &crate::shard_log::Record) -> u64 {
    if row.body == "mapping" { 1 } else { 2 }
}

async fn append_mapping(log: &dyn ShardLog, mapping_version: u64) {
    append(log, Append { mapping_version, ..batch(1, "mapping", None) }).await;
}

/// Mapping versions and the time go on from the greater of the base's and the rows' own.
pub async fn versions_and_times_do_not_go_back(open: &Open) {
    let log = engine(open).await.log;
    five_rows(&*log).await;
    append_mapping(&*log, 9).await;
    append_mapping(&*log, 1).await;
    let late = 4_000_000_000_000;
    let base = Base { seq: Seq(20), chain: 1, mapping_version: 5, time_ms: late };
    log.restart(Epoch(1), &shard(), Incarnation(1), Seq(8), base).await.unwrap();
    append_mapping(&*log, 1).await;
    let rows = log.read(&shard(), Seq(20), usize::MAX).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.mapping_version).collect::<Vec<_>>(), [5, 9, 9, 9]);
    assert!(rows.iter().all(|row| row.time_ms == late));

    // The log's own versions count though their rows are gone.
    let base = Base { seq: Seq(30), chain: 1, mapping_version: 2, time_ms: 2 };
    let answer = log.restart(Epoch(1), &shard(), Incarnation(2), Seq(99), base).await.unwrap();
    assert_eq!((answer.mapping_version, answer.bytes, answer.last), (9, 0, Seq(30)));
    append_mapping(&*log, 1).await;
    let rows = log.read(&shard(), Seq(30), usize::MAX).await.unwrap();
    assert_eq!((rows[0].mapping_version, rows[0].time_ms), (9, late));
}

/// The message ids of rows that went along answer with their new places, the others as before.
pub async fn message_ids_answer_with_the_new_seqs(open: &Open) {
    let logs = [engine(open).await.log, engine(open).await.log];
    five_rows(&*logs[0]).await;
    logs[0].restart(Epoch(1), &shard(), Incarnation(1), Seq(6), base(21)).await.unwrap();
    for (id, incarnation, first) in [("m0", 1, 1), ("m2", 1, 5), ("m3", 2, 22), ("m4", 2, 24)] {
        let answer = append(&*logs[1], batch(2, "again", Some(id))).await;
        let expected = Appended {
            incarnation: Incarnation(incarnation),
            first: Seq(first),
            last: Seq(first + 1),
            duplicate: true,
        };
        assert_eq!(answer, expected, "{id}");
    }
    assert_eq!(head(&*logs[1]).await.last, Seq(25));
    // Once more: only what the present incarnation wrote moves.
    logs[1].restart(Epoch(1), &shard(), Incarnation(2), Seq(23), base(40)).await.unwrap();
    for (id, incarnation, first) in [("m2", 1, 5), ("m3", 2, 22), ("m4", 3, 41)] {
        let answer = append(&*logs[0], batch(2, "again", Some(id))).await;
        assert_eq!((answer.incarnation, answer.first), (Incarnation(incarnation), Seq(first)), "{id}");
    }
}

/// Readers that stood exactly at the base go on; the others end, and say why.
pub async fn tails_go_on_from_the_base_or_end(open: &Open) {
    let logs = [engine(open).await.log, engine(open).await.log];
    five_rows(&*logs[0]).await;
    let rows = logs[0].read(&shard(), Seq(0), usize::MAX).await.unwrap();
    // One reader behind each row.
    let mut tails = Vec::new();
    for row in &rows {
        let mut tail = logs[1].tail(&shard(), Seq(row.first.0 - 1));
        assert_eq!(next(&mut tail).await.unwrap(), *row);
        tails.push(tail);
    }
    // All have read ahead to the end; these have waited there.
    let mut at_end = logs[1].tail(&shard(), Seq(8));
    assert_eq!(next(&mut at_end).await.unwrap().last, Seq(10));
    let base = Base { seq: Seq(10), chain: rows[4].chain, mapping_version: 1, time_ms: 1 };
    logs[0].restart(Epoch(1), &shard(), Incarnation(1), Seq(8), base).await.unwrap();
    let again = next(&mut at_end).await.unwrap();
    assert_eq!((again.incarnation, again.first, again.body.clone()), (Incarnation(2), Seq(11), rows[4].body.clone()));
    append(&*logs[0], batch(1, "new", None)).await;
    assert_eq!(next(&mut at_end).await.unwrap().first, Seq(13));
    // What a tail had read ahead it gives out, all of the old history, before it goes on or ends.
    for (n, mut tail) in tails.into_iter().enumerate() {
        let mut last = rows[n].clone();
        while let Some(item) = tail.next().await {
            match item {
                Ok(row) => {
                    assert_eq!((row.first, row.chain), (last.last.next(), chain(last.chain, row.first, &row.body)));
                    last = row;
                    if last.body == "new" {
                        break;
                    }
                }
                Err(error) => {
                    assert!(matches!(error, Error::Trimmed { trimmed: Seq(10), .. }), "{error:?}");
                    break;
                }
            }
        }
    }

    // A base with another history than the reader's, before, at and behind where the reader stands.
    for (n, at, new_rows) in [(3u64, 200, false), (4, 2, true), (5, 200, true), (6, 200, true)] {
        let head = head(&*logs[0]).await;
        let mut tail = logs[1].tail(&shard(), head.last);
        let appended = append(&*logs[0], batch(1, "read", None)).await;
        assert_eq!(next(&mut tail).await.unwrap().last, appended.last);
        let base =
            Base { seq: if at == 200 { appended.last } else { Seq(at) }, chain: n, mapping_version: 1, time_ms: 1 };
        let base = if new_rows { base } else { Base { seq: Seq(base.seq.0 - 1), ..base } };
        logs[0].restart(Epoch(1), &shard(), head.incarnation, Seq(9_999), base).await.unwrap();
        if new_rows {
            append(&*logs[0], batch(300, "of another history", None)).await;
        }
        let end = next(&mut tail).await;
        assert!(
            matches!(end, Err(Error::OtherIncarnation { found, .. }) if found == head.incarnation.next()),
            "{n}: {end:?}"
        );
        assert!(tail.next().await.is_none());
    }
}

/// A restart is the leader's, of a log that is there, and happens once per incarnation.
pub async fn a_restart_is_fenced_and_happens_once(open: &Open) {
    let (old, new) = (engine(open).await.log, engine(open).await.log);
    let missing = old.restart(Epoch(1), &shard(), Incarnation(1), Seq(0), base(1)).await;
    assert!(matches!(missing, Err(Error::NoSuchLog(_))), "{missing:?}");
    five_rows(&*old).await;
    new.fence(Epoch(2)).await.unwrap();
    let before = head(&*new).await;
    let fenced = old.restart(Epoch(1), &shard(), Incarnation(1), Seq(4), base(5)).await;
    assert!(matches!(fenced, Err(Error::Fenced { epoch: Epoch(1), highest: Epoch(2) })), "{fenced:?}");
    for from in [0, 2] {
        let other = new.restart(Epoch(2), &shard(), Incarnation(from), Seq(4), base(5)).await;
        assert!(matches!(other, Err(Error::OtherIncarnation { found: Incarnation(1), .. })), "{other:?}");
    }
    assert_eq!(head(&*old).await, before);
    let mut tasks = tokio::task::JoinSet::new();
    for log in [old.clone(), new.clone(), old.clone(), new.clone()] {
        tasks.spawn(async move { log.restart(Epoch(2), &shard(), Incarnation(1), Seq(4), base(5)).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let others =
        results.iter().filter(|result| matches!(result, Err(Error::OtherIncarnation { found: Incarnation(2), .. })));
    assert_eq!(others.count(), 3);
}

/// Appends that run while a log restarts end up whole, in one incarnation or the other; those of the
/// first that came too late for the fork are in the second.
pub async fn appends_during_a_restart_are_whole(open: &Open) {
    let logs = [engine(open).await.log, engine(open).await.log];
    five_rows(&*logs[0]).await;
    let mut producers = tokio::task::JoinSet::new();
    for (n, log) in logs.iter().cloned().enumerate() {
        producers.spawn(async move {
            for step in 0..40 {
                append(&*log, batch(2, &format!("{n} {step}"), None)).await;
            }
        });
    }
    for from in 1..=4 {
        let head = head(&*logs[0]).await;
        let base = Base { seq: Seq(head.trimmed.0 + 3), chain: from, mapping_version: 1, time_ms: 1 };
        // Everything is behind the fork.
        logs[0].restart(Epoch(1), &shard(), Incarnation(from), Seq(0), base).await.unwrap();
    }
    producers.join_all().await;
    let head = head(&*logs[1]).await;
    let rows = logs[1].read(&shard(), head.trimmed, usize::MAX).await.unwrap();
    let (mut last, mut link) = (head.trimmed, 4);
    for row in &rows {
        assert_eq!((row.first, row.chain), (last.next(), chain(link, row.first, &row.body)));
        assert_eq!(row.incarnation, Incarnation(5));
        (last, link) = (row.last, row.chain);
    }
    assert_eq!((rows.len(), head.last, head.chain), (85, last, link));
}

/// A log that began anew is there after all instances have been closed.
pub async fn an_incarnation_outlives_the_engine(open: &Open) {
    let before = {
        let log = engine(open).await.log;
        five_rows(&*log).await;
        log.restart(Epoch(1), &shard(), Incarnation(1), Seq(4), base(5)).await.unwrap()
    };
    let log = open(EngineOptions::default()).await.log;
    assert_eq!(head(&*log).await, before);
    assert_eq!(log.read(&shard(), Seq(5), usize::MAX).await.unwrap().len(), 3);
    assert!(append(&*log, batch(2, "again", Some("m4"))).await.duplicate);
}
