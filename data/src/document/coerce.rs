//! One value of a document for one field type: coerced, refused or dropped as Elasticsearch does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Value;
use crate::date::{DATE_MS_MAX, DATE_MS_MIN, DateFormats};
use crate::mapping::{FieldType, KEYWORD_BYTES_MAX};

/// A JSON value that is neither object, array nor null. Numbers are kept as written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scalar<'a> {
    String(&'a str),
    Number(&'a str),
    Boolean(bool),
}

impl<'a> Scalar<'a> {
    /// As written.
    pub(super) fn text(self) -> &'a str {
        match self {
            Self::String(text) | Self::Number(text) => text,
            Self::Boolean(true) => "true",
            Self::Boolean(false) => "false",
        }
    }
}

/// Why a value does not fit: type and reason of Elasticsearch's exception.
pub(super) type Misfit = (&'static str, String);

fn illegal(reason: impl Into<String>) -> Misfit {
    ("illegal_argument_exception", reason.into())
}

/// The value for the field type; `None` when the value counts as none.
pub(super) fn coerce(field_type: &FieldType, scalar: Scalar<'_>) -> Result<Option<Value>, Misfit> {
    let text = scalar.text();
    match field_type {
        FieldType::Text { .. } => Ok(Some(Value::Text(text.to_owned()))),
        FieldType::Keyword { ignore_above } => keyword(text, *ignore_above),
        FieldType::Double | FieldType::Float => floating(field_type, scalar).map(|number| number.map(Value::Double)),
        FieldType::Boolean => boolean(scalar).map(|value| Some(Value::Boolean(value))),
        FieldType::Date { formats } => date(formats, scalar).map(|ms| Some(Value::Date(ms))),
        FieldType::Ip => match scalar {
            Scalar::String("") | Scalar::Boolean(_) | Scalar::Number(_) => Err(not_an_ip(text)),
            Scalar::String(text) => ip(text).map(|address| Some(Value::Ip(address))).ok_or_else(|| not_an_ip(text)),
        },
        FieldType::Long | FieldType::Integer | FieldType::Short | FieldType::Byte => {
            whole(field_type, scalar).map(|number| number.map(Value::Long))
        }
    }
}

fn keyword(text: &str, ignore_above: Option<u32>) -> Result<Option<Value>, Misfit> {
    if let Some(most) = ignore_above
        && text.len() > most as usize
        // Java counts UTF-16 units.
        && text.encode_utf16().count() > most as usize
    {
        return Ok(None);
    }
    if text.len() > KEYWORD_BYTES_MAX {
        return Err(illegal(format!(
            "the value is too long to be a keyword: bytes can be at most {KEYWORD_BYTES_MAX} in length; got {}",
            text.len()
        )));
    }
    Ok(Some(Value::Keyword(text.to_owned())))
}

/// A whole number: fractions are cut off, strings are read as numbers, an empty string is no value.
fn whole(field_type: &FieldType, scalar: Scalar<'_>) -> Result<Option<i64>, Misfit> {
    let (least, most) = field_type.integer_range().unwrap_or((i64::MIN, i64::MAX));
    let text = match scalar {
        Scalar::Boolean(_) => return Err(not_numeric(scalar)),
        Scalar::String("") => return Ok(None),
        Scalar::String(text) => text.trim(),
        Scalar::Number(text) => text,
    };
    let article = if matches!(field_type, FieldType::Integer) { "an" } else { "a" };
    let out_of_range =
        || illegal(format!("Value [{}] is out of range for {article} {}", scalar.text(), field_type.name()));
    let number = match text.parse::<i64>() {
        Ok(number) => number,
        Err(_) => match decimal(text) {
            None if matches!(field_type, FieldType::Long) => {
                return Err(illegal(format!("For input string: \"{}\"", scalar.text())));
            }
            None => return Err(for_input_string(scalar.text())),
            Some(decimal) => decimal.ok_or_else(out_of_range)?,
        },
    };
    if number < least || number > most { Err(out_of_range()) } else { Ok(Some(number)) }
}

/// The whole part of a decimal number as written, cut towards zero: `None` when the text is no
/// number, `Some(None)` when it does not fit in 64 bits.
///
/// Done on the digits, since a double would lose those behind the sixteenth.
fn decimal(text: &str) -> Option<Option<i64>> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // The place of the point behind the exponent, counted in digits from the left.
    let point = (whole.len() as i64).saturating_add(exponent);
    let mut number: i64 = 0;
    let all = whole.bytes().chain(fraction.bytes());
    let given = (whole.len() + fraction.len()) as i64;
    for digit in all.take(usize::try_from(point).unwrap_or(0)) {
        let digit = i64::from(digit - b'0');
        let next = number
            .checked_mul(10)
            .and_then(|number| if negative { number.checked_sub(digit) } else { number.checked_add(digit) });
        match next {
            Some(next) => number = next,
            None => return Some(None),
        }
    }
    if number != 0 {
        // Zeros that the exponent adds; more than 19 cannot fit.
        for _ in 0..point.saturating_sub(given).clamp(0, 20) {
            match number.checked_mul(10) {
                Some(next) => number = next,
                None => return Some(None),
            }
        }
    }
    Some(Some(number))
}

