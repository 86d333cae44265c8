//! Reads request bodies: content types, one body's limit and the limit of all together.

use std::{error::Error as _, sync::Arc};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{
    HeaderMap, Method, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{HttpLimits, error::ApiError, routes::Route};
use crate::limits::{Limit, Refusals};

const UNIT: usize = 1024;

/// Counts the bytes of all bodies that are held, in KiB.
pub(crate) struct InFlight {
    units: Arc<Semaphore>,
    bytes_max: usize,
}

impl InFlight {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let units = (bytes_max / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), bytes_max }
    }

    fn take(&self, bytes: usize, refusals: &Refusals) -> Result<OwnedSemaphorePermit, ApiError> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        Arc::clone(&self.units).try_acquire_many_owned(units).map_err(|_| {
            refusals.count(Limit::BodiesInFlight);
            let limit = self.bytes_max;
            let reason =
                format!("[in_flight_requests] data of all requests would be larger than the limit of [{limit}]");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "circuit_breaking_exception", reason)
                .retry_after(1)
                .with("bytes_wanted", bytes)
                .with("bytes_limit", self.bytes_max)
                .with("durability", "TRANSIENT")
        })
    }
}

/// A body, and the right to hold it.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// Reads one request's body.
pub(crate) struct BodyReader<'a> {
    pub(crate) limits: &'a HttpLimits,
    pub(crate) in_flight: &'a InFlight,
    pub(crate) refusals: &'a Refusals,
    pub(crate) route: &'static Route,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
}

impl BodyReader<'_> {
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Held, ApiError> {
        let mut permit: Option<OwnedSemaphorePermit> = None;
        let mut collected = BytesMut::new();
        let mut chunks = body.into_data_stream();
        loop {
            let chunk = tokio::time::timeout(self.limits.body_time_max, chunks.next()).await;
            let Some(chunk) = chunk.map_err(|_| self.too_slow())? else { break };
            let chunk = chunk.map_err(|error| unreadable(&error))?;
            if chunk.is_empty() {
                continue;
            }
            if collected.is_empty() {
                self.check_allowed(headers)?;
            }
            let length = collected.len() + chunk.len();
            if length > self.limits.body_bytes_max {
                return Err(self.too_large());
            }
            let held = permit.as_ref().map_or(0, |permit| permit.num_permits() * UNIT);
            if length > held {
                // In steps of a quarter of what is there, so that small chunks do not take a permit each.
                let more = self.in_flight.take((length - held).max(held / 4), self.refusals)?;
                match &mut permit {
                    Some(permit) => permit.merge(more),
                    None => permit = Some(more),
                }
            }
            collected.extend_from_slice(&chunk);
        }
        Ok(Held { bytes: collected.freeze(), permit })
    }

    fn check_allowed(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if !self.route.body {
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "illegal_argument_exception",
                format!("request [{} {}] does not support having a body", self.method, self.path),
            ));
        }
        // Decompression takes this header away; what is left, it could not read.
        let encoding = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
        if !encoding.eq_ignore_ascii_case("identity") {
            let reason = format!("Content-Encoding [{encoding}] is not supported, only [gzip] is");
            return Err(ApiError::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let known = matches!(
            essence.as_str(),
            "application/json"
                | "application/x-ndjson"
                | "application/vnd.elasticsearch+json"
                | "application/vnd.elasticsearch+x-ndjson"
        );
        if known {
            return Ok(());
        }
        let reason = format!("Content-Type header [{content_type}] is not supported");
        Err(ApiError::plain(StatusCode::NOT_ACCEPTABLE, reason))
    }

    fn too_slow(&self) -> ApiError {
        self.refusals.count(Limit::BodyTime);
        let reason = format!("nothing more of the request body came for [{:?}]", self.limits.body_time_max);
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout_exception", reason)
    }

    fn too_large(&self) -> ApiError {
        self.refusals.count(Limit::BodySize);
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "content_too_long_exception",
            format!("the request body is larger than the limit of [{}] bytes", self.limits.body_bytes_max),
        )
    }
}

fn unreadable(error: &axum::Error) -> ApiError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = inner.source();
    }
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "illegal_argument_exception",
        format!("the request body cannot be read: {reason}"),
    )
}
