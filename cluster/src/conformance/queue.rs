//! Cases of the work queue.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;

use super::{Open, PATIENCE, engine};
use crate::work_queue::{
    Claim, KINDS_DONE_MAX, NewTask, QueueCounts, Receipt, TASK_BYTES_MAX, TASK_KEY_BYTES_MAX, TaskId, TaskState,
    WorkQueue,
};
use crate::{EngineOptions, Error};

/// Longer than any case takes.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// Runs out soon.
pub(super) const SHORT: Duration = Duration::from_millis(150);
pub(super) const NONE: Duration = Duration::ZERO;

pub(super) fn task(body: impl Into<String>) -> NewTask {
    NewTask { key: None, body: Bytes::from(body.into()), attempts_max: 3 }
}

fn keyed(key: &str) -> NewTask {
    NewTask { key: Some(key.to_owned()), ..task(format!("body of {key}")) }
}

pub(super) async fn push_one(queue: &dyn WorkQueue, task: NewTask) -> TaskId {
    queue.push("k", vec![task]).await.unwrap()[0]
}

pub(super) async fn claim(queue: &dyn WorkQueue, lease: Duration) -> Option<Claim> {
    queue.claim("k", lease, "worker").await.unwrap()
}

/// Claims as soon as there is something to claim.
pub(super) async fn claim_soon(queue: &dyn WorkQueue, lease: Duration) -> Claim {
    let claiming = async {
        loop {
            match claim(queue, lease).await {
                Some(claim) => return claim,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, claiming).await.expect("nothing to claim")
}

pub(super) async fn state(queue: &dyn WorkQueue, id: TaskId) -> TaskState {
    queue.task(id).await.unwrap().unwrap().state
}

pub(super) fn counts(ready: u64, claimed: u64, done: u64, dead: u64) -> QueueCounts {
    QueueCounts { ready, claimed, done, dead }
}

/// Checks that nothing can be done with the receipt any more.
pub(super) async fn assert_lost(queue: &dyn WorkQueue, receipt: Receipt) {
    let refused = [
        queue.extend(receipt, LONG, Some(Bytes::from("late"))).await.map(|_| ()),
        queue.ack(receipt, Bytes::from("late")).await,
        queue.nack(receipt, NONE, Some("late")).await,
        queue.nack(receipt, NONE, None).await,
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::ClaimLost(lost)) if lost == receipt), "{result:?}");
    }
}

/// Tasks are claimed in the order in which they were pushed, with what they were pushed with.
pub async fn tasks_are_claimed_in_order_and_finished(open: &Open) {
    let queues = [engine(open).await.queue, engine(open).await.queue];
    let ids = queues[0].push("k", (0..300).map(|n| task(format!("{n}"))).collect()).await.unwrap();
    assert!(ids.is_sorted_by(|a, b| a < b));
    queues[1].push("other", vec![task("of another kind")]).await.unwrap();
    assert!(queues[0].push("k", Vec::new()).await.unwrap().is_empty());
    assert_eq!(queues[0].counts("k").await.unwrap(), counts(300, 0, 0, 0));
    for (n, id) in ids.iter().enumerate().take(20) {
        let claim = queues[n % 2].claim("k", LONG, &format!("worker {n}")).await.unwrap().unwrap();
        assert_eq!(claim.receipt, Receipt { task: *id, claim: 1 });
        assert_eq!((claim.body, claim.progress, claim.attempt), (Bytes::from(n.to_string()), Bytes::new(), 1));
        let task = queues[1].task(*id).await.unwrap().unwrap();
        assert_eq!((task.state, task.worker, task.attempts), (TaskState::Claimed, format!("worker {n}"), 1));
        assert!(task.pushed_ms > 1_500_000_000_000 && task.changed_ms >= task.pushed_ms);
        queues[(n + 1) % 2].ack(claim.receipt, Bytes::from(format!("result {n}"))).await.unwrap();
        let task = queues[0].task(*id).await.unwrap().unwrap();
        assert_eq!(
            (task.state, task.progress, task.reason.as_str()),
            (TaskState::Done, format!("result {n}").into(), "")
        );
        assert_lost(&*queues[0], claim.receipt).await;
    }
    assert_eq!(queues[1].counts("k").await.unwrap(), counts(280, 0, 20, 0));
    assert_eq!(queues[1].counts("other").await.unwrap(), counts(1, 0, 0, 0));
    assert_eq!(queues[1].counts("unknown").await.unwrap(), counts(0, 0, 0, 0));
    assert_eq!(queues[1].kinds(10).await.unwrap(), ["k", "other"]);
    assert_eq!(queues[1].kinds(1).await.unwrap(), ["k"]);
    assert_eq!(queues[1].claim("unknown", LONG, "w").await.unwrap(), None);
    assert_eq!(queues[1].task(TaskId(1 << 40)).await.unwrap(), None);
}