/// A decimal exponent, held to where more makes no difference.
fn exponent_of(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let size = digits.parse::<i64>().unwrap_or(i64::MAX).min(1 << 40);
    Some(if text.starts_with('-') { -size } else { size })
}

/// A finite number; `float` is rounded to 32 bits.
fn floating(field_type: &FieldType, scalar: Scalar<'_>) -> Result<Option<f64>, Misfit> {
    let text = match scalar {
        Scalar::Boolean(_) => return Err(not_numeric(scalar)),
        Scalar::String("") => return Ok(None),
        Scalar::String(text) => text.trim(),
        Scalar::Number(text) => text,
    };
    let number = match text {
        // Java's names; Rust would take any case and `inf` as well.
        "NaN" | "+NaN" | "-NaN" => f64::NAN,
        "Infinity" | "+Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        text if text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) => {
            text.parse::<f64>().map_err(|_| for_input_string(scalar.text()))?
        }
        _ => return Err(for_input_string(scalar.text())),
    };
    let number = if matches!(field_type, FieldType::Float) { f64::from(number as f32) } else { number };
    if number.is_finite() {
        // One zero, so that a term of `0` finds `-0.0`.
        return Ok(Some(number + 0.0));
    }
    let shown = if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    Err(illegal(format!("[{}] supports only finite values, but got [{shown}]", field_type.name())))
}

fn boolean(scalar: Scalar<'_>) -> Result<bool, Misfit> {
    match scalar {
        Scalar::Boolean(value) => Ok(value),
        Scalar::String("true") => Ok(true),
        Scalar::String("false" | "") => Ok(false),
        Scalar::String(text) => {
            Err(illegal(format!("Failed to parse value [{text}] as only [true] or [false] are allowed.")))
        }
        Scalar::Number(text) => {
            Err(("x_content_parse_exception", format!("Current token ({}) not of boolean type", number_token(text))))
        }
    }
}

fn date(formats: &DateFormats, scalar: Scalar<'_>) -> Result<i64, Misfit> {
    let text = scalar.text();
    if text.is_empty() {
        return Err(illegal("cannot parse empty datetime"));
    }
    let ms = formats
        .parse_date(text)
        .ok_or_else(|| illegal(format!("failed to parse date field [{text}] with format [{formats}]")))?;
    if ms >= DATE_MS_MAX {
        return Err(illegal(format!(
            "date[{text}] is after 2262-04-11T23:47:16.854775807 and cannot be stored in nanosecond resolution"
        )));
    }
    if ms <= DATE_MS_MIN {
        return Err(illegal(format!(
            "date[{text}] is before 1677-09-21T00:12:43.145224192 and cannot be stored in nanosecond resolution"
        )));
    }
    Ok(ms)
}

/// An address of either family as IPv6. A zone (`%eth0`) is not part of an address.
fn ip(text: &str) -> Option<Ipv6Addr> {
    match text.parse::<IpAddr>().ok()? {
        IpAddr::V4(address) => Some(Ipv4Addr::to_ipv6_mapped(&address)),
        IpAddr::V6(address) => Some(address),
    }
}

fn not_an_ip(text: &str) -> Misfit {
    illegal(format!("'{text}' is not an IP string literal."))
}

fn for_input_string(text: &str) -> Misfit {
    if text.trim().is_empty() {
        ("number_format_exception", "empty String".to_owned())
    } else {
        ("number_format_exception", format!("For input string: \"{text}\""))
    }
}

fn not_numeric(scalar: Scalar<'_>) -> Misfit {
    let token = if matches!(scalar, Scalar::Boolean(true)) { "VALUE_TRUE" } else { "VALUE_FALSE" };
    ("x_content_parse_exception", format!("Current token ({token}) not numeric, can not use numeric value accessors"))
}

/// What Jackson calls such a number.
fn number_token(text: &str) -> &'static str {
    if text.contains(['.', 'e', 'E']) { "VALUE_NUMBER_FLOAT" } else { "VALUE_NUMBER_INT" }
}
