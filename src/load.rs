//! `trawl load`: documents from files into an index.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use trawl_data::{
    load::{
        Client, Console, EnqueueOptions, LoadError, LoadOptions, counted, enqueue, load,
        queue::{HttpQueue, KIND, TaskQueue},
    },
    readers::Format,
};

use crate::engine_queue;

const EXAMPLES: &str = "\
Examples:
  trawl load --index packages /var/lib/apt/lists/*Packages.lz4
  trawl load --index books --id isbn books.csv.gz
  zcat events.ndjson.gz | trawl load --index events --refresh -
  trawl load --index logs s3://bucket/2026/ https://example.org/more.ndjson.gz
  trawl load --enqueue --index books books/*.csv.gz && trawl worker --cluster sqlite:trawl-data/cluster --until-empty

Files may be compressed: gz, zst, lz4, xz, bz2. A missing index is created with a mapping that fits the format and as \
many shards as the cluster has leaves.

An interrupted load goes on where it was when it is started again with the same arguments and files. A finished one \
loads everything again and replaces its documents, so that the index holds what the files hold whatever happened in \
between.

With --enqueue the files are cut into tasks for `trawl worker`; a task that is in the queue, or was done within the \
last hour, is not added again unless the file has changed or --again is given.

Progress, rejected documents (file, line, reason; the first 20) and files that cannot be read go to standard error, \
the final counts to standard output. Exit code: 0 all loaded; 1 something was rejected, not readable, or failed; \
2 usage; 130 interrupted.";

/// How long an interrupted load may take to note how far it is.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the cluster engine may be away at the start, and how long a root may take to be seen in it: a wrong URL
/// should be noticed soon.
const ROOT_PATIENCE: Duration = Duration::from_secs(5);

/// Loads documents from files into an index.
///
/// Formats: NDJSON, JSON, CSV and TSV with a header, Debian Packages, text and Markdown; each plain or compressed
/// (gz, zst, lz4, xz, bz2). Both are found out from the content.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The index to load into
    #[arg(long, env = "TRAWL_INDEX", value_name = "NAME")]
    pub index: String,

    /// Format of the files: auto, ndjson, json, csv, tsv, debian or text
    #[arg(long, env = "TRAWL_FORMAT", default_value = "auto", value_name = "FORMAT")]
    pub format: Format,

    /// Field whose value is the document's _id; otherwise the package name, the path of a text file, or made from the
    /// file's name and the line
    #[arg(long, env = "TRAWL_ID", value_name = "FIELD")]
    pub id: Option<String>,

    /// A root's address
    #[arg(long, env = "TRAWL_ENDPOINT", default_value = "http://127.0.0.1:9200", value_name = "URL")]
    pub endpoint: String,

    /// Size of a batch
    #[arg(long, env = "TRAWL_BATCH_BYTES", default_value = "1MiB", value_parser = size, value_name = "SIZE")]
    pub batch_bytes: usize,

    /// Batches on their way at once
    #[arg(long, env = "TRAWL_CONCURRENCY", default_value = "4", value_name = "N")]
    pub concurrency: NonZeroUsize,

    /// Longest line or document; a longer one is reported and left out
    #[arg(long, env = "TRAWL_DOCUMENT_BYTES_MAX", default_value = "10MiB", value_parser = size, value_name = "SIZE")]
    pub document_bytes_max: usize,

    /// Shards of a new index; default: as many as the cluster has leaves
    #[arg(long, env = "TRAWL_SHARDS", value_name = "N")]
    pub shards: Option<u32>,

    /// Extra replicas of a new index
    #[arg(long, env = "TRAWL_REPLICAS", value_name = "N")]
    pub replicas: Option<u32>,

    /// JSON file with the mapping (or the whole body for creating the index); added to an index that exists
    #[arg(long, env = "TRAWL_MAPPING", value_name = "FILE")]
    pub mapping: Option<PathBuf>,

    /// Return when the documents can be found by searches
    #[arg(long, env = "TRAWL_REFRESH")]
    pub refresh: bool,

    /// How long to go on trying when the cluster is busy or away
    #[arg(long, env = "TRAWL_RETRY_FOR", default_value = "5m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub retry_for: Duration,

    /// How long the same load waits for one that was killed
    #[arg(long, env = "TRAWL_CLAIM_TIME", default_value = "10s", value_parser = claim_time, value_name = "DURATION")]
    pub claim_time: Duration,

    /// Cut the files into tasks for `trawl worker` and return
    #[arg(long, env = "TRAWL_ENQUEUE")]
    pub enqueue: bool,

    /// The cluster engine, for example sqlite:trawl-data/cluster, instead of --endpoint: a live root of it takes the
    /// documents; with --enqueue the tasks go into it directly
    #[arg(long, env = "TRAWL_CLUSTER", value_name = "URL")]
    pub cluster: Option<String>,

    /// With --enqueue: size of a task; plain files longer than this are cut
    #[arg(long, env = "TRAWL_TASK_BYTES", default_value = "16MiB", value_parser = size, value_name = "SIZE")]
    pub task_bytes: usize,

    /// With --enqueue: attempts before a task is dead
    #[arg(long, env = "TRAWL_ATTEMPTS", default_value = "5", value_name = "N")]
    pub attempts: NonZeroU32,

    /// With --enqueue: push tasks also when equal ones are in the queue or were done
    #[arg(long, env = "TRAWL_AGAIN", requires = "enqueue")]
    pub again: bool,

    /// Files, directories of text files, s3:// and http(s):// URLs (s3://bucket/prefix/ for all below), or - for standard
    /// input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Exit code 0 when everything was loaded, 1 when something was rejected, 130 when interrupted.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mapping = args.mapping.as_deref().map(read_mapping).transpose()?;
    let stop = interrupted()?;
    let endpoint = match &args.cluster {
        Some(url) if !args.enqueue => engine_queue::root(url, ROOT_PATIENCE).await?,
        _ => args.endpoint,
    };
    let options = LoadOptions {
        format: args.format,
        id_field: args.id,
        record_bytes_max: args.document_bytes_max,
        batch_bytes: args.batch_bytes,
        concurrency: args.concurrency,
        shards: args.shards,
        replicas: args.replicas,
        mapping,
        refresh: args.refresh,
        retry_for: args.retry_for,
        claim_time: args.claim_time,
        stop: stop.clone(),
        ..LoadOptions::new(endpoint, args.index, LoadOptions::inputs_from(&args.files))
    };
    if args.enqueue {
        let options = EnqueueOptions {
            task_bytes: args.task_bytes as u64,
            attempts_max: args.attempts,
            again: args.again,
            ..EnqueueOptions::new(options)
        };
        return push(options, args.cluster).await;
    }
    let console = Console::new();
    let outcome = load(options, &console).await;
    console.finish();
    match outcome {
        Ok(report) => {
            println!("{report}");
            Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => {
            if let Some(report) = error.report() {
                println!("{report}; not complete");
            }
            if let LoadError::Interrupted { .. } = error {
                eprintln!("interrupted; start it again to load the rest");
                return Ok(ExitCode::from(130));
            }
            let context = match &error {
                LoadError::GaveUp { .. } => "loading stopped; run it again to load the rest",
                _ => "loading stopped",
            };
            Err(error).context(context)
        }
    }
}

/// Cuts the inputs into tasks and pushes them. Exit code 1 when an input could not be read.
async fn push(options: EnqueueOptions, cluster: Option<String>) -> anyhow::Result<ExitCode> {
    let (queue, client): (Arc<dyn TaskQueue>, Client) = match &cluster {
        Some(url) => {
            let (queue, client) = engine_queue::open(url, ROOT_PATIENCE, &options.load.stop).await?;
            engine_queue::root_known(&client, url, ROOT_PATIENCE).await?;
            (queue, client)
        }
        None => {
            let client = Client::new(&options.load.endpoint, options.load.request_timeout)?;
            (Arc::new(HttpQueue::new(client.clone())), client)
        }
    };
    let console = Console::new();
    let outcome = enqueue(&*queue, &client, &options, &console).await;
    console.finish();
    let enqueued = outcome.context("not everything was enqueued; run it again to push the rest")?;
    let known = enqueued.tasks - enqueued.added;
    let megabytes = enqueued.bytes as f64 / 1e6;
    let (added, files) = (counted(enqueued.added, "task"), counted(enqueued.files, "file"));
    print!("enqueued {added} from {files} ({megabytes:.1} MB)");
    if known > 0 {
        print!("; {known} were in the queue already or done (--again adds them anyway)");
    }
    if enqueued.unread > 0 {
        print!("; could not be read: {}", counted(enqueued.unread, "file"));
    }
    println!();
    if let Ok(counts) = queue.counts(KIND).await {
        println!("queue: {counts}");
    }
    Ok(if enqueued.unread > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Cancelled at Ctrl-C or SIGTERM. A second one, or the end of a short while, ends the process as it stands.
fn interrupted() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancelled.cancel();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = tokio::time::sleep(LEAVE_TIMEOUT) => {}
        }
        std::process::exit(130);
    });
    Ok(token)
}

fn read_mapping(path: &std::path::Path) -> anyhow::Result<serde_json::Value> {
    let text = std::fs::read(path).with_context(|| format!("--mapping: cannot read {}", path.display()))?;
    let mapping: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("--mapping: {} is not JSON", path.display()))?;
    anyhow::ensure!(mapping.is_object(), "--mapping: {} is not a JSON object", path.display());
    Ok(mapping)
}

/// A duration that claims can be extended within.
pub(crate) fn claim_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        Ok(_) => Err("must be at least 1s".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A number of bytes: `1048576`, `512KiB`, `1MiB`, `2MB`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: usize = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "TiB" => 1 << 40,
        _ => return Err("expected a size such as 512KiB or 1MiB".to_owned()),
    };
    let number: usize = number.parse().map_err(|_| "expected a size such as 512KiB or 1MiB".to_owned())?;
    number.checked_mul(unit).filter(|size| *size > 0).ok_or_else(|| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("300"), Ok(300));
        assert_eq!(size("2 kB"), Ok(2_000));
        assert_eq!(size("3TiB"), Ok(3 << 40));
        assert!(size("0").is_err() && size("MiB").is_err() && size("1.5MiB").is_err() && size("1 MiX").is_err());
    }
}
