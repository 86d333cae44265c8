//! A leaf process: takes part in the cluster, holds the replicas that are assigned to it, serves them.
//!
//! `keeper` makes what is here equal to what the store says; here is what starts and ends it, and the look
//! at the logs' heads.

pub mod directory;
mod keeper;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use trawl_cluster::catalog::{NodeRecord, Role};
use trawl_cluster::{Engine, Membership, Viewer, protocol};
use trawl_proto::clock::unix_ms;
use trawl_proto::v1::leaf_server::LeafServer;
use trawl_proto::{Generation, ShardKey};

use self::directory::DataDir;
use self::keeper::Keeper;
use crate::config::Config;
use crate::copy::rate::Rate;
use crate::copy::server::Copies;
use crate::error::Error;
use crate::grpc::{LeafService, Service, refuse_outsiders};
use crate::metrics::Metrics;
use crate::pins::Pins;
use crate::pool::SearchPool;
use crate::replica::Replica;
use crate::replica::lag::LagCollector;
use crate::replica::slots::WriterSlots;
use crate::replica::tail::Shared;
use crate::watch::FileWatch;

/// How long a clean shutdown waits for each of its steps.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Replicas whose files are checked at a time before they serve.
const CHECKS_AT_OPENING_MAX: usize = 2;
/// Calls that roots may have given up before this leaf got to them: a paused leaf finds many when it goes
/// on, and h2's default of 20 would end the connection with everything else on it.
const GIVEN_UP_MAX: usize = 4_096;

/// The replicas that are on this leaf, by shard.
#[derive(Default)]
pub struct Replicas(RwLock<HashMap<ShardKey, Arc<Replica>>>);

impl Replicas {
    /// The replica of a shard.
    pub fn get(&self, shard: &ShardKey) -> Option<Arc<Replica>> {
        self.0.read().get(shard).cloned()
    }

    /// All of them, in no particular order.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.0.read().values().cloned().collect()
    }
}

/// A leaf that is registered and listens, but does nothing before [`LeafNode::run`].
pub struct LeafNode {
    service: Arc<Service>,
    shared: Arc<Shared>,
    viewer: Viewer,
    membership: Membership,
    incoming: TcpIncoming,
    grpc_addr: SocketAddr,
    data_dir: DataDir,
    process: String,
    /// Stops membership and viewer, after everything else.
    cluster: CancellationToken,
}

impl LeafNode {
    /// Locks the data directory, listens, and registers in the cluster.
    ///
    /// # Errors
    /// When the data directory is in use, the address is taken, or the engine is out of reach.
    pub async fn start(config: Config, engine: Engine, registry: &mut Registry) -> Result<Self, Error> {
        let data_dir = DataDir::lock(&config.data_dir)?;
        let server_error = |error: Box<dyn std::error::Error + Send + Sync>| Error::Server(error);
        let incoming = TcpIncoming::bind(config.grpc)
            .map_err(|error| server_error(error.into()))?
            .with_nodelay(Some(true))
            .with_keepalive(Some(Duration::from_secs(60)));
        let grpc_addr = incoming.local_addr().map_err(|error| server_error(error.into()))?;
        let pool = SearchPool::new(config.search_threads, config.search_queue_max)
            .map_err(|error| server_error(error.into()))?;
        let cluster = CancellationToken::new();
        let process = uuid::Uuid::new_v4().to_string();
        let record = NodeRecord {
            format: 1,
            name: config.name.clone(),
            role: Role::Leaf,
            process: process.clone(),
            counter: 0,
            grpc: config.grpc_advertised.clone().unwrap_or_else(|| grpc_addr.to_string()),
            http: None,
            zone: config.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: unix_ms(),
            protocol: config.speaks.protocol,
            protocol_min: config.speaks.stored_min(),
            capacity_bytes: config.capacity_bytes.or_else(|| fs4::total_space(&config.data_dir).ok()),
        };
        let viewer = Viewer::start(engine.store.clone(), config.lease_time, cluster.clone());
        let store = engine.store.clone();
        let membership = Membership::register(store, record, config.lease_time, cluster.clone()).await;
        let membership = membership.map_err(|error| match error {
            trawl_cluster::Error::Refused(refusal) => Error::Refused(refusal),
            other => other.into(),
        })?;
        tracing::info!(leaf = %config.name, grpc = %grpc_addr, data_dir = %config.data_dir.display(), "leaf is registered");
        let files = Arc::new(FileWatch::new());
        let shared = Shared {
            engine: engine.clone(),
            apply_slots: Arc::new(Semaphore::new(config.apply_threads.max(1))),
            growing: Arc::new(Semaphore::new(1)),
            writer_slots: WriterSlots::new(config.writers_max),
            copy_slots: Semaphore::new(config.copy.replicas_at_once.max(1)),
            check_slots: Semaphore::new(CHECKS_AT_OPENING_MAX),
            background_check_slot: Semaphore::new(1),
            opening_rate: Rate::new(config.copy.bytes_per_second),
            check_rate: Rate::new(config.check.bytes_per_second),
            files: files.clone(),
            metrics: Metrics::new(registry),
            config: config.clone(),
        };
        let service = Service {
            name: config.name.clone(),
            replicas: Arc::default(),
            pins: Pins::new(config.pin_time, config.pins_max),
            pool,
            copies: Arc::new(Copies::new(config.data_dir.join("copies"), config.copy.clone())?),
            data_dir: data_dir.clone(),
            files,
            engine,
            config,
        };
        registry
            .register_collector(Box::new(LagCollector { replicas: service.replicas.clone(), viewer: viewer.clone() }));
        Ok(Self {
            service: Arc::new(service),
            shared: Arc::new(shared),
            viewer,
            membership,
            incoming,
            grpc_addr,
            data_dir,
            process,
            cluster,
        })
    }

