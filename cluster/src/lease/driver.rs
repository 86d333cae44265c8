//! Carries out what the lease's core decides.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trawl_proto::Epoch;

use super::{Config, Held};
use crate::Store;

pub(super) struct Driver {
    store: Arc<dyn Store>,
    config: Config,
    leading: watch::Sender<Option<Epoch>>,
    held: watch::Sender<Held>,
}

impl Driver {
    pub(super) fn new(store: Arc<dyn Store>, config: Config, leading: watch::Sender<Option<Epoch>>, held: watch::Sender<Held>) -> Self {
        Self { store, config, leading, held }
    }

    pub(super) async fn run(self, shutdown: CancellationToken) {
        let _ = (&self.store, &self.config, &self.leading, &self.held);
        shutdown.cancelled().await;
    }
}
