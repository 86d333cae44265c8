//! `_cat`: tables for people, and the same as JSON.

mod recovery;
mod table;

use std::{collections::BTreeMap, sync::Arc};

use trawl_cluster::catalog::NodeRecord;

use super::{
    call::Call,
    cluster::{active_percent, host},
    error::ApiError,
    info::CLUSTER_NAME,
    query,
    respond::Answer,
    search_body::now_ms,
};
use crate::request::{ClusterStatus, IndexView, Lowered, ReplicaInfo, ReplicaState};
pub(crate) use recovery::recovery;
use table::{Cell, Column, Table};

/// Parameters of all tables.
pub(crate) const PARAMS: &[&[&str]] = &[
    &["v", "h", "s", "help", "bytes", "time", "health", "pri", "ts", "full_id", "local", "master_timeout"],
    &["active_only", "detailed"],
    &["include_unloaded_segments"],
    super::call::INDEX_PARAMS,
];

/// `GET /_cat`
pub(crate) async fn help(_: Call) -> Result<Answer, ApiError> {
    let names = [
        "aliases",
        "count",
        "count/{index}",
        "health",
        "indices",
        "indices/{index}",
        "master",
        "nodes",
        "recovery",
        "recovery/{index}",
        "shards",
        "shards/{index}",
    ];
    let text = names.iter().map(|name| format!("/_cat/{name}\n")).collect::<String>();
    Ok(Answer::text(text, table::PLAIN))
}

const INDICES: &[Column] = &[
    Column::left("health", &["h"]),
    Column::left("status", &["s"]),
    Column::left("index", &["i", "idx"]),
    Column::left("uuid", &["id"]),
    Column::right("pri", &["p", "shards.primary", "shardsPrimary"]),
    Column::right("rep", &["r", "shards.replica", "shardsReplica"]),
    Column::right("docs.count", &["dc", "docsCount"]),
    Column::right("docs.deleted", &["dd", "docsDeleted"]),
    Column::right("store.size", &["ss", "storeSize"]),
    Column::right("pri.store.size", &[]),
    Column::right("dataset.size", &[]),
    Column::right("creation.date", &["cd"]).hidden(),
    Column::left("creation.date.string", &["cds"]).hidden(),
];

/// `GET /_cat/indices`, `/_cat/indices/{index}`
pub(crate) async fn indices(call: Call) -> Result<Answer, ApiError> {
    let names = call.indices()?;
    let status = call.root().status().await?;
    let health = call.root().health(&names);
    let states: BTreeMap<&str, &str> =
        health.indices.iter().map(|index| (index.name.as_str(), index.status.name())).collect();
    let mut table = Table::new(INDICES);
    for record in status.indices.iter().filter(|record| names.contains(&record.name)) {
        let state = states.get(record.name.as_str()).copied().unwrap_or("red");
        if call.params.get("health").is_some_and(|wanted| wanted != state) {
            continue;
        }
        let sizes = Sizes::of(&status, &record.name);
        table.rows.push(vec![
            Cell::text(state),
            Cell::text("open"),
            Cell::text(&record.name),
            Cell::text(record.uid.as_str()),
            Cell::number(record.shards.into()),
            Cell::number(record.replicas.into()),
            Cell::number(sizes.documents),
            Cell::number(sizes.deleted),
            Cell::Bytes(sizes.all_bytes),
            Cell::Bytes(sizes.one_bytes),
            Cell::Bytes(sizes.one_bytes),
            Cell::number(record.created_ms),
            Cell::text(&trawl_data::date::format_date(i64::try_from(record.created_ms).unwrap_or_default())),
        ]);
    }
    table.answer(&call.params, &call.headers)
}

/// What an index holds: documents of one replica per shard, bytes of one and of all.
#[derive(Default)]
struct Sizes {
    documents: u64,
    deleted: u64,
    one_bytes: u64,
    all_bytes: u64,
}

impl Sizes {
    fn of(status: &ClusterStatus, index: &str) -> Self {
        let mut sizes = Self::default();
        let mut best: BTreeMap<u32, &ReplicaInfo> = BTreeMap::new();
        let applied = |replica: &ReplicaInfo| replica.status.as_ref().map_or(0, |status| status.committed);
        for replica in status.replicas.iter().filter(|replica| replica.index == index) {
            sizes.all_bytes += replica.status.as_ref().map_or(0, |status| status.bytes_on_disk);
            let known = best.entry(replica.shard).or_insert(replica);
            if applied(replica) > applied(known) {
                *known = replica;
            }
        }
        for status in best.values().filter_map(|replica| replica.status.as_ref()) {
            sizes.documents += status.documents;
            sizes.deleted += status.deleted_documents;
            sizes.one_bytes += status.bytes_on_disk;
        }
        sizes
    }
}

