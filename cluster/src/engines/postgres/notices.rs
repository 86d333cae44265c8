//! Noticing that the server gave up waiting for its synchronous standby.
//!
//! A commit whose wait for the standby is cancelled (`pg_cancel_backend`) succeeds, with no more than a
//! warning beside it; the write may be on one machine only. sqlx does not hand out what a server says
//! beside its answers, but it tells `tracing`, at once, in the thread that reads the answer. So a commit
//! is polled under a subscriber of our own. Whatever the words (they are translated): a commit that came
//! with a warning is no acknowledgement.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::{Context, Poll};

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// Under which sqlx tells what the server says.
const TARGET: &str = "sqlx::postgres::notice";

thread_local! {
    static WARNED: Cell<bool> = const { Cell::new(false) };
}

/// Two, of which one is used: while there is only one subscriber in a process, `tracing` decides for good
/// whether a place in the code is listened to by asking the thread that comes by first, which may be one
/// that does not.
static LISTENERS: LazyLock<[Dispatch; 2]> = LazyLock::new(|| [Dispatch::new(Listener), Dispatch::new(Listener)]);

/// Runs a statement; also returns whether the server warned meanwhile.
pub(super) async fn heeding_warnings<T>(statement: impl Future<Output = T>) -> (T, bool) {
    let statement = pin!(statement);
    Heeding { statement, warned: false }.await
}

struct Heeding<'a, F> {
    statement: Pin<&'a mut F>,
    warned: bool,
}

impl<F: Future> Future for Heeding<'_, F> {
    type Output = (F::Output, bool);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        WARNED.set(false);
        let polled = tracing::dispatcher::with_default(&LISTENERS[0], || self.statement.as_mut().poll(context));
        self.warned |= WARNED.take();
        polled.map(|output| (output, self.warned))
    }
}

/// Hears warnings of servers and nothing else.
struct Listener;

impl Subscriber for Listener {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET && *metadata.level() <= Level::WARN
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::WARN)
    }

    fn event(&self, _: &Event<'_>) {
        WARNED.set(true);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn warnings_of_the_server_are_heard_and_nothing_else() {
        let quiet = heeding_warnings(async {
            tracing::warn!("of something else");
            tracing::info!(target: TARGET, "no warning");
            tokio::task::yield_now().await;
            1
        });
        assert_eq!(quiet.await, (1, false));
        let warned = heeding_warnings(async {
            tokio::task::yield_now().await;
            tracing::warn!(target: TARGET, "canceling wait for synchronous replication due to user request");
            tokio::task::yield_now().await;
            2
        });
        assert_eq!(warned.await, (2, true));
        tracing::warn!(target: TARGET, "outside");
        assert_eq!(heeding_warnings(async { 3 }).await, (3, false));
    }
}
