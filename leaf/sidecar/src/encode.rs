//! A record as a JSON document: what goes to `file:`, `stdout:` and `trawl://`.
//!
//! ```json
//! {"@timestamp":"…","level":"info","severity":9,"message":"…","fields":{…},"trace_id":"…","span_id":"…",
//!  "resource":{"service.name":"…"},"log":{"file":"…","offset":0,"id":"…","marks":["cut"],"cut_bytes":7}}
//! ```

use std::io::Write;

use time::OffsetDateTime;

use crate::record::{Origin, Record, Value, level_name};

/// The resource attributes of all records, as the inside of a JSON object.
pub fn resource_json(attributes: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in attributes {
        if !out.is_empty() {
            out.push(b',');
        }
        write_text(&mut out, key);
        out.push(b':');
        write_text(&mut out, value);
    }
    out
}

/// Appends the document, without a line's end.
pub fn document(out: &mut Vec<u8>, record: &Record<'_>, origin: &Origin<'_>, resource: &[u8]) {
    out.extend_from_slice(b"{\"@timestamp\":\"");
    write_time(out, record.time_ns.unwrap_or(origin.observed_ns));
    out.push(b'"');
    if record.severity > 0 {
        // Level names need no escaping.
        let _ = write!(out, ",\"level\":\"{}\",\"severity\":{}", level_name(record.severity), record.severity);
    }
    out.extend_from_slice(b",\"message\":");
    write_text(out, &record.message);
    if !record.fields.is_empty() {
        out.extend_from_slice(b",\"fields\":");
        write_fields(out, record);
    }
    for (name, value) in [("trace_id", &record.trace_id), ("span_id", &record.span_id)] {
        if let Some(value) = value {
            let _ = write!(out, ",\"{name}\":\"{value}\"");
        }
    }
    out.extend_from_slice(b",\"resource\":{");
    out.extend_from_slice(resource);
    for (at, (key, value)) in origin.resource.iter().enumerate() {
        if at > 0 || !resource.is_empty() {
            out.push(b',');
        }
        write_text(out, key);
        out.push(b':');
        write_text(out, value);
    }
    out.extend_from_slice(b"},\"log\":{\"file\":");
    write_text(out, origin.file);
    let _ = write!(out, ",\"offset\":{}", origin.offset);
    if record.time_ns.is_some() {
        out.extend_from_slice(b",\"observed\":\"");
        write_time(out, origin.observed_ns);
        out.push(b'"');
    }
    write_marks(out, record);
    out.extend_from_slice(b"}}");
}

fn write_fields(out: &mut Vec<u8>, record: &Record<'_>) {
    out.push(b'{');
    for (at, (key, value)) in record.fields.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(out, key);
        out.push(b':');
        match value {
            Value::Text(text) => write_text(out, text),
            Value::Json(json) => out.extend_from_slice(json.as_bytes()),
            Value::Integer(number) => {
                let _ = write!(out, "{number}");
            }
        }
    }
    out.push(b'}');
}

fn write_marks(out: &mut Vec<u8>, record: &Record<'_>) {
    let mut marks = record.marks.names().peekable();
    if marks.peek().is_none() {
        return;
    }
    out.extend_from_slice(b",\"marks\":[");
    for (at, mark) in marks.enumerate() {
        let _ = write!(out, "{}\"{mark}\"", if at > 0 { "," } else { "" });
    }
    out.push(b']');
    if record.marks.cut_bytes > 0 {
        let _ = write!(out, ",\"cut_bytes\":{}", record.marks.cut_bytes);
    }
}

/// A JSON string.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(out, text);
    }
}

/// `2026-11-23T03:01:41.123456789Z`, with as many digits of the fraction as are needed in threes.
pub fn write_time(out: &mut Vec<u8>, time_ns: i64) {
    // Every 64-bit number of nanoseconds is a time between 1677 and 2262.
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ns)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let mut put = |at: usize, width: usize, mut value: u32| {
        for place in (at..at + width).rev() {
            text[place] = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    };
    put(0, 4, time.year().unsigned_abs());
    put(5, 2, u32::from(u8::from(time.month())));
    put(8, 2, u32::from(time.day()));
    put(11, 2, u32::from(time.hour()));
    put(14, 2, u32::from(time.minute()));
    put(17, 2, u32::from(time.second()));
    put(20, 9, time.nanosecond());
    let kept = match time.nanosecond() {
        0 => 19,
        nanos if nanos % 1_000_000 == 0 => 23,
        nanos if nanos % 1_000 == 0 => 26,
        _ => 29,
    };
    out.extend_from_slice(&text[..kept]);
    out.push(b'Z');
}

/// `2026.11.23`, as the names of daily indices end.
pub fn day_name(day: i64) -> String {
    let date = OffsetDateTime::from_unix_timestamp(day.saturating_mul(86_400)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{:04}.{:02}.{:02}", date.year(), u8::from(date.month()), date.day())
}
