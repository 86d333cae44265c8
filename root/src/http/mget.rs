//! `_mget`: documents by id, of one index or several.

use trawl_proto::v1;

use super::{
    call::Call,
    document::found,
    error::{ApiError, illegal},
    fetch::{SOURCE_PARAMS, SourceFilter},
    json::{Json, object},
    keys,
    respond::Answer,
};
use crate::error::Error;

/// Parameters of `_mget`.
pub(crate) const PARAMS: &[&[&str]] = &[&["realtime", "refresh", "routing", "preference"], SOURCE_PARAMS];

/// How many documents one request may ask for.
const DOCUMENTS_MAX: usize = 10_000;

struct Wanted {
    index: String,
    id: String,
    routing: Option<String>,
    source: SourceFilter,
}

/// Documents of one index with one source filter: one call.
struct Group {
    index: String,
    source: SourceFilter,
    /// Places in the answer.
    places: Vec<usize>,
}

/// `GET|POST /_mget`, `/{index}/_mget`
pub(crate) async fn mget(call: Call) -> Result<Answer, ApiError> {
    let wanted = parse(&call)?;
    let realtime = call.params.flag("realtime")?.unwrap_or(true);
    if call.params.flag("refresh")? == Some(true) {
        let mut names: Vec<String> = wanted.iter().map(|wanted| wanted.index.clone()).collect();
        names.sort();
        names.dedup();
        call.root().refresh(&names).await?;
    }
    let mut answers: Vec<Json> = vec![Json::Null; wanted.len()];
    for group in grouped(&wanted) {
        call.root().await_known(&group.index).await;
        let ids =
            group.places.iter().map(|place| (wanted[*place].id.clone(), wanted[*place].routing.clone())).collect();
        let results = call.root().get(&group.index, ids, realtime, group.source.options()).await;
        for (at, place) in group.places.iter().enumerate() {
            let result = match &results {
                Ok(results) => results.get(at).cloned().unwrap_or(Ok(None)),
                Err(error) => Err(error.clone()),
            };
            answers[*place] = shown(&wanted[*place], result);
        }
    }
    Ok(Answer::ok(object! { "docs" => answers }))
}

fn shown(wanted: &Wanted, result: Result<Option<v1::Document>, Error>) -> Json {
    match result {
        Ok(document) => found(&wanted.index, &wanted.id, document.as_ref(), wanted.source.wanted),
        Err(error) => object! {
            "_index" => wanted.index.as_str(),
            "_id" => wanted.id.as_str(),
            "error" => ApiError::from(error).error(),
        },
    }
}

fn grouped(wanted: &[Wanted]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (place, one) in wanted.iter().enumerate() {
        let group = groups.iter_mut().find(|group| group.index == one.index && group.source == one.source);
        match group {
            Some(group) => group.places.push(place),
            None => groups.push(Group { index: one.index.clone(), source: one.source.clone(), places: vec![place] }),
        }
    }
    groups
}

fn parse(call: &Call) -> Result<Vec<Wanted>, Error> {
    let default_source = SourceFilter::from_params(&call.params)?.unwrap_or_default();
    let default_routing = call.params.get("routing");
    let mut wanted = Vec::new();
    let new = |id: String| Wanted {
        index: call.segment(0).to_owned(),
        id,
        routing: default_routing.map(str::to_owned),
        source: default_source.clone(),
    };
    for (key, value) in &call.object()? {
        match key.as_str() {
            "ids" => wanted.extend(keys::texts(value, key)?.into_iter().map(new)),
            "docs" => {
                let elements = value.as_array().ok_or_else(|| illegal("[docs] must be an array"))?;
                for element in elements {
                    let mut one = new(String::new());
                    if let Some(id) = element.scalar_text() {
                        one.id = id;
                    } else {
                        document(&mut one, element)?;
                    }
                    wanted.push(one);
                }
            }
            _ => return Err(illegal(format!("unknown key [{key}] in an mget request, expected [docs] or [ids]"))),
        }
    }
    if wanted.len() > DOCUMENTS_MAX {
        return Err(illegal(format!("more than [{DOCUMENTS_MAX}] documents in one mget request")));
    }
    let mut missing = Vec::new();
    if wanted.is_empty() {
        missing.push("no documents to get".to_owned());
    }
    for (place, one) in wanted.iter().enumerate() {
        if one.index.is_empty() {
            missing.push(format!("index is missing for doc {place}"));
        }
        if one.id.is_empty() {
            missing.push(format!("id is missing for doc {place}"));
        }
    }
    if missing.is_empty() {
        return Ok(wanted);
    }
    let list: String = missing.iter().enumerate().map(|(number, text)| format!(" {}: {text};", number + 1)).collect();
    Err(Error::invalid("action_request_validation_exception", format!("Validation Failed:{list}")))
}

fn document(one: &mut Wanted, json: &Json) -> Result<(), Error> {
    for (key, value) in keys::object(json, "docs")? {
        match key.as_str() {
            "_index" => one.index = keys::text(value, key)?,
            "_id" => one.id = keys::text(value, key)?,
            "routing" | "_routing" => one.routing = Some(keys::text(value, key)?),
            "_source" => one.source = SourceFilter::parse(value)?,
            _ => return Err(illegal(format!("unknown key [{key}] in a document of an mget request"))),
        }
    }
    Ok(())
}
