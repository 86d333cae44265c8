//! `trawl root`: one root process.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};
use trawl_cluster::{EngineOptions, Speaks};
use trawl_root::{Config, node::RootNode};

/// Runs a root: serves HTTP, plans, scatters to the leaves and merges; one root leads.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: trawl root --cluster sqlite:/var/lib/trawl/cluster --http 127.0.0.1:9200 --name root-0"
)]
pub struct Args {
    /// The cluster engine: sqlite:DIR or postgres://USER:PASSWORD@HOST:PORT,HOST2:PORT2/DATABASE
    #[arg(long, env = "TRAWL_CLUSTER", hide_env_values = true, value_name = "URL")]
    pub cluster: String,

    /// Address of the HTTP server
    #[arg(long, env = "TRAWL_HTTP", default_value = "127.0.0.1:9200", value_name = "ADDR")]
    pub http: SocketAddr,

    /// Address of a gRPC server with the standard health service (grpc.health.v1)
    #[arg(long, env = "TRAWL_GRPC", value_name = "ADDR")]
    pub grpc: Option<SocketAddr>,

    /// Address that others reach the HTTP server under, where it is not the one listened on
    #[arg(long, env = "TRAWL_HTTP_ADVERTISED", value_name = "HOST:PORT")]
    pub http_advertised: Option<String>,

    /// Name, stable over restarts; from the host name when not given
    #[arg(long, env = "TRAWL_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// How long a leaf may be missing before its replicas are replaced, where the index does not say
    /// (index.unassigned.node_left.delayed_timeout)
    #[arg(long, env = "TRAWL_REPLACE_AFTER", default_value = "60s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub replace_after: Duration,

    /// Calls to leaves that are made a second time, at another replica, because they are late: at most this share of
    /// all calls; 0 makes none
    #[arg(long, env = "TRAWL_HEDGE_BUDGET", default_value = "0.05", value_parser = share, value_name = "SHARE")]
    pub hedge_budget: f64,

    /// For how long every node has to speak a newer protocol before there is no way back to the version before
    #[arg(long, env = "TRAWL_UPGRADE_AFTER", default_value = "10m", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub upgrade_after: Duration,

    /// Failure zone of this process
    #[arg(long, env = "TRAWL_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,

    /// For rehearsing an upgrade: speak as a version would whose newest protocol is N
    #[arg(long, env = "TRAWL_SPEAK_PROTOCOL", hide = true, value_name = "N")]
    pub speak_protocol: Option<u32>,

    /// For tests: the clock is off by as many milliseconds as the file DIR/NAME says
    #[arg(long, env = "TRAWL_INJECT_CLOCK", hide = true, value_name = "DIR")]
    pub inject_clock: Option<PathBuf>,

    /// For tests: while the file DIR/NAME is there, a leader holds back the writes that it names
    #[arg(long, env = "TRAWL_INJECT_HOLD", hide = true, value_name = "DIR")]
    pub inject_hold: Option<PathBuf>,

    #[command(flatten)]
    pub limits: crate::limits::LimitArgs,
}

/// Runs until a signal comes.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let shutdown = crate::shutdown::token()?;
    let name = name_or_host(args.name);
    if let Some(directory) = args.inject_clock {
        trawl_proto::clock::inject(directory.join(&name));
    }
    let mut config = Config::new(name.as_str(), args.http);
    config.http_advertise = args.http_advertised;
    config.zone = args.zone;
    config.lead.replace_after = args.replace_after;
    config.search.hedge.ratio = args.hedge_budget;
    config.lead.inject_hold = args.inject_hold.map(|directory| directory.join(&name));
    config.lead.upgrade_after = args.upgrade_after;
    config.speaks = args.speak_protocol.map_or_else(Speaks::default, Speaks::up_to);
    let mut options = EngineOptions::default();
    args.limits.apply(&mut config, &mut options);
    let engine = trawl_cluster::connect(&args.cluster, &options)
        .await
        .with_context(|| format!("cannot open the cluster engine {}", trawl_cluster::redacted(&args.cluster)))?;
    let node = RootNode::start(config, engine).await.with_context(|| format!("root {name} cannot start"))?;
    tracing::info!(root = name, http = %node.http_addr(), "root started");
    let health = async {
        match args.grpc {
            Some(address) => serve_health(address, shutdown.clone()).await,
            None => Ok(()),
        }
    };
    let (served, healthy) = tokio::join!(node.run(shutdown.clone()), health);
    healthy?;
    served.with_context(|| format!("root {name} failed"))?;
    Ok(ExitCode::SUCCESS)
}

/// A number between 0 and 1.
pub fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1.0).contains(&share).then_some(share).ok_or_else(|| "a share lies between 0 and 1".to_owned())
}

/// Answers "serving" for as long as the process runs.
async fn serve_health(address: SocketAddr, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let incoming = TcpIncoming::bind(address)
        .with_context(|| format!("cannot listen on {address} for gRPC (--grpc)"))?
        .with_nodelay(Some(true));
    Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await?;
    Ok(())
}

/// The given name, or the host's.
pub fn name_or_host(name: Option<String>) -> String {
    name.or_else(|| nix::unistd::gethostname().ok()?.into_string().ok()).unwrap_or_else(|| "trawl".to_owned())
}
