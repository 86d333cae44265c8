//! A root's API, for the subcommands that ask it and show the answer to a person.

pub mod table;

use std::{process::ExitCode, time::Duration};

use reqwest::Method;
use serde_json::Value;
use trawl_data::load::{Client, Reply};

const TIMEOUT: Duration = Duration::from_secs(60);

/// What every such command understands.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// A root's address
    #[arg(long, env = "TRAWL_ENDPOINT", default_value = "http://127.0.0.1:9200", value_name = "URL")]
    pub endpoint: String,

    /// Print the raw answer
    #[arg(long, env = "TRAWL_JSON")]
    pub json: bool,
}

/// A root's API.
pub struct Api {
    client: Client,
}

impl Api {
    /// Of the root that the arguments name.
    pub fn new(common: &Common) -> anyhow::Result<Self> {
        Ok(Self { client: Client::new(&common.endpoint, TIMEOUT)? })
    }

    /// Asks for what is at a path.
    pub async fn get(&self, path: &[&str], parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.answer(self.client.get_with(path, parameters).await)
    }

    /// Sends a body.
    pub async fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Value> {
        self.answer(self.client.send_json(Method::POST, path, body).await)
    }

    /// Does something without a body.
    pub async fn send(&self, method: Method, path: &[&str]) -> anyhow::Result<Value> {
        self.answer(self.client.call(method, path).await)
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

/// Prints an answer as it is.
pub fn print_json(value: &Value) -> anyhow::Result<ExitCode> {
    table::say(&serde_json::to_string_pretty(value)?);
    Ok(ExitCode::SUCCESS)
}

/// The text at a key; empty when there is none.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A number at a key as text; a dash when there is none.
pub fn number(value: &Value, key: &str) -> String {
    value[key].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}
