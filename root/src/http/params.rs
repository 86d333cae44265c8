//! The query string of a request: typed parameters, and an error for every unknown one.

use std::time::Duration;

use super::error::illegal;
use crate::error::{Cause, Error};

/// Understood on every path.
const COMMON: &[&str] = &["pretty", "human", "error_trace", "filter_path", "format"];

/// Parameters of one request; the last of several of the same name counts.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Parses what follows the `?`.
    pub fn parse(query: &str) -> Self {
        Self(serde_urlencoded::from_str(query).unwrap_or_default())
    }

    /// From names and values.
    pub fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// Fails when a parameter is neither common nor among these.
    pub fn check(&self, path: &str, allowed: &[&[&str]]) -> Result<(), Error> {
        let known = |name: &str| COMMON.contains(&name) || allowed.iter().any(|names| names.contains(&name));
        let mut unknown: Vec<String> =
            self.0.iter().filter(|(name, _)| !known(name)).map(|(name, _)| format!("[{name}]")).collect();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        let plural = if unknown.len() > 1 { "s" } else { "" };
        Err(illegal(format!("request [{path}] contains unrecognized parameter{plural}: {}", unknown.join(", "))))
    }

    /// The value as written.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A switch: present without a value is true.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some("" | "true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => {
                Err(illegal(format!("Failed to parse value [{other}] as only [true] or [false] are allowed.")))
            }
        }
    }

    /// A whole number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| Error::Invalid {
            error_type: "illegal_argument_exception",
            reason: format!("Failed to parse int parameter [{name}] with value [{text}]"),
            caused_by: Some(Cause {
                error_type: "number_format_exception".to_owned(),
                reason: format!("For input string: \"{text}\""),
            }),
        })
    }

    /// A duration such as `500ms` or `1m`.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, Error> {
        self.get(name).map(|text| duration(text, name)).transpose()
    }

    /// Names separated by commas; empty ones are left out.
    pub fn list(&self, name: &str) -> Option<Vec<String>> {
        self.get(name).map(list)
    }
}

/// Splits at commas.
pub fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// A duration as Elasticsearch writes it: a number with a unit; `-1` and `0` need none.
pub fn duration(text: &str, name: &str) -> Result<Duration, Error> {
    let trimmed = text.trim().to_ascii_lowercase();
    if trimmed == "-1" {
        return Ok(Duration::from_secs(24 * 3600));
    }
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let failed = || {
        illegal(format!(
            "failed to parse setting [{name}] with value [{text}] as a time value: unit is missing or unrecognized"
        ))
    };
    let digits = trimmed.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit = &trimmed[digits.len()..];
    let number: u64 = digits.trim().parse().map_err(|_| failed())?;
    let nanoseconds: u64 = match unit {
        "nanos" => 1,
        "micros" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return Err(failed()),
    };
    Ok(Duration::from_nanos(number.saturating_mul(nanoseconds)))
}

/// A number of bytes as Elasticsearch writes it: a number with a unit from `b` to `tb`.
pub fn byte_size(text: &str, name: &str) -> Result<u64, Error> {
    let trimmed = text.trim().to_ascii_lowercase();
    let failed = || {
        illegal(format!(
            "failed to parse setting [{name}] with value [{text}] as a size in bytes: unit is missing or unrecognized"
        ))
    };
    let digits = trimmed.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().map_err(|_| failed())?;
    let shift = match &trimmed[digits.len()..] {
        "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        "t" | "tb" => 40,
        "" if number == 0 => 0,
        _ => return Err(failed()),
    };
    Ok(number.saturating_mul(1 << shift))
}

/// The text of a path segment: percent signs resolved; `None` when that is not UTF-8.
pub fn decode_segment(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn unknown_parameters_are_named() {
        let params = Params::parse("pretty&foo=1&size=3");
        assert_eq!(
            params.check("/x", &[&["size"]]).unwrap_err().to_string(),
            "request [/x] contains unrecognized parameter: [foo]"
        );
        params.check("/x", &[&["size", "foo"]]).unwrap();
        assert_eq!(params.flag("pretty").unwrap(), Some(true));
        assert_eq!(params.number::<u32>("size").unwrap(), Some(3));
        assert!(params.number::<u32>("pretty").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms", "t").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("1m", "t").unwrap(), Duration::from_secs(60));
        assert!(duration("5", "t").is_err());
        assert!(duration("xs", "t").is_err());
        assert!(duration("é", "t").is_err());
        duration("99999999999999999d", "t").unwrap();
        assert_eq!(byte_size("64mb", "t").unwrap(), 64 << 20);
        assert_eq!(byte_size(" 5B ", "t").unwrap(), 5);
        assert!(byte_size("5", "t").is_err() && byte_size("mb", "t").is_err() && byte_size("1é", "t").is_err());
    }

    #[test]
    fn segments() {
        assert_eq!(decode_segment("a%2Fb%20c%"), Some("a/b c%".to_owned()));
        assert_eq!(decode_segment("%ff"), None);
    }
}
