//! Where records go. A sink sends one payload and says what came of it; retrying is the lane's business.

pub mod http;
mod lines;
pub mod otlp;
mod otlp_send;
mod trawl;

use std::time::Duration;

use bytes::Bytes;

use crate::batch::{About, Payload};
use crate::config::{ConfigError, SinkConfig, SinkKind};

/// What came of a payload that was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Records that the sink already had.
    pub duplicates: u64,
    /// Records that were refused and taken in a plainer form.
    pub simplified: u64,
    /// Records that were refused for good.
    pub rejected: u64,
}

/// Why a payload is to be sent again.
#[derive(Debug, Default)]
pub struct Again {
    /// For a person.
    pub reason: String,
    /// The pause that the sink asked for.
    pub retry_after: Option<Duration>,
    /// What is left to be sent, when some of it was taken, and what came of that.
    pub rest: Option<(About, Bytes)>,
    /// What came of the part that was taken.
    pub sent: Sent,
}

impl Again {
    /// The whole payload again.
    pub fn whole(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), ..Self::default() }
    }
}

/// A sink that is open.
pub enum Sink {
    /// Standard output or a file.
    Lines(lines::Lines),
    /// Trawl.
    Trawl(Box<trawl::Trawl>),
    /// OpenTelemetry.
    Otlp(Box<otlp_send::Otlp>),
}

impl Sink {
    /// Makes a sink; nothing is connected yet.
    ///
    /// # Errors
    /// When the settings cannot be meant.
    pub fn open(config: &SinkConfig) -> Result<Self, ConfigError> {
        Ok(match &config.kind {
            SinkKind::Stdout => Self::Lines(lines::Lines::stdout()),
            SinkKind::File(path) => Self::Lines(lines::Lines::file(path)),
            SinkKind::Trawl(endpoints) => Self::Trawl(Box::new(trawl::Trawl::new(config, endpoints)?)),
            SinkKind::OtlpHttp(url) => Self::Otlp(Box::new(otlp_send::Otlp::http(config, url)?)),
            SinkKind::OtlpGrpc(url) => Self::Otlp(Box::new(otlp_send::Otlp::grpc(config, url)?)),
        })
    }

    /// Sends a payload.
    ///
    /// # Errors
    /// When it, or what is left of it, is to be sent again later.
    pub async fn send(&mut self, payload: &Payload) -> Result<Sent, Again> {
        match self {
            Self::Lines(sink) => sink.send(payload).await,
            Self::Trawl(sink) => sink.send(payload).await,
            Self::Otlp(sink) => sink.send(payload).await,
        }
    }
}
