//! When a process has to end: a signal, or the end of the supervisor that started it.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Set by the supervisor for its children: their standard input is a pipe from it, and its end means
/// that the supervisor is gone (also when it was killed with -9).
pub const SUPERVISED: &str = "TRAWL_SUPERVISED";

/// How long a role may take to end after it was told to; then the process exits anyway.
const GRACE: Duration = Duration::from_secs(8);

/// Returns a token that is cancelled at SIGINT, SIGTERM, or the end of the supervisor.
///
/// # Errors
/// Signal handlers cannot be installed.
pub fn token() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let supervised = std::env::var_os(SUPERVISED).is_some();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv(), if !supervised => {}
            _ = terminate.recv() => {}
            () = supervisor_gone(), if supervised => {}
        }
        cancelled.cancel();
        // Only reached when the role does not end by itself: its process ends this task otherwise.
        tokio::time::sleep(GRACE).await;
        tracing::error!("shutdown took longer than {GRACE:?}, exiting");
        std::process::exit(1);
    });
    Ok(token)
}

/// Returns when standard input ends.
async fn supervisor_gone() {
    let mut stdin = tokio::io::stdin();
    let mut byte = [0];
    while matches!(stdin.read(&mut byte).await, Ok(1)) {}
}
