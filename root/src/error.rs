//! What can go wrong with a request, by what the caller can do about it. `http` maps it to a status
//! and a body in one place.

use std::time::Duration;

use crate::request::ShardFailure;

/// An inner cause, as Elasticsearch shows it under `caused_by`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// For example `illegal_argument_exception`.
    pub error_type: String,
    /// A sentence for a person.
    pub reason: String,
}

/// An error of a request. Cloneable, because one failed batch is the error of all its items.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no index of this name (404).
    #[error("no such index [{0}]")]
    NoSuchIndex(String),
    /// There is an index of this name (400 in Elasticsearch).
    #[error("index [{name}/{uid}] already exists")]
    IndexExists {
        /// The name.
        name: String,
        /// Uid of the one that is there.
        uid: String,
    },
    /// The request cannot be carried out as it is (400).
    #[error("{reason}")]
    Invalid {
        /// Elasticsearch's name of the error, for example `illegal_argument_exception`.
        error_type: &'static str,
        /// A sentence that names the wrong part.
        reason: String,
        /// What is below it.
        caused_by: Option<Cause>,
    },
    /// Lost against somebody else's change (409).
    #[error("{0}")]
    Conflict(String),
    /// The claim that a write was done for is held no more (409).
    #[error("{0}")]
    ClaimLost(String),
    /// Some limit is reached; the same request may work later (429).
    #[error("{reason}")]
    TooManyRequests {
        /// Which limit.
        reason: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The request is over a size limit (413).
    #[error("{0}")]
    TooLarge(String),
    /// Something that is needed is not there now (503).
    #[error("{0}")]
    Unavailable(String),
    /// The time given was not enough (504 or, for waits, `timed_out`).
    #[error("{0}")]
    Timeout(String),
    /// No shard answered, or one did not and partial results were not wanted (503; 400 when every
    /// failure is [`Kind::Invalid`](trawl_proto::v1::failure::Kind::Invalid); 429 when all are rejections).
    #[error("{}", search_failed(.failures))]
    SearchFailed {
        /// Why, per shard; at least one.
        failures: Vec<ShardFailure>,
    },
    /// A defect (500).
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// A malformed or unsupported part of a request: `illegal_argument_exception`.
    pub fn illegal_argument(reason: impl Into<String>) -> Self {
        Self::Invalid { error_type: "illegal_argument_exception", reason: reason.into(), caused_by: None }
    }

    /// Any error of the kind [`Error::Invalid`].
    pub fn invalid(error_type: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { error_type, reason: reason.into(), caused_by: None }
    }
}

fn search_failed(failures: &[ShardFailure]) -> String {
    match failures.first() {
        Some(first) => format!("{} shard(s) failed, the first: {}", failures.len(), first.failure.reason),
        None => "no shard answered".to_owned(),
    }
}

impl From<trawl_cluster::Error> for Error {
    fn from(error: trawl_cluster::Error) -> Self {
        use trawl_cluster::Error as Engine;
        match &error {
            Engine::Conflict(_) => Self::Conflict(error.to_string()),
            Engine::ClaimLost(_) => Self::ClaimLost(error.to_string()),
            Engine::OtherIncarnation { .. } | Engine::OtherHistory { .. } => Self::Conflict(error.to_string()),
            Engine::LogFull { .. } | Engine::QueueFull { .. } | Engine::Busy => {
                Self::TooManyRequests { reason: error.to_string(), retry_after: Duration::from_secs(1) }
            }
            Engine::TooLarge { .. } => Self::TooLarge(error.to_string()),
            Engine::Corrupt(_) => Self::Internal(error.to_string()),
            Engine::Unavailable(_) => Self::Unavailable(error.to_string()),
            Engine::Fenced { .. }
            | Engine::NoSuchLog(_)
            | Engine::Trimmed { .. }
            | Engine::Refused(_)
            | Engine::BadUrl { .. } => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<trawl_data::mapping::MappingError> for Error {
    fn from(error: trawl_data::mapping::MappingError) -> Self {
        Self::Invalid { error_type: error.error_type, reason: error.reason, caused_by: None }
    }
}

impl From<trawl_data::document::DocumentError> for Error {
    fn from(error: trawl_data::document::DocumentError) -> Self {
        let caused_by = error.caused_by.map(|(error_type, reason)| Cause { error_type, reason });
        Self::Invalid { error_type: error.error_type, reason: error.reason, caused_by }
    }
}
