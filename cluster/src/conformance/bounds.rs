//! Cases about how much an engine keeps.

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use trawl_proto::{Epoch, Seq, ShardKey};

use super::{Open, Size, trim};
use crate::EngineOptions;
use crate::shard_log::{Append, Appended, ShardLog};

fn batch(shard: &ShardKey, body: impl Into<Bytes>, id: Option<String>) -> Append {
    Append {
        shard: shard.clone(),
        mapping_version: 1,
        operations: 1,
        body: body.into(),
        message_id: id,
        claim: None,
        log_bytes_max: None,
    }
}

async fn append(log: &dyn ShardLog, batch: Append) -> Appended {
    log.append(vec![batch]).await.unwrap().pop().unwrap().unwrap()
}

/// Ten times the limit of a log goes through it, trimmed as a leader would, and what stays on the disk
/// does not grow with it: at most twice the limit and what an engine keeps for itself.
///
/// Not in the suite's list, since storage has to tell its size: an engine's tests call it.
pub async fn a_trimmed_log_stays_small_on_disk(open: &Open, size: &Size, own_bytes: u64) {
    const LIMIT: u64 = 24 << 20;
    const BODY: usize = 256 << 10;
    let options = EngineOptions { log_bytes_max: LIMIT, ..EngineOptions::default() };
    let log = open(options).await.log;
    let shards = [ShardKey::new("i", 0), ShardKey::new("i", 1)];
    log.create(Epoch(1), &shards).await.unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let (mut written, mut largest, mut number) = (0, 0, 0);
    while written < 10 * LIMIT {
        let mut group = Vec::new();
        for _ in 0..4 {
            // Not to be compressed.
            let mut body = vec![0; BODY];
            random.fill(&mut body[..]);
            number += 1;
            group.push(batch(&shards[0], body, Some(format!("message {number}"))));
        }
        written += 4 * BODY as u64;
        for result in log.append(group).await.unwrap() {
            result.unwrap();
        }
        let head = log.heads(&shards).await.unwrap()[0].clone().unwrap();
        if head.bytes > LIMIT / 2 {
            trim(&*log, &shards[0], Seq(head.last.0 - 8)).await;
            largest = size().await.max(largest);
        }
    }
    let end = log.heads(&shards).await.unwrap()[0].clone().unwrap();
    assert_eq!(end.last.0 * BODY as u64, written);
    assert!(largest > LIMIT / 4, "{largest}: that is not its size");
    assert!(largest <= 2 * LIMIT + own_bytes, "{largest} bytes on the disk after {written} through a log of {LIMIT}");
}

/// So many message ids are remembered; the oldest are forgotten first, of all logs.
pub async fn message_ids_are_bounded(open: &Open) {
    let log = open(EngineOptions { message_ids_max: 20, ..EngineOptions::default() }).await.log;
    let shards = [ShardKey::new("i", 0), ShardKey::new("i", 1)];
    log.create(Epoch(1), &shards).await.unwrap();
    for n in 0..60 {
        append(&*log, batch(&shards[n % 2], "x", Some(n.to_string()))).await;
        // Their age is known to the millisecond.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let last = append(&*log, batch(&shards[1], "x", Some("59".to_owned()))).await;
    assert_eq!((last.duplicate, last.last), (true, Seq(30)));
    // Answers of known ids first: a new row would push them out.
    let mut known = 0;
    for n in (0..60).rev() {
        let answer = append(&*log, batch(&shards[n % 2], "x", Some(n.to_string()))).await;
        if !answer.duplicate {
            break;
        }
        known += 1;
    }
    assert!((18..=24).contains(&known), "{known}");
    assert!(!append(&*log, batch(&shards[0], "x", Some("0".to_owned()))).await.duplicate);
}

/// A message id past its time is forgotten.
pub async fn message_ids_are_forgotten_in_time(open: &Open) {
    let retention = std::time::Duration::from_millis(100);
    let options = EngineOptions { message_id_retention: retention, message_ids_max: 50, ..EngineOptions::default() };
    let log = open(options).await.log;
    let shard = ShardKey::new("i", 0);
    log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    append(&*log, batch(&shard, "x", Some("old".to_owned()))).await;
    assert!(append(&*log, batch(&shard, "x", Some("old".to_owned()))).await.duplicate);
    tokio::time::sleep(2 * retention).await;
    for n in 0..10 {
        append(&*log, batch(&shard, "x", Some(n.to_string()))).await;
    }
    assert!(!append(&*log, batch(&shard, "x", Some("old".to_owned()))).await.duplicate);
}
