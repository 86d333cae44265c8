//! The engine's clock: that of the machine, but for those who set it while it runs.
//!
//! Processes of one machine agree on how long it has been up, which nobody sets. What the wall clock said at some
//! moment of that is noted once, in a file beside the databases, and from then on time passes as the machine is
//! up. So a clock that jumps forward lets nobody forget what is to be remembered for an hour, also not a process
//! that is started afterwards.

use std::fs;
use std::path::Path;
use std::time::Instant;

use trawl_proto::clock::unix_ms;

/// Beside the databases: the boot, and what the clock said when it was 0 ms up.
const FILE: &str = "clock";
/// A note that is off by more was itself made by a clock that was wrong, in milliseconds.
const OFF_MS_MAX: u64 = 24 * 3_600_000;

/// A clock that only goes forward.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Instant,
    started_ms: u64,
}

impl Clock {
    /// The clock of the engine in a directory. Where the machine does not say how long it is up, or nothing can
    /// be noted, the wall clock of this moment counts.
    pub(super) fn open(directory: &Path) -> Self {
        Self::noted(directory, uptime(), unix_ms())
    }

    fn noted(directory: &Path, uptime: Option<(String, u64)>, wall_ms: u64) -> Self {
        let at = |started_ms| Self { started: Instant::now(), started_ms };
        let Some((boot, up_ms)) = uptime else { return at(wall_ms) };
        let path = directory.join(FILE);
        let note = fs::read_to_string(&path).unwrap_or_default();
        let noted = note.split_once(' ').filter(|(of, _)| *of == boot).and_then(|(_, zero)| zero.trim().parse().ok());
        if let Some(now_ms) = noted.map(|zero: u64| zero.saturating_add(up_ms))
            && now_ms.abs_diff(wall_ms) <= OFF_MS_MAX
        {
            return at(now_ms);
        }
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let note = format!("{boot} {}\n", wall_ms.saturating_sub(up_ms));
        if let Err(error) = fs::write(&fresh, note).and_then(|()| fs::rename(&fresh, &path)) {
            tracing::warn!(path = %path.display(), %error, "the engine's clock cannot be noted");
            let _ = fs::remove_file(fresh);
        }
        at(wall_ms)
    }

    /// Milliseconds since the epoch.
    pub(super) fn now_ms(&self) -> u64 {
        self.started_ms.saturating_add(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// Which boot this is, and the milliseconds since.
fn uptime() -> Option<(String, u64)> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
    let seconds: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
    Some((boot, (seconds * 1_000.0) as u64)).filter(|(boot, _)| !boot.is_empty() && !boot.contains(' '))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn processes_agree_whatever_the_wall_clock_says_when_they_start() {
        let directory = tempfile::tempdir().unwrap();
        let open = |boot: &str, up_ms, wall_ms| {
            let clock = Clock::noted(directory.path(), Some((boot.to_owned(), up_ms)), wall_ms);
            let late = clock.now_ms() - clock.started_ms;
            clock.now_ms() - late
        };
        assert_eq!(open("a", 1_000, 100 * HOUR), 100 * HOUR);
        assert_eq!(open("a", 2_000, 105 * HOUR), 100 * HOUR + 1_000);
        assert_eq!(open("a", 3_000, 93 * HOUR), 100 * HOUR + 2_000);
        // A day off: the note was wrong, or is of a copied directory.
        assert_eq!(open("a", 4_000, 200 * HOUR), 200 * HOUR);
        assert_eq!(open("a", 5_000, 200 * HOUR), 200 * HOUR + 1_000);
        // Another boot: nothing is known.
        assert_eq!(open("b", 10, 300 * HOUR), 300 * HOUR);
        assert_eq!(open("b", 10, 303 * HOUR), 300 * HOUR);
        fs::write(directory.path().join(FILE), "nonsense").unwrap();
        assert_eq!(open("b", 10, 303 * HOUR), 303 * HOUR);
        // Nowhere to note it, and a machine that says nothing.
        let nowhere = directory.path().join("missing");
        assert!(Clock::noted(&nowhere, Some(("a".to_owned(), 5)), 7 * HOUR).now_ms() >= 7 * HOUR);
        assert!(Clock::noted(directory.path(), None, 7 * HOUR).now_ms() >= 7 * HOUR);
    }

    #[test]
    fn it_goes_on_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::open(directory.path());
        assert!(clock.now_ms().abs_diff(unix_ms()) < HOUR);
        let other = Clock::open(directory.path());
        assert!(other.now_ms().abs_diff(clock.now_ms()) < 1_000);
    }
}
