//! Tasks without which a process is no use.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;

/// What the process ends with when such a task panics (EX_SOFTWARE of sysexits.h).
const EXIT_CODE: i32 = 70;

/// Spawns a task that the process cannot do without: when it panics the process ends, so that whoever supervises it
/// starts it again, where it would else seem to be alive.
pub fn vital(name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!(task = name, "a task that cannot be done without has panicked, the process ends");
            std::process::exit(EXIT_CODE);
        }
    });
}
