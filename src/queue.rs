//! `trawl queue`: the work queue, for a person: what waits, what is at work, and what died in it.
//!
//! Dead things are of two sorts. A dead letter is one document that the index rejected; its id is
//! `INDEXUID/SHARD/INCARNATION/SEQ`. A dead task is a piece of work whose attempts all failed; its id is `task-12`.

mod dead;
mod status;

use std::process::ExitCode;

use clap::Subcommand;

use crate::api::{Api, Common, number, print_json, table, text};

const EXAMPLES: &str = "\
Examples:
  trawl queue status
  trawl queue tasks --state claimed
  trawl queue cancel task-12
  trawl queue dead list
  trawl queue dead replay task-12";

/// Shows the work queue and what died in it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Tasks by kind and state; each shard's log and how far its replicas are
    Status(status::StatusArgs),
    /// Tasks one by one
    Tasks(status::TasksArgs),
    /// End tasks that wait or are at work; they are then dead
    Cancel(status::CancelArgs),
    /// Documents that were rejected, and tasks whose attempts all failed
    #[command(subcommand, after_help = dead::EXAMPLES)]
    Dead(dead::Command),
}

/// Exit code 0 when it was done, 1 when not.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Status(args) => status::status(args).await,
        Command::Tasks(args) => status::tasks(args).await,
        Command::Cancel(args) => status::cancel(args).await,
        Command::Dead(command) => dead::run(command).await,
    }
}
