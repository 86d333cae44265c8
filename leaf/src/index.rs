//! A replica's tantivy index on disk: where it is, how it is opened, committed and asked for an id.
//!
//! ```text
//! DATA_DIR/shards/INDEX_UID/NUMBER/CURRENT      name of the index directory in use
//! DATA_DIR/shards/INDEX_UID/NUMBER/index-N/     a tantivy index
//! DATA_DIR/shards/INDEX_UID/NUMBER/copy/        a tantivy index on its way here from another leaf
//! DATA_DIR/shards/INDEX_UID/NUMBER/ANEW         why it has to be made anew from another leaf's
//! DATA_DIR/shards/INDEX_UID/NUMBER/CHECKED      which files were found to match their checksums, and when
//! ```
//!
//! A rebuilt index is made in a new directory and put in place by renaming a new `CURRENT` over the
//! old one, so after a crash there is the old index or the new one, never half of one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use prost::Message;
use tantivy::columnar::Column;
use tantivy::directory::MmapDirectory;
use tantivy::fastfield::AliveBitSet;
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::schema::IndexRecordOption;
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{
    DocAddress, DocId, DocSet, Index, IndexReader, IndexSettings, IndexWriter, InvertedIndexReader, ReloadPolicy,
    Searcher, SegmentOrdinal, TERMINATED, TantivyDocument, TantivyError, Term,
};
use trawl_cluster::catalog::newer;
use trawl_proto::v1;

use crate::apply::backlog::Incoming;
use crate::apply::decide::Stamp;
use crate::apply::tokens::{DecodeTokenizer, TOKENIZER};
use crate::error::Error;
use crate::schema::{PRIMARY_TERM, PhysicalSchema, SCHEMA_FORMAT, SEQ_NO, VERSION};

const CURRENT: &str = "CURRENT";
const ANEW: &str = "ANEW";
/// Where a copy is made.
const COPY: &str = "copy";
const CHECKED: &str = "CHECKED";
/// What tantivy calls the file that names a commit.
pub const META: &str = "meta.json";
/// Blocks of stored documents (16 KiB each) that a searcher keeps unpacked, per segment.
const STORE_CACHE_BLOCKS: usize = 16;
/// The newest version of the commit payload that this program reads, and the one that it writes.
pub const PAYLOAD_VERSION: u32 = 1;
/// A merge is due when more of a segment's documents than this are deleted.
const DELETES_RATIO_MAX: f32 = 0.2;

/// The directory of one replica.
#[derive(Clone, Debug)]
pub struct ReplicaDir {
    root: PathBuf,
}

impl ReplicaDir {
    /// The directory of a replica; nothing is touched.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The index in use, if there is one; leftovers of interrupted rebuilds are removed.
    pub fn current(&self) -> Result<Option<PathBuf>, Error> {
        let path = self.peek()?;
        let name = path.as_deref().and_then(Path::file_name);
        self.clear(name.map(OsStr::to_string_lossy).as_deref())?;
        Ok(path)
    }

    /// Removes what nobody can use: other index directories, and files in the index in use that are not part
    /// of its last commit. Nobody may write to it meanwhile.
    pub fn sweep(&self) -> Result<(), Error> {
        let Some(path) = self.current()? else { return Ok(()) };
        let mut index = Index::open_in_dir(path)?;
        let metas = index.load_metas()?;
        let living = || metas.list_segment_files().into_iter().chain([PathBuf::from(META)]).collect();
        index.directory_mut().garbage_collect(living)?;
        Ok(())
    }

    /// The index in use, if there is one; nothing is touched.
    pub fn peek(&self) -> Result<Option<PathBuf>, Error> {
        let pointer = self.root.join(CURRENT);
        let Some(name) = read_if_there(&pointer)? else { return Ok(None) };
        let name = name.trim();
        let path = self.root.join(name);
        if name.is_empty() || !path.is_dir() {
            return Err(Error::Damaged(format!("{} names {name:?}, which is not there", pointer.display())));
        }
        Ok(Some(path))
    }

    /// Marks the replica, durably: from the next opening on it is made anew from another leaf's, and
    /// serves nothing until it has been.
    pub fn make_anew(&self, reason: &str) -> Result<(), Error> {
        fs::create_dir_all(&self.root).map_err(Error::io("create", &self.root))?;
        self.write(ANEW, reason)
    }

    /// Why the replica has to be made anew, if it has to.
    pub fn anew(&self) -> Result<Option<String>, Error> {
        read_if_there(&self.root.join(ANEW))
    }

