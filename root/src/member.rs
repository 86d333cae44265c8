//! A root's part in the cluster: it follows the store, is a member, competes for the lease, and leads when it
//! has it. All of a root but HTTP.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trawl_cluster::catalog::NodeRecord;
use trawl_cluster::view::Viewer;
use trawl_cluster::{Engine, Error, Lease, Membership, lease};

use crate::config::Config;
use crate::lead;
use crate::root::Root;

/// A root that takes part in the cluster.
pub struct Member {
    root: Arc<Root>,
    membership: Membership,
    lease: Lease,
    tasks: TaskTracker,
    /// Ends leading and membership, first.
    leave: CancellationToken,
    /// Ends everything else, last.
    stop: CancellationToken,
}

impl Member {
    /// Follows the store, registers under the record, and competes for the lease.
    ///
    /// # Errors
    /// When the engine does not take the registration.
    pub async fn start(
        config: Config,
        record: NodeRecord,
        engine: Engine,
        registry: &mut Registry,
    ) -> Result<Self, Error> {
        let (leave, stop) = (CancellationToken::new(), CancellationToken::new());
        let viewer = Viewer::start(engine.store.clone(), config.lease_time, stop.clone());
        let process = record.process.clone();
        let membership = Membership::register(engine.store.clone(), record, config.lease_time, leave.clone()).await?;
        let root = Arc::new(Root::new(config, engine.clone(), viewer, registry));
        let candidate = lease::Config { name: root.config.name.clone(), process, lease_time: root.config.lease_time };
        let lease = Lease::run(engine.store, candidate, leave.clone());
        let tasks = TaskTracker::new();
        let lead = lead::run(root.clone(), lease.leading(), lease.fence(), leave.clone());
        let connected = root.clone();
        let keep_connected = async move { connected.leaves.keep_connected(&connected.viewer).await };
        // One task, for both wait for new views and a watch channel wakes tasks in any order: a simulation has to go
        // the same way every time.
        tasks.spawn(futures::future::join(lead, stop.clone().run_until_cancelled_owned(keep_connected)));
        Ok(Self { root, membership, lease, tasks, leave, stop })
    }

    /// The operations.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Cancelled when leading and membership end.
    pub fn leave_token(&self) -> &CancellationToken {
        &self.leave
    }

    /// The tasks that are waited for at the end.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Returns when another process has registered under the same name (never, if none does).
    pub async fn replaced(&self) {
        self.membership.replaced().await;
    }

    /// Gives back the lease and leaves the membership; searches go on.
    pub async fn leave(&self) {
        self.leave.cancel();
        tokio::join!(self.membership.stopped(), self.lease.stopped());
    }

    /// Stops following the store, and waits for all tasks.
    pub async fn stop(&self) {
        self.leave.cancel();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
