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
use std::time::Duration;

use tokio::time::Instant;

/// Pause between two tries of a lock; the timer's own resolution.
const PAUSE: Duration = Duration::from_millis(1);

/// The turnstile of one file.
#[derive(Debug)]
pub(super) struct Turnstile {
    queue: File,
    turn: File,
    timeout: Duration,
}

impl Turnstile {
    /// Opens `NAME.queue` and `NAME.turn` beside the database.
    pub(super) fn open(database: &Path, timeout: Duration) -> io::Result<Self> {
        let queue = open_lock(&database.with_extension("queue"))?;
        let turn = open_lock(&database.with_extension("turn"))?;
        Ok(Self { queue, turn, timeout })
    }

    /// Waits for the turn; it ends when the result is dropped.
    pub(super) async fn enter(&self) -> Turn<'_> {
        let deadline = Instant::now() + self.timeout;
        let queued = lock(&self.queue, deadline).await;
        let locked = lock(&self.turn, deadline).await;
        if queued {
            let _ = self.queue.unlock();
        }
        Turn { turn: locked.then_some(&self.turn) }
    }
}

/// The right to write, until dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turn: Option<&'a File>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            let _ = turn.unlock();
        }
    }
}

/// Opens a file to lock, making it if it is missing.
pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// Tries a lock until the deadline; false when it was not to be had.
///
/// Polled rather than waited for in a thread: a thread in `flock` cannot be cancelled, and would keep
/// the process from ending.
pub(super) async fn lock(file: &File, deadline: Instant) -> bool {
    loop {
        if file.try_lock().is_ok() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
