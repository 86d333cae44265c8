//! A leaf's settings. Every queue, cache and pool of the leaf has its limit here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use trawl_cluster::Speaks;
use trawl_proto::NodeName;

use crate::apply::fault::Fault;
use crate::copy::CopyConfig;
use crate::query_log::QueryLog;

/// Settings of one leaf process. `Config::new` gives the defaults that the fields name.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the leaf, stable over restarts.
    pub name: NodeName,
    /// Where the gRPC server listens; port 0 chooses a free one.
    pub grpc: SocketAddr,
    /// What others are told to connect to; unset: the address listened on.
    pub grpc_advertised: Option<String>,
    /// Where replicas are kept; locked while the leaf runs.
    pub data_dir: PathBuf,
    /// Failure zone.
    pub zone: Option<String>,
    /// Bytes that replicas may take on disk, by which the leader spreads them. Unset: the size of the data
    /// directory's file system.
    pub capacity_bytes: Option<u64>,

    /// Which protocols it speaks. Default what this build does; less to rehearse an upgrade.
    pub speaks: Speaks,

    /// Threads that search. Default: the number of cores.
    pub search_threads: usize,
    /// Searches (of one shard each) that may wait for a thread; one more is refused at once.
    /// Default 1,000.
    pub search_queue_max: usize,
    /// Searchers kept for the fetch phase. Default 10,000.
    pub pins_max: usize,
    /// How long a searcher is kept for the fetch phase. Default 10 s.
    pub pin_time: Duration,
    /// Bytes that one shard's aggregation may use. Default 64 MiB.
    pub aggregation_bytes_max: u64,
    /// Buckets that one shard's aggregation may make. Default 65,536.
    pub aggregation_buckets_max: u32,

    /// Memory of one index writer, in bytes (tantivy's minimum is 15 MB). Default 20 MB.
    pub writer_bytes: usize,
    /// Index writers open at a time; other replicas with something to write wait for their turn.
    /// Default 8, so that writing takes at most 160 MB.
    pub writers_max: usize,
    /// A writer with nothing to write is closed after this time. Default 20 s.
    pub writer_idle: Duration,
    /// Replicas that apply operations at the same time. Default: the number of cores, at least 2.
    pub apply_threads: usize,
    /// Ids applied but not committed that a replica remembers; a full map forces a commit.
    /// Default 100,000.
    pub pending_max: usize,
    /// Bytes of documents applied but not committed; more force a commit. Default 256 MiB.
    pub pending_bytes_max: u64,
    /// Bytes of documents applied but not committed that a replica keeps in memory for updates of them;
    /// beyond, such an update forces a commit. Default 16 MiB.
    pub pending_source_bytes_max: usize,
    /// Recent outcomes that a replica remembers for roots that ask. Default 100,000.
    pub outcomes_max: usize,
    /// Bytes of operations rejected but not committed past; more force a commit. Default 8 MiB.
    pub letters_bytes_max: usize,
    /// How long drafting (parsing and analysing) one operation may take before it counts as hung.
    /// Default 10 s.
    pub draft_time_max: Duration,
    /// Threads that hang in an operation and cannot be ended; with this many, replicas stop. Default 8.
    pub draft_threads_abandoned_max: usize,
    /// Operations that panic or hang on purpose, for tests. Default none.
    pub faults: Arc<[Fault]>,
    /// How long outcomes are kept in files beside the index, by the log's time: as long as a message id
    /// is remembered. Default 1 h.
    pub outcomes_time: Duration,
    /// Bytes of those files per replica, about; the oldest go first. Default 64 MiB.
    pub outcomes_bytes_max: u64,
    /// Bytes of log rows read at a time. Default 4 MiB.
    pub read_bytes: usize,

    /// For tests: how much longer applying one operation takes. Default none.
    pub inject_apply_delay: Option<Duration>,

    /// How often the heads of all logs are compared, for appends that nobody told of. Default 200 ms.
    pub heads_interval: Duration,
    /// The same when no replica has moved for `heads_quiet_time`. Default 1 s.
    pub heads_interval_quiet: Duration,
    /// Default 5 s.
    pub heads_quiet_time: Duration,
    /// Least time between two commits that requests ask for, per replica. Default 20 ms.
    pub commit_interval_min: Duration,
    /// First and longest pause before a failed replica is tried again. Default 1 s and 60 s.
    pub retry_min: Duration,
    /// See `retry_min`.
    pub retry_max: Duration,
    /// How long membership survives without a sign of life. Default 3 s.
    pub lease_time: Duration,
    /// How long a replica goes on answering after it was taken from this leaf: for roots that have not
    /// heard of it, and for searches between their two phases. Default 10 s.
    pub retire_time: Duration,
    /// How long a request without a deadline may take. Default 30 s.
    pub request_timeout: Duration,
    /// Largest gRPC message taken, in bytes. Default 64 MiB.
    pub message_bytes_max: usize,
    /// What is written about searches. Default nothing.
    pub query_log: Option<QueryLog>,
    /// Copying replicas from and to other leaves.
    pub copy: CopyConfig,
    /// Checking files against their checksums.
    pub check: CheckConfig,
}

/// When and how fast files are checked against their checksums.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    /// Every file is read once in this time, and one that was not is before its replica serves; zero for only before
    /// serving, all of them. Default 24 h.
    pub interval: Duration,
    /// Bytes per second that all checks of a serving leaf read together; 0 turns checking off, except of files that
    /// are written to while they are in use. Default 100 MB/s.
    pub bytes_per_second: u64,
    /// How long a replica that no other leaf serves waits for its files to be checked before it serves. Default 10 s.
    pub wait: Duration,
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(24 * 3_600), bytes_per_second: 100_000_000, wait: Duration::from_secs(10) }
    }
}

impl Config {
    /// The defaults for a leaf of this name.
    pub fn new(name: impl Into<NodeName>, data_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            name: name.into(),
            grpc: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            grpc_advertised: None,
            data_dir: data_dir.into(),
            zone: None,
            capacity_bytes: None,
            speaks: Speaks::default(),
            search_threads: cores,
            search_queue_max: 1_000,
            pins_max: 10_000,
            pin_time: Duration::from_secs(10),
            aggregation_bytes_max: 64 << 20,
            aggregation_buckets_max: 65_536,
            writer_bytes: 20_000_000,
            writers_max: 8,
            writer_idle: Duration::from_secs(20),
            apply_threads: cores.max(2),
            pending_max: 100_000,
            pending_bytes_max: 256 << 20,
            pending_source_bytes_max: 16 << 20,
            outcomes_max: 100_000,
            outcomes_time: Duration::from_secs(3_600),
            outcomes_bytes_max: 64 << 20,
            letters_bytes_max: 8 << 20,
            draft_time_max: Duration::from_secs(10),
            draft_threads_abandoned_max: 8,
            faults: Arc::new([]),
            read_bytes: 4 << 20,
            inject_apply_delay: None,
            heads_interval: Duration::from_millis(200),
            heads_interval_quiet: Duration::from_secs(1),
            heads_quiet_time: Duration::from_secs(5),
            commit_interval_min: Duration::from_millis(20),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            lease_time: Duration::from_secs(3),
            retire_time: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            message_bytes_max: 64 << 20,
            query_log: None,
            copy: CopyConfig::default(),
            check: CheckConfig::default(),
        }
    }
}
