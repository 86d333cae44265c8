//! The whole ambassador against roots that a test makes up.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use reqwest::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Config, Source, start};

/// How a made-up root answers.
type Behaviour = dyn Fn(usize) -> Act + Send + Sync;

enum Act {
    Answer(StatusCode, &'static [(&'static str, &'static str)]),
    /// Breaks the connection instead of an answer, once the request was read.
    Break,
    Wait(Duration),
}

/// A root of a test.
struct Root {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(String, HeaderMap, usize)>>>,
    _stop: tokio_util::sync::DropGuard,
}

impl Root {
    async fn start(behaviour: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let (log, number) = (seen.clone(), Arc::new(AtomicUsize::new(0)));
        let handler = move |request: Request| {
            let (log, behaviour, number) = (log.clone(), behaviour.clone(), number.clone());
            async move {
                let (parts, body) = request.into_parts();
                let length = axum::body::to_bytes(body, usize::MAX).await.map_or(0, |body| body.len());
                log.lock().push((parts.uri.to_string(), parts.headers, length));
                act(behaviour(number.fetch_add(1, Ordering::Relaxed))).await
            }
        };
        let router = Router::new().route("/readyz", get(|| async { "ok" })).fallback(handler);
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let ended = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = served.into_future() => {}
                () = ended.cancelled() => {}
            }
        });
        Self { address, seen, _stop: stop.drop_guard() }
    }

    async fn well() -> Self {
        Self::start(|_| Act::Answer(StatusCode::OK, &[])).await
    }

    fn seen(&self) -> usize {
        self.seen.lock().len()
    }
}

async fn act(act: Act) -> Response {
    match act {
        Act::Answer(status, headers) => {
            let mut response = (status, "answer").into_response();
            for (name, value) in headers {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            response
        }
        Act::Break => {
            let broken = futures::stream::once(async { Err::<bytes::Bytes, _>(std::io::Error::other("broken")) });
            Response::new(Body::from_stream(broken))
        }
        Act::Wait(time) => {
            tokio::time::sleep(time).await;
            "late".into_response()
        }
    }
}

/// An ambassador of a test.
struct Under {
    endpoint: String,
    http: Client,
    _stop: tokio_util::sync::DropGuard,
}

impl Under {
    /// For these roots; waits until as many are known to be well.
    async fn start(roots: &[SocketAddr], well: usize, change: impl FnOnce(&mut Config)) -> Self {
        let urls = roots.iter().map(|root| format!("http://{root}")).collect();
        let mut config = Config::new("127.0.0.1:0".parse().unwrap(), Source::List(urls));
        change(&mut config);
        let stop = CancellationToken::new();
        let ambassador = start(config, stop.clone()).await.unwrap();
        let endpoint = format!("http://{}", ambassador.address().unwrap());
        tokio::spawn(ambassador.run());
        let under = Self { endpoint, http: Client::new(), _stop: stop.drop_guard() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while under.states().await.iter().filter(|state| *state == "closed").count() < well {
            assert!(Instant::now() < deadline, "the roots are not found to be well");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        under
    }

    async fn status(&self) -> serde_json::Value {
        let text = self.http.get(format!("{}/_ambassador/status", self.endpoint)).send().await.unwrap();
        serde_json::from_str(&text.text().await.unwrap()).unwrap()
    }

    async fn states(&self) -> Vec<String> {
        let status = self.status().await;
        status["roots"].as_array().unwrap().iter().map(|root| root["breaker"].as_str().unwrap().to_owned()).collect()
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.endpoint)).body("{}");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().clone(), answer.text().await.unwrap())
    }
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_root_that_is_gone_costs_no_request_and_is_left_alone() {
    let well = Root::well().await;
    let under = Under::start(&[nobody().await, well.address], 1, |_| {}).await;
    for method in ["POST", "PUT", "DELETE"] {
        for path in ["/books/_search", "/books/_doc/1", "/books"] {
            assert_eq!(under.send(method, path, &[]).await.0, 200, "{method} {path}");
        }
    }
    let mut states = under.states().await;
    states.sort();
    assert!(states[0] == "closed" && states[1] != "closed", "{states:?}");
}

#[tokio::test]
async fn what_may_have_been_carried_out_is_sent_again_only_where_that_is_safe() {
    // Each root breaks the first request and answers the second.
    let flaky = || Root::start(|number| if number == 0 { Act::Break } else { Act::Answer(StatusCode::OK, &[]) });
    for (method, path, status, sent) in
        [("POST", "/b/_search", 200, 2), ("POST", "/b/_doc", 200, 2), ("POST", "/b/_delete_by_query", 502, 1)]
    {
        let root = flaky().await;
        let under = Under::start(&[root.address], 1, |_| {}).await;
        let (found, headers, text) = under.send(method, path, &[]).await;
        assert_eq!((found, root.seen()), (status, sent), "{method} {path}: {text}");
        let keys: Vec<_> =
            root.seen.lock().iter().map(|(_, headers, _)| headers.get("idempotency-key").cloned()).collect();
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "one key for all attempts: {keys:?}");
        assert_eq!(keys[0].is_some(), path == "/b/_doc");
        assert_eq!(headers.get("idempotency-key"), keys[0].as_ref(), "the application is told");
        if status == 502 {
            assert!(text.contains("\"status\":502") && headers["x-elastic-product"] == "Elasticsearch", "{text}");
        }
    }
}

