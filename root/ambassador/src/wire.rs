//! The connections to one root: a service that `tower` measures the load of.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::{Certificate, Client, ClientBuilder, Request, Response};

use crate::discover::Address;

/// Connections kept to one root while nothing is sent over them.
const IDLE_MAX: usize = 256;
/// For how long; less than a root keeps them.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// How roots are connected to.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) connect_time: Duration,
    /// `None` for the system's.
    pub(crate) authorities: Option<Vec<Certificate>>,
}

/// The connections to one root.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pooled: Client,
    /// Makes a new connection each time. One that was kept may have been closed by the root a moment ago, which is only
    /// found out by sending: nothing is risked that cannot be sent again.
    single: Client,
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) request: Request,
    /// Whether a connection of its own is made for it.
    pub(crate) single: bool,
}

impl Wire {
    pub(crate) fn new(address: &Address, connector: &Connector) -> reqwest::Result<Self> {
        let pooled = builder(address, connector).pool_max_idle_per_host(IDLE_MAX).pool_idle_timeout(IDLE_TIME);
        let single = builder(address, connector).pool_max_idle_per_host(0);
        Ok(Self { pooled: pooled.build()?, single: single.build()? })
    }

    /// For what is not to be measured: health checks.
    pub(crate) fn client(&self) -> &Client {
        &self.single
    }
}

fn builder(address: &Address, connector: &Connector) -> ClientBuilder {
    // What a root sends goes on as it is: nothing is unpacked, followed or repeated on the way.
    let builder = Client::builder()
        .gzip(false)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(connector.connect_time);
    let builder = match (&connector.authorities, address.is_tls()) {
        (Some(authorities), _) => builder.tls_certs_only(authorities.clone()),
        // The system's certificates need not be read for nothing.
        (None, false) => builder.tls_certs_only([]),
        (None, true) => builder,
    };
    match (address.host(), address.at) {
        (Some(host), Some(at)) => builder.resolve(host, at),
        _ => builder,
    }
}

impl tower::Service<Sending> for Wire {
    type Response = Response;
    type Error = reqwest::Error;
    type Future = BoxFuture<'static, reqwest::Result<Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<reqwest::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, sending: Sending) -> Self::Future {
        let client = if sending.single { &self.single } else { &self.pooled };
        client.execute(sending.request).boxed()
    }
}
