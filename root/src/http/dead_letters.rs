//! `/_trawl/dead_letters`: what was rejected for its content.

use http::StatusCode;
use trawl_cluster::dead_letters::LetterKey;
use trawl_proto::v1::operation::Kind;

use super::{
    call::Call,
    error::{ApiError, illegal},
    json::{self, Json, Members, object},
    respond::Answer,
};
use crate::dead_letters::{self, Choice, Handled, Letter};

/// Letters in a listing when nothing is said, and at most.
const SIZE: usize = 100;
const SIZE_MAX: usize = 1_000;
/// Documents are cut to this in a listing, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// A listing ends early when its documents have so many bytes together.
const LIST_BYTES_MAX: usize = 32 << 20;

/// Parameters of a listing.
pub(crate) const PARAMS: &[&[&str]] = &[&["index", "after", "size"]];

/// `GET /_trawl/dead_letters?index=NAME&after=ID&size=N`
pub(crate) async fn list(call: Call) -> Result<Answer, ApiError> {
    let root = call.root();
    let after = call.params.get("after").filter(|after| !after.is_empty()).map(parse_id).transpose()?;
    let size = call.params.number("size")?.unwrap_or(SIZE).min(SIZE_MAX);
    let letters = dead_letters::list(root, call.params.get("index"), after.as_ref(), size).await?;
    let counts = dead_letters::counts(root).await?;
    let mut bytes = 0;
    let fitting = letters.iter().enumerate().take_while(|(place, letter)| {
        bytes += letter.operation.source.len().min(DOCUMENT_BYTES_MAX);
        *place == 0 || bytes <= LIST_BYTES_MAX
    });
    let shown: Vec<Json> = fitting.map(|(_, letter)| shown(letter, DOCUMENT_BYTES_MAX)).collect();
    Ok(Answer::ok(object! {
        "letters" => shown,
        "kept" => counts.kept,
        "bytes" => counts.bytes,
        "aged_out" => counts.aged_out,
    }))
}

/// `GET /_trawl/dead_letters/{uid}/{shard}/{incarnation}/{seq}`
pub(crate) async fn show(call: Call) -> Result<Answer, ApiError> {
    let id = (0..4).map(|at| call.segment(at)).collect::<Vec<_>>().join("/");
    match dead_letters::one(call.root(), &parse_id(&id)?).await? {
        Some(letter) => Ok(Answer::ok(shown(&letter, usize::MAX))),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "resource_not_found_exception",
            format!("there is no dead letter [{id}]"),
        )),
    }
}

/// `POST /_trawl/dead_letters/_replay`
pub(crate) async fn replay(call: Call) -> Result<Answer, ApiError> {
    let handled = dead_letters::replay(call.root(), choice(&call)?, call.refresh()?).await?;
    Ok(Answer::ok(answered(&handled)))
}

/// `POST /_trawl/dead_letters/_drop`
pub(crate) async fn drop(call: Call) -> Result<Answer, ApiError> {
    let handled = dead_letters::drop_letters(call.root(), choice(&call)?).await?;
    Ok(Answer::ok(answered(&handled)))
}

/// The body: `{"ids": […]}`, `{"index": "name"}` or `{"all": true}`.
fn choice(call: &Call) -> Result<Choice, ApiError> {
    let mut body = call.object()?.into_iter();
    let choice = match (body.next(), body.next()) {
        (Some((key, Json::Array(ids))), None) if key == "ids" => {
            let id = |id: &Json| {
                id.as_str().ok_or_else(|| illegal("[ids] has to be a list of texts").into()).and_then(parse_id)
            };
            Choice::Keys(ids.iter().map(id).collect::<Result<_, _>>()?)
        }
        (Some((key, Json::String(index))), None) if key == "index" => Choice::Index(index),
        (Some((key, Json::Bool(true))), None) if key == "all" => Choice::All,
        _ => {
            let reason = "the body has to be {\"ids\": [\"…\"]}, {\"index\": \"name\"} or {\"all\": true}";
            return Err(illegal(reason).into());
        }
    };
    Ok(choice)
}

fn parse_id(id: &str) -> Result<LetterKey, ApiError> {
    dead_letters::parse_id(id)
        .ok_or_else(|| illegal(format!("[{id}] is not the id of a dead letter: INDEXUID/SHARD/INCARNATION/SEQ")).into())
}

fn shown(letter: &Letter, bytes_max: usize) -> Json {
    let Letter { letter, index, operation } = letter;
    let kind = match operation.kind() {
        Kind::Index => "index",
        Kind::Create => "create",
        Kind::Update => "update",
        Kind::Delete => "delete",
        Kind::Unspecified => "unknown",
    };
    let time = trawl_data::date::format_date(i64::try_from(letter.time_ms).unwrap_or(i64::MAX));
    let mut members: Members = vec![
        ("id".to_owned(), dead_letters::id(&letter.key).to_string().into()),
        ("index".to_owned(), index.as_deref().into()),
        ("shard".to_owned(), letter.key.shard.number.into()),
        ("incarnation".to_owned(), letter.key.at.incarnation.0.into()),
        ("seq".to_owned(), letter.key.at.seq.0.into()),
        ("_id".to_owned(), letter.id.as_str().into()),
        ("operation".to_owned(), kind.into()),
        ("error".to_owned(), object! { "type" => letter.error_type.as_str(), "reason" => letter.reason.as_str() }),
        ("time".to_owned(), time.into()),
        ("mapping_version".to_owned(), letter.mapping_version.into()),
    ];
    if let Some(routing) = &operation.routing {
        members.push(("routing".to_owned(), routing.as_str().into()));
    }
    let source = &operation.source;
    if source.len() > bytes_max {
        let text = String::from_utf8_lossy(&source[..bytes_max]).into_owned();
        members.push(("document".to_owned(), text.into()));
        members.push(("document_truncated".to_owned(), true.into()));
    } else if !source.is_empty() {
        // What is not JSON (that may be why it was rejected) is shown as text.
        let document = match json::parse(source) {
            Ok(_) => Json::Raw(source.clone()),
            Err(_) => String::from_utf8_lossy(source).into_owned().into(),
        };
        members.push(("document".to_owned(), document));
    }
    Json::Object(members)
}

fn answered(handled: &Handled) -> Json {
    let failure = |(key, reason): &(LetterKey, String)| {
        object! { "id" => dead_letters::id(key).to_string(), "reason" => reason.as_str() }
    };
    object! {
        "replayed" => handled.replayed,
        "superseded" => handled.superseded,
        "still_rejected" => handled.still_rejected,
        "conflicts" => handled.conflicts,
        "dropped" => handled.dropped,
        "missing" => handled.missing,
        "failed" => handled.failed,
        "failures" => handled.failures.iter().map(failure).collect::<Vec<_>>(),
    }
}
