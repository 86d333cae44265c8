//! One request's attempts: the first usable answer wins.
//!
//! 1. A root is picked and asked.
//! 2. One that cannot be reached, breaks or says "not now": another is asked at once, or the same one after a pause.
//! 3. One that is late: another is asked as well, and both are waited for.
//!
//! What may be sent again says [`Trouble`]; how often altogether, the budget.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use http::{HeaderMap, StatusCode};
use reqwest::{Method, Request, Url};
use tokio::time::Instant;
use tower::retry::budget::Budget;

use crate::body::{End, Payload, keep};
use crate::error::Refusal;
use crate::headers;
use crate::kind::Kind;
use crate::metrics::Reason;
use crate::proxy::Shared;
use crate::repeat::{Times, Trouble, next_attempt};
use crate::roots::Root;
use crate::wire::Sending;

/// How soon the set of roots is looked at again when it is empty.
const NO_ROOT_PAUSE: Duration = Duration::from_millis(50);
/// A request's attempts that are on their way to roots that are well.
const AT_ONCE_MAX: usize = 2;
/// A request's attempts altogether.
const ATTEMPTS_MAX: u32 = 32;

/// A request as it goes to any root.
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    pub(crate) times: Times,
}

/// A root's answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: AnswerBody,
}

/// Its body.
pub(crate) enum AnswerBody {
    /// All of it.
    Whole(Bytes),
    /// What comes.
    Stream(BoxStream<'static, reqwest::Result<Bytes>>),
}

/// What came of an attempt.
enum Came {
    Answer(Answer),
    /// "Not now", with the answer that says so.
    Refused(Answer, Trouble),
    Broken(Trouble, String),
}

/// A request's attempts.
struct Race<'a> {
    shared: &'a Arc<Shared>,
    plan: &'a Plan,
    running: FuturesUnordered<BoxFuture<'a, (Arc<Root>, Came)>>,
    /// The roots that are being waited for.
    waiting: Vec<Arc<Root>>,
    tried: Vec<Arc<Root>>,
    attempts: u32,
    /// When the next attempt begins.
    next: Option<Instant>,
    /// When those on their way are late.
    late: Option<Instant>,
    /// What there is to answer when nothing better comes.
    worst: Result<Answer, Refusal>,
}

/// Runs a request to its answer.
pub(crate) async fn run(shared: &Arc<Shared>, plan: &Plan) -> Result<Answer, Refusal> {
    shared.budget.deposit();
    let none = Refusal::Unreachable { reason: "no root is known".to_owned() };
    let race = Race {
        shared,
        plan,
        running: FuturesUnordered::new(),
        waiting: Vec::new(),
        tried: Vec::new(),
        attempts: 0,
        next: Some(Instant::now()),
        late: None,
        worst: Err(none),
    };
    match plan.times.deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, race.run()).await.unwrap_or(Err(Refusal::Late)),
        None => race.run().await,
    }
}

