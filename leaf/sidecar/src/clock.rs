//! The wall clock, read here only.

use std::time::SystemTime;

/// Nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Nanoseconds in a day.
pub const DAY_NS: i64 = 86_400_000_000_000;

/// The day (UTC) as a number since the epoch.
pub fn day_of(time_ns: i64) -> i64 {
    time_ns.div_euclid(DAY_NS)
}
