//! One document: `_doc`, `_create`, `_source`.

use std::io::Write;

use http::StatusCode;
use trawl_proto::v1::{self, operation::Kind, outcome};

use super::{
    call::Call,
    error::{ApiError, illegal},
    fetch::{SOURCE_PARAMS, SourceFilter},
    json::{self, Json, Members, object},
    params::Params,
    position, render,
    respond::Answer,
    write::Conditions,
};
use crate::{
    error::Error,
    limits::Limit,
    request::{ItemOutcome, ShardsSummary, WriteItem, WriteOptions, WriteOutcome},
};

/// Parameters of writes.
pub(crate) const WRITE_PARAMS: &[&[&str]] = &[
    &["refresh", "timeout", "routing", "op_type", "wait_for_active_shards", "require_alias", "require_data_stream"],
    &["pipeline"],
    Conditions::PARAMS,
];

/// Parameters of reads.
pub(crate) const GET_PARAMS: &[&[&str]] = &[&["realtime", "refresh", "routing", "preference"], SOURCE_PARAMS];

/// `POST /{index}/_doc`
pub(crate) async fn add(call: Call) -> Result<Answer, ApiError> {
    write(call, None, Kind::Index).await
}

/// `PUT|POST /{index}/_doc/{id}`
pub(crate) async fn put(call: Call) -> Result<Answer, ApiError> {
    let id = call.segment(1).to_owned();
    write(call, Some(id), Kind::Index).await
}

/// `PUT|POST /{index}/_create/{id}`
pub(crate) async fn create(call: Call) -> Result<Answer, ApiError> {
    let id = call.segment(1).to_owned();
    write(call, Some(id), Kind::Create).await
}

/// `DELETE /{index}/_doc/{id}`
pub(crate) async fn delete(call: Call) -> Result<Answer, ApiError> {
    let id = call.segment(1).to_owned();
    // A delete never makes an index.
    call.root().index_view(call.segment(0)).await?;
    write(call, Some(id), Kind::Delete).await
}

async fn write(call: Call, id: Option<String>, kind: Kind) -> Result<Answer, ApiError> {
    let kind = match (call.params.get("op_type"), kind) {
        (None, kind) => kind,
        (Some("create"), Kind::Index | Kind::Create) => Kind::Create,
        (Some("index"), Kind::Index) => Kind::Index,
        (Some(other), _) => return Err(illegal(format!("opType must be 'create' or 'index', found: [{other}]")).into()),
    };
    if kind != Kind::Delete && call.body.trim_ascii().is_empty() {
        return Err(
            Error::invalid("action_request_validation_exception", "Validation Failed: 1: source is missing;").into()
        );
    }
    if let Some(id) = &id {
        check_id(id)?;
    }
    check_params(&call.params)?;
    let mut operation = v1::Operation {
        kind: kind.into(),
        id: id.unwrap_or_default(),
        routing: call.params.get("routing").map(str::to_owned),
        source: if kind == Kind::Delete { bytes::Bytes::new() } else { call.body.clone() },
        ..Default::default()
    };
    Conditions::from_params(&call.params)?.apply(&mut operation)?;
    if operation.source.len() > call.shared.limits.document_bytes_max {
        return Err(too_large(&call, operation.source.len()).into());
    }
    let options = write_options(&call)?;
    let item = WriteItem { index: call.segment(0).to_owned(), operation };
    let written = call.root().write(vec![item], options).await?;
    let outcome =
        written.items.into_iter().next().ok_or_else(|| Error::Internal("an outcome is missing".to_owned()))?;
    let created = kind == Kind::Create;
    let rendered = rendered(&outcome, created, written.refreshed);
    let mut answer = match rendered.error {
        Some(error) => Answer::from(error),
        None => Answer::status(rendered.status, Json::Object(rendered.members)),
    };
    if rendered.status == StatusCode::CREATED {
        answer = answer.with_header("location", &location(&outcome));
    }
    Ok(position::attach(answer, &written.positions))
}

