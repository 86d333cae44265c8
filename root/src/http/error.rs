//! Errors as Elasticsearch shows them: the one place where an [`Error`] becomes a status and a body.

use http::StatusCode;
use trawl_proto::v1::failure::Kind;

use super::json::{Json, Members, object};
use crate::{error::Error, request::ShardFailure};

/// An error on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError(Box<Parts>);

/// What an error is made of. Boxed, so that a `Result` that is usually fine stays small.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// The HTTP status.
    pub status: StatusCode,
    /// For example `parsing_exception`.
    pub error_type: String,
    /// A sentence that names the wrong part.
    pub reason: String,
    /// Further members beside type and reason, of the error and its root cause.
    pub details: Members,
    /// The inner cause.
    pub caused_by: Option<Json>,
    /// Shown instead of the error itself under `root_cause`.
    pub root_causes: Option<Vec<Json>>,
    /// Seconds for the `Retry-After` header.
    pub retry_after_seconds: Option<u64>,
    /// For the `Allow` header.
    pub allow: Option<String>,
    /// Answers `{"error": "reason"}`: what Elasticsearch does when no handler was reached.
    pub plain: bool,
}

impl std::ops::Deref for ApiError {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl std::ops::DerefMut for ApiError {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.0
    }
}

impl ApiError {
    /// An error of a status, type and reason.
    pub fn new(status: StatusCode, error_type: impl Into<String>, reason: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            error_type: error_type.into(),
            reason: reason.into(),
            details: Members::new(),
            caused_by: None,
            root_causes: None,
            retry_after_seconds: None,
            allow: None,
            plain: false,
        }))
    }

    /// An error that was found before any handler was chosen.
    pub fn plain(status: StatusCode, reason: impl Into<String>) -> Self {
        let mut error = Self::new(status, "", reason);
        error.plain = true;
        error
    }

    /// With the seconds after which the client may try again.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// With the methods that the path has.
    pub fn allowing(mut self, methods: String) -> Self {
        self.allow = Some(methods);
        self
    }

    fn with_root_causes(mut self, causes: Vec<Json>) -> Self {
        self.root_causes = Some(causes);
        self
    }

    /// With one more member beside type and reason.
    pub fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.details.push((key.to_owned(), value.into()));
        self
    }

    /// 404: a document's index is missing.
    pub fn index_not_found(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "index_not_found_exception", format!("no such index [{name}]"))
            .with("resource.type", "index_or_alias")
            .with("resource.id", name)
            .with("index_uuid", "_na_")
            .with("index", name)
    }

    /// Type, reason and details, without root cause.
    pub fn cause(&self) -> Json {
        let mut members = self.head();
        if let Some(caused_by) = &self.caused_by {
            members.push(("caused_by".to_owned(), caused_by.clone()));
        }
        Json::Object(members)
    }

    fn head(&self) -> Members {
        let mut members = vec![
            ("type".to_owned(), self.error_type.as_str().into()),
            ("reason".to_owned(), self.reason.as_str().into()),
        ];
        members.extend(self.details.iter().cloned());
        members
    }

    /// The value of an answer's `error` member.
    pub fn error(&self) -> Json {
        if self.plain {
            return self.reason.as_str().into();
        }
        let root_causes = match &self.root_causes {
            Some(causes) => causes.clone(),
            None => vec![Json::Object(self.head())],
        };
        let mut members: Members = vec![("root_cause".to_owned(), root_causes.into())];
        members.extend(self.head());
        if let Some(caused_by) = &self.caused_by {
            members.push(("caused_by".to_owned(), caused_by.clone()));
        }
        Json::Object(members)
    }

    /// The whole body.
    pub fn body(&self) -> Json {
        object! { "error" => self.error(), "status" => self.status.as_u16() }
    }

    /// A query that does not fit an index, as each of its shards would have said it.
    pub fn on_all_shards(cause: Self, index: &str, uid: &str) -> Self {
        let of_index = |members: &mut Members| {
            members.push(("index_uuid".to_owned(), uid.into()));
            members.push(("index".to_owned(), index.into()));
        };
        let mut root_cause = cause.head();
        let mut reason = cause.head();
        if cause.error_type == "query_shard_exception" {
            of_index(&mut root_cause);
            of_index(&mut reason);
        }
        if let Some(caused_by) = &cause.caused_by {
            reason.push(("caused_by".to_owned(), caused_by.clone()));
        }
        let failure = object! { "shard" => 0_u32, "index" => index, "node" => Json::Null, "reason" => reason };
        Self::new(cause.status, "search_phase_execution_exception", "all shards failed")
            .with("phase", "query")
            .with("grouped", true)
            .with("failed_shards", vec![failure])
            .with_root_causes(vec![Json::Object(root_cause)])
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let reason = error.to_string();
        match error {
            Error::NoSuchIndex(name) => Self::index_not_found(&name),
            Error::IndexExists { name, uid } => {
                Self::new(StatusCode::BAD_REQUEST, "resource_already_exists_exception", reason)
                    .with("index_uuid", uid)
                    .with("index", name)
            }
            Error::Invalid { error_type, reason, caused_by } => {
                let mut error = Self::new(StatusCode::BAD_REQUEST, error_type, reason);
                error.caused_by =
                    caused_by.map(|cause| object! { "type" => cause.error_type, "reason" => cause.reason });
                error
            }
            Error::Conflict(reason) => Self::new(StatusCode::CONFLICT, "version_conflict_engine_exception", reason),
            Error::ClaimLost(reason) => Self::new(StatusCode::CONFLICT, "claim_lost_exception", reason),
            Error::TooManyRequests { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "es_rejected_execution_exception", reason)
                    .retry_after(retry_after.as_secs().max(1))
            }
            Error::TooLarge(reason) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "content_too_long_exception", reason),
            Error::Unavailable(reason) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_shards_exception", reason)
            }
            Error::Timeout(reason) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "process_cluster_event_timeout_exception", reason)
            }
            Error::SearchFailed { failures } => search_failed(&failures),
            Error::Internal(reason) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "exception", reason),
        }
    }
}

