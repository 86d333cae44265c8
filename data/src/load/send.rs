//! Sends one batch until every document of it is acknowledged or rejected, or it is time to give up.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::batch::{Batch, Item};
use super::bulk::{CLAIM_LOST, Sorted, is_for_now, sort};
use super::client::Client;
use super::job::Job;
use super::report::Rejection;
use super::task::Tally;

/// What sending a batch needs besides the batch.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) client: Client,
    pub(super) retry_for: Duration,
    /// Told of pauses; what nobody fetches in time is not told.
    pub(super) pauses: mpsc::Sender<(String, Duration)>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Whose batch it was.
    pub(super) job: u64,
    /// Which of its batches.
    pub(super) batch: u64,
    /// What became of its documents, those that were rejected before it was sent included.
    pub(super) tally: Tally,
    /// Those that the index rejected.
    pub(super) rejected: Vec<Rejection>,
    pub(super) retries: u64,
    /// Ids that are no longer on their way.
    pub(super) id_hashes: Vec<u64>,
    pub(super) failure: Option<Failure>,
}

impl Outcome {
    fn reject(&mut self, rejection: Rejection) {
        self.tally.reject(&rejection);
        self.rejected.push(rejection);
    }
}

/// Why sending ended early.
#[derive(Debug)]
pub(super) enum Failure {
    GaveUp {
        tried: Duration,
        last: String,
    },
    Refused {
        status: u16,
        reason: String,
    },
    /// The claim that the batch was sent for is no longer held: somebody else does its task.
    ClaimLost,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GaveUp { tried, last } => write!(f, "gave up after trying for {} s: {last}", tried.as_secs()),
            Self::Refused { status, reason } => write!(f, "a batch was refused with status {status}: {reason}"),
            Self::ClaimLost => write!(f, "the claim is no longer held"),
        }
    }
}

/// A request to be sent, with its key.
struct Request {
    key: String,
    body: Bytes,
    items: Vec<Item>,
}

/// What one attempt leads to.
enum Step {
    /// Answered, document by document.
    Answered(Sorted),
    /// The whole request is to be sent again, under the same key.
    Again {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// The body is too large for the server.
    TooLarge {
        reason: String,
    },
    Failed(Failure),
}

impl Sender {
    /// Sends a batch of a job. What is to be sent again keeps its key, also when it is only some of the documents: the
    /// cluster tells writes of one key apart by shard and content, so what it took although it said otherwise, or took from
    /// an attempt that was killed, is found to be there. Halves have keys of their own, which are the same in every attempt.
    pub(super) async fn send(self, number: u64, job: Arc<Job>, batch: Batch) -> Outcome {
        let id_hashes = batch.items.iter().map(|item| item.id_hash).filter(|hash| *hash != 0).collect();
        let (tally, start) = (batch.rejected, batch.start);
        let mut outcome = Outcome { job: number, batch: batch.number, tally, id_hashes, ..Outcome::default() };
        let mut backoff = Backoff::new(self.retry_for);
        let key = format!("{}-{}-{}", job.key, start.piece, start.mark.offset);
        let mut waiting = VecDeque::from([Request { key, body: batch.body, items: batch.items }]);
        while let Some(request) = waiting.pop_front() {
            let Request { key, body, items } = request;
            let (reason, retry_after, again) = match self.attempt(&job, &key, &body, &items).await {
                Step::Failed(failure) => {
                    outcome.failure = Some(failure);
                    return outcome;
                }
                Step::TooLarge { reason } if items.len() == 1 => {
                    reject_too_large(&mut outcome, items, &reason);
                    continue;
                }
                Step::TooLarge { .. } => {
                    // In order, halves first to last, before anything else.
                    let (front, back) = items.split_at(items.len() / 2);
                    for (name, half) in [("b", back), ("a", front)] {
                        waiting.push_front(some(&body, half, format!("{key}{name}")));
                    }
                    continue;
                }
                Step::Again { reason, retry_after } => (reason, retry_after, Request { key, body, items }),
                Step::Answered(sorted) => {
                    if sorted.loaded > 0 || !sorted.rejected.is_empty() {
                        backoff.progressed();
                    }
                    outcome.tally.loaded += sorted.loaded;
                    outcome.tally.replaced += sorted.replaced;
                    outcome.tally.bytes += sorted.bytes_loaded;
                    sorted.rejected.into_iter().for_each(|rejection| outcome.reject(rejection));
                    if sorted.again.is_empty() {
                        continue;
                    }
                    (sorted.again_reason, None, some(&body, &sorted.again, key))
                }
            };
            waiting.push_front(again);
            outcome.retries += 1;
            match backoff.pause(Instant::now(), retry_after) {
                Ok(pause) => {
                    self.pauses.try_send((reason, pause)).ok();
                    tokio::time::sleep(pause).await;
                }
                Err(give_up) => {
                    outcome.failure = Some(Failure::GaveUp { tried: give_up.tried, last: reason });
                    return outcome;
                }
            }
        }
        outcome
    }

    async fn attempt(&self, job: &Job, key: &str, body: &Bytes, items: &[Item]) -> Step {
        let sent = self.client.bulk(&job.index, key, job.claim.as_deref(), body.clone()).await;
        let reply = match sent {
            Ok(reply) => reply,
            Err(error) => return Step::Again { reason: error.to_string(), retry_after: None },
        };
        match reply.status {
            200 => {
                let answer = serde_json::from_slice(&reply.body).map_err(|error| error.to_string());
                match answer.and_then(|answer| sort(items.to_vec(), answer)) {
                    Ok(sorted) if sorted.claim_lost => Step::Failed(Failure::ClaimLost),
                    Ok(sorted) => Step::Answered(sorted),
                    Err(error) => {
                        let reason = format!("not the answer to a bulk request: {error}");
                        Step::Failed(Failure::Refused { status: 200, reason })
                    }
                }
            }
            409 if reply.json()["error"]["type"] == CLAIM_LOST => Step::Failed(Failure::ClaimLost),
            413 => Step::TooLarge { reason: reply.error_reason() },
            status if is_for_now(status) => Step::Again {
                reason: format!("status {status}: {}", reply.error_reason()),
                retry_after: reply.retry_after,
            },
            status => Step::Failed(Failure::Refused { status, reason: reply.error_reason() }),
        }
    }
}

fn reject_too_large(outcome: &mut Outcome, items: Vec<Item>, reason: &str) {
    let rejection = |item: Item| Rejection {
        place: item.place,
        kind: "content_too_large".to_owned(),
        reason: format!("a document of {} bytes is too large for the server: {reason}", item.bytes),
    };
    items.into_iter().map(rejection).for_each(|rejection| outcome.reject(rejection));
}

/// A request of some of the documents of another.
fn some(body: &Bytes, items: &[Item], key: String) -> Request {
    let mut some = BytesMut::with_capacity(items.iter().map(|item| item.lines.len()).sum());
    let mut kept = Vec::with_capacity(items.len());
    for item in items {
        let start = some.len();
        some.extend_from_slice(&body[item.lines.clone()]);
        kept.push(Item { lines: start..some.len(), ..item.clone() });
    }
    Request { key, body: some.freeze(), items: kept }
}