#[tokio::test]
async fn a_root_that_says_not_now_is_asked_again_when_it_said_and_another_at_once() {
    const BUSY: Act = Act::Answer(StatusCode::TOO_MANY_REQUESTS, &[("retry-after", "1")]);
    let busy = Root::start(|number| if number == 0 { BUSY } else { Act::Answer(StatusCode::OK, &[]) }).await;
    let alone = Under::start(&[busy.address], 1, |_| {}).await;
    let began = Instant::now();
    assert_eq!(alone.send("POST", "/b/_search", &[]).await.0, 200);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());

    // With another root nobody waits, and the busy one is left in peace for its second.
    let (busy, well) = (Root::start(|_| BUSY).await, Root::well().await);
    let under = Under::start(&[busy.address, well.address], 2, |_| {}).await;
    for _ in 0..20 {
        assert_eq!(under.send("POST", "/b/_search", &[]).await.0, 200);
    }
    assert!(busy.seen() <= 2, "{}", busy.seen());

    // What the application can not wait for is answered as the root answered.
    let busy = Root::start(|_| BUSY).await;
    let under = Under::start(&[busy.address], 1, |_| {}).await;
    let (status, headers, _) = under.send("GET", "/b/_search", &[("x-request-timeout", "800ms")]).await;
    assert_eq!((status, headers["retry-after"].to_str().unwrap()), (429, "1"));
}

