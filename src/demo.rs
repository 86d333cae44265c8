//! `trawl demo`: a local cluster, the sample data, a few searches of different kinds, and then it
//! stays up.
//!
//! 1. Starts the cluster as `trawl up` does, in a fresh directory.
//! 2. Creates an index with 4 shards and 1 extra replica each, and loads the samples.
//! 3. Runs the searches and prints hits, scores and times.
//! 4. Says where the endpoint is and waits for Ctrl-C.

mod searches;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use trawl_data::{
    load::{Console, LoadOptions, load},
    readers::Input,
    samples::samples,
};

use crate::{
    telemetry::LogArgs,
    up::{self, Cluster},
};

const INDEX: &str = "catches";

/// Starts a local cluster, loads the sample data, runs sample searches, and stays up.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: trawl demo\n\nThen, in another terminal: trawl search --index catches \"herring off the coast\""
)]
pub struct Args {
    /// Keep the data below this (new or empty) directory; a temporary one when not given
    #[arg(long, env = "TRAWL_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Address of the first root; another free port is taken when this one is in use
    #[arg(long, env = "TRAWL_HTTP", default_value = "127.0.0.1:9200", value_name = "ADDR")]
    pub http: SocketAddr,

    /// End after the searches instead of staying up
    #[arg(long)]
    pub once: bool,
}

/// Runs until a signal comes.
pub async fn run(args: Args, log: &LogArgs) -> anyhow::Result<ExitCode> {
    let shutdown = crate::shutdown::token()?;
    let (_temporary, data_dir) = fresh_directory(args.data_dir)?;
    let up = up::Args {
        data_dir,
        http: free_address(args.http),
        roots: 2,
        leaves: 4,
        cluster: None,
        leaf_args: Vec::new(),
        no_sidecars: false,
    };
    // All searches are in the query log: there are too few of them for a sample to show any.
    let up = up::Args { leaf_args: vec!["--query-log-sample=1".to_owned()], ..up };
    // Children that log every start would drown what the demo has to show.
    let quiet = LogArgs { log: if log.log == "info" { "warn".to_owned() } else { log.log.clone() }, ..log.clone() };

    println!("Starting 2 roots and 4 leaves in {} ...", up.data_dir.display());
    let cluster = Cluster::start(&up, &quiet, shutdown.clone()).await?;
    let shown = tokio::select! {
        shown = show(&cluster) => shown,
        () = shutdown.cancelled() => Ok(()),
    };
    if shown.is_ok() && !args.once && !shutdown.is_cancelled() {
        println!(
            "The cluster stays up at http://{} (an Elasticsearch endpoint). Try, in another terminal:\n",
            cluster.endpoint()
        );
        println!("  trawl search --endpoint http://{} --index {INDEX} \"{}\"", cluster.endpoint(), searches::TRY);
        println!(
            "  curl 'http://{}/{INDEX}/_search?q={}&pretty'\n",
            cluster.endpoint(),
            searches::TRY.replace(' ', "+")
        );
        println!("Ctrl-C ends it.");
        shutdown.cancelled().await;
    }
    cluster.stop().await;
    shown.map(|()| ExitCode::SUCCESS)
}

async fn show(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.ready(Duration::from_secs(60)).await?;
    let endpoint = format!("http://{}", cluster.endpoint());
    load_samples(&endpoint).await?;
    let client = reqwest::Client::new();
    for search in searches::all() {
        println!("\n{}\n  {}", search.title, search.body);
        let answer = client.post(format!("{endpoint}/{INDEX}/_search")).json(&search.body).send().await?;
        let status = answer.status();
        let answer: Value = answer.json().await?;
        ensure!(status.is_success(), "the search was refused: {answer}");
        print_answer(&answer);
    }
    println!();
    Ok(())
}

async fn load_samples(endpoint: &str) -> anyhow::Result<()> {
    let (definition, documents) = samples();
    let input = Input::Bytes { name: "catches.ndjson.gz".to_owned(), bytes: documents.into() };
    let mut options = LoadOptions::new(endpoint, INDEX, vec![input]);
    options.id_field = Some("id".to_owned());
    options.shards = Some(4);
    options.replicas = Some(1);
    options.mapping = Some(serde_json::from_str(definition).context("the sample mapping is not JSON")?);
    options.refresh = true;
    let console = Console::new();
    let report = load(options, &console).await;
    console.finish();
    let report = report.context("the samples cannot be loaded")?;
    println!("{report}");
    ensure!(report.is_complete(), "sample documents were rejected");
    Ok(())
}

/// Prints hits with scores, or buckets, and what the answer cost.
fn print_answer(answer: &Value) {
    for (rank, hit) in answer["hits"]["hits"].as_array().into_iter().flatten().enumerate() {
        let score = hit["_score"].as_f64().map_or_else(|| hit["sort"].to_string(), |score| format!("{score:.4}"));
        let source = &hit["_source"];
        println!(
            "  {}. {:<9} {}  [{}]",
            rank + 1,
            score,
            source["title"].as_str().unwrap_or_default(),
            searches::details(source)
        );
        for fragment in hit["highlight"]["body"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            println!("       … {fragment} …");
        }
    }
    for (name, aggregation) in answer["aggregations"].as_object().into_iter().flatten() {
        for bucket in aggregation["buckets"].as_array().into_iter().flatten() {
            let key = bucket.get("key_as_string").unwrap_or(&bucket["key"]);
            let figures: Value = bucket
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, value)| value.is_object())
                .map(|(name, value)| (name.clone(), value.get("value").unwrap_or(value).clone()))
                .collect::<serde_json::Map<_, _>>()
                .into();
            let figures = if figures == json!({}) { String::new() } else { format!("  {figures}") };
            println!("  {name} {key}: {}{figures}", bucket["doc_count"]);
        }
    }
    let shards = &answer["_shards"];
    println!(
        "  {} hits in {} ms, {}/{} shards",
        answer["hits"]["total"]["value"], answer["took"], shards["successful"], shards["total"]
    );
}

fn fresh_directory(given: Option<PathBuf>) -> anyhow::Result<(Option<tempfile::TempDir>, PathBuf)> {
    match given {
        Some(directory) => {
            let empty = std::fs::read_dir(&directory).map_or(true, |mut entries| entries.next().is_none());
            ensure!(
                empty,
                "{} is not empty: the demo starts with fresh data (`trawl up` goes on with old)",
                directory.display()
            );
            Ok((None, directory))
        }
        None => {
            let temporary = tempfile::Builder::new().prefix("trawl-demo-").tempdir()?;
            let path = temporary.path().to_owned();
            Ok((Some(temporary), path))
        }
    }
}

/// The address if it and the next port are free, else any free ports on the same host.
fn free_address(wanted: SocketAddr) -> SocketAddr {
    let next = SocketAddr::new(wanted.ip(), wanted.port().saturating_add(1));
    let free = [wanted, next].map(std::net::TcpListener::bind).iter().all(Result::is_ok);
    if free {
        return wanted;
    }
    println!("{wanted} or the port after it is in use, taking free ports.");
    SocketAddr::new(wanted.ip(), 0)
}
