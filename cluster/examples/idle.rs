//! What it costs to sit idle on the embedded engine.
//!
//! `cargo run --release -p trawl-cluster --example idle -- DIR` opens the directory like a node does (a viewer,
//! a member, eight tails) and prints the processor time that it takes, every ten seconds; start it six times.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use trawl_cluster::catalog::{NodeRecord, Role};
use trawl_cluster::{Engine, EngineOptions, LEASE_TIME, Membership, Viewer, connect};
use trawl_proto::{Epoch, Seq, ShardKey};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let directory = std::env::args().nth(1).ok_or("usage: idle DIR")?;
    let engine = connect(&format!("sqlite:{directory}"), &EngineOptions::default()).await?;
    let shards: Vec<ShardKey> = (0..8).map(|number| ShardKey::new("rate", number)).collect();
    engine.log.create(Epoch(1), &shards).await?;
    idle(engine, shards).await
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
        protocol: 1,
        protocol_min: None,
        capacity_bytes: None,
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
