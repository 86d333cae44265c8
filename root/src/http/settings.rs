//! Index settings, read from bodies and shown.

use std::time::Duration;

use trawl_cluster::catalog::IndexRecord;

use super::{
    error::illegal,
    json::{Json, Members, object},
    keys, params,
};
use crate::{error::Error, lifecycle::REPLICAS_MAX, request::ChangeIndex};

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
    /// `index.unassigned.node_left.delayed_timeout`; `None`: the cluster's default.
    pub(crate) replace_after: Option<Duration>,
}

const REPLACE_AFTER: &str = "unassigned.node_left.delayed_timeout";
const LOG_SIZE: &str = "trawl.log_size";
const LOG_AGE: &str = "trawl.log_age";

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
            replace_after: None,
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
            "number_of_replicas" => self.replicas = number(short, value, 0, REPLICAS_MAX)?,
            "refresh_interval" => self.refresh_interval = refresh_interval(value)?,
            "trawl.log_size" => self.log_bytes_max = log_size(value)?,
            "trawl.log_age" => self.log_age_max = log_age(value)?,
            REPLACE_AFTER => self.replace_after = replace_after(value)?,
            _ => return Err(unknown(short)),
        }
        Ok(())
    }
}

/// A change of settings as its body says it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Change {
    pub(crate) change: ChangeIndex,
    /// Settings that only a new index can have otherwise, with `index.`.
    pub(crate) fixed: Vec<String>,
}

impl Change {
    /// From a whole body, with or without `settings` around it. `null` sets back to the default.
    pub(crate) fn parse(json: &Json) -> Result<Self, Error> {
        let members = keys::object(json, "settings")?;
        let wrapped = members.iter().find(|(name, value)| name == "settings" && value.as_object().is_some());
        let settings = match wrapped {
            Some(_) if members.len() > 1 => return Err(illegal("mix of settings map and top-level properties")),
            Some((_, inner)) => inner,
            None => json,
        };
        let mut flat = Vec::new();
        flatten("", settings, 0, &mut flat)?;
        let mut this = Self::default();
        for (name, value) in flat {
            this.set(&name, value)?;
        }
        Ok(this)
    }

    fn set(&mut self, name: &str, value: &Json) -> Result<(), Error> {
        let short = name.strip_prefix("index.").unwrap_or(name);
        let (change, value) = (&mut self.change, Some(value).filter(|value| !matches!(value, Json::Null)));
        match short {
            "refresh_interval" => {
                let default = Settings::default().refresh_interval;
                change.refresh_interval = Some(value.map_or(Ok(default), refresh_interval)?);
            }
            "trawl.log_size" => change.log_bytes_max = Some(value.map_or(Ok(None), log_size)?),
            "trawl.log_age" => change.log_age_max = Some(value.map_or(Ok(None), log_age)?),
            "number_of_replicas" => {
                let default = Settings::default().replicas;
                change.replicas = Some(value.map_or(Ok(default), |value| number(short, value, 0, REPLICAS_MAX))?);
            }
            REPLACE_AFTER => change.replace_after = Some(value.map_or(Ok(None), replace_after)?),
            "number_of_shards" => self.fixed.push(format!("index.{short}")),
            "uuid" | "creation_date" | "provided_name" => {
                return Err(illegal(format!(
                    "can not update private setting [index.{short}]; this setting is managed by Trawl"
                )));
            }
            _ => return Err(unknown(short)),
        }
        Ok(())
    }
}

fn unknown(short: &str) -> Error {
    illegal(format!(
        "unknown setting [index.{short}] please check that any required plugins are installed, or check the breaking changes documentation for removed settings"
    ))
}

fn refresh_interval(value: &Json) -> Result<Option<Duration>, Error> {
    match keys::text(value, "refresh_interval")?.trim() {
        "-1" => Ok(None),
        text => params::duration(text, "index.refresh_interval").map(Some),
    }
}

fn log_size(value: &Json) -> Result<Option<u64>, Error> {
    at_least(value, LOG_SIZE, params::byte_size, (LOG_BYTES_MIN, "64kb"))
}

fn log_age(value: &Json) -> Result<Option<Duration>, Error> {
    at_least(value, LOG_AGE, params::duration, (LOG_AGE_MIN, "1s"))
}

