//! Everything together: opens, runs, stops.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError};
use crate::follow::{Beat, Follower, Waker};
use crate::metrics::Metrics;
use crate::ship::Lane;
use crate::sinks::Sink;

/// Why a sidecar cannot start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory.
    #[error("the state directory {path}: {source}")]
    State {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Another sidecar uses the state directory.
    #[error("the state directory {0} is in use by another sidecar")]
    InUse(String),
    /// The follower is gone.
    #[error("following stopped unexpectedly")]
    Stopped,
}

/// How a running sidecar is. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    beat: Arc<Beat>,
}

impl Health {
    /// Whether it reads the directory and keeps its checkpoint. A sink that is away does not count: that is what the buffer
    /// is for.
    pub fn is_ready(&self) -> bool {
        self.beat.well.load(Ordering::Relaxed)
    }
}

/// Opens everything; what is returned runs until told to stop. Call it within tokio.
///
/// # Errors
/// See [`Error`].
pub fn run(
    config: Config,
    registry: &mut Registry,
    health: Health,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
    config.check()?;
    let state = |source| Error::State { path: config.state_dir.display().to_string(), source };
    std::fs::create_dir_all(&config.state_dir).map_err(state)?;
    let lock = lock(&config)?;
    let metrics = Metrics::register(registry);
    let checkpoint = Follower::read_checkpoint(&config).map_err(state)?;
    let mut lanes = Vec::new();
    let mut sinks = Vec::new();
    for sink in &config.sinks {
        let taken = checkpoint.taken.get(&sink.name).copied().unwrap_or(0);
        let entries = checkpoint.files.iter().filter(|entry| !entry.done);
        let safe: HashMap<u128, u64> =
            entries.map(|entry| (entry.generation(), entry.safe.get(&sink.name).copied().unwrap_or(0))).collect();
        lanes.push(Arc::new(Lane::open(&config, sink, taken, safe, &metrics).map_err(state)?));
        sinks.push(Sink::open(sink)?);
    }
    let (waker, woken) = Waker::pair();
    let stop_time = config.stop_time;
    let mut follower = Follower::new(config, checkpoint, lanes.clone(), metrics, health.beat);
    Ok(async move {
        // Held to the end.
        let _lock = lock;
        let mut sending = JoinSet::new();
        for (lane, sink) in lanes.iter().zip(sinks) {
            sending.spawn(lane.clone().run(sink, waker.clone(), stop.clone(), stop_time));
        }
        let (told, wakes) = (stop.clone(), waker.clone());
        let mut following = tokio::task::spawn_blocking(move || {
            follower.run(waker, woken, &told);
            follower
        });
        let ended = tokio::select! {
            ended = &mut following => ended,
            () = stop.cancelled() => {
                wakes.wake();
                following.await
            }
        };
        let mut follower = ended.map_err(|_| Error::Stopped)?;
        lanes.iter().for_each(|lane| lane.close());
        while sending.join_next().await.is_some() {}
        tokio::task::spawn_blocking(move || follower.finish()).await.map_err(|_| Error::Stopped)
    })
}

fn lock(config: &Config) -> Result<File, Error> {
    let state = |source| Error::State { path: config.state_dir.display().to_string(), source };
    let file = File::create(config.state_dir.join("lock")).map_err(state)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::InUse(config.state_dir.display().to_string())),
        Err(std::fs::TryLockError::Error(error)) => Err(state(error)),
    }
}
