//! `trawl ambassador`: one local address that stands for all roots.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use axum::http::HeaderValue;
use trawl_ambassador::{Config, Source};

use crate::load::size;

const EXAMPLES: &str = "\
Examples:
  trawl ambassador --cluster sqlite:trawl-data/cluster --listen 127.0.0.1:9300
  trawl ambassador --roots https://root-a.example:9243,https://root-b.example:9243 --ca-file ca.pem \\
      --add-authorization-file token --listen 127.0.0.1:9300
  trawl ambassador --roots-dns trawl-roots.default.svc:9200 --listen 127.0.0.1:9300

Applications use the address as if it were a root. GET /_ambassador/status says what it sees; /metrics, /livez, /readyz.
An application that waits no longer than some time says so by the header X-Request-Timeout (2s, 500ms).";

/// Stands for all roots at one local address: balances, checks, retries, limits.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[group(id = "where", required = true, multiple = false, args = ["cluster", "roots", "roots_dns"])]
pub struct Args {
    /// The cluster engine that the roots are registered in
    #[arg(long, env = "TRAWL_CLUSTER", hide_env_values = true, value_name = "URL")]
    pub cluster: Option<String>,

    /// The roots, where there is no cluster engine to ask
    #[arg(long, env = "TRAWL_AMBASSADOR_ROOTS", value_delimiter = ',', value_name = "URL")]
    pub roots: Vec<String>,

    /// A name whose addresses are the roots, looked up again and again
    #[arg(long, env = "TRAWL_ROOTS_DNS", value_name = "HOST:PORT")]
    pub roots_dns: Option<String>,

    /// Address that applications are given
    #[arg(long, env = "TRAWL_LISTEN", default_value = "127.0.0.1:9300", value_name = "ADDR")]
    pub listen: SocketAddr,

    /// Speak TLS to roots whose URL does not say how
    #[arg(long, env = "TRAWL_ROOTS_TLS")]
    pub roots_tls: bool,

    /// Certificate authorities (PEM) to believe, instead of the system's
    #[arg(long, env = "TRAWL_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// A file with the value of `Authorization` (`ApiKey …`, `Basic …`) for requests that have none
    #[arg(long, env = "TRAWL_ADD_AUTHORIZATION_FILE", value_name = "FILE")]
    pub add_authorization_file: Option<PathBuf>,

    /// How long a read may take before a second root is asked as well
    #[arg(long, env = "TRAWL_RETRY_DELAY", default_value = "250ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub retry_delay: Duration,

    /// The same for a write of documents
    #[arg(long, env = "TRAWL_WRITE_RETRY_DELAY", default_value = "1s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub write_retry_delay: Duration,

    /// For how long after its arrival a request is sent again
    #[arg(long, env = "TRAWL_RETRY_FOR", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub retry_for: Duration,

    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Limits of an ambassador; what each one means stands in `trawl_ambassador::Config`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Requests at work; one more is a 429
    #[arg(long, env = "TRAWL_REQUESTS_IN_FLIGHT", default_value = "1024", value_name = "N")]
    pub requests_in_flight: usize,

    /// Connections of applications; further ones wait
    #[arg(long, env = "TRAWL_HTTP_CONNECTIONS", default_value = "4096", value_name = "N")]
    pub http_connections: usize,

    /// The largest request that can be sent again; a larger one is streamed once
    #[arg(long, env = "TRAWL_REPLAY_SIZE", default_value = "1MiB", value_parser = size, value_name = "SIZE")]
    pub replay_size: usize,

    /// How long reading that much of a request may take; then 408
    #[arg(long, env = "TRAWL_HTTP_BODY_TIME", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub http_body_time: Duration,

    /// Bodies kept at once; without room a body is streamed
    #[arg(long, env = "TRAWL_KEPT_BYTES", default_value = "64MiB", value_parser = size, value_name = "SIZE")]
    pub kept_bytes: usize,

    /// Requests sent again, as a share of all
    #[arg(long, env = "TRAWL_RETRY_SHARE", default_value = "0.2", value_parser = crate::root::share, value_name = "SHARE")]
    pub retry_share: f64,

    /// Requests sent again per second, whatever the share
    #[arg(long, env = "TRAWL_RETRIES_PER_SECOND", default_value = "10", value_name = "N")]
    pub retries_per_second: u32,

    /// How often each root is asked how it is
    #[arg(long, env = "TRAWL_CHECK_INTERVAL", default_value = "1s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub check_interval: Duration,

    /// How long its answer to that may take
    #[arg(long, env = "TRAWL_CHECK_TIME", default_value = "500ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub check_time: Duration,
}

/// Runs until a signal comes.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let shutdown = crate::shutdown::token()?;
    let ambassador = trawl_ambassador::start(config(args)?, shutdown).await.context("the ambassador cannot start")?;
    tracing::info!(listen = %ambassador.address()?, "ambassador started");
    ambassador.run().await.context("the ambassador failed")?;
    Ok(ExitCode::SUCCESS)
}

fn config(args: Args) -> anyhow::Result<Config> {
    let source = match (args.cluster, args.roots_dns) {
        (Some(url), _) => Source::Cluster(url),
        (None, Some(name)) => Source::Dns(name),
        (None, None) => Source::List(args.roots),
    };
    let mut config = Config::new(args.listen, source);
    config.tls = args.roots_tls;
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    config.authorities = args.ca_file.as_ref().map(read).transpose()?;
    if let Some(path) = &args.add_authorization_file {
        let text = String::from_utf8(read(path)?).unwrap_or_default();
        let mut value = HeaderValue::from_str(text.trim())
            .with_context(|| format!("{} is no value of a header", path.display()))?;
        value.set_sensitive(true);
        config.authorization = Some(value);
    }
    config.read_delay = args.retry_delay;
    config.write_delay = args.write_retry_delay;
    config.repeat_time = args.retry_for;
    config.requests_max = args.limits.requests_in_flight.max(1);
    config.connections_max = args.limits.http_connections.max(1);
    config.replay_bytes_max = args.limits.replay_size;
    config.body_time = args.limits.http_body_time;
    config.kept_bytes_max = args.limits.kept_bytes;
    config.repeat_share = args.limits.retry_share as f32;
    config.repeats_per_second = args.limits.retries_per_second;
    config.check_interval = args.limits.check_interval;
    config.check_time = args.limits.check_time;
    Ok(config)
}
