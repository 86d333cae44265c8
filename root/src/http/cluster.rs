//! The cluster as a whole: health, nodes, and Trawl's own view of it.

use std::time::Duration;

use http::StatusCode;
use trawl_cluster::catalog::NodeRecord;
use trawl_proto::{Seq, v1};

use super::{
    call::Call,
    error::{ApiError, illegal},
    info::{CLUSTER_NAME, COMPATIBLE_VERSION},
    json::{Json, Members, object},
    respond::Answer,
};
use crate::operation::OperationState;
use crate::request::{
    ClusterStatus, Health, HealthStatus, IndexHealth, LogInfo, NodeStatus, ReplicaInfo, ReplicaState,
};

/// Parameters of `_cluster/health`.
pub(crate) const HEALTH_PARAMS: &[&[&str]] = &[
    &["wait_for_status", "timeout", "master_timeout", "level", "local"],
    &["wait_for_no_relocating_shards", "wait_for_no_initializing_shards", "wait_for_events"],
    super::call::INDEX_PARAMS,
];

/// `GET /_cluster/health`, `/_cluster/health/{index}`
pub(crate) async fn health(call: Call) -> Result<Answer, ApiError> {
    // No names at all stands for all of them, so that an empty cluster is green.
    let names = if call.segment(0).is_empty() { Vec::new() } else { call.indices()? };
    let timeout = call.params.duration("timeout")?.unwrap_or(Duration::from_secs(30));
    let wanted = match call.params.get("wait_for_status").map(str::to_ascii_lowercase).as_deref() {
        None => None,
        Some("green") => Some(HealthStatus::Green),
        Some("yellow") => Some(HealthStatus::Yellow),
        Some("red") => Some(HealthStatus::Red),
        Some(other) => return Err(illegal(format!("unknown cluster health status [{other}]")).into()),
    };
    // Nothing ever relocates; when nothing is missing, nothing initialises.
    call.params.flag("wait_for_no_relocating_shards")?;
    let settled = call.params.flag("wait_for_no_initializing_shards")? == Some(true);
    let wanted = if settled { Some(HealthStatus::Green) } else { wanted };
    let with_indices = match call.params.get("level") {
        None | Some("cluster") => false,
        Some("indices") => true,
        Some(other) => return Err(illegal(format!("[level] with value [{other}] is not supported")).into()),
    };
    let health = match wanted {
        None => call.root().health(&names),
        Some(wanted) => call.root().wait_health(&names, wanted, timeout).await,
    };
    let status = if health.timed_out { StatusCode::REQUEST_TIMEOUT } else { StatusCode::OK };
    Ok(Answer::status(status, health_body(&health, with_indices)))
}

fn health_body(health: &Health, with_indices: bool) -> Json {
    let mut members: Members = vec![
        ("cluster_name".to_owned(), CLUSTER_NAME.into()),
        ("status".to_owned(), health.status.name().into()),
        ("timed_out".to_owned(), health.timed_out.into()),
    ];
    for (name, number) in [
        ("number_of_nodes", health.nodes),
        ("number_of_data_nodes", health.leaves),
        ("active_primary_shards", health.shards_served),
        ("active_shards", health.replicas_serving),
        ("relocating_shards", 0),
        ("initializing_shards", health.replicas_recovering),
        ("unassigned_shards", health.replicas_unassigned),
        ("delayed_unassigned_shards", 0),
        ("number_of_pending_tasks", 0),
        ("number_of_in_flight_fetch", 0),
        ("task_max_waiting_in_queue_millis", 0),
    ] {
        members.push((name.to_owned(), number.into()));
    }
    members.push(("active_shards_percent_as_number".to_owned(), active_percent(health).into()));
    if !health.reasons.is_empty() {
        let reasons: Vec<Json> = health.reasons.iter().map(|reason| reason.as_str().into()).collect();
        members.push(("trawl_reasons".to_owned(), reasons.into()));
    }
    if with_indices {
        let indices = health.indices.iter().map(|index| (index.name.clone(), index_body(index))).collect();
        members.push(("indices".to_owned(), Json::Object(indices)));
    }
    Json::Object(members)
}

/// Serving replicas of all that are configured, in percent.
pub(crate) fn active_percent(health: &Health) -> f64 {
    let all = health.replicas_serving + health.replicas_recovering + health.replicas_unassigned;
    if all == 0 { 100.0 } else { f64::from(health.replicas_serving) * 100.0 / f64::from(all) }
}

fn index_body(index: &IndexHealth) -> Json {
    object! {
        "status" => index.status.name(),
        "number_of_shards" => index.shards,
        "number_of_replicas" => index.replicas,
        "active_primary_shards" => index.shards_served,
        "active_shards" => index.replicas_serving,
        "relocating_shards" => 0_u32,
        "initializing_shards" => index.replicas_recovering,
        "unassigned_shards" => index.replicas_unassigned,
    }
}

