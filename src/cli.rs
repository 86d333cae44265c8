//! The command line: one subcommand per role or task.

use clap::{Parser, Subcommand};

use crate::telemetry::LogArgs;

/// A search cluster in one small binary.
///
/// Root nodes take queries over HTTP (the Elasticsearch REST API), fan them out to leaf nodes that
/// hold the shards, and merge one exact ranked answer before a deadline.
#[derive(Debug, Parser)]
#[command(
    name = "trawl",
    version,
    propagate_version = true,
    after_help = "Example: trawl demo\n\nEvery flag can also be set by an environment variable (shown with it) or in the file given \
                  by --config: a table per subcommand, a key per flag, for example\n\n  [leaf]\n  search-threads = 4"
)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogArgs,

    /// TOML file with settings; the command line and the environment win over it
    #[arg(long, global = true, env = "TRAWL_CONFIG", value_name = "FILE", help_heading = "Global options")]
    pub config: Option<std::path::PathBuf>,

    #[command(subcommand)]
    pub command: Command,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a local cluster, load the sample data, run sample searches, stay up
    Demo(crate::demo::Args),
    /// Run a whole cluster on this machine, every role as a child process
    Up(crate::up::Args),
    /// Run a root: serves HTTP, plans, scatters, merges
    Root(crate::root::Args),
    /// Run a leaf: holds replicas of shards
    Leaf(crate::leaf::Args),
    /// Run a sidecar: follows a directory's log files and ships their lines
    Sidecar(crate::sidecar::Args),
    /// Run an ambassador: one local address that stands for all roots
    Ambassador(crate::ambassador::Args),
    /// Load documents from files
    Load(crate::load::Args),
    /// Carry out load tasks of the cluster's queue
    Worker(crate::worker::Args),
    /// Show who is there and where replicas are; drain leaves, move replicas
    Cluster(crate::cluster::Args),
    /// Show the work queue and what died in it
    Queue(crate::queue::Args),
    /// Search, for a person
    Search(crate::search::Args),
    /// Say whether a root is ready, by exit code
    Health(crate::health::Args),
    /// Measure
    #[command(subcommand, after_help = "Example: trawl bench write")]
    Bench(trawl_bench::Command),
}
