//! Settings. Every limit has its default here and a flag in the binary.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use regex::Regex;

use crate::parse::{Custom, Format, severity};

/// What cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what:?}: {reason}")]
pub struct ConfigError {
    what: String,
    reason: String,
}

impl ConfigError {
    pub(crate) fn new(what: &str, reason: impl Into<String>) -> Self {
        Self { what: what.to_owned(), reason: reason.into() }
    }
}

/// Settings of a sidecar.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose files are followed.
    pub log_dir: PathBuf,
    /// Where the checkpoint and the buffers are.
    pub state_dir: PathBuf,
    /// Part of every record's id: unlike that of any other sidecar.
    pub node: String,
    /// Where records go.
    pub sinks: Vec<SinkConfig>,
    /// Formats of files by name; the first that fits counts, the others are found out from the first line.
    pub formats: Vec<FormatRule>,
    /// Formats of one's own.
    pub custom: Vec<Custom>,
    /// Attributes of all records' resource.
    pub resource: Vec<(String, String)>,
    /// Names of files that are left out, with `*`.
    pub exclude: Vec<String>,
    /// Bytes of a line; the rest of it is left out, marked and counted.
    pub line_bytes_max: usize,
    /// Bytes of a record that several lines make up.
    pub record_bytes_max: usize,
    /// Lines of such a record.
    pub record_lines_max: u32,
    /// A batch is shipped when it has as many bytes,
    pub batch_bytes: usize,
    /// or as many records,
    pub batch_records: u64,
    /// or when its first record is as old.
    pub batch_time: Duration,
    /// How long a line may wait for its end, or for lines that belong to it.
    pub join_time: Duration,
    /// Files held open at once; further ones wait.
    pub files_max: usize,
    /// Payloads of each sink that are held in memory, in bytes.
    pub queue_bytes: usize,
    /// How long the end waits for sinks; what they have not taken then is read again at the next start.
    pub stop_time: Duration,
}

impl Config {
    /// The defaults.
    pub fn new(log_dir: impl Into<PathBuf>, state_dir: impl Into<PathBuf>, node: impl Into<String>) -> Self {
        Self {
            log_dir: log_dir.into(),
            state_dir: state_dir.into(),
            node: node.into(),
            sinks: Vec::new(),
            formats: Vec::new(),
            custom: Vec::new(),
            resource: Vec::new(),
            exclude: Vec::new(),
            line_bytes_max: 256 << 10,
            record_bytes_max: 1 << 20,
            record_lines_max: 1_000,
            batch_bytes: 512 << 10,
            batch_records: 4_096,
            batch_time: Duration::from_millis(500),
            join_time: Duration::from_secs(1),
            files_max: 512,
            queue_bytes: 2 << 20,
            stop_time: Duration::from_secs(4),
        }
    }

    /// The format that is set for a file; `None` where the first line is to show it.
    pub fn format_of(&self, file: &str) -> Option<Format> {
        let rule = self.formats.iter().find(|rule| glob(&rule.pattern, file))?;
        Format::named(&rule.format, &self.custom)
    }

    /// # Errors
    /// What does not fit together.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.sinks.is_empty() {
            return Err(ConfigError::new("--sink", "at least one has to be given"));
        }
        for rule in &self.formats {
            if rule.format != "auto" && Format::named(&rule.format, &self.custom).is_none() {
                let reason = "no such format: auto, json, logfmt, cri, syslog, access, plain, or one of --regex";
                return Err(ConfigError::new(&rule.format, reason));
            }
        }
        let within = |path: &Path| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            matches!((parent.canonicalize(), self.log_dir.canonicalize()), (Ok(one), Ok(other)) if one == other)
        };
        for sink in &self.sinks {
            if let SinkKind::File(path) = &sink.kind
                && within(path)
            {
                return Err(ConfigError::new(&sink.name, "this file is in the directory that is followed"));
            }
        }
        if self.sinks.iter().enumerate().any(|(at, sink)| self.sinks[..at].iter().any(|other| other.name == sink.name))
        {
            return Err(ConfigError::new("--sink", "the same sink is given twice"));
        }
        Ok(())
    }
}

/// `PATTERN=FORMAT`: the format of files with such names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatRule {
    pattern: String,
    format: String,
}

impl FromStr for FormatRule {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (pattern, format) =
            text.rsplit_once('=').ok_or_else(|| ConfigError::new(text, "has to be PATTERN=FORMAT"))?;
        Ok(Self { pattern: pattern.to_owned(), format: format.to_owned() })
    }
}

/// Where records go, and which.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Its URL without parameters: what the checkpoint and the metrics call it.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// Least severity that is shipped; records without one always are.
    pub severity_min: u8,
    /// Shares of records that are shipped, by severity (1 to 24).
    pub samples: Vec<(u8, f64)>,
    /// Records are shipped only if this matches their message.
    pub only: Option<Regex>,
    /// Records are not shipped if this matches their message.
    pub drop: Option<Regex>,
    /// Whether bodies are compressed; `None`: as the sink's kind has it.
    pub gzip: Option<bool>,
    /// Bytes of the buffer on disk.
    pub buffer_bytes_max: u64,
    /// How indices are named, before the day.
    pub index: String,
    /// Shards of a daily index.
    pub shards: u32,
    /// Extra replicas of a daily index.
    pub replicas: u32,
}

/// Kinds of sinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// Standard output.
    Stdout,
    /// A file that is appended to.
    File(PathBuf),
    /// Trawl, or what speaks Elasticsearch's `_bulk`: equal endpoints.
    Trawl(Vec<String>),
    /// OpenTelemetry logs over HTTP: the whole URL.
    OtlpHttp(String),
    /// OpenTelemetry logs over gRPC: the URL.
    OtlpGrpc(String),
}

