//! Processes that are started again when they die, until they are told to stop or have done what they were for.

use std::{
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

/// How often it is looked whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between an end and the next start.
const START_AFTER: Duration = Duration::from_millis(200);

/// One process, again and again.
pub struct Crew {
    role: &'static str,
    pid: Arc<AtomicI32>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Crew {
    /// Starts a process, and another when it has ended, until one is `done`.
    pub fn start<S, D>(role: &'static str, mut spawn: S, mut done: D) -> Self
    where
        S: FnMut() -> Child + Send + 'static,
        D: FnMut(Child) -> bool + Send + 'static,
    {
        let (pid, stop) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (pid, stop) = (pid.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut child = spawn();
                    pid.store(i32::try_from(child.id()).unwrap(), Ordering::Relaxed);
                    while child.try_wait().unwrap().is_none() {
                        if stop.load(Ordering::Relaxed) {
                            let _ = child.kill();
                        }
                        std::thread::sleep(LOOK_EVERY);
                    }
                    pid.store(0, Ordering::Relaxed);
                    if done(child) {
                        return;
                    }
                    std::thread::sleep(START_AFTER);
                }
            }
        });
        Self { role, pid, stop, thread: Some(thread) }
    }

    /// Its role and process, if it runs.
    pub fn process(&self) -> Option<(String, i32)> {
        let pid = self.pid.load(Ordering::Relaxed);
        (pid != 0).then(|| (self.role.to_owned(), pid))
    }

    /// Whether no process will be started any more.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
    }

    /// Kills the process, starts no other and waits; passes on a panic.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
