//! One request as its handler sees it.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use super::{
    Shared,
    error::{ApiError, not_json},
    json::{self, Json, Members},
    params::Params,
};
use crate::{
    error::Error,
    request::{Refresh, ResolveOptions},
    root::Root,
};

/// A routed request with its body.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    /// What the placeholders of the route stand for, in order.
    pub(crate) segments: Vec<String>,
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Parameters that say which indices an expression may name.
pub(crate) const INDEX_PARAMS: &[&str] = &["ignore_unavailable", "allow_no_indices", "expand_wildcards"];

impl Call {
    pub(crate) fn root(&self) -> &Root {
        &self.shared.root
    }

    /// The placeholder at a position; routes without it give an empty text.
    pub(crate) fn segment(&self, at: usize) -> &str {
        self.segments.get(at).map(String::as_str).unwrap_or_default()
    }

    /// The body as JSON; `None` when there is none.
    pub(crate) fn json(&self) -> Result<Option<Json>, Error> {
        if self.body.trim_ascii().is_empty() {
            return Ok(None);
        }
        json::parse(&self.body).map(Some).map_err(|error| not_json(&error))
    }

    /// The body as a JSON object; an empty one when there is none.
    pub(crate) fn object(&self) -> Result<Members, Error> {
        match self.json()? {
            None => Ok(Members::new()),
            Some(Json::Object(members)) => Ok(members),
            Some(other) => Err(super::error::parsing(format!("Expected [START_OBJECT] but found [{}]", other.token()))),
        }
    }

    /// Names of the indices that the first placeholder (none: all) stands for.
    pub(crate) fn indices(&self) -> Result<Vec<String>, ApiError> {
        self.indices_of(self.segment(0))
    }

    /// Names of the indices that an expression stands for.
    pub(crate) fn indices_of(&self, expression: &str) -> Result<Vec<String>, ApiError> {
        let options = resolve_options(&self.params)?;
        let expression = if expression.is_empty() { "_all" } else { expression };
        Ok(self.shared.root.resolve(expression, options)?)
    }

    /// The `refresh` parameter of a write.
    pub(crate) fn refresh(&self) -> Result<Refresh, Error> {
        match self.params.get("refresh") {
            None | Some("false") => Ok(Refresh::False),
            Some("" | "true") => Ok(Refresh::True),
            Some("wait_for") => Ok(Refresh::WaitFor),
            Some(other) => Err(super::error::illegal(format!("Unknown value for refresh: [{other}]."))),
        }
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// `ignore_unavailable`, `allow_no_indices`, `expand_wildcards`.
pub(crate) fn resolve_options(params: &Params) -> Result<ResolveOptions, Error> {
    for word in params.list("expand_wildcards").unwrap_or_default() {
        // There are only open, visible indices: every choice but `none` comes to the same.
        if !matches!(word.as_str(), "open" | "all" | "closed" | "hidden") {
            return Err(super::error::illegal(format!("No valid expand wildcard value [{word}]")));
        }
    }
    let defaults = ResolveOptions::default();
    Ok(ResolveOptions {
        ignore_unavailable: params.flag("ignore_unavailable")?.unwrap_or(defaults.ignore_unavailable),
        allow_no_indices: params.flag("allow_no_indices")?.unwrap_or(defaults.allow_no_indices),
    })
}
