//! HTTP requests with a body, of any of several equal endpoints.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};

use crate::config::ConfigError;

const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer of any status.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The pause that it asks for.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// Status and the beginning of the body, for a person.
    pub fn describe(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.body).chars().take(300).collect();
        format!("status {}: {text}", self.status.as_u16())
    }
}

/// Sends requests; after a failure the next endpoint is used.
pub struct Poster {
    client: reqwest::Client,
    endpoints: Vec<Url>,
    turn: usize,
    gzip: bool,
}

impl Poster {
    /// For these endpoints.
    ///
    /// # Errors
    /// When one is no URL.
    pub fn new(endpoints: &[String], gzip: Option<bool>) -> Result<Self, ConfigError> {
        // Installed already where the binary has done so.
        rustls::crypto::ring::default_provider().install_default().ok();
        let bad = |endpoint: &str, reason: String| ConfigError::new(endpoint, reason);
        let parse = |endpoint: &String| Url::parse(endpoint).map_err(|error| bad(endpoint, error.to_string()));
        let endpoints = endpoints.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let local = |url: &Url| matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let all_local = endpoints.iter().all(local);
        let mut builder = reqwest::Client::builder().gzip(false).timeout(TIMEOUT);
        builder = builder.connect_timeout(Duration::from_secs(5)).pool_max_idle_per_host(1);
        if all_local {
            // A proxy for the world outside cannot reach this machine's own addresses.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| bad("http", error.to_string()))?;
        // On this machine compressing costs more than it saves.
        let turn = usize::from(rand::random::<u16>());
        Ok(Self { client, endpoints, turn, gzip: gzip.unwrap_or(!all_local) })
    }

    /// Sends a request to the endpoint's own path (`path` empty), or to a path below it.
    ///
    /// # Errors
    /// When there is no answer; every status is one.
    pub async fn send(
        &mut self,
        method: Method,
        path: &[&str],
        headers: &[(&'static str, &str)],
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Reply, String> {
        let mut url = self.endpoints[self.turn % self.endpoints.len()].clone();
        if let Ok(mut segments) = url.path_segments_mut()
            && !path.is_empty()
        {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.client.request(method, url).header(CONTENT_TYPE, content_type);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request = match self.gzip && body.len() > 1_024 {
            true => request.header(CONTENT_ENCODING, "gzip").body(gzip(&body).map_err(|error| error.to_string())?),
            false => request.body(body),
        };
        let reply = answer(request).await;
        if reply.as_ref().map_or(true, |reply| matches!(reply.status.as_u16(), 502..=504)) {
            self.turn = self.turn.wrapping_add(1);
        }
        reply.map_err(|error| describe(&error))
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Reply, reqwest::Error> {
    let response = request.send().await?;
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let status = response.status();
    Ok(Reply { status, retry_after: retry_after.map(Duration::from_secs), body: response.bytes().await? })
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// The innermost cause says what happened.
fn describe(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() }
}
