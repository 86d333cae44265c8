//! Debian's control format (deb822): paragraphs of `Field: value` lines, one package each, as in `Packages` and
//! `/var/lib/dpkg/status`.
//!
//! `Package` is the document's id. Fields keep their names in snake case. What is shaped for searching:
//! `Description` becomes `title` (its first line) and `body` (the rest as running text), `Tag` becomes the list `tags`,
//! relations (`Depends`, `Suggests`, …) become lists of package names without their version conditions, sizes are numbers.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::lines::{Line, Lines, without_return};
use super::ndjson::too_long;
use super::sink::{Sink, Stop};
use super::{FaultKind, Mark};

/// Reads to the end.
pub(super) fn read(reader: &mut dyn BufRead, bytes_max: usize, start: Mark, sink: &mut Sink) -> Result<(), Stop> {
    let mut lines = Lines::new(reader, bytes_max, start);
    let mut paragraph = Paragraph::default();
    let mut begin = start;
    loop {
        let number = lines.mark().line;
        // The paragraph at which the stream breaks is incomplete; it is part of the break that the caller reports.
        let ended = match lines.next()? {
            Some(Line::Text(line)) => {
                let line = without_return(line);
                let blank = line.trim_ascii().is_empty();
                if !blank && line[0] != b'#' {
                    paragraph.line(number, line, bytes_max);
                }
                blank
            }
            Some(Line::TooLong { bytes }) => {
                paragraph.spoil(number, FaultKind::TooLong, format!("line of {bytes} bytes is over the limit"));
                false
            }
            None => {
                sink.at(begin, lines.mark());
                return paragraph.finish(bytes_max, sink);
            }
        };
        if ended {
            sink.at(begin, lines.mark());
            paragraph.finish(bytes_max, sink)?;
            begin = lines.mark();
        }
    }
}

/// A paragraph being read.
#[derive(Default)]
struct Paragraph {
    line: u64,
    bytes: usize,
    fields: Vec<(String, String)>,
    fault: Option<(u64, FaultKind, String)>,
}

impl Paragraph {
    fn line(&mut self, number: u64, line: &[u8], bytes_max: usize) {
        if self.line == 0 {
            self.line = number;
        }
        self.bytes += line.len() + 1;
        if self.bytes > bytes_max || self.fault.is_some() {
            self.fields.clear();
            return;
        }
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                let reason = format!("invalid UTF-8 at byte {}", error.valid_up_to());
                return self.spoil(number, FaultKind::InvalidUtf8, reason);
            }
        };
        if text.starts_with([' ', '\t']) {
            match self.fields.last_mut() {
                Some((_, value)) => {
                    value.push('\n');
                    value.push_str(text);
                }
                None => {
                    self.spoil(number, FaultKind::InvalidParagraph, "a continuation line without a field".to_owned())
                }
            }
            return;
        }
        match text.split_once(':') {
            Some((name, value)) if is_field_name(name) => self.fields.push((name.to_owned(), value.trim().to_owned())),
            _ => self.spoil(number, FaultKind::InvalidParagraph, "not a line of the form `Field: value`".to_owned()),
        }
    }

    fn spoil(&mut self, number: u64, kind: FaultKind, reason: String) {
        if self.line == 0 {
            self.line = number;
        }
        self.fields.clear();
        self.fault.get_or_insert((number, kind, reason));
    }

    /// Passes the paragraph on and begins a new one.
    fn finish(&mut self, bytes_max: usize, sink: &mut Sink) -> Result<(), Stop> {
        let Self { line, bytes, fields, fault } = std::mem::take(self);
        if line == 0 {
            return Ok(());
        }
        if let Some((number, kind, reason)) = fault {
            return sink.fault(number, kind, reason);
        }
        if bytes > bytes_max {
            return too_long(sink, line, "paragraph", bytes as u64, bytes_max);
        }
        let object = object(&fields);
        let Some(package) = object.get("package").and_then(Value::as_str).filter(|package| !package.is_empty()) else {
            return sink.fault(line, FaultKind::InvalidParagraph, "a paragraph without the field `Package`");
        };
        let id = package.to_owned();
        sink.record(line, line, Some(id), Value::Object(object).to_string().into_bytes())
    }
}

/// Whether the text can be a field's name (Debian policy, 5.1: printable ASCII but space and colon).
pub(super) fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) && !name.starts_with(['#', '-'])
}

fn object(fields: &[(String, String)]) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, value) in fields {
        let key = name.to_ascii_lowercase().replace('-', "_");
        match key.as_str() {
            "description" => {
                let (title, rest) = value.split_once('\n').unwrap_or((value, ""));
                object.insert("title".to_owned(), Value::from(title.trim()));
                let body = running_text(rest);
                if !body.is_empty() {
                    object.insert("body".to_owned(), Value::from(body));
                }
            }
            "tag" => {
                let tags: Vec<&str> = value.split(',').map(str::trim).filter(|tag| !tag.is_empty()).collect();
                object.insert("tags".to_owned(), Value::from(tags));
            }
            "size" | "installed_size" => {
                let number = value.parse::<i64>().map_or_else(|_| Value::from(value.as_str()), Value::from);
                object.insert(key, number);
            }
            "depends" | "pre_depends" | "recommends" | "suggests" | "enhances" | "breaks" | "conflicts"
            | "replaces" | "provides" => {
                object.insert(key, Value::from(packages(value)));
            }
            _ if value.is_empty() => {}
            _ => {
                let lines: Vec<&str> = value.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect();
                object.insert(key, Value::from(lines.join("\n")));
            }
        }
    }
    object
}

/// The names in a relation field, each once: `libc6 (>= 2.34), python3:any | python` gives `libc6`, `python3`, `python`.
fn packages(relations: &str) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for relation in relations.split([',', '|']) {
        let name = relation.trim().split([' ', '(', '[', '<', ':', '\n']).next().unwrap_or_default();
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The long description: ` .` separates paragraphs, lines indented by more than one space keep their line break.
fn running_text(lines: &str) -> String {
    let mut text = String::with_capacity(lines.len());
    let mut break_before = true;
    for line in lines.split('\n') {
        let line = line.strip_prefix([' ', '\t']).unwrap_or(line).trim_end();
        if line == "." || line.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            break_before = true;
            continue;
        }
        let verbatim = line.starts_with([' ', '\t']);
        if !text.is_empty() && !break_before {
            text.push(if verbatim { '\n' } else { ' ' });
        }
        text.push_str(line.trim_start());
        break_before = false;
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_and_relations() {
        assert_eq!(
            running_text("\n First line\n goes on.\n .\n Second.\n  * item\n  * item"),
            "First line goes on.\nSecond.\n* item\n* item"
        );
        assert_eq!(packages("libc6 (>= 2.34), python3:any | python,\n libc6 (<< 3)"), ["libc6", "python3", "python"]);
        assert!(is_field_name("Installed-Size"));
        assert!(!is_field_name("Not a name"));
    }
}
