//! The harness that measures Trawl: every figure in `bench/README.md` comes from one of these.
//!
//! Two things are always measured in one run, in turns, for several rounds, and compared as a ratio of
//! medians: machines differ and are noisy, ratios much less.

mod ambassador;
mod append;
mod bare;
mod cluster;
mod index;
mod processes;
mod sidecar;
mod table;
mod write;

use std::process::ExitCode;

/// Measures.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Indexing: `trawl load` into a cluster against bare tantivy on the same documents
    Index(index::Args),
    /// What the ambassador adds to a search: direct and through it, in turns
    Ambassador(ambassador::Args),
    /// Log appends: 32 producers at once against one that waits for each
    Append(append::Args),
    /// Latency of single writes: with outcome, and with refresh=wait_for
    Write(write::Args),
    /// Shipping logs: CPU per line, memory, and the rate into a cluster
    Sidecar(sidecar::Args),
}

/// Runs one measurement and prints its table.
///
/// # Errors
/// When something could not be started, or what was measured is not right (documents missing).
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Index(args) => index::run(args).await?,
        Command::Ambassador(args) => ambassador::run(args).await?,
        Command::Append(args) => append::run(args).await?,
        Command::Write(args) => write::run(args).await?,
        Command::Sidecar(args) => sidecar::run(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}
