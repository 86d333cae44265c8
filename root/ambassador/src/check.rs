//! Asks a root how it is: now and then while it is used, at once when there is doubt, and as a probe when it was left alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::breaker::State;
use crate::roots::Root;

/// The least time between two checks.
const GAP: Duration = Duration::from_millis(50);

/// Begins to check a root, until `stop`. Spawns one task.
pub(crate) fn start(root: &Arc<Root>, interval: Duration, time: Duration, stop: CancellationToken) {
    let root = Arc::downgrade(root);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut failing = false;
        while let Some(root) = root.upgrade() {
            let now = Instant::now();
            let wait = match root.state() {
                State::Open { until } => until.saturating_duration_since(now),
                State::Closed if failing => GAP,
                State::Closed => interval,
                State::HalfOpen => Duration::ZERO,
            };
            let is_open = !root.is_closed();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // A pause is kept, whatever the doubts.
                () = root.doubted.notified(), if !is_open => tokio::time::sleep(GAP).await,
            }
            root.breaker(|breaker| breaker.probe(Instant::now()));
            let is_well = is_ready(&root, time).await;
            failing = !is_well;
            let changed = root.breaker(|breaker| breaker.checked(is_well, Instant::now()));
            match (changed, is_well) {
                (true, true) => tracing::info!(root = root.address.shown(), "the root is well"),
                (true, false) => {
                    tracing::warn!(root = root.address.shown(), "checks fail in a row: the root is left alone");
                }
                (false, _) => {}
            }
        }
    }));
}

async fn is_ready(root: &Root, time: Duration) -> bool {
    let request = root.wire.client().get(format!("{}/readyz", root.address.base)).timeout(time);
    request.send().await.is_ok_and(|answer| answer.status().is_success())
}
