//! `trawl leaf`: one leaf process.

mod limits;
pub mod logs;
mod recovery;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use prometheus_client::registry::Registry;
use trawl_cluster::{EngineOptions, Speaks};
use trawl_leaf::{Config, LeafNode};

/// Runs a leaf: holds replicas of shards, tails their logs, answers searches of roots.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl leaf --cluster sqlite:/var/lib/trawl/cluster --grpc 127.0.0.1:9301 \
                        --data-dir /var/lib/trawl/leaf-0 --name leaf-0")]
pub struct Args {
    /// The cluster engine: sqlite:DIR or postgres://USER:PASSWORD@HOST:PORT,HOST2:PORT2/DATABASE
    #[arg(long, env = "TRAWL_CLUSTER", hide_env_values = true, value_name = "URL")]
    pub cluster: String,

    /// Address of the gRPC server
    #[arg(long, env = "TRAWL_GRPC", value_name = "ADDR")]
    pub grpc: SocketAddr,

    /// Address that roots connect to, where it is not the one listened on
    #[arg(long, env = "TRAWL_GRPC_ADVERTISED", value_name = "HOST:PORT")]
    pub grpc_advertised: Option<String>,

    /// Where the replicas are kept
    #[arg(long, env = "TRAWL_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Address that serves /metrics, /livez and /readyz
    #[arg(long, env = "TRAWL_METRICS", value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,

    /// Bytes that replicas may take here: leaves get shares of this size; the size of the data
    /// directory's file system when not given
    #[arg(long, env = "TRAWL_CAPACITY", value_parser = crate::load::size, value_name = "SIZE")]
    pub capacity: Option<usize>,

    /// Failure zone; replicas of a shard are spread over zones
    #[arg(long, env = "TRAWL_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,

    /// Name, stable over restarts; from the host name when not given
    #[arg(long, env = "TRAWL_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Threads that search; the number of cores when not given
    #[arg(long, env = "TRAWL_SEARCH_THREADS", value_name = "N")]
    pub search_threads: Option<usize>,

    /// Shard searches that may wait for a thread; one more is refused at once
    #[arg(long, env = "TRAWL_SEARCH_QUEUE", default_value_t = 1_000, value_name = "N")]
    pub search_queue: usize,

    /// How long parsing one document may take before it counts as hung; it is then rejected
    #[arg(long, env = "TRAWL_DRAFT_TIME", default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub draft_time: Duration,

    /// Rejected documents that the whole cluster keeps; the oldest make room. The same on every leaf
    #[arg(long, env = "TRAWL_DEAD_LETTERS", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub dead_letters: u64,

    /// For rehearsing an upgrade: speak as a version would whose newest protocol is N
    #[arg(long, env = "TRAWL_SPEAK_PROTOCOL", hide = true, value_name = "N")]
    pub speak_protocol: Option<u32>,

    /// For tests: documents that contain PATTERN panic or hang (PATTERN=panic|hang|panic-once)
    #[arg(long, env = "TRAWL_INJECT_POISON", hide = true, value_delimiter = ',', value_name = "PATTERN=FAULT")]
    pub inject_poison: Vec<String>,

    /// For tests: take this long more for every operation that is applied
    #[arg(long, env = "TRAWL_INJECT_APPLY_DELAY", hide = true, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub inject_apply_delay: Option<Duration>,

    /// For tests: the clock is off by as many milliseconds as the file DIR/NAME says
    #[arg(long, env = "TRAWL_INJECT_CLOCK", hide = true, value_name = "DIR")]
    pub inject_clock: Option<PathBuf>,

    /// What it writes into files.
    #[command(flatten)]
    pub logs: logs::LogDirArgs,

    /// How much may be kept.
    #[command(flatten)]
    pub limits: limits::LimitArgs,

    /// How replicas are copied and checked.
    #[command(flatten)]
    pub recovery: recovery::RecoveryArgs,
}

/// Runs until a signal comes.
pub async fn run(args: Args, application_log: Option<&logs::LogFile>) -> anyhow::Result<ExitCode> {
    let shutdown = crate::shutdown::token()?;
    let name = crate::root::name_or_host(args.name);
    if let Some(directory) = &args.inject_clock {
        trawl_proto::clock::inject(directory.join(&name));
    }
    let mut config = Config::new(name.as_str(), &args.data_dir);
    config.grpc = args.grpc;
    config.grpc_advertised = args.grpc_advertised;
    config.zone = args.zone;
    config.speaks = args.speak_protocol.map_or_else(Speaks::default, Speaks::up_to);
    config.capacity_bytes = args.capacity.map(|bytes| bytes as u64);
    config.search_queue_max = args.search_queue;
    args.limits.apply(&mut config);
    args.recovery.apply(&mut config);
    config.inject_apply_delay = args.inject_apply_delay;
    if let Some(threads) = args.search_threads {
        config.search_threads = threads.max(1);
    }
    config.draft_time_max = args.draft_time.max(Duration::from_millis(10));
    let faults = args.inject_poison.iter().map(|text| text.parse().map_err(anyhow::Error::msg));
    config.faults = faults.collect::<anyhow::Result<_>>().context("--inject-poison")?;
    let options = EngineOptions { letters_max: args.dead_letters, ..EngineOptions::default() };
    let engine = trawl_cluster::connect(&args.cluster, &options)
        .await
        .with_context(|| format!("cannot open the cluster engine {}", trawl_cluster::redacted(&args.cluster)))?;
    let mut registry = Registry::default();
    let query_log = args.logs.open("query.log").context("--log-dir")?;
    config.query_log = query_log.as_ref().map(|file| args.logs.query_log(file));
    for (file, log) in [(query_log.as_ref(), "query"), (application_log, "application")] {
        file.inspect(|file| file.register(&mut registry, log));
    }
    let node =
        LeafNode::start(config, engine, &mut registry).await.with_context(|| format!("leaf {name} cannot start"))?;
    tracing::info!(leaf = name, grpc = %node.grpc_addr(), "leaf started");
    let metrics = async {
        match args.metrics {
            Some(address) => {
                crate::telemetry::serve_metrics(address, Arc::new(registry), || true, shutdown.clone()).await
            }
            None => Ok(()),
        }
    };
    let (served, measured) = tokio::join!(node.run(shutdown.clone()), metrics);
    measured?;
    served.with_context(|| format!("leaf {name} failed"))?;
    Ok(ExitCode::SUCCESS)
}
