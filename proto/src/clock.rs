//! The wall clock, read here only: it is for what people read (since when, how old, `now` in a date), and nothing
//! that has to be right goes by it. A test sets it to show that.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

static INJECTED: OnceLock<PathBuf> = OnceLock::new();

/// From now on the clock of this process is off by as many milliseconds as a file says, whatever it says at the
/// moment; by none while there is no such file. For tests; counts once.
pub fn inject(file: PathBuf) {
    let _ = INJECTED.set(file);
}

/// Milliseconds since the epoch by this machine's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let Some(file) = INJECTED.get() else { return now };
    let off = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    now.saturating_add_signed(off.unwrap_or(0))
}