    /// The replica has been made anew: its mark goes.
    pub fn made_anew(&self) -> Result<(), Error> {
        match fs::remove_file(self.root.join(ANEW)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", self.root.join(ANEW))(error))
            }
            _ => Ok(()),
        }
    }

    /// What [`ReplicaDir::set_checked`] was given last, where it can be read.
    pub fn checked(&self) -> Option<String> {
        fs::read_to_string(self.root.join(CHECKED)).ok()
    }

    /// Notes which files were found good.
    pub fn set_checked(&self, content: &str) -> Result<(), Error> {
        self.write(CHECKED, content)
    }

    /// Removes the index in use, its mark last: the replica begins with nothing.
    pub fn reset(&self) -> Result<(), Error> {
        match fs::remove_file(self.root.join(CURRENT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", self.root.join(CURRENT))(error));
            }
            _ => {}
        }
        self.clear(None)?;
        self.drop_copy()?;
        self.made_anew()
    }

    /// The directory of a copy that is being made, with what an earlier attempt has left in it.
    pub fn begin_copy(&self) -> Result<PathBuf, Error> {
        let path = self.root.join(COPY);
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(path)
    }

    /// The copy is an index from now on, but not in use yet; returns its directory.
    pub fn end_copy(&self) -> Result<PathBuf, Error> {
        let path = self.begin()?;
        // In place of the empty directory.
        fs::rename(self.root.join(COPY), &path).map_err(Error::io("rename", self.root.join(COPY)))?;
        Ok(path)
    }

    /// Removes what was copied so far.
    pub fn drop_copy(&self) -> Result<(), Error> {
        let path = self.root.join(COPY);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// A new, empty directory for an index that is not in use yet.
    pub fn begin(&self) -> Result<PathBuf, Error> {
        fs::create_dir_all(&self.root).map_err(Error::io("create", &self.root))?;
        for number in 0u64.. {
            let path = self.root.join(format!("index-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", path)(error)),
            }
        }
        Err(Error::Damaged("no directory name is free".to_owned()))
    }

    /// Puts an index in use, durably.
    pub fn publish(&self, index: &Path) -> Result<(), Error> {
        let name = index.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.write(CURRENT, &name)
    }

    /// Writes a small file, durably and as a whole.
    fn write(&self, name: &str, content: &str) -> Result<(), Error> {
        let fresh = self.root.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&fresh)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, self.root.join(name))?;
            File::open(&self.root)?.sync_all()
        };
        write().map_err(Error::io("write", self.root.join(name)))
    }

    /// Removes every index directory but the named one.
    fn clear(&self, keep: Option<&str>) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("list", &self.root)(error)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("index-") && Some(name.as_ref()) != keep {
                fs::remove_dir_all(entry.path()).map_err(Error::io("remove", entry.path()))?;
            }
        }
        Ok(())
    }

    /// Bytes of all files below.
    pub fn bytes(&self) -> u64 {
        fn sum(path: &Path) -> u64 {
            let Ok(entries) = fs::read_dir(path) else { return 0 };
            entries
                .flatten()
                .map(|entry| match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => sum(&entry.path()),
                    Ok(metadata) => metadata.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        sum(&self.root)
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// An open tantivy index.
pub struct ShardIndex {
    /// The index.
    pub index: Index,
    /// Makes searchers; reloaded after each commit.
    pub reader: IndexReader,
    /// What its fields are for.
    pub physical: Arc<PhysicalSchema>,
}

impl ShardIndex {
    /// Makes an empty index in an empty directory, with a first commit that carries the payload.
    pub fn create(path: &Path, physical: Arc<PhysicalSchema>, payload: &v1::CommitPayload) -> Result<Self, Error> {
        let settings = IndexSettings { docstore_compress_dedicated_thread: false, ..IndexSettings::default() };
        let directory = MmapDirectory::open(path).map_err(TantivyError::from)?;
        let index = Index::create(directory, physical.schema.clone(), settings)?;
        let this = Self::with(index, physical)?;
        let mut writer = this.writer(tantivy_minimum())?;
        commit(&mut writer, payload)?;
        writer.wait_merging_threads()?;
        this.reader.reload()?;
        Ok(this)
    }

    /// Reads the payload of the last commit, without opening the index for anything else.
    pub fn payload(path: &Path) -> Result<v1::CommitPayload, Error> {
        let metas = Index::open_in_dir(path)?.load_metas()?;
        decode_payload(metas.payload.as_deref().unwrap_or_default())
    }

    /// Opens an index that was created with this schema.
    pub fn open(path: &Path, physical: Arc<PhysicalSchema>) -> Result<Self, Error> {
        let index = Index::open_in_dir(path)?;
        if index.schema() != physical.schema {
            return Err(Error::Damaged("the index has another schema than its mapping gives".to_owned()));
        }
        Self::with(index, physical)
    }

    fn with(index: Index, physical: Arc<PhysicalSchema>) -> Result<Self, Error> {
        index.tokenizers().register(TOKENIZER, TextAnalyzer::from(DecodeTokenizer::default()));
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(STORE_CACHE_BLOCKS)
            .try_into()?;
        Ok(Self { index, reader, physical })
    }

    /// A writer with one indexing and one merging thread.
    pub fn writer(&self, bytes: usize) -> Result<IndexWriter<Incoming>, Error> {
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .num_merge_threads(1)
            .memory_budget_per_thread(bytes.max(tantivy_minimum()))
            .build();
        let writer: IndexWriter<Incoming> = self.index.writer_with_options(options)?;
        let mut policy = LogMergePolicy::default();
        policy.set_del_docs_ratio_before_merge(DELETES_RATIO_MAX);
        writer.set_merge_policy(Box::new(policy));
        Ok(writer)
    }
}

const fn tantivy_minimum() -> usize {
    15_000_000
}

/// Commits everything written so far together with the payload, durably.
pub fn commit(writer: &mut IndexWriter<Incoming>, payload: &v1::CommitPayload) -> Result<(), Error> {
    let mut prepared = writer.prepare_commit()?;
    prepared.set_payload(&STANDARD_NO_PAD.encode(payload.encode_to_vec()));
    prepared.commit()?;
    Ok(())
}

/// The payload of a commit.
pub fn decode_payload(text: &str) -> Result<v1::CommitPayload, Error> {
    if text.is_empty() {
        return Err(Error::Damaged("the commit has no payload".to_owned()));
    }
    let bytes = STANDARD_NO_PAD
        .decode(text)
        .map_err(|error| Error::Damaged(format!("the commit's payload is not base64: {error}")))?;
    let payload = v1::CommitPayload::decode(bytes.as_slice())
        .map_err(|error| Error::Damaged(format!("the commit's payload cannot be decoded: {error}")))?;
    if payload.version == 0 {
        return Err(Error::Damaged("the commit's payload has no version".to_owned()));
    }
    for (what, version, known) in [
        ("the commit's payload", payload.version, PAYLOAD_VERSION),
        ("the index's schema", payload.schema_format, SCHEMA_FORMAT),
    ] {
        if version > known {
            return Err(Error::Damaged(newer(what, version, known).to_string()));
        }
    }
    Ok(payload)
}

/// Finds documents of one searcher by `_id`.
pub struct IdLookup {
    id: tantivy::schema::Field,
    searcher: Searcher,
    segments: Vec<IdSegment>,
}

struct IdSegment {
    ids: Arc<InvertedIndexReader>,
    alive: Option<AliveBitSet>,
    seq_no: Column<u64>,
    primary_term: Column<u64>,
    version: Column<u64>,
}

impl IdLookup {
    /// Opens what is needed in every segment.
    pub fn open(searcher: &Searcher, physical: &PhysicalSchema) -> Result<Self, Error> {
        let id = physical.hidden.id;
        let segments = searcher
            .segment_readers()
            .iter()
            .map(|reader| {
                let columns = reader.fast_fields();
                Ok(IdSegment {
                    ids: reader.inverted_index(id)?,
                    alive: reader.alive_bitset().cloned(),
                    seq_no: columns.u64(SEQ_NO)?,
                    primary_term: columns.u64(PRIMARY_TERM)?,
                    version: columns.u64(VERSION)?,
                })
            })
            .collect::<Result<_, TantivyError>>()?;
        Ok(Self { id, searcher: searcher.clone(), segments })
    }

    /// Where the document stands, if it is live.
    pub fn find(&self, id: &str) -> Result<Option<Stamp>, Error> {
        Ok(self.locate(id)?.map(|(segment, doc)| {
            let segment = &self.segments[segment];
            let first = |column: &Column<u64>| column.first(doc).unwrap_or_default();
            Stamp {
                seq: first(&segment.seq_no),
                primary_term: first(&segment.primary_term),
                version: first(&segment.version),
            }
        }))
    }

    /// The document as it is stored, if it is live.
    pub fn document(&self, id: &str) -> Result<Option<TantivyDocument>, Error> {
        let Some((segment, doc)) = self.locate(id)? else { return Ok(None) };
        Ok(Some(self.searcher.doc(DocAddress::new(segment as SegmentOrdinal, doc))?))
    }

    /// Segment and number of the live document.
    fn locate(&self, id: &str) -> Result<Option<(usize, DocId)>, Error> {
        let term = Term::from_field_text(self.id, id);
        for (number, segment) in self.segments.iter().enumerate().rev() {
            let Some(info) = segment.ids.get_term_info(&term).map_err(TantivyError::from)? else { continue };
            let mut postings =
                segment.ids.read_postings_from_terminfo(&info, IndexRecordOption::Basic).map_err(TantivyError::from)?;
            let mut doc = postings.doc();
            while doc != TERMINATED {
                if segment.alive.as_ref().is_none_or(|alive| alive.is_alive(doc)) {
                    return Ok(Some((number, doc)));
                }
                doc = postings.advance();
            }
        }
        Ok(None)
    }
}
