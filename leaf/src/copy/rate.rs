//! A limit of bytes per second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What may pass without waiting after a pause.
const BURST: Duration = Duration::from_millis(50);

/// Lets bytes pass at a steady rate; shared by all who send.
#[derive(Debug)]
pub struct Rate {
    per_second: u64,
    free_at: Mutex<Instant>,
}

impl Rate {
    /// So many bytes per second; 0 for no limit.
    pub fn new(per_second: u64) -> Self {
        Self { per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may pass.
    pub async fn pass(&self, bytes: usize) {
        if self.per_second == 0 {
            return;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / self.per_second as f64);
        let at = {
            let mut free_at = self.free_at.lock();
            let now = Instant::now();
            let at = (*free_at).max(now.checked_sub(BURST).unwrap_or(now));
            *free_at = at + takes;
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_kept_over_many_senders() {
        let rate = Rate::new(50_000_000);
        let began = Instant::now();
        let senders = (0..10).map(|_| async {
            for _ in 0..10 {
                rate.pass(50_000).await;
            }
        });
        futures::future::join_all(senders).await;
        let took = began.elapsed();
        assert!(took > Duration::from_millis(40), "{took:?}");
    }
}