const SHARDS: &[Column] = &[
    Column::left("index", &["i", "idx"]),
    Column::left("shard", &["s", "sh"]),
    Column::left("prirep", &["p", "pr", "primaryOrReplica"]),
    Column::left("state", &["st"]),
    Column::right("docs", &["d", "dc"]),
    Column::right("store", &["sto"]),
    Column::right("dataset", &[]),
    Column::left("ip", &[]),
    Column::left("node", &["n"]),
    Column::left("unassigned.reason", &["ur"]).hidden(),
    Column::right("lag.ops", &["lo", "lagOps"]),
    Column::right("lag.time", &["lt", "lagTime"]),
    Column::right("seq_no.max", &["sqm", "maxSeqNo"]).hidden(),
    Column::right("seq_no.committed", &[]).hidden(),
];

/// `GET /_cat/shards`, `/_cat/shards/{index}`. All replicas are equal: the first one that is listed is
/// shown as `p`, because tools expect one.
pub(crate) async fn shards(call: Call) -> Result<Answer, ApiError> {
    let names = call.indices()?;
    let status = call.root().status().await?;
    let address = |name: &str| -> Option<String> {
        let node = status.leaves.iter().find(|node| node.record.name.as_str() == name)?;
        Some(host(&node.record.grpc).to_owned())
    };
    let mut table = Table::new(SHARDS);
    let mut last: Option<(&str, u32)> = None;
    for replica in status.replicas.iter().filter(|replica| names.contains(&replica.index)) {
        let place = (replica.index.as_str(), replica.shard);
        let first = last != Some(place);
        last = Some(place);
        let state = match replica.state {
            ReplicaState::Serving => "STARTED",
            ReplicaState::Recovering => "INITIALIZING",
            ReplicaState::Failed | ReplicaState::Unreachable | ReplicaState::Unassigned => "UNASSIGNED",
        };
        let reported = replica.status.as_ref();
        let leaf = replica.leaf.as_ref().map(|leaf| leaf.as_str());
        let why = match replica.state {
            ReplicaState::Failed => reported.map_or("failed", |status| status.reason.as_str()),
            ReplicaState::Unreachable => "NODE_LEFT",
            ReplicaState::Unassigned => "NO_LEAF",
            _ => "",
        };
        table.rows.push(vec![
            Cell::text(&replica.index),
            Cell::number(replica.shard.into()),
            Cell::text(if first { "p" } else { "r" }),
            Cell::text(state),
            reported.map_or(Cell::Empty, |status| Cell::number(status.documents)),
            reported.map_or(Cell::Empty, |status| Cell::Bytes(status.bytes_on_disk)),
            reported.map_or(Cell::Empty, |status| Cell::Bytes(status.bytes_on_disk)),
            leaf.and_then(address).map_or(Cell::Empty, |address| Cell::text(&address)),
            leaf.map_or(Cell::Empty, Cell::text),
            Cell::text(why),
            replica.lag_operations.map_or(Cell::Empty, Cell::number),
            replica.lag.map_or(Cell::Empty, |lag| Cell::text(&format!("{:.1}s", lag.as_secs_f64()))),
            reported.map_or(Cell::Empty, |status| Cell::number(status.applied)),
            reported.map_or(Cell::Empty, |status| Cell::number(status.committed)),
        ]);
    }
    table.answer(&call.params, &call.headers)
}

const NODES: &[Column] = &[
    Column::left("ip", &["i"]),
    Column::left("node.role", &["r", "role", "nodeRole"]),
    Column::left("master", &["m"]),
    Column::left("name", &["n"]),
    Column::left("zone", &[]),
    Column::left("alive", &[]),
    Column::right("disk.total", &["dt", "diskTotal"]),
    Column::left("version", &["v"]).hidden(),
    Column::right("protocol", &[]).hidden(),
    Column::left("http_address", &["http"]).hidden(),
    Column::left("id", &["nodeId"]).hidden(),
];

/// `GET /_cat/nodes`: role `r` for roots, `d` (data) for leaves.
pub(crate) async fn nodes(call: Call) -> Result<Answer, ApiError> {
    let status = call.root().status().await?;
    let leader = status.leader.as_ref().map(|leader| leader.name.clone());
    let mut table = Table::new(NODES);
    let roots = status.roots.iter().map(|node| (node, "r"));
    let leaves = status.leaves.iter().map(|node| (node, "d"));
    for (node, role) in roots.chain(leaves) {
        let record: &NodeRecord = &node.record;
        let leads = role == "r" && leader.as_ref() == Some(&record.name);
        table.rows.push(vec![
            Cell::text(host(record.http.as_deref().unwrap_or(&record.grpc))),
            Cell::text(role),
            Cell::text(if leads { "*" } else { "-" }),
            Cell::text(record.name.as_str()),
            Cell::text(record.zone.as_deref().unwrap_or("-")),
            Cell::text(if node.alive && node.connected { "true" } else { "false" }),
            record.capacity_bytes.map_or(Cell::Empty, Cell::Bytes),
            Cell::text(&record.version),
            Cell::number(record.protocol.into()),
            Cell::text(record.http.as_deref().unwrap_or("-")),
            Cell::text(&record.process),
        ]);
    }
    table.answer(&call.params, &call.headers)
}

