//! Following the store, whatever the engine.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use tokio::sync::watch;

use crate::Error;
use crate::store::{Change, Entry, Revision, Update, Write};

/// Length of a key at most.
const KEY_BYTES_MAX: usize = 1_024;
/// Pauses of a watch while the engine cannot be read: doubling, from and to.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A revision and the history that it is one of: after a fail-over that lost commits, the same numbers
/// come again for others. Engines that cannot lose any have but one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) revision: Revision,
    pub(super) history: u64,
}

/// How an engine reads the store.
pub(super) trait Entries: Send + Sync + 'static {
    /// Everything under a prefix, sorted, of one moment.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<(Vec<Entry>, Moment), Error>> + Send;

    /// What has changed under the prefix after a moment; `None` when that can no longer be told.
    fn changes(
        &self,
        prefix: &str,
        after: Moment,
    ) -> impl Future<Output = Result<Option<(Vec<Update>, Moment)>, Error>> + Send;
}

/// Follows a prefix. `entries` also keeps the other end of `wakes` alive.
pub(super) fn follow<E: Entries>(
    entries: Arc<E>,
    wakes: watch::Receiver<u64>,
    prefix: &str,
) -> BoxStream<'static, Change> {
    let watch = Watch { wakes, entries, prefix: prefix.to_owned(), seen: None };
    futures::stream::unfold(watch, |mut watch| async move {
        let change = watch.next().await;
        Some((change, watch))
    })
    .boxed()
}

/// The state of a watch.
struct Watch<E> {
    wakes: watch::Receiver<u64>,
    entries: Arc<E>,
    prefix: String,
    seen: Option<Moment>,
}

impl<E: Entries> Watch<E> {
    /// Waits for the next step. Wakes are marked as seen before reading, so none is missed.
    async fn next(&mut self) -> Change {
        let mut pause = RETRY_PAUSES.0;
        loop {
            self.wakes.borrow_and_update();
            match self.read().await {
                Ok(Some(change)) => return change,
                Ok(None) => {
                    pause = RETRY_PAUSES.0;
                    // The sender lives in `entries`, so this cannot fail.
                    let _ = self.wakes.changed().await;
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "watch waits for the engine");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSES.1);
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Change>, Error> {
        let changes = match self.seen {
            Some(seen) => self.entries.changes(&self.prefix, seen).await?,
            None => None,
        };
        match changes {
            Some((updates, moment)) => {
                self.seen = Some(moment);
                Ok((!updates.is_empty()).then_some(Change::Changed(updates, moment.revision)))
            }
            None => {
                let (entries, moment) = self.entries.list(&self.prefix).await?;
                self.seen = Some(moment);
                Ok(Some(Change::Snapshot(entries, moment.revision)))
            }
        }
    }
}

/// Refuses keys and values over their limits.
pub(super) fn check_sizes(writes: &[Write], value_bytes_max: usize) -> Result<(), Error> {
    for write in writes {
        let (Write::Put(key, _) | Write::Delete(key)) = write;
        let sizes = [
            ("key", key.len(), KEY_BYTES_MAX),
            ("value", if let Write::Put(_, value) = write { value.len() } else { 0 }, value_bytes_max),
        ];
        for (what, bytes, bytes_max) in sizes {
            if bytes > bytes_max {
                return Err(Error::TooLarge { what, bytes: bytes as u64, bytes_max: bytes_max as u64 });
            }
        }
    }
    Ok(())
}

/// The least text greater than everything with the prefix; `None` when there is none.
pub(super) fn prefix_end(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // The code points of surrogates are not characters.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::prefix_end;

    proptest! {
        #[test]
        fn the_end_of_a_prefix_parts_texts_with_it_from_greater_ones(
            prefix in "[a/\u{d7fe}-\u{e001}\u{10fffe}\u{10ffff}]{0,3}",
            text in "[a/\u{d7fe}-\u{e001}\u{10fffe}\u{10ffff}]{0,5}",
        ) {
            let inside = text >= prefix && prefix_end(&prefix).is_none_or(|end| text < end);
            prop_assert_eq!(inside, text.starts_with(&prefix));
        }
    }
}