impl Race<'_> {
    async fn run(mut self) -> Result<Answer, Refusal> {
        loop {
            tokio::select! {
                biased;
                Some((root, came)) = self.running.next() => {
                    self.forget(&root);
                    match came {
                        Came::Answer(answer) => return Ok(answer),
                        Came::Refused(answer, trouble) => {
                            self.worst = Ok(answer);
                            self.trouble(trouble);
                        }
                        Came::Broken(trouble, reason) => {
                            self.worst = Err(match trouble {
                                Trouble::Unsent => Refusal::Unreachable { reason },
                                _ => Refusal::Lost { reason },
                            });
                            self.trouble(trouble);
                        }
                    }
                }
                () = until(self.next), if self.next.is_some() => self.begin(),
                () = until(self.late), if !self.waiting.is_empty() && self.late.is_some() => self.is_late(),
                else => return self.worst,
            }
        }
    }

    fn forget(&mut self, root: &Arc<Root>) {
        if let Some(place) = self.waiting.iter().position(|waiting| Arc::ptr_eq(waiting, root)) {
            self.waiting.swap_remove(place);
        }
    }

    /// Sends the request to the next root.
    fn begin(&mut self) {
        let now = Instant::now();
        self.next = None;
        match self.shared.roots.pick(&self.tried) {
            Some(root) => self.ask(root, now),
            None if now + NO_ROOT_PAUSE < self.plan.times.repeat_until => self.next = Some(now + NO_ROOT_PAUSE),
            None => {}
        }
    }

    fn ask(&mut self, root: Arc<Root>, now: Instant) {
        self.attempts += 1;
        self.late = self.delay().map(|delay| now + delay);
        self.tried.push(root.clone());
        self.waiting.push(root.clone());
        let (shared, plan) = (self.shared.clone(), self.plan);
        self.running.push(Box::pin(async move {
            let came = attempt(&shared, plan, &root).await;
            (root, came)
        }));
    }

    /// How long an attempt may take before another is made beside it; `None` when none may be.
    fn delay(&self) -> Option<Duration> {
        match self.plan.kind {
            _ if !self.plan.payload.is_whole() => None,
            Kind::Read => Some(self.shared.config.read_delay),
            Kind::Keyed => Some(self.shared.config.write_delay),
            Kind::Once => None,
        }
    }

    /// Plans the next attempt, if there may be one.
    fn trouble(&mut self, trouble: Trouble) {
        let plan = self.plan;
        let payload = &plan.payload;
        if self.next.is_some() || !trouble.allows_repeat(plan.kind, payload.is_whole(), payload.is_untouched()) {
            return;
        }
        let fresh = self.shared.roots.pick_fresh(&self.tried).is_some();
        let now = Instant::now();
        let at = next_attempt(trouble, self.attempts, fresh, rand::random(), now, plan.times);
        let reason = match trouble {
            Trouble::Unsent => Reason::Unsent,
            Trouble::Lost => Reason::Lost,
            Trouble::Refused { .. } => Reason::Refused,
        };
        if at.is_some() && self.may_repeat(reason) {
            self.next = at;
        }
    }

    /// Asks a second root beside the one that is late. Those that have been found unwell meanwhile do not count.
    fn is_late(&mut self) {
        let now = Instant::now();
        self.late = self.delay().map(|delay| now + delay);
        self.waiting.iter().for_each(|root| root.doubted.notify_one());
        let well = self.waiting.iter().filter(|root| root.is_closed()).count();
        if self.next.is_some() || self.waiting.is_empty() || well >= AT_ONCE_MAX {
            return;
        }
        let fresh = self.shared.roots.pick_fresh(&self.tried);
        if let Some(root) = fresh.filter(|_| now < self.plan.times.repeat_until)
            && self.may_repeat(Reason::Late)
        {
            self.ask(root, now);
        }
    }

    fn may_repeat(&self, reason: Reason) -> bool {
        let metrics = &self.shared.metrics;
        if self.attempts >= ATTEMPTS_MAX || !self.shared.budget.withdraw() {
            metrics.repeats_refused.inc();
            return false;
        }
        metrics.repeated(reason);
        true
    }
}

/// Returns then; never when there is no time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn attempt(shared: &Shared, plan: &Plan, root: &Root) -> Came {
    let url = match Url::parse(&format!("{}{}", root.address.base, plan.target)) {
        Ok(url) => url,
        Err(error) => return Came::Broken(Trouble::Unsent, error.to_string()),
    };
    let mut request = Request::new(plan.method.clone(), url);
    *request.headers_mut() = plan.headers.clone();
    *request.body_mut() = plan.payload.to_body();
    let single = plan.kind == Kind::Once || !plan.payload.is_whole();
    let response = match root.send(Sending { request, single }).await {
        Ok(response) => response,
        Err(error) => return broken(root, &error),
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let mut rest = Box::pin(response.bytes_stream());
    let (kept, end) = keep(&mut rest, shared.config.answer_bytes_max, &shared.room).await;
    let body = match end {
        End::Reached => AnswerBody::Whole(kept.whole()),
        End::Ahead => AnswerBody::Stream(kept.before(rest)),
        End::Failed(error) => return broken(root, &error),
    };
    root.answered();
    let retry_after = headers::retry_after(&headers);
    let answer = Answer { status, headers, body };
    match Trouble::of_status(status.as_u16(), retry_after) {
        Some(trouble) => {
            if let Some(pause) = retry_after.filter(|_| status == StatusCode::TOO_MANY_REQUESTS) {
                root.rest(pause);
            }
            Came::Refused(answer, trouble)
        }
        None => Came::Answer(answer),
    }
}

fn broken(root: &Root, error: &reqwest::Error) -> Came {
    let trouble = if error.is_connect() { Trouble::Unsent } else { Trouble::Lost };
    root.failed();
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let reason = format!("{}: {cause}", root.address.shown());
    tracing::debug!(root = root.address.shown(), ?trouble, reason, "an attempt failed");
    Came::Broken(trouble, reason)
}
