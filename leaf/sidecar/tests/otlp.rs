//! OpenTelemetry, over HTTP and gRPC, to a receiver that decodes with the official messages.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::HeaderMap;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prometheus_client::registry::Registry;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use trawl_sidecar::{Config, Health, run};

#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<ExportLogsServiceRequest>>>,
    /// How many requests are refused before one is taken.
    refusals: Arc<Mutex<u32>>,
}

impl Receiver {
    fn take(&self, request: ExportLogsServiceRequest) -> bool {
        let mut refusals = self.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return false;
        }
        self.got.lock().unwrap().push(request);
        true
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        match self.take(request.into_inner()) {
            true => Ok(Response::new(ExportLogsServiceResponse::default())),
            false => Err(Status::unavailable("not now")),
        }
    }
}

async fn over_http(receiver: Receiver, headers: HeaderMap, body: Bytes) -> (axum::http::StatusCode, Vec<u8>) {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let body = match headers.get("content-encoding") {
        Some(_) => {
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut plain).unwrap();
            plain.into()
        }
        None => body,
    };
    match receiver.take(ExportLogsServiceRequest::decode(body).unwrap()) {
        true => (axum::http::StatusCode::OK, ExportLogsServiceResponse::default().encode_to_vec()),
        false => (axum::http::StatusCode::SERVICE_UNAVAILABLE, Vec::new()),
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    let found = attributes.iter().find(|pair| pair.key == key).unwrap_or_else(|| panic!("{key} in {attributes:?}"));
    match &found.value {
        Some(AnyValue { value: Some(Any::StringValue(text)) }) => text,
        other => panic!("{other:?}"),
    }
}

fn check(records: &[LogRecord]) {
    let first = &records[0];
    assert_eq!(first.body, Some(AnyValue { value: Some(Any::StringValue("it failed".to_owned())) }));
    assert_eq!((first.severity_number, first.severity_text.as_str()), (17, "error"));
    assert_eq!(first.time_unix_nano, 1_795_402_901_123_000_000);
    assert!(first.observed_time_unix_nano > first.time_unix_nano - 86_400_000_000_000 * 4_000);
    assert_eq!(first.trace_id, [0xab; 16]);
    assert_eq!(first.span_id, [0xcd; 8]);
    assert_eq!(text(&first.attributes, "log.file.name"), "app.log");
    let nested = first.attributes.iter().find(|pair| pair.key == "nested").unwrap().value.clone().unwrap();
    let Some(Any::KvlistValue(list)) = nested.value else { panic!("{nested:?}") };
    assert_eq!(list.values[0].key, "a");
    assert_eq!(list.values[0].value, Some(AnyValue { value: Some(Any::IntValue(1)) }));
    assert_eq!(records[1].body, Some(AnyValue { value: Some(Any::StringValue("plain".to_owned())) }));
}

async fn ship_to(sink: &str, receiver: &Receiver) {
    *receiver.refusals.lock().unwrap() = 2;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("logs")).unwrap();
    let json = format!(
        r#"{{"time":"2026-11-23T03:01:41.123Z","level":"error","msg":"it failed","trace_id":"{}","span_id":"{}","nested":{{"a":1}}}}"#,
        "ab".repeat(16),
        "cd".repeat(8)
    );
    std::fs::write(path("logs/app.log"), format!("{json}\n{{\"msg\":\"plain\"}}\n")).unwrap();
    let mut config = Config::new(path("logs"), path("state"), "node");
    config.sinks = vec![sink.parse().unwrap()];
    config.resource = vec![("service.name".to_owned(), "shop".to_owned())];
    config.batch_time = Duration::from_millis(20);
    let stop = CancellationToken::new();
    let running = run(config, &mut Registry::default(), Health::default(), stop.clone()).unwrap();
    let running = tokio::spawn(running);
    let deadline = Instant::now() + Duration::from_secs(30);
    let count = || -> usize {
        let got = receiver.got.lock().unwrap();
        got.iter().flat_map(|request| &request.resource_logs).map(|logs| logs.scope_logs[0].log_records.len()).sum()
    };
    while count() < 2 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    let got = receiver.got.lock().unwrap();
    let resource = got[0].resource_logs[0].resource.as_ref().unwrap();
    assert_eq!(text(&resource.attributes, "service.name"), "shop");
    let logs = got.iter().flat_map(|request| &request.resource_logs);
    let records: Vec<LogRecord> = logs.flat_map(|logs| logs.scope_logs[0].log_records.clone()).collect();
    assert_eq!(records.len(), 2);
    check(&records);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_with_and_without_compression() {
    for parameters in ["", "?gzip=true"] {
        let receiver = Receiver::default();
        let own = receiver.clone();
        let route = axum::routing::post(move |headers, body| over_http(own.clone(), headers, body));
        let router = axum::Router::new().route("/v1/logs", route);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sink = format!("otlp+http://{}{parameters}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        ship_to(&sink, &receiver).await;
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc() {
    let receiver = Receiver::default();
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let sink = format!("otlp+grpc://{}", incoming.local_addr().unwrap());
    let service = LogsServiceServer::new(receiver.clone());
    let server = tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    ship_to(&sink, &receiver).await;
    server.abort();
}
