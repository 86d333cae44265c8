//! `_update`: change the document that is there, or begin one.
//!
//! The body goes into the log as it is; what becomes of the document is decided by its shard in the
//! order of the log. So nothing can come between reading and writing, and there is nothing to retry.

use bytes::Bytes;
use http::StatusCode;
use trawl_data::document::update::UpdateRequest;
use trawl_proto::v1::{self, operation::Kind};

use super::{
    call::Call,
    document::{self, Rendered, rendered},
    error::ApiError,
    fetch::{SOURCE_PARAMS, SourceFilter},
    json::{self, Json, Members},
    position,
    respond::Answer,
    write::{Conditions, invalid},
};
use crate::{
    error::Error,
    request::{ItemOutcome, WriteItem, WriteOutcome},
    root::Root,
};

/// Parameters of `_update`.
pub(crate) const PARAMS: &[&[&str]] = &[
    &["refresh", "timeout", "routing", "wait_for_active_shards", "require_alias", "retry_on_conflict"],
    Conditions::PARAMS,
    SOURCE_PARAMS,
];

/// `POST /{index}/_update/{id}`
pub(crate) async fn update(call: Call) -> Result<Answer, ApiError> {
    if call.body.trim_ascii().is_empty() {
        return Err(Error::invalid("parse_exception", "request body is required").into());
    }
    document::check_id(call.segment(1))?;
    document::check_params(&call.params)?;
    let conditions = Conditions::from_params(&call.params)?;
    let id = call.segment(1).to_owned();
    let routing = call.params.get("routing").map(str::to_owned);
    let (mut operation, wanted) = operation(id, routing, call.body.clone(), conditions)?;
    let wanted = SourceFilter::from_params(&call.params)?.or(wanted).filter(|filter| filter.wanted);
    operation.returned = wanted.as_ref().map(returned);
    let options = document::write_options(&call)?;
    let routing = operation.routing.clone();
    let item = WriteItem { index: call.segment(0).to_owned(), operation };
    let written = call.root().write(vec![item], options).await?;
    let outcome = written.items.first().ok_or_else(|| Error::Internal("an outcome is missing".to_owned()))?;
    let mut rendered = rendered(outcome, false, written.refreshed);
    if let Some(filter) = wanted {
        let asked = [Asked { outcome, routing, filter }];
        if let Some(get) = documents(call.root(), &asked).await.pop().flatten() {
            rendered.members.push(("get".to_owned(), get));
        }
    }
    Ok(position::attach(answer(rendered, outcome), &written.positions))
}

fn answer(rendered: Rendered, outcome: &ItemOutcome) -> Answer {
    let answer = match rendered.error {
        Some(error) => Answer::from(error),
        None => Answer::status(rendered.status, Json::Object(rendered.members)),
    };
    match rendered.status {
        StatusCode::CREATED => answer.with_header("location", &document::location(outcome)),
        _ => answer,
    }
}

/// The operation of an update request, and what its body wants returned of the new document.
pub(super) fn operation(
    id: String,
    routing: Option<String>,
    body: Bytes,
    mut conditions: Conditions,
) -> Result<(v1::Operation, Option<SourceFilter>), Error> {
    let request = UpdateRequest::parse(&body)?;
    conditions.if_seq_no = request.if_seq_no.or(conditions.if_seq_no);
    conditions.if_primary_term = request.if_primary_term.or(conditions.if_primary_term);
    let filter = request
        .source
        .map(|text| json::parse(text.as_bytes()).map_err(|error| super::error::not_json(&error)))
        .transpose()?
        .map(|json| SourceFilter::parse(&json))
        .transpose()?;
    let mut broken = Vec::new();
    if conditions.if_seq_no.is_some() {
        if request.doc_as_upsert {
            broken.push("compare and write operations can not be used with upsert".to_owned());
        }
        if request.upsert.is_some() {
            broken.push("upsert requests don't support `if_seq_no` and `if_primary_term`".to_owned());
        }
    }
    if request.doc.is_none() {
        broken.push("script or doc is missing".to_owned());
        if request.doc_as_upsert {
            broken.push("doc must be specified if doc_as_upsert is enabled".to_owned());
        }
    }
    if !broken.is_empty() {
        return Err(invalid(&broken));
    }
    let mut operation = v1::Operation { kind: Kind::Update.into(), id, routing, ..Default::default() };
    conditions.apply(&mut operation)?;
    operation.source = body;
    Ok((operation, filter))
}

/// An update that shall be answered with the document.
pub(super) struct Asked<'a> {
    pub(super) outcome: &'a ItemOutcome,
    pub(super) routing: Option<String>,
    pub(super) filter: SourceFilter,
}

/// What an outcome is asked to bring along.
pub(super) fn returned(filter: &SourceFilter) -> v1::ReturnedSource {
    v1::ReturnedSource { includes: filter.includes.clone(), excludes: filter.excludes.clone() }
}