/// How the request wants to write.
pub(crate) fn write_options(call: &Call) -> Result<WriteOptions, Error> {
    Ok(WriteOptions {
        refresh: call.refresh()?,
        timeout: call.params.duration("timeout")?.unwrap_or(WriteOptions::default().timeout),
        idempotency_key: call.header("idempotency-key").map(str::to_owned),
        ..WriteOptions::default()
    })
}

/// The path of a document that was created.
pub(crate) fn location(outcome: &ItemOutcome) -> String {
    format!("/{}/_doc/{}", outcome.index, encoded(&outcome.id))
}

/// Refuses what writes do not support, by name.
pub(crate) fn check_params(params: &Params) -> Result<(), Error> {
    if let Some(pipeline) = params.get("pipeline").filter(|name| *name != "_none") {
        return Err(illegal(format!("[pipeline] is not supported, found [{pipeline}]")));
    }
    for name in ["require_alias", "require_data_stream"] {
        if params.flag(name)? == Some(true) {
            return Err(illegal(format!("[{name}] is not supported")));
        }
    }
    check_active_shards(params)
}

/// 413: a document is over the limit.
pub(crate) fn too_large(call: &Call, bytes: usize) -> Error {
    call.root().metrics.refusals.count(Limit::DocumentSize);
    let max = call.shared.limits.document_bytes_max;
    Error::TooLarge(format!("the document of [{bytes}] bytes is larger than the limit of [{max}] bytes"))
}

/// Bytes of an item of a bulk answer without its index and id, about.
const PLAIN_BYTES: usize = 192;

/// What one operation came to, for `_bulk` and single writes alike.
pub(crate) struct Rendered {
    pub(crate) status: StatusCode,
    /// Everything but the status and the error.
    pub(crate) members: Members,
    pub(crate) error: Option<ApiError>,
}

impl Rendered {
    /// As an item of a bulk answer.
    pub(crate) fn in_bulk(mut self) -> Json {
        self.members.push(("status".to_owned(), self.status.as_u16().into()));
        if let Some(error) = &self.error {
            self.members.push(("error".to_owned(), error.cause()));
        }
        Json::Object(self.members)
    }
}

/// Renders one outcome. `create` is whether the operation was one.
pub(crate) fn rendered(item: &ItemOutcome, create: bool, refreshed: bool) -> Rendered {
    let id = if item.id.is_empty() { Json::Null } else { item.id.as_str().into() };
    let mut members: Members = vec![("_index".to_owned(), item.index.as_str().into()), ("_id".to_owned(), id)];
    let written = match &item.result {
        Ok(written) => written,
        Err(error) => {
            let error = ApiError::from(error.clone());
            return Rendered { status: error.status, members, error: Some(error) };
        }
    };
    let mut place = (0, written.primary_term);
    let mut shards = render::shards(&written.shards, false);
    let (status, result, version) = match &written.outcome {
        WriteOutcome::Accepted { seq } => {
            place.0 = seq.0;
            (StatusCode::ACCEPTED, "accepted", None)
        }
        WriteOutcome::Done(outcome) => {
            place.0 = outcome.seq;
            let (status, result) = match outcome.result() {
                outcome::Result::Created => (StatusCode::CREATED, "created"),
                outcome::Result::Updated => (StatusCode::OK, "updated"),
                outcome::Result::Deleted => (StatusCode::OK, "deleted"),
                outcome::Result::NotFound => (StatusCode::NOT_FOUND, "not_found"),
                outcome::Result::Noop => {
                    // Nothing was written: what is told is where the document stands.
                    place = (outcome.document_seq, outcome.document_term);
                    shards = render::shards(&ShardsSummary::default(), false);
                    (StatusCode::OK, "noop")
                }
                outcome::Result::VersionConflict
                | outcome::Result::Rejected
                | outcome::Result::Missing
                | outcome::Result::Unspecified => {
                    let error = refused(item, outcome, written.shard, create);
                    return Rendered { status: error.status, members, error: Some(error) };
                }
            };
            (status, result, Some(outcome.version))
        }
    };
    if let Some(version) = version {
        members.push(("_version".to_owned(), version.into()));
    }
    members.push(("result".to_owned(), result.into()));
    if refreshed {
        members.push(("forced_refresh".to_owned(), true.into()));
    }
    members.push(("_shards".to_owned(), shards));
    members.push(("_seq_no".to_owned(), place.0.into()));
    members.push(("_primary_term".to_owned(), place.1.into()));
    Rendered { status, members, error: None }
}

