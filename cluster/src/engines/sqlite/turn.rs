//! Taking turns at writing, between processes.
//!
//! SQLite's own lock is polled with growing pauses, so a process that commits without a break starves
//! the others for seconds. Two advisory file locks make a turnstile: one waits in the queue, holding
//! the queue lock, until the turn lock is free; who has just had a turn has to queue again, so it
//! cannot overtake. Fairness only: safety stays with SQLite, and a lock that is not to be had in time
//! (its holder was stopped) is done without.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two tries of a lock that another holds. A turn takes about a millisecond.
const PAUSE: Duration = Duration::from_micros(100);

/// The turnstile of one file.
#[derive(Debug)]
pub(super) struct Turnstile {
    queue: Arc<File>,
    turn: Arc<File>,
    timeout: Duration,
}

impl Turnstile {
    /// Opens `NAME.queue` and `NAME.turn` beside the database.
    pub(super) fn open(database: &Path, timeout: Duration) -> io::Result<Self> {
        let queue = open_lock(&database.with_extension("queue"))?;
        let turn = open_lock(&database.with_extension("turn"))?;
        Ok(Self { queue, turn, timeout })
    }

    /// Waits for the turn; it ends when the result is dropped. `None` when it was not to be had.
    pub(super) async fn enter(&self) -> Option<Held> {
        let deadline = Instant::now() + self.timeout;
        let _queued = lock(&self.queue, deadline).await;
        lock(&self.turn, deadline).await
    }
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Held(Arc<File>);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Opens a file to lock, making it if it is missing.
pub(super) fn open_lock(path: &Path) -> io::Result<Arc<File>> {
    Ok(Arc::new(OpenOptions::new().create(true).truncate(false).write(true).open(path)?))
}

/// Tries a lock until the deadline; `None` when it was not to be had.
///
/// A lock that is free costs one system call. One that is not is polled, in a thread, since the
/// runtime's timer is too coarse; not waited for, because a thread inside `flock` cannot be ended.
pub(super) async fn lock(file: &Arc<File>, deadline: Instant) -> Option<Held> {
    if file.try_lock().is_ok() {
        return Some(Held(file.clone()));
    }
    let file = file.clone();
    let polling = tokio::task::spawn_blocking(move || {
        while Instant::now() < deadline {
            std::thread::sleep(PAUSE);
            if file.try_lock().is_ok() {
                return Some(Held(file));
            }
        }
        None
    });
    polling.await.ok().flatten()
}
