//! Times as logs write them: RFC 3339 and its relatives, numbers since the epoch, and that of access logs.

use time::{Date, Month};

const SECOND_NS: i64 = 1_000_000_000;

/// A time at the start of the text, and how many bytes it takes: `2026-11-23T03:01:41.123456Z`, with a space for the `T`,
/// a comma before the fraction, slashes in the date, with or without an offset (without one it is UTC).
pub fn at_start(text: &[u8]) -> Option<(i64, usize)> {
    let mut at = 0;
    let year = digits(text, &mut at, 4)?;
    let separator = *text.get(at).filter(|byte| matches!(byte, b'-' | b'/'))?;
    at += 1;
    let month = digits(text, &mut at, 2)?;
    at += usize::from(*text.get(at)? == separator);
    let day = digits(text, &mut at, 2)?;
    at += usize::from(matches!(text.get(at)?, b'T' | b't' | b' ' | b'_'));
    let hour = digits(text, &mut at, 2)?;
    at += usize::from(*text.get(at)? == b':');
    let minute = digits(text, &mut at, 2)?;
    at += usize::from(*text.get(at)? == b':');
    let second = digits(text, &mut at, 2)?;
    let mut nanos = 0;
    if matches!(text.get(at), Some(b'.' | b',')) && text.get(at + 1).is_some_and(u8::is_ascii_digit) {
        at += 1;
        let mut unit = SECOND_NS / 10;
        while let Some(digit) = text.get(at).filter(|byte| byte.is_ascii_digit()) {
            nanos += i64::from(digit - b'0') * unit;
            unit /= 10;
            at += 1;
        }
    }
    let offset = offset(text, &mut at);
    let seconds = seconds_of(year, month, day, hour, minute, second)? - offset;
    Some((seconds.checked_mul(SECOND_NS)?.checked_add(nanos)?, at))
}

/// The whole text is a time.
pub fn whole(text: &str) -> Option<i64> {
    let text = text.trim().as_bytes();
    let (time, length) = at_start(text)?;
    (length == text.len()).then_some(time)
}

/// A number since the epoch, in seconds, milliseconds, microseconds or nanoseconds, told apart by its size.
pub fn since_epoch(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let number: i64 = whole.parse().ok()?;
    let unit = match number.unsigned_abs() {
        // Until 1972 everything could be seconds: such a number is more likely a duration or a counter.
        0..100_000_000 => return None,
        100_000_000..100_000_000_000 => SECOND_NS,
        100_000_000_000..100_000_000_000_000 => 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => 1_000,
        _ => 1,
    };
    let mut nanos = number.checked_mul(unit)?;
    let mut digit_unit = unit / 10;
    for digit in fraction.bytes() {
        if !digit.is_ascii_digit() {
            return None;
        }
        nanos = nanos.checked_add(i64::from(digit - b'0') * digit_unit)?;
        digit_unit /= 10;
    }
    Some(nanos)
}

/// `10/Oct/2000:13:55:36 -0700`, as Apache and nginx write it.
pub fn of_access_log(text: &str) -> Option<i64> {
    let text = text.as_bytes();
    let mut at = 0;
    let day = digits(text, &mut at, 2)?;
    let month = match text.get(at..at + 5)? {
        b"/Jan/" => 1,
        b"/Feb/" => 2,
        b"/Mar/" => 3,
        b"/Apr/" => 4,
        b"/May/" => 5,
        b"/Jun/" => 6,
        b"/Jul/" => 7,
        b"/Aug/" => 8,
        b"/Sep/" => 9,
        b"/Oct/" => 10,
        b"/Nov/" => 11,
        b"/Dec/" => 12,
        _ => return None,
    };
    at += 5;
    let year = digits(text, &mut at, 4)?;
    let mut clock = [0; 3];
    for part in &mut clock {
        at += usize::from(*text.get(at)? == b':');
        *part = digits(text, &mut at, 2)?;
    }
    at += usize::from(text.get(at) == Some(&b' '));
    let offset = offset(text, &mut at);
    let seconds = seconds_of(year, month, day, clock[0], clock[1], clock[2])? - offset;
    (at == text.len()).then(|| seconds.checked_mul(SECOND_NS)).flatten()
}

fn digits(text: &[u8], at: &mut usize, count: usize) -> Option<i64> {
    let mut value = 0;
    for byte in text.get(*at..*at + count)? {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    *at += count;
    Some(value)
}

/// Seconds east of Greenwich; moves behind the offset if there is one.
fn offset(text: &[u8], at: &mut usize) -> i64 {
    match text.get(*at) {
        Some(b'Z' | b'z') => {
            *at += 1;
            0
        }
        Some(sign @ (b'+' | b'-')) => {
            let mut end = *at + 1;
            let Some(hours) = digits(text, &mut end, 2) else { return 0 };
            end += usize::from(text.get(end) == Some(&b':'));
            let Some(minutes) = digits(text, &mut end, 2) else { return 0 };
            *at = end;
            let seconds = hours * 3_600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => 0,
    }
}

fn seconds_of(year: i64, month: i64, day: i64, hour: i64, minute: i64, second: i64) -> Option<i64> {
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    let days = i64::from(date.to_julian_day()) - 2_440_588;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_usual_form_is_read() {
        let expected = 1_795_402_901_123_000_000;
        for text in [
            "2026-11-23T03:01:41.123Z",
            "2026-11-23 03:01:41,123",
            "2026/11/23 03:01:41.123",
            "2026-11-23T04:01:41.123+01:00",
            "2026-11-22T22:01:41.123-0500",
            "2026-11-23T03:01:41.123000000Z",
        ] {
            assert_eq!(whole(text), Some(expected), "{text}");
        }
        assert_eq!(of_access_log("10/Oct/2000:13:55:36 -0700"), Some(971_211_336_000_000_000));
        assert_eq!(since_epoch("1795402901.123"), Some(expected));
        assert_eq!(since_epoch("1795402901123"), Some(expected));
        assert_eq!(since_epoch("1795402901123000000"), Some(expected));
        assert_eq!(since_epoch("42"), None);
        assert_eq!(whole("2026-13-23T03:01:41Z"), None);
        assert_eq!(whole("2026-02-30T03:01:41Z"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (whole(&text), since_epoch(&text), of_access_log(&text), at_start(&bytes));
        }

        #[test]
        fn what_is_written_is_read_again(ns in -1_000_000_000_000_000_000_i64..4_000_000_000_000_000_000) {
            let mut text = Vec::new();
            crate::encode::write_time(&mut text, ns);
            prop_assert_eq!(whole(std::str::from_utf8(&text).unwrap()), Some(ns));
        }
    }
}