#[tokio::test]
async fn a_late_root_costs_a_retry_delay() {
    let slow = Root::start(|_| Act::Wait(Duration::from_secs(60))).await;
    // Slower than what a root is taken for until it is known, so that the other one is asked too.
    let well = Root::start(|_| Act::Wait(Duration::from_millis(50))).await;
    let under = Under::start(&[slow.address, well.address], 2, |config| {
        config.read_delay = Duration::from_millis(100);
        config.write_delay = Duration::from_millis(200);
    })
    .await;
    let began = Instant::now();
    for path in ["/b/_search", "/b/_doc"].repeat(4) {
        assert_eq!(under.send("POST", path, &[]).await.0, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(slow.seen() >= 1, "the late one was asked");
}

#[tokio::test]
async fn repeats_are_bounded_by_their_budget() {
    let root = Root::start(|_| Act::Answer(StatusCode::SERVICE_UNAVAILABLE, &[])).await;
    let under = Under::start(&[root.address], 1, |config| {
        (config.repeat_share, config.repeats_per_second) = (0.0, 1);
        config.repeat_time = Duration::from_secs(2);
    })
    .await;
    for _ in 0..20 {
        assert_eq!(under.send("GET", "/b/_search", &[]).await.0, 503);
    }
    // One a second, of up to ten seconds at once.
    assert!((21..=45).contains(&root.seen()), "{}", root.seen());
    assert!(under.status().await["repeats_refused"].as_u64().unwrap() >= 1);
}

#[tokio::test]
async fn one_request_too_many_is_told_so_at_once_and_a_deadline_is_kept() {
    let slow = Root::start(|_| Act::Wait(Duration::from_secs(60))).await;
    let under = Under::start(&[slow.address], 1, |config| config.requests_max = 1).await;
    let late = under.send("GET", "/b/_search", &[("x-request-timeout", "1s")]);
    let refused = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        under.send("GET", "/b/_search", &[]).await
    };
    let ((status, _, text), (refused, headers, reason)) = tokio::join!(late, refused);
    assert_eq!(status, 504, "{text}");
    assert_eq!((refused, headers["retry-after"].to_str().unwrap()), (429, "1"));
    assert!(reason.contains("es_rejected_execution_exception"), "{reason}");
    assert_eq!(under.status().await["requests_in_flight"], 0);
}

#[tokio::test]
async fn headers_bodies_and_sizes_go_through() {
    let root =
        Root::start(|_| Act::Answer(StatusCode::OK, &[("x-trawl-position", "7"), ("connection", "x-mine")])).await;
    let under = Under::start(&[root.address], 1, |config| {
        config.replay_bytes_max = 1_000;
        config.authorization = Some("ApiKey ours".parse().unwrap());
    })
    .await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (_, headers, text) = under.send("POST", "/b/_search?q=a%20b&pretty", &[("traceparent", trace)]).await;
    assert_eq!((text.as_str(), headers["x-trawl-position"].to_str().unwrap()), ("answer", "7"));
    let large = vec![b'x'; 3 << 20];
    let url = format!("{}/b/_bulk", under.endpoint);
    let answer = under.http.post(url).body(large).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let head = under.http.head(format!("{}/b", under.endpoint)).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "6");
    let seen = root.seen.lock().clone();
    assert_eq!(seen[0].0, "/b/_search?q=a%20b&pretty");
    assert_eq!((seen[0].1["traceparent"].to_str().unwrap(), seen[0].2), (trace, 2));
    assert_eq!(seen[0].1["authorization"], "ApiKey ours");
    assert_eq!(seen[0].1["host"].to_str().unwrap(), root.address.to_string());
    assert_eq!((seen[1].2, seen[1].1["content-length"].to_str().unwrap()), (3 << 20, "3145728"));
    assert!(seen[1].1.contains_key("idempotency-key") && seen[1].1.contains_key("traceparent"));
    let metrics = under.http.get(format!("{}/metrics", under.endpoint)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("trawl_ambassador_requests_total{kind=\"read\",status=\"200\"} 2"), "{metrics}");
    assert!(metrics.contains("trawl_ambassador_roots{state=\"closed\"} 1"), "{metrics}");
    let ready = under.http.get(format!("{}/readyz", under.endpoint)).send().await.unwrap();
    assert_eq!(ready.status(), 200);
}

/// A root behind TLS that answers everything, and the authority that vouches for it.
async fn tls_root() -> (SocketAddr, Vec<u8>) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&authority_key).unwrap().pem().into_bytes();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"{}") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, pem)
}

#[tokio::test]
async fn roots_are_spoken_to_over_tls_and_only_those_that_are_vouched_for() {
    let (address, authority) = tls_root().await;
    let found = |believed: Vec<u8>, well| async move {
        Under::start(&[], well, |config| {
            // All addresses of a name, of which one answers; the certificate names the name.
            config.source = Source::Dns(format!("localhost:{}", address.port()));
            (config.tls, config.authorities) = (true, Some(believed));
            config.repeat_time = Duration::from_secs(3);
        })
        .await
    };
    let under = found(authority, 1).await;
    let (status, _, text) = under.send("GET", "/b/_search", &[]).await;
    assert_eq!((status, text.as_str()), (200, "secret"));
    let (_, stranger) = tls_root().await;
    let (status, _, text) = found(stranger, 0).await.send("GET", "/b/_search", &[]).await;
    assert!(status == 503 && text.contains("no root answers"), "{text}");
}
