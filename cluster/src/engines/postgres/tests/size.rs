//! Tables stay bounded while logs are written and trimmed for long.

use trawl_proto::{Epoch, Seq};

use super::{append, batch, open, shard};
use crate::conformance::{server::Server, trim};

/// Writes and trims ten times what a log of 32 MiB may keep; the tables must not grow beyond a few times
/// that. `TRAWL_TEST_LOG_MIB` sets another size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_stay_small_under_appends_and_trims() {
    let Some(server) = Server::start(&[("fsync", "off"), ("full_page_writes", "off")]) else { return };
    let log_mib = std::env::var("TRAWL_TEST_LOG_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(32u64);
    let limit = log_mib << 20;
    let log = open(&server.url()).await.log;
    let shard = shard(0);
    log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    let size = || {
        let sum = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n
             ON n.oid = c.relnamespace WHERE n.nspname = 'trawl' AND c.relkind = 'r'";
        server.query(sum).trim().parse::<u64>().unwrap()
    };
    let (mut written, mut kept, mut largest) = (0, 0, 0);
    let mut n = 0u64;
    while written < 10 * limit {
        // Does not compress.
        let words = (0..16_384).map(|word| xxhash_rust::xxh3::xxh3_64(format!("{n} {word}").as_bytes()));
        let body: String = words.map(|word| format!("{word:016x}")).collect();
        n += 1;
        let appended = append(&*log, batch(&shard, body, Some(format!("message {n}")))).await.unwrap();
        let head = log.heads(std::slice::from_ref(&shard)).await.unwrap()[0].clone().unwrap();
        written += head.bytes.saturating_sub(kept);
        kept = head.bytes;
        if kept > limit / 2 {
            trim(&*log, &shard, Seq(appended.last.0 - 1)).await;
            kept = log.heads(std::slice::from_ref(&shard)).await.unwrap()[0].clone().unwrap().bytes;
            largest = largest.max(size());
        }
    }
    println!("written {} MiB, largest {} MiB on disk", written >> 20, largest >> 20);
    assert!(largest < 3 * limit, "{} MiB on disk for a log of {log_mib} MiB", largest >> 20);
}
