//! `cluster.json`: who runs where, for people, scripts and tests.

use std::{net::SocketAddr, path::PathBuf, sync::Mutex};

use anyhow::Context;
use serde::Serialize;

/// A child's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves queries.
    Root,
    /// Holds shards.
    Leaf,
    /// Ships a leaf's logs.
    Sidecar,
}

impl Role {
    /// The subcommand that runs it.
    pub fn subcommand(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Leaf => "leaf",
            Self::Sidecar => "sidecar",
        }
    }
}

/// One running child.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its role.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Process id, new after a restart.
    pub pid: u32,
    /// HTTP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// gRPC address, new after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<SocketAddr>,
    /// Where `/metrics` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Its own data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Where a leaf writes its logs, and its sidecar reads them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Contents<'a> {
    cluster: &'a str,
    children: Vec<&'a Entry>,
}

/// The file, rewritten atomically whenever a child is started.
pub struct ClusterFile {
    path: PathBuf,
    cluster: String,
    children: Mutex<Vec<Option<Entry>>>,
}

impl ClusterFile {
    /// A file for this many children; written when the first is set.
    pub fn new(path: PathBuf, cluster: String, children: usize) -> Self {
        Self { path, cluster, children: Mutex::new(vec![None; children]) }
    }

    /// Sets the child at a place and writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, place: usize, entry: Entry) -> anyhow::Result<()> {
        let mut children = self.children.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        children[place] = Some(entry);
        let contents = Contents { cluster: &self.cluster, children: children.iter().flatten().collect() };
        let text = serde_json::to_string_pretty(&contents)?;
        let fresh = self.path.with_extension("json.new");
        std::fs::write(&fresh, text + "\n")
            .and_then(|()| std::fs::rename(&fresh, &self.path))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}
