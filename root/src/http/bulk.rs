//! `_bulk`: many operations in one request.
//!
//! Only action lines are parsed; documents go through as the bytes they are.

mod parse;

use std::time::Instant;

use trawl_cluster::work_queue::Receipt;

use super::{
    call::Call,
    document::{self, rendered},
    error::{ApiError, illegal},
    json::{Json, object},
    position,
    render::millis,
    respond::Answer,
};
use crate::{
    error::Error,
    request::{ItemOutcome, WriteItem, WriteOptions},
};
use parse::{Action, Entry};

/// Parameters of `_bulk`.
pub(crate) const PARAMS: &[&[&str]] = &[&[
    "refresh",
    "timeout",
    "routing",
    "wait_for_active_shards",
    "require_alias",
    "require_data_stream",
    "pipeline",
    "_source",
    "list_executed_pipelines",
]];

/// Header that names the claim of a task: `TASK-CLAIM`.
const CLAIM: &str = "x-trawl-claim";

/// Bodies above this are parsed off the async workers.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// `POST|PUT /_bulk`, `/{index}/_bulk`:
/// 1. split the lines and parse the actions,
/// 2. write what can be written,
/// 3. put outcomes and refusals back in the order of the request.
pub(crate) async fn bulk(call: Call) -> Result<Answer, ApiError> {
    let started = Instant::now();
    check_params(&call)?;
    let options = WriteOptions {
        refresh: call.refresh()?,
        timeout: call.params.duration("timeout")?.unwrap_or(WriteOptions::default().timeout),
        wait_for_outcome: true,
        idempotency_key: call.header("idempotency-key").map(str::to_owned),
        claim: claim(&call)?,
    };
    let entries = parsed(&call).await?;
    let mut items = Vec::with_capacity(entries.len());
    let mut slots = Vec::with_capacity(entries.len());
    for Entry { action, index, id, operation } in entries {
        slots.push(match operation {
            Ok(operation) => {
                items.push(WriteItem { index, operation });
                Slot { action, refused: None }
            }
            Err(error) => Slot { action, refused: Some((index, id, error)) },
        });
    }
    let written = if items.is_empty() { None } else { Some(call.root().write(items, options).await?) };
    let positions = written.as_ref().map(|written| written.positions.clone()).unwrap_or_default();
    let refreshed = written.as_ref().is_some_and(|written| written.refreshed);
    let mut outcomes = written.map(|written| written.items).unwrap_or_default().into_iter();
    let mut errors = false;
    let mut shown = Vec::with_capacity(slots.len());
    for slot in slots {
        let outcome = match slot.refused {
            Some((index, id, error)) => ItemOutcome { index, id, result: Err(error) },
            None => outcomes.next().ok_or_else(|| Error::Internal("an outcome is missing".to_owned()))?,
        };
        // Whoever lost the claim has to stop: that is the answer, whatever came of the other items.
        if let Err(error @ Error::ClaimLost(_)) = outcome.result {
            return Err(error.into());
        }
        let item = rendered(&outcome, slot.action == Action::Create, refreshed);
        errors |= item.error.is_some();
        shown.push(Json::Object(vec![(slot.action.name().to_owned(), item.in_bulk())]));
    }
    let answer = Answer::ok(object! { "errors" => errors, "took" => millis(started.elapsed()), "items" => shown });
    Ok(match position::encode(&positions) {
        Some(token) => answer.with_header(position::POSITION, &token),
        None => answer,
    })
}

/// The claim that the request is sent for.
fn claim(call: &Call) -> Result<Option<Receipt>, Error> {
    let Some(text) = call.header(CLAIM) else { return Ok(None) };
    text.parse().map(Some).map_err(|error| illegal(format!("header [X-Trawl-Claim]: {error}")))
}

struct Slot {
    action: Action,
    /// Index, `_id` and reason of what is not even tried.
    refused: Option<(String, String, Error)>,
}

fn check_params(call: &Call) -> Result<(), Error> {
    if let Some(pipeline) = call.params.get("pipeline").filter(|name| *name != "_none") {
        return Err(illegal(format!("[pipeline] is not supported, found [{pipeline}]")));
    }
    for name in ["require_alias", "require_data_stream"] {
        if call.params.flag(name)? == Some(true) {
            return Err(illegal(format!("[{name}] is not supported")));
        }
    }
    document::check_active_shards(&call.params)
}

async fn parsed(call: &Call) -> Result<Vec<Entry>, Error> {
    let body = call.body.clone();
    let index = Some(call.segment(0)).filter(|name| !name.is_empty()).map(str::to_owned);
    let routing = call.params.get("routing").map(str::to_owned);
    if body.len() <= INLINE_BYTES_MAX {
        return parse::parse(&body, index.as_deref(), routing.as_deref());
    }
    tokio::task::spawn_blocking(move || parse::parse(&body, index.as_deref(), routing.as_deref()))
        .await
        .map_err(|error| Error::Internal(error.to_string()))?
}
