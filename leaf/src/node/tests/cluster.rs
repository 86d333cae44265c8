//! An engine and leaves over it, and what a test asks of them.

use super::*;

pub(super) struct Cluster {
    pub(super) dir: tempfile::TempDir,
    pub(super) engine: Engine,
}

pub(super) struct Leaf {
    pub(super) client: LeafClient<Channel>,
    pub(super) shutdown: CancellationToken,
    pub(super) task: JoinHandle<Result<(), Error>>,
}

impl Cluster {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("cluster").display());
        let engine = connect(&url, &EngineOptions::default()).await.unwrap();
        engine.log.fence(Epoch(1)).await.unwrap();
        Self { dir, engine }
    }

    pub(super) async fn create_index(&self, name: &str, uid: &str, shards: u32, refresh_interval_ms: Option<u64>) {
        let record = IndexRecord { refresh_interval_ms, ..IndexRecord::new(name, uid.into(), shards, 0) };
        let mapping = json!({"properties": {"title": {"type": "text"}, "n": {"type": "long"}}});
        let assignment = AssignmentRecord { format: 1, leaves: vec!["leaf-0".into()], leaving: Vec::new() };
        let put = |key: String, value: Vec<u8>| Write::Put(key, value.into());
        let mut writes = vec![
            put(keys::index(name), serde_json::to_vec(&record).unwrap()),
            put(keys::mapping(&record.uid, 1), serde_json::to_vec(&mapping).unwrap()),
        ];
        let shards: Vec<ShardKey> = record.shard_keys().collect();
        for shard in &shards {
            writes.push(put(keys::assignment(shard), serde_json::to_vec(&assignment).unwrap()));
        }
        self.engine.log.create(Epoch(1), &shards).await.unwrap();
        self.engine.store.commit(&[], &writes).await.unwrap();
    }

    pub(super) async fn delete_index(&self, name: &str, uid: &str, shards: u32) {
        let mut writes = vec![Write::Delete(keys::index(name))];
        writes.extend((0..shards).map(|number| Write::Delete(keys::assignment(&ShardKey::new(uid, number)))));
        self.engine.store.commit(&[], &writes).await.unwrap();
    }

    pub(super) async fn append(&self, shard: &ShardKey, operations: Vec<Operation>) -> Appended {
        self.append_with(shard, operations, 1).await
    }

    pub(super) async fn append_with(
        &self,
        shard: &ShardKey,
        operations: Vec<Operation>,
        mapping_version: u64,
    ) -> Appended {
        let append = Append {
            shard: shard.clone(),
            mapping_version,
            operations: operations.len() as u32,
            body: v1::Batch { operations }.encode_to_vec().into(),
            message_id: None,
            claim: None,
            log_bytes_max: None,
        };
        self.engine.log.append(vec![append]).await.unwrap().pop().unwrap().unwrap()
    }

    pub(super) async fn trim(&self, shard: &ShardKey, through: Seq) {
        let head = self.engine.log.heads(std::slice::from_ref(shard)).await.unwrap().pop().flatten().unwrap();
        self.engine.log.trim(Epoch(1), shard, head.mark(), through).await.unwrap();
    }

    pub(super) fn config(&self) -> Config {
        self.config_of("leaf-0")
    }

    pub(super) fn config_of(&self, name: &str) -> Config {
        let mut config = Config::new(NodeName::from(name), self.dir.path().join(name));
        config.search_threads = 1;
        config.retry_min = Duration::from_millis(50);
        config
    }

    pub(super) async fn start(&self, config: Config) -> Leaf {
        let node = LeafNode::start(config, self.engine.clone(), &mut Registry::default()).await.unwrap();
        let client = LeafClient::connect(format!("http://{}", node.grpc_addr())).await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(node.run(shutdown.clone()));
        Leaf { client, shutdown, task }
    }
}

impl Leaf {
    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub(super) async fn status(&mut self, shard: &ShardKey) -> Option<v1::ReplicaStatus> {
        let request = v1::StatusRequest { index_uids: vec![shard.index_uid.0.clone()], fields: true, poisoned: false };
        let response = self.client.status(request).await.unwrap().into_inner();
        response.replicas.into_iter().find(|status| status.shard == Some(shard.into()))
    }

    pub(super) async fn until_status(
        &mut self,
        shard: &ShardKey,
        good: impl Fn(&v1::ReplicaStatus) -> bool,
    ) -> v1::ReplicaStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(shard).await;
            if let Some(status) = &status
                && good(status)
            {
                return status.clone();
            }
            assert!(Instant::now() < deadline, "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Spare text fields of the index in use.
    pub(super) fn spares(&self, dir: &Path) -> u32 {
        let current = std::fs::read_to_string(dir.join("CURRENT")).unwrap_or_default();
        crate::index::ShardIndex::payload(&dir.join(current.trim())).map_or(0, |payload| payload.spares)
    }

    pub(super) async fn serving(&mut self, shard: &ShardKey) -> v1::ReplicaStatus {
        self.until_status(shard, |status| status.state() == State::Serving).await
    }

    pub(super) async fn outcomes(&mut self, shard: &ShardKey, appended: Appended) -> Vec<v1::Outcome> {
        let request = v1::OutcomesRequest {
            shard: Some(shard.into()),
            incarnation: appended.incarnation.0,
            first_seq: appended.first.0,
            last_seq: appended.last.0,
        };
        let response = self.client.outcomes(request).await.unwrap().into_inner();
        assert_eq!(response.failure, None);
        response.outcomes
    }

    pub(super) async fn refresh(&mut self, shard: &ShardKey, appended: Appended) -> Option<v1::Failure> {
        let generation = v1::Generation { incarnation: appended.incarnation.0, seq: appended.last.0 };
        let positions = vec![v1::Position { shard: Some(shard.into()), generation: Some(generation) }];
        let response = self.client.refresh(v1::RefreshRequest { positions }).await.unwrap().into_inner();
        response.shards[0].failure.clone()
    }

    pub(super) async fn get(&mut self, shard: &ShardKey, ids: &[&str], realtime: bool) -> Vec<v1::Document> {
        let request = v1::GetRequest {
            shards: vec![v1::ShardGet {
                shard: Some(shard.into()),
                ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            }],
            options: Some(v1::FetchOptions { source: true, ..v1::FetchOptions::default() }),
            realtime,
        };
        let response = self.client.get(request).await.unwrap().into_inner();
        assert_eq!(response.shards[0].failure, None);
        response.shards[0].documents.clone()
    }

    pub(super) async fn search(&mut self, shard: &ShardKey, at_least_seq: u64) -> v1::ShardSearchResult {
        let kind = v1::query::Kind::MatchAll(v1::MatchAll {});
        let request = v1::SearchRequest {
            indices: vec![v1::IndexSearch {
                index_uid: shard.index_uid.0.clone(),
                mapping_version: 1,
                query: Some(v1::Query { kind: Some(kind), boost: None }),
                shards: vec![v1::ShardSearch { shard: shard.number, statistics_generation: None, at_least_seq }],
                statistics: None,
            }],
            hits_max: 10,
            count_up_to: u64::MAX,
            ..v1::SearchRequest::default()
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(10));
        self.client.search(request).await.unwrap().into_inner().shards.remove(0)
    }
}
