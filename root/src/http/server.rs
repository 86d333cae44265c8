//! The HTTP server under the API: connections, how many there may be and how long they may take.
//!
//! ```text
//! accept ─> one of the connections, or 429 and goodbye
//!             │ waits for a request       at most the idle time
//!             │ reads its head            at most the header time
//!             │ reads its body            the body reader's time, between two pieces
//!             v handler, answer           no limit here: requests have deadlines of their own
//! ```
//!
//! HTTP/1.1 only, as Elasticsearch's own port.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::HttpLimits;
use crate::limits::{Limit, Refusals};

/// Connections over the limit that are told so at the same time; more are closed without a word.
const GOODBYES_MAX: usize = 64;
/// How long saying goodbye may take.
const GOODBYE_TIME: Duration = Duration::from_secs(1);
/// How long a connection is kept at the end for a request that may be on its way; its answer says that it is the last.
const LINGER: Duration = Duration::from_secs(1);
/// Pause after an accept that failed, for want of file descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `ending`; then refuses new connections and lets open requests end, and those that come a moment later
/// on connections that are open: nobody is told that a connection is over but by an answer, or after a while without a
/// request.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: HttpLimits,
    refusals: Refusals,
    ending: CancellationToken,
) -> io::Result<()> {
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let goodbyes = Arc::new(Semaphore::new(GOODBYES_MAX));
    let tasks = TaskTracker::new();
    while let Some(accepted) = ending.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        if let Ok(permit) = connections.clone().try_acquire_owned() {
            let serving = connection(stream, app.clone(), limits.clone(), refusals.clone(), ending.clone());
            tasks.spawn(async move {
                serving.await;
                drop(permit);
            });
        } else {
            refusals.count(Limit::Connections);
            if let Ok(permit) = goodbyes.clone().try_acquire_owned() {
                let goodbye = goodbye(stream, limits.connections_max);
                tasks.spawn(async move {
                    let _ = tokio::time::timeout(GOODBYE_TIME, goodbye).await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn connection(stream: TcpStream, app: Router, limits: HttpLimits, refusals: Refusals, ending: CancellationToken) {
    let activity = Arc::new(Mutex::new(Activity { at_work: false, since: Instant::now(), head_begun: false }));
    let (reader, writer) = stream.into_split();
    let watched = Watched {
        reader,
        activity: activity.clone(),
        idle: limits.idle_time_max,
        header: limits.header_time_max,
        timer: Box::pin(tokio::time::sleep(limits.idle_time_max)),
        refusals,
    };
    let last = ending.clone();
    let service = tower::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (app, activity, last) = (app.clone(), activity.clone(), last.clone());
        async move {
            activity.lock().at_work = true;
            let response = app.oneshot(request.map(axum::body::Body::new)).await;
            *activity.lock() = Activity { at_work: false, since: Instant::now(), head_begun: false };
            response.map(|mut response| {
                if last.is_cancelled() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            })
        }
    });
    let serving = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(tokio::io::join(watched, writer)), TowerToHyperService::new(service));
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = ending.cancelled() => match tokio::time::timeout(LINGER, &mut serving).await {
            Ok(served) => served,
            Err(_) => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    };
    if let Err(error) = served {
        // Clients go away all the time.
        tracing::debug!(%error, "a connection ended");
    }
}

/// Tells a connection that there are too many; what it sends meanwhile is read, because closing with
/// something unread would take back the answer.
async fn goodbye(mut stream: TcpStream, connections_max: usize) {
    let reason = format!("too many connections: [{connections_max}] are open");
    let body = format!(
        "{{\"error\":{{\"root_cause\":[{{\"type\":\"es_rejected_execution_exception\",\"reason\":\"{reason}\"}}],\
         \"type\":\"es_rejected_execution_exception\",\"reason\":\"{reason}\"}},\"status\":429}}"
    );
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\nx-elastic-product: Elasticsearch\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    if stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        let mut unread = [0; 4096];
        while stream.read(&mut unread).await.is_ok_and(|bytes| bytes > 0) {}
    }
}

/// What a connection is doing.
#[derive(Debug)]
struct Activity {
    /// A request is being handled.
    at_work: bool,
    /// Since when no request is: or since when the head of the next one comes in.
    since: Instant,
    head_begun: bool,
}

/// The reading half of a connection, which fails when the peer takes too long for a request to begin, or for its head.
struct Watched {
    reader: OwnedReadHalf,
    activity: Arc<Mutex<Activity>>,
    idle: Duration,
    header: Duration,
    timer: Pin<Box<Sleep>>,
    refusals: Refusals,
}

impl Watched {
    /// Ready when the peer has been too slow.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (due, limit) = match &*self.activity.lock() {
            Activity { at_work: true, .. } => return Poll::Pending,
            Activity { since, head_begun: true, .. } => (*since + self.header, Some(Limit::HeaderTime)),
            Activity { since, .. } => (*since + self.idle, None),
        };
        if self.timer.deadline() != due {
            self.timer.as_mut().reset(due);
        }
        ready!(self.timer.as_mut().poll(cx));
        if let Some(limit) = limit {
            self.refusals.count(limit);
        }
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.reader).poll_read(cx, buf) {
            Poll::Ready(read) => {
                let mut activity = self.activity.lock();
                if buf.filled().len() > before && !activity.at_work && !activity.head_begun {
                    *activity = Activity { at_work: false, since: Instant::now(), head_begun: true };
                }
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_late(cx).map(Err),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::routing::get;

    use super::*;

    struct Server {
        address: std::net::SocketAddr,
        refusals: Refusals,
        ending: CancellationToken,
        task: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn server(limits: HttpLimits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            "slow"
        };
        let app = Router::new().route("/", get(|| async { "ok" })).route("/slow", get(slow));
        let (refusals, ending) = (Refusals::default(), CancellationToken::new());
        let task = tokio::spawn(serve(listener, app, limits, refusals.clone(), ending.clone()));
        Server { address, refusals, ending, task }
    }

    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    /// Reads to the end of the stream and returns how long that took.
    async fn closed(stream: &mut TcpStream) -> Duration {
        let start = Instant::now();
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap();
        start.elapsed()
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so_at_once() {
        let server = server(HttpLimits { connections_max: 2, ..HttpLimits::default() }).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            assert!(ask(&mut stream, "/").await.starts_with("HTTP/1.1 200"));
            open.push(stream);
        }
        let mut third = TcpStream::connect(server.address).await.unwrap();
        let answer = ask(&mut third, "/").await;
        assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 1"), "{answer}");
        assert!(answer.ends_with("\"status\":429}"), "{answer}");
        assert_eq!(server.refusals.of(Limit::Connections), 1);
        open.pop();
        let served = async {
            loop {
                let mut again = TcpStream::connect(server.address).await.unwrap();
                if ask(&mut again, "/").await.starts_with("HTTP/1.1 200") {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), served).await.expect("there is room again");
    }

    #[tokio::test]
    async fn slow_heads_and_idle_connections_are_closed_and_slow_handlers_are_not() {
        let limits = HttpLimits {
            header_time_max: Duration::from_millis(100),
            idle_time_max: Duration::from_millis(250),
            ..HttpLimits::default()
        };
        let server = server(limits).await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        assert!(ask(&mut idle, "/slow").await.contains("slow"), "a handler may take longer than both");
        assert!(ask(&mut idle, "/").await.starts_with("HTTP/1.1 200"), "the connection is kept");
        assert!(closed(&mut idle).await >= Duration::from_millis(200));
        assert_eq!(server.refusals.of(Limit::HeaderTime), 0);
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        slow.write_all(b"GET / HT").await.unwrap();
        closed(&mut slow).await;
        assert_eq!(server.refusals.of(Limit::HeaderTime), 1);
    }

    #[tokio::test]
    async fn open_requests_end_and_idle_connections_do_not_hold_up_the_end() {
        let server = server(HttpLimits::default()).await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        assert!(ask(&mut idle, "/").await.starts_with("HTTP/1.1 200"));
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut late = TcpStream::connect(server.address).await.unwrap();
        assert!(ask(&mut late, "/").await.starts_with("HTTP/1.1 200"));
        server.ending.cancel();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(TcpStream::connect(server.address).await.is_err(), "new connections are refused");
        let answer = ask(&mut late, "/").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("slow"), "{answer}");
        tokio::time::timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap().unwrap();
    }
}
