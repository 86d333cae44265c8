//! One request's way: admitted, read as far as it is kept, raced, answered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant as Clock;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use hyper::body::{Frame, SizeHint};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tower::retry::budget::TpsBudget;

use crate::body::{Payload, Room};
use crate::config::Config;
use crate::error::Refusal;
use crate::headers;
use crate::kind::Kind;
use crate::metrics::Metrics;
use crate::race::{self, Answer, AnswerBody, Plan};
use crate::repeat::{Times, duration};
use crate::roots::Roots;

/// What every request can reach.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) roots: Arc<Roots>,
    pub(crate) metrics: Metrics,
    pub(crate) budget: TpsBudget,
    pub(crate) room: Room,
    pub(crate) admission: Arc<Semaphore>,
}

/// 1. Room: requests at work are bounded; one more is refused at once.
/// 2. Kind: what sending it twice would do.
/// 3. Headers: without those of the connection, with a trace, a key, credentials.
/// 4. Body: kept up to its limit, so that it can be sent again.
/// 5. Race: roots are asked until one answers.
/// 6. Answer: streamed back; the request is at work until its last byte.
pub(crate) async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let began = Clock::now();
    let kind = Kind::of(request.method(), request.uri().path());
    let response = match shared.admission.clone().try_acquire_owned() {
        Ok(permit) => {
            let guard = InFlight::begin(&shared.metrics);
            let response = carry(&shared, kind, request).await.unwrap_or_else(IntoResponse::into_response);
            response.map(|body| Body::new(AtWork { body, _permit: permit, _guard: guard }))
        }
        Err(_) => {
            shared.metrics.busy.inc();
            Refusal::Busy { requests_max: shared.config.requests_max }.into_response()
        }
    };
    shared.metrics.answered(kind, response.status().as_u16());
    shared.metrics.seconds.observe(began.elapsed().as_secs_f64());
    response
}

async fn carry(shared: &Arc<Shared>, kind: Kind, request: Request) -> Result<Response, Refusal> {
    let now = Instant::now();
    let (parts, body) = request.into_parts();
    let wanted = parts.headers.get(headers::TIMEOUT).and_then(|value| duration(value.to_str().ok()?));
    let times = Times {
        repeat_until: now + shared.config.repeat_time,
        deadline: wanted.and_then(|wanted| now.checked_add(wanted)),
    };
    let payload = Payload::read(body, shared.config.replay_bytes_max, &shared.room);
    let payload = tokio::time::timeout(shared.config.body_time, payload).await.unwrap_or(Err(Refusal::Slow))?;
    let mut head = headers::to_root(parts.headers, kind, shared.config.authorization.as_ref());
    if payload.is_whole() {
        // It is told by the body itself.
        head.remove(CONTENT_LENGTH);
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let plan = Plan { kind, method: parts.method, target, headers: head, payload, times };
    let answer = race::run(shared, &plan).await?;
    let key = plan.headers.get(headers::KEY).filter(|_| kind == Kind::Keyed);
    Ok(response(answer, key))
}

fn response(answer: Answer, key: Option<&http::HeaderValue>) -> Response {
    let mut response = Response::new(match answer.body {
        AnswerBody::Whole(bytes) => Body::from(bytes),
        AnswerBody::Stream(parts) => Body::from_stream(parts),
    });
    *response.status_mut() = answer.status;
    *response.headers_mut() = headers::to_application(answer.headers, key);
    response
}

/// Counts a request as at work for as long as it lives.
struct InFlight(Gauge);

impl InFlight {
    fn begin(metrics: &Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics.in_flight.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A body whose request is at work until its last byte has gone, or the application has.
struct AtWork {
    body: Body,
    _permit: OwnedSemaphorePermit,
    _guard: InFlight,
}

impl HttpBody for AtWork {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