/// `GET /_nodes`, `/_nodes/http`: who takes HTTP requests, for clients that look for more hosts.
pub(crate) async fn nodes(call: Call) -> Result<Answer, ApiError> {
    let status = call.root().status().await?;
    let live: Vec<&NodeStatus> = status.roots.iter().filter(|node| node.alive).collect();
    let total = live.len();
    let nodes = live.into_iter().map(|node| (node.record.process.clone(), node_body(&node.record))).collect();
    Ok(Answer::ok(object! {
        "_nodes" => object! { "total" => total, "successful" => total, "failed" => 0_u32 },
        "cluster_name" => CLUSTER_NAME,
        "nodes" => Json::Object(nodes),
    }))
}

fn node_body(record: &NodeRecord) -> Json {
    let address = record.http.as_deref().unwrap_or_default();
    object! {
        "name" => record.name.as_str(),
        "transport_address" => record.grpc.as_str(),
        "host" => host(address),
        "ip" => host(address),
        "version" => COMPATIBLE_VERSION,
        "roles" => vec![Json::from("data"), Json::from("ingest"), Json::from("master")],
        "http" => object! { "bound_address" => vec![Json::from(address)], "publish_address" => address },
    }
}

/// The host of `host:port`.
pub(crate) fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// `GET /_trawl/cluster`
pub(crate) async fn trawl(call: Call) -> Result<Answer, ApiError> {
    let status = call.root().status().await?;
    Ok(Answer::ok(trawl_body(&status)))
}

/// `GET /_trawl/operations/{index}/{shard}/{seq}`: what became of an accepted operation.
pub(crate) async fn operation(call: Call) -> Result<Answer, ApiError> {
    let number = |at: usize, name: &str| -> Result<u64, ApiError> {
        let text = call.segment(at);
        text.parse().map_err(|_| illegal(format!("[{name}] must be a number, found [{text}]")).into())
    };
    let shard = u32::try_from(number(1, "shard")?).unwrap_or(u32::MAX);
    let seq = Seq(number(2, "seq")?);
    let timeout = call.params.duration("timeout")?.unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(60));
    let (state, primary_term) = call.root().operation(call.segment(0), shard, seq, timeout).await?;
    let (status, name) = match &state {
        OperationState::Absent => (StatusCode::NOT_FOUND, "absent"),
        OperationState::Pending => (StatusCode::ACCEPTED, "pending"),
        OperationState::Forgotten => (StatusCode::OK, "forgotten"),
        OperationState::Done(_) => (StatusCode::OK, "done"),
    };
    let mut members: Members = vec![
        ("_index".to_owned(), call.segment(0).into()),
        ("shard".to_owned(), shard.into()),
        ("_seq_no".to_owned(), seq.0.into()),
        ("_primary_term".to_owned(), primary_term.into()),
        ("state".to_owned(), name.into()),
    ];
    if let OperationState::Done(outcome) = &state {
        let result = outcome.result().as_str_name().to_ascii_lowercase();
        members.push(("result".to_owned(), result.into()));
        members.push(("_version".to_owned(), outcome.version.into()));
        if let Some(error) = &outcome.error {
            members.push(("error".to_owned(), super::document::cause_chain(error, 0)));
        }
    }
    Ok(Answer::status(status, Json::Object(members)))
}

fn trawl_body(status: &ClusterStatus) -> Json {
    let leader = status.leader.as_ref().map(|leader| {
        object! {
            "name" => leader.name.as_str(),
            "epoch" => leader.epoch,
            "since" => trawl_data::date::format_date(i64::try_from(leader.since_ms).unwrap_or_default()),
        }
    });
    let all = |nodes: &[NodeStatus]| nodes.iter().map(trawl_node).collect::<Vec<_>>();
    object! {
        "leader" => leader,
        "protocol" => status.protocol,
        "unreadable" => status.unreadable.iter().map(|reason| reason.as_str().into()).collect::<Vec<Json>>(),
        "roots" => all(&status.roots),
        "leaves" => all(&status.leaves),
        "shards" => status.replicas.iter().map(trawl_replica).collect::<Vec<_>>(),
        "logs" => status.logs.iter().map(trawl_log).collect::<Vec<_>>(),
    }
}

fn trawl_node(node: &NodeStatus) -> Json {
    let record = &node.record;
    let mut members: Members = vec![("name".to_owned(), record.name.as_str().into())];
    if let Some(http) = &record.http {
        members.push(("http".to_owned(), http.as_str().into()));
    }
    if let Some(zone) = &record.zone {
        members.push(("zone".to_owned(), zone.as_str().into()));
    }
    if let Some(bytes) = record.capacity_bytes {
        members.push(("capacity_bytes".to_owned(), bytes.into()));
    }
    members.push(("grpc".to_owned(), record.grpc.as_str().into()));
    members.push(("alive".to_owned(), node.alive.into()));
    members.push(("connected".to_owned(), node.connected.into()));
    if node.draining {
        members.push(("draining".to_owned(), true.into()));
    }
    members.push(("version".to_owned(), record.version.as_str().into()));
    members.push(("protocol".to_owned(), record.protocol.into()));
    members.push((
        "started".to_owned(),
        trawl_data::date::format_date(i64::try_from(record.started_ms).unwrap_or_default()).into(),
    ));
    Json::Object(members)
}

