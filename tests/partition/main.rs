//! Links that are cut, through the real binary: between a root and the engine, between a leaf and the roots, between a
//! leaf and the engine. Broken links tell both ends; silent ones tell nobody, and deliver late.
//!
//! `TRAWL_TEST_CUT` says for how many seconds a root is cut off (default 8).
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;
mod leaf;
mod root;

use harness::{Client, Log, proxy::Proxy, roots::Searched, writes::Write};
use serde_json::{Value, json};
use trawl_cluster::conformance::server::Server;

/// Documents of the index that is searched.
const DOCUMENTS: u64 = 600;

/// A PostgreSQL server, and what the processes that are started by hand share.
struct Ground {
    server: Server,
    directory: tempfile::TempDir,
    log: Log,
}

impl Ground {
    /// `None` where PostgreSQL is not installed.
    fn start() -> Option<Self> {
        let server = tokio::task::block_in_place(|| Server::start(&[]))?;
        Some(Self { server, directory: tempfile::tempdir().unwrap(), log: Log::default() })
    }

    /// A link to the engine, and the URL under which the engine is reached through it.
    async fn link(&self) -> (Proxy, String) {
        let address = format!("127.0.0.1:{}", self.server.port());
        let proxy = Proxy::start(address.clone()).await;
        let url = self.server.url().replace(&address, &proxy.address.to_string());
        (proxy, url)
    }
}

/// Makes an index to search and one to write to, each of three shards with two replicas.
async fn make_indices(client: &Client) {
    let mappings = json!({"properties": {"title": {"type": "text"}}});
    for index in ["boats", "log"] {
        client.create_index(index, 3, 1, mappings.clone()).await;
    }
    let documents: Vec<_> =
        (0..DOCUMENTS).map(|number| (format!("b{number}"), json!({"title": format!("boat {number}")}))).collect();
    client.bulk_index("boats", &documents, true).await;
}

/// The replicas as (index, leaf, shard, state, documents).
async fn replicas(client: &Client) -> Vec<(String, String, u64, String, u64)> {
    let Ok(answer) = client.try_send("GET", "/_trawl/cluster", None, &[]).await else { return Vec::new() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let replica = |shard: &Value| {
        let documents = shard["documents"].as_u64().unwrap_or(0);
        let number = shard["shard"].as_u64().unwrap();
        (text(&shard["index"]), text(&shard["leaf"]), number, text(&shard["state"]), documents)
    };
    answer.body["shards"].as_array().into_iter().flatten().map(replica).collect()
}

/// What became of a stream of searches, for people; none may have failed or been partial.
fn told(who: &str, searched: &Searched) -> String {
    let (complete, faults) = (searched.complete, searched.faults.len());
    format!("{who}: {complete} searches complete, {faults} not, the slowest {:.1?}", searched.worst)
}

/// Every acknowledged write is there; how many that are.
async fn all_found(client: &Client, writes: &[Write]) -> usize {
    let acknowledged = writes.iter().filter(|write| write.is_acknowledged()).count();
    assert_eq!(harness::writes::found(client, "log", writes).await, acknowledged);
    acknowledged
}