/// A task that is given back waits for its delay; without a reason the attempt does not count.
pub async fn giving_back_delays_and_counts(open: &Open) {
    let queue = engine(open).await.queue;
    let id = push_one(&*queue, task("x")).await;
    let other = push_one(&*queue, task("y")).await;
    let first = claim(&*queue, LONG).await.unwrap();
    queue.nack(first.receipt, LONG, Some("engine on fire")).await.unwrap();
    let waiting = queue.task(id).await.unwrap().unwrap();
    assert_eq!((waiting.state, waiting.attempts, waiting.reason.as_str()), (TaskState::Ready, 1, "engine on fire"));
    assert_lost(&*queue, first.receipt).await;
    assert_eq!(queue.counts("k").await.unwrap(), counts(2, 0, 0, 0));
    // The one behind it is not held up.
    for _ in 0..5 {
        let claim = claim(&*queue, LONG).await.unwrap();
        assert_eq!((claim.receipt.task, claim.attempt), (other, 1));
        queue.nack(claim.receipt, NONE, None).await.unwrap();
    }
    assert_eq!(queue.task(other).await.unwrap().unwrap().attempts, 0);
    let claimed = claim(&*queue, LONG).await.unwrap();
    assert_eq!(claimed.receipt, Receipt { task: other, claim: 6 });
    let started = tokio::time::Instant::now();
    queue.nack(claimed.receipt, SHORT, Some("again")).await.unwrap();
    assert_eq!(claim_soon(&*queue, LONG).await.attempt, 2);
    assert!(started.elapsed() >= SHORT);
}

