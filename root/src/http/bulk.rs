//! `_bulk`: many operations in one request.
//!
//! Only action lines are parsed; documents go through as the bytes they are.

mod parse;

use std::collections::HashMap;
use std::time::Instant;

use trawl_cluster::work_queue::Receipt;

use super::{
    call::Call,
    document::{self, rendered},
    error::{ApiError, illegal},
    fetch::{SOURCE_PARAMS, SourceFilter},
    json::{Json, object},
    position,
    render::millis,
    respond::Answer,
    update::{self, Asked},
};
use crate::{
    error::Error,
    limits::Limit,
    request::{ItemOutcome, WriteItem, WriteOptions},
};
use parse::{Action, Entry};

/// Parameters of `_bulk`.
pub(crate) const PARAMS: &[&[&str]] = &[
    &["refresh", "timeout", "routing", "wait_for_active_shards", "require_alias", "require_data_stream"],
    &["pipeline", "list_executed_pipelines"],
    SOURCE_PARAMS,
];

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
    document::check_params(&call.params)?;
    let default_filter = SourceFilter::from_params(&call.params)?;
    let options = WriteOptions { claim: claim(&call)?, ..document::write_options(&call)? };
    let entries = parsed(&call).await?;
    let mut items = Vec::with_capacity(entries.len());
    let mut slots = Vec::with_capacity(entries.len());
    for Entry { action, index, id, operation, source } in entries {
        let filter = source.or_else(|| default_filter.clone()).filter(|filter| filter.wanted);
        let filter = filter.filter(|_| action == Action::Update);
        let (refused, routing) = match operation {
            Ok(operation) if operation.source.len() > call.shared.limits.document_bytes_max => {
                (Some((index, id, document::too_large(&call, operation.source.len()))), None)
            }
            Ok(mut operation) => {
                operation.returned = filter.as_ref().map(update::returned);
                let routing = operation.routing.clone();
                items.push(WriteItem { index, operation });
                (None, routing)
            }
            Err(error) => (Some((index, id, error)), None),
        };
        slots.push(Slot { action, refused, filter, routing });
    }
    let written = if items.is_empty() { None } else { Some(call.root().write(items, options).await?) };
    let positions = written.as_ref().map(|written| written.positions.clone()).unwrap_or_default();
    let refreshed = written.as_ref().is_some_and(|written| written.refreshed);
    let mut outcomes = written.map(|written| written.items).unwrap_or_default().into_iter();
    let mut done = Vec::with_capacity(slots.len());
    for slot in slots {
        let outcome = match slot.refused {
            Some((index, id, error)) => ItemOutcome { index, id, result: Err(error) },
            None => outcomes.next().ok_or_else(|| Error::Internal("an outcome is missing".to_owned()))?,
        };
        // Whoever lost the claim has to stop: that is the answer, whatever came of the other items.
        if let Err(error @ Error::ClaimLost(_)) = outcome.result {
            return Err(error.into());
        }
        done.push(Done { action: slot.action, outcome, filter: slot.filter, routing: slot.routing });
    }
    let mut documents = updated(&call, &done).await;
    let mut errors = false;
    let mut retry_after: Option<u64> = None;
    let mut shown = Vec::with_capacity(done.len());
    for (at, done) in done.iter().enumerate() {
        if !documents.contains_key(&at)
            && let Some(text) = document::rendered_plainly(done.action.name(), &done.outcome, refreshed)
        {
            shown.push(text);
            continue;
        }
        let mut item = rendered(&done.outcome, done.action == Action::Create, refreshed);
        errors |= item.error.is_some();
        retry_after = retry_after.max(item.error.as_ref().and_then(|error| error.retry_after_seconds));
        item.members.extend(documents.remove(&at).map(|document| ("get".to_owned(), document)));
        shown.push(Json::Object(vec![(done.action.name().to_owned(), item.in_bulk())]));
    }
    let mut answer = Answer::ok(object! { "errors" => errors, "took" => millis(started.elapsed()), "items" => shown });
    if let Some(seconds) = retry_after {
        answer = answer.with_header("retry-after", &seconds.to_string());
    }
    Ok(position::attach(answer, &positions))
}

/// The documents that updates want returned, by place.
async fn updated(call: &Call, done: &[Done]) -> HashMap<usize, Json> {
    let mut places = Vec::new();
    let mut asked = Vec::new();
    for (at, done) in done.iter().enumerate() {
        if let Some(filter) = &done.filter {
            places.push(at);
            asked.push(Asked { outcome: &done.outcome, routing: done.routing.clone(), filter: filter.clone() });
        }
    }
    let documents = update::documents(call.root(), &asked).await;
    places.into_iter().zip(documents).filter_map(|(at, document)| Some((at, document?))).collect()
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
    /// What to return of the updated document.
    filter: Option<SourceFilter>,
    routing: Option<String>,
}

/// An item whose outcome is known.
struct Done {
    action: Action,
    outcome: ItemOutcome,
    filter: Option<SourceFilter>,
    routing: Option<String>,
}

async fn parsed(call: &Call) -> Result<Vec<Entry>, Error> {
    let body = call.body.clone();
    let index = Some(call.segment(0)).filter(|name| !name.is_empty()).map(str::to_owned);
    let routing = call.params.get("routing").map(str::to_owned);
    let most = call.shared.limits.bulk_operations_max;
    let parse = move || parse::at_most(most, &body, index.as_deref(), routing.as_deref());
    let entries = if call.body.len() <= INLINE_BYTES_MAX {
        parse()
    } else {
        tokio::task::spawn_blocking(parse).await.map_err(|error| Error::Internal(error.to_string()))?
    };
    if let Err(Error::TooLarge(_)) = &entries {
        call.root().metrics.refusals.count(Limit::BulkOperations);
    }
    entries
}
