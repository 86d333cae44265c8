//! A sidecar that is not one of a cluster's, and a sink of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::{post, put};

use crate::harness::{Client, TRAWL, wait_until};

/// A running `trawl sidecar`; killed when it is dropped.
pub struct Sidecar {
    child: Child,
    client: Client,
}

impl Sidecar {
    /// Follows `logs` below a directory, with its state beside it.
    pub fn start(directory: &Path, sinks: &[String]) -> Self {
        let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(TRAWL);
        command.args(["--log", "error", "--log-format", "text", "sidecar", "--name", "node", "--batch-time", "100ms"]);
        command.arg("--log-dir").arg(directory.join("logs")).arg("--state").arg(directory.join("state"));
        command.args(["--metrics", &metrics.to_string()]);
        for sink in sinks {
            command.args(["--sink", sink]);
        }
        // Ends with this process even when that is aborted.
        let child = command.env("TRAWL_SUPERVISED", "1").stdin(Stdio::piped()).spawn().unwrap();
        Self { child, client: Client::new(format!("http://{metrics}")) }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it.
    pub fn end(mut self) {
        self.kill();
    }

    /// Its metrics; empty while it does not answer.
    pub async fn metrics(&self) -> String {
        self.client.try_send("GET", "/metrics", None, &[]).await.map(|answer| answer.text).unwrap_or_default()
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> bool {
        self.client.get("/readyz").await.status == 200
    }

    /// Waits until it has nothing left to ship.
    pub async fn settled(&self) {
        wait_until("the sidecar has shipped everything", async || {
            let metrics = self.metrics().await;
            let waits = ["trawl_sidecar_behind_bytes", "trawl_sidecar_queue_bytes", "trawl_sidecar_buffer_bytes"];
            !metrics.is_empty() && waits.iter().all(|name| metric(&metrics, name) == 0)
        })
        .await;
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The sum of all series whose line begins like this.
pub fn metric(metrics: &str, name: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Takes every bulk request and counts its documents.
pub async fn bulk_server(address: SocketAddr, got: Arc<AtomicU64>) {
    let bulk = move |body: String| {
        got.fetch_add(body.lines().count() as u64 / 2, Ordering::Relaxed);
        std::future::ready(r#"{"took":1,"errors":false,"items":[]}"#)
    };
    let make = || std::future::ready(r#"{"acknowledged":true}"#);
    let router = Router::new().route("/_bulk", post(bulk)).route("/{index}", put(make));
    let router = router.layer(axum::extract::DefaultBodyLimit::disable());
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    axum::serve(listener, router).await.unwrap();
}
