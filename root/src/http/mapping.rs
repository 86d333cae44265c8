//! Mappings: shown and grown.

use super::{
    call::Call,
    error::ApiError,
    json::{Json, Members, object},
    respond::Answer,
};
use crate::error::Error;

/// `GET /{index}/_mapping`, `GET /_mapping`
pub(crate) async fn get(call: Call) -> Result<Answer, ApiError> {
    let mut shown = Members::new();
    for name in call.indices()? {
        let view = call.root().index_view_latest(&name).await?;
        shown.push((name, object! { "mappings" => Json::from(view.mapping.to_json()) }));
    }
    Ok(Answer::ok(Json::Object(shown)))
}

/// `PUT|POST /{index}/_mapping`
pub(crate) async fn put(call: Call) -> Result<Answer, ApiError> {
    let Some(update) = call.json()? else {
        let reason = "Validation Failed: 1: mapping source is missing;";
        return Err(Error::invalid("action_request_validation_exception", reason).into());
    };
    let names = call.indices()?;
    call.root().put_mapping(&names, &update.to_value()).await?;
    Ok(Answer::ok(object! { "acknowledged" => true }))
}
