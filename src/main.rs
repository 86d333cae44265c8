//! The one binary: parses the command line, sets up logging, runs one subcommand, exits.
//!
//! Exit codes: 0 done, 1 failed, 2 usage.
#![forbid(unsafe_code)]

mod ambassador;
mod api;
mod cli;
mod cluster;
mod config;
mod demo;
mod engine_queue;
mod health;
mod leaf;
mod limits;
mod load;
mod queue;
mod root;
mod search;
mod shutdown;
mod sidecar;
mod telemetry;
mod up;
mod worker;

use std::{io::Write, process::ExitCode};

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let application_log = match &cli.command {
        Command::Leaf(args) => args.logs.open("application.log"),
        _ => Ok(None),
    };
    let application_log = application_log.unwrap_or_else(|error| {
        eprintln!("trawl: there is no application log (--log-dir): {error}");
        None
    });
    telemetry::start(&cli.log, application_log.as_ref().map(leaf::logs::LogFile::writer));
    // TLS towards an https endpoint needs one process-wide provider; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("trawl: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(cli, application_log.as_ref()));
    // Blocking work that outlives its command (a stuck disk) must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // Standard error may be full or closed.
            let _ = writeln!(std::io::stderr(), "trawl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli, application_log: Option<&leaf::logs::LogFile>) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Demo(args) => demo::run(args, &cli.log).await,
        Command::Up(args) => up::run(args, &cli.log).await,
        Command::Root(args) => root::run(args).await,
        Command::Leaf(args) => leaf::run(args, application_log).await,
        Command::Sidecar(args) => sidecar::run(args).await,
        Command::Ambassador(args) => ambassador::run(args).await,
        Command::Load(args) => load::run(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Cluster(args) => cluster::run(args).await,
        Command::Queue(args) => queue::run(args).await,
        Command::Search(args) => search::run(args).await,
        Command::Health(args) => health::run(args).await,
        Command::Bench(command) => trawl_bench::run(command).await,
    }
}
