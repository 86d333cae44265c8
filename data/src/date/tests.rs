//! Dates as Elasticsearch reads and writes them.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn ms(text: &str) -> i64 {
    DateFormats::default().parse_date(text).unwrap_or_else(|| panic!("{text} is no date"))
}

#[test]
fn default_formats() {
    assert_eq!(ms("1970-01-01"), 0);
    assert_eq!(ms("1970"), 0);
    assert_eq!(ms("1970-01"), 0);
    assert_eq!(ms("2024-02-29T12:30:05.1239Z"), 1_709_209_805_123);
    assert_eq!(ms("2024-02-29T12:30:05,1Z"), 1_709_209_805_100);
    assert_eq!(ms("2024-02-29T13:30+01:00"), ms("2024-02-29T12:30"));
    assert_eq!(ms("2024-02-29T13+0100"), ms("2024-02-29T12"));
    assert_eq!(ms("2024-02-29T07:30:00-05"), ms("2024-02-29T12:30:00"));
    assert_eq!(ms("1420070400001"), 1_420_070_400_001);
    assert_eq!(ms("-5"), -5);
    assert_eq!(ms("12345"), 12345);
    assert_eq!(ms("1969-12-31T23:59:59.999Z"), -1);
    for bad in [
        "",
        "2024-2-3",
        "2024-13-01",
        "2023-02-29",
        "2024-01-01T24:00",
        "2024-01-01 10:00",
        "abc",
        "2024-01-01T10:00:00Zx",
        "20240-01-01",
        "1.",
        "--5",
        "2024-01-01T10:00Europe/Berlin",
        "²",
    ] {
        assert_eq!(DateFormats::default().parse_date(bad), None, "{bad}");
    }
}

#[test]
fn other_formats() {
    let parse = |formats: &str, text: &str| DateFormats::parse(formats).unwrap().parse_date(text);
    assert_eq!(parse("date_optional_time", "2024-2-3"), Some(ms("2024-02-03")));
    assert_eq!(parse("epoch_second", "1.5"), Some(1500));
    assert_eq!(parse("epoch_second", "-2"), Some(-2000));
    assert_eq!(parse("strict_date || epoch_second", "2"), Some(2000));
    assert_eq!(parse("strict_date", "2024-02"), None);
    assert_eq!(DateFormats::parse("strict_date||nonsense"), Err("nonsense".to_owned()));
    assert_eq!(DateFormats::parse("epoch_second||strict_date").unwrap().to_string(), "epoch_second||strict_date");
}

#[test]
fn shown_in_the_first_format() {
    assert_eq!(format_date(1_709_209_805_123), "2024-02-29T12:30:05.123Z");
    assert_eq!(format_date(-62_198_755_200_000), "-0001-01-01T00:00:00.000Z");
    assert_eq!(format_date(253_402_300_800_000), "+10000-01-01T00:00:00.000Z");
    assert_eq!(DateFormats::parse("epoch_second").unwrap().format(1500), "1.5");
    assert_eq!(DateFormats::parse("epoch_millis").unwrap().format(-3), "-3");
    assert_eq!(DateFormats::parse("date").unwrap().format(0), "1970-01-01");
}

#[test]
fn dates_are_detected_only_when_whole() {
    assert_eq!(detect_date("2024-02-29"), Some(ms("2024-02-29")));
    assert_eq!(detect_date("2024-02-29T10:00:00Z"), Some(ms("2024-02-29T10:00:00Z")));
    for other in [
        "2024",
        "2024-02",
        "2024-02-30",
        "2024-02-29 10:00",
        "9999-12-31",
        "12:30:2024-",
        "héé2-23-44",
        "1420070400001",
    ] {
        assert_eq!(detect_date(other), None, "{other}");
    }
}

fn math(text: &str, round_up: bool) -> Result<String, String> {
    let how = DateMath { now_ms: ms("2024-03-31T10:11:12.013"), round_up, offset_ms: 0 };
    parse_date_math(text, &DateFormats::default(), how).map(format_date)
}

#[test]
fn date_math() {
    for (text, down, up) in [
        ("now", "2024-03-31T10:11:12.013Z", "2024-03-31T10:11:12.013Z"),
        ("now-1d/d", "2024-03-30T00:00:00.000Z", "2024-03-30T23:59:59.999Z"),
        ("now-1M", "2024-02-29T10:11:12.013Z", "2024-02-29T10:11:12.013Z"),
        ("now+1y-1M/M", "2025-02-01T00:00:00.000Z", "2025-02-28T23:59:59.999Z"),
        ("now/w", "2024-03-25T00:00:00.000Z", "2024-03-31T23:59:59.999Z"),
        ("now/y", "2024-01-01T00:00:00.000Z", "2024-12-31T23:59:59.999Z"),
        ("2020-01-01||+1M/d", "2020-02-01T00:00:00.000Z", "2020-02-01T23:59:59.999Z"),
        ("2020-01-01", "2020-01-01T00:00:00.000Z", "2020-01-01T23:59:59.999Z"),
        ("2020", "2020-01-01T00:00:00.000Z", "2020-01-01T23:59:59.999Z"),
        ("2020-01-01T10", "2020-01-01T10:00:00.000Z", "2020-01-01T10:59:59.999Z"),
        ("2020-01-01T10:00:00Z", "2020-01-01T10:00:00.000Z", "2020-01-01T10:00:00.999Z"),
        ("now+h", "2024-03-31T11:11:12.013Z", "2024-03-31T11:11:12.013Z"),
    ] {
        assert_eq!(math(text, false).as_deref(), Ok(down), "{text} down");
        assert_eq!(math(text, true).as_deref(), Ok(up), "{text} up");
    }
    for bad in [
        "now-",
        "now-1",
        "now/2d",
        "now*1d",
        "now-1x",
        "2020-01-01|+1d",
        "now+99999999999999999999d",
        "now+9999999999999999y",
        "nowé",
        "now/é",
        "now-1é",
        "||",
        "",
    ] {
        assert!(math(bad, false).is_err(), "{bad}");
    }
}

#[test]
fn rounding_goes_by_the_offset() {
    let how =
        DateMath { now_ms: ms("2024-03-31T23:30:00"), round_up: false, offset_ms: parse_offset("+02:00").unwrap() };
    assert_eq!(parse_date_math("now/d", &DateFormats::default(), how), Ok(ms("2024-03-31T22:00:00Z")));
    assert_eq!(parse_date_math("2024-01-01", &DateFormats::default(), how), Ok(ms("2023-12-31T22:00:00Z")));
    assert_eq!(parse_offset("+25:00"), None);
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(instant in -100_000_000_000_000i64..100_000_000_000_000) {
        prop_assert_eq!(DateFormats::default().parse_date(&format_date(instant)), Some(instant));
    }

    #[test]
    fn no_text_is_too_odd(text in "\\PC{0,24}", round_up: bool, now_ms: i64) {
        let how = DateMath { now_ms, round_up, offset_ms: 3_600_000 };
        let _ = parse_date_math(&text, &DateFormats::default(), how);
        let _ = parse_date_math(&format!("now{text}"), &DateFormats::default(), how);
        let _ = detect_date(&text);
    }

    #[test]
    fn rounding_down_and_up_enclose(now_ms in -90_000_000_000_000i64..90_000_000_000_000, unit in "[yMwdhms]") {
        let at = |round_up| parse_date_math(&format!("now/{unit}"), &DateFormats::default(), DateMath { now_ms, round_up, offset_ms: 0 }).unwrap();
        prop_assert!(at(false) <= now_ms && now_ms <= at(true));
    }
}
