//! Plain text and Markdown: one document a file, with its path as natural id.

use std::io::{BufRead, Read};
use std::time::SystemTime;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ndjson::too_long;
use super::sink::{Sink, Stop};
use super::{FaultKind, Mark};

/// A longer first line is prose rather than a title.
const TITLE_CHARS_MAX: usize = 160;

/// What is known about a file apart from its content.
pub(super) struct About {
    /// Standard input has no path of its own.
    pub(super) path: Option<String>,
    pub(super) modified: Option<SystemTime>,
}

/// Reads the file as one document.
pub(super) fn read(reader: &mut dyn BufRead, bytes_max: usize, about: &About, sink: &mut Sink) -> Result<(), Stop> {
    let mut content = Vec::new();
    let limited = (&mut *reader).take(bytes_max as u64 + 1).read_to_end(&mut content);
    limited.map_err(|error| Stop::Io { line: 1, error })?;
    sink.at(Mark::START, Mark { line: 1, offset: content.len() as u64 });
    if content.len() > bytes_max {
        let rest = std::io::copy(reader, &mut std::io::sink()).map_err(|error| Stop::Io { line: 1, error })?;
        return too_long(sink, 0, "file", content.len() as u64 + rest, bytes_max);
    }
    let text = match std::str::from_utf8(&content) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let valid = &content[..error.valid_up_to()];
            let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count() as u64;
            let reason = format!("invalid UTF-8 at byte {} of the file", error.valid_up_to());
            return sink.fault(line, FaultKind::InvalidUtf8, reason);
        }
    };
    if text.contains('\0') {
        return sink.fault(0, FaultKind::NotText, "a binary file");
    }
    if text.trim().is_empty() {
        return Ok(());
    }
    let mut document = json!({ "title": title(text, about.path.as_deref()), "body": text, "size": content.len() });
    if let Some(path) = &about.path {
        document["path"] = Value::from(path.as_str());
    }
    if let Some(modified) = about.modified.and_then(timestamp) {
        document["modified"] = Value::from(modified);
    }
    sink.record(1, 1, about.path.clone(), document.to_string().into_bytes())
}

/// The first heading, else the first line if it is short, else the file's name.
fn title(text: &str, path: Option<&str>) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let heading = text.lines().take(200).find_map(|line| {
        let name = line.trim_start_matches('#');
        let depth = line.len() - name.len();
        ((1..=6).contains(&depth) && name.starts_with(' ')).then(|| name.trim().trim_end_matches('#').trim())
    });
    let first = || lines.next().filter(|line| line.chars().count() <= TITLE_CHARS_MAX);
    let name = || path.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    heading.filter(|heading| !heading.is_empty()).or_else(first).unwrap_or_else(name).to_owned()
}

fn timestamp(time: SystemTime) -> Option<String> {
    let time = OffsetDateTime::from(time).replace_nanosecond(0).ok()?;
    time.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        assert_eq!(title("\nintro\n\n## Of *whales* ##\ntext", None), "Of *whales*");
        assert_eq!(title("#hashtag first\ntext", None), "#hashtag first");
        assert_eq!(title(&"long ".repeat(100), Some("a/b.txt")), "b.txt");
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH).as_deref(), Some("1970-01-01T00:00:00Z"));
    }
}
