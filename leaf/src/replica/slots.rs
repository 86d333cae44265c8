//! Who may hold an index writer: each costs memory, so a leaf has a fixed number of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The right to hold one index writer.
pub type WriterSlot = OwnedSemaphorePermit;

/// The index writers of a leaf.
#[derive(Debug)]
pub struct WriterSlots {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl WriterSlots {
    /// At most `writers_max` (at least one) at a time.
    pub fn new(writers_max: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(writers_max.max(1))), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a slot, first come, first served. Cancel safe.
    pub async fn acquire(&self) -> WriterSlot {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        match self.slots.clone().acquire_owned().await {
            Ok(slot) => slot,
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether somebody waits for a slot: holders should commit and give theirs back.
    pub fn contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}
