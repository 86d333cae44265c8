//! Date math: `now-1d/d`, `2020-01-01||+1M/d`.
//!
//! An expression is an anchor (`now`, or a date followed by `||`) and any number of `+N UNIT`,
//! `-N UNIT` and `/UNIT`. Units: y, M, w, d, h or H, m, s. `/UNIT` goes to the unit's start, or, when
//! rounding up, to its last millisecond. Weeks start on Monday.

use super::civil::{DAY_MS, civil_from_days, days_from_civil, days_in_month};
use super::{DateFormats, Missing};

/// How an expression is read.
#[derive(Clone, Copy, Debug)]
pub struct DateMath {
    /// What `now` means, in milliseconds.
    pub now_ms: i64,
    /// Whether rounding goes up to the end of the unit, and missing parts of a date to the end of
    /// the day: for `gt` and `lte`.
    pub round_up: bool,
    /// Offset from UTC of dates without one, and of the days that rounding goes by.
    pub offset_ms: i64,
}

/// The instant that an expression names, in milliseconds.
///
/// # Errors
/// A sentence that names what could not be read.
pub fn parse_date_math(text: &str, formats: &DateFormats, how: DateMath) -> Result<i64, String> {
    let (anchor, operations) = if let Some(operations) = text.strip_prefix("now") {
        (how.now_ms, operations)
    } else {
        let (date, operations) = text.split_once("||").unwrap_or((text, ""));
        // Rounding follows: what is missing must not be filled up first.
        let missing = if how.round_up && operations.is_empty() { Missing::LastOfDay } else { Missing::First };
        let anchor = formats
            .parse_with(date, missing, how.offset_ms)
            .ok_or_else(|| format!("failed to parse date field [{date}] with format [{formats}]"))?;
        (anchor, operations)
    };
    let local = anchor.checked_add(how.offset_ms).ok_or_else(|| out_of_range(text))?;
    let local = apply(local, operations, how.round_up).map_err(|reason| format!("{reason} [{text}]"))?;
    local.checked_sub(how.offset_ms).ok_or_else(|| out_of_range(text))
}

fn out_of_range(text: &str) -> String {
    format!("date math out of range [{text}]")
}

#[derive(Clone, Copy)]
enum Unit {
    Months(i64),
    /// Fixed length, and where its first one began (weeks do not begin with the epoch).
    Ms(i64, i64),
}

fn unit(letter: char) -> Option<Unit> {
    Some(match letter {
        'y' => Unit::Months(12),
        'M' => Unit::Months(1),
        // 1970-01-05 was a Monday.
        'w' => Unit::Ms(7 * DAY_MS, 4 * DAY_MS),
        'd' => Unit::Ms(DAY_MS, 0),
        'h' | 'H' => Unit::Ms(3_600_000, 0),
        'm' => Unit::Ms(60_000, 0),
        's' => Unit::Ms(1000, 0),
        _ => return None,
    })
}

fn apply(mut ms: i64, operations: &str, round_up: bool) -> Result<i64, String> {
    let mut rest = operations;
    while let Some(operator) = rest.chars().next() {
        if !matches!(operator, '+' | '-' | '/') {
            return Err("operator not supported for date math".to_owned());
        }
        rest = &rest[1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let count: i64 = match number {
            "" => 1,
            number => number.parse().map_err(|_| "date math number out of range".to_owned())?,
        };
        if operator == '/' && count != 1 {
            return Err("rounding `/` can only be used on single unit types".to_owned());
        }
        let letter = behind.chars().next().ok_or("truncated date math")?;
        let unit = unit(letter).ok_or_else(|| format!("unit [{letter}] not supported for date math"))?;
        rest = &behind[1..];
        ms = match operator {
            '/' => round(ms, unit, round_up),
            '-' => add(ms, unit, -count),
            _ => add(ms, unit, count),
        }
        .ok_or("date math out of range")?;
    }
    Ok(ms)
}

fn add(ms: i64, unit: Unit, count: i64) -> Option<i64> {
    match unit {
        Unit::Ms(length, _) => ms.checked_add(length.checked_mul(count)?),
        Unit::Months(months) => add_months(ms, months.checked_mul(count)?),
    }
}

/// The same day and time so many months on, or the month's last day if it has no such day.
fn add_months(ms: i64, months: i64) -> Option<i64> {
    let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
    let total = (year * 12 + month - 1).checked_add(months)?;
    let (year, month) = (total.div_euclid(12), total.rem_euclid(12) + 1);
    // Beyond this, days would not fit in 64 bits of milliseconds.
    if year.abs() > 290_000_000 {
        return None;
    }
    let day = day.min(days_in_month(year, month));
    days_from_civil(year, month, day).checked_mul(DAY_MS)?.checked_add(ms.rem_euclid(DAY_MS))
}

fn round(ms: i64, unit: Unit, up: bool) -> Option<i64> {
    let start = match unit {
        Unit::Ms(length, origin) => ms.checked_sub((ms.checked_sub(origin)?).rem_euclid(length))?,
        Unit::Months(months) => {
            let (year, month, _) = civil_from_days(ms.div_euclid(DAY_MS));
            let month = if months == 12 { 1 } else { month };
            days_from_civil(year, month, 1).checked_mul(DAY_MS)?
        }
    };
    if up { add(start, unit, 1)?.checked_sub(1) } else { Some(start) }
}