fn search_failed(failures: &[ShardFailure]) -> ApiError {
    let all = |kind: Kind| !failures.is_empty() && failures.iter().all(|failure| failure.failure.kind() == kind);
    let status = if all(Kind::Invalid) {
        StatusCode::BAD_REQUEST
    } else if all(Kind::Rejected) {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let causes: Vec<Json> = failures.iter().take(1).map(shard_failure_reason).collect();
    ApiError::new(status, "search_phase_execution_exception", "all shards failed")
        .with("phase", "query")
        .with("grouped", true)
        .with("failed_shards", failures.iter().map(shard_failure).collect::<Vec<_>>())
        .with_root_causes(causes)
}

/// One element of `_shards.failures`.
pub fn shard_failure(failure: &ShardFailure) -> Json {
    object! {
        "shard" => failure.shard,
        "index" => failure.index.as_str(),
        "node" => failure.node.as_ref().map(|node| node.as_str()),
        "reason" => shard_failure_reason(failure),
    }
}

fn shard_failure_reason(failure: &ShardFailure) -> Json {
    let error_type = match failure.failure.kind() {
        Kind::Unavailable => "no_shard_available_action_exception",
        Kind::Rejected => "es_rejected_execution_exception",
        Kind::Invalid => "query_shard_exception",
        Kind::Deadline => "timeout_exception",
        Kind::Internal | Kind::Unspecified => "exception",
    };
    object! { "type" => error_type, "reason" => failure.failure.reason.as_str() }
}

/// 400: a request is wrong in a way that Elasticsearch calls `parsing_exception`.
pub fn parsing(reason: impl Into<String>) -> Error {
    Error::invalid("parsing_exception", reason)
}

/// 400: an argument has a value that it cannot have.
pub fn illegal(reason: impl Into<String>) -> Error {
    Error::illegal_argument(reason)
}

/// 400: text that is not JSON.
pub fn not_json(error: &serde_json::Error) -> Error {
    Error::invalid("x_content_parse_exception", format!("[{}:{}] {error}", error.line(), error.column()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(error: ApiError) -> String {
        String::from_utf8(error.body().to_bytes()).unwrap()
    }

    #[test]
    fn a_missing_index_reads_as_in_elasticsearch() {
        assert_eq!(
            text(Error::NoSuchIndex("x".into()).into()),
            r#"{"error":{"root_cause":[{"type":"index_not_found_exception","reason":"no such index [x]","resource.type":"index_or_alias","resource.id":"x","index_uuid":"_na_","index":"x"}],"type":"index_not_found_exception","reason":"no such index [x]","resource.type":"index_or_alias","resource.id":"x","index_uuid":"_na_","index":"x"},"status":404}"#
        );
    }

    #[test]
    fn a_query_that_does_not_fit_reads_as_failed_shards() {
        let cause = Error::Invalid {
            error_type: "query_shard_exception",
            reason: "failed to create query: For input string: \"abc\"".into(),
            caused_by: Some(crate::error::Cause {
                error_type: "number_format_exception".into(),
                reason: "For input string: \"abc\"".into(),
            }),
        };
        let text = text(ApiError::on_all_shards(cause.into(), "i", "u"));
        assert!(text.starts_with(r#"{"error":{"root_cause":[{"type":"query_shard_exception","reason":"failed to create query: For input string: \"abc\"","index_uuid":"u","index":"i"}],"type":"search_phase_execution_exception","reason":"all shards failed","phase":"query","grouped":true,"failed_shards":[{"shard":0,"index":"i""#), "{text}");
        assert!(text.contains(r#""caused_by":{"type":"number_format_exception""#), "{text}");
        assert!(text.ends_with(r#""status":400}"#), "{text}");
    }

    #[test]
    fn no_handler_is_a_plain_sentence() {
        let error = ApiError::plain(StatusCode::BAD_REQUEST, "no handler found for uri [/x/y] and method [GET]");
        assert_eq!(text(error), r#"{"error":"no handler found for uri [/x/y] and method [GET]","status":400}"#);
    }
}
