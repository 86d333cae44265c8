//! Who this is, whether it lives, what it counts.

use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::text::encode;

use super::{call::Call, error::ApiError, json::object, respond::Answer};
use crate::dead_letters;
use crate::error::Error;

/// The version of Elasticsearch whose API this speaks; clients choose their dialect by it.
pub(crate) const COMPATIBLE_VERSION: &str = "8.15.0";
/// The one name that a cluster has.
pub(crate) const CLUSTER_NAME: &str = "trawl";

/// How long the engine may take to count for `/metrics`.
const COUNTS_TIMEOUT: Duration = Duration::from_millis(500);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=UTF-8";

/// `GET /`
pub(crate) async fn info(call: Call) -> Result<Answer, ApiError> {
    Ok(Answer::ok(object! {
        "name" => call.root().config().name.as_str(),
        "cluster_name" => CLUSTER_NAME,
        "cluster_uuid" => "_na_",
        "version" => object! {
            "number" => COMPATIBLE_VERSION,
            "build_flavor" => "default",
            "build_type" => "trawl",
            "build_hash" => env!("CARGO_PKG_VERSION"),
            "build_date" => "1970-01-01T00:00:00.000Z",
            "build_snapshot" => false,
            "lucene_version" => "9.11.1",
            "minimum_wire_compatibility_version" => "7.17.0",
            "minimum_index_compatibility_version" => "7.0.0",
        },
        "tagline" => "You Know, for Search",
    }))
}

/// `GET /livez`: the process answers.
pub(crate) async fn livez(_: Call) -> Result<Answer, ApiError> {
    Ok(Answer::text("ok\n".to_owned(), PLAIN))
}

/// `GET /readyz`: requests make sense.
pub(crate) async fn readyz(call: Call) -> Result<Answer, ApiError> {
    match call.root().ready() {
        Ok(()) => Ok(Answer::text("ok\n".to_owned(), PLAIN)),
        Err(reason) => {
            let answer = Answer::text(format!("{reason}\n"), PLAIN);
            Ok(Answer { status: StatusCode::SERVICE_UNAVAILABLE, ..answer })
        }
    }
}

/// `GET /metrics`
pub(crate) async fn metrics(call: Call) -> Result<Answer, ApiError> {
    // Without the engine the numbers stay those of the last look.
    let counts = tokio::time::timeout(COUNTS_TIMEOUT, dead_letters::counts(call.root()));
    let _ = tokio::join!(call.root().log_depths.refresh(call.root()), counts);
    let mut text = String::new();
    encode(&mut text, &call.shared.metrics).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(Answer::text(text, OPEN_METRICS))
}
