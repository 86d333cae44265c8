//! ISO 8601 dates as Elasticsearch's `strict_date_optional_time` and its lenient sister take them:
//! `yyyy[-MM[-dd]]['T'[HH[:mm[:ss[.fraction]]]][offset]]`.

use super::Missing;
use super::civil::{DAY_MS, days_from_civil, days_in_month};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Four digits for a year (more with a sign), two for the rest.
    Strict,
    /// Fewer digits are fine.
    Lenient,
    /// A whole date without time, strict.
    StrictDate,
    /// A whole date without time, lenient.
    Date,
}

impl Style {
    fn lenient(self) -> bool {
        matches!(self, Self::Lenient | Self::Date)
    }

    fn date_only(self) -> bool {
        matches!(self, Self::StrictDate | Self::Date)
    }
}

/// A cursor over what is left.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// A number of `least` to `most` digits.
    fn digits(&mut self, least: usize, most: usize) -> Option<i64> {
        let length = self.0.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
        if length < least {
            return None;
        }
        let (digits, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    fn next_is_digit(&self) -> bool {
        self.0.first().is_some_and(u8::is_ascii_digit)
    }
}

/// Milliseconds since the epoch, and whether the date (year, month, day) was written out.
pub(super) fn parse(text: &str, style: Style, missing: Missing, offset_ms: i64) -> Option<(i64, bool)> {
    let mut rest = Rest(text.as_bytes());
    let least = if style.lenient() { 1 } else { 2 };
    let year = year(&mut rest, style)?;
    let mut month = None;
    let mut day = None;
    if rest.take(b'-') {
        month = Some(rest.digits(least, 2)?);
        if rest.take(b'-') {
            day = Some(rest.digits(least, 2)?);
        }
    }
    let whole_date = day.is_some();
    let (month, day) = (month.unwrap_or(1), day.unwrap_or(1));
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let mut time = Time { ms: None, offset: None };
    if !style.date_only() && rest.take(b'T') {
        time = self::time(&mut rest, least, missing)?;
    }
    if !rest.0.is_empty() || (style.date_only() && !whole_date) {
        return None;
    }
    let of_day = time.ms.unwrap_or(match missing {
        Missing::First => 0,
        Missing::LastOfDay => DAY_MS - 1,
    });
    let local = days_from_civil(year, month, day).checked_mul(DAY_MS)?.checked_add(of_day)?;
    Some((local.checked_sub(time.offset.unwrap_or(offset_ms))?, whole_date))
}

fn year(rest: &mut Rest<'_>, style: Style) -> Option<i64> {
    let signed = rest.0.first().copied().filter(|byte| matches!(byte, b'+' | b'-'));
    if let Some(sign) = signed {
        rest.take(sign);
        let year = rest.digits(4, 9)?;
        return Some(if sign == b'-' { -year } else { year });
    }
    let year = rest.digits(if style.lenient() { 1 } else { 4 }, if style.lenient() { 9 } else { 4 })?;
    // A strict year of five digits needs a sign; without one the number is of another format.
    (!rest.next_is_digit()).then_some(year)
}

struct Time {
    /// Since midnight; unset when not written.
    ms: Option<i64>,
    offset: Option<i64>,
}

/// What follows the `T`.
fn time(rest: &mut Rest<'_>, least: usize, missing: Missing) -> Option<Time> {
    let fill = |last: i64| match missing {
        Missing::First => 0,
        Missing::LastOfDay => last,
    };
    let mut time = Time { ms: None, offset: None };
    if rest.next_is_digit() {
        let hour = rest.digits(least, 2)?;
        let (mut minute, mut second, mut milli) = (fill(59), fill(59), fill(999));
        if rest.take(b':') {
            minute = rest.digits(least, 2)?;
            if rest.take(b':') {
                second = rest.digits(least, 2)?;
                if rest.take(b'.') || rest.take(b',') {
                    milli = fraction(rest)?;
                }
            }
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        time.ms = Some(((hour * 60 + minute) * 60 + second) * 1000 + milli);
    }
    if !rest.0.is_empty() {
        time.offset = Some(offset(std::str::from_utf8(rest.0).ok()?)?);
        rest.0 = &[];
    }
    Some(time)
}

/// One to nine digits behind the point, as milliseconds.
fn fraction(rest: &mut Rest<'_>) -> Option<i64> {
    let before = rest.0.len();
    let mut value = rest.digits(1, 9)?;
    let length = before - rest.0.len();
    for _ in length..3 {
        value *= 10;
    }
    for _ in 3..length {
        value /= 10;
    }
    Some(value)
}

/// An offset in milliseconds.
pub(super) fn offset(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z" | "UTC" | "GMT") {
        return Some(0);
    }
    let mut rest = Rest(text.as_bytes());
    let negative = match text.as_bytes().first()? {
        b'+' => false,
        b'-' => true,
        _ => return None,
    };
    rest.0 = &rest.0[1..];
    let hours = rest.digits(1, 2)?;
    let minutes = if rest.take(b':') || rest.next_is_digit() { rest.digits(2, 2)? } else { 0 };
    if !rest.0.is_empty() || hours > 18 || minutes > 59 {
        return None;
    }
    let ms = (hours * 60 + minutes) * 60_000;
    Some(if negative { -ms } else { ms })
}
