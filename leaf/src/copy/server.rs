//! The source's side: takes copies of replicas' last commits and sends their files.
//!
//! tantivy decides which files to remove under `META_LOCK`, so while that is held the files of the
//! commit that `meta.json` names can be linked. Afterwards the links keep their content, whatever the
//! replica goes on to do.
//!
//! ```text
//! DATA_DIR/copies/ID/    links, a meta.json and a .managed.json of their own, the files of outcomes; gone
//!                        when the copy ends
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use tantivy::directory::META_LOCK;
use tantivy::{Directory, Index, IndexMeta, TantivyError};
use tonic::Status;
use trawl_proto::v1::failure::Kind;
use trawl_proto::{Generation, Incarnation, Seq, ShardKey, failure, v1};
use xxhash_rust::xxh3::xxh3_64;

use super::rate::Rate;
use super::{CopyConfig, end_of, is_plain};
use crate::error::Error;
use crate::index::{META, ReplicaDir, decode_payload};
use crate::replica::outcome_files;
use crate::replica::tail::blocking;

const MANAGED: &str = ".managed.json";

/// The copies that other leaves take from this one.
pub struct Copies {
    dir: PathBuf,
    config: CopyConfig,
    rate: Arc<Rate>,
    open: Mutex<HashMap<String, Arc<Copy>>>,
}

struct Copy {
    shard: ShardKey,
    dir: PathBuf,
    /// Names, sizes, and what the files end with.
    files: BTreeMap<String, (u64, u64)>,
    used_at: Mutex<Instant>,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.dir.display(), %error, "cannot remove a copy");
        }
    }
}

impl Copies {
    /// Keeps copies in a directory, and removes what an earlier process left there.
    ///
    /// # Errors
    /// When the leftovers cannot be removed.
    pub fn new(dir: PathBuf, config: CopyConfig) -> Result<Self, Error> {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", dir)(error)),
            _ => {}
        }
        let rate = Arc::new(Rate::new(config.bytes_per_second));
        Ok(Self { dir, config, rate, open: Mutex::default() })
    }

    /// Ends copies that nobody has asked for for a while. Blocks on the file system for a moment.
    pub fn expire(&self) {
        let mut ended = Vec::new();
        self.open.lock().retain(|_, copy| {
            let is_used = Arc::strong_count(copy) > 1 || copy.used_at.lock().elapsed() < self.config.idle;
            if !is_used {
                ended.push(copy.clone());
            }
            is_used
        });
        drop(ended);
    }

    /// Takes a copy of the replica in a directory as of its last commit.
    pub async fn manifest(
        self: &Arc<Self>,
        shard: &ShardKey,
        replica: ReplicaDir,
        copier: &str,
    ) -> v1::CopyManifestResponse {
        let refused = |kind, reason: String| v1::CopyManifestResponse {
            failure: Some(failure(kind, reason)),
            ..v1::CopyManifestResponse::default()
        };
        self.expire();
        if self.open.lock().len() >= self.config.copies_max {
            let reason = format!("{} copies are being taken from this leaf already", self.config.copies_max);
            return refused(Kind::Rejected, reason);
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (dir, own_shard) = (self.dir.join(&id), shard.clone());
        match blocking(move || take(own_shard, &replica, dir)).await {
            Ok((copy, payload)) => {
                let generation = Generation { incarnation: Incarnation(payload.incarnation), seq: Seq(payload.seq) };
                let bytes: u64 = copy.files.values().map(|(bytes, _)| bytes).sum();
                tracing::info!(%shard, copier, copy = id, %generation, files = copy.files.len(), bytes, "a copy was taken");
                let files = copy.files.iter();
                let file = |(name, (bytes, end)): (&String, &(u64, u64))| v1::CopyFileInfo {
                    name: name.clone(),
                    bytes: *bytes,
                    end: *end,
                };
                let files = files.map(file).collect();
                self.open.lock().insert(id.clone(), Arc::new(copy));
                v1::CopyManifestResponse {
                    failure: None,
                    copy_id: id,
                    generation: Some(generation.into()),
                    payload_version: payload.version,
                    files,
                    ..v1::CopyManifestResponse::default()
                }
            }
            Err(error) => refused(Kind::Unavailable, format!("the copy cannot be taken: {}", error.reason())),
        }
    }

    /// The rest of a file, in chunks.
    ///
    /// # Errors
    /// `NOT_FOUND` when the copy has ended or has no such file.
    pub fn file(
        &self,
        request: v1::CopyFileRequest,
    ) -> Result<BoxStream<'static, Result<v1::CopyChunk, Status>>, Status> {
        let copy = self.open.lock().get(&request.copy_id).cloned();
        let copy = copy.ok_or_else(|| Status::not_found("the copy has ended"))?;
        let bytes = copy.files.get(&request.name).map(|(bytes, _)| *bytes);
        let bytes = bytes.ok_or_else(|| Status::not_found(format!("the copy has no file {:?}", request.name)))?;
        if request.offset > bytes {
            return Err(Status::invalid_argument(format!("{} has only {bytes} bytes", request.name)));
        }
        let path = copy.dir.join(&request.name);
        let reading = Reading {
            copy,
            path,
            file: None,
            offset: request.offset,
            bytes,
            chunk_bytes: self.config.chunk_bytes.max(1),
            rate: self.rate.clone(),
        };
        Ok(futures::stream::try_unfold(reading, Reading::next).boxed())
    }

    /// Ends a copy, and returns of what it was; ending one that is gone is fine.
    pub fn end(&self, id: &str) -> Option<ShardKey> {
        let copy = self.open.lock().remove(id);
        copy.map(|copy| copy.shard.clone())
    }
}

