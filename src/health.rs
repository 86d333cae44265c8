//! `trawl health`: whether a root is ready, by exit code; for container health checks and scripts.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;

/// Asks a root's `/readyz` and shows the cluster's health.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl health --endpoint http://127.0.0.1:9200")]
pub struct Args {
    /// A root's address
    #[arg(long, env = "TRAWL_ENDPOINT", default_value = "http://127.0.0.1:9200", value_name = "URL")]
    pub endpoint: String,

    /// How long to wait for the answer
    #[arg(long, env = "TRAWL_HEALTH_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub timeout: Duration,
}

/// Exit code 0 when ready, 1 when not or not reachable.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let endpoint = args.endpoint.trim_end_matches('/');
    let client = reqwest::Client::builder().timeout(args.timeout).build()?;
    let ready = client
        .get(format!("{endpoint}/readyz"))
        .send()
        .await
        .with_context(|| format!("no answer from {endpoint} (is the cluster up? `trawl up` starts one)"))?;
    if !ready.status().is_success() {
        println!("not ready: {}", ready.text().await?.trim());
        return Ok(ExitCode::FAILURE);
    }
    let health: serde_json::Value = client.get(format!("{endpoint}/_cluster/health")).send().await?.json().await?;
    println!("ready, {}", health["status"].as_str().unwrap_or("health unknown"));
    Ok(ExitCode::SUCCESS)
}