impl FromStr for SinkConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (name, parameters) = text.split_once('?').unwrap_or((text, ""));
        let kind = kind_of(name)?;
        let mut sink = Self {
            name: name.to_owned(),
            kind,
            severity_min: 0,
            samples: Vec::new(),
            only: None,
            drop: None,
            gzip: None,
            buffer_bytes_max: 1 << 30,
            index: "logs-trawl-".to_owned(),
            shards: 1,
            replicas: 1,
        };
        let parameters = reqwest::Url::parse(&format!("x:?{parameters}"))
            .map_err(|error| ConfigError::new(text, error.to_string()))?;
        for (key, value) in parameters.query_pairs() {
            sink.set(&key, &value).map_err(|reason| ConfigError::new(text, format!("{key}: {reason}")))?;
        }
        Ok(sink)
    }
}

impl SinkConfig {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let level = |name: &str| severity(name).ok_or_else(|| format!("{name:?} is no level"));
        let regex = || Regex::new(value).map_err(|error| error.to_string());
        let number = || value.parse().map_err(|_| "has to be a number".to_owned());
        match key {
            "level" => self.severity_min = level(value)?,
            "sample" => {
                let (name, share) = value.split_once(':').ok_or("has to be LEVEL:SHARE, for example debug:0.01")?;
                let share: f64 = share.parse().map_err(|_| "the share has to be a number")?;
                if !(0.0..=1.0).contains(&share) {
                    return Err("the share has to be between 0 and 1".to_owned());
                }
                self.samples.push((level(name)?, share));
            }
            "only" => self.only = Some(regex()?),
            "drop" => self.drop = Some(regex()?),
            "gzip" => self.gzip = Some(value.parse().map_err(|_| "has to be true or false")?),
            "buffer" => self.buffer_bytes_max = bytes(value).ok_or("has to be a size, for example 64MiB")?,
            "index" => self.index = value.to_owned(),
            "shards" => self.shards = number()?,
            "replicas" => self.replicas = number()?,
            _ => {
                return Err(
                    "no such parameter: level, sample, only, drop, gzip, buffer, index, shards, replicas".into()
                );
            }
        }
        Ok(())
    }
}

fn kind_of(url: &str) -> Result<SinkKind, ConfigError> {
    let bad = |reason: &str| ConfigError::new(url, reason);
    let (scheme, rest) = url.split_once(':').ok_or_else(|| bad("has to be a URL, for example file:/tmp/out.log"))?;
    let place = rest.trim_start_matches('/').trim_end_matches('/');
    let needs_place = || if place.is_empty() { Err(bad("names no host")) } else { Ok(()) };
    Ok(match scheme {
        "stdout" => SinkKind::Stdout,
        "file" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() || path.ends_with('/') {
                return Err(bad("names no file"));
            }
            SinkKind::File(PathBuf::from(path))
        }
        "trawl" | "trawls" => {
            needs_place()?;
            let http = if scheme == "trawl" { "http" } else { "https" };
            SinkKind::Trawl(place.split(',').map(|host| format!("{http}://{host}")).collect())
        }
        "otlp+http" | "otlp+https" => {
            needs_place()?;
            let http = scheme.trim_start_matches("otlp+");
            let path = if place.contains('/') { "" } else { "/v1/logs" };
            SinkKind::OtlpHttp(format!("{http}://{place}{path}"))
        }
        "otlp+grpc" => {
            needs_place()?;
            SinkKind::OtlpGrpc(format!("http://{place}"))
        }
        _ => return Err(bad("no such sink: stdout:, file:PATH, trawl://HOST:PORT/, otlp+http://, otlp+grpc://")),
    })
}

/// `64MiB`, `1GiB`, `512KiB` or a number of bytes.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

/// Whether a name fits a pattern in which `*` stands for anything.
pub fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sinks_are_urls() {
        let kind = |text: &str| text.parse::<SinkConfig>().unwrap().kind;
        assert_eq!(kind("stdout:"), SinkKind::Stdout);
        assert_eq!(kind("file:/var/x.log"), SinkKind::File("/var/x.log".into()));
        let endpoints = vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
        assert_eq!(kind("trawl://a:1,b:2/"), SinkKind::Trawl(endpoints));
        assert_eq!(kind("otlp+http://c:4318"), SinkKind::OtlpHttp("http://c:4318/v1/logs".to_owned()));
        assert_eq!(kind("otlp+http://c:4318/own"), SinkKind::OtlpHttp("http://c:4318/own".to_owned()));
        assert_eq!(kind("otlp+grpc://c:4317"), SinkKind::OtlpGrpc("http://c:4317".to_owned()));
        let sink: SinkConfig = "file:/x?level=warn&sample=error:0.5&buffer=2MiB&drop=health".parse().unwrap();
        assert_eq!((sink.severity_min, sink.buffer_bytes_max, sink.name.as_str()), (13, 2 << 20, "file:/x"));
        for bad in
            ["x", "ftp://x", "file:", "trawl://", "file:/x?levl=1", "file:/x?sample=info:2", "file:/x?level=loud"]
        {
            assert!(bad.parse::<SinkConfig>().is_err(), "{bad}");
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, fits) in [
            ("*.log", "a.log", true),
            ("*.log", "a.log.1", false),
            ("app*", "app.log", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, name), fits, "{pattern} {name}");
        }
    }
}
