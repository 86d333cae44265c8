//! What `trawl ambassador` adds to a search: the same request to a root and through the ambassador, in turns.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cluster::Cluster;
use crate::table::print;

/// How long the ambassador may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Samples drawn again for an interval.
const RESAMPLES: usize = 1_000;

/// Measures what the ambassador adds to a search.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl bench ambassador --pairs 5000")]
pub struct Args {
    /// Pairs of searches, each in an order of chance
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pub pairs: usize,
    /// Documents searched
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub documents: usize,
    /// Leaves
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub leaves: usize,
}

/// Runs pairs of searches, and prints quantiles of both and of the difference, with intervals of 95 % (bootstrap of pairs).
pub async fn run(args: Args) -> anyhow::Result<()> {
    let cluster = Cluster::start(1, args.leaves, &[]).await?;
    cluster.create("bench", &json!({"settings": {"number_of_shards": args.leaves, "number_of_replicas": 0}})).await?;
    fill(&cluster, args.documents).await?;
    let (ambassador, through) = start(cluster.endpoint()).await?;
    let direct = cluster.endpoint().to_owned();
    for _ in 0..100 {
        search(&cluster, &direct).await?;
        search(&cluster, &through).await?;
    }
    let mut pairs = Vec::with_capacity(args.pairs);
    for _ in 0..args.pairs {
        pairs.push(if rand::random() {
            let first = search(&cluster, &direct).await?;
            [first, search(&cluster, &through).await?]
        } else {
            let first = search(&cluster, &through).await?;
            [search(&cluster, &direct).await?, first]
        });
    }
    drop(ambassador);
    cluster.stop().await;

    let mut rows = vec![["", "p50 ms", "p90 ms", "p99 ms"].map(str::to_owned).to_vec()];
    let quantiles = [0.5, 0.9, 0.99];
    for (name, which) in [("direct", 0), ("through the ambassador", 1)] {
        let cells = quantiles.map(|share| format!("{:.3}", quantile(pairs.iter().map(|pair| pair[which]), share)));
        rows.push([name.to_owned()].into_iter().chain(cells).collect());
    }
    let cells = quantiles.map(|share| {
        let (low, high) = interval(&pairs, share);
        format!("{:.3} ({low:.3} to {high:.3})", added(&pairs, share))
    });
    rows.push(["added".to_owned()].into_iter().chain(cells).collect());
    print(&rows);
    Ok(())
}

async fn fill(cluster: &Cluster, documents: usize) -> anyhow::Result<()> {
    let body: String = (0..documents)
        .map(|n| format!("{{\"index\":{{}}}}\n{}\n", json!({"title": format!("boat {n} of the harbour")})))
        .collect();
    let url = format!("{}/bench/_bulk?refresh=true", cluster.endpoint());
    let answer = cluster.http().post(url).header("content-type", "application/x-ndjson").body(body).send().await?;
    let text = answer.text().await?;
    ensure!(text.contains("\"errors\":false"), "cannot write the documents: {text}");
    Ok(())
}

/// An ambassador for one root, and its address. It ends when dropped.
async fn start(root: &str) -> anyhow::Result<(Child, String)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--log-format", "json", "ambassador", "--roots", root, "--listen", "127.0.0.1:0"])
        .env("TRAWL_SUPERVISED", "1")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start trawl ambassador")?;
    let mut lines = BufReader::new(child.stderr.take().context("no output")?).lines();
    let listening = async {
        while let Some(line) = lines.next_line().await? {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(listen) = event["listen"].as_str() {
                return Ok(format!("http://{listen}"));
            }
        }
        anyhow::bail!("trawl ambassador ended before it listened")
    };
    let endpoint = tokio::time::timeout(START_PATIENCE, listening).await.context("the ambassador does not start")??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, endpoint))
}

/// One search; milliseconds.
async fn search(cluster: &Cluster, endpoint: &str) -> anyhow::Result<f64> {
    let request = cluster.http().post(format!("{endpoint}/bench/_search")).header("content-type", "application/json");
    let request = request.body("{\"query\":{\"match\":{\"title\":\"boat\"}}}");
    let sent = Instant::now();
    let answer = request.send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    let took = sent.elapsed().as_secs_f64() * 1e3;
    ensure!(status.as_u16() == 200 && text.contains("\"failed\":0"), "a search was answered {status}: {text}");
    Ok(took)
}

/// How much more one takes than the other, at a quantile.
fn added(pairs: &[[f64; 2]], share: f64) -> f64 {
    quantile(pairs.iter().map(|pair| pair[1]), share) - quantile(pairs.iter().map(|pair| pair[0]), share)
}

/// Where that lies in 95 of 100 samples drawn again from the pairs.
fn interval(pairs: &[[f64; 2]], share: f64) -> (f64, f64) {
    let again = |_| {
        let drawn: Vec<[f64; 2]> = pairs.iter().map(|_| pairs[rand::random_range(0..pairs.len())]).collect();
        added(&drawn, share)
    };
    let differences: Vec<f64> = (0..RESAMPLES).map(again).collect();
    (quantile(differences.iter().copied(), 0.025), quantile(differences.iter().copied(), 0.975))
}

/// The value that a share of them does not exceed; 0 of nothing.
fn quantile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let place = ((values.len() as f64 * share) as usize).min(last);
    *values.select_nth_unstable_by(place, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_their_intervals() {
        assert_eq!(quantile([3.0, 1.0, 2.0].into_iter(), 0.5), 2.0);
        assert_eq!(quantile([3.0, 1.0, 2.0].into_iter(), 0.99), 3.0);
        assert_eq!(quantile(std::iter::empty(), 0.5), 0.0);
        let pairs: Vec<[f64; 2]> = (0..1_000).map(|n| [f64::from(n % 10), f64::from(n % 10) + 2.0]).collect();
        assert_eq!(added(&pairs, 0.5), 2.0);
        let (low, high) = interval(&pairs, 0.5);
        assert!(low <= 2.0 && 2.0 <= high && high - low < 3.0, "{low} {high}");
    }
}
