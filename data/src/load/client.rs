//! A small HTTP client for endpoints that speak the Elasticsearch API. The only file here that touches sockets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
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
#[error("{}", .error.as_ref().map_or_else(|| "no root is known to be alive".to_owned(), describe))]
pub struct ClientError {
    error: Option<reqwest::Error>,
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        Self { error: Some(error) }
    }
}

impl ClientError {
    /// Whether no connection was made, so that the request was certainly not seen.
    pub fn is_connect(&self) -> bool {
        self.error.as_ref().is_none_or(reqwest::Error::is_connect)
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

/// Sends requests to an endpoint, or to one of several that are equal. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    client: reqwest::Client,
    endpoints: Arc<Endpoints>,
}

/// Where the cluster answers.
#[derive(Debug)]
struct Endpoints {
    urls: RwLock<Vec<Url>>,
    /// Which of them is used; grows when one fails.
    turn: AtomicUsize,
}

impl Client {
    /// A client for `http://host:port` (or `https://`), whose requests fail after `timeout`.
    ///
    /// # Errors
    /// `BadEndpoint` when the endpoint is no such URL.
    pub fn new(endpoint: &str, timeout: Duration) -> Result<Self, LoadError> {
        Self::of(std::slice::from_ref(&endpoint), timeout)
    }

    /// A client for equal endpoints, possibly none for now: one of them is used until it fails, then the next.
    ///
    /// # Errors
    /// `BadEndpoint` when an endpoint is no URL.
    pub fn of(endpoints: &[impl AsRef<str>], timeout: Duration) -> Result<Self, LoadError> {
        let urls = endpoints.iter().map(|endpoint| parse(endpoint.as_ref())).collect::<Result<Vec<_>, _>>()?;
        // The client wants a provider of cryptography even for plain HTTP. A program may have installed one; then this
        // does nothing, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        // Answers are a fraction of what is sent: compressing them costs both sides more than it saves.
        let builder = reqwest::Client::builder().gzip(false).timeout(timeout);
        let mut builder = builder.connect_timeout(Duration::from_secs(5).min(timeout));
        let is_local = |url: &Url| matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if urls.iter().all(is_local) {
            // A proxy set for the world outside cannot reach this machine's own addresses, nor a cluster's own network.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| LoadError::BadEndpoint(error.to_string()))?;
        let turn = AtomicUsize::new(rand::random::<u32>() as usize);
        Ok(Self { client, endpoints: Arc::new(Endpoints { urls: RwLock::new(urls), turn }) })
    }

    /// From now on these are the endpoints, for all clones. What is no URL is left out.
    pub fn set_endpoints(&self, endpoints: &[impl AsRef<str>]) {
        let urls = endpoints.iter().filter_map(|endpoint| parse(endpoint.as_ref()).ok()).collect();
        *self.endpoints.urls.write().unwrap_or_else(PoisonError::into_inner) = urls;
    }

    /// The endpoint in use as a person writes it.
    pub fn endpoint(&self) -> String {
        let url = self.url().map(|url| url.to_string()).unwrap_or_default();
        url.trim_end_matches('/').to_owned()
    }

    fn url(&self) -> Option<Url> {
        let urls = self.endpoints.urls.read().unwrap_or_else(PoisonError::into_inner);
        urls.get(self.endpoints.turn.load(Ordering::Relaxed).checked_rem(urls.len())?).cloned()
    }

    /// `GET`.
    ///
    /// # Errors
    /// When there is no answer; every status is an answer.
    pub async fn get(&self, path: &[&str]) -> Result<Reply, ClientError> {
        self.send(self.request(Method::GET, path)).await
    }

    /// `GET` with parameters.
    ///
    /// # Errors
    /// When there is no answer; every status is an answer.
    pub async fn get_with(&self, path: &[&str], parameters: &[(&str, &str)]) -> Result<Reply, ClientError> {
        let mut url = self.address(path).ok_or(ClientError { error: None })?;
        url.query_pairs_mut().extend_pairs(parameters);
        self.send(Some(self.client.get(url))).await
    }

    /// A request without a body.
    ///
    /// # Errors
    /// When there is no answer; every status is an answer.
    pub async fn call(&self, method: Method, path: &[&str]) -> Result<Reply, ClientError> {
        self.send(self.request(method, path)).await
    }

    /// `PUT` or `POST` of a JSON body.
    ///
    /// # Errors
    /// When there is no answer; every status is an answer.
    pub async fn send_json(&self, method: Method, path: &[&str], body: &Value) -> Result<Reply, ClientError> {
        self.send(self.request(method, path).map(|request| request.json(body))).await
    }

    /// `POST` of a bulk body under a key that makes sending it again safe, for a claim if there is one.
    ///
    /// # Errors
    /// When there is no answer; every status is an answer.
    pub async fn bulk(&self, index: &str, key: &str, claim: Option<&str>, body: Bytes) -> Result<Reply, ClientError> {
        let request = self.request(Method::POST, &[index, "_bulk"]).map(|request| {
            let request =
                request.header(CONTENT_TYPE, "application/x-ndjson").header("Idempotency-Key", key).body(body);
            match claim {
                Some(claim) => request.header("X-Trawl-Claim", claim),
                None => request,
            }
        });
        self.send(request).await
    }

    fn address(&self, path: &[&str]) -> Option<Url> {
        let mut url = self.url()?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Some(url)
    }

    fn request(&self, method: Method, path: &[&str]) -> Option<RequestBuilder> {
        Some(self.client.request(method, self.address(path)?))
    }

    async fn send(&self, request: Option<RequestBuilder>) -> Result<Reply, ClientError> {
        let turn = self.endpoints.turn.load(Ordering::Relaxed);
        let reply = answer(request.ok_or(ClientError { error: None })?).await;
        let failed = reply.as_ref().map_or(true, |reply| matches!(reply.status, 502..=504));
        if failed {
            // Once for all requests that were on their way to it.
            let next = turn.wrapping_add(1);
            self.endpoints.turn.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
        reply
    }
}

async fn answer(request: RequestBuilder) -> Result<Reply, ClientError> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
    let body = response.bytes().await?;
    Ok(Reply { status, retry_after, body })
}

fn parse(endpoint: &str) -> Result<Url, LoadError> {
    let with_scheme = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let url = Url::parse(&with_scheme).map_err(|error| LoadError::BadEndpoint(format!("{endpoint}: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
        return Err(LoadError::BadEndpoint(format!("{endpoint}: not an http:// or https:// URL")));
    }
    Ok(url)
}
