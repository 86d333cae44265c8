//! Values of queries: one value of a request for one field, and the ends of ranges.

use std::net::Ipv6Addr;

use serde_json::Value as Json;
use trawl_proto::v1;

use super::coerce::{Scalar, coerce, ip, not_an_ip};
use super::{DocumentError, Value, value_to_proto};
use crate::date::{DATE_MS_MAX, DATE_MS_MIN, DateFormats, DateMath, parse_date_math};
use crate::mapping::{Field, FieldType};

/// Which end of a range a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Greater than.
    Gt,
    /// Greater than or equal.
    Gte,
    /// Less than.
    Lt,
    /// Less than or equal.
    Lte,
}

impl Side {
    /// Whether it is the lower end.
    pub fn is_lower(self) -> bool {
        matches!(self, Self::Gt | Self::Gte)
    }

    /// Whether the value itself is inside.
    pub fn is_inclusive(self) -> bool {
        matches!(self, Self::Gte | Self::Lte)
    }
}

/// How dates of a request are read.
#[derive(Clone, Debug, Default)]
pub struct DateContext {
    /// What `now` means, in milliseconds.
    pub now_ms: i64,
    /// The request's `format`, instead of the field's.
    pub formats: Option<DateFormats>,
    /// The request's `time_zone`, as an offset from UTC.
    pub offset_ms: i64,
}

/// A value of a request for a field: a term, a sort value, a missing value.
///
/// Coerced as in a document, but without dropping long keywords. Dates may be milliseconds, and
/// are held to what documents can have.
///
/// # Errors
/// In Elasticsearch's words; objects, arrays and nulls are no values.
pub fn parse_value(field: &Field, json: &Json) -> Result<Value, DocumentError> {
    parse_value_at(field, json, &DateContext::default())
}

/// The same where date math is allowed (rounding down).
///
/// # Errors
/// As [`parse_value`].
pub fn parse_value_at(field: &Field, json: &Json, context: &DateContext) -> Result<Value, DocumentError> {
    with_scalar(field, json, |scalar| match &field.field_type {
        FieldType::Keyword { .. } => Ok(Value::Keyword(scalar.text().to_owned())),
        FieldType::Date { formats } => date(formats, scalar, context, false).map(Value::Date),
        other => match coerce(other, scalar) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(DocumentError::new("number_format_exception", "empty String")),
            Err((error_type, reason)) => Err(DocumentError::new(error_type, reason)),
        },
    })
}

/// One end of a range over a field, as documents are compared with it.
///
/// Whole-number fields take decimals (`gte 1.5` is `gte 2`) and numbers beyond their type; dates take
/// date math and fill up what is missing, rounding up for `gt` and `lte`, as Elasticsearch does.
///
/// # Errors
/// As [`parse_value`].
pub fn range_bound(field: &Field, json: &Json, side: Side, context: &DateContext) -> Result<v1::Bound, DocumentError> {
    with_scalar(field, json, |scalar| {
        let (value, inclusive) = match &field.field_type {
            FieldType::Date { formats } => {
                let round_up = matches!(side, Side::Gt | Side::Lte);
                (Value::Date(date(formats, scalar, context, round_up)?), side.is_inclusive())
            }
            FieldType::Keyword { .. } => (Value::Keyword(scalar.text().to_owned()), side.is_inclusive()),
            kind if kind.is_integer() => whole_bound(field, scalar, side)?,
            kind if kind.is_numeric() => (Value::Double(number(kind, scalar)?), side.is_inclusive()),
            _ => (parse_value(field, json)?, side.is_inclusive()),
        };
        Ok(v1::Bound { value: Some(value_to_proto(&value)), inclusive })
    })
}

/// First and last address of `address/prefix`, IPv4 as IPv4-mapped IPv6.
///
/// # Errors
/// When the text is not such a network.
pub fn ip_network(text: &str) -> Result<(Ipv6Addr, Ipv6Addr), DocumentError> {
    let wrong = || {
        let (error_type, reason) = not_an_ip(text);
        DocumentError::new(error_type, reason)
    };
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let bits: u32 = prefix.parse().map_err(|_| wrong())?;
    let is_v4 = !address.contains(':');
    let address = u128::from(ip(address).ok_or_else(wrong)?);
    let bits = match (is_v4, bits) {
        (true, 0..=32) => bits + 96,
        (false, 0..=128) => bits,
        _ => {
            return Err(DocumentError::new("illegal_argument_exception", format!("illegal prefix length '{prefix}' in [{text}]")));
        }
    };
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    Ok((Ipv6Addr::from(address & mask), Ipv6Addr::from(address | !mask)))
}

fn with_scalar<T>(field: &Field, json: &Json, then: impl FnOnce(Scalar<'_>) -> Result<T, DocumentError>) -> Result<T, DocumentError> {
    match json {
        Json::String(text) => then(Scalar::String(text)),
        Json::Number(number) => then(Scalar::Number(&number.to_string())),
        Json::Bool(value) => then(Scalar::Boolean(*value)),
        _ => Err(DocumentError::new(
            "illegal_argument_exception",
            format!("field [{}] of type [{}] cannot be compared with [{json}]", field.path, field.field_type.name()),
        )),
    }
}

/// An instant of a request. Held to the ends of what documents can have, which none reaches.
fn date(formats: &DateFormats, scalar: Scalar<'_>, context: &DateContext, round_up: bool) -> Result<i64, DocumentError> {
    let formats = context.formats.as_ref().unwrap_or(formats);
    let how = DateMath { now_ms: context.now_ms, round_up, offset_ms: context.offset_ms };
    let ms = match scalar {
        Scalar::Boolean(_) => Err(format!("failed to parse date field [{}] with format [{formats}]", scalar.text())),
        // A number is milliseconds where the formats do not take it otherwise: hits show it so.
        Scalar::Number(text) => parse_date_math(text, formats, how).or_else(|reason| text.parse().map_err(|_| reason)),
        Scalar::String(text) => parse_date_math(text, formats, how),
    };
    ms.map(|ms| ms.clamp(DATE_MS_MIN, DATE_MS_MAX)).map_err(|reason| DocumentError::new("parse_exception", reason))
}

/// The end of a range over whole numbers, moved to the nearest whole number inside.
fn whole_bound(field: &Field, scalar: Scalar<'_>, side: Side) -> Result<(Value, bool), DocumentError> {
    if let Ok(number) = scalar.text().trim().parse::<i64>()
        && !matches!(scalar, Scalar::Boolean(_))
    {
        return Ok((Value::Long(number), side.is_inclusive()));
    }
    let number = number(&FieldType::Double, scalar)
        .map_err(|error| DocumentError { reason: error.reason.replace("[double]", &format!("[{}]", field.field_type.name())), ..error })?;
    let inside = if side.is_lower() { number.ceil() } else { number.floor() };
    // 2^63 is the first double beyond; casting saturates.
    if inside >= 9_223_372_036_854_775_808.0 {
        return Ok((Value::Long(i64::MAX), !side.is_lower()));
    }
    if inside < -9_223_372_036_854_775_808.0 {
        return Ok((Value::Long(i64::MIN), side.is_lower()));
    }
    let moved = inside != number;
    Ok((Value::Long(inside as i64), side.is_inclusive() || moved))
}

fn number(field_type: &FieldType, scalar: Scalar<'_>) -> Result<f64, DocumentError> {
    match coerce(field_type, scalar) {
        Ok(Some(Value::Double(number))) => Ok(number),
        Ok(_) => Err(DocumentError::new("number_format_exception", "empty String")),
        Err((error_type, reason)) => Err(DocumentError::new(error_type, reason)),
    }
}
