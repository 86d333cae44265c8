//! How fast the embedded engine appends, and what it costs to sit idle.
//!
//! `cargo run --release -p trawl-cluster --example append_rate -- DIR [SECONDS]` measures appends of
//! one small operation each, and of 200 KB batches, by 1 and by 32 producers. With `idle` in place of
//! the seconds it opens the directory like a node does (a viewer, a member, eight tails) and prints the
//! processor time that it takes, every ten seconds; start it six times.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use trawl_cluster::catalog::{NodeRecord, Role};
use trawl_cluster::shard_log::Append;
use trawl_cluster::{Engine, EngineOptions, LEASE_TIME, Membership, Viewer, connect};
use trawl_proto::{Epoch, Seq, ShardKey};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: append_rate DIR [SECONDS|idle]")?;
    let mode = arguments.next().unwrap_or_else(|| "3".to_owned());
    let engine = connect(&format!("sqlite:{directory}"), &EngineOptions::default()).await?;
    let shards: Vec<ShardKey> = (0..8).map(|number| ShardKey::new("rate", number)).collect();
    engine.log.create(Epoch(1), &shards).await?;
    if mode == "idle" {
        return idle(engine, shards).await;
    }
    let seconds = Duration::from_secs(mode.parse()?);
    for (what, bytes) in [("300 B", 300), ("200 KB", 200_000)] {
        for producers in [1, 32] {
            let (appends, p50, p99) = measure(&engine, &shards, producers, bytes, seconds).await?;
            println!("{what:>7} × {producers:>2} producers: {appends:>7.0} appends/s, p50 {p50:?}, p99 {p99:?}");
            for (shard, head) in shards.iter().zip(engine.log.heads(&shards).await?) {
                engine.log.trim(Epoch(1), shard, head.map(|head| head.last).unwrap_or_default()).await?;
            }
        }
    }
    Ok(())
}

async fn measure(
    engine: &Engine,
    shards: &[ShardKey],
    producers: usize,
    bytes: usize,
    time: Duration,
) -> Result<(f64, Duration, Duration), Box<dyn std::error::Error + Send + Sync>> {
    let words = (0..bytes / 8).flat_map(|n| format!("{:07} ", (n * 2_654_435_761) % 9_999_991).into_bytes());
    let body: Bytes = words.collect();
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..producers {
        let (log, shard, body) = (engine.log.clone(), shards[n % shards.len()].clone(), body.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < time {
                let batch = Append {
                    shard: shard.clone(),
                    mapping_version: 1,
                    operations: 1,
                    body: body.clone(),
                    message_id: Some(format!("{n}-{}-{:?}", latencies.len(), start)),
                    claim: None,
                    log_bytes_max: None,
                };
                let sent = Instant::now();
                for result in log.append(vec![batch]).await? {
                    result?;
                }
                latencies.push(sent.elapsed());
            }
            Ok::<_, trawl_cluster::Error>(latencies)
        });
    }
    let mut latencies = Vec::new();
    for result in tasks.join_all().await {
        latencies.extend(result?);
    }
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or_default();
    Ok((rate, at(50), at(99)))
}

async fn idle(engine: Engine, shards: Vec<ShardKey>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let shutdown = CancellationToken::new();
    let record = NodeRecord {
        format: 1,
        name: format!("idle-{}", std::process::id()).into(),
        role: Role::Leaf,
        process: "idle".to_owned(),
        counter: 0,
        grpc: String::new(),
        http: None,
        zone: None,
        version: String::new(),
        started_ms: 0,
    };
    let _viewer = Viewer::start(engine.store.clone(), LEASE_TIME, shutdown.clone());
    let _member = Membership::register(engine.store.clone(), record, LEASE_TIME, shutdown).await?;
    for shard in shards {
        let mut tail = engine.log.tail(&shard, Seq(u64::MAX / 4));
        tokio::spawn(async move { while futures::StreamExt::next(&mut tail).await.is_some() {} });
    }
    let engine = Arc::new(engine);
    loop {
        let before = processor_ticks()?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let percent = (processor_ticks()? - before) / 10.0;
        println!("{percent:.2} % of a core, {} KB resident, {} owners", resident_kb()?, Arc::strong_count(&engine));
    }
}

/// User and system time of this process; Linux counts a hundred ticks a second.
fn processor_ticks() -> Result<f64, Box<dyn std::error::Error + Send + Sync>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok(fields[11].parse::<f64>()? + fields[12].parse::<f64>()?)
}

fn resident_kb() -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("?");
    Ok(line.trim().trim_end_matches(" kB").to_owned())
}
