//! A small HTTP client for one endpoint that speaks the Elasticsearch API. The only file here that touches sockets.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Url};
use serde_json::Value;

use super::LoadError;

/// An answer: any status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The pause that the answer asks for.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// Whether the status is one of success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The error in the body for a person: Elasticsearch's `type: reason`, else the text itself, shortened.
    pub fn error_reason(&self) -> String {
        let body = self.json();
        let error = &body["error"];
        match (error["type"].as_str(), error["reason"].as_str()) {
            (Some(kind), Some(reason)) => match error["caused_by"]["reason"].as_str() {
                Some(cause) => format!("{kind}: {reason}: {cause}"),
                None => format!("{kind}: {reason}"),
            },
            _ => match error.as_str() {
                Some(error) => error.to_owned(),
                None => String::from_utf8_lossy(&self.body).chars().take(500).collect(),
            },
        }
    }
}

/// No answer: cannot connect, connection lost, or no answer in time. Names the innermost cause itself, so it has no source.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(.error))]
pub struct ClientError {
    error: reqwest::Error,
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        Self { error }
    }
}

impl ClientError {
    /// Whether no connection was made, so that the request was certainly not seen.
    pub fn is_connect(&self) -> bool {
        self.error.is_connect()
    }
}

/// The innermost cause says what happened ("Connection refused"); the outer ones only that something did.
fn describe(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let what = match error {
        _ if error.is_timeout() => return "no answer in time".to_owned(),
        _ if error.is_connect() => "cannot connect",
        _ => "the connection failed",
    };
    format!("{what}: {cause}")
}

/// Sends requests to one endpoint. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    client: reqwest::Client,
    endpoint: Url,
}

impl Client {
    /// A client for `http://host:port` (or `https://`), whose requests fail after `timeout`.
    ///
    /// # Errors
    /// `BadEndpoint` when the endpoint is no such URL.
    pub fn new(endpoint: &str, timeout: Duration) -> Result<Self, LoadError> {
        let with_scheme = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        let url = Url::parse(&with_scheme).map_err(|error| LoadError::BadEndpoint(format!("{endpoint}: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(LoadError::BadEndpoint(format!("{endpoint}: not an http:// or https:// URL")));
        }
        // The client wants a provider of cryptography even for plain HTTP. A program may have installed one; then this
        // does nothing, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut builder =
            reqwest::Client::builder().timeout(timeout).connect_timeout(Duration::from_secs(5).min(timeout));
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            // A proxy set for the world outside cannot reach this machine's own addresses.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| LoadError::BadEndpoint(format!("{endpoint}: {error}")))?;
        Ok(Self { client, endpoint: url })
    }

    /// The endpoint as a person writes it.
    pub fn endpoint(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// `GET`.
    ///
    /// # Errors
    /// When there is no answer; every status is an answer.
    pub async fn get(&self, path: &[&str]) -> Result<Reply, ClientError> {
        self.send(self.request(Method::GET, path)).await
    }

    /// `PUT` or `POST` of a JSON body.
    ///
    /// # Errors
    /// When there is no answer; every status is an answer.
    pub async fn send_json(&self, method: Method, path: &[&str], body: &Value) -> Result<Reply, ClientError> {
        self.send(self.request(method, path).json(body)).await
    }

    /// `POST` of a bulk body under a key that makes sending it again safe.
    ///
    /// # Errors
    /// When there is no answer; every status is an answer.
    pub async fn bulk(&self, index: &str, key: &str, body: Bytes) -> Result<Reply, ClientError> {
        let request = self.request(Method::POST, &[index, "_bulk"]);
        let request = request.header(CONTENT_TYPE, "application/x-ndjson").header("Idempotency-Key", key).body(body);
        self.send(request).await
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        self.client.request(method, url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Reply, ClientError> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
        let body = response.bytes().await?;
        Ok(Reply { status, retry_after, body })
    }
}
