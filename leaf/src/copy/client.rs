//! The target's side: fetches a copy from another leaf and puts it in use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
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

use super::{CopyConfig, end_of, is_plain};
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
    /// Those of them that were there from an earlier copy.
    pub reused: AtomicU64,
    /// Files to copy.
    pub files: AtomicU64,
    /// Files that are here.
    pub files_done: AtomicU64,
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
        self.begin(0, 0);
    }

    fn begin(&self, files: usize, bytes: u64) {
        for counter in [&self.copied, &self.reused, &self.files_done] {
            counter.store(0, Ordering::Relaxed);
        }
        self.files.store(files as u64, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn reuse(&self, files: usize, bytes: u64) {
        self.files_done.fetch_add(files as u64, Ordering::Relaxed);
        self.reused.fetch_add(bytes, Ordering::Relaxed);
        self.copied.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Makes a replica from another leaf's; returns queries that the source answered lately.
///
/// 1. The source takes a copy and lists its files.
/// 2. Those that are not here from an earlier attempt are fetched, several at a time, `meta.json` last.
/// 3. Every file is checked against its checksum, and made durable.
/// 4. The copy is put in use in place of the old index.
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
) -> Result<Vec<v1::SearchRequest>, Error> {
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
        return Err(match failure.kind() {
            v1::failure::Kind::Rejected => Error::Busy(source.leaf.to_string()),
            _ => failed(failure.reason),
        });
    }
    check(&manifest).map_err(&failed)?;
    progress.hold(manifest.generation.map(Into::into));
    progress.begin(manifest.files.len(), manifest.files.iter().map(|file| file.bytes).sum());
    let copying = Copying { client: client.clone(), config, copy_id: manifest.copy_id.clone(), progress };
    let made = copying.make(&manifest.files, dir).await;
    let damaged = match &made {
        Ok(Err(Damaged { fetched, .. })) => fetched.clone(),
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
        Ok(Err(Damaged { all, .. })) => {
            return Err(failed(format!("files do not match their checksums: {}", all.join(", "))));
        }
        Err(Failed::Source(reason) | Failed::Unreadable(_, reason)) => return Err(failed(reason)),
        Err(Failed::Here(error)) => return Err(error),
    };
    let reused = progress.reused.load(Ordering::Relaxed);
    tracing::info!(%shard, source = %source.leaf, %generation, reused, "replica was copied");
    Ok(manifest.queries)
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

/// Files of a copy that do not match their checksums.
struct Damaged {
    all: Vec<String>,
    /// Those that were fetched as a whole just now, so that the source's are damaged.
    fetched: Vec<String>,
}

/// Checks the whole index and puts it in use; what is damaged is removed, so that it is fetched anew.
fn publish(dir: &ReplicaDir, path: &Path, fetched: &BTreeSet<String>) -> Result<Result<Generation, Damaged>, Error> {
    let payload = ShardIndex::payload(path)?;
    let (checked, all) = check_copy(path)?;
    if !all.is_empty() {
        for name in &all {
            let file = path.join(name);
            std::fs::remove_file(&file).map_err(Error::io("remove", &file))?;
        }
        let fetched = all.iter().filter(|name| fetched.contains(*name)).cloned().collect();
        return Ok(Err(Damaged { all, fetched }));
    }
    std::fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", path))?;
    outcome_files::adopt(dir.path(), path)?;
    let path = dir.end_copy()?;
    checked.of_index(&path).save(dir)?;
    dir.publish(&path)?;
    dir.made_anew()?;
    Ok(Ok(Generation { incarnation: Incarnation(payload.incarnation), seq: Seq(payload.seq) }))
}

/// What a file is called until all of it is here.
fn part_name(info: &v1::CopyFileInfo) -> String {
    format!("{}.part-{:x}", info.name, info.end)
}

/// Removes what is of no use for this copy; returns the names of the files that are here already, as a whole.
fn sweep(dir: &Path, files: &[v1::CopyFileInfo]) -> Result<BTreeSet<String>, Error> {
    let lasting = || files.iter().filter(|info| info.end != 0);
    let whole: BTreeMap<&str, &v1::CopyFileInfo> = lasting().map(|info| (info.name.as_str(), info)).collect();
    let parts: BTreeSet<String> = lasting().map(part_name).collect();
    let mut here = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
        let is_same = |info: &&v1::CopyFileInfo| bytes == info.bytes && end_of(&path).is_ok_and(|end| end == info.end);
        if whole.get(name.as_str()).is_some_and(is_same) {
            here.insert(name);
        } else if !parts.contains(&name) {
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(here)
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
    /// Fetches everything that is not here, checks it, and puts it in use.
    async fn make(&self, files: &[v1::CopyFileInfo], dir: &ReplicaDir) -> Result<Result<Generation, Damaged>, Failed> {
        let (own_dir, own_files) = (dir.clone(), files.to_vec());
        let begin = move || {
            let path = own_dir.begin_copy()?;
            let here = sweep(&path, &own_files)?;
            Ok((path, here))
        };
        let (path, here) = blocking(begin).await.map_err(Failed::Here)?;
        let whole: u64 = files.iter().filter(|info| here.contains(&info.name)).map(|info| info.bytes).sum();
        self.progress.reuse(here.len(), whole);
        let (last, others): (Vec<_>, Vec<_>) =
            files.iter().filter(|info| !here.contains(&info.name)).partition(|info| info.name == META);
        let others: Vec<_> = others.into_iter().map(|info| self.file(info, &path).boxed()).collect();
        let fetching = stream::iter(others).buffer_unordered(self.config.files_at_once.max(1));
        let fetched: Vec<Option<String>> = fetching.try_collect().await?;
        for info in last {
            self.file(info, &path).await?;
        }
        let (dir, fetched) = (dir.clone(), fetched.into_iter().flatten().collect());
        blocking(move || publish(&dir, &path, &fetched)).await.map_err(Failed::Here)
    }

    /// One file, in as many attempts as it takes while each brings something. Goes on where an earlier copy ended;
    /// returns its name if there was none.
    async fn file(&self, info: &v1::CopyFileInfo, dir: &Path) -> Result<Option<String>, Failed> {
        let (part, whole) = (dir.join(part_name(info)), dir.join(&info.name));
        let here = |error| Failed::Here(Error::io("write", &part)(error));
        let mut file = File::options().append(true).create(true).open(&part).await.map_err(here)?;
        let mut written = file.metadata().await.map_err(here)?.len();
        // What may change does not go on, and what is too long is not a part.
        if info.end == 0 || written > info.bytes {
            file.set_len(0).await.map_err(here)?;
            written = 0;
        }
        let is_new = written == 0;
        self.progress.reuse(0, written);
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
        file.sync_all().await.map_err(here)?;
        tokio::fs::rename(&part, &whole).await.map_err(here)?;
        self.progress.files_done.fetch_add(1, Ordering::Relaxed);
        Ok(is_new.then(|| info.name.clone()))
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
