//! Being told that something in the directory changed, at no cost while it is busy.
//!
//! The kernel merges events that nobody reads yet. So they are read only when the follower has nothing left to do and asks
//! to be told: a process that writes 20,000 lines a second costs a few events and not 20,000.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Wakes the follower. Cheap to clone; waking it twice is waking it once.
#[derive(Clone, Debug)]
pub struct Waker(SyncSender<()>);

impl Waker {
    /// A waker and what it wakes.
    pub fn pair() -> (Self, Receiver<()>) {
        let (sender, receiver) = sync_channel(1);
        (Self(sender), receiver)
    }

    /// Wakes the follower, now or when it goes to sleep next.
    pub fn wake(&self) {
        // A full channel means that it is going to wake anyway.
        let _ = self.0.try_send(());
    }
}

/// Waits for changes of one directory.
pub struct Watch {
    woken: Receiver<()>,
    /// Lets the watching thread read again; `None` where there is no such thread.
    arm: Option<SyncSender<()>>,
}

/// Longest sleep with a watch: it may have missed something on a file system of another machine.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Longest sleep without one.
const POLL: Duration = Duration::from_millis(500);

impl Watch {
    /// Watches a directory; without the means to do so, sleeps are short.
    pub fn new(directory: &Path, waker: Waker, woken: Receiver<()>) -> Self {
        let arm = start(directory, waker);
        if arm.is_none() {
            tracing::warn!(directory = %directory.display(), "changes cannot be watched, looking twice a second");
        }
        Self { woken, arm }
    }

    /// Sleeps until something changes or somebody wakes it, at most for `time`. Changes since the last sleep count.
    pub fn sleep(&self, time: Duration) {
        let longest = if let Some(arm) = &self.arm {
            let _ = arm.try_send(());
            SLEEP_MAX
        } else {
            POLL
        };
        match self.woken.recv_timeout(time.min(longest)) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            // Nobody is left who could wake it.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(time.min(POLL)),
        }
    }
}

#[cfg(target_os = "linux")]
fn start(directory: &Path, waker: Waker) -> Option<SyncSender<()>> {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).ok()?;
    let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
    inotify.add_watch(directory, names | AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE).ok()?;
    let (sender, armed) = sync_channel(1);
    let run = move || {
        // Ends with the follower, at the first change after it.
        while armed.recv().is_ok() {
            if inotify.read_events().is_err() {
                return;
            }
            waker.wake();
        }
    };
    std::thread::Builder::new().name("sidecar-watch".to_owned()).spawn(run).ok()?;
    Some(sender)
}

#[cfg(not(target_os = "linux"))]
fn start(_: &Path, _: Waker) -> Option<SyncSender<()>> {
    None
}
