//! The service as a client meets it, on a root without leaves: routing, limits, headers, errors.
#![allow(clippy::unwrap_used)]

use std::{io::Write as _, sync::Arc, time::Duration};

use axum::body::{Body, to_bytes};
use http::{HeaderMap, Request, StatusCode};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use trawl_cluster::{EngineOptions, view::Viewer};

use super::*;
use crate::Config;

struct Service {
    router: Router,
    stop: CancellationToken,
    _directory: TempDir,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Service {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().display());
        let engine = trawl_cluster::connect(&url, &EngineOptions::default()).await.unwrap();
        let stop = CancellationToken::new();
        let viewer = Viewer::start(engine.store.clone(), Duration::from_secs(3), stop.clone());
        viewer.ready().await;
        let address = "127.0.0.1:0".parse().unwrap();
        let mut registry = Registry::default();
        let root = Root::new(Config::new("root-0", address), engine, viewer, &mut registry);
        let limits = HttpLimits { body_bytes_max: 100_000, in_flight_bytes_max: 150_000, ..HttpLimits::default() };
        let router = router(Arc::new(root), Arc::new(registry), limits);
        Self { router, stop, _directory: directory }
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(Body::new(body), usize::MAX).await.unwrap().to_vec();
        assert_eq!(parts.headers["x-elastic-product"], "Elasticsearch");
        Reply { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        let request = Request::post(path).header("content-type", "application/json").body(body.into()).unwrap();
        self.send(request).await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn clients_are_greeted() {
    let service = Service::start().await;
    let reply = service.get("/?filter_path=version.number,tagline").await;
    assert_eq!(reply.text(), r#"{"version":{"number":"8.15.0"},"tagline":"You Know, for Search"}"#);
    assert_eq!(reply.headers["content-type"], "application/json");
    assert!(service.get("/?pretty").await.text().starts_with("{\n  \"name\" : \"root-0\",\n"));
    let request = Request::get("/").header("accept", "application/vnd.elasticsearch+json; compatible-with=8");
    let reply = service.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(reply.headers["content-type"], "application/vnd.elasticsearch+json;compatible-with=8");
    let reply = service.send(Request::head("/").body(Body::empty()).unwrap()).await;
    assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
    assert_eq!(service.get("/livez").await.status, StatusCode::OK);
    // Nobody has registered in this store.
    assert_eq!(service.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let metrics = service.get("/metrics").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(metrics.text().ends_with("# EOF\n"));
}

#[tokio::test]
async fn wrong_requests_are_named() {
    let service = Service::start().await;
    for (path, status, part) in [
        ("/x/_nothing", 400, "no handler found for uri [/x/_nothing] and method [GET]"),
        ("/_bulk", 405, "Incorrect HTTP method for uri [/_bulk] and method [GET], allowed: [POST, PUT]"),
        ("/_search?foo=1", 400, "request [/_search] contains unrecognized parameter: [foo]"),
        ("/none/_search", 404, "no such index [none]"),
        ("/none", 404, "index_not_found_exception"),
        ("/none/_doc/1", 404, "no such index [none]"),
        ("/_search?size=x", 400, "Failed to parse int parameter [size] with value [x]"),
        ("/_search?search_type=count", 400, "No search type for [count]"),
        ("/_cat/indices?h=foo", 400, "unknown column [foo] in [h]"),
    ] {
        let reply = service.get(path).await;
        assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.text());
        assert!(reply.text().contains(part), "{path}: {}", reply.text());
    }
    for (body, part) in [
        (r#"{"query":{"foo":{}}}"#, "unknown query [foo]"),
        (r#"{"rescore":{}}"#, "Unknown key for a START_OBJECT in [rescore]."),
        (r#"{"aggs":{"a":{"foo":{}}}}"#, "Unknown aggregation type [foo]"),
        ("{", "x_content_parse_exception"),
        ("[]", "Expected [START_OBJECT] but found [START_ARRAY]"),
    ] {
        let reply = service.post("/_search", body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(reply.text().contains(part), "{body}: {}", reply.text());
    }
    let head = service.send(Request::head("/none").body(Body::empty()).unwrap()).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::NOT_FOUND, 0));
}

#[tokio::test]
async fn bodies_are_typed_and_bounded() {
    let service = Service::start().await;
    let untyped = Request::post("/_search").body(Body::from("{}")).unwrap();
    assert_eq!(service.send(untyped).await.status, StatusCode::NOT_ACCEPTABLE);
    let large = service.post("/_search", vec![b' '; 100_001]).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(large.text().contains("larger than the limit of [100000] bytes"), "{}", large.text());
    let unexpected = Request::get("/_cat/health").header("content-type", "application/json");
    let reply = service.send(unexpected.body(Body::from("{}")).unwrap()).await;
    assert!(reply.text().contains("request [GET /_cat/health] does not support having a body"), "{}", reply.text());
    // The permits of all of these came back.
    assert_eq!(service.post("/_search", vec![b' '; 99_999]).await.status, StatusCode::OK);
    assert_eq!(service.post("/_search", vec![b' '; 99_999]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn gzip_goes_both_ways() {
    let service = Service::start().await;
    let send = |body: Vec<u8>, encoding: &'static str| {
        let request = Request::post("/_search")
            .header("content-type", "application/json")
            .header("content-encoding", encoding)
            .header("accept-encoding", "gzip");
        service.send(request.body(Body::from(body)).unwrap())
    };
    let reply = send(gzip(br#"{"size":0}"#), "gzip").await;
    assert_eq!((reply.status, reply.headers["content-encoding"].as_bytes()), (StatusCode::OK, &b"gzip"[..]));
    let truncated = gzip(br#"{"size":0}"#)[..12].to_vec();
    assert_eq!(send(truncated, "gzip").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(send(b"plain".to_vec(), "gzip").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(send(b"x".to_vec(), "br").await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    // A small body that is huge when unpacked stops at the limit.
    assert_eq!(send(gzip(&vec![b' '; 10 << 20]), "gzip").await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn an_empty_cluster_answers() {
    let service = Service::start().await;
    let reply = service.post("/_search", r#"{"query":{"match_all":{}}}"#).await;
    assert_eq!(
        reply.text().split_once(",").unwrap().1,
        r#""timed_out":false,"_shards":{"total":0,"successful":0,"skipped":0,"failed":0},"hits":{"total":{"value":0,"relation":"eq"},"max_score":null,"hits":[]}}"#
    );
    assert_eq!(service.get("/_cat/indices").await.text(), "");
    assert_eq!(service.get("/_cat/indices?format=json").await.text(), "[]");
    assert_eq!(service.get("/_mapping").await.text(), "{}");
    assert!(service.get("/_cluster/health").await.text().contains(r#""status":"green""#));
    assert!(service.get("/_trawl/cluster").await.text().contains(r#""leader":null"#));
    let reply = service.post("/_msearch", "{}\n{\"size\":0}\n{\"index\":\"none\"}\n{}\n").await;
    assert!(reply.text().contains(r#""status":200}"#) && reply.text().contains(r#""status":404}"#), "{}", reply.text());
    let reply = service.post("/_bulk", "{\"index\":{\"_index\":\"a\"}}\n{}").await;
    assert!(reply.text().contains("The bulk request must be terminated by a newline [\\\\n]"), "{}", reply.text());
}
