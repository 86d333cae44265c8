//! `trawl up`: a whole cluster on this machine.
//!
//! Every role is a child process, so that a leaf can be killed like in production. The supervisor
//! restarts what dies, keeps `<data-dir>/cluster.json` true, and ends everything when told to.
//! Children hold a pipe from it and end when that closes, so nothing survives a `kill -9` of it.

mod child;
mod cluster_file;

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{api::table::say, telemetry::LogArgs};
use child::Child;
use cluster_file::{ClusterFile, Role};

/// How long the HTTP ports may stay taken at the start: a cluster that was just killed needs a
/// moment to let go of them.
const PORT_PATIENCE: Duration = Duration::from_secs(12);

/// Runs a whole cluster on this machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl up --data-dir /var/lib/trawl --http 127.0.0.1:9200 --roots 2 --leaves 4")]
pub struct Args {
    /// Everything is kept below this directory
    #[arg(long, env = "TRAWL_DATA_DIR", default_value = "trawl-data", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Address of the first root; further roots take the next ports (port 0: any free ports)
    #[arg(long, env = "TRAWL_HTTP", default_value = "127.0.0.1:9200", value_name = "ADDR")]
    pub http: SocketAddr,

    /// Number of roots
    #[arg(long, env = "TRAWL_ROOTS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    pub roots: u16,

    /// Number of leaves
    #[arg(long, env = "TRAWL_LEAVES", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    pub leaves: u16,

    /// No sidecars: leaves write their logs all the same
    #[arg(long, env = "TRAWL_NO_SIDECARS")]
    pub no_sidecars: bool,

    /// The cluster engine, where it is not to be SQLite in the data directory, for example
    /// postgres://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, env = "TRAWL_CLUSTER", hide_env_values = true, value_name = "URL")]
    pub cluster: Option<String>,

    /// One more argument for every leaf, for example --leaf-arg=--draft-time=2s (for tests)
    #[arg(long = "leaf-arg", hide = true, allow_hyphen_values = true, value_name = "ARG")]
    pub leaf_args: Vec<String>,
}

/// Runs until a signal comes.
pub async fn run(args: Args, log: &LogArgs) -> anyhow::Result<ExitCode> {
    let shutdown = crate::shutdown::token()?;
    let cluster = Cluster::start(&args, log, shutdown.clone()).await?;
    // Whoever reads this may have gone: that is no reason to end.
    say(&format!("cluster: {} roots, {} leaves, data in {}", args.roots, args.leaves, args.data_dir.display()));
    for root in &cluster.roots {
        say(&format!("root: http://{root}"));
    }
    tokio::select! {
        ready = cluster.ready(Duration::from_secs(60)) => match ready {
            Ok(()) => say(&format!("ready: http://{} (Ctrl-C ends it)", cluster.endpoint())),
            Err(error) => tracing::warn!("not ready yet: {error:#}"),
        },
        () = shutdown.cancelled() => {}
    }
    shutdown.cancelled().await;
    cluster.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// A running cluster of child processes.
pub struct Cluster {
    /// HTTP addresses of the roots, in order of their names.
    pub roots: Vec<SocketAddr>,
    leaves: usize,
    children: JoinSet<()>,
    stop: CancellationToken,
    /// Held as long as the cluster runs; the lock ends with the process.
    _lock: File,
}

impl Cluster {
    /// Locks the data directory and starts every child. Does not wait until they are ready.
    ///
    /// # Errors
    /// The directory is in use or was used by more leaves; the HTTP ports are taken.
    pub async fn start(args: &Args, log: &LogArgs, stop: CancellationToken) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&args.data_dir)
            .with_context(|| format!("cannot create the data directory {}", args.data_dir.display()))?;
        let data_dir = args.data_dir.canonicalize()?;
        let lock = lock(&data_dir)?;
        refuse_fewer_leaves(&data_dir, usize::from(args.leaves))?;

        let roots = root_addresses(args.http, args.roots).await?;
        let cluster_dir = data_dir.join("cluster");
        std::fs::create_dir_all(&cluster_dir)?;
        let url = args.cluster.clone().unwrap_or_else(|| format!("sqlite:{}", cluster_dir.display()));
        let children = planned_children(&data_dir, &url, &roots, args);
        let file =
            Arc::new(ClusterFile::new(data_dir.join("cluster.json"), trawl_cluster::redacted(&url), children.len()));

        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut tasks = JoinSet::new();
        for (place, child) in children.into_iter().enumerate() {
            let command =
                child::Command { program: program.clone(), log: log.clone(), leaf_args: args.leaf_args.clone() };
            tasks.spawn(child::supervise(place, child, command, file.clone(), stop.clone()));
        }
        Ok(Self { roots, leaves: usize::from(args.leaves), children: tasks, stop, _lock: lock })
    }

    /// The first root's HTTP address.
    pub fn endpoint(&self) -> SocketAddr {
        self.roots[0]
    }

    /// Returns when every root is ready and every leaf has joined.
    ///
    /// # Errors
    /// Not within the timeout; says what was missing.
    pub async fn ready(&self, timeout: Duration) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        let deadline = Instant::now() + timeout;
        for root in &self.roots {
            while let Err(missing) = root_ready(&client, *root, self.leaves).await {
                if Instant::now() > deadline {
                    bail!("{missing} after {timeout:?}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Ends every child, within 10 s.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.children.join_next().await.is_some() {}
    }
}

async fn root_ready(client: &reqwest::Client, root: SocketAddr, leaves: usize) -> Result<(), String> {
    let ready = client.get(format!("http://{root}/readyz")).send().await;
    if !ready.is_ok_and(|answer| answer.status().is_success()) {
        return Err(format!("root {root} is not ready"));
    }
    let state = client.get(format!("http://{root}/_trawl/cluster")).send().await.map_err(|error| error.to_string())?;
    let state: serde_json::Value = state.json().await.map_err(|error| error.to_string())?;
    let joined = state["leaves"].as_array().map_or(0, Vec::len);
    if joined < leaves {
        return Err(format!("{joined} of {leaves} leaves have joined root {root}"));
    }
    if state["leader"].is_null() {
        return Err(format!("root {root} sees no leader"));
    }
    Ok(())
}

fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write in {}", data_dir.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!(
            "{} is in use by another `trawl up` or `trawl demo`: stop that one, or give another --data-dir",
            data_dir.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => Err(error).context(format!("cannot lock {}", path.display())),
    }
}