/// What [`rendered`] makes of a write in a bulk request that went well, as text: most are, and a tree for each
/// costs the root more than anything else that it does for an item.
pub(crate) fn rendered_plainly(action: &str, item: &ItemOutcome, refreshed: bool) -> Option<Json> {
    let written = item.result.as_ref().ok()?;
    let WriteOutcome::Done(outcome) = &written.outcome else { return None };
    let (status, result) = match outcome.result() {
        outcome::Result::Created => (201, "created"),
        outcome::Result::Updated => (200, "updated"),
        outcome::Result::Deleted => (200, "deleted"),
        _ => return None,
    };
    let ShardsSummary { total, successful, failed, failures, .. } = &written.shards;
    if item.id.is_empty() || !failures.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(PLAIN_BYTES + item.index.len() + item.id.len());
    let (version, seq, term) = (outcome.version, outcome.seq, written.primary_term);
    let forced = if refreshed { "\"forced_refresh\":true," } else { "" };
    // Writing to a vector cannot fail.
    let _ = write!(out, "{{\"{action}\":{{\"_index\":");
    json::write_string(&item.index, &mut out);
    out.extend_from_slice(b",\"_id\":");
    json::write_string(&item.id, &mut out);
    let _ = write!(
        out,
        ",\"_version\":{version},\"result\":\"{result}\",{forced}\"_shards\":{{\"total\":{total},\"successful\":{successful},\
         \"failed\":{failed}}},\"_seq_no\":{seq},\"_primary_term\":{term},\"status\":{status}}}}}"
    );
    Some(Json::Raw(out.into()))
}

