//! What a root can be told, with every limit and its default in one place.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use trawl_cluster::Speaks;
use trawl_proto::NodeName;

pub use crate::leaf_client::{Connect, Connection};
pub use crate::policy::hedge::HedgeConfig;

/// Settings of one root process.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name, stable over restarts.
    pub name: NodeName,
    /// Where to serve HTTP; port 0 takes a free one.
    pub http: SocketAddr,
    /// What other nodes and people reach it under; `None`: the address it is bound to.
    pub http_advertise: Option<String>,
    /// Failure zone; shown, and written down with its membership.
    pub zone: Option<String>,
    /// How long a node's or leader's record may stand still before it counts as gone. Has to be the
    /// same in the whole cluster. Default 3 s.
    pub lease_time: Duration,
    /// What HTTP clients may cost.
    pub limits: HttpLimits,
    /// How searches and gets are done.
    pub search: SearchConfig,
    /// How writes are done.
    pub write: WriteConfig,
    /// How jobs by query are carried out.
    pub by_query: ByQueryConfig,
    /// How leaves are talked to.
    pub leaves: LeavesConfig,
    /// Which protocols it speaks. Default what this build does; less to rehearse an upgrade.
    pub speaks: Speaks,
    /// How this root leads when it is elected.
    pub lead: LeadConfig,
    /// How long open requests may take to end at a shutdown. Default 8 s.
    pub shutdown_grace: Duration,
}

impl Config {
    /// The defaults.
    pub fn new(name: impl Into<NodeName>, http: SocketAddr) -> Self {
        Self {
            name: name.into(),
            http,
            http_advertise: None,
            zone: None,
            lease_time: Duration::from_secs(3),
            limits: HttpLimits::default(),
            search: SearchConfig::default(),
            write: WriteConfig::default(),
            by_query: ByQueryConfig::default(),
            leaves: LeavesConfig::default(),
            speaks: Speaks::default(),
            lead: LeadConfig::default(),
            shutdown_grace: Duration::from_secs(8),
        }
    }
}

/// Bounds of what HTTP clients may cost.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Connections open at once; one more is answered with 429 and closed. Default 4,096.
    pub connections_max: usize,
    /// From a request's first byte to the end of its head; then the connection is closed. Default 10 s.
    pub header_time_max: Duration,
    /// How long a connection may be open without a request. Default 75 s.
    pub idle_time_max: Duration,
    /// Between two pieces of a request's body; then the answer is 408. Default 30 s.
    pub body_time_max: Duration,
    /// Largest request body after decompression; a larger one is a 413. Default 100 MiB.
    pub body_bytes_max: usize,
    /// All request bodies held at once; more answers 429. Default 512 MiB.
    pub in_flight_bytes_max: usize,
    /// Operations in one `_bulk`; more is a 413. Default 100,000.
    pub bulk_operations_max: usize,
    /// Largest document; a larger one is a 413 of its own. Default 16 MiB.
    pub document_bytes_max: usize,
    /// Searches in one `_msearch` that run at once. Default 8.
    pub msearch_concurrency_max: usize,
    /// Searches in one `_msearch`. Default 1,000.
    pub msearch_items_max: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            header_time_max: Duration::from_secs(10),
            idle_time_max: Duration::from_secs(75),
            body_time_max: Duration::from_secs(30),
            body_bytes_max: 100 << 20,
            in_flight_bytes_max: 512 << 20,
            bulk_operations_max: 100_000,
            document_bytes_max: 16 << 20,
            msearch_concurrency_max: 8,
            msearch_items_max: 1_000,
        }
    }
}

