//! The Elasticsearch REST API of a root: bytes in, typed requests down, typed answers up, bytes out.
//!
//! ```text
//! request ─> router (this file) ─> routes ─> document | bulk | search | index | cat | cluster | …
//!                                               │ body -> query, aggs, sort, fetch  (lowered per index)
//!                                               v
//!                                             Root
//! answer  <─ respond (pretty, filter_path, headers) <─ render
//! ```
//!
//! Nothing is silently ignored: an unknown path, parameter or key is a 400 (405) that names it.
//! Every body is bounded, one by one and all together.

pub mod aggs;
mod body;
mod bulk;
mod by_query;
mod call;
mod cat;
mod cluster;
mod dead_letters;
mod document;
pub mod error;
mod fetch;
pub mod filter_path;
mod index;
mod info;
pub mod json;
mod keys;
mod mapping;
mod mget;
mod msearch;
pub mod params;
mod position;
pub mod query;
pub mod query_string;
mod queue;
mod render;
mod respond;
mod routes;
mod search;
mod search_body;
pub(crate) mod server;
mod settings;
mod sort;
mod tasks;
mod update;
mod wishes;
mod write;

#[cfg(test)]
mod tests;

use std::{any::Any, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
};
use http::{HeaderMap, Method, StatusCode};
use prometheus_client::registry::Registry;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, decompression::RequestDecompressionLayer,
};
use tracing::{debug, error};

pub(crate) use by_query::parse_query;

use self::{
    body::{BodyReader, InFlight},
    call::Call,
    error::ApiError,
    params::Params,
    respond::{Answer, PRODUCT, respond},
};
pub use crate::config::HttpLimits;
use crate::root::Root;

/// What every handler can reach.
pub(crate) struct Shared {
    pub(crate) root: Arc<Root>,
    pub(crate) metrics: Arc<Registry>,
    pub(crate) limits: HttpLimits,
    bodies: InFlight,
}

/// The whole API as a service.
pub fn router(root: Arc<Root>, metrics: Arc<Registry>, limits: HttpLimits) -> Router {
    let bodies = InFlight::new(limits.in_flight_bytes_max);
    let shared = Arc::new(Shared { root, metrics, limits, bodies });
    let layers = ServiceBuilder::new()
        .map_response(|mut response: Response<_>| {
            response.headers_mut().insert(PRODUCT.0, PRODUCT.1);
            response
        })
        .layer(CompressionLayer::new())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true));
    Router::new().fallback(serve).with_state(shared).layer(layers)
}

/// One request's way:
/// 1. parse the query string,
/// 2. find the route by path, then by method,
/// 3. refuse unknown parameters,
/// 4. read the body within the limits,
/// 5. run the handler,
/// 6. render its answer.
async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let params = Params::parse(parts.uri.query().unwrap_or_default());
    let answer = handle(&shared, &parts.method, parts.uri.path(), &params, &parts.headers, body).await;
    let answer = answer.unwrap_or_else(Answer::from);
    debug!(
        method = %parts.method,
        path = parts.uri.path(),
        status = answer.status.as_u16(),
        took_us = started.elapsed().as_micros() as u64,
        "request"
    );
    respond(answer, &parts.method, &params, &parts.headers)
}

async fn handle(
    shared: &Arc<Shared>,
    method: &Method,
    path: &str,
    params: &Params,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<Answer, ApiError> {
    let (route, segments) = routes::find(method, path)?;
    params.check(path, route.params)?;
    let refusals = &shared.root.metrics.refusals;
    let reader = BodyReader { limits: &shared.limits, in_flight: &shared.bodies, refusals, route, method, path };
    let body = reader.read(headers, body).await?;
    if let Some(expression) = route.index(&segments) {
        shared.root.await_known(expression).await;
    }
    let call = Call {
        shared: Arc::clone(shared),
        segments,
        params: params.clone(),
        headers: headers.clone(),
        body: body.bytes,
    };
    // The permit lives as long as the handler, which is how long the body can.
    let answer = (route.run)(call).await;
    drop(body.permit);
    answer
}

/// A defect fails the one request that met it.
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let reason = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    error!(reason, "a request handler panicked");
    let answer = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "exception", "internal error: see the log");
    respond(answer.into(), &Method::GET, &Params::default(), &HeaderMap::new())
}
