//! The search threads of a leaf: fixed in number, with bounded admission.
//!
//! Searches are CPU work and never run on the async workers. A full queue refuses at once, a task
//! whose deadline passed while it waited is answered without being run, and a panic fails its own
//! task only.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use trawl_proto::failure;
use trawl_proto::v1::{Failure, failure::Kind};

use crate::search::Cancel;

/// What a task came to, with the time it waited for a thread.
#[derive(Debug)]
pub struct Ran<T> {
    /// The task's result.
    pub value: T,
    /// From admission to start.
    pub queued: Duration,
}

type Task = Box<dyn FnOnce() + Send>;

struct Queue {
    waiting: VecDeque<Task>,
    idle: usize,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    queue_max: usize,
    running: AtomicUsize,
}

/// A fixed number of search threads behind a bounded queue. Dropping it lets admitted tasks finish.
pub struct SearchPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl SearchPool {
    /// Starts `threads` threads (at least one) that at most `queue_max` tasks wait for.
    ///
    /// # Errors
    /// When the system does not give a thread.
    pub fn new(threads: usize, queue_max: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { waiting: VecDeque::new(), idle: 0, closed: false }),
            wake: Condvar::new(),
            queue_max,
            running: AtomicUsize::new(0),
        });
        let threads = (0..threads.max(1))
            .map(|number| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("search-{number}")).spawn(move || work(&shared))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { shared, threads })
    }

    /// Runs `task` on a search thread.
    ///
    /// # Errors
    /// `REJECTED` at once when the queue is full, `DEADLINE` when the deadline passed or the caller
    /// cancelled before a thread was free, `INTERNAL` when the task panicked.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the task to run; set the [`Cancel`]'s flag to stop it.
    pub async fn run<T: Send + 'static>(
        &self,
        cancel: &Cancel,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Ran<T>, Failure> {
        let (sender, receiver) = oneshot::channel();
        let admitted = Instant::now();
        let own_cancel = cancel.clone();
        self.admit(Box::new(move || {
            let queued = admitted.elapsed();
            if sender.is_closed() {
                return;
            }
            let result = if own_cancel.expired() {
                Err(failure(Kind::Deadline, "the deadline passed while waiting for a search thread"))
            } else {
                contained(task).map(|value| Ran { value, queued })
            };
            // The receiver may be gone; then nobody waits for the result.
            drop(sender.send(result));
        }))?;
        receiver.await.unwrap_or_else(|_| Err(failure(Kind::Unavailable, "the search threads are shutting down")))
    }

    /// Tasks waiting for a thread.
    pub fn queued(&self) -> usize {
        self.shared.queue.lock().waiting.len()
    }

    /// Tasks being run.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::Relaxed)
    }

    fn admit(&self, task: Task) -> Result<(), Failure> {
        let mut queue = self.shared.queue.lock();
        // A task that an idle thread takes at once does not count as waiting.
        if queue.waiting.len() >= self.shared.queue_max + queue.idle {
            return Err(failure(Kind::Rejected, format!("search queue is full ({} waiting)", self.shared.queue_max)));
        }
        queue.waiting.push_back(task);
        drop(queue);
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl Drop for SearchPool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A search thread cannot panic: tasks are contained.
            drop(thread.join());
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let mut queue = shared.queue.lock();
        queue.idle += 1;
        while queue.waiting.is_empty() && !queue.closed {
            shared.wake.wait(&mut queue);
        }
        queue.idle -= 1;
        let Some(task) = queue.waiting.pop_front() else { return };
        drop(queue);
        shared.running.fetch_add(1, Ordering::Relaxed);
        task();
        shared.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a task and turns a panic into an `INTERNAL` failure that says what it said.
fn contained<T>(task: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(task)).map_err(|panic| {
        let said = message(panic.as_ref());
        tracing::error!(panic = said, "search panicked");
        failure(Kind::Internal, format!("the search panicked: {said}"))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use super::*;

    fn later() -> Cancel {
        Cancel::new(Instant::now() + Duration::from_secs(30))
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_work_goes_on() {
        let pool = Arc::new(SearchPool::new(1, 1).unwrap());
        let (release, blocked) = mpsc::channel::<()>();
        let (started, is_started) = oneshot::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(&later(), move || {
                    started.send(()).unwrap();
                    blocked.recv().unwrap();
                    1
                })
                .await
            }
        });
        is_started.await.unwrap();
        let second = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(&later(), || 2).await }
        });
        while pool.queued() == 0 {
            tokio::task::yield_now().await;
        }
        let refused = pool.run(&later(), || 3).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Rejected);
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap().value, 1);
        assert_eq!(second.await.unwrap().unwrap().value, 2);
    }

    #[tokio::test]
    async fn a_panic_fails_its_own_task_only() {
        let pool = SearchPool::new(1, 4).unwrap();
        let failed = pool.run(&later(), || -> u32 { panic!("boom {}", 7) }).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Internal);
        assert!(failed.reason.contains("boom 7"));
        assert_eq!(pool.run(&later(), || 5).await.unwrap().value, 5);
    }

    #[tokio::test]
    async fn a_task_past_its_deadline_is_not_run() {
        let pool = SearchPool::new(1, 4).unwrap();
        let failed = pool.run(&Cancel::new(Instant::now()), || 1).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Deadline);
    }
}
