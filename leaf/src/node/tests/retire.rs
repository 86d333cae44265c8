//! Replicas that are taken from a leaf.

use super::*;

/// Two leaves that serve one shard with some documents.
struct Pair {
    cluster: Cluster,
    shard: ShardKey,
    record: String,
}

impl Pair {
    async fn new() -> Self {
        let cluster = Cluster::new().await;
        cluster.create_index("books", "uid-1", 1, None).await;
        let shard = ShardKey::new("uid-1", 0);
        let operations = (0..50).map(|n| index(&format!("d{n}"), &json!({"n": n}))).collect();
        cluster.append(&shard, operations).await;
        let record = keys::serving(&shard, &"leaf-0".into());
        Self { cluster, shard, record }
    }

    async fn assign(&self, leaves: &[&str]) {
        let leaves = leaves.iter().map(|name| (*name).into()).collect();
        let record = AssignmentRecord { format: 1, leaves, leaving: Vec::new() };
        self.put(keys::assignment(&self.shard), &serde_json::to_vec(&record).unwrap()).await;
    }

    async fn put(&self, key: String, value: &[u8]) {
        let put = Write::Put(key, value.to_vec().into());
        self.cluster.engine.store.commit(&[], &[put]).await.unwrap();
    }

    async fn vouched(&self, expected: bool) {
        let deadline = Instant::now() + PATIENCE;
        while self.cluster.engine.store.get(&self.record).await.unwrap().is_some() != expected {
            assert!(Instant::now() < deadline, "serving record is to be there: {expected}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_taken_away_still_answers_for_a_while_and_is_removed_then() {
    let pair = Pair::new().await;
    let mut config = pair.cluster.config();
    config.retire_time = Duration::from_secs(3);
    let path = replica_path(&config, "uid-1");
    let mut leaf = pair.cluster.start(config).await;
    leaf.serving(&pair.shard).await;
    pair.vouched(true).await;

    pair.assign(&["leaf-1"]).await;
    pair.vouched(false).await;
    assert_eq!(leaf.search(&pair.shard, 0).await.matched, 50);
    assert_eq!(leaf.serving(&pair.shard).await.documents, 50);
    // Given back meanwhile, it just goes on.
    pair.assign(&["leaf-1", "leaf-0"]).await;
    pair.vouched(true).await;
    assert_eq!(leaf.search(&pair.shard, 0).await.matched, 50);

    pair.assign(&["leaf-1"]).await;
    until("it is still on disk", || !path.exists()).await;
    assert!(leaf.search(&pair.shard, 0).await.failure.is_some());
    // What says that it serves is not true, whoever wrote it.
    pair.put(pair.record.clone(), br#"{"format":1,"process":"an earlier one"}"#).await;
    pair.vouched(false).await;
    leaf.stop().await;
}
