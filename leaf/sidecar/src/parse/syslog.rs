//! Syslog, RFC 5424 and, loosely, RFC 3164: by the parser that Vector uses.

use std::borrow::Cow;

use syslog_loose::{Message, ProcId, Protocol, Variant};

use super::level;
use crate::record::{Record, Value};

/// A record, if the line begins with a priority and the rest fits.
pub fn parse(line: &str) -> Option<Record<'_>> {
    let (priority, rest) = line.strip_prefix('<')?.split_once('>')?;
    let priority: u8 = priority.parse().ok().filter(|priority| *priority <= 191)?;
    if rest.is_empty() {
        return None;
    }
    let year = |(month, _, _, _, _): (u32, u32, u32, u32, u32)| year_of(month);
    let message = syslog_loose::parse_message_with_year_exact(line, year, Variant::Either).ok()?;
    // What has neither a time nor a host is something else that begins with a number in brackets.
    (message.timestamp.is_some() || message.hostname.is_some()).then(|| record(&message, priority))
}

/// RFC 3164 has no year. A message of December that is read in January is of the year before.
fn year_of(month: u32) -> i32 {
    let now = time::OffsetDateTime::from_unix_timestamp(crate::clock::now_ns() / 1_000_000_000)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let this_month = u32::from(u8::from(now.month()));
    now.year() - i32::from(month == 12 && this_month == 1)
}

fn record<'a>(message: &Message<&'a str>, priority: u8) -> Record<'a> {
    let mut record = Record::text(message.msg.trim_start_matches('\u{feff}'));
    record.severity = level::of_syslog(priority & 7);
    record.time_ns = message.timestamp.and_then(|time| time.timestamp_nanos_opt());
    let mut field = |key: &'static str, value: Option<&'a str>| {
        if let Some(value) = value {
            record.fields.push((Cow::Borrowed(key), Value::Text(Cow::Borrowed(value))));
        }
    };
    field("hostname", message.hostname);
    field("appname", message.appname);
    field("msgid", message.msgid);
    if let Some(facility) = message.facility {
        field("facility", Some(facility.as_str()));
    }
    match &message.procid {
        Some(ProcId::PID(pid)) => record.fields.push((Cow::Borrowed("procid"), Value::Integer(i64::from(*pid)))),
        Some(ProcId::Name(name)) => record.fields.push((Cow::Borrowed("procid"), Value::Text(Cow::Borrowed(name)))),
        None => {}
    }
    if let Protocol::RFC5424(version) = message.protocol {
        record.fields.push((Cow::Borrowed("version"), Value::Integer(i64::from(version))));
    }
    for element in &message.structured_data {
        for (name, value) in element.params() {
            record.fields.push((Cow::Owned(format!("{}.{name}", element.id)), Value::Text(Cow::Owned(value))));
        }
    }
    record
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_examples_of_rfc_5424() {
        let record = parse("<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' failed for lonvick on /dev/pts/8").unwrap();
        assert_eq!((record.severity, &*record.message), (21, "'su root' failed for lonvick on /dev/pts/8"));
        assert_eq!(record.time_ns, Some(1_065_910_455_003_000_000));
        let line = r#"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog 77 ID47 [exampleSDID@32473 iut="3" eventSource="App\"lication" eventID="1011"] An application event log entry"#;
        let record = parse(line).unwrap();
        assert_eq!((record.severity, &*record.message), (10, "An application event log entry"));
        let field = |name: &str| record.fields.iter().find(|(key, _)| key == name).unwrap().1.clone();
        assert_eq!(field("procid"), Value::Integer(77));
        assert_eq!(field("exampleSDID@32473.eventSource"), Value::Text("App\"lication".into()));
    }

    #[test]
    fn a_line_of_rfc_3164() {
        let record = parse("<13>Oct 11 22:14:15 host app[123]: it works").unwrap();
        assert_eq!((record.severity, &*record.message), (10, "it works"));
    }

    #[test]
    fn other_brackets_are_not_syslog() {
        for line in ["<html>", "<13>", "<999>1 - - - - - -", "<1> hello", "< 13>x"] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
