//! Errors: of starting, and of requests in the shape that Elasticsearch clients know.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderName, StatusCode};
use serde_json::json;

/// Why an ambassador cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A root's URL, or its name, is none.
    #[error("{0}")]
    Address(String),
    /// The cluster's store cannot be opened.
    #[error("cannot open the cluster engine {url}")]
    Cluster {
        /// Its URL, without the password.
        url: String,
        /// Why.
        source: trawl_cluster::Error,
    },
    /// The authorities or the rest of what TLS needs cannot be used.
    #[error("TLS towards the roots cannot be set up")]
    Tls(#[source] reqwest::Error),
}

/// Why the ambassador answers itself, and not a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// More requests at work than it takes on.
    Busy { requests_max: usize },
    /// No root could be brought the request.
    Unreachable { reason: String },
    /// A root had the request, or a part of it, and its connection broke.
    Lost { reason: String },
    /// The time that the application gave is over.
    Late,
    /// The application's own body does not come.
    Slow,
    /// The application's own body could not be read.
    Body { reason: String },
}

impl Refusal {
    fn parts(&self) -> (StatusCode, &'static str, String) {
        match self {
            Self::Busy { requests_max } => (
                StatusCode::TOO_MANY_REQUESTS,
                "es_rejected_execution_exception",
                format!("the ambassador has [{requests_max}] requests at work"),
            ),
            Self::Unreachable { reason } => {
                (StatusCode::SERVICE_UNAVAILABLE, "no_node_available_exception", format!("no root answers: {reason}"))
            }
            Self::Lost { reason } => (
                StatusCode::BAD_GATEWAY,
                "node_disconnected_exception",
                format!("a root may have carried it out or not: {reason}"),
            ),
            Self::Late => {
                (StatusCode::GATEWAY_TIMEOUT, "timeout_exception", "no answer within [x-request-timeout]".to_owned())
            }
            Self::Slow => {
                (StatusCode::REQUEST_TIMEOUT, "timeout_exception", "the request body takes too long".to_owned())
            }
            Self::Body { reason } => (StatusCode::BAD_REQUEST, "parse_exception", reason.clone()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, kind, reason) = self.parts();
        let cause = json!({"type": kind, "reason": reason});
        let body = json!({
            "error": {"root_cause": [cause], "type": kind, "reason": reason},
            "status": status.as_u16(),
        });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(HeaderName::from_static("x-elastic-product"), HeaderValue::from_static("Elasticsearch"));
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
