//! Finds the format of a file: by its content where that is telling, by the ending of its name where it is not.

use serde::de::IgnoredAny;

use super::Format;
use super::compression::without_ending;
use super::csv_types::guess;
use super::debian::is_field_name;

/// The format of a file that begins with `sample`; `whole` says that the sample is all of it. `None`: a binary file.
pub(super) fn detect(name: &str, sample: &[u8], whole: bool) -> Option<Format> {
    let sample = sample.strip_prefix(b"\xef\xbb\xbf").unwrap_or(sample);
    let named = by_ending(name);
    if sample.contains(&0) {
        return binary(named, sample, whole);
    }
    if let Some(format) = json(sample, whole) {
        return Some(format);
    }
    if is_debian(sample) {
        return Some(Format::Debian);
    }
    if named.is_some() {
        return named;
    }
    match guess(sample, whole) {
        Some(guess) if guess.consistent => Some(Format::Csv),
        _ => Some(Format::Text),
    }
}

/// What the ending of a file's name says.
fn by_ending(name: &str) -> Option<Format> {
    let name = without_ending(name).to_ascii_lowercase();
    Some(match name.rsplit(['.', '/']).next().unwrap_or_default() {
        "csv" => Format::Csv,
        "tsv" | "tab" => Format::Tsv,
        "ndjson" | "jsonl" => Format::Ndjson,
        "json" => Format::Json,
        "md" | "markdown" | "txt" | "text" | "rst" | "adoc" | "org" => Format::Text,
        _ => return None,
    })
}

/// A file with a NUL byte in it: what its name says, when the byte can be a matter of a few bad lines. Then those are
/// reported one by one and the rest is loaded.
fn binary(named: Option<Format>, sample: &[u8], whole: bool) -> Option<Format> {
    let named = named.filter(|_| !is_utf16(sample))?;
    match named {
        Format::Ndjson | Format::Json => Some(json(sample, whole).unwrap_or(named)),
        Format::Csv | Format::Tsv => {
            let header = sample.split(|byte| *byte == b'\n').next().unwrap_or_default();
            (!header.contains(&0)).then_some(named)
        }
        _ => None,
    }
}

/// Whether a file begins as UTF-16 text does.
pub(super) fn is_utf16(sample: &[u8]) -> bool {
    sample.starts_with(b"\xff\xfe") || sample.starts_with(b"\xfe\xff")
}

/// NDJSON when one of the first lines is a whole object, so that a damaged first line does not hide it; else JSON when it
/// begins as an object or an array of objects.
fn json(sample: &[u8], whole: bool) -> Option<Format> {
    let trimmed = sample.trim_ascii_start();
    let after_bracket = trimmed.strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
    if let Some(after) = after_bracket {
        let telling = after.first().is_some_and(|byte| matches!(byte, b'{' | b']'));
        return telling.then_some(Format::Json);
    }
    let mut lines: Vec<&[u8]> = trimmed.split(|byte| *byte == b'\n').collect();
    if !whole && lines.len() > 1 {
        lines.pop();
    }
    let is_object = |line: &&[u8]| {
        let line = line.trim_ascii();
        line.starts_with(b"{") && line.ends_with(b"}") && serde_json::from_slice::<IgnoredAny>(line).is_ok()
    };
    if lines.iter().take(20).any(is_object) {
        return Some(Format::Ndjson);
    }
    // A line longer than the sample, or an object spread over lines.
    let rest = trimmed.strip_prefix(b"{")?.trim_ascii_start();
    let object = rest.first().is_none_or(|byte| matches!(byte, b'"' | b'}'));
    object.then_some(if lines.len() == 1 { Format::Ndjson } else { Format::Json })
}

/// Whether the first paragraph is one of `Field: value` lines and names a package.
fn is_debian(sample: &[u8]) -> bool {
    let mut package = false;
    let start = sample.trim_ascii_start();
    for line in start.split(|byte| *byte == b'\n').take(200) {
        let Ok(text) = std::str::from_utf8(line) else { return false };
        if text.trim().is_empty() {
            break;
        }
        if text.starts_with([' ', '\t', '#']) {
            continue;
        }
        match text.split_once(':') {
            Some((name, _)) if is_field_name(name) => package |= name.eq_ignore_ascii_case("package"),
            _ => return false,
        }
    }
    package
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Option<Format> {
        detect(name, text.as_bytes(), true)
    }

    #[test]
    fn formats_by_content() {
        assert_eq!(of("-", "{\"a\":1}\n{\"a\":2}\n"), Some(Format::Ndjson));
        assert_eq!(of("x.txt", "{\"a\":1}\n"), Some(Format::Ndjson));
        assert_eq!(of("-", "{broken\n{\"a\":2}\n"), Some(Format::Ndjson));
        assert_eq!(of("-", "{\n \"a\": 1\n}\n{\n \"a\": 2\n}\n"), Some(Format::Json));
        assert_eq!(of("-", " [\n {\"a\": 1}, {\"a\": 2}]"), Some(Format::Json));
        assert_eq!(of("-", "Package: a\nVersion: 1\nDescription: x\n y\n\nPackage: b\n"), Some(Format::Debian));
        assert_eq!(of("-", "a,b\n1,2\n3,4\n"), Some(Format::Csv));
        assert_eq!(of("-", "a\tb\n1\t2\n"), Some(Format::Csv));
        assert_eq!(of("notes", "Dear all,\nit rains, and it pours, and more.\n"), Some(Format::Text));
        assert_eq!(of("readme.md.gz", "[link](x)\n"), Some(Format::Text));
        assert_eq!(of("x.csv", "only one column\nvalue\n"), Some(Format::Csv));
        assert_eq!(of("-", "\u{feff}{\"a\":1}\n"), Some(Format::Ndjson));
        assert_eq!(of("x", "ELF\0\0"), None);
        assert_eq!(of("-", ""), Some(Format::Text));
        assert_eq!(of("x.ndjson", "{\"a\":\0}\n{\"a\":2}\n"), Some(Format::Ndjson));
        assert_eq!(of("x.json.gz", "{\"a\":1}\n{\"a\":\0}\n"), Some(Format::Ndjson));
        assert_eq!(of("x.csv", "a,b\n1,\0\n"), Some(Format::Csv));
        assert_eq!(of("x.csv", "a\0,b\n1,2\n"), None);
        assert_eq!(of("x.md", "a\0"), None);
        assert_eq!(of("-", "{\"a\":1}\n\0"), None);
        assert_eq!(detect("x.ndjson", b"\xff\xfe{\0}\0", true), None);
        assert_eq!(detect("-", format!("{{\"a\": \"{}", "x".repeat(9_000)).as_bytes(), false), Some(Format::Ndjson));
    }
}
