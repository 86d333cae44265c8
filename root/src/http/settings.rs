//! Index settings, read from bodies and shown.

use std::time::Duration;

use trawl_cluster::catalog::IndexRecord;

use super::{
    error::illegal,
    json::{Json, Members, object},
    keys, params,
};
use crate::error::Error;

/// What can be set when an index is made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) shards: u32,
    pub(crate) replicas: u32,
    pub(crate) refresh_interval: Option<Duration>,
    /// `index.trawl.log_size`: bytes of each shard's log; `None`: the cluster's default.
    pub(crate) log_bytes_max: Option<u64>,
    /// `index.trawl.log_age`: by how much all replicas of a shard may be behind; `None`: no limit.
    pub(crate) log_age_max: Option<Duration>,
}

/// A smaller log could not take one batch.
const LOG_BYTES_MIN: u64 = 64 << 10;
/// A shorter age would refuse writes between two rounds of any replica.
const LOG_AGE_MIN: Duration = Duration::from_secs(1);

impl Default for Settings {
    fn default() -> Self {
        Self {
            shards: 1,
            replicas: 1,
            refresh_interval: Some(Duration::from_secs(1)),
            log_bytes_max: None,
            log_age_max: None,
        }
    }
}

impl Settings {
    /// From a body's `settings` key: nested or dotted, with or without `index.`.
    pub(crate) fn parse(json: &Json) -> Result<Self, Error> {
        let mut settings = Self::default();
        let mut flat = Vec::new();
        flatten("", json, 0, &mut flat)?;
        for (name, value) in flat {
            settings.set(&name, value)?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &Json) -> Result<(), Error> {
        let short = name.strip_prefix("index.").unwrap_or(name);
        match short {
            "number_of_shards" => self.shards = number(short, value, 1, 1024)?,
            "number_of_replicas" => self.replicas = number(short, value, 0, 100)?,
            "refresh_interval" => {
                let text = keys::text(value, short)?;
                self.refresh_interval = match text.trim() {
                    "-1" => None,
                    text => Some(params::duration(text, "index.refresh_interval")?),
                };
            }
            "trawl.log_size" => {
                let text = keys::text(value, short)?;
                self.log_bytes_max = match text.trim() {
                    "-1" => None,
                    text => Some(params::byte_size(text, "index.trawl.log_size")?),
                };
                if self.log_bytes_max.is_some_and(|bytes| bytes < LOG_BYTES_MIN) {
                    return Err(illegal(format!(
                        "Failed to parse value [{text}] for setting [index.{short}] must be >= [64kb]"
                    )));
                }
            }
            "trawl.log_age" => {
                let text = keys::text(value, short)?;
                self.log_age_max = match text.trim() {
                    "-1" => None,
                    text => Some(params::duration(text, "index.trawl.log_age")?),
                };
                if self.log_age_max.is_some_and(|age| age < LOG_AGE_MIN) {
                    return Err(illegal(format!(
                        "Failed to parse value [{text}] for setting [index.{short}] must be >= [1s]"
                    )));
                }
            }
            _ => {
                return Err(illegal(format!(
                    "unknown setting [index.{short}] please check that any required plugins are installed, or check the breaking changes documentation for removed settings"
                )));
            }
        }
        Ok(())
    }
}

fn flatten<'a>(path: &str, json: &'a Json, depth: usize, flat: &mut Vec<(String, &'a Json)>) -> Result<(), Error> {
    for (name, value) in keys::object(json, "settings")? {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Json::Object(_) if depth < 10 => flatten(&path, value, depth + 1, flat)?,
            value => flat.push((path, value)),
        }
    }
    Ok(())
}

fn number(name: &str, value: &Json, least: u32, greatest: u32) -> Result<u32, Error> {
    let text = keys::shown(value);
    let failed = |why: String| illegal(format!("Failed to parse value [{text}] for setting [index.{name}]{why}"));
    let number: i64 = text.trim().parse().map_err(|_| failed(String::new()))?;
    match u32::try_from(number) {
        Ok(number) if number > greatest => Err(failed(format!(" must be <= {greatest}"))),
        Ok(number) if number >= least => Ok(number),
        _ => Err(failed(format!(" must be >= {least}"))),
    }
}

