//! Lines to records. A line that its file's format does not fit becomes a record of text, marked: nothing is dropped here.

mod access;
pub mod cri;
mod custom;
pub mod join;
mod json;
mod level;
mod logfmt;
mod plain;
mod syslog;
pub mod time;

use crate::record::Record;
pub use custom::Custom;
pub use level::severity;

/// How the lines of a file are read.
#[derive(Clone, Debug)]
pub enum Format {
    /// An object per line.
    Json,
    /// `key=value` pairs.
    Logfmt,
    /// Kubernetes' container logs, around any other.
    Cri,
    /// RFC 5424 or 3164.
    Syslog,
    /// Apache or nginx.
    Access,
    /// Text; lines that belong together are joined.
    Plain,
    /// A regular expression.
    Custom(Custom),
}

impl Format {
    /// Its name, as settings and the checkpoint have it.
    pub fn name(&self) -> &str {
        match self {
            Self::Json => "json",
            Self::Logfmt => "logfmt",
            Self::Cri => "cri",
            Self::Syslog => "syslog",
            Self::Access => "access",
            Self::Plain => "plain",
            Self::Custom(custom) => &custom.name,
        }
    }

    /// The format of a name, among one's own as well.
    pub fn named(name: &str, custom: &[Custom]) -> Option<Self> {
        Some(match name {
            "json" => Self::Json,
            "logfmt" => Self::Logfmt,
            "cri" => Self::Cri,
            "syslog" => Self::Syslog,
            "access" => Self::Access,
            "plain" => Self::Plain,
            _ => Self::Custom(custom.iter().find(|custom| &*custom.name == name)?.clone()),
        })
    }

    /// What a line looks like. One's own formats come first.
    pub fn detect(line: &str, custom: &[Custom]) -> Self {
        if let Some(custom) = custom.iter().find(|custom| custom.parse(line).is_some()) {
            return Self::Custom(custom.clone());
        }
        let all = [Self::Json, Self::Syslog, Self::Access, Self::Logfmt];
        if cri::unwrap(line).is_some() {
            return Self::Cri;
        }
        all.into_iter().find(|format| format.single(line).is_some()).unwrap_or(Self::Plain)
    }

    /// A record of one line, where the format has a record per line and the line fits. Never for [`Format::Cri`] and
    /// [`Format::Plain`].
    fn single<'a>(&self, line: &'a str) -> Option<Record<'a>> {
        match self {
            Self::Json => json::parse(line),
            Self::Logfmt => logfmt::parse(line),
            Self::Syslog => syslog::parse(line),
            Self::Access => access::parse(line),
            Self::Custom(custom) => custom.parse(line),
            Self::Cri | Self::Plain => None,
        }
    }

    /// A record of whatever one line is, as what is wrapped in another format has to be read.
    fn any(line: &str) -> Option<Record<'_>> {
        match line.as_bytes().first()? {
            b'{' => json::parse(line),
            b'<' => syslog::parse(line),
            b' ' | b'\t' => None,
            _ => access::parse(line).or_else(|| logfmt::parse(line)),
        }
    }
}
