//! `trawl queue`: the work queue, for a person: what waits, what is at work, and what died in it.
//!
//! Dead things are of two sorts. A dead letter is one document that the index rejected; its id is
//! `INDEXUID/SHARD/INCARNATION/SEQ`. A dead task is a piece of work whose attempts all failed; its id is `task-12`.

mod dead;
mod status;
mod table;

use std::{process::ExitCode, time::Duration};

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;
use trawl_data::load::{Client, Reply};

const TIMEOUT: Duration = Duration::from_secs(60);

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

/// What every command understands.
#[derive(Debug, clap::Args)]
struct Common {
    /// A root's address
    #[arg(long, env = "TRAWL_ENDPOINT", default_value = "http://127.0.0.1:9200", value_name = "URL")]
    endpoint: String,

    /// Print the raw answer
    #[arg(long, env = "TRAWL_JSON")]
    json: bool,
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

/// A root's API.
struct Api {
    client: Client,
}

impl Api {
    fn new(common: &Common) -> anyhow::Result<Self> {
        Ok(Self { client: Client::new(&common.endpoint, TIMEOUT)? })
    }

    async fn get(&self, path: &[&str], parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.answer(self.client.get_with(path, parameters).await)
    }

    async fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Value> {
        self.answer(self.client.send_json(Method::POST, path, body).await)
    }

    fn answer(&self, reply: Result<Reply, trawl_data::load::ClientError>) -> anyhow::Result<Value> {
        let reply = reply.map_err(|error| {
            let hint = if error.is_connect() { " (is a cluster running there? `trawl up` starts one)" } else { "" };
            anyhow::anyhow!("no answer from {}: {error}{hint}", self.client.endpoint())
        })?;
        anyhow::ensure!(reply.is_success(), "refused (status {}): {}", reply.status, reply.error_reason());
        Ok(reply.json())
    }
}

fn print_json(value: &Value) -> anyhow::Result<ExitCode> {
    table::say(&serde_json::to_string_pretty(value)?);
    Ok(ExitCode::SUCCESS)
}

/// The text at a key; empty when there is none.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A number at a key as text; a dash when there is none.
fn number(value: &Value, key: &str) -> String {
    value[key].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}
