//! What group commit gains: many producers against one that waits for each append.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use trawl_cluster::shard_log::Append;
use trawl_cluster::{Engine, EngineOptions, connect};
use trawl_proto::{Epoch, ShardKey};

use crate::table::{median, print};

/// Shards that the producers write to.
const SHARDS: u32 = 8;

/// Measures log appends.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl bench append --cluster sqlite:/var/tmp/append")]
pub struct Args {
    /// The engine; default: SQLite in a temporary directory
    #[arg(long, value_name = "URL")]
    pub cluster: Option<String>,
    /// Producers at once
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub producers: usize,
    /// Bytes of one append
    #[arg(long, default_value_t = 300, value_name = "BYTES")]
    pub bytes: usize,
    /// Rounds
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    pub seconds: u64,
}

/// Measures one producer and many, in turns.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let url = args.cluster.clone().unwrap_or_else(|| format!("sqlite:{}", directory.path().display()));
    let engine = connect(&url, &EngineOptions::default()).await?;
    let uid = format!("bench-{:016x}", rand::random::<u64>());
    let shards: Vec<ShardKey> = (0..SHARDS).map(|number| ShardKey::new(uid.clone(), number)).collect();
    let epoch = Epoch(u64::MAX >> 2);
    engine.log.create(epoch, &shards).await?;
    let mut rates = [Vec::new(), Vec::new()];
    let mut latencies = [Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?];
    for _ in 0..args.rounds {
        for (at, producers) in [1, args.producers].into_iter().enumerate() {
            let time = Duration::from_secs(args.seconds);
            let (rate, histogram) = measure(&engine, &shards, producers, args.bytes, time).await?;
            rates[at].push(rate);
            latencies[at].add(histogram)?;
            for (shard, head) in shards.iter().zip(engine.log.heads(&shards).await?) {
                if let Some(head) = head {
                    engine.log.trim(epoch, shard, head.mark(), head.last).await?;
                }
            }
        }
    }
    engine.log.remove(epoch, &shards).await?;
    let one = median(&rates[0]);
    let mut rows = vec![["producers", "appends/s", "ratio", "p50 ms", "p99 ms"].map(str::to_owned).to_vec()];
    for (at, producers) in [1, args.producers].into_iter().enumerate() {
        let at_share = |share: f64| format!("{:.2}", latencies[at].value_at_quantile(share) as f64 / 1e3);
        let rate = median(&rates[at]);
        rows.push(vec![
            producers.to_string(),
            format!("{rate:.0}"),
            format!("{:.1}", rate / one),
            at_share(0.5),
            at_share(0.99),
        ]);
    }
    println!("{} bytes each, {} shards, {} rounds of {} s\n", args.bytes, SHARDS, args.rounds, args.seconds);
    print(&rows);
    Ok(())
}

/// Appends per second, and their latencies in microseconds.
async fn measure(
    engine: &Engine,
    shards: &[ShardKey],
    producers: usize,
    bytes: usize,
    time: Duration,
) -> anyhow::Result<(f64, Histogram<u64>)> {
    let body: Bytes = (0..bytes).map(|n| b'a' + (n * 7 % 23) as u8).collect();
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..producers {
        let (log, shard, body) = (Arc::clone(&engine.log), shards[n % shards.len()].clone(), body.clone());
        tasks.spawn(async move {
            let mut latencies = Histogram::<u64>::new(3)?;
            while start.elapsed() < time {
                let batch = Append {
                    shard: shard.clone(),
                    mapping_version: 1,
                    operations: 1,
                    body: body.clone(),
                    message_id: None,
                    claim: None,
                    log_bytes_max: None,
                };
                let sent = Instant::now();
                for result in log.append(vec![batch]).await? {
                    result?;
                }
                latencies.record(sent.elapsed().as_micros() as u64)?;
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Histogram::<u64>::new(3)?;
    for result in tasks.join_all().await {
        all.add(result?)?;
    }
    Ok((all.len() as f64 / start.elapsed().as_secs_f64(), all))
}
