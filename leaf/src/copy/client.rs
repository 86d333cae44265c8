//! The target's side: fetches a copy from another leaf and puts it in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use trawl_cluster::catalog::newer;
use trawl_proto::caller::Caller;
use trawl_proto::v1::leaf_client::LeafClient;
use trawl_proto::{Generation, Incarnation, NodeName, Seq, ShardKey, v1};
use xxhash_rust::xxh3::xxh3_64;

use super::{CopyConfig, is_plain};
use crate::error::Error;
use crate::index::{META, PAYLOAD_VERSION, ReplicaDir, ShardIndex};
use crate::replica::outcome_files;
use crate::replica::tail::blocking;
use crate::replica::verify::check_copy;

/// Files that one copy may have; an index of the largest size has some hundreds.
const FILES_MAX: usize = 100_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For calls with a short answer. Taking a copy waits for a lock that a commit holds for a moment.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A leaf to copy from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub leaf: NodeName,
    /// `host:port` of its gRPC server.
    pub grpc: String,
}

/// How far a copy is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes to copy; 0 while nothing is copied.
    pub bytes: AtomicU64,
    /// Bytes that are here.
    pub copied: AtomicU64,
    /// Where the replica stands in the log once it is copied; the log is needed from there.
    generation: Mutex<Option<Generation>>,
}

impl Progress {
    /// What the copy contains that is being made, or was made and is not in use yet.
    pub fn generation(&self) -> Option<Generation> {
        *self.generation.lock()
    }

    /// Holds on to what the log has behind the position; `None` to let go.
    pub fn hold(&self, generation: Option<Generation>) {
        *self.generation.lock() = generation;
    }

    /// Nothing is copied any more.
    pub fn end(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.copied.store(0, Ordering::Relaxed);
    }

