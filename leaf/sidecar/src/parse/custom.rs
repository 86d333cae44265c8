//! Formats of one's own: a regular expression with named groups. `time`, `level`, `message`, `trace_id` and `span_id` are
//! what they say, all others are fields.

use std::borrow::Cow;
use std::sync::Arc;

use regex::Regex;

use super::{level, time};
use crate::record::{Record, Value};

/// A format of one's own.
#[derive(Clone, Debug)]
pub struct Custom {
    /// Its name.
    pub name: Arc<str>,
    regex: Arc<Regex>,
}

impl Custom {
    /// Compiles the expression, which has to have at least one named group.
    ///
    /// # Errors
    /// Why not, for a person.
    pub fn new(name: &str, pattern: &str) -> Result<Self, String> {
        let regex = Regex::new(pattern).map_err(|error| error.to_string())?;
        if regex.capture_names().flatten().next().is_none() {
            return Err("has no named group, for example (?<message>.*)".to_owned());
        }
        Ok(Self { name: name.into(), regex: Arc::new(regex) })
    }

    /// A record, if the expression matches.
    pub fn parse<'a>(&self, line: &'a str) -> Option<Record<'a>> {
        let captures = self.regex.captures(line)?;
        let mut record = Record::text(line);
        for name in self.regex.capture_names().flatten() {
            let Some(value) = captures.name(name).map(|group| group.as_str()) else { continue };
            match name {
                "time" => {
                    record.time_ns =
                        time::whole(value).or_else(|| time::since_epoch(value)).or_else(|| time::of_access_log(value));
                    if record.time_ns.is_some() {
                        continue;
                    }
                }
                "level" => {
                    record.severity = level::severity(value).unwrap_or(0);
                    if record.severity > 0 {
                        continue;
                    }
                }
                "message" => {
                    record.message = Cow::Borrowed(value);
                    continue;
                }
                _ => {}
            }
            record.fields.push((Cow::Owned(name.to_owned()), Value::Text(Cow::Borrowed(value))));
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn groups_become_fields() {
        let custom = Custom::new("x", r"^(?<level>\w+)\|(?<time>[^|]+)\|(?<user>[^|]*)\|(?<message>.*)$").unwrap();
        let record = custom.parse("WARN|2026-11-23T03:01:41Z|anna|slow").unwrap();
        assert_eq!((record.severity, &*record.message), (13, "slow"));
        assert_eq!(record.fields, [("user".into(), Value::Text("anna".into()))]);
        assert!(custom.parse("nothing").is_none());
        assert!(Custom::new("x", "a(b)").unwrap_err().contains("named group"));
        assert!(Custom::new("x", "a(").is_err());
    }
}
