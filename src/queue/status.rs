//! `trawl queue status`, `tasks` and `cancel`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Api, Common, number, print_json, table, text};

/// Indices of one task that are named.
const NAMES_MAX: usize = 5;

/// Arguments of `trawl queue status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl queue status --endpoint http://127.0.0.1:9200")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    common: Common,
}

/// Arguments of `trawl queue tasks`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl queue tasks --kind load --state claimed")]
pub(super) struct TasksArgs {
    #[command(flatten)]
    common: Common,

    /// Tasks of this kind only, for example load
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,

    /// Tasks in this state only: ready, claimed, done or dead
    #[arg(long, value_name = "STATE")]
    state: Option<String>,

    /// Tasks behind this one only
    #[arg(long, value_name = "ID")]
    after: Option<String>,

    /// Tasks to show
    #[arg(long, default_value = "100", value_name = "N")]
    size: String,
}

/// Arguments of `trawl queue cancel`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl queue cancel task-12 task-13")]
pub(super) struct CancelArgs {
    #[command(flatten)]
    common: Common,

    /// The tasks
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// Shows the whole queue.
pub(super) async fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let status = Api::new(&args.common)?.get(&["_trawl", "queue"], &[]).await?;
    if args.common.json {
        return print_json(&status);
    }
    let kinds = status["kinds"].as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = kinds
        .map(|(kind, counts)| {
            let count = |state| number(counts, state);
            vec![kind.clone(), count("ready"), count("claimed"), count("done"), count("dead")]
        })
        .collect();
    table::print(&["tasks", "ready", "claimed", "done", "dead"], &rows);
    let list = |key: &str| status[key].as_array().map(Vec::as_slice).unwrap_or_default();
    if list("logs").is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    table::say("");
    let rows: Vec<Vec<String>> = list("logs").iter().map(|log| shard_row(log, list("replicas"))).collect();
    table::print(&["shard", "log operations", "log size", "lag (operations, seconds) of each replica"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn shard_row(log: &Value, replicas: &[Value]) -> Vec<String> {
    let same = |replica: &&Value| replica["index"] == log["index"] && replica["shard"] == log["shard"];
    let replica = |replica: &Value| match replica["leaf"].as_str() {
        None => "unassigned".to_owned(),
        Some(leaf) => {
            let seconds = replica["lag_seconds"].as_f64().map_or_else(|| "-".to_owned(), |lag| format!("{lag:.1}"));
            format!("{leaf} {} {seconds}", number(replica, "lag_operations"))
        }
    };
    let replicas: Vec<String> = replicas.iter().filter(same).map(replica).collect();
    vec![
        format!("{}/{}", text(log, "index"), number(log, "shard")),
        number(log, "operations"),
        table::size(log["bytes"].as_u64().unwrap_or(0)),
        replicas.join(", "),
    ]
}

/// Shows tasks.
pub(super) async fn tasks(args: TasksArgs) -> anyhow::Result<ExitCode> {
    let mut parameters = vec![("size", args.size.as_str())];
    for (name, value) in [("kind", &args.kind), ("state", &args.state), ("after", &args.after)] {
        parameters.extend(value.as_deref().map(|value| (name, value)));
    }
    let answer = Api::new(&args.common)?.get(&["_trawl", "queue", "tasks"], &parameters).await?;
    if args.common.json {
        return print_json(&answer);
    }
    let tasks = answer["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Vec<String>> = tasks.iter().map(row).collect();
    table::print(&["id", "kind", "state", "attempts", "worker", "what", "progress"], &rows);
    if answer["more"] == true {
        table::say(&format!("more follow: --after {}", tasks.last().map(|task| text(task, "id")).unwrap_or_default()));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(task: &Value) -> Vec<String> {
    vec![
        text(task, "id").to_owned(),
        text(task, "kind").to_owned(),
        text(task, "state").to_owned(),
        format!("{}/{}", number(task, "attempts"), number(task, "attempts_max")),
        text(task, "worker").to_owned(),
        what(task),
        progress(task),
    ]
}

/// What a task is about, in a few words.
pub(super) fn what(task: &Value) -> String {
    let body = &task["body"];
    let pieces = body["pieces"].as_array().map(Vec::as_slice).unwrap_or_default();
    match pieces {
        [piece] => match (piece["range"]["from"]["offset"].as_u64(), piece["range"]["to"].as_u64()) {
            (Some(from), Some(to)) => {
                format!("{} bytes {from} to {to} into {}", text(piece, "name"), text(body, "index"))
            }
            _ => format!("{} into {}", text(piece, "name"), text(body, "index")),
        },
        [first, rest @ ..] => {
            format!("{} and {} more files into {}", text(first, "name"), rest.len(), text(body, "index"))
        }
        [] => match (body["index"].as_str(), body["action"].as_str()) {
            (Some(index), _) => format!("into {index}"),
            (None, Some(action)) => by_query(action, &indices(task)),
            (None, None) => task["key"].as_str().unwrap_or_default().to_owned(),
        },
    }
}

fn by_query(action: &str, indices: &[&str]) -> String {
    let (shown, rest) = indices.split_at(indices.len().min(NAMES_MAX));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{action} by query in {}{more}", shown.join(", "))
}

/// The indices that a task is about.
pub(super) fn indices(task: &Value) -> Vec<&str> {
    let body = &task["body"];
    let targets = body["targets"].as_array().into_iter().flatten().map(|target| &target["name"]);
    targets.chain([&body["index"]]).filter_map(Value::as_str).collect()
}

fn progress(task: &Value) -> String {
    let progress = &task["progress"];
    let tally = if progress["tally"].is_object() { &progress["tally"] } else { progress };
    let count = |key: &str| progress[key].as_u64();
    match (tally["loaded"].as_u64(), count("total")) {
        (Some(loaded), _) => {
            let kinds = tally["rejected"].as_object().into_iter().flatten();
            match kinds.filter_map(|(_, count)| count.as_u64()).sum::<u64>() {
                0 => format!("{loaded} loaded"),
                rejected => format!("{loaded} loaded, {rejected} rejected"),
            }
        }
        (None, Some(total)) => {
            let done = count("deleted").unwrap_or(0) + count("updated").unwrap_or(0);
            format!("{done} of {total}")
        }
        (None, None) => String::new(),
    }
}

/// Ends tasks.
pub(super) async fn cancel(args: CancelArgs) -> anyhow::Result<ExitCode> {
    let api = Api::new(&args.common)?;
    let answer = api.post(&["_trawl", "queue", "tasks", "_cancel"], &json!({ "ids": args.ids })).await?;
    if args.common.json {
        return print_json(&answer);
    }
    table::say(&format!(
        "{} cancelled, {} not there or ended already",
        number(&answer, "cancelled"),
        number(&answer, "missing")
    ));
    Ok(if answer["missing"] == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_named_by_what_they_do() {
        let target = |number: usize| json!({ "name": format!("i{number}"), "uid": "u" });
        let job = |targets: Vec<Value>| json!({ "body": { "action": "delete", "targets": targets } });
        assert_eq!(what(&job(vec![target(0), target(1)])), "delete by query in i0, i1");
        assert_eq!(what(&job((0..7).map(target).collect())), "delete by query in i0, i1, i2, i3, i4 and 2 more");
        assert_eq!(indices(&json!({ "body": { "index": "books" } })), ["books"]);
        assert_eq!(what(&json!({ "body": { "index": "books", "inputs": ["a"] } })), "into books");
    }
}