    fn begin(&self, bytes: u64) {
        self.copied.store(0, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// Makes a replica from another leaf's: returns what it then holds.
///
/// 1. The source takes a copy and lists its files.
/// 2. They are fetched into a new directory, several at a time, `meta.json` last.
/// 3. Every file is checked against its checksum, and made durable.
/// 4. The new directory is put in use in place of the old one.
///
/// Whatever fails, what was in use before still is. Cancel safe in the same sense.
///
/// # Errors
/// [`Error::Copy`] when the source cannot give a whole copy; others when the disk here fails.
pub async fn recover(
    config: &CopyConfig,
    (name, caller): (&NodeName, Caller),
    source: &Source,
    shard: &ShardKey,
    dir: &ReplicaDir,
    progress: &Arc<Progress>,
) -> Result<Generation, Error> {
    let failed = |reason: String| Error::Copy { leaf: source.leaf.to_string(), reason };
    let endpoint = Endpoint::from_shared(format!("http://{}", source.grpc))
        .map_err(|error| failed(format!("bad address: {error}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(5));
    let mut client = LeafClient::with_interceptor(endpoint.connect_lazy(), caller).max_decoding_message_size(64 << 20);
    let mut request =
        tonic::Request::new(v1::CopyManifestRequest { shard: Some(shard.into()), leaf: name.to_string() });
    request.set_timeout(CALL_TIMEOUT);
    let manifest = client.copy_manifest(request).await.map_err(|status| failed(reason_of(&status)))?.into_inner();
    if let Some(failure) = manifest.failure {
        return Err(failed(failure.reason));
    }
    check(&manifest).map_err(&failed)?;
    progress.hold(manifest.generation.map(Into::into));
    progress.begin(manifest.files.iter().map(|file| file.bytes).sum());
    let copying = Copying { client: client.clone(), config, copy_id: manifest.copy_id.clone(), progress };
    let made = match copying.fetch(&manifest.files, dir).await {
        Ok(path) => {
            let dir = dir.clone();
            blocking(move || publish(&dir, &path)).await.map_err(Failed::Here)
        }
        Err(failed) => Err(failed),
    };
    let damaged = match &made {
        Ok(Err(damaged)) => damaged.clone(),
        Err(Failed::Unreadable(file, _)) => vec![file.clone()],
        _ => Vec::new(),
    };
    let mut request = tonic::Request::new(v1::CopyEndRequest { copy_id: manifest.copy_id, damaged });
    request.set_timeout(CONNECT_TIMEOUT);
    if let Err(status) = client.copy_end(request).await {
        tracing::debug!(%shard, reason = reason_of(&status), "the source did not hear that the copy has ended");
    }
    let generation = match made {
        Ok(Ok(generation)) => generation,
        Ok(Err(damaged)) => return Err(failed(format!("files do not match their checksums: {}", damaged.join(", ")))),
        Err(Failed::Source(reason) | Failed::Unreadable(_, reason)) => return Err(failed(reason)),
        Err(Failed::Here(error)) => return Err(error),
    };
    tracing::info!(%shard, source = %source.leaf, %generation, "replica was copied");
    Ok(generation)
}

fn check(manifest: &v1::CopyManifestResponse) -> Result<(), String> {
    if manifest.payload_version > PAYLOAD_VERSION {
        return Err(newer("its commit's payload", manifest.payload_version, PAYLOAD_VERSION).to_string());
    }
    if manifest.files.len() > FILES_MAX || manifest.files.iter().any(|file| !is_plain(&file.name)) {
        return Err("its list of files is not one".to_owned());
    }
    match manifest.files.iter().any(|file| file.name == META) {
        true => Ok(()),
        false => Err(format!("its list of files is without {META}")),
    }
}

/// Checks the whole index and puts it in use; names of damaged files else.
fn publish(dir: &ReplicaDir, path: &Path) -> Result<Result<Generation, Vec<String>>, Error> {
    let payload = ShardIndex::payload(path)?;
    let damaged = check_copy(path, dir)?;
    if !damaged.is_empty() {
        return Ok(Err(damaged));
    }
    std::fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", path))?;
    outcome_files::adopt(dir.path(), path)?;
    dir.publish(path)?;
    dir.made_anew()?;
    Ok(Ok(Generation { incarnation: Incarnation(payload.incarnation), seq: Seq(payload.seq) }))
}

enum Failed {
    /// Another source may be better.
    Source(String),
    /// The source cannot read this file.
    Unreadable(String, String),
    /// No source will be.
    Here(Error),
}

struct Copying<'a> {
    client: LeafClient<InterceptedService<Channel, Caller>>,
    config: &'a CopyConfig,
    copy_id: String,
    progress: &'a Progress,
}

impl Copying<'_> {
    async fn fetch(&self, files: &[v1::CopyFileInfo], dir: &ReplicaDir) -> Result<PathBuf, Failed> {
        let begun = dir.clone();
        let path = blocking(move || begun.begin()).await.map_err(Failed::Here)?;
        let (last, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.name == META);
        let others: Vec<_> = others.into_iter().map(|file| self.file(file, &path).boxed()).collect();
        stream::iter(others).buffer_unordered(self.config.files_at_once.max(1)).try_collect::<()>().await?;
        for file in last {
            self.file(file, &path).await?;
        }
        Ok(path)
    }

    /// One file, in as many attempts as it takes while each brings something.
    async fn file(&self, info: &v1::CopyFileInfo, dir: &Path) -> Result<(), Failed> {
        let path = dir.join(&info.name);
        let here = |error| Failed::Here(Error::io("write", &path)(error));
        let mut file = File::create_new(&path).await.map_err(here)?;
        let mut written = 0;
        let mut attempts = 0;
        while written < info.bytes {
            let before = written;
            match self.attempt(info, &mut file, &mut written).await {
                Ok(()) => {}
                Err(Attempt::Here(error)) => return Err(here(error)),
                Err(Attempt::Ended(reason)) => return Err(Failed::Source(reason)),
                Err(Attempt::Unreadable(reason)) => return Err(Failed::Unreadable(info.name.clone(), reason)),
                Err(Attempt::Broke(reason)) => {
                    attempts = if written > before { 1 } else { attempts + 1 };
                    if attempts >= self.config.attempts_max {
                        return Err(Failed::Source(format!("{} at {written}: {reason}", info.name)));
                    }
                    tracing::warn!(file = info.name, at = written, of = info.bytes, reason, "copying is tried again");
                    tokio::time::sleep(self.config.retry).await;
                }
            }
        }
        file.sync_all().await.map_err(here)
    }

    async fn attempt(&self, info: &v1::CopyFileInfo, file: &mut File, written: &mut u64) -> Result<(), Attempt> {
        let request = v1::CopyFileRequest { copy_id: self.copy_id.clone(), name: info.name.clone(), offset: *written };
        let mut client = self.client.clone();
        let silence = |_| Attempt::Broke("the source is silent".to_owned());
        let call = tokio::time::timeout(self.config.silence_max, client.copy_file(request)).await;
        let mut chunks = call.map_err(silence)?.map_err(Attempt::of)?.into_inner();
        loop {
            let chunk = tokio::time::timeout(self.config.silence_max, chunks.message()).await;
            let Some(chunk) = chunk.map_err(silence)?.map_err(Attempt::of)? else { break };
            if chunk.offset != *written || *written + chunk.data.len() as u64 > info.bytes {
                return Err(Attempt::Broke(format!("a chunk for {} came", chunk.offset)));
            }
            if xxh3_64(&chunk.data) != chunk.checksum {
                return Err(Attempt::Broke("a chunk does not match its checksum".to_owned()));
            }
            file.write_all(&chunk.data).await.map_err(Attempt::Here)?;
            // tokio's file buffers: an error shows with the next call, so that it is made here.
            file.flush().await.map_err(Attempt::Here)?;
            *written += chunk.data.len() as u64;
            self.progress.copied.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        }
        match *written == info.bytes {
            true => Ok(()),
            false => Err(Attempt::Broke("the file ended early".to_owned())),
        }
    }
}

enum Attempt {
    /// The connection or a chunk broke: go on from where it did.
    Broke(String),
    /// The copy is gone.
    Ended(String),
    /// The source cannot read the file.
    Unreadable(String),
    /// The disk failed.
    Here(std::io::Error),
}

impl Attempt {
    fn of(status: Status) -> Self {
        match status.code() {
            Code::NotFound | Code::InvalidArgument | Code::Unimplemented => Self::Ended(reason_of(&status)),
            Code::DataLoss => Self::Unreadable(reason_of(&status)),
            _ => Self::Broke(reason_of(&status)),
        }
    }
}

/// The status with the innermost cause, which tells what really happened.
fn reason_of(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}