const MASTER: &[Column] = &[
    Column::left("id", &[]),
    Column::left("host", &["h"]),
    Column::left("ip", &[]),
    Column::left("node", &["n"]),
    Column::right("epoch", &["e"]).hidden(),
    Column::left("since", &[]).hidden(),
];

/// `GET /_cat/master`: the root that leads; no row while none does.
pub(crate) async fn master(call: Call) -> Result<Answer, ApiError> {
    let status = call.root().status().await?;
    let mut table = Table::new(MASTER);
    if let Some(leader) = &status.leader {
        let node = status.roots.iter().find(|node| node.record.name == leader.name);
        let address = node.and_then(|node| node.record.http.as_deref()).map_or("-", host);
        table.rows.push(vec![
            Cell::text(node.map_or("-", |node| &node.record.process)),
            Cell::text(address),
            Cell::text(address),
            Cell::text(leader.name.as_str()),
            Cell::number(leader.epoch),
            Cell::text(&trawl_data::date::format_date(i64::try_from(leader.since_ms).unwrap_or_default())),
        ]);
    }
    table.answer(&call.params, &call.headers)
}

const HEALTH: &[Column] = &[
    Column::right("epoch", &["t", "time"]),
    Column::left("timestamp", &["ts", "hms"]),
    Column::left("cluster", &["cl"]),
    Column::left("status", &["st"]),
    Column::right("node.total", &["nt", "nodeTotal"]),
    Column::right("node.data", &["nd", "nodeData"]),
    Column::right("shards", &["t", "sh", "shards.total"]),
    Column::right("pri", &["p", "shards.primary"]),
    Column::right("relo", &["r", "shards.relocating"]),
    Column::right("init", &["i", "shards.initializing"]),
    Column::right("unassign", &["u", "shards.unassigned"]),
    Column::right("pending_tasks", &["pt"]),
    Column::right("max_task_wait_time", &["mtwt"]),
    Column::right("active_shards_percent", &["asp"]),
];

/// `GET /_cat/health`
pub(crate) async fn health(call: Call) -> Result<Answer, ApiError> {
    let health = call.root().health(&[]);
    let mut table = Table::new(HEALTH);
    let [epoch, timestamp] = clock();
    table.rows.push(vec![
        epoch,
        timestamp,
        Cell::text(CLUSTER_NAME),
        Cell::text(health.status.name()),
        Cell::number(health.nodes.into()),
        Cell::number(health.leaves.into()),
        Cell::number(health.replicas_serving.into()),
        Cell::number(health.shards_served.into()),
        Cell::number(0),
        Cell::number(health.replicas_recovering.into()),
        Cell::number(health.replicas_unassigned.into()),
        Cell::number(0),
        Cell::text("-"),
        Cell::text(&format!("{:.1}%", active_percent(&health))),
    ]);
    table.answer(&call.params, &call.headers)
}

/// Seconds since the epoch, and the time of day.
fn clock() -> [Cell; 2] {
    let now = now_ms();
    let text = trawl_data::date::format_date(now);
    let time = text.split_once('T').map_or("", |(_, time)| time.get(..8).unwrap_or_default());
    [Cell::number(u64::try_from(now / 1000).unwrap_or_default()), Cell::text(time)]
}

const COUNT: &[Column] = &[
    Column::right("epoch", &["t", "time"]),
    Column::left("timestamp", &["ts", "hms"]),
    Column::right("count", &["dc", "docs.count"]),
];

/// `GET /_cat/count`, `/_cat/count/{index}`
pub(crate) async fn count(call: Call) -> Result<Answer, ApiError> {
    let names = call.indices()?;
    let lower: crate::request::Lower =
        Arc::new(|_: &IndexView| Ok(Lowered { query: query::build::all(), ..Lowered::default() }));
    let (count, _) = call.root().count(&names, &lower).await?;
    let mut table = Table::new(COUNT);
    let [epoch, timestamp] = clock();
    table.rows.push(vec![epoch, timestamp, Cell::number(count)]);
    table.answer(&call.params, &call.headers)
}

const ALIASES: &[Column] = &[
    Column::left("alias", &["a"]),
    Column::left("index", &["i", "idx"]),
    Column::left("filter", &["f", "fi"]),
    Column::left("routing.index", &["ri"]),
    Column::left("routing.search", &["rs"]),
    Column::left("is_write_index", &["w"]),
];

/// `GET /_cat/aliases`: there are none.
pub(crate) async fn aliases(call: Call) -> Result<Answer, ApiError> {
    Table::new(ALIASES).answer(&call.params, &call.headers)
}
