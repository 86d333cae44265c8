//! A connector that keeps an eye on its socket: the state of a leaf's connection is known when the
//! kernel knows it, not when the next call fails.
//!
//! The only file of the root that opens connections, and the place where another network can be put under it ([`Connect`]).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::io::InspectReader;
use tonic::transport::Uri;
use tower::Service;

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Not tried yet.
    Unknown,
    /// Open.
    Connected,
    /// Closed by the other side, given up by keep-alive, or could not be opened.
    Broken,
}

/// The shared state of one leaf's connection.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Told when the connection breaks; shared by all leaves.
    broke: Arc<Notify>,
    state: AtomicU8,
    /// Number of the newest connection: the end of an older one changes nothing.
    newest: AtomicU64,
}

impl Watched {
    pub(super) fn new(broke: Arc<Notify>) -> Self {
        Self { broke, ..Self::default() }
    }

    pub(super) fn state(&self) -> ConnectionState {
        match self.state.load(Ordering::Acquire) {
            0 => ConnectionState::Unknown,
            1 => ConnectionState::Connected,
            _ => ConnectionState::Broken,
        }
    }

    fn opened(&self) -> u64 {
        let number = self.newest.fetch_add(1, Ordering::AcqRel) + 1;
        self.state.store(1, Ordering::Release);
        number
    }

    fn failed(&self) {
        self.state.store(2, Ordering::Release);
        self.broke.notify_one();
    }

    fn closed(&self, number: u64) {
        if self.newest.load(Ordering::Acquire) == number {
            self.failed();
        }
    }
}

/// How connections to `host` and `port` are opened: TCP with `TCP_NODELAY`, unless a test puts a simulated network in
/// its place.
#[derive(Clone)]
pub struct Connect(Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Connection>> + Send + Sync>);

/// An open connection.
pub type Connection = Box<dyn Wire>;

/// Bytes both ways.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Connect {
    /// Connections opened by `open`.
    pub fn by<F>(open: impl Fn(String, u16) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Connection>> + Send + 'static,
    {
        Self(Arc::new(move |host, port| Box::pin(open(host, port))))
    }
}

impl Default for Connect {
    fn default() -> Self {
        Self::by(|host, port| async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Connection)
        })
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connect")
    }
}

/// Opens connections and reports what becomes of them.
#[derive(Clone)]
pub(super) struct Connector {
    connect: Connect,
    watched: Arc<Watched>,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(connect: Connect, watched: Arc<Watched>, timeout: Duration) -> Self {
        Self { connect, watched, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<WatchedStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { connect, watched, timeout } = self.clone();
        Box::pin(async move {
            let stream = tokio::time::timeout(timeout, open(&connect, &uri)).await;
            match stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    let end = End { number: watched.opened(), watched };
                    let keep: Keep = Box::new(move |_| {
                        let _ = &end;
                    });
                    Ok(TokioIo::new(InspectReader::new(stream, keep)))
                }
                Err(error) => {
                    watched.failed();
                    Err(error)
                }
            }
        })
    }
}

async fn open(connect: &Connect, uri: &Uri) -> io::Result<Connection> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    (connect.0)(host.to_owned(), uri.port_u16().unwrap_or(80)).await
}

/// A stream that holds on to its [`End`]. hyper drops it as soon as the connection is over for any reason.
type WatchedStream = InspectReader<Connection, Keep>;

/// Hears what is read, and cares only for how long it lives.
type Keep = Box<dyn FnMut(&[u8]) + Send>;

/// Notes the end of a connection when it is dropped.
struct End {
    watched: Arc<Watched>,
    number: u64,
}

impl Drop for End {
    fn drop(&mut self) {
        self.watched.closed(self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn wait_for(watched: &Watched, state: ConnectionState) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while watched.state() != state {
            assert!(tokio::time::Instant::now() < deadline, "never became {state:?}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_state_follows_the_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let watched = Arc::new(Watched::default());
        let mut connector = Connector::new(Connect::default(), watched.clone(), Duration::from_secs(1));
        assert_eq!(watched.state(), ConnectionState::Unknown);

        let first = connector.call(uri.clone()).await.unwrap();
        wait_for(&watched, ConnectionState::Connected).await;
        let second = connector.call(uri.clone()).await.unwrap();
        drop(first);
        assert_eq!(watched.state(), ConnectionState::Connected, "an older connection's end changes nothing");
        drop(second);
        assert_eq!(watched.state(), ConnectionState::Broken);

        drop(listener);
        assert!(connector.call(uri).await.is_err());
        assert_eq!(watched.state(), ConnectionState::Broken);
    }
}
