//! Leaves and a leading root in one process, over a SQLite engine in a directory of the test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use trawl_cluster::view::Viewer;
use trawl_cluster::{Engine, EngineOptions, LEASE_TIME, Lease, lease};
use trawl_leaf::LeafNode;

use crate::{Config, Root, lead};

/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Cluster {
    pub(super) root: Arc<Root>,
    engine: Engine,
    leaves: Vec<JoinHandle<()>>,
    wires: BTreeMap<String, Wire>,
    stop: CancellationToken,
    _directory: TempDir,
}

impl Cluster {
    /// `leaf-0` to `leaf-{count - 1}` and one root, which leads.
    pub(super) async fn start(count: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("cluster").display());
        let engine = trawl_cluster::connect(&url, &EngineOptions::default()).await.unwrap();
        let stop = CancellationToken::new();
        let mut leaves = Vec::new();
        let mut wires = BTreeMap::new();
        for number in 0..count {
            let name = format!("leaf-{number}");
            let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut config = trawl_leaf::Config::new(name.as_str(), directory.path().join(&name));
            config.grpc_advertised = Some(wire.local_addr().unwrap().to_string());
            // More replicas than a leaf usually writes at a time.
            config.writers_max = 32;
            let node = LeafNode::start(config, engine.clone(), &mut Registry::default()).await.unwrap();
            let (cut, stall) = (CancellationToken::new(), CancellationToken::new());
            let forward = forward(wire, node.grpc_addr(), stall.clone());
            tokio::spawn(cut.clone().run_until_cancelled_owned(forward));
            wires.insert(name, Wire { cut, stall });
            let stop = stop.clone();
            leaves.push(tokio::spawn(async move { node.run(stop).await.unwrap() }));
        }
        let viewer = Viewer::start(engine.store.clone(), LEASE_TIME, stop.clone());
        let address = "127.0.0.1:0".parse().unwrap();
        let root = Root::new(Config::new("root-0", address), engine.clone(), viewer.clone(), &mut Registry::default());
        let root = Arc::new(root);
        let candidate = lease::Config { name: "root-0".into(), process: "process".to_owned(), lease_time: LEASE_TIME };
        let lease = Lease::run(engine.store.clone(), candidate, stop.clone());
        tokio::spawn(lead::run(root.clone(), lease.leading(), lease.fence(), stop.clone()));
        let connected = root.clone();
        let keep_connected = async move { connected.leaves.keep_connected(&connected.viewer).await };
        tokio::spawn(stop.clone().run_until_cancelled_owned(keep_connected));
        let mut views = viewer.subscribe();
        let all_there = views.wait_for(|view| view.leaves().filter(|leaf| leaf.alive).count() == count);
        tokio::time::timeout(PATIENCE, all_there).await.unwrap().unwrap();
        Self { root, engine, leaves, wires, stop, _directory: directory }
    }

    /// Cuts the wire to a leaf in the midst of everything: no handshake, and its records stay.
    pub(super) fn cut_off(&self, leaf: &str) {
        self.wires[leaf].cut.cancel();
    }

    /// From now on nothing passes the wire to a leaf, but it stays open.
    pub(super) fn stall(&self, leaf: &str) {
        self.wires[leaf].stall.cancel();
    }

    /// Waits until the store has no trace of any index.
    pub(super) async fn nothing_left(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut left = Vec::new();
            for prefix in ["index/", "mapping/", "assignment/", "serving/"] {
                left.extend(self.engine.store.list(prefix).await.unwrap().0.into_iter().map(|entry| entry.key));
            }
            if left.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "left: {left:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        for running in self.leaves {
            tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
        }
    }
}

/// What can happen to the wire between the root and a leaf.
struct Wire {
    cut: CancellationToken,
    stall: CancellationToken,
}

/// Passes connections on until it is dropped, and every connection with it.
async fn forward(wire: TcpListener, leaf: SocketAddr, stall: CancellationToken) {
    let mut connections = JoinSet::new();
    while let Ok((mut here, _)) = wire.accept().await {
        let stall = stall.clone();
        connections.spawn(async move {
            let mut there = TcpStream::connect(leaf).await.unwrap();
            here.set_nodelay(true).unwrap();
            there.set_nodelay(true).unwrap();
            let copied = stall.run_until_cancelled(tokio::io::copy_bidirectional(&mut here, &mut there)).await;
            if copied.is_none() {
                std::future::pending().await
            }
        });
    }
}
