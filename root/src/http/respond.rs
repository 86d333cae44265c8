//! Answers: `pretty`, `filter_path`, content types and the headers that every answer carries.

use axum::{body::Body, response::Response};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, RETRY_AFTER},
};

use super::{
    error::ApiError,
    filter_path::FilterPath,
    json::{self, Json},
    params::Params,
};

/// Without it the official clients refuse to talk.
pub const PRODUCT: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-elastic-product"), HeaderValue::from_static("Elasticsearch"));

const JSON: &str = "application/json";
const JSON_COMPATIBLE: &str = "application/vnd.elasticsearch+json;compatible-with=8";

/// What a handler answers.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub content: Content,
    /// Headers beyond the common ones.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Content {
    /// JSON, subject to `pretty` and `filter_path`.
    Json(Json),
    /// Text of a content type.
    Text(String, &'static str),
}

impl Answer {
    /// 200 with JSON.
    pub fn ok(json: Json) -> Self {
        Self::status(StatusCode::OK, json)
    }

    /// JSON with a status.
    pub fn status(status: StatusCode, json: Json) -> Self {
        Self { status, content: Content::Json(json), headers: Vec::new() }
    }

    /// 200 with text.
    pub fn text(text: String, content_type: &'static str) -> Self {
        Self { status: StatusCode::OK, content: Content::Text(text, content_type), headers: Vec::new() }
    }

    /// A status without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, content: Content::Text(String::new(), "text/plain; charset=UTF-8"), headers: Vec::new() }
    }

    /// With one more header; a value that no header can hold is left out.
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        let mut answer = Self::status(error.status, error.body());
        if let Some(seconds) = error.retry_after_seconds {
            answer.headers.push((RETRY_AFTER, seconds.into()));
        }
        if let Some(value) = error.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            answer.headers.push((ALLOW, value));
        }
        answer
    }
}

/// The response on the wire.
pub fn respond(answer: Answer, method: &Method, params: &Params, headers: &HeaderMap) -> Response {
    let (bytes, content_type) = match answer.content {
        Content::Text(text, content_type) => (text.into_bytes(), content_type),
        Content::Json(json) => {
            // Errors are shown whole: a filter that hides them would hide that it failed.
            let filter = params.get("filter_path").map(FilterPath::parse).unwrap_or_default();
            let json = if filter.is_empty() || answer.status.as_u16() >= 400 { json } else { filter.apply(json) };
            let compact = json.to_bytes();
            let pretty = params.flag("pretty").ok().flatten().unwrap_or(false);
            (if pretty { json::pretty(&compact) } else { compact }, json_type(headers))
        }
    };
    let head = method == Method::HEAD;
    let mut response = Response::new(if head { Body::empty() } else { Body::from(bytes) });
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().extend(answer.headers);
    response
}

fn json_type(headers: &HeaderMap) -> &'static str {
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("application/vnd.elasticsearch+") { JSON_COMPATIBLE } else { JSON }
}
