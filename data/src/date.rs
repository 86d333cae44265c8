//! Dates: milliseconds since the Unix epoch, UTC, read and written in Elasticsearch's formats.
//!
//! Supported formats: `strict_date_optional_time`, `date_optional_time`, `epoch_millis`,
//! `epoch_second`, `strict_date`, `date`, and any of them joined with `||`, tried in order. Digits
//! below the millisecond are read and dropped. Time zones are offsets (`Z`, `+01:00`, `+0100`,
//! `+01`) or `UTC`; names that need a time zone database are not known.
//!
//! Replicas keep instants in 64 bits of nanoseconds, so a document's date has to lie between
//! [`DATE_MS_MIN`] and [`DATE_MS_MAX`] (years 1677 to 2262).

mod civil;
mod iso;
mod math;

use std::fmt;

pub use civil::format_date;
pub use math::{DateMath, parse_date_math};

/// Dates of documents are later than this.
pub const DATE_MS_MIN: i64 = i64::MIN / 1_000_000;

/// Dates of documents are earlier than this.
pub const DATE_MS_MAX: i64 = i64::MAX / 1_000_000;

/// What is meant by parts of a date that are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The first instant: January, the 1st, midnight.
    First,
    /// January, the 1st, 23:59:59.999: what Elasticsearch fills in for `gt` and `lte`.
    LastOfDay,
}

/// One way to write a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DateFormat {
    /// ISO 8601 with everything from the month on optional, digits padded.
    StrictDateOptionalTime,
    /// The same without padding.
    DateOptionalTime,
    /// Milliseconds since the epoch.
    EpochMillis,
    /// Seconds since the epoch.
    EpochSecond,
    /// `yyyy-MM-dd`, padded.
    StrictDate,
    /// `yyyy-MM-dd`.
    Date,
}

impl DateFormat {
    const ALL: [(&'static str, Self); 7] = [
        ("strict_date_optional_time", Self::StrictDateOptionalTime),
        ("date_optional_time", Self::DateOptionalTime),
        ("epoch_millis", Self::EpochMillis),
        ("epoch_second", Self::EpochSecond),
        ("strict_date", Self::StrictDate),
        ("date", Self::Date),
        ("yyyy-MM-dd", Self::StrictDate),
    ];

    /// Its name.
    pub fn name(&self) -> &'static str {
        Self::ALL.iter().find(|(_, format)| format == self).map_or("", |(name, _)| name)
    }

    /// The instant that `text` names in this format; `None` when it is not of the format.
    ///
    /// `offset_ms` is the offset from UTC of a text without one.
    pub fn parse(&self, text: &str, missing: Missing, offset_ms: i64) -> Option<i64> {
        match self {
            Self::StrictDateOptionalTime => iso::parse(text, iso::Style::Strict, missing, offset_ms).map(|(ms, _)| ms),
            Self::DateOptionalTime => iso::parse(text, iso::Style::Lenient, missing, offset_ms).map(|(ms, _)| ms),
            Self::StrictDate => iso::parse(text, iso::Style::StrictDate, missing, offset_ms).map(|(ms, _)| ms),
            Self::Date => iso::parse(text, iso::Style::Date, missing, offset_ms).map(|(ms, _)| ms),
            Self::EpochMillis => epoch(text, 1),
            Self::EpochSecond => epoch(text, 1000),
        }
    }
}

/// The formats of a date field, in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DateFormats(Vec<DateFormat>);

impl Default for DateFormats {
    /// `strict_date_optional_time||epoch_millis`.
    fn default() -> Self {
        Self(vec![DateFormat::StrictDateOptionalTime, DateFormat::EpochMillis])
    }
}

impl DateFormats {
    /// Reads names joined with `||`.
    ///
    /// # Errors
    /// The first name that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split("||")
            .map(|name| {
                let name = name.trim();
                let known = DateFormat::ALL.iter().find(|(known, _)| *known == name);
                known.map(|(_, format)| *format).ok_or_else(|| name.to_owned())
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
    }

    /// The formats.
    pub fn formats(&self) -> &[DateFormat] {
        &self.0
    }

    /// The instant that `text` names in the first format that takes it, in milliseconds.
    pub fn parse_date(&self, text: &str) -> Option<i64> {
        self.parse_with(text, Missing::First, 0)
    }

    /// The same, saying what parts that are missing mean and the offset of a text without one.
    pub fn parse_with(&self, text: &str, missing: Missing, offset_ms: i64) -> Option<i64> {
        self.0.iter().find_map(|format| format.parse(text, missing, offset_ms))
    }

    /// An instant in the first format, as hits and bucket keys show it.
    pub fn format(&self, ms: i64) -> String {
        match self.0.first() {
            Some(DateFormat::EpochMillis) => ms.to_string(),
            Some(DateFormat::EpochSecond) if ms.rem_euclid(1000) == 0 => ms.div_euclid(1000).to_string(),
            Some(DateFormat::EpochSecond) => format!("{}", ms as f64 / 1000.0),
            Some(DateFormat::StrictDate | DateFormat::Date) => {
                format_date(ms).split('T').next().unwrap_or_default().to_owned()
            }
            _ => format_date(ms),
        }
    }
}

impl fmt::Display for DateFormats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, format) in self.0.iter().enumerate() {
            let joint = if number == 0 { "" } else { "||" };
            write!(f, "{joint}{}", format.name())?;
        }
        Ok(())
    }
}

/// The instant of a dynamic string that looks like a date: `strict_date_optional_time` with at
/// least a whole date, within what replicas can keep.
pub fn detect_date(text: &str) -> Option<i64> {
    // Nearly every string fails here, at the price of two comparisons.
    let bytes = text.as_bytes();
    if bytes.len() < 10 || !bytes[0].is_ascii_digit() || bytes[4] != b'-' {
        return None;
    }
    match iso::parse(text, iso::Style::Strict, Missing::First, 0) {
        Some((ms, true)) if (DATE_MS_MIN + 1..DATE_MS_MAX).contains(&ms) => Some(ms),
        _ => None,
    }
}

/// An offset from UTC in milliseconds: `Z`, `UTC`, `+01:00`, `-0530`, `+2`.
pub fn parse_offset(text: &str) -> Option<i64> {
    iso::offset(text)
}

/// A count of units since the epoch, with an optional fraction.
fn epoch(text: &str, unit_ms: i64) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, fraction),
        None => (digits, ""),
    };
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || fraction.len() > 9 || digits.ends_with('.') {
        return None;
    }
    let mut ms = whole.parse::<i64>().ok()?.checked_mul(unit_ms)?;
    if unit_ms == 1000 {
        let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
        ms = ms.checked_add(thousandths.parse().ok()?)?;
    }
    Some(if negative { -ms } else { ms })
}

#[cfg(test)]
mod tests;