    /// Where the gRPC server listens.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Serves until the shutdown; then commits everything and leaves the cluster.
    ///
    /// # Errors
    /// When the server fails, the cluster is upgraded past this leaf, or another process takes its name.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let server_stop = CancellationToken::new();
        let leaf = LeafServer::new(LeafService(self.service.clone()))
            .max_decoding_message_size(self.shared.config.message_bytes_max);
        let viewer = self.viewer.clone();
        let leaf = InterceptedService::new(leaf, move |request: Request<()>| {
            refuse_outsiders(request.metadata(), viewer.view().protocol()).map(|()| request)
        });
        let server = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .http2_max_pending_accept_reset_streams(Some(GIVEN_UP_MAX))
            .add_service(leaf)
            .serve_with_incoming_shutdown(self.incoming, server_stop.clone().cancelled_owned());
        let mut server = tokio::spawn(server);
        let (service, shared) = (self.service.clone(), self.shared.clone());
        let outgrown = self.viewer.subscribe();
        let mut keeper = Keeper::new(service, shared, self.viewer, self.data_dir, self.process);
        let heads = watch_heads(self.service.clone(), self.shared.clone());
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            () = keeper.run() => Ok(()),
            () = heads => Ok(()),
            refusal = protocol::outgrown(outgrown, self.shared.config.speaks) => Err(refusal.into()),
            () = self.membership.replaced() => Err(Error::Replaced(self.service.name.to_string())),
            ended = &mut server => Err(Error::Server(match ended {
                Ok(Ok(())) => "it ended".into(),
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
            })),
        };
        keeper.close().await;
        server_stop.cancel();
        if !server.is_finished() && tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut server).await.is_err() {
            server.abort();
        }
        self.cluster.cancel();
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.membership.stopped()).await;
        tracing::info!(leaf = %self.service.name, "leaf has stopped");
        result
    }
}

/// Looks at the heads of all logs now and then: for appends whose call was lost, and for a log that
/// lost its tail. Less often when nothing has moved for a while. Also lets go of searchers whose time
/// is over.
async fn watch_heads(service: Arc<Service>, shared: Arc<Shared>) {
    let config = &shared.config;
    let mut moved_at = Instant::now();
    let mut applied: Vec<Generation> = Vec::new();
    loop {
        let is_quiet = moved_at.elapsed() > config.heads_quiet_time;
        let pause = if is_quiet { config.heads_interval_quiet } else { config.heads_interval };
        tokio::time::sleep(pause).await;
        service.files.look();
        service.pins.expire();
        service.copies.expire();
        let replicas = service.replicas.all();
        let shards: Vec<ShardKey> = replicas.iter().map(|replica| replica.shard().clone()).collect();
        let before: Vec<_> = replicas.iter().map(|replica| replica.progress()).collect();
        let now: Vec<Generation> = before.iter().map(|progress| progress.applied).collect();
        if now != applied {
            moved_at = Instant::now();
            applied = now;
        }
        if replicas.is_empty() {
            continue;
        }
        match shared.engine.log.heads(&shards).await {
            Ok(heads) => {
                for ((replica, head), before) in replicas.iter().zip(heads).zip(&before) {
                    if let Some(head) = head {
                        replica.observe_head(&head, before);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "cannot read the heads of the logs"),
        }
    }
}

#[cfg(test)]
mod tests;
