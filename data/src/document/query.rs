//! Values of requests: one value for one field.

use serde_json::Value as Json;

use super::coerce::{Scalar, coerce};
use super::{DocumentError, Value};
use crate::date::{DATE_MS_MAX, DATE_MS_MIN, DateFormats};
use crate::mapping::{Field, FieldType};

/// A value of a request for a field: a term, a sort value, a missing value.
///
/// Coerced as in a document, but without dropping long keywords. A date may also be a number of
/// milliseconds whatever the field's formats, and is held to what documents can have. Date math is
/// read by [`crate::date::parse_date_math`].
///
/// # Errors
/// In Elasticsearch's words; objects, arrays and nulls are no values.
pub fn parse_value(field: &Field, json: &Json) -> Result<Value, DocumentError> {
    let number;
    let scalar = match json {
        Json::String(text) => Scalar::String(text),
        Json::Number(written) => {
            number = written.to_string();
            Scalar::Number(&number)
        }
        Json::Bool(value) => Scalar::Boolean(*value),
        _ => {
            return Err(DocumentError::new(
                "illegal_argument_exception",
                format!(
                    "field [{}] of type [{}] cannot be compared with [{json}]",
                    field.path,
                    field.field_type.name()
                ),
            ));
        }
    };
    match &field.field_type {
        FieldType::Keyword { .. } => Ok(Value::Keyword(scalar.text().to_owned())),
        FieldType::Date { formats } => date(formats, scalar).map(Value::Date),
        other => match coerce(other, scalar) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(DocumentError::new("number_format_exception", "empty String")),
            Err((error_type, reason)) => Err(DocumentError::new(error_type, reason)),
        },
    }
}

/// An instant of a request, held to the ends of what documents can have, which none reaches.
fn date(formats: &DateFormats, scalar: Scalar<'_>) -> Result<i64, DocumentError> {
    let text = scalar.text();
    let ms = match scalar {
        Scalar::Boolean(_) => None,
        // A number is milliseconds where the formats do not take it otherwise: hits show it so.
        Scalar::Number(_) => formats.parse_date(text).or_else(|| text.parse().ok()),
        Scalar::String(_) => formats.parse_date(text),
    };
    ms.map(|ms| ms.clamp(DATE_MS_MIN, DATE_MS_MAX)).ok_or_else(|| {
        DocumentError::new("parse_exception", format!("failed to parse date field [{text}] with format [{formats}]"))
    })
}
