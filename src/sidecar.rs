//! `trawl sidecar`: ships the log files of one directory.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use prometheus_client::registry::Registry;
use trawl_sidecar::{Config, Custom, FormatRule, Health, SinkConfig};

use crate::load::size;

const EXAMPLES: &str = "\
Examples:
  trawl sidecar --log-dir /var/log/app --state /var/lib/sidecar --sink trawl://127.0.0.1:9200/
  trawl sidecar --log-dir /var/log/app --state /var/lib/sidecar --sink 'file:/tmp/errors.ndjson?level=error' \\
      --sink 'otlp+http://127.0.0.1:4318?sample=debug:0.01' --format 'access*=access' --resource service.name=shop

Sinks: stdout:, file:PATH, trawl://HOST:PORT,HOST:PORT/, trawls:// (TLS), otlp+http://HOST:PORT, otlp+https://, otlp+grpc://.
Parameters of a sink: level (the least that is shipped), sample=LEVEL:SHARE, only=REGEX and drop=REGEX (on the message),
buffer=SIZE (on disk, default 1GiB), gzip=true|false; for trawl:// also index=PREFIX, shards=N, replicas=N.";

/// Follows every log file in a directory, across rotation, and ships each line to every sink.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The directory whose files are followed
    #[arg(long, env = "TRAWL_LOG_DIR", value_name = "DIR")]
    pub log_dir: PathBuf,

    /// Where it keeps how far it is, and what sinks have not taken yet
    #[arg(long, env = "TRAWL_STATE", value_name = "DIR")]
    pub state: PathBuf,

    /// Where records go; may be given several times
    #[arg(long, env = "TRAWL_SINK", value_delimiter = ' ', required = true, value_name = "URL")]
    pub sink: Vec<SinkConfig>,

    /// Address that serves /metrics, /livez and /readyz
    #[arg(long, env = "TRAWL_METRICS", value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,

    /// Name, stable over restarts and unlike that of any other sidecar; from the host name when not given
    #[arg(long, env = "TRAWL_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Format of files by name, with `*`: auto, json, logfmt, cri, syslog, access, plain, or one of --regex
    #[arg(long, env = "TRAWL_LINE_FORMAT", value_delimiter = ' ', value_name = "PATTERN=FORMAT")]
    pub format: Vec<FormatRule>,

    /// A format of one's own, with named groups such as `(?<time>…)`, `(?<level>…)`, `(?<message>…)`
    #[arg(long, env = "TRAWL_REGEX", value_parser = custom, value_name = "NAME=REGEX")]
    pub regex: Vec<Custom>,

    /// Attribute of every record's resource, for example service.name=shop
    #[arg(long, env = "TRAWL_RESOURCE", value_delimiter = ',', value_parser = attribute, value_name = "KEY=VALUE")]
    pub resource: Vec<(String, String)>,

    /// Files that are left out, with `*`
    #[arg(long, env = "TRAWL_EXCLUDE", value_delimiter = ' ', value_name = "PATTERN")]
    pub exclude: Vec<String>,

    /// Longest line; the rest of it is left out, marked
    #[arg(long, env = "TRAWL_LINE_SIZE", default_value = "256KiB", value_parser = size, value_name = "SIZE")]
    pub line_size: usize,

    /// How long records wait to be shipped together
    #[arg(long, env = "TRAWL_BATCH_TIME", default_value = "500ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub batch_time: Duration,

    /// How long a record waits for further lines that belong to it
    #[arg(long, env = "TRAWL_JOIN_TIME", default_value = "1s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub join_time: Duration,
}

/// Runs until a signal comes.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let shutdown = crate::shutdown::token()?;
    let name = crate::root::name_or_host(args.name);
    let mut config = Config::new(args.log_dir, args.state, name.as_str());
    config.sinks = args.sink;
    config.formats = args.format;
    config.custom = args.regex;
    config.resource = args.resource;
    if let Some(host) = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok())
        && !config.resource.iter().any(|(key, _)| key == "host.name")
    {
        config.resource.push(("host.name".to_owned(), host));
    }
    config.exclude = args.exclude;
    config.line_bytes_max = args.line_size.max(1);
    config.batch_time = args.batch_time;
    config.join_time = args.join_time;

    let mut registry = Registry::default();
    let health = Health::default();
    let running = trawl_sidecar::run(config, &mut registry, health.clone(), shutdown.clone())
        .with_context(|| format!("sidecar {name} cannot start"))?;
    tracing::info!(sidecar = name, "sidecar started");
    let metrics = async {
        match args.metrics {
            Some(address) => {
                let ready = move || health.is_ready();
                crate::telemetry::serve_metrics(address, Arc::new(registry), ready, shutdown.clone()).await
            }
            None => Ok(()),
        }
    };
    let (ran, measured) = tokio::join!(running, metrics);
    measured?;
    ran.with_context(|| format!("sidecar {name} failed"))?;
    Ok(ExitCode::SUCCESS)
}

fn custom(text: &str) -> Result<Custom, String> {
    let (name, pattern) = text.split_once('=').ok_or("has to be NAME=REGEX")?;
    Custom::new(name, pattern)
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("has to be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