/// The `get` part of each; none where the update wrote and found nothing, or the document cannot be had.
/// Outcomes bring it along while they are recent. Otherwise the document is read now: when another write came
/// in between, it is that write's, with its `_seq_no`.
pub(super) async fn documents(root: &Root, asked: &[Asked<'_>]) -> Vec<Option<Json>> {
    let mut shown: Vec<Option<Json>> = asked.iter().map(|asked| brought(asked.outcome)).collect();
    let is_left = |at: &usize| shown[*at].is_none() && is_there(asked[*at].outcome);
    let mut left: Vec<usize> = (0..asked.len()).filter(is_left).collect();
    while let Some(first) = left.first().map(|at| &asked[*at]) {
        let alike = |other: &Asked<'_>| other.outcome.index == first.outcome.index && other.filter == first.filter;
        let (group, rest): (Vec<usize>, Vec<usize>) = left.iter().partition(|at| alike(&asked[**at]));
        let ids = group.iter().map(|at| (asked[*at].outcome.id.clone(), asked[*at].routing.clone())).collect();
        match root.get(&first.outcome.index, ids, true, first.filter.options()).await {
            Ok(documents) => {
                for (at, document) in group.iter().zip(documents) {
                    shown[*at] = document.ok().map(|document| get(document.as_ref()));
                }
            }
            Err(error) => tracing::debug!(%error, "cannot get updated documents"),
        }
        left = rest;
    }
    shown
}

fn is_there(outcome: &ItemOutcome) -> bool {
    use v1::outcome::Result as Came;
    match outcome.result.as_ref().map(|written| &written.outcome) {
        Ok(WriteOutcome::Done(outcome)) => {
            matches!(outcome.result(), Came::Created | Came::Updated | Came::Noop)
        }
        _ => false,
    }
}

/// The document that an outcome brings along.
fn brought(outcome: &ItemOutcome) -> Option<Json> {
    let written = outcome.result.as_ref().ok()?;
    let WriteOutcome::Done(outcome) = &written.outcome else { return None };
    if outcome.document.is_empty() {
        return None;
    }
    let (seq, term) = match outcome.result() {
        v1::outcome::Result::Noop => (outcome.document_seq, outcome.document_term),
        _ => (outcome.seq, written.primary_term),
    };
    Some(found(seq, term, outcome.document_routing.as_deref(), outcome.document.clone()))
}

fn get(document: Option<&v1::Document>) -> Json {
    let Some(document) = document else { return json::object! { "found" => false } };
    found(document.seq, document.primary_term, document.routing.as_deref(), document.source.clone())
}

fn found(seq: u64, term: u64, routing: Option<&str>, source: Bytes) -> Json {
    let mut members: Members = vec![("_seq_no".to_owned(), seq.into()), ("_primary_term".to_owned(), term.into())];
    if let Some(routing) = routing {
        members.push(("_routing".to_owned(), routing.into()));
    }
    members.push(("found".to_owned(), true.into()));
    members.push(("_source".to_owned(), Json::Raw(source)));
    Json::Object(members)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(body: &str, conditions: Conditions) -> Result<(v1::Operation, Option<SourceFilter>), Error> {
        operation("1".to_owned(), None, Bytes::from(body.to_owned()), conditions)
    }

    #[test]
    fn bodies_go_through_as_they_are() {
        let body = r#"{"doc":{"n":1.10},"_source":["n"],"if_seq_no":4,"if_primary_term":1}"#;
        let (operation, filter) = read(body, Conditions::default()).unwrap();
        assert_eq!((operation.kind(), &operation.source[..]), (Kind::Update, body.as_bytes()));
        assert_eq!((operation.if_seq_no, operation.if_primary_term), (Some(4), Some(1)));
        assert_eq!(filter.unwrap().includes, ["n"]);
    }

    #[test]
    fn wrong_requests_are_worded_as_in_elasticsearch() {
        let cas = || Conditions { if_seq_no: Some(1), if_primary_term: Some(1), ..Conditions::default() };
        for (body, conditions, reason) in [
            (r#"{"upsert":{}}"#, Conditions::default(), "Validation Failed: 1: script or doc is missing;"),
            (
                r#"{"doc_as_upsert":true}"#,
                Conditions::default(),
                "Validation Failed: 1: script or doc is missing; 2: doc must be specified if doc_as_upsert is enabled;",
            ),
            (
                r#"{"doc":{},"doc_as_upsert":true,"upsert":{}}"#,
                cas(),
                "Validation Failed: 1: compare and write operations can not be used with upsert; 2: upsert requests don't support `if_seq_no` and `if_primary_term`;",
            ),
            (r#"{"nope":{}}"#, Conditions::default(), "[1:2] [UpdateRequest] unknown field [nope]"),
            (
                r#"{"script":"x"}"#,
                Conditions::default(),
                "[script] is not supported in an update, only partial documents are",
            ),
        ] {
            assert_eq!(read(body, conditions).unwrap_err().to_string(), reason, "{body}");
        }
    }
}
