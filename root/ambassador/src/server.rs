//! The listening side: the ambassador's own paths, and everything else to the proxy.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use http::{StatusCode, header};
use reqwest::Certificate;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::retry::budget::TpsBudget;

use crate::body::Room;
use crate::config::Config;
use crate::discover;
use crate::error::StartError;
use crate::metrics::Metrics;
use crate::proxy::{Shared, forward};
use crate::roots::{Roots, Settings};
use crate::status::status;
use crate::wire::Connector;

/// For how long unused parts of the budget can be spent later.
const BUDGET_TIME: Duration = Duration::from_secs(10);
/// How long requests may go on once it was told to end.
const DRAIN_TIME: Duration = Duration::from_secs(7);

/// An ambassador that listens. It serves while [`Ambassador::run`] runs.
#[derive(Debug)]
pub struct Ambassador {
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// Listens, and begins to look for roots, until `stop`.
///
/// # Errors
/// The address is taken; the source of roots, or what TLS needs, cannot be used.
pub async fn start(config: Config, stop: CancellationToken) -> Result<Ambassador, StartError> {
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
    // A provider of cryptography is wanted even for plain HTTP; a second installation changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authorities = config.authorities.as_deref().map(Certificate::from_pem_bundle).transpose();
    let connector = Connector { connect_time: config.connect_time, authorities: authorities.map_err(StartError::Tls)? };
    let roots = Arc::new(Roots::new(Settings {
        connector,
        patience: config.patience,
        check_interval: config.check_interval,
        check_time: config.check_time,
    }));
    discover::begin(&config, roots.clone(), stop.clone()).await?;
    let shared = Shared {
        budget: TpsBudget::new(BUDGET_TIME, config.repeats_per_second, config.repeat_share.clamp(0.0, 1_000.0)),
        room: Room::new(config.kept_bytes_max),
        admission: Arc::new(Semaphore::new(config.requests_max.min(Semaphore::MAX_PERMITS))),
        metrics: Metrics::new(),
        roots,
        config,
    };
    Ok(Ambassador { listener, shared: Arc::new(shared), stop })
}

impl Ambassador {
    /// The address that is listened on.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is told to stop; then lets requests end, for a while.
    ///
    /// # Errors
    /// Serving fails.
    pub async fn run(self) -> std::io::Result<()> {
        let Self { listener, shared, stop } = self;
        let room = Arc::new(Semaphore::new(shared.config.connections_max.min(Semaphore::MAX_PERMITS)));
        let router = Router::new()
            .route("/_ambassador/status", get(|State(shared): State<Arc<Shared>>| async move { own_status(&shared) }))
            .route("/metrics", get(|State(shared): State<Arc<Shared>>| async move { metrics(&shared) }))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(|State(shared): State<Arc<Shared>>| async move { ready(&shared) }))
            .fallback(forward)
            .with_state(shared);
        let ending = stop.clone();
        let serving = axum::serve(Bounded { listener, room }, router).with_graceful_shutdown(stop.cancelled_owned());
        tokio::select! {
            served = serving.into_future() => served,
            () = async {
                ending.cancelled().await;
                tokio::time::sleep(DRAIN_TIME).await;
            } => Ok(()),
        }
    }
}

fn own_status(shared: &Shared) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], status(shared).to_string())
}

/// Ready while there is a root that is well.
fn ready(shared: &Shared) -> (StatusCode, &'static str) {
    match shared.roots.states() {
        [0, ..] => (StatusCode::SERVICE_UNAVAILABLE, "no root is well\n"),
        _ => (StatusCode::OK, "ok\n"),
    }
}

fn metrics(shared: &Shared) -> impl IntoResponse + use<> {
    shared.metrics.set_roots(shared.roots.states());
    let kept = shared.config.kept_bytes_max.saturating_sub(shared.room.free());
    shared.metrics.bytes_kept.set(i64::try_from(kept).unwrap_or(i64::MAX));
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &shared.metrics.registry);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

/// Accepts as many connections as there is room for; further ones wait in the kernel's queue.
struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        let permit = self.room.clone().acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        (Counted { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that takes room while it is open.
struct Counted {
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
