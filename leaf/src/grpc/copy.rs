//! Histories for the leader, copies for other leaves.

use trawl_proto::v1::failure::Kind;
use trawl_proto::{Seq, ShardKey, failure, v1};

use super::Service;
use crate::replica::Phase;

/// Replicas whose log has lost history.
pub fn broken(service: &Service) -> v1::BrokenResponse {
    let mut shards: Vec<ShardKey> =
        service.replicas.all().iter().filter(|r| r.is_broken()).map(|r| r.shard().clone()).collect();
    shards.sort();
    v1::BrokenResponse { shards: shards.iter().map(Into::into).collect() }
}

/// Where a replica stands.
pub async fn history(service: &Service, request: &v1::HistoryRequest) -> v1::HistoryResponse {
    let replica = match service.replica(request.shard.as_ref()) {
        Ok(replica) => replica,
        Err(failure) => return v1::HistoryResponse { failure: Some(failure), ..v1::HistoryResponse::default() },
    };
    let mut history = replica.history(request.points);
    if request.points {
        let points = replica.earlier_points(Seq(request.after), Seq(request.through)).await;
        history.earlier_seqs = points.iter().map(|point| point.seq.0).collect();
        history.earlier_chains = points.iter().map(|point| point.chain).collect();
    }
    history
}

/// Takes a copy of a replica that serves and that its log continues.
pub async fn manifest(service: &Service, request: v1::CopyManifestRequest) -> v1::CopyManifestResponse {
    let refused = |failure| v1::CopyManifestResponse { failure: Some(failure), ..v1::CopyManifestResponse::default() };
    let replica = match service.replica(request.shard.as_ref()) {
        Ok(replica) => replica,
        Err(failure) => return refused(failure),
    };
    if replica.progress().phase != Phase::Serving || replica.is_broken() {
        let reason = format!("shard {} is not served by leaf {} now", replica.shard(), service.name);
        return refused(failure(Kind::Unavailable, reason));
    }
    let dir = service.data_dir.replica(replica.shard());
    let manifest = service.copies.manifest(replica.shard(), dir, &request.leaf).await;
    v1::CopyManifestResponse { queries: replica.recent.list(), ..manifest }
}

/// Lets go of a copy. What was damaged in it is damaged here.
pub fn end(service: &Service, request: &v1::CopyEndRequest) {
    let shard = service.copies.end(&request.copy_id);
    if let Some(replica) = shard.and_then(|shard| service.replicas.get(&shard))
        && !request.damaged.is_empty()
    {
        replica.suspect_files(&format!("a copy of it came with damaged files: {}", request.damaged.join(", ")));
    }
}