/// With fewer leaves than last time some replicas would have no home, and with them perhaps data.
fn refuse_fewer_leaves(data_dir: &Path, leaves: usize) -> anyhow::Result<()> {
    let before = (0..).take_while(|number| data_dir.join(format!("leaf-{number}")).exists()).count();
    if leaves < before {
        bail!(
            "{} was used with {before} leaves and would lose the replicas of {} of them: start it with --leaves {before}, \
             and drain a leaf before it is left out",
            data_dir.display(),
            before - leaves
        );
    }
    Ok(())
}

fn planned_children(data_dir: &Path, url: &str, roots: &[SocketAddr], args: &Args) -> Vec<Child> {
    let hosts: Vec<String> = roots.iter().map(SocketAddr::to_string).collect();
    let sink = format!("trawl://{}/", hosts.join(","));
    let roots = roots.iter().enumerate().map(|(number, http)| Child {
        role: Role::Root,
        name: format!("root-{number}"),
        cluster: url.to_owned(),
        http: Some(*http),
        data_dir: None,
        log_dir: None,
        sink: None,
    });
    let leaf = |number: u16| Child {
        role: Role::Leaf,
        name: format!("leaf-{number}"),
        cluster: url.to_owned(),
        http: None,
        data_dir: Some(data_dir.join(format!("leaf-{number}"))),
        log_dir: Some(data_dir.join("logs").join(format!("leaf-{number}"))),
        sink: None,
    };
    // Beside each leaf, under its name: a leaf's own files are none of its business.
    let sidecar = |number: u16| Child {
        role: Role::Sidecar,
        name: format!("sidecar-{number}"),
        data_dir: Some(data_dir.join("sidecars").join(format!("leaf-{number}"))),
        sink: Some((sink.clone(), format!("leaf-{number}"))),
        ..leaf(number)
    };
    let sidecars = if args.no_sidecars { 0 } else { args.leaves };
    roots.chain((0..args.leaves).map(leaf)).chain((0..sidecars).map(sidecar)).collect()
}

/// The roots' addresses, checked to be free; port 0 is resolved to free ports.
async fn root_addresses(first: SocketAddr, roots: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let deadline = Instant::now() + PORT_PATIENCE;
    let mut held = Vec::new();
    for number in 0..roots {
        let mut address = first;
        if first.port() != 0 {
            let port = first.port().checked_add(number).context("--http leaves no ports for all roots")?;
            address.set_port(port);
        }
        loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break held.push(listener),
                Err(error) if Instant::now() > deadline || error.kind() != std::io::ErrorKind::AddrInUse => {
                    return Err(error)
                        .context(format!("cannot listen on {address}: choose another address with --http"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
    // All are held at once until here, so that port 0 never gives the same port twice.
    Ok(held.iter().map(std::net::TcpListener::local_addr).collect::<Result<_, _>>()?)
}
