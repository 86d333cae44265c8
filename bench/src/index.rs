//! How much a document costs from the file to being searchable: the whole cluster against bare tantivy.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use trawl_data::mapping::Mapping;

use crate::bare;
use crate::cluster::{Cluster, load};
use crate::processes::ended_children_cpu;
use crate::table::{median, print};

/// Measures indexing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl bench index --mapping bench/workloads/packages.json --id id packages.ndjson")]
pub struct Args {
    /// Documents, NDJSON, plain
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Field that holds each document's id
    #[arg(long, default_value = "id", value_name = "FIELD")]
    pub id: String,
    /// JSON file with the mapping
    #[arg(long, value_name = "FILE")]
    pub mapping: PathBuf,
    /// Use this many documents at most
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub documents: usize,
    /// Rounds; each measures everything once
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub rounds: usize,
    /// Leaves
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub leaves: usize,
    /// Shards of the index [default: as many as leaves]
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Memory of the bare one's index writer in bytes [default: that of a leaf's]
    #[arg(long, value_name = "BYTES")]
    pub writer_bytes: Option<usize>,
}

impl Args {
    fn shards(&self) -> usize {
        self.shards.unwrap_or(self.leaves)
    }
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Documents indexed.
    pub documents: u64,
    /// From the start to all of them being searchable.
    pub seconds: f64,
    /// Processor time of all processes meanwhile.
    pub cpu_seconds: f64,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.documents as f64 / self.seconds
    }

    fn cpu_us(&self) -> f64 {
        self.cpu_seconds / self.documents as f64 * 1e6
    }
}

/// Measures bare tantivy and clusters with one and two replicas per shard, in turns.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("documents.ndjson");
    let (documents, bytes) = cut(&args.file, args.documents, &file)?;
    let mapping: Value = serde_json::from_slice(&std::fs::read(&args.mapping)?).context("the mapping is not JSON")?;
    let parsed = Mapping::parse(&mapping).map_err(|error| anyhow::anyhow!(error.reason))?;
    println!(
        "{documents} documents, {:.1} MB, {} leaves, {} shards, {} rounds\n",
        bytes as f64 / 1e6,
        args.leaves,
        args.shards(),
        args.rounds
    );
    let mut runs: [Vec<Measured>; 3] = Default::default();
    for round in 0..args.rounds {
        let path = directory.path().join(format!("bare-{round}"));
        std::fs::create_dir(&path)?;
        let (file_, id, mapping_) = (file.clone(), args.id.clone(), parsed.clone());
        let bytes = args.writer_bytes.unwrap_or_else(|| trawl_leaf::config::Config::new("bare", &path).writer_bytes);
        let measured = tokio::task::spawn_blocking(move || bare::run(&file_, &id, &mapping_, &path, bytes)).await??;
        runs[0].push(measured);
        for replicas in 0..2 {
            runs[replicas + 1].push(whole(&args, &mapping, replicas, &file, documents).await?);
        }
        let rates = runs.iter().filter_map(|runs| runs.last()).map(|run| format!("{:.0}", run.rate()));
        eprintln!("round {}: {} docs/s", round + 1, rates.collect::<Vec<_>>().join(", "));
    }
    report(&runs);
    Ok(())
}

async fn whole(args: &Args, mapping: &Value, replicas: usize, file: &Path, documents: u64) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(1, args.leaves, &[]).await?;
    let settings = json!({"number_of_shards": args.shards(), "number_of_replicas": replicas});
    cluster.create("bench", &json!({"settings": settings, "mappings": mapping})).await?;
    let (start, cpu, ended) = (Instant::now(), cluster.cpu()?, ended_children_cpu()?);
    load(cluster.endpoint(), "bench", &args.id, file).await?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu_seconds = cluster.cpu()? - cpu + ended_children_cpu()? - ended;
    let found = cluster.count("bench").await?;
    anyhow::ensure!(found == documents, "{found} of {documents} documents were found");
    cluster.stop().await;
    Ok(Measured { documents, seconds, cpu_seconds })
}

fn report(runs: &[Vec<Measured>; 3]) {
    let names = ["bare tantivy", "cluster, 1 replica per shard", "cluster, 2 replicas per shard"];
    let of = |runs: &[Measured], what: fn(&Measured) -> f64| median(&runs.iter().map(what).collect::<Vec<_>>());
    let (rate, cpu) = (of(&runs[0], Measured::rate), of(&runs[0], Measured::cpu_us));
    let header = ["", "documents/s", "ratio", "CPU µs/document", "ratio"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (name, runs) in names.iter().zip(runs) {
        let (this_rate, this_cpu) = (of(runs, Measured::rate), of(runs, Measured::cpu_us));
        rows.push(vec![
            (*name).to_owned(),
            format!("{this_rate:.0}"),
            format!("{:.2}", this_rate / rate),
            format!("{this_cpu:.0}"),
            format!("{:.2}", this_cpu / cpu),
        ]);
    }
    print(&rows);
}

/// Writes the first lines to a file of their own; returns how many, and their bytes.
fn cut(from: &Path, documents: usize, to: &Path) -> anyhow::Result<(u64, u64)> {
    let lines = BufReader::new(File::open(from).with_context(|| format!("cannot open {}", from.display()))?).lines();
    let mut file = BufWriter::new(File::create(to)?);
    let (mut count, mut bytes) = (0, 0);
    for line in lines.take(documents) {
        let line = line?;
        writeln!(file, "{line}")?;
        count += 1;
        bytes += line.len() as u64 + 1;
    }
    file.flush()?;
    Ok((count, bytes))
}

/// The id of a document, read without understanding the rest of it.
pub fn id_of(line: &str, field: &str) -> anyhow::Result<String> {
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_str(line);
    deserializer.deserialize_map(Find { field, found: &mut found }).context("a line is not a JSON object")?;
    let raw = found.with_context(|| format!("a document has no [{field}]"))?.get();
    Ok(serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned()))
}

/// Goes over an object for the value of one field; nothing else is kept.
struct Find<'f, 'a> {
    field: &'f str,
    found: &'f mut Option<&'a RawValue>,
}

impl<'a> Visitor<'a> for Find<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<&str>()? {
            match key == self.field {
                true => *self.found = Some(map.next_value()?),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_strings_or_numbers() {
        assert_eq!(super::id_of(r#"{"a": [1, {}], "id": "x\"y"}"#, "id").ok().as_deref(), Some("x\"y"));
        assert_eq!(super::id_of(r#"{"id": 17}"#, "id").ok().as_deref(), Some("17"));
        assert!(super::id_of(r#"{"a": 1}"#, "id").is_err());
    }
}
