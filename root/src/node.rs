//! A root process: everything put together, from the first look at the store to a clean end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use trawl_cluster::catalog::{NodeRecord, Role};
use trawl_cluster::{Engine, protocol};

use crate::config::Config;
use crate::http::{parse_query, router, server};
use crate::member::Member;
use crate::root::Root;
use crate::{by_query, lifecycle};

/// How long giving back the lease and leaving the membership may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the first look at the store may take before the root starts without it.
const FIRST_VIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a root cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The HTTP server broke.
    #[error("the HTTP server failed")]
    Serve(#[source] io::Error),
    /// The cluster engine refused the registration.
    #[error("cannot register in the cluster")]
    Register(#[source] trawl_cluster::Error),
    /// The cluster was upgraded past this program.
    #[error(transparent)]
    Outgrown(protocol::Refusal),
    /// Another process runs under the same name.
    #[error("another process has registered under this root's name")]
    Replaced,
}

/// A started root.
pub struct RootNode {
    member: Member,
    metrics: Arc<Registry>,
    listener: TcpListener,
    http_addr: SocketAddr,
}

impl RootNode {
    /// Starts a root.
    ///
    /// 1. Listen, so that the address is known.
    /// 2. Follow the store.
    /// 3. Register as a member, and compete for the lease.
    ///
    /// # Errors
    /// When the address is taken or the engine cannot be reached.
    pub async fn start(config: Config, engine: Engine) -> Result<Self, Error> {
        let address = config.http;
        let listening = TcpListener::bind(address).await;
        let listener = listening.map_err(|source| Error::Listen { address, source })?;
        let http_addr = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
        let record = node_record(&config, http_addr);
        let mut registry = Registry::default();
        let member = Member::start(config, record, engine, &mut registry).await.map_err(Error::Register)?;
        let root = member.root().clone();
        member.tasks().spawn(by_query::worker::run(root.clone(), parse_query, member.leave_token().clone()));
        let _ = tokio::time::timeout(FIRST_VIEW_TIMEOUT, root.viewer.ready()).await;
        Ok(Self { member, metrics: Arc::new(registry), listener, http_addr })
    }

    /// Where HTTP is served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// The operations, for use without HTTP.
    pub fn root(&self) -> Arc<Root> {
        self.member.root().clone()
    }

    /// Serves until `shutdown`.
    ///
    /// 1. Serve.
    /// 2. At the shutdown give back the lease and leave the membership at once; refuse new connections,
    ///    let open requests end within the grace period.
    /// 3. Stop following the store.
    ///
    /// # Errors
    /// When the server breaks, the cluster is upgraded past this root, or another process takes its name.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let root = self.member.root();
        let ending = self.member.leave_token().clone();
        let limits = root.config.limits.clone();
        let app = router(root.clone(), self.metrics.clone(), limits.clone());
        let refusals = root.metrics.refusals.clone();
        let server = server::serve(self.listener, app, limits, refusals, ending.clone());
        tokio::pin!(server);
        let served = tokio::select! {
            served = &mut server => served.map_err(Error::Serve),
            () = self.member.replaced() => Err(Error::Replaced),
            refusal = protocol::outgrown(root.viewer.subscribe(), root.config.speaks) => Err(Error::Outgrown(refusal)),
            () = shutdown.cancelled() => Ok(()),
        };
        root.retire();
        ending.cancel();
        let drained = async {
            if served.is_ok() {
                let _ = tokio::time::timeout(root.config.shutdown_grace, &mut server).await;
            }
        };
        let left = async {
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.member.leave()).await;
        };
        tokio::join!(drained, left);
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.member.stop()).await;
        served
    }
}

fn node_record(config: &Config, http: SocketAddr) -> NodeRecord {
    NodeRecord {
        format: 1,
        name: config.name.clone(),
        role: Role::Root,
        process: uuid::Uuid::new_v4().simple().to_string(),
        counter: 0,
        grpc: String::new(),
        http: Some(config.http_advertise.clone().unwrap_or_else(|| http.to_string())),
        zone: config.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms: lifecycle::now_ms(),
        protocol: config.speaks.protocol,
        protocol_min: config.speaks.stored_min(),
        capacity_bytes: None,
    }
}
