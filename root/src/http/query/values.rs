//! Values of queries as a field compares them: numbers, dates, switches and addresses from JSON.

use std::net::{IpAddr, Ipv6Addr};

use trawl_data::{
    date::{DateFormats, DateMath, parse_date_math},
    mapping::{Field, FieldType},
};
use trawl_proto::v1::{self, DynamicType, value::Kind};

use super::{Lowering, build, does_not_fit};
use crate::error::Error;

/// Documents whose field holds exactly this value: the `term` of a field that is not analysed, and
/// of an analysed one when the text is a term already.
pub fn exact(lowering: &mut Lowering<'_>, field: &Field, text: &str) -> Result<v1::Query, Error> {
    lowering.clause()?;
    let path = field.path.as_str();
    match &field.field_type {
        FieldType::Text { .. } | FieldType::Keyword { .. } => Ok(build::term(path, build::string(text))),
        FieldType::Boolean => Ok(build::term(path, wire(Kind::Boolean(switch(text)?)))),
        FieldType::Ip => address(path, text),
        FieldType::Date { formats } => {
            // A date without a time of day is the whole day, as in Elasticsearch.
            let math = DateMath { now_ms: lowering.now_ms, round_up: false, offset_ms: 0 };
            let from = date(text, formats, math)?;
            let to = date(text, formats, DateMath { round_up: true, ..math })?;
            if from == to {
                return Ok(build::term(path, wire(Kind::DateMs(from))));
            }
            Ok(between(path, Some((wire(Kind::DateMs(from)), true)), Some((wire(Kind::DateMs(to)), true))))
        }
        number => Ok(match number_forms(number, field.dynamic, text)? {
            values if values.is_empty() => build::none(),
            mut values if values.len() == 1 => build::term(path, values.remove(0)),
            values => build::term_set(path, values),
        }),
    }
}

/// The values of one entry of `terms`: empty when no document can hold it. Dates and addresses that
/// stand for a range have none and are queries of their own ([`exact`]).
pub fn point(lowering: &Lowering<'_>, field: &Field, text: &str) -> Result<Option<Vec<v1::Value>>, Error> {
    Ok(Some(match &field.field_type {
        FieldType::Text { .. } | FieldType::Keyword { .. } => vec![build::string(text)],
        FieldType::Boolean => vec![wire(Kind::Boolean(switch(text)?))],
        FieldType::Ip => match ip(text) {
            Some(bytes) => vec![bytes],
            None => return Ok(None),
        },
        FieldType::Date { formats } => {
            let math = DateMath { now_ms: lowering.now_ms, round_up: false, offset_ms: 0 };
            let from = date(text, formats, math)?;
            if from != date(text, formats, DateMath { round_up: true, ..math })? {
                return Ok(None);
            }
            vec![wire(Kind::DateMs(from))]
        }
        number => number_forms(number, field.dynamic, text)?,
    }))
}

/// Wraps a kind.
pub fn wire(kind: Kind) -> v1::Value {
    v1::Value { kind: Some(kind) }
}

/// The forms in which a number field can hold the number: none if it cannot.
fn number_forms(field_type: &FieldType, dynamic: Option<u32>, text: &str) -> Result<Vec<v1::Value>, Error> {
    let number = number(text)?;
    let mut values = Vec::new();
    let types = dynamic.unwrap_or_default();
    let also_long = types & (1 << DynamicType::DynamicLong as u32) != 0;
    if let Some((least, greatest)) = field_type.integer_range() {
        values.extend(
            number.whole().filter(|value| (least..=greatest).contains(value)).map(|value| wire(Kind::Long(value))),
        );
        return Ok(values);
    }
    let float = number.float();
    values.push(wire(Kind::Double(if *field_type == FieldType::Float { f64::from(float as f32) } else { float })));
    if also_long && let Some(value) = number.whole() {
        values.push(wire(Kind::Long(value)));
    }
    Ok(values)
}

/// A number as written: whole if it can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// 64 bits.
    Whole(i64),
    /// Anything else.
    Float(f64),
}

impl Number {
    /// The same as a whole number, if it is one.
    pub fn whole(self) -> Option<i64> {
        match self {
            Self::Whole(value) => Some(value),
            // 2^63 itself is out of range.
            Self::Float(value) => {
                (value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0).then_some(value as i64)
            }
        }
    }

    /// The same as floating point.
    pub fn float(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// Reads a number.
pub fn number(text: &str) -> Result<Number, Error> {
    let trimmed = text.trim();
    if let Ok(value) = trimmed.parse() {
        return Ok(Number::Whole(value));
    }
    // Rust also reads `inf` and `nan`, which Elasticsearch refuses too.
    match trimmed.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Number::Float(value)),
        _ => Err(does_not_fit("number_format_exception", format!("For input string: \"{text}\""))),
    }
}

/// Reads a switch.
pub fn switch(text: &str) -> Result<bool, Error> {
    match text {
        "true" => Ok(true),
        "false" | "" => Ok(false),
        _ => Err(does_not_fit(
            "illegal_argument_exception",
            format!("Can't parse boolean value [{text}], expected [true] or [false]"),
        )),
    }
}

/// Reads a date or date math.
pub fn date(text: &str, formats: &DateFormats, how: DateMath) -> Result<i64, Error> {
    parse_date_math(text, formats, how).map_err(|reason| does_not_fit("parse_exception", reason))
}

/// An address in wire form.
pub fn ip(text: &str) -> Option<v1::Value> {
    let address = match text.trim().parse().ok()? {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    Some(ip_value(address))
}

fn ip_value(address: Ipv6Addr) -> v1::Value {
    wire(Kind::Ip(address.octets().to_vec().into()))
}

/// An error for what is no address.
pub fn not_an_ip(text: &str) -> Error {
    does_not_fit("illegal_argument_exception", format!("'{text}' is not an IP string literal."))
}

/// An address or a network (`10.0.0.0/8`).
fn address(path: &str, text: &str) -> Result<v1::Query, Error> {
    if let Some(value) = ip(text) {
        return Ok(build::term(path, value));
    }
    let network = || {
        let (address, bits) = text.split_once('/')?;
        let bits: u32 = bits.parse().ok()?;
        let (address, bits) = match address.parse().ok()? {
            IpAddr::V4(address) if bits <= 32 => (address.to_ipv6_mapped(), bits + 96),
            IpAddr::V6(address) if bits <= 128 => (address, bits),
            _ => return None,
        };
        let host = if bits == 128 { 0 } else { u128::MAX >> bits };
        let number = u128::from(address);
        Some((Ipv6Addr::from(number & !host), Ipv6Addr::from(number | host)))
    };
    let (first, last) = network().ok_or_else(|| not_an_ip(text))?;
    Ok(between(path, Some((ip_value(first), true)), Some((ip_value(last), true))))
}

/// Documents with a value between bounds, each inclusive or not; all that have a value when neither is set.
pub fn between(path: &str, lower: Option<(v1::Value, bool)>, upper: Option<(v1::Value, bool)>) -> v1::Query {
    if lower.is_none() && upper.is_none() {
        return build::exists(path);
    }
    let bound = |(value, inclusive)| v1::Bound { value: Some(value), inclusive };
    build::query(v1::query::Kind::Range(v1::Range {
        field: path.to_owned(),
        lower: lower.map(bound),
        upper: upper.map(bound),
    }))
}
