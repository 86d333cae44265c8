//! One record: what every format is turned into, after OpenTelemetry's log data model.

use std::borrow::Cow;

/// What a parser found in a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record<'a> {
    /// When it happened, in nanoseconds since the epoch; `None` when the line does not say.
    pub time_ns: Option<i64>,
    /// OpenTelemetry's severity number, 1 to 24; 0 for none.
    pub severity: u8,
    /// The message; the line itself when there is no better one.
    pub message: Cow<'a, str>,
    /// Everything else, in the order of the line.
    pub fields: Vec<(Cow<'a, str>, Value<'a>)>,
    /// Hexadecimal, 32 digits.
    pub trace_id: Option<Cow<'a, str>>,
    /// Hexadecimal, 16 digits.
    pub span_id: Option<Cow<'a, str>>,
    /// What was not as it should be.
    pub marks: Marks,
}

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// Any JSON value, as it stood in the line.
    Json(Cow<'a, str>),
    /// A whole number.
    Integer(i64),
}

/// What was not as it should be with a line. Shown with the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The line was longer than the limit; this many bytes are missing.
    pub cut_bytes: u64,
    /// Bytes that are not UTF-8 are shown as `\xNN`.
    pub invalid_utf8: bool,
    /// The format that the file has did not fit the line, which is shipped as text.
    pub unparsed: bool,
    /// The file ended, or nothing came for long, before the line did.
    pub unterminated: bool,
}

impl Marks {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self {
            cut_bytes: self.cut_bytes + other.cut_bytes,
            invalid_utf8: self.invalid_utf8 || other.invalid_utf8,
            unparsed: self.unparsed || other.unparsed,
            unterminated: self.unterminated || other.unterminated,
        }
    }

    /// Names of the marks that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.cut_bytes > 0, "cut"),
            (self.invalid_utf8, "invalid_utf8"),
            (self.unparsed, "unparsed"),
            (self.unterminated, "unterminated"),
        ];
        all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name)
    }
}

/// The ordinary name of a severity number; empty for 0.
pub fn level_name(severity: u8) -> &'static str {
    match severity {
        0 => "",
        1..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        _ => "fatal",
    }
}

/// Where a record comes from: what makes it this record and no other.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// `hash(node, generation, offset)`.
    pub id: u128,
    /// Name of the file when it was first seen.
    pub file: &'a str,
    /// Offset of its first byte.
    pub offset: u64,
    /// When it was read.
    pub observed_ns: i64,
    /// The day of the index that it belongs to: the same whenever it is read.
    pub day: i64,
    /// Attributes of this file's resource beyond those of all, as the inner part of a JSON object; empty for none.
    pub resource: &'a [(String, String)],
}

impl<'a> Record<'a> {
    /// A record of text alone.
    pub fn text(message: impl Into<Cow<'a, str>>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }
}

/// The id of the record that begins at `offset` of a generation of a file.
pub fn record_id(node: &str, generation: u128, offset: u64) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&(node.len() as u64).to_le_bytes());
    hasher.update(node.as_bytes());
    hasher.update(&generation.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.digest128()
}
