//! Keeps a claim: extends it every third of its time, noting progress, until it is dropped or lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::queue::{QueueError, TaskQueue};
use super::task::Progress;

/// Makes the progress to note.
pub(super) type Noted = Arc<dyn Fn() -> Progress + Send + Sync>;

/// A claim that is being kept. Dropping it ends that.
pub(super) struct Hold {
    queue: Arc<dyn TaskQueue>,
    receipt: String,
    lease: Duration,
    progress: Noted,
    /// The claim is no longer held: somebody else may have the task.
    pub(super) lost: CancellationToken,
    /// Somebody wants the task to end.
    pub(super) cancelled: CancellationToken,
    heart: JoinHandle<()>,
}

impl Hold {
    pub(super) fn start(queue: Arc<dyn TaskQueue>, receipt: &str, lease: Duration, progress: Noted) -> Self {
        let (lost, cancelled) = (CancellationToken::new(), CancellationToken::new());
        let heart = tokio::spawn({
            let (queue, receipt, progress) = (queue.clone(), receipt.to_owned(), progress.clone());
            let (lost, cancelled) = (lost.clone(), cancelled.clone());
            async move {
                loop {
                    tokio::time::sleep(lease / 3).await;
                    match extend(&*queue, &receipt, lease, &progress).await {
                        Ok(false) => {}
                        Ok(true) => cancelled.cancel(),
                        Err(QueueError::ClaimLost) => return lost.cancel(),
                        // Whether the claim still holds is the engine's to say, at the next turn or the next write.
                        Err(error) => tracing::debug!(receipt, %error, "cannot extend a claim"),
                    }
                }
            }
        });
        Self { queue, receipt: receipt.to_owned(), lease, progress, lost, cancelled, heart }
    }

    /// Notes the progress now and ends the keeping.
    pub(super) async fn end(self) -> Result<(), QueueError> {
        self.heart.abort();
        extend(&*self.queue, &self.receipt, self.lease, &self.progress).await.map(drop)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.heart.abort();
    }
}

async fn extend(queue: &dyn TaskQueue, receipt: &str, lease: Duration, progress: &Noted) -> Result<bool, QueueError> {
    // A record of strings and numbers is always JSON.
    let progress = serde_json::to_value(progress()).unwrap_or_default();
    queue.extend(receipt, lease, &progress).await
}
