//! Logs of the process (one line per event, to standard error) and the metrics endpoint of roles
//! that have no HTTP server of their own.

use std::{io::IsTerminal, net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use clap::{Args, ValueEnum};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::{fmt::layer, layer::SubscriberExt, util::SubscriberInitExt};

/// How to log.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// Least level to log: error, warn, info, debug, trace, or a tracing filter such as
    /// `info,trawl_leaf=debug`
    #[arg(
        long,
        global = true,
        env = "TRAWL_LOG",
        default_value = "info",
        value_name = "LEVEL",
        help_heading = "Global options"
    )]
    pub log: String,

    /// Form of a log line; auto is text on a terminal and JSON elsewhere
    #[arg(long, global = true, env = "TRAWL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto, help_heading = "Global options")]
    pub log_format: LogFormat,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For a person.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// The value to hand to a child process, with `auto` decided by this process's terminal.
    pub fn for_child(self) -> &'static str {
        if self.is_json() { "json" } else { "text" }
    }

    fn is_json(self) -> bool {
        match self {
            Self::Auto => !std::io::stderr().is_terminal(),
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// Starts logging, also into a file if there is one, as JSON lines. A filter that cannot be read is reported and replaced by `info`.
pub fn start(args: &LogArgs, file: Option<NonBlocking>) {
    // Each attempt of a request for an object is said by its client; what comes of it in the end is said by us.
    let filter =
        tracing_subscriber::EnvFilter::try_new(format!("object_store=warn,{}", args.log)).unwrap_or_else(|error| {
            eprintln!("trawl: log level {:?} cannot be read ({error}), using info", args.log);
            tracing_subscriber::EnvFilter::new("info")
        });
    // What cannot be logged is told nobody: complaining on standard error panics where that is what is full or closed.
    let json = args.log_format.is_json();
    let as_json =
        json.then(|| layer().log_internal_errors(false).json().flatten_event(true).with_writer(std::io::stderr));
    let as_text = (!json).then(|| {
        layer().log_internal_errors(false).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr)
    });
    let in_file = file.map(|file| layer().log_internal_errors(false).json().flatten_event(true).with_writer(file));
    tracing_subscriber::registry().with(filter).with(as_json).with(as_text).with(in_file).init();
}

/// Serves `/metrics` (OpenMetrics), `/livez` and `/readyz` until shutdown; `ready` answers the last.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve_metrics(
    address: SocketAddr,
    registry: Arc<Registry>,
    ready: impl Fn() -> bool + Clone + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for metrics (--metrics)"))?;
    let router = Router::new()
        .route("/metrics", get(move || std::future::ready(metrics_text(&registry))))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || std::future::ready(readiness(ready()))));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    Ok(())
}

fn readiness(ready: bool) -> (StatusCode, &'static str) {
    if ready { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

fn metrics_text(registry: &Registry) -> impl IntoResponse + use<> {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