/// Limits of the read path.
#[derive(Clone, Debug)]
pub struct SearchConfig {
    /// `from + size` at most. Default 10,000.
    pub window_max: u32,
    /// Searches, counts and gets at once; more are refused with 429. Default 1,024.
    pub in_flight_max: usize,
    /// How old statistics may be while an index is written to. Default 5 s.
    pub statistics_age_max: Duration,
    /// Entries (shard, field, term) of the statistics cache, about 120 bytes each. Default 100,000.
    pub statistics_entries_max: usize,
    /// Kept back from the deadline at each hop, for the answer's way. Default 15 ms, never more than
    /// a tenth of what is left.
    pub margin: Duration,
    /// How many calls one shard may cost in one phase, over all replicas. Default 8.
    pub attempts_max: u32,
    /// When a late call is made a second time, at another replica.
    pub hedge: HedgeConfig,
    /// Large aggregations that are merged at the same time; others wait, not longer than their deadline.
    /// Default: the number of cores.
    pub merges_max: usize,
    /// Bytes of partial aggregations that one search may bring together; more are too many buckets.
    /// Default 64 MiB.
    pub partial_bytes_max: usize,
    /// Parsed mappings kept, by index and version. Default 1,000.
    pub mappings_max: usize,
    /// How old the known dynamic fields of an index may be when a query names a dynamic or unknown
    /// field. Default 1 s.
    pub fields_age_max: Duration,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            window_max: 10_000,
            in_flight_max: 1_024,
            statistics_age_max: Duration::from_secs(5),
            statistics_entries_max: 100_000,
            margin: Duration::from_millis(15),
            attempts_max: 8,
            hedge: HedgeConfig::default(),
            merges_max: std::thread::available_parallelism().map_or(2, usize::from),
            partial_bytes_max: 64 << 20,
            mappings_max: 1_000,
            fields_age_max: Duration::from_secs(1),
        }
    }
}

/// Limits of the write path.
#[derive(Clone, Debug)]
pub struct WriteConfig {
    /// Bytes of operations that are being written; more are refused with 429. Default 128 MiB.
    pub in_flight_bytes_max: usize,
    /// How long to wait for outcomes before saying `accepted`. Default 10 s.
    pub outcome_wait_max: Duration,
    /// How long to wait for an append before the engine counts as down. Default 5 s.
    pub append_wait_max: Duration,
    /// How long a refresh may take. Default 10 s.
    pub refresh_wait_max: Duration,
    /// How long to wait for a new index to be served. Default 30 s.
    pub create_wait_max: Duration,
    /// Bytes of one batch in the log; a larger write to one shard becomes several. Default 8 MiB.
    pub batch_bytes_max: usize,
    /// Copies of shards that all indices may have, times the leaves that are there. Default 1,000.
    pub shards_per_leaf_max: u64,
    /// Indices that one request may make by writing to them; the rest of it is refused with 429. Default 100.
    pub new_indices_max: usize,
}

impl Default for WriteConfig {
    fn default() -> Self {
        Self {
            in_flight_bytes_max: 128 << 20,
            outcome_wait_max: Duration::from_secs(10),
            append_wait_max: Duration::from_secs(5),
            refresh_wait_max: Duration::from_secs(10),
            create_wait_max: Duration::from_secs(30),
            batch_bytes_max: 8 << 20,
            shards_per_leaf_max: 1_000,
            new_indices_max: 100,
        }
    }
}

/// How jobs by query are carried out.
#[derive(Clone, Debug)]
pub struct ByQueryConfig {
    /// Jobs at work at a time on this root. Default 2.
    pub concurrency: usize,
    /// How long a job is this root's without a sign of life; then another goes on with it. Default 10 s.
    pub lease: Duration,
    /// How often a root without work looks for jobs that others were asked for. Default 1 s.
    pub idle_poll: Duration,
    /// How often a job is begun or taken up again, before it is given up. Default 20.
    pub attempts_max: u32,
    /// How long cancelled and given up jobs are kept; finished ones as long as the engine keeps them.
    /// Default one hour.
    pub keep: Duration,
}

impl Default for ByQueryConfig {
    fn default() -> Self {
        Self {
            concurrency: 2,
            lease: Duration::from_secs(10),
            idle_poll: Duration::from_secs(1),
            attempts_max: 20,
            keep: Duration::from_secs(3_600),
        }
    }
}