pub(crate) fn trawl_replica(replica: &ReplicaInfo) -> Json {
    let status = replica.status.as_ref();
    let mut members: Members = vec![
        ("index".to_owned(), replica.index.as_str().into()),
        ("shard".to_owned(), replica.shard.into()),
        ("leaf".to_owned(), replica.leaf.as_ref().map(|leaf| leaf.as_str()).into()),
        ("state".to_owned(), state_name(replica.state).into()),
        ("incarnation".to_owned(), status.map(|status| status.incarnation).into()),
        ("applied".to_owned(), status.map(|status| status.applied).into()),
        ("committed".to_owned(), status.map(|status| status.committed).into()),
        ("documents".to_owned(), status.map(|status| status.documents).into()),
        ("lag_operations".to_owned(), replica.lag_operations.into()),
        ("lag_seconds".to_owned(), replica.lag.map(|lag| lag.as_secs_f64()).into()),
        ("deleted_documents".to_owned(), status.map(|status| status.deleted_documents).into()),
        ("bytes_on_disk".to_owned(), status.map(|status| status.bytes_on_disk).into()),
    ];
    if let Some(recovery) = status.and_then(|status| status.recovery.as_ref()) {
        members.push(("recovery".to_owned(), trawl_recovery(replica.state, recovery)));
    }
    if let Some(reason) = status.map(|status| status.reason.as_str()).filter(|reason| !reason.is_empty()) {
        members.push(("reason".to_owned(), reason.into()));
    }
    Json::Object(members)
}

/// What a replica is at; one that serves is done, whatever else is told.
pub(super) fn stage(state: ReplicaState, recovery: &v1::Recovery) -> &'static str {
    use v1::recovery::Stage;
    match (state, recovery.stage()) {
        (ReplicaState::Serving, _) => "done",
        (ReplicaState::Failed, _) => "stuck",
        (_, Stage::Index) => "index",
        (_, Stage::Verify) => "verify_index",
        (_, Stage::Translog) => "translog",
        // It has not been taken into the serving set yet.
        (_, Stage::Finalize | Stage::Done) => "finalize",
        (_, Stage::Init | Stage::Unspecified) => "init",
    }
}

fn trawl_recovery(state: ReplicaState, recovery: &v1::Recovery) -> Json {
    object! {
        "stage" => stage(state, recovery),
        "source" => Some(recovery.source.as_str()).filter(|source| !source.is_empty()),
        "took_ms" => recovery.took_ms,
        "files" => recovery.files,
        "files_done" => recovery.files_done,
        "bytes" => recovery.bytes,
        "bytes_done" => recovery.bytes_done,
        "bytes_reused" => recovery.bytes_reused,
        "check_bytes" => recovery.check_bytes,
        "checked_bytes" => recovery.checked_bytes,
        "operations" => recovery.operations,
        "operations_done" => recovery.operations_done,
    }
}

pub(crate) fn trawl_log(log: &LogInfo) -> Json {
    object! {
        "index" => log.index.as_str(),
        "shard" => log.shard,
        "operations" => log.operations,
        "bytes" => log.bytes,
        "bytes_max" => log.bytes_max,
    }
}

fn state_name(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Serving => "serving",
        ReplicaState::Recovering => "recovering",
        ReplicaState::Failed => "failed",
        ReplicaState::Unreachable => "unreachable",
        ReplicaState::Unassigned => "unassigned",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn health_reads_as_in_elasticsearch() {
        let health = Health {
            status: HealthStatus::Yellow,
            timed_out: false,
            nodes: 6,
            leaves: 4,
            shards_served: 4,
            replicas_serving: 6,
            replicas_recovering: 1,
            replicas_unassigned: 1,
            reasons: Vec::new(),
            indices: Vec::new(),
        };
        let text = String::from_utf8(health_body(&health, false).to_bytes()).unwrap();
        assert_eq!(
            text,
            r#"{"cluster_name":"trawl","status":"yellow","timed_out":false,"number_of_nodes":6,"number_of_data_nodes":4,"active_primary_shards":4,"active_shards":6,"relocating_shards":0,"initializing_shards":1,"unassigned_shards":1,"delayed_unassigned_shards":0,"number_of_pending_tasks":0,"number_of_in_flight_fetch":0,"task_max_waiting_in_queue_millis":0,"active_shards_percent_as_number":75.0}"#
        );
        assert_eq!(host("127.0.0.1:9200"), "127.0.0.1");
    }
}