/// A file on its way out.
struct Reading {
    copy: Arc<Copy>,
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    bytes: u64,
    chunk_bytes: usize,
    rate: Arc<Rate>,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(v1::CopyChunk, Self)>, Status> {
        if self.offset >= self.bytes {
            return Ok(None);
        }
        let length = self.chunk_bytes.min(usize::try_from(self.bytes - self.offset).unwrap_or(usize::MAX));
        self.rate.pass(length).await;
        let (file, path, offset) = (self.file.take(), self.path.clone(), self.offset);
        let read = blocking(move || read(file, &path, offset, length).map_err(Error::io("read", path))).await;
        let (file, data) = read.map_err(|error| Status::data_loss(error.reason()))?;
        *self.copy.used_at.lock() = Instant::now();
        let chunk = v1::CopyChunk { offset, checksum: xxh3_64(&data), data };
        self.offset += length as u64;
        self.file = Some(file);
        Ok(Some((chunk, self)))
    }
}

fn read(file: Option<File>, path: &Path, offset: u64, length: usize) -> io::Result<(File, Bytes)> {
    let mut file = match file {
        Some(file) => file,
        None => {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            file
        }
    };
    let mut data = vec![0; length];
    file.read_exact(&mut data)?;
    Ok((file, data.into()))
}

/// Links the files of the last commit into a new directory.
fn take(shard: ShardKey, replica: &ReplicaDir, dir: PathBuf) -> Result<(Copy, v1::CommitPayload), Error> {
    if let Some(reason) = replica.anew()? {
        return Err(Error::Damaged(format!("this replica has to be made anew itself: {reason}")));
    }
    let source = replica.peek()?.ok_or_else(|| Error::Damaged("there is no index".to_owned()))?;
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    // From here on the directory goes with the copy, also when something below fails.
    let mut copy = Copy { shard, dir, files: BTreeMap::new(), used_at: Mutex::new(Instant::now()) };
    let index = Index::open_in_dir(&source)?;
    let lock = index.directory().acquire_lock(&META_LOCK).map_err(|error| TantivyError::LockFailure(error, None))?;
    let (metas, meta) = metas(&index, &source.join(META))?;
    let payload = decode_payload(metas.payload.as_deref().unwrap_or_default())?;
    for file in metas.list_segment_files() {
        let name = file.to_string_lossy().into_owned();
        let from = source.join(&file);
        if !is_plain(&name) || !from.exists() {
            continue;
        }
        let to = copy.dir.join(&name);
        if fs::hard_link(&from, &to).is_err() {
            // A file system without links.
            fs::copy(&from, &to).map_err(Error::io("copy", &from))?;
        }
        let end = end_of(&to).map_err(Error::io("read", &to))?;
        copy.files.insert(name, (bytes_of(&to)?, end));
    }
    drop(lock);
    let managed: Vec<&str> = copy.files.keys().map(String::as_str).chain([META]).collect();
    let managed = serde_json::to_vec(&managed).map_err(|error| Error::Damaged(error.to_string()))?;
    for (name, content) in [(META, meta), (MANAGED, managed)] {
        let path = copy.dir.join(name);
        fs::write(&path, &content).map_err(Error::io("write", &path))?;
        copy.files.insert(name.to_owned(), (content.len() as u64, 0));
    }
    // Those of the commit were made durable before it, so they are all there.
    for name in outcome_files::take(replica.path(), &copy.dir)? {
        let bytes = bytes_of(&copy.dir.join(&name))?;
        copy.files.insert(name, (bytes, 0));
    }
    Ok((copy, payload))
}

/// `meta.json` read, and as it is: the lock does not keep a commit from writing a new one in between.
fn metas(index: &Index, path: &Path) -> Result<(IndexMeta, Vec<u8>), Error> {
    let read = || fs::read(path).map_err(Error::io("read", path));
    loop {
        let before = read()?;
        let metas = index.load_metas()?;
        if before == read()? {
            return Ok((metas, before));
        }
    }
}

fn bytes_of(path: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(path).map_err(Error::io("read", path))?.len())
}