/// How leaves are talked to.
#[derive(Clone, Debug)]
pub struct LeavesConfig {
    /// The network; default TCP.
    pub connect: Connect,
    /// To connect. Default 500 ms.
    pub connect_timeout: Duration,
    /// Between two HTTP/2 pings. Default 2 s.
    pub keep_alive_interval: Duration,
    /// For the answer to a ping; then the connection counts as broken. Default 2 s.
    pub keep_alive_timeout: Duration,
    /// Between two looks at connections that are not there. Default 250 ms.
    pub probe_interval: Duration,
    /// Bytes of one answer. Default 256 MiB.
    pub answer_bytes_max: usize,
    /// For a leaf's status. Default 2 s.
    pub status_timeout: Duration,
}

impl Default for LeavesConfig {
    fn default() -> Self {
        Self {
            connect: Connect::default(),
            connect_timeout: Duration::from_millis(500),
            keep_alive_interval: Duration::from_secs(2),
            keep_alive_timeout: Duration::from_secs(2),
            probe_interval: Duration::from_millis(250),
            answer_bytes_max: 256 << 20,
            status_timeout: Duration::from_secs(2),
        }
    }
}

/// How the leader works.
#[derive(Clone, Debug)]
pub struct LeadConfig {
    /// Between two looks at what could be trimmed, when something was written. Default 5 s.
    pub trim_interval: Duration,
    /// The same while a log has reached half its limit. Default 500 ms.
    pub trim_interval_large: Duration,
    /// Between two counts of an index's fields, when something was written to it. Default 1 s.
    pub fields_interval: Duration,
    /// Operations that stay in a log behind what all replicas have committed, so that a replica that
    /// restarts or lags a little need not copy. Default 10,000.
    pub trim_keep: u64,
    /// A log of this size is trimmed at what is committed, without a tail, also where it is the second
    /// copy of a single replica, and replicas far behind lose their hold on it. Half of its own limit
    /// where the index has one. Default 512 MiB, half of the engine's limit.
    pub log_bytes_high: u64,
    /// Between two looks for operations that replicas cannot apply. Default 1 s.
    pub poison_interval: Duration,
    /// How long a leaf may be missing before its replicas are replaced, where the index does not say.
    /// Default 60 s.
    pub replace_after: Duration,
    /// Replicas that one leaf may copy at a time. Default 2.
    pub copies_per_leaf_max: usize,
    /// Replicas that all leaves together may copy at a time. Default 8.
    pub copies_max: usize,
    /// Between two questions how large replicas are. Default 5 s.
    pub sizes_interval: Duration,
    /// Before a step that failed is tried again. Default 500 ms.
    pub retry: Duration,
    /// Between two questions whether any log has lost history that replicas hold. Default 1 s.
    pub repair_interval: Duration,
    /// How long a log is known to be broken before it is repaired, so that every replica has looked: more
    /// than leaves take between two looks at the heads. Default 2 s.
    pub repair_settle: Duration,
    /// How long the repair waits for leaves that hold the shard and do not answer: what only they hold
    /// would be lost. Default 10 s.
    pub repair_wait_max: Duration,
    /// For tests: while this file is there, a leader holds back the writes that it names; see `lead::fenced`.
    pub inject_hold: Option<PathBuf>,
    /// For how long every live node has to speak a newer protocol before it becomes the cluster's, and there is no
    /// way back to the version before. Default 10 min.
    pub upgrade_after: Duration,
}

impl Default for LeadConfig {
    fn default() -> Self {
        Self {
            trim_interval: Duration::from_secs(5),
            trim_interval_large: Duration::from_millis(500),
            fields_interval: Duration::from_secs(1),
            trim_keep: 10_000,
            log_bytes_high: 512 << 20,
            poison_interval: Duration::from_secs(1),
            replace_after: Duration::from_secs(60),
            copies_per_leaf_max: 2,
            copies_max: 8,
            sizes_interval: Duration::from_secs(5),
            retry: Duration::from_millis(500),
            repair_interval: Duration::from_secs(1),
            repair_settle: Duration::from_secs(2),
            repair_wait_max: Duration::from_secs(10),
            inject_hold: None,
            upgrade_after: Duration::from_secs(600),
        }
    }
}
