//! Indices: made, shown, deleted, refreshed.

use std::time::Duration;

use http::StatusCode;
use trawl_data::mapping::Mapping;

use super::{
    call::Call,
    document::check_active_shards,
    error::{ApiError, illegal, parsing},
    json::{Json, Members, object},
    keys, render,
    respond::Answer,
    settings::{self, Change, Settings},
};
use crate::{
    error::Error,
    request::{ChangeIndex, CreateIndex},
};

/// How long to wait for what the cluster has to do, if the request does not say.
const TIMEOUT: Duration = Duration::from_secs(30);

/// `PUT /{index}`
pub(crate) async fn create(call: Call) -> Result<Answer, ApiError> {
    let name = call.segment(0).to_owned();
    let index = parse(&call.object()?)?;
    check_active_shards(&call.params)?;
    let wait = match call.params.get("wait_for_active_shards") {
        Some("0") => Duration::ZERO,
        _ => call.params.duration("timeout")?.unwrap_or(TIMEOUT),
    };
    let created = call.root().create_index(&name, index, wait).await?;
    let answer = Answer::ok(object! {
        "acknowledged" => true,
        "shards_acknowledged" => created.shards_acknowledged,
        "index" => name,
    });
    let warned = |answer: Answer, warning: &String| {
        // As Elasticsearch sends them (RFC 9111, section 5.5); its clients show what is quoted.
        let text = warning.replace(['"', '\\'], "'");
        answer.with_header("warning", &format!("299 Trawl-{} \"{text}\"", env!("CARGO_PKG_VERSION")))
    };
    Ok(created.warnings.iter().fold(answer, warned))
}

fn parse(members: &Members) -> Result<CreateIndex, Error> {
    let mut settings = Settings::default();
    let mut mapping = Mapping::default();
    for (key, value) in members {
        match key.as_str() {
            "settings" => settings = Settings::parse(value)?,
            "mappings" => mapping = Mapping::parse(&value.to_value())?,
            "aliases" => {
                if let Some((alias, _)) = keys::object(value, key)?.first() {
                    return Err(illegal(format!("aliases are not supported, found [{alias}]")));
                }
            }
            _ => return Err(parsing(format!("unknown key [{key}] for create index"))),
        }
    }
    Ok(CreateIndex {
        shards: settings.shards,
        replicas: settings.replicas,
        refresh_interval: settings.refresh_interval,
        log_bytes_max: settings.log_bytes_max,
        log_age_max: settings.log_age_max,
        replace_after: settings.replace_after,
        mapping,
    })
}

/// `GET /{index}`
pub(crate) async fn get(call: Call) -> Result<Answer, ApiError> {
    let flat = call.params.flag("flat_settings")?.unwrap_or(false);
    let mut shown = Members::new();
    for name in call.indices()? {
        let view = call.root().index_view_latest(&name).await?;
        let index = object! {
            "aliases" => Members::new(),
            "mappings" => Json::from(view.mapping.to_json()),
            "settings" => settings::shown(&view.record, flat),
        };
        shown.push((name, index));
    }
    Ok(Answer::ok(Json::Object(shown)))
}

/// `HEAD /{index}`
pub(crate) async fn exists(call: Call) -> Result<Answer, ApiError> {
    match call.indices() {
        Ok(names) if names.is_empty() => Ok(Answer::empty(StatusCode::NOT_FOUND)),
        Ok(_) => Ok(Answer::empty(StatusCode::OK)),
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(Answer::empty(StatusCode::NOT_FOUND)),
        Err(error) => Err(error),
    }
}

/// `GET /{index}/_settings`, `GET /_settings`
pub(crate) async fn settings(call: Call) -> Result<Answer, ApiError> {
    let flat = call.params.flag("flat_settings")?.unwrap_or(false);
    let with_defaults = call.params.flag("include_defaults")?.unwrap_or(false);
    let mut shown = Members::new();
    for name in call.indices()? {
        let view = call.root().index_view_latest(&name).await?;
        let mut index = vec![("settings".to_owned(), settings::shown(&view.record, flat))];
        if with_defaults {
            index.push(("defaults".to_owned(), settings::defaults(&view.record, flat)));
        }
        shown.push((name, Json::Object(index)));
    }
    Ok(Answer::ok(Json::Object(shown)))
}

/// `PUT /{index}/_settings`, `PUT /_settings`
pub(crate) async fn put_settings(call: Call) -> Result<Answer, ApiError> {
    let Some(body) = call.json()? else {
        return Err(Error::invalid("parse_exception", "request body is required").into());
    };
    let Change { change, fixed } = Change::parse(&body)?;
    let names = call.indices()?;
    if !fixed.is_empty() {
        let mut open = Vec::new();
        for name in &names {
            open.push(format!("[{name}/{}]", call.root().index_view(name).await?.record.uid));
        }
        let (fixed, open) = (fixed.join(", "), open.join(", "));
        return Err(illegal(format!("Can't update non dynamic settings [[{fixed}]] for open indices [{open}]")).into());
    }
    if change == ChangeIndex::default() {
        let reason = "Validation Failed: 1: no settings to update;";
        return Err(Error::invalid("action_request_validation_exception", reason).into());
    }
    call.root().change_indices(&names, change).await?;
    Ok(Answer::ok(object! { "acknowledged" => true }))
}

/// `DELETE /{index}`
pub(crate) async fn delete(call: Call) -> Result<Answer, ApiError> {
    let expression = call.segment(0);
    if expression.contains('*') || expression.split(',').any(|name| name == "_all") {
        return Err(illegal("Wildcard expressions or all indices are not allowed").into());
    }
    let names = call.indices()?;
    call.root().delete_index(&names).await?;
    Ok(Answer::ok(object! { "acknowledged" => true }))
}

/// `GET|POST /{index}/_refresh`, `/_refresh`
pub(crate) async fn refresh(call: Call) -> Result<Answer, ApiError> {
    let names = call.indices()?;
    let summary = call.root().refresh(&names).await?;
    Ok(Answer::ok(object! { "_shards" => render::shards(&summary, false) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::json;

    fn parsed(text: &str) -> Result<CreateIndex, Error> {
        parse(json::parse(text.as_bytes()).unwrap().as_object().unwrap())
    }

    #[test]
    fn bodies() {
        let index = parsed(
            r#"{"settings":{"number_of_shards":2},"mappings":{"properties":{"a":{"type":"keyword"}}},"aliases":{}}"#,
        )
        .unwrap();
        assert_eq!((index.shards, index.replicas), (2, 1));
        assert!(index.mapping.field("a").is_some());
        assert_eq!(parsed(r#"{"foo":1}"#).unwrap_err().to_string(), "unknown key [foo] for create index");
        assert_eq!(parsed(r#"{"aliases":{"b":{}}}"#).unwrap_err().to_string(), "aliases are not supported, found [b]");
    }
}
