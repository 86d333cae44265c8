//! Outcomes, refresh and status.

use std::time::Instant;

use futures::future::join_all;
use trawl_proto::v1;
use trawl_proto::v1::failure::Kind;
use trawl_proto::{Generation, Incarnation, Seq, failure};

use super::Service;

/// Waits for the outcomes of a range of operations; those known by the deadline are returned.
pub async fn outcomes(service: &Service, request: v1::OutcomesRequest, deadline: Instant) -> v1::OutcomesResponse {
    let replica = match service.replica(request.shard.as_ref()) {
        Ok(replica) => replica,
        Err(failure) => return v1::OutcomesResponse { outcomes: Vec::new(), failure: Some(failure) },
    };
    let waited = replica.applied(Seq(request.last_seq), deadline).await;
    if replica.is_broken() {
        // The same seqs of the same incarnation may mean other operations than those known here.
        let reason = "the log has lost history that this replica holds";
        return v1::OutcomesResponse { outcomes: Vec::new(), failure: Some(failure(Kind::Unavailable, reason)) };
    }
    let present = replica.progress().applied.incarnation;
    let incarnation = Incarnation(request.incarnation);
    let outcomes = replica.outcomes(incarnation, Seq(request.first_seq), Seq(request.last_seq)).await;
    // Operations from before the present incarnation began are told as long as they are remembered.
    let is_short = (outcomes.len() as u64) < (request.last_seq + 1).saturating_sub(request.first_seq);
    if waited.is_ok() && present > incarnation && is_short {
        let reason = format!("incarnation {} was replaced by {present}", request.incarnation);
        return v1::OutcomesResponse { outcomes: Vec::new(), failure: Some(failure(Kind::Unavailable, reason)) };
    }
    let failure = waited.err().filter(|failure| failure.kind() != Kind::Deadline);
    v1::OutcomesResponse { outcomes, failure }
}

/// Makes positions searchable.
pub async fn refresh(service: &Service, request: v1::RefreshRequest, deadline: Instant) -> v1::RefreshResponse {
    let refreshes = request.positions.into_iter().map(|position| async move {
        let result = async {
            let replica = service.replica(position.shard.as_ref())?;
            let generation = position.generation.map(Generation::from).unwrap_or_default();
            replica.refresh(generation, deadline).await
        };
        let failure = result.await.err();
        v1::ShardRefresh { shard: position.shard, failure }
    });
    v1::RefreshResponse { shards: join_all(refreshes).await }
}

/// What the leaf holds, sorted by shard.
pub fn status(service: &Service, request: v1::StatusRequest) -> v1::StatusResponse {
    let mut replicas = service.replicas.all();
    replicas
        .retain(|replica| request.index_uids.is_empty() || request.index_uids.contains(&replica.shard().index_uid.0));
    replicas.retain(|replica| !request.poisoned || replica.poison().is_some());
    replicas.sort_by(|a, b| a.shard().cmp(b.shard()));
    v1::StatusResponse {
        name: service.name.to_string(),
        replicas: replicas.iter().map(|replica| replica.status(request.fields)).collect(),
    }
}
