//! `trawl load`: documents from files into an index.

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use trawl_data::{
    load::{Console, LoadError, LoadOptions, load},
    readers::Format,
};

const EXAMPLES: &str = "\
Examples:
  trawl load --index packages /var/lib/apt/lists/*Packages.lz4
  trawl load --index books --id isbn books.csv.gz
  zcat events.ndjson.gz | trawl load --index events --refresh -

A missing index is created with a mapping that fits the format and as many shards as the cluster has leaves.
Loading the same files again replaces their documents. Progress and rejected documents (file, line, reason; the first 20)
go to standard error, the final counts to standard output. Exit code: 0 all loaded, 1 some rejected or failed, 2 usage.";

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

    /// Files, directories of text files, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Exit code 0 when everything was loaded, 1 when something was rejected.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mapping = args.mapping.as_deref().map(read_mapping).transpose()?;
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
        ..LoadOptions::new(args.endpoint, args.index, LoadOptions::inputs_from(&args.files))
    };
    let console = Console::new();
    let outcome = load(options, &console).await;
    console.finish();
    match outcome {
        Ok(report) => {
            println!("{report}");
            Ok(if report.rejected_total() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Err(error) => {
            if let Some(report) = error.report() {
                println!("{report}; not complete");
            }
            let context = match &error {
                LoadError::GaveUp { .. } => "loading stopped; run it again to load the rest",
                _ => "loading stopped",
            };
            Err(error).context(context)
        }
    }
}

fn read_mapping(path: &std::path::Path) -> anyhow::Result<serde_json::Value> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mapping: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    anyhow::ensure!(mapping.is_object(), "{} is not a JSON object", path.display());
    Ok(mapping)
}

/// A number of bytes: `1048576`, `512KiB`, `1MiB`, `2MB`.
fn size(text: &str) -> Result<usize, String> {
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
        assert!(size("0").is_err() && size("MiB").is_err() && size("1.5MiB").is_err() && size("1 MiX").is_err());
    }
}
