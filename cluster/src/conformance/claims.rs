//! Cases of claims: who holds a task, how long, and what a claim allows.

use std::time::Duration;

use bytes::Bytes;
use trawl_proto::{Epoch, Seq, ShardKey};

use super::queue::{LONG, NONE, SHORT, assert_lost, claim, claim_soon, counts, push_one, state, task};
use super::{Open, PATIENCE, engine};
use crate::Error;
use crate::shard_log::Append;
use crate::work_queue::{Receipt, TaskId, TaskState};

/// However many claim at once, through two instances, each task has one worker.
pub async fn two_workers_never_share_a_task(open: &Open) {
    const TASKS: usize = 60;
    let queues = [engine(open).await.queue, engine(open).await.queue];
    let ids = queues[0].push("k", (0..TASKS).map(|n| task(n.to_string())).collect()).await.unwrap();
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..6 {
        let queue = queues[n % 2].clone();
        workers.spawn(async move {
            let mut got = Vec::new();
            while let Some(claim) = claim(&*queue, LONG).await {
                assert_eq!((claim.receipt.claim, claim.attempt), (1, 1));
                got.push(claim.receipt.task);
                if claim.receipt.task.0 % 2 == 0 {
                    queue.ack(claim.receipt, Bytes::new()).await.unwrap();
                }
            }
            got
        });
    }
    let mut got: Vec<TaskId> = workers.join_all().await.concat();
    got.sort_unstable();
    assert_eq!(got, ids);
}

/// A claim that ran out is anyone's, counts as an attempt, and its receipt is worth nothing.
pub async fn a_claim_that_ran_out_is_taken_over(open: &Open) {
    let queues = [engine(open).await.queue, engine(open).await.queue];
    let id = push_one(&*queues[0], task("x")).await;
    let first = claim(&*queues[0], SHORT).await.unwrap();
    assert_eq!(claim(&*queues[1], LONG).await, None);
    let second = claim_soon(&*queues[1], LONG).await;
    assert_eq!((second.receipt, second.attempt), (Receipt { task: id, claim: 2 }, 2));
    assert_lost(&*queues[0], first.receipt).await;
    let stands = queues[0].task(id).await.unwrap().unwrap();
    assert_eq!((stands.state, stands.attempts), (TaskState::Claimed, 2));
    assert!(stands.reason.contains("ran out"), "{}", stands.reason);
    queues[1].ack(second.receipt, Bytes::from("good")).await.unwrap();
    assert_eq!(queues[0].task(id).await.unwrap().unwrap().progress, "good");
}

/// One that ran out is lost also while nobody else has claimed the task, which counts as ready.
pub async fn a_claim_that_ran_out_is_lost_though_nobody_took_over(open: &Open) {
    let queue = engine(open).await.queue;
    let id = push_one(&*queue, task("x")).await;
    let first = claim(&*queue, SHORT).await.unwrap();
    tokio::time::timeout(PATIENCE, async {
        while state(&*queue, id).await == TaskState::Claimed {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert_lost(&*queue, first.receipt).await;
    assert_eq!(state(&*queue, id).await, TaskState::Ready);
    assert_eq!(queue.counts("k").await.unwrap(), counts(1, 0, 0, 0));
    assert_eq!(queue.tasks("k", Some(TaskState::Ready), TaskId(0), 9).await.unwrap().len(), 1);
    assert!(queue.tasks("k", Some(TaskState::Claimed), TaskId(0), 9).await.unwrap().is_empty());
    // Taken back when it is ready again it is dead at once.
    assert!(queue.cancel(id).await.unwrap());
    assert_eq!(state(&*queue, id).await, TaskState::Dead);
}

/// Extending makes a claim last, and hands progress on to the next worker.
pub async fn extending_keeps_the_claim_and_the_progress(open: &Open) {
    let queues = [engine(open).await.queue, engine(open).await.queue];
    push_one(&*queues[0], task("x")).await;
    let first = claim(&*queues[0], Duration::from_millis(500)).await.unwrap();
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_millis(700) {
        assert!(!queues[0].extend(first.receipt, Duration::from_millis(500), Some(Bytes::from("half"))).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!queues[1].extend(first.receipt, SHORT, None).await.unwrap());
    let second = claim_soon(&*queues[1], LONG).await;
    assert_eq!((second.attempt, second.progress), (2, Bytes::from("half")));
    queues[1].nack(second.receipt, NONE, Some("tired")).await.unwrap();
    assert_eq!(claim(&*queues[0], LONG).await.unwrap().progress, "half");
}

/// An append made for a claim is taken while the claim is held, and never after.
pub async fn an_append_needs_its_claim(open: &Open) {
    let engines = [engine(open).await, engine(open).await];
    let (queue, log) = (&engines[0].queue, &engines[1].log);
    let shard = ShardKey::new("i", 0);
    log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    let batch = |id: &str, claim: Option<Receipt>| Append {
        shard: shard.clone(),
        mapping_version: 1,
        operations: 1,
        body: Bytes::from("x"),
        message_id: (!id.is_empty()).then(|| id.to_owned()),
        claim,
        log_bytes_max: None,
    };
    push_one(&**queue, task("x")).await;
    let first = claim(&**queue, LONG).await.unwrap().receipt;
    let forged = Receipt { claim: 2, ..first };
    let results = log
        .append(vec![
            batch("m", Some(first)),
            batch("", Some(forged)),
            batch("", None),
            batch("", Some(Receipt { task: TaskId(1 << 40), claim: 1 })),
            batch("", Some(first)),
        ])
        .await
        .unwrap();
    assert_eq!(
        results.iter().map(|result| result.as_ref().ok().map(|appended| appended.first)).collect::<Vec<_>>(),
        [Some(Seq(1)), None, Some(Seq(2)), None, Some(Seq(3))]
    );
    assert!(matches!(results[1], Err(Error::ClaimLost(lost)) if lost == forged));

    queue.extend(first, SHORT, None).await.unwrap();
    let second = claim_soon(&**queue, LONG).await.receipt;
    let late =
        log.append(vec![batch("", Some(first)), batch("n", Some(first)), batch("m", Some(first))]).await.unwrap();
    assert!(matches!(late[0], Err(Error::ClaimLost(_))) && matches!(late[1], Err(Error::ClaimLost(_))));
    assert!(late[2].as_ref().is_ok_and(|appended| appended.duplicate && appended.first == Seq(1)));
    assert!(log.append(vec![batch("n", Some(second))]).await.unwrap()[0].as_ref().is_ok_and(|a| a.first == Seq(4)));
    queue.ack(second, Bytes::new()).await.unwrap();
    assert!(matches!(log.append(vec![batch("", Some(second))]).await.unwrap()[0], Err(Error::ClaimLost(_))));
    assert_eq!(log.heads(std::slice::from_ref(&shard)).await.unwrap()[0].as_ref().unwrap().last, Seq(4));
}
