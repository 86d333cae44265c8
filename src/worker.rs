//! `trawl worker`: carries out the load tasks of the cluster's queue.

use std::{num::NonZeroUsize, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use trawl_data::load::{
    Client, Observer, Rejection, WorkerOptions, counted,
    queue::{HttpQueue, KIND, TaskQueue},
    work,
};

use crate::{engine_queue, root::name_or_host};

const EXAMPLES: &str = "\
Examples:
  trawl load --enqueue --index books /data/books/*.ndjson.gz
  trawl worker --cluster sqlite:trawl-data/cluster --until-empty

Any number of workers can run, here and elsewhere; each must be able to read the files by the same path, or by URL. \
A task that fails is tried again after a pause, by any worker, and is dead after its last attempt: `trawl queue dead list`.

Exit code: 0 at a signal, or with --until-empty when everything was loaded; 1 when this worker's tasks held documents that \
were rejected, when tasks are dead, or when the cluster was away for longer than --retry-for; 2 usage. Rejected documents \
are logged (the first 20 of each task) and kept with the task: `trawl queue tasks --json`.";

/// How long one request may take before it is sent again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Claims load tasks and loads their documents, until a signal comes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The cluster engine, for example sqlite:trawl-data/cluster; its live roots take the documents
    #[arg(long, env = "TRAWL_CLUSTER", value_name = "URL")]
    pub cluster: Option<String>,

    /// A root's address, instead of --cluster: tasks are claimed and documents sent through it alone
    #[arg(long, env = "TRAWL_ENDPOINT", value_name = "URL")]
    pub endpoint: Option<String>,

    /// Tasks at once
    #[arg(long, env = "TRAWL_CONCURRENCY", default_value = "1", value_name = "N")]
    pub concurrency: NonZeroUsize,

    /// End when no task is ready or claimed
    #[arg(long, env = "TRAWL_UNTIL_EMPTY")]
    pub until_empty: bool,

    /// How long a claim lasts without being extended: so long after a worker died its task goes to another
    #[arg(long, env = "TRAWL_CLAIM_TIME", default_value = "60s", value_parser = crate::load::claim_time, value_name = "DURATION")]
    pub claim_time: Duration,

    /// How long to go on trying when the cluster is busy or away: to send a batch, after which the attempt has failed; to
    /// open the cluster engine at the start and, with --until-empty, to ask for tasks, after which the worker ends
    #[arg(long, env = "TRAWL_RETRY_FOR", default_value = "5m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub retry_for: Duration,

    /// Name, shown with the tasks it claims; from the host name and the process when not given
    #[arg(long, env = "TRAWL_NAME", value_name = "NAME")]
    pub name: Option<String>,
}

/// Runs until a signal comes or, if asked to, until the queue is empty.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stop = crate::shutdown::token()?;
    let (queue, client): (Arc<dyn TaskQueue>, Client) = match (&args.cluster, &args.endpoint) {
        (Some(cluster), _) => {
            let open = engine_queue::open(cluster, args.retry_for, &stop);
            let Some(opened) = stop.run_until_cancelled(open).await else { return Ok(ExitCode::SUCCESS) };
            opened?
        }
        (None, endpoint) => {
            let client = Client::new(endpoint.as_deref().unwrap_or_default(), REQUEST_TIMEOUT)?;
            (Arc::new(HttpQueue::new(client.clone())), client)
        }
    };
    let name = args.name.unwrap_or_else(|| format!("{}, process {}", name_or_host(None), std::process::id()));
    let options = WorkerOptions {
        concurrency: args.concurrency,
        claim_time: args.claim_time,
        until_empty: args.until_empty,
        retry_for: args.retry_for,
        ..WorkerOptions::new(name.clone())
    };
    tracing::info!(worker = name, "worker started");
    let report = work(queue.clone(), client, options, Arc::new(Log), stop.clone()).await?;
    let tally = &report.tally;
    let rejected = tally.rejected_total();
    let kinds: Vec<String> = tally.rejected.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    println!(
        "{} done: loaded {}, rejected {rejected}{kinds}; {} failed, {} lost, {} given back",
        counted(report.done, "task"),
        counted(tally.loaded, "document"),
        counted(report.failed, "attempt"),
        counted(report.lost, "claim"),
        report.given_back
    );
    if !args.until_empty || stop.is_cancelled() {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(reason) = report.gave_up {
        anyhow::bail!("{reason}; start the worker again to do what is left in the queue");
    }
    let counts = queue.counts(KIND).await.context("cannot ask whether tasks are dead")?;
    if rejected > 0 {
        let rejected = counted(rejected, "document");
        eprintln!("{rejected} rejected: `trawl queue tasks --state done --json` shows the first of each task and why");
    }
    if counts.dead > 0 {
        let dead = counted(counts.dead, "dead task");
        eprintln!("{dead}: `trawl queue dead list` shows what was wrong, `trawl queue dead replay` tries again");
    }
    Ok(if counts.dead + rejected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a worker meets, for its log.
struct Log;

impl Observer for Log {
    fn rejected(&self, rejection: &Rejection) {
        // A reason may quote the document.
        let reason: String = rejection.reason.chars().take(500).collect();
        tracing::warn!(place = %rejection.place, kind = rejection.kind, reason, "rejected");
    }

    fn retrying(&self, reason: &str, pause: Duration) {
        if pause >= Duration::from_secs(1) {
            tracing::warn!(reason, pause_ms = pause.as_millis() as u64, "trying again");
        }
    }
}
