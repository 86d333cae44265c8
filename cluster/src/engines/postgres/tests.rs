//! The PostgreSQL engine: the suite of all engines, and what is particular about servers.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crate::conformance::Open;
use crate::conformance::server::Server;
use crate::{EngineOptions, connect};

fn opener(url: String) -> Open {
    Arc::new(move |options: EngineOptions| {
        let url = url.clone();
        Box::pin(async move { connect(&url, &options).await.unwrap() })
    })
}

fn fresh() -> Option<(Server, Open)> {
    let server = Server::start_fast()?;
    let open = opener(server.url());
    Some((server, open))
}

crate::conformance_suite!(fresh);
