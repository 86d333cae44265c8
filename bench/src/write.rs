//! How long a single write takes on an idle cluster: until it is durable and its outcome known, and until
//! it is searchable.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use serde_json::json;

use crate::cluster::Cluster;
use crate::table::print;

/// Measures single writes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl bench write --count 300")]
pub struct Args {
    /// Writes of each kind
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub count: usize,
    /// Writes with refresh=wait_for
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub refreshes: usize,
    /// Leaves
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub leaves: usize,
    /// Extra replicas
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub replicas: usize,
}

/// Measures a bare fsync and a write in turns, then writes that wait for a refresh.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let cluster = Cluster::start(2, args.leaves, &[]).await?;
    let settings = json!({"number_of_shards": args.leaves, "number_of_replicas": args.replicas});
    cluster.create("bench", &json!({"settings": settings})).await?;
    let directory = tempfile::tempdir()?;
    let mut file = File::create(directory.path().join("fsync"))?;
    let (mut syncs, mut writes, mut refreshes) =
        (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    for n in 0..args.count {
        let sent = Instant::now();
        file.write_all(&[0; 4_096])?;
        file.sync_data()?;
        syncs.record(sent.elapsed().as_micros() as u64)?;
        writes.record(write(&cluster, n, "").await?)?;
    }
    for n in 0..args.refreshes {
        // A write at any moment between two refreshes, not right behind the one before.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..1_000))).await;
        refreshes.record(write(&cluster, n, "?refresh=wait_for").await?)?;
    }
    cluster.stop().await;
    let mut rows = vec![["", "p50 ms", "p90 ms", "p99 ms"].map(str::to_owned).to_vec()];
    for (name, histogram) in [
        ("4 KiB and fsync", &syncs),
        ("write, acknowledged with its outcome", &writes),
        ("write with refresh=wait_for (interval 1 s)", &refreshes),
    ] {
        let at = |share: f64| format!("{:.2}", histogram.value_at_quantile(share) as f64 / 1e3);
        rows.push(vec![name.to_owned(), at(0.5), at(0.9), at(0.99)]);
    }
    print(&rows);
    Ok(())
}

/// Writes one document; microseconds.
async fn write(cluster: &Cluster, n: usize, query: &str) -> anyhow::Result<u64> {
    let url = format!("{}/bench/_doc/{n}{query}", cluster.endpoint());
    let body = json!({"title": format!("entry {n} of the log"), "number": n}).to_string();
    let sent = Instant::now();
    let answer = cluster.http().put(url).header("content-type", "application/json").body(body).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    let took = sent.elapsed().as_micros() as u64;
    ensure!(status.as_u16() == 200 || status.as_u16() == 201, "a write was answered {status}: {text}");
    Ok(took)
}
