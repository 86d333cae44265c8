//! `trawl cluster`: who is there, who leads, where replicas are, and having them go elsewhere.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};
use trawl_data::load::counted;

use crate::api::{Api, Common, number, print_json, table, text};

/// How often a drain is looked at.
const POLL: Duration = Duration::from_millis(500);
/// When nothing has moved for so long, it is said why that may be.
const STUCK: Duration = Duration::from_secs(15);

const EXAMPLES: &str = "\
Examples:
  trawl cluster status
  trawl cluster shards
  trawl cluster drain leaf-2
  trawl cluster move books 0 leaf-1 leaf-3";

/// Shows the cluster and moves what it holds.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Health, the leader with its epoch and since when, roots and leaves
    #[command(after_help = "Example: trawl cluster status --endpoint http://127.0.0.1:9200")]
    Status(Common),
    /// Leaves, and how much each holds
    #[command(after_help = "Example: trawl cluster leaves")]
    Leaves(Common),
    /// Replicas: where, in which state, how far
    #[command(after_help = "Example: trawl cluster shards")]
    Shards(Common),
    /// Move everything off a leaf and wait until it can be stopped for good
    #[command(after_help = "Example: trawl cluster drain leaf-2")]
    Drain(DrainArgs),
    /// Take a drain back: the leaf gets replicas again
    #[command(after_help = "Example: trawl cluster undrain leaf-2")]
    Undrain(UndrainArgs),
    /// Have one replica go to another leaf
    #[command(after_help = "Example: trawl cluster move books 0 leaf-1 leaf-3")]
    Move(MoveArgs),
}

/// Arguments of `trawl cluster drain`.
#[derive(Debug, clap::Args)]
struct DrainArgs {
    #[command(flatten)]
    common: Common,

    /// The leaf
    #[arg(value_name = "LEAF")]
    leaf: String,

    /// Only say that it shall be drained
    #[arg(long, env = "TRAWL_NO_WAIT")]
    no_wait: bool,
}

/// Arguments of `trawl cluster undrain`.
#[derive(Debug, clap::Args)]
struct UndrainArgs {
    #[command(flatten)]
    common: Common,

    /// The leaf
    #[arg(value_name = "LEAF")]
    leaf: String,
}

/// Arguments of `trawl cluster move`.
#[derive(Debug, clap::Args)]
struct MoveArgs {
    #[command(flatten)]
    common: Common,

    /// The index
    index: String,

    /// Number of the shard
    shard: u32,

    /// The leaf that has the replica
    #[arg(value_name = "FROM")]
    from: String,

    /// The leaf that is to have it
    #[arg(value_name = "TO")]
    to: String,
}

/// Exit code 0 when it was done, 1 when not.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Status(common) => status(&common).await,
        Command::Leaves(common) => leaves(&common).await,
        Command::Shards(common) => shards(&common).await,
        Command::Drain(args) => drain(args).await,
        Command::Undrain(args) => undrain(args).await,
        Command::Move(args) => move_replica(args).await,
    }
}