/// A conflict, a rejection or a missing document, as the replicas worded it.
fn refused(item: &ItemOutcome, outcome: &v1::Outcome, shard: u32, create: bool) -> ApiError {
    let conflict = outcome.result() == outcome::Result::VersionConflict;
    let fallback = if conflict {
        let why = if create { "document already exists" } else { "required seqNo or primary term does not match" };
        v1::OperationError {
            r#type: "version_conflict_engine_exception".to_owned(),
            reason: format!("[{}]: version conflict, {why} (current version [{}])", item.id, outcome.version),
            caused_by: None,
        }
    } else {
        v1::OperationError { r#type: "exception".to_owned(), reason: "rejected".to_owned(), caused_by: None }
    };
    let error = outcome.error.as_ref().unwrap_or(&fallback);
    let status = match outcome.result() {
        outcome::Result::VersionConflict => StatusCode::CONFLICT,
        outcome::Result::Missing => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    let mut shown = ApiError::new(status, error.r#type.as_str(), error.reason.as_str());
    shown.caused_by = error.caused_by.as_deref().map(|cause| cause_chain(cause, 0));
    if status != StatusCode::BAD_REQUEST {
        shown = shown.with("shard", shard.to_string()).with("index", item.index.as_str());
    }
    shown
}

/// An error with the causes below it.
pub(crate) fn cause_chain(cause: &v1::OperationError, depth: usize) -> Json {
    let mut members: Members =
        vec![("type".to_owned(), cause.r#type.as_str().into()), ("reason".to_owned(), cause.reason.as_str().into())];
    if let Some(inner) = cause.caused_by.as_deref().filter(|_| depth < 10) {
        members.push(("caused_by".to_owned(), cause_chain(inner, depth + 1)));
    }
    Json::Object(members)
}

/// An `_id` has 1 to 512 bytes.
pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    if id.is_empty() {
        return Err(illegal("if _id is specified it must not be empty"));
    }
    if id.len() > 512 {
        let reason = format!(
            "Validation Failed: 1: id [{id}] is too long, must be no longer than 512 bytes but was: {};",
            id.len()
        );
        return Err(Error::invalid("action_request_validation_exception", reason));
    }
    Ok(())
}

/// A write is acknowledged when it is durable, whoever serves: `all` and numbers have nothing to act on,
/// but nonsense is refused.
pub(crate) fn check_active_shards(params: &Params) -> Result<(), Error> {
    match params.get("wait_for_active_shards") {
        None | Some("all" | "index-setting") => Ok(()),
        Some(number) if number.parse::<u32>().is_ok() => Ok(()),
        Some(other) => Err(illegal(format!("cannot parse ActiveShardCount[{other}]"))),
    }
}

/// `GET|HEAD /{index}/_doc/{id}`
pub(crate) async fn get(call: Call) -> Result<Answer, ApiError> {
    let source = SourceFilter::from_params(&call.params)?.unwrap_or_default();
    let document = one(&call, &source).await?;
    let status = if document.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    Ok(Answer::status(status, found(call.segment(0), call.segment(1), document.as_ref(), source.wanted)))
}

/// `GET|HEAD /{index}/_source/{id}`
pub(crate) async fn source(call: Call) -> Result<Answer, ApiError> {
    let source = SourceFilter { wanted: true, ..SourceFilter::from_params(&call.params)?.unwrap_or_default() };
    match one(&call, &source).await? {
        Some(document) => Ok(Answer::ok(Json::Raw(document.source))),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "resource_not_found_exception",
            format!("Document not found [{}]/[{}]", call.segment(0), call.segment(1)),
        )),
    }
}

async fn one(call: &Call, source: &SourceFilter) -> Result<Option<v1::Document>, ApiError> {
    let index = call.segment(0);
    if call.params.flag("refresh")? == Some(true) {
        call.root().refresh(&[index.to_owned()]).await?;
    }
    let realtime = call.params.flag("realtime")?.unwrap_or(true);
    let routing = call.params.get("routing").map(str::to_owned);
    let ids = vec![(call.segment(1).to_owned(), routing)];
    let documents = call.root().get(index, ids, realtime, source.options()).await?;
    documents.into_iter().next().unwrap_or(Ok(None)).map_err(ApiError::from)
}

/// A document as `_doc` and `_mget` show it.
pub(crate) fn found(index: &str, id: &str, document: Option<&v1::Document>, with_source: bool) -> Json {
    let Some(document) = document else {
        return object! { "_index" => index, "_id" => id, "found" => false };
    };
    let mut members: Members = vec![
        ("_index".to_owned(), index.into()),
        ("_id".to_owned(), document.id.as_str().into()),
        ("_version".to_owned(), document.version.into()),
        ("_seq_no".to_owned(), document.seq.into()),
        ("_primary_term".to_owned(), document.primary_term.into()),
    ];
    if let Some(routing) = &document.routing {
        members.push(("_routing".to_owned(), routing.as_str().into()));
    }
    members.push(("found".to_owned(), true.into()));
    if with_source {
        members.push(("_source".to_owned(), Json::Raw(document.source.clone())));
    }
    Json::Object(members)
}

fn encoded(id: &str) -> String {
    let mut text = String::new();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use trawl_proto::Seq;

    use super::*;
    use crate::request::ItemWritten;

    fn item(outcome: WriteOutcome) -> ItemOutcome {
        let shards = ShardsSummary { total: 2, successful: 1, ..ShardsSummary::default() };
        let written = ItemWritten { outcome, shard: 0, primary_term: 1, shards };
        ItemOutcome { index: "books".into(), id: "7".into(), result: Ok(written) }
    }

    fn bulk(item: &ItemOutcome) -> String {
        String::from_utf8(rendered(item, false, false).in_bulk().to_bytes()).unwrap()
    }

    #[test]
    fn text_and_tree_are_the_same() {
        for result in 0..10 {
            let outcome = v1::Outcome { result, seq: 12_345, version: 17, ..Default::default() };
            for (id, refreshed) in [("7", false), ("7", true), ("\"é\n", false), ("", true)] {
                let item = ItemOutcome { id: id.to_owned(), ..item(WriteOutcome::Done(outcome.clone())) };
                let tree = object! { "index" => rendered(&item, false, refreshed).in_bulk() }.to_bytes();
                if let Some(text) = rendered_plainly("index", &item, refreshed) {
                    assert_eq!(String::from_utf8(text.to_bytes()), String::from_utf8(tree));
                }
            }
        }
        let accepted = WriteOutcome::Accepted { seq: Seq(1) };
        assert_eq!(rendered_plainly("index", &item(accepted), false), None);
        let created = v1::Outcome { result: outcome::Result::Created.into(), ..Default::default() };
        assert!(rendered_plainly("index", &item(WriteOutcome::Done(created)), false).is_some());
    }

    #[test]
    fn outcomes_read_as_in_elasticsearch() {
        let created = v1::Outcome {
            result: outcome::Result::Created.into(),
            seq: 3,
            version: 1,
            error: None,
            ..Default::default()
        };
        assert_eq!(
            bulk(&item(WriteOutcome::Done(created))),
            r#"{"_index":"books","_id":"7","_version":1,"result":"created","_shards":{"total":2,"successful":1,"failed":0},"_seq_no":3,"_primary_term":1,"status":201}"#
        );
        assert_eq!(
            bulk(&item(WriteOutcome::Accepted { seq: Seq(9) })),
            r#"{"_index":"books","_id":"7","result":"accepted","_shards":{"total":2,"successful":1,"failed":0},"_seq_no":9,"_primary_term":1,"status":202}"#
        );
        let error = v1::OperationError {
            r#type: "document_parsing_exception".into(),
            reason: "[1:5] failed to parse field [year]".into(),
            caused_by: Some(Box::new(v1::OperationError {
                r#type: "illegal_argument_exception".into(),
                reason: "For input string: \"x\"".into(),
                caused_by: None,
            })),
        };
        let rejected = v1::Outcome {
            result: outcome::Result::Rejected.into(),
            seq: 3,
            version: 0,
            error: Some(error),
            ..Default::default()
        };
        assert_eq!(
            bulk(&item(WriteOutcome::Done(rejected))),
            r#"{"_index":"books","_id":"7","status":400,"error":{"type":"document_parsing_exception","reason":"[1:5] failed to parse field [year]","caused_by":{"type":"illegal_argument_exception","reason":"For input string: \"x\""}}}"#
        );
        let conflict = v1::Outcome {
            result: outcome::Result::VersionConflict.into(),
            seq: 3,
            version: 2,
            error: None,
            ..Default::default()
        };
        let shown = rendered(&item(WriteOutcome::Done(conflict)), true, false);
        assert_eq!(shown.status, StatusCode::CONFLICT);
        assert_eq!(shown.error.unwrap().reason, "[7]: version conflict, document already exists (current version [2])");
    }

    #[test]
    fn documents_and_ids() {
        let document = v1::Document {
            id: "7".into(),
            source: "{\"a\":1}".into(),
            seq: 3,
            version: 2,
            primary_term: 1,
            ..Default::default()
        };
        assert_eq!(
            found("books", "7", Some(&document), true).to_bytes(),
            br#"{"_index":"books","_id":"7","_version":2,"_seq_no":3,"_primary_term":1,"found":true,"_source":{"a":1}}"#
        );
        assert_eq!(found("books", "7", None, true).to_bytes(), br#"{"_index":"books","_id":"7","found":false}"#);
        assert_eq!(encoded("a b/ü"), "a%20b%2F%C3%BC");
        assert!(check_id("").is_err());
        check_id(&"x".repeat(512)).unwrap();
    }
}