/// The settings of an index as Elasticsearch shows them: all texts.
pub(crate) fn shown(record: &IndexRecord, flat: bool) -> Json {
    let time = |ms: Option<u64>| match ms {
        None => "-1".to_owned(),
        Some(ms) if ms % 1000 == 0 => format!("{}s", ms / 1000),
        Some(ms) => format!("{ms}ms"),
    };
    let refresh = time(record.refresh_interval_ms);
    let mut members: Members = vec![
        ("refresh_interval".to_owned(), refresh.into()),
        ("number_of_shards".to_owned(), record.shards.to_string().into()),
        ("provided_name".to_owned(), record.name.as_str().into()),
        ("creation_date".to_owned(), record.created_ms.to_string().into()),
        ("number_of_replicas".to_owned(), record.replicas.to_string().into()),
        ("uuid".to_owned(), record.uid.as_str().into()),
    ];
    if let Some(bytes) = record.log_bytes_max {
        members.push(("trawl.log_size".to_owned(), format!("{bytes}b").into()));
    }
    if record.log_age_max_ms.is_some() {
        members.push(("trawl.log_age".to_owned(), time(record.log_age_max_ms).into()));
    }
    if flat {
        return Json::Object(members.into_iter().map(|(name, value)| (format!("index.{name}"), value)).collect());
    }
    object! { "index" => nested(members) }
}

/// `a.b` becomes `b` inside of `a`.
fn nested(members: Members) -> Members {
    let mut nested = Members::new();
    for (name, value) in members {
        let Some((outer, inner)) = name.split_once('.') else {
            nested.push((name, value));
            continue;
        };
        let inner = (inner.to_owned(), value);
        match nested.iter_mut().find(|(name, _)| name == outer) {
            Some((_, Json::Object(members))) => members.push(inner),
            _ => nested.push((outer.to_owned(), Json::Object(vec![inner]))),
        }
    }
    nested
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::json;

    fn parsed(text: &str) -> Result<Settings, Error> {
        Settings::parse(&json::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn all_forms() {
        let expected = Settings {
            shards: 4,
            replicas: 0,
            refresh_interval: Some(Duration::from_millis(500)),
            ..Settings::default()
        };
        for text in [
            r#"{"number_of_shards":4,"number_of_replicas":"0","refresh_interval":"500ms"}"#,
            r#"{"index":{"number_of_shards":"4","number_of_replicas":0,"refresh_interval":"500ms"}}"#,
            r#"{"index.number_of_shards":4,"index.number_of_replicas":0,"index.refresh_interval":"500ms"}"#,
        ] {
            assert_eq!(parsed(text).unwrap(), expected, "{text}");
        }
        assert_eq!(parsed(r#"{"refresh_interval":"-1"}"#).unwrap().refresh_interval, None);
        assert_eq!(parsed("{}").unwrap(), Settings::default());
        let limits = parsed(r#"{"index":{"trawl":{"log_size":"64mb","log_age":"90s"}}}"#).unwrap();
        assert_eq!((limits.log_bytes_max, limits.log_age_max), (Some(64 << 20), Some(Duration::from_secs(90))));
        assert_eq!(parsed(r#"{"trawl.log_size":-1,"trawl.log_age":"-1"}"#).unwrap(), Settings::default());
        assert!(parsed(r#"{"trawl.log_size":"1kb"}"#).unwrap_err().to_string().ends_with("must be >= [64kb]"));
        assert!(parsed(r#"{"trawl.log_age":"1ms"}"#).unwrap_err().to_string().ends_with("must be >= [1s]"));
    }

    #[test]
    fn errors_are_worded_as_in_elasticsearch() {
        for (text, reason) in [
            (
                r#"{"foo":1}"#,
                "unknown setting [index.foo] please check that any required plugins are installed, or check the breaking changes documentation for removed settings",
            ),
            (
                r#"{"index":{"number_of_shards":0}}"#,
                "Failed to parse value [0] for setting [index.number_of_shards] must be >= 1",
            ),
            (
                r#"{"number_of_shards":2000}"#,
                "Failed to parse value [2000] for setting [index.number_of_shards] must be <= 1024",
            ),
            (r#"{"number_of_shards":"x"}"#, "Failed to parse value [x] for setting [index.number_of_shards]"),
        ] {
            assert_eq!(parsed(text).unwrap_err().to_string(), reason, "{text}");
        }
    }
}