async fn status(common: &Common) -> anyhow::Result<ExitCode> {
    let api = Api::new(common)?;
    let cluster = api.get(&["_trawl", "cluster"], &[]).await?;
    if common.json {
        return print_json(&cluster);
    }
    let health = api.get(&["_cluster", "health"], &[]).await?;
    table::say(&format!(
        "health: {}; replicas: {} serving, {} on their way, {} missing",
        text(&health, "status"),
        number(&health, "active_shards"),
        number(&health, "initializing_shards"),
        number(&health, "unassigned_shards")
    ));
    let leader = &cluster["leader"];
    match leader.is_null() {
        true => table::say("leader: none"),
        false => table::say(&format!(
            "leader: {}, epoch {}, since {}",
            text(leader, "name"),
            number(leader, "epoch"),
            text(leader, "since")
        )),
    }
    table::say(&protocol(&cluster));
    for reason in list(&cluster, "unreadable") {
        table::say(&format!("unreadable: {}", reason.as_str().unwrap_or_default()));
    }
    let nodes = |role: &'static str, key: &str| -> Vec<Vec<String>> {
        list(&cluster, key).iter().map(|node| node_row(role, node)).collect()
    };
    let rows = [nodes("root", "roots"), nodes("leaf", "leaves")].concat();
    table::print(&["role", "name", "state", "address", "zone", "version", "protocol", "since"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn node_row(role: &str, node: &Value) -> Vec<String> {
    let address = node["http"].as_str().unwrap_or_else(|| text(node, "grpc"));
    vec![
        role.to_owned(),
        text(node, "name").to_owned(),
        state(node).to_owned(),
        address.to_owned(),
        node["zone"].as_str().unwrap_or("-").to_owned(),
        text(node, "version").to_owned(),
        number(node, "protocol"),
        text(node, "started").to_owned(),
    ]
}

/// The cluster's protocol, and whether an upgrade is under way.
fn protocol(cluster: &Value) -> String {
    let protocol = |value: &Value| value["protocol"].as_u64().unwrap_or(1);
    let agreed = protocol(cluster);
    let nodes = [list(cluster, "roots"), list(cluster, "leaves")].concat();
    let live = nodes.iter().filter(|node| node["alive"] == true).map(protocol);
    match (live.clone().min(), live.max()) {
        (Some(oldest), _) if oldest > agreed => format!(
            "protocol: {agreed}; all nodes speak {oldest}, which becomes the cluster's once they have for a while \
             (--upgrade-after)"
        ),
        (_, Some(newest)) if newest > agreed => {
            format!("protocol: {agreed}; some nodes speak {newest}, an upgrade is under way")
        }
        _ => format!("protocol: {agreed}"),
    }
}

fn state(node: &Value) -> &'static str {
    match (node["alive"] == true, node["connected"] == true) {
        _ if node["draining"] == true => "draining",
        (true, true) => "live",
        (true, false) => "unreachable",
        (false, _) => "gone",
    }
}

async fn leaves(common: &Common) -> anyhow::Result<ExitCode> {
    let cluster = Api::new(common)?.get(&["_trawl", "cluster"], &[]).await?;
    if common.json {
        return print_json(&cluster["leaves"]);
    }
    let row = |leaf: &Value| {
        let held = || list(&cluster, "shards").iter().filter(|replica| replica["leaf"] == leaf["name"]);
        let sum = |key: &str| held().filter_map(|replica| replica[key].as_u64()).sum::<u64>();
        vec![
            text(leaf, "name").to_owned(),
            state(leaf).to_owned(),
            leaf["zone"].as_str().unwrap_or("-").to_owned(),
            held().count().to_string(),
            held().filter(|replica| replica["state"] == "serving").count().to_string(),
            sum("documents").to_string(),
            table::size(sum("bytes_on_disk")),
            leaf["capacity_bytes"].as_u64().map_or_else(|| "-".to_owned(), table::size),
        ]
    };
    let rows: Vec<_> = list(&cluster, "leaves").iter().map(row).collect();
    table::print(&["leaf", "state", "zone", "replicas", "serving", "documents", "size", "capacity"], &rows);
    Ok(ExitCode::SUCCESS)
}

async fn shards(common: &Common) -> anyhow::Result<ExitCode> {
    let cluster = Api::new(common)?.get(&["_trawl", "cluster"], &[]).await?;
    if common.json {
        return print_json(&cluster["shards"]);
    }
    let row = |replica: &Value| {
        vec![
            format!("{}/{}", text(replica, "index"), number(replica, "shard")),
            replica["leaf"].as_str().unwrap_or("-").to_owned(),
            text(replica, "state").to_owned(),
            number(replica, "documents"),
            replica["bytes_on_disk"].as_u64().map_or_else(|| "-".to_owned(), table::size),
            number(replica, "lag_operations"),
            recovery(replica),
            text(replica, "reason").to_owned(),
        ]
    };
    let rows: Vec<_> = list(&cluster, "shards").iter().map(row).collect();
    table::print(&["shard", "leaf", "state", "documents", "size", "lag", "recovery", "reason"], &rows);
    Ok(ExitCode::SUCCESS)
}

/// How far a replica is that does not serve yet.
fn recovery(replica: &Value) -> String {
    let recovery = &replica["recovery"];
    let number = |key: &str| recovery[key].as_u64().unwrap_or(0);
    let share =
        |done: &str, all: &str| number(done).saturating_mul(100).checked_div(number(all)).unwrap_or(100).min(100);
    let took = format!("{:.1} s", number("took_ms") as f64 / 1_000.0);
    let size = |key: &str| table::size(number(key));
    match recovery["stage"].as_str() {
        None | Some("done" | "stuck") => String::new(),
        Some("index") => format!(
            "copying from {}: {} of {}, {} %, {} of {} files, {took}",
            text(recovery, "source"),
            size("bytes_done"),
            size("bytes"),
            share("bytes_done", "bytes"),
            number("files_done"),
            number("files"),
        ),
        Some("verify_index") => {
            format!(
                "checking: {} of {}, {} %, {took}",
                size("checked_bytes"),
                size("check_bytes"),
                share("checked_bytes", "check_bytes")
            )
        }
        Some("translog") => format!(
            "catching up: {} of {} operations, {} %, {took}",
            number("operations_done"),
            number("operations"),
            share("operations_done", "operations"),
        ),
        Some(other) => format!("{other}, {took}"),
    }
}

/// Ctrl-C ends the waiting only; the leaf goes on being drained.
async fn drain(args: DrainArgs) -> anyhow::Result<ExitCode> {
    let api = Api::new(&args.common)?;
    let path = ["_trawl", "drain", args.leaf.as_str()];
    let mut drain = api.send(Method::PUT, &path).await?;
    let (mut last, mut moved_at) = (None, Some(Instant::now()));
    while !args.no_wait && drain["safe_to_remove"] != true {
        let left = drain["replicas"].as_u64();
        if last != left && !args.common.json {
            table::say(&format!("still on {}: {}", args.leaf, counted(left.unwrap_or_default(), "replica")));
            (last, moved_at) = (left, Some(Instant::now()));
        }
        if moved_at.is_some_and(|at| at.elapsed() > STUCK) && !args.common.json {
            table::say(
                "nothing has moved for a while: each copy of a shard needs a live leaf of its own that is not drained \
                 (`trawl cluster leaves`), and copies take their time (`trawl cluster shards`); Ctrl-C ends the waiting only",
            );
            moved_at = None;
        }
        tokio::time::sleep(POLL).await;
        drain = api.get(&path, &[]).await?;
        anyhow::ensure!(drain["draining"] == true, "the drain of {} was taken back", args.leaf);
    }
    if args.common.json {
        return print_json(&drain);
    }
    match drain["safe_to_remove"] == true {
        true => table::say(&format!("{} holds nothing any more: it can be stopped for good", args.leaf)),
        false => table::say(&format!("{} is drained; `trawl cluster drain {}` waits for it", args.leaf, args.leaf)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn undrain(args: UndrainArgs) -> anyhow::Result<ExitCode> {
    let answer = Api::new(&args.common)?.send(Method::DELETE, &["_trawl", "drain", args.leaf.as_str()]).await?;
    if args.common.json {
        return print_json(&answer);
    }
    table::say(&format!("{} takes replicas again", args.leaf));
    Ok(ExitCode::SUCCESS)
}

async fn move_replica(args: MoveArgs) -> anyhow::Result<ExitCode> {
    let api = Api::new(&args.common)?;
    let body = json!({"commands": [{"move": {
        "index": args.index, "shard": args.shard, "from_node": args.from, "to_node": args.to,
    }}]});
    let answer = api.post(&["_cluster", "reroute"], &body).await?;
    if args.common.json {
        return print_json(&answer);
    }
    table::say(&format!(
        "shard {} of {} goes from {} to {}: `trawl cluster shards` shows how far it is",
        args.shard, args.index, args.from, args.to
    ));
    Ok(ExitCode::SUCCESS)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_is_shown_with_what_is_under_way() {
        let cluster = |protocol: u64, root: u64, leaf: u64, dead: u64| {
            let node = |protocol, alive| json!({"protocol": protocol, "alive": alive});
            super::protocol(&json!({
                "protocol": protocol, "roots": [node(root, true)], "leaves": [node(leaf, true), node(dead, false)]
            }))
        };
        assert_eq!(cluster(2, 2, 2, 1), "protocol: 2");
        assert_eq!(cluster(1, 2, 1, 1), "protocol: 1; some nodes speak 2, an upgrade is under way");
        assert!(cluster(1, 2, 2, 1).starts_with("protocol: 1; all nodes speak 2, which becomes"));
    }
}
