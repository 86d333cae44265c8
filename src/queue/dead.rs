//! `trawl queue dead`: documents that were rejected, and tasks whose attempts all failed.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use trawl_data::load::counted;

use super::{
    Api, Common, number, print_json,
    status::{indices, what},
    table, text,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  trawl queue dead list
  trawl queue dead replay --index books";

/// What to do with them.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// What is there
    #[command(after_help = "Example: trawl queue dead list --index books")]
    List(ListArgs),
    /// Everything about some of them
    #[command(after_help = "Example: trawl queue dead show task-12")]
    Show(ShowArgs),
    /// Try them again: a document is written once more, a task becomes ready (a cancelled one only when it is named)
    #[command(
        after_help = "Examples:\n  trawl queue dead replay task-12\n  trawl queue dead replay --index books\n  trawl queue dead replay --all"
    )]
    Replay(WhichArgs),
    /// Forget them
    #[command(after_help = "Examples:\n  trawl queue dead drop task-12\n  trawl queue dead drop --index books")]
    Drop(WhichArgs),
}

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    common: Common,

    /// Documents of this index only, and the tasks about it
    #[arg(long, value_name = "NAME")]
    index: Option<String>,

    /// How many of each sort to show
    #[arg(long, default_value = "100", value_name = "N")]
    size: String,
}

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    common: Common,

    /// As `list` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// Arguments of `replay` and `drop`.
#[derive(Debug, clap::Args)]
pub(super) struct WhichArgs {
    #[command(flatten)]
    common: Common,

    /// All documents of this index
    #[arg(long, value_name = "NAME", conflicts_with_all = ["all", "ids"])]
    index: Option<String>,

    /// All documents and tasks
    #[arg(long, conflicts_with = "ids")]
    all: bool,

    /// As `list` shows them
    #[arg(required_unless_present_any = ["index", "all"], value_name = "ID")]
    ids: Vec<String>,
}

/// Runs one command.
pub(super) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
        Command::Replay(args) => change(args, "_replay").await,
        Command::Drop(args) => change(args, "_drop").await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let api = Api::new(&args.common)?;
    let mut parameters = vec![("size", args.size.as_str())];
    let tasks = [("state", "dead"), parameters[0]];
    parameters.extend(args.index.as_deref().map(|index| ("index", index)));
    let letters = match api.get(&["_trawl", "dead_letters"], &parameters).await {
        // A root that keeps no dead letters still has tasks to show.
        Err(error) if error.to_string().contains("no handler found") => Value::Null,
        letters => letters?,
    };
    let mut tasks = api.get(&["_trawl", "queue", "tasks"], &tasks).await?;
    if let (Some(index), Some(listed)) = (&args.index, tasks["tasks"].as_array_mut()) {
        listed.retain(|task| indices(task).contains(&index.as_str()));
    }
    if args.common.json {
        return print_json(&json!({ "letters": letters["letters"], "kept": letters["kept"], "bytes": letters["bytes"],
            "aged_out": letters["aged_out"], "tasks": tasks["tasks"] }));
    }
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let rows: Vec<Vec<String>> = list(&letters, "letters").iter().map(letter_row).collect();
    if !rows.is_empty() {
        table::print(&["document", "index", "_id", "operation", "time", "reason"], &rows);
    }
    let kept = letters["kept"].as_u64().unwrap_or(0);
    let aged_out = letters["aged_out"].as_u64().unwrap_or(0);
    table::say(&format!("{} in all indices; {aged_out} older ones made room and are gone", counted(kept, "document")));
    let tasks = list(&tasks, "tasks");
    if !tasks.is_empty() {
        table::say("");
        let row = |task: &Value| {
            vec![
                text(task, "id").to_owned(),
                number(task, "attempts"),
                text(task, "changed").to_owned(),
                what(task),
                reason(task),
            ]
        };
        table::print(&["task", "attempts", "time", "what", "reason"], &tasks.iter().map(row).collect::<Vec<_>>());
    }
    table::say(&counted(tasks.len() as u64, "task"));
    Ok(ExitCode::SUCCESS)
}

fn letter_row(letter: &Value) -> Vec<String> {
    let error = &letter["error"];
    vec![
        text(letter, "id").to_owned(),
        text(letter, "index").to_owned(),
        text(letter, "_id").to_owned(),
        text(letter, "operation").to_owned(),
        text(letter, "time").to_owned(),
        format!("{}: {}", text(error, "type"), text(error, "reason")),
    ]
}

fn reason(task: &Value) -> String {
    match (text(task, "reason"), task["cancelled"] == true) {
        ("", true) => "cancelled".to_owned(),
        (reason, _) => reason.to_owned(),
    }
}

async fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    check_ids(&args.ids)?;
    let api = Api::new(&args.common)?;
    for id in &args.ids {
        let found = match is_task(id) {
            true => api.get(&["_trawl", "queue", "tasks", id], &[]).await?,
            false => {
                let path: Vec<&str> = ["_trawl", "dead_letters"].into_iter().chain(id.split('/')).collect();
                api.get(&path, &[]).await?
            }
        };
        print_json(&found)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_task(id: &str) -> bool {
    id.starts_with("task-")
}

fn check_ids(ids: &[String]) -> anyhow::Result<()> {
    match ids.iter().find(|id| !is_task(id) && id.split('/').count() != 4) {
        None => Ok(()),
        Some(id) => anyhow::bail!(
            "[{id}] is neither the id of a document (INDEXUID/SHARD/INCARNATION/SEQ) nor of a task (task-12): \
             `trawl queue dead list` shows both"
        ),
    }
}

/// Replays or drops: letters and tasks each by their own part of the API.
async fn change(args: WhichArgs, action: &str) -> anyhow::Result<ExitCode> {
    check_ids(&args.ids)?;
    let api = Api::new(&args.common)?;
    let (tasks, letters): (Vec<&String>, Vec<&String>) = args.ids.iter().partition(|id| is_task(id));
    let of_letters = match (&args.index, args.all) {
        (Some(index), _) => Some(json!({ "index": index })),
        (None, true) => Some(json!({ "all": true })),
        (None, false) => (!letters.is_empty()).then(|| json!({ "ids": letters })),
    };
    let of_tasks = match args.all {
        true => Some(json!({ "all": true })),
        false => (!tasks.is_empty()).then(|| json!({ "ids": tasks })),
    };
    let mut answers = json!({});
    if let Some(body) = &of_letters {
        answers["letters"] = api.post(&["_trawl", "dead_letters", action], body).await?;
    }
    if let Some(body) = &of_tasks {
        answers["tasks"] = api.post(&["_trawl", "queue", "tasks", action], body).await?;
    }
    if args.common.json {
        print_json(&answers)?;
    }
    let count = |sort: &str, key: &str| answers[sort][key].as_u64().unwrap_or(0);
    let failures = answers["letters"]["failures"].as_array().cloned().unwrap_or_default();
    if !args.common.json {
        for (sort, name) in [("letters", "documents"), ("tasks", "tasks")] {
            let Some(answer) = answers[sort].as_object() else { continue };
            let parts = answer.iter().filter_map(|(key, value)| Some((key.replace('_', " "), value.as_u64()?)));
            let parts: Vec<String> = parts.filter(|(_, n)| *n > 0).map(|(key, n)| format!("{n} {key}")).collect();
            table::say(&format!("{name}: {}", if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }));
        }
        for failure in &failures {
            table::say(&format!("{}: {}", text(failure, "id"), table::printable(text(failure, "reason"))));
        }
    }
    let bad = count("letters", "still_rejected") + count("letters", "missing") + count("tasks", "missing");
    Ok(if bad == 0 && failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
