//! Every setting and limit of an ambassador, with its default.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;

use crate::breaker::Patience;

/// Where the roots are known from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The cluster's own store, by the URL of its engine: roots that register and beat.
    Cluster(String),
    /// A fixed list of URLs.
    List(Vec<String>),
    /// All addresses of a name, `host:port`, looked up again and again.
    Dns(String),
}

/// How an ambassador works.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address applications are given.
    pub listen: SocketAddr,
    /// Where the roots are known from.
    pub source: Source,
    /// Whether roots from the store or DNS are spoken to over TLS; a listed URL says it itself.
    pub tls: bool,
    /// The only authorities, in PEM, whose certificates are believed; `None` for those of the system.
    pub authorities: Option<Vec<u8>>,
    /// Sent to roots where the application sends no `Authorization`.
    pub authorization: Option<HeaderValue>,
    /// Connections of applications; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Requests at work; one more is a 429.
    pub requests_max: usize,
    /// The part of a request's body that is kept so that it can be sent again; a larger body is streamed once.
    pub replay_bytes_max: usize,
    /// How long reading that part may take; then 408.
    pub body_time: Duration,
    /// The part of an answer that is waited for before any of it is passed on, so that another root can answer when this
    /// one dies; the rest is streamed.
    pub answer_bytes_max: usize,
    /// Bytes of all bodies kept at once; where there is no room a body is streamed.
    pub kept_bytes_max: usize,
    /// How long a read may take before a second root is asked as well.
    pub read_delay: Duration,
    /// The same for a write that has a key.
    pub write_delay: Duration,
    /// How long after its arrival a request is still sent again.
    pub repeat_time: Duration,
    /// Requests sent again, as a share of all.
    pub repeat_share: f32,
    /// Requests sent again per second, whatever the share.
    pub repeats_per_second: u32,
    /// How long connecting to a root may take.
    pub connect_time: Duration,
    /// How often a root in use is asked how it is.
    pub check_interval: Duration,
    /// How long its answer to that may take.
    pub check_time: Duration,
    /// When a root is left alone, and for how long.
    pub patience: Patience,
    /// How often a name is looked up.
    pub dns_interval: Duration,
}

impl Config {
    /// The defaults.
    pub fn new(listen: SocketAddr, source: Source) -> Self {
        Self {
            listen,
            source,
            tls: false,
            authorities: None,
            authorization: None,
            connections_max: 4_096,
            requests_max: 1_024,
            replay_bytes_max: 1 << 20,
            body_time: Duration::from_secs(30),
            answer_bytes_max: 256 << 10,
            kept_bytes_max: 64 << 20,
            read_delay: Duration::from_millis(250),
            write_delay: Duration::from_secs(1),
            repeat_time: Duration::from_secs(30),
            repeat_share: 0.2,
            repeats_per_second: 10,
            connect_time: Duration::from_secs(1),
            check_interval: Duration::from_secs(1),
            check_time: Duration::from_millis(500),
            patience: Patience::default(),
            dns_interval: Duration::from_secs(5),
        }
    }
}