/// After its last attempt a task is dead, whether it was given back or its claims ran out.
pub async fn a_task_dies_after_its_attempts(open: &Open) {
    let queue = engine(open).await.queue;
    let id = push_one(&*queue, task("x")).await;
    for attempt in 1..=3 {
        let claim = claim(&*queue, LONG).await.unwrap();
        assert_eq!(claim.attempt, attempt);
        queue.nack(claim.receipt, NONE, Some(&format!("reason {attempt}"))).await.unwrap();
    }
    assert_eq!(claim(&*queue, LONG).await, None);
    let dead = queue.task(id).await.unwrap().unwrap();
    assert_eq!((dead.state, dead.attempts, dead.reason.as_str()), (TaskState::Dead, 3, "reason 3"));

    let lost = push_one(&*queue, NewTask { attempts_max: 2, ..task("y") }).await;
    for attempt in 1..=2 {
        assert_eq!(claim_soon(&*queue, SHORT).await.attempt, attempt);
    }
    tokio::time::timeout(PATIENCE, async {
        while state(&*queue, lost).await != TaskState::Dead {
            assert_eq!(claim(&*queue, LONG).await, None);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert!(queue.task(lost).await.unwrap().unwrap().reason.contains("ran out"));
    assert_eq!(queue.counts("k").await.unwrap(), counts(0, 0, 0, 2));
}

/// Dead tasks can be made ready again or forgotten; others are left alone.
pub async fn dead_tasks_are_replayed_and_dropped(open: &Open) {
    let queue = engine(open).await.queue;
    let ids =
        queue.push("k", (0..4).map(|n| NewTask { attempts_max: 1, ..keyed(&n.to_string()) }).collect()).await.unwrap();
    let mut receipts = Vec::new();
    for _ in 0..3 {
        let claim = claim(&*queue, LONG).await.unwrap();
        queue.nack(claim.receipt, NONE, Some("bad")).await.unwrap();
        receipts.push(claim.receipt);
    }
    let all: Vec<TaskId> = ids.iter().copied().chain([TaskId(1 << 40)]).collect();
    assert_eq!(queue.replay(&all[..2]).await.unwrap(), 2);
    assert_eq!(queue.replay(&all[..2]).await.unwrap(), 0);
    assert_eq!(queue.counts("k").await.unwrap(), counts(3, 0, 0, 1));
    let again = claim(&*queue, LONG).await.unwrap();
    assert_eq!((again.receipt, again.attempt), (Receipt { task: ids[0], claim: 2 }, 1));
    assert_lost(&*queue, receipts[0]).await;

    assert_eq!(queue.drop_dead(&all).await.unwrap(), 1);
    assert_eq!(queue.task(ids[2]).await.unwrap(), None);
    assert_eq!(queue.counts("k").await.unwrap(), counts(2, 1, 0, 0));
    // Its key is free again.
    assert!(queue.push("k", vec![keyed("2")]).await.unwrap()[0] > ids[3]);
    queue.ack(again.receipt, Bytes::new()).await.unwrap();
    assert_eq!(queue.replay(&all).await.unwrap() + queue.drop_dead(&all).await.unwrap(), 0);
}

/// A ready task is dead at once when it is cancelled, a claimed one when its worker hears of it.
pub async fn cancelling_reaches_ready_and_claimed_tasks(open: &Open) {
    let queues = [engine(open).await.queue, engine(open).await.queue];
    let ids = queues[0].push("k", (0..5).map(|n| task(n.to_string())).collect()).await.unwrap();
    let mut claims = Vec::new();
    for _ in 0..4 {
        claims.push(claim(&*queues[0], LONG).await.unwrap().receipt);
    }
    for id in &ids {
        assert!(queues[1].cancel(*id).await.unwrap());
    }
    assert_eq!(state(&*queues[0], ids[4]).await, TaskState::Dead);
    assert!(!queues[0].cancel(ids[4]).await.unwrap());
    assert!(!queues[0].cancel(TaskId(1 << 40)).await.unwrap());
    let told = queues[0].task(ids[0]).await.unwrap().unwrap();
    assert_eq!((told.state, told.cancelled), (TaskState::Claimed, true));

    assert!(queues[0].extend(claims[0], LONG, None).await.unwrap());
    queues[0].ack(claims[0], Bytes::from("half done")).await.unwrap();
    queues[0].nack(claims[1], NONE, Some("whatever")).await.unwrap();
    queues[0].nack(claims[2], NONE, None).await.unwrap();
    assert!(queues[0].extend(claims[3], SHORT, None).await.unwrap());
    tokio::time::timeout(PATIENCE, async {
        while state(&*queues[0], ids[3]).await != TaskState::Dead {
            assert_eq!(claim(&*queues[1], LONG).await, None);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    for task in queues[1].tasks("k", None, TaskId(0), 99).await.unwrap() {
        assert_eq!((task.state, task.cancelled, task.reason.as_str()), (TaskState::Dead, true, "cancelled"));
    }
    assert_eq!(queues[1].task(ids[0]).await.unwrap().unwrap().progress, "half done");
    // Not among the finished ones.
    assert_eq!(queues[1].counts("k").await.unwrap(), counts(0, 0, 0, 5));
    assert_eq!(queues[1].replay(&ids).await.unwrap(), 5);
    let again = claim(&*queues[0], LONG).await.unwrap();
    assert_eq!((again.receipt.task, again.progress), (ids[0], Bytes::from("half done")));
    assert!(!queues[0].extend(again.receipt, LONG, None).await.unwrap());
}

/// A key is one task per kind while the task is kept, also when it is done or dead.
pub async fn a_key_is_one_task(open: &Open) {
    let queues = [engine(open).await.queue, engine(open).await.queue];
    let mut pushes = tokio::task::JoinSet::new();
    for n in 0..6 {
        let queue = queues[n % 2].clone();
        pushes.spawn(async move {
            queue.push("k", vec![keyed("a"), task("no key"), keyed("b"), keyed("a")]).await.unwrap()
        });
    }
    let answers = pushes.join_all().await;
    for ids in &answers {
        assert_eq!((ids[0], ids[2], ids[3]), (answers[0][0], answers[0][2], answers[0][0]));
    }
    assert_eq!(answers.iter().map(|ids| ids[1]).collect::<HashSet<_>>().len(), 6);
    assert_eq!(queues[0].counts("k").await.unwrap().ready, 8);
    assert_ne!(queues[0].push("other", vec![keyed("a")]).await.unwrap()[0], answers[0][0]);

    // In whatever state.
    let id = push_one(&*queues[0], keyed("life")).await;
    let mut seen = BTreeMap::new();
    while let Some(claim) = claim(&*queues[0], LONG).await {
        seen.insert(claim.receipt.task, claim.receipt);
    }
    assert_eq!(push_one(&*queues[1], keyed("life")).await, id);
    queues[0].ack(seen[&id], Bytes::new()).await.unwrap();
    assert_eq!(push_one(&*queues[1], keyed("life")).await, id);
    queues[0].cancel(answers[0][0]).await.unwrap();
    queues[0].ack(seen[&answers[0][0]], Bytes::new()).await.unwrap();
    assert_eq!(push_one(&*queues[1], keyed("a")).await, answers[0][0]);
    assert_eq!(claim(&*queues[0], LONG).await, None);
}

/// The queue keeps so many tasks; finished ones are forgotten, dead ones are not.
pub async fn the_queue_is_bounded(open: &Open) {
    let options = EngineOptions { tasks_max: 10, tasks_done_max: 3, ..EngineOptions::default() };
    let queue = open(options).await.queue;
    queue.push("k", (0..8).map(|n| keyed(&n.to_string())).collect()).await.unwrap();
    let refused = queue.push("k", (5..11).map(|n| keyed(&n.to_string())).collect()).await;
    assert!(matches!(refused, Err(Error::QueueFull { kept_max: 10 })), "{refused:?}");
    assert_eq!(queue.counts("k").await.unwrap().ready, 8, "all or none");
    queue.push("k", (5..10).map(|n| keyed(&n.to_string())).collect()).await.unwrap();
    for _ in 0..6 {
        let claim = claim(&*queue, LONG).await.unwrap();
        queue.ack(claim.receipt, Bytes::new()).await.unwrap();
    }
    let done = queue.tasks("k", Some(TaskState::Done), TaskId(0), 99).await.unwrap();
    assert_eq!(done.iter().map(|task| task.key.as_deref().unwrap()).collect::<Vec<_>>(), ["3", "4", "5"]);
    assert_eq!(queue.counts("k").await.unwrap(), counts(4, 0, 6, 0));

    let options = EngineOptions { tasks_done_retention: NONE, ..EngineOptions::default() };
    let queue = open(options).await.queue;
    for _ in 0..2 {
        let claim = claim(&*queue, LONG).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        queue.ack(claim.receipt, Bytes::new()).await.unwrap();
    }
    let done = queue.tasks("k", Some(TaskState::Done), TaskId(0), 99).await.unwrap();
    assert!(done.len() <= 1, "{done:?}");
    assert_eq!(queue.counts("k").await.unwrap(), counts(2, 0, 8, 0));

    // Counts of kinds of which nothing is kept are forgotten, those of the fewest first.
    let kind = |n: u32| format!("load-{n:03}");
    for n in 0..KINDS_DONE_MAX + 8 {
        queue.push(&kind(n), vec![task("")]).await.unwrap();
        let claim = queue.claim(&kind(n), LONG, "worker").await.unwrap().unwrap();
        queue.ack(claim.receipt, Bytes::new()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    queue.push("other", vec![task("")]).await.unwrap();
    let mut left = 0;
    for n in 0..KINDS_DONE_MAX + 8 {
        left += u32::try_from(queue.counts(&kind(n)).await.unwrap().done).unwrap();
    }
    assert_eq!(left, KINDS_DONE_MAX);
    assert_eq!(queue.counts("k").await.unwrap(), counts(2, 0, 8, 0), "tasks of it are kept");
}

/// What is too large is refused by name, and a long reason is cut off.
pub async fn sizes_are_limited(open: &Open) {
    let queue = engine(open).await.queue;
    let large = || Bytes::from(vec![0; TASK_BYTES_MAX + 1]);
    let refused = queue.push("k", vec![task("fits"), NewTask { body: large(), ..task("") }]).await;
    assert!(matches!(refused, Err(Error::TooLarge { what: "task", .. })), "{refused:?}");
    let refused = queue.push("k", vec![keyed(&"k".repeat(TASK_KEY_BYTES_MAX + 1))]).await;
    assert!(matches!(refused, Err(Error::TooLarge { what: "task key", .. })), "{refused:?}");
    assert_eq!(queue.counts("k").await.unwrap(), counts(0, 0, 0, 0));
    let body = large().slice(1..);
    let id = push_one(&*queue, NewTask { body: body.clone(), ..task("") }).await;
    let first = claim(&*queue, LONG).await.unwrap();
    assert_eq!(first.body, body);
    for refused in
        [queue.extend(first.receipt, LONG, Some(large())).await.map(|_| ()), queue.ack(first.receipt, large()).await]
    {
        assert!(matches!(refused, Err(Error::TooLarge { what: "task result", .. })), "{refused:?}");
    }
    queue.nack(first.receipt, NONE, Some(&"é".repeat(100_000))).await.unwrap();
    let reason = queue.task(id).await.unwrap().unwrap().reason;
    assert!((1_000..100_000).contains(&reason.len()) && reason.starts_with("éé"));
}

/// Lists are in the order of ids, of one kind, of one state if asked, and come in pages.
pub async fn tasks_are_listed_in_pages(open: &Open) {
    let queue = engine(open).await.queue;
    let ids = queue.push("k", (0..25).map(|n| task(n.to_string())).collect()).await.unwrap();
    queue.push("other", vec![task("x")]).await.unwrap();
    for n in 0..10 {
        let claim = claim(&*queue, LONG).await.unwrap();
        if n % 2 == 0 {
            queue.ack(claim.receipt, Bytes::new()).await.unwrap();
        }
    }
    for (state, expected) in [
        (None, ids.clone()),
        (Some(TaskState::Ready), ids[10..].to_vec()),
        (Some(TaskState::Done), ids[..10].iter().step_by(2).copied().collect()),
        (Some(TaskState::Claimed), ids[1..10].iter().step_by(2).copied().collect()),
        (Some(TaskState::Dead), vec![]),
    ] {
        let (mut listed, mut after) = (Vec::new(), TaskId(0));
        loop {
            let page = queue.tasks("k", state, after, 4).await.unwrap();
            assert!(page.len() <= 4 && page.iter().all(|task| task.kind == "k"));
            let Some(last) = page.last() else { break };
            after = last.id;
            listed.extend(page.into_iter().map(|task| task.id));
        }
        assert_eq!(listed, expected, "{state:?}");
    }
}

/// Tasks, claims and counts are there after all instances have been closed.
pub async fn tasks_outlive_the_engine(open: &Open) {
    let (ids, held) = {
        let queue = engine(open).await.queue;
        let ids = queue.push("k", (0..4).map(|n| keyed(&n.to_string())).collect()).await.unwrap();
        let done = claim(&*queue, LONG).await.unwrap();
        queue.ack(done.receipt, Bytes::from("result")).await.unwrap();
        let held = claim(&*queue, LONG).await.unwrap();
        queue.extend(held.receipt, LONG, Some(Bytes::from("half"))).await.unwrap();
        queue.cancel(ids[2]).await.unwrap();
        (ids, held)
    };
    let queue = engine(open).await.queue;
    assert_eq!(queue.counts("k").await.unwrap(), counts(1, 1, 1, 1));
    assert_eq!(push_one(&*queue, keyed("0")).await, ids[0]);
    assert_eq!(queue.task(ids[0]).await.unwrap().unwrap().progress, "result");
    assert!(!queue.extend(held.receipt, LONG, None).await.unwrap());
    assert_eq!(queue.task(ids[1]).await.unwrap().unwrap().progress, "half");
    assert_eq!(claim(&*queue, LONG).await.unwrap().receipt.task, ids[3]);
    assert!(push_one(&*queue, task("new")).await > ids[3]);
}
