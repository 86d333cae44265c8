//! Room on the disk: a replica that a full disk has stopped looks for more of it.
//!
//! Trying again costs reading, applying and writing everything since the last commit, so between two attempts,
//! which come more and more rarely, only the file system is asked.

use std::path::Path;
use std::time::Duration;

use super::tail::blocking;
use crate::error::Error;

/// An attempt is worth while, however soon, when there are so many bytes more than behind the failed one.
const MORE_BYTES: u64 = 4 << 20;
/// How often the file system is asked.
const LOOK: Duration = Duration::from_secs(1);

/// Bytes that can still be written to the file system of a path, where it says so.
async fn room(path: &Path) -> Option<u64> {
    let path = path.to_owned();
    blocking(move || fs4::available_space(&path).map_err(Error::io("look at the file system of", path))).await.ok()
}

/// Returns when there is clearly more room than there is now.
pub(super) async fn more_room(path: &Path) {
    let before = room(path).await;
    loop {
        tokio::time::sleep(LOOK).await;
        if let (Some(before), Some(now)) = (before, room(path).await)
            && now >= before.saturating_add(MORE_BYTES)
        {
            return;
        }
    }
}
