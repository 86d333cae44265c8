//! Typed values of the keys of a request body. Errors name the part (`[match]`) and the key.

use std::time::Duration;

use super::{
    error::{illegal, parsing},
    json::{Json, Members},
    params,
};
use crate::error::{Cause, Error};

/// A switch; the strings `"true"` and `"false"` count too, as in Elasticsearch.
pub fn boolean(json: &Json, key: &str) -> Result<bool, Error> {
    match json {
        Json::Bool(value) => Ok(*value),
        Json::String(text) if text == "true" => Ok(true),
        Json::String(text) if text == "false" => Ok(false),
        other => Err(illegal(format!(
            "Failed to parse value [{}] as only [true] or [false] are allowed. ([{key}])",
            shown(other)
        ))),
    }
}

/// A number or its text.
pub fn float(json: &Json, key: &str) -> Result<f64, Error> {
    let value = match json {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    value.filter(|value| value.is_finite()).ok_or_else(|| not_a_number(json, key))
}

/// A whole number or its text.
pub fn integer(json: &Json, key: &str) -> Result<i64, Error> {
    let value = match json {
        Json::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
        }),
        Json::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    value.ok_or_else(|| not_a_number(json, key))
}

/// A whole number from 0 to 2³¹ − 1.
pub fn count(json: &Json, key: &str) -> Result<u32, Error> {
    let value = integer(json, key)?;
    if value > i64::from(i32::MAX) {
        return Err(illegal(format!("[{key}] must be at most [{}], found [{value}]", i32::MAX)));
    }
    u32::try_from(value).map_err(|_| illegal(format!("[{key}] parameter cannot be negative, found [{value}]")))
}

/// Text; numbers and switches count as what they look like.
pub fn text(json: &Json, key: &str) -> Result<String, Error> {
    json.scalar_text().ok_or_else(|| parsing(format!("[{key}] must be a string but found [{}]", json.token())))
}

/// A duration such as `"500ms"`.
pub fn duration(json: &Json, key: &str) -> Result<Duration, Error> {
    params::duration(&text(json, key)?, key)
}

/// One text or an array of texts.
pub fn texts(json: &Json, key: &str) -> Result<Vec<String>, Error> {
    match json {
        Json::Array(elements) => elements.iter().map(|element| text(element, key)).collect(),
        other => Ok(vec![text(other, key)?]),
    }
}

/// An object.
pub fn object<'a>(json: &'a Json, key: &str) -> Result<&'a Members, Error> {
    json.as_object()
        .ok_or_else(|| parsing(format!("[{key}] malformed: expected [START_OBJECT] but found [{}]", json.token())))
}

/// A factor on scores: not negative.
pub fn boost(json: &Json, query: &str) -> Result<f32, Error> {
    let value = float(json, "boost")?;
    if !(value as f32).is_finite() {
        return Err(not_a_number(json, "boost"));
    }
    if value < 0.0 {
        return Err(illegal(format!(
            "negative [boost] are not allowed in [{query}], use a value between 0 and 1 to deboost"
        )));
    }
    Ok(value as f32)
}

fn not_a_number(json: &Json, key: &str) -> Error {
    Error::Invalid {
        error_type: "illegal_argument_exception",
        reason: format!("failed to parse [{key}] with value [{}]", shown(json)),
        caused_by: Some(Cause {
            error_type: "number_format_exception".to_owned(),
            reason: format!("For input string: \"{}\"", shown(json)),
        }),
    }
}

/// A value as messages show it; long ones are cut.
pub fn shown(json: &Json) -> String {
    let text = json.scalar_text().unwrap_or_else(|| String::from_utf8_lossy(&json.to_bytes()).into_owned());
    if text.chars().count() <= 200 {
        return text;
    }
    text.chars().take(200).chain("...".chars()).collect()
}