/// A limit that is not too small to work with; `-1` leaves it to the cluster.
fn at_least<T: PartialOrd>(
    value: &Json,
    short: &str,
    parse: fn(&str, &str) -> Result<T, Error>,
    (least, shown): (T, &str),
) -> Result<Option<T>, Error> {
    let text = keys::text(value, short)?;
    match text.trim() {
        "-1" => Ok(None),
        text => match parse(text, &format!("index.{short}"))? {
            limit if limit < least => {
                Err(illegal(format!("Failed to parse value [{text}] for setting [index.{short}] must be >= [{shown}]")))
            }
            limit => Ok(Some(limit)),
        },
    }
}

fn replace_after(value: &Json) -> Result<Option<Duration>, Error> {
    params::duration(keys::text(value, REPLACE_AFTER)?.trim(), "index.unassigned.node_left.delayed_timeout").map(Some)
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
        members.push((LOG_SIZE.to_owned(), format!("{bytes}b").into()));
    }
    if record.log_age_max_ms.is_some() {
        members.push((LOG_AGE.to_owned(), time(record.log_age_max_ms).into()));
    }
    if record.replace_after_ms.is_some() {
        members.push((REPLACE_AFTER.to_owned(), time(record.replace_after_ms).into()));
    }
    under_index(members, flat)
}

/// The settings that the index leaves to the cluster: `-1`.
pub(crate) fn defaults(record: &IndexRecord, flat: bool) -> Json {
    let settings = [(LOG_SIZE, record.log_bytes_max.is_none()), (LOG_AGE, record.log_age_max_ms.is_none())];
    let left = settings.into_iter().filter(|(_, is_left)| *is_left);
    under_index(left.map(|(name, _)| (name.to_owned(), "-1".into())).collect(), flat)
}

fn under_index(members: Members, flat: bool) -> Json {
    if flat {
        return Json::Object(members.into_iter().map(|(name, value)| (format!("index.{name}"), value)).collect());
    }
    object! { "index" => nested(members) }
}

/// `a.b` becomes `b` inside of `a`, however deep.
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
    let deeper = |value| match value {
        Json::Object(members) => Json::Object(self::nested(members)),
        value => value,
    };
    nested.into_iter().map(|(name, value)| (name, deeper(value))).collect()
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
    fn changes_of_a_living_index() {
        let change = |text: &str| Change::parse(&json::parse(text.as_bytes()).unwrap());
        let expected = ChangeIndex {
            refresh_interval: Some(None),
            log_bytes_max: Some(Some(1 << 20)),
            log_age_max: Some(Some(Duration::from_secs(5))),
            ..ChangeIndex::default()
        };
        for text in [
            r#"{"refresh_interval":-1,"trawl":{"log_size":"1mb","log_age":"5s"}}"#,
            r#"{"index":{"refresh_interval":"-1","trawl.log_size":"1mb","trawl.log_age":"5s"}}"#,
            r#"{"settings":{"index.refresh_interval":"-1","index.trawl":{"log_size":"1mb","log_age":"5s"}}}"#,
        ] {
            assert_eq!(change(text).unwrap(), Change { change: expected, fixed: Vec::new() }, "{text}");
        }
        let back = change(r#"{"refresh_interval":null,"trawl":{"log_size":null}}"#).unwrap().change;
        assert_eq!((back.refresh_interval, back.log_bytes_max), (Some(Some(Duration::from_secs(1))), Some(None)));
        assert_eq!(back.log_age_max, None);
        let copies = change(r#"{"index":{"number_of_replicas":2,"unassigned":{"node_left":{"delayed_timeout":"0"}}}}"#);
        let copies = copies.unwrap().change;
        assert_eq!((copies.replicas, copies.replace_after), (Some(2), Some(Some(Duration::ZERO))));
        assert_eq!(change(r#"{"index.number_of_shards":2}"#).unwrap().fixed, ["index.number_of_shards"]);
        for (text, reason) in [
            (r#"{"foo":1}"#, "unknown setting [index.foo] "),
            (r#"{"uuid":"x"}"#, "can not update private setting [index.uuid]"),
            (
                r#"{"trawl.log_size":"1kb"}"#,
                "Failed to parse value [1kb] for setting [index.trawl.log_size] must be >= [64kb]",
            ),
            (r#"{"settings":{},"foo":1}"#, "mix of settings map and top-level properties"),
        ] {
            assert!(change(text).unwrap_err().to_string().starts_with(reason), "{text}");
        }
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
