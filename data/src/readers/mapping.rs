//! A mapping that fits a format and the beginning of a file, for an index that is about to be created.
//!
//! Where a format says nothing of types (JSON), only strings are mapped, as the index would map them by itself: text, with
//! `.keyword`. Numbers, booleans and dates are left to be typed value by value, which never rejects a document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Format;
use super::csv_types::{Kind, Table, is_date};

/// Objects of the sample that are looked at.
const OBJECTS_MAX: usize = 1_000;
/// Elasticsearch's default for the keyword of a string.
const KEYWORD_CHARS_MAX: usize = 256;
/// Strings beyond so many fields are left to the index.
const FIELDS_MAX: usize = 100;

/// The object to put under `mappings`.
pub(super) fn fitting(format: Format, table: Option<&Table>, sample: &[u8]) -> Value {
    match format {
        Format::Debian => debian(),
        Format::Text | Format::Auto => json!({ "properties": {
            "path": keyword(), "title": { "type": "text" }, "body": { "type": "text" },
            "size": { "type": "long" }, "modified": { "type": "date" },
        } }),
        Format::Csv | Format::Tsv => of_table(table),
        Format::Ndjson | Format::Json => of_objects(sample),
    }
}

fn keyword() -> Value {
    json!({ "type": "keyword", "ignore_above": 8191 })
}

fn text_with_keyword() -> Value {
    json!({ "type": "text", "fields": { "keyword": { "type": "keyword", "ignore_above": KEYWORD_CHARS_MAX } } })
}

fn debian() -> Value {
    json!({ "properties": {
        "package": text_with_keyword(),
        "title": { "type": "text", "analyzer": "english" },
        "body": { "type": "text", "analyzer": "english" },
        "version": keyword(), "source": keyword(), "section": keyword(), "priority": keyword(),
        "architecture": keyword(), "multi_arch": keyword(), "essential": keyword(),
        "maintainer": text_with_keyword(), "homepage": keyword(), "tags": keyword(),
        "depends": keyword(), "pre_depends": keyword(), "recommends": keyword(), "suggests": keyword(),
        "enhances": keyword(), "breaks": keyword(), "conflicts": keyword(), "replaces": keyword(),
        "provides": keyword(),
        "installed_size": { "type": "long" }, "size": { "type": "long" },
        "filename": keyword(), "description_md5": keyword(), "md5sum": keyword(), "sha1": keyword(),
        "sha256": keyword(), "sha512": keyword(),
    } })
}

fn of_table(table: Option<&Table>) -> Value {
    let mut properties = Map::new();
    for column in table.map(|table| table.columns.as_slice()).unwrap_or_default() {
        let field = match column.kind {
            Kind::Long => json!({ "type": "long" }),
            Kind::Double => json!({ "type": "double" }),
            Kind::Boolean => json!({ "type": "boolean" }),
            Kind::Date => json!({ "type": "date" }),
            Kind::Text => text_with_keyword(),
        };
        insert(&mut properties, &column.name, field);
    }
    json!({ "properties": properties })
}

/// What was seen at a path.
#[derive(Default)]
struct Seen {
    text: bool,
    /// A text that `.keyword` would take.
    short: bool,
    other: bool,
    object: bool,
}

fn of_objects(sample: &[u8]) -> Value {
    let mut seen = BTreeMap::new();
    for object in objects(sample) {
        look(&object, "", &mut seen, 0);
    }
    let mut properties = Map::new();
    let is_value = |path: &str| seen.get(path).is_some_and(|seen| seen.text || seen.short || seen.other);
    // A field below a path that also holds plain values would make the index refuse these.
    let below_value = |path: &str| path.match_indices('.').any(|(end, _)| is_value(&path[..end]));
    let strings = seen.iter().filter(|(path, seen)| seen.text && !seen.other && !seen.object && !below_value(path));
    for (path, seen) in strings.take(FIELDS_MAX) {
        // `.keyword` of what is always long would stay empty.
        let field = if seen.short { text_with_keyword() } else { json!({ "type": "text" }) };
        insert(&mut properties, path, field);
    }
    json!({ "properties": properties })
}

/// The whole objects in the sample: line by line where lines are objects, else one after the other.
fn objects(sample: &[u8]) -> Vec<Value> {
    let sample = sample.strip_prefix(b"\xef\xbb\xbf").unwrap_or(sample);
    let by_line: Vec<Value> = sample
        .split(|byte| *byte == b'\n')
        .take(OBJECTS_MAX)
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(Value::is_object)
        .collect();
    if !by_line.is_empty() {
        return by_line;
    }
    let mut objects = Vec::new();
    let mut rest = sample;
    while objects.len() < OBJECTS_MAX {
        while let [b'[' | b']' | b',' | b' ' | b'\n' | b'\r' | b'\t', after @ ..] = rest {
            rest = after;
        }
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => objects.push(value),
            // Damaged or cut: what was seen so far must do.
            _ => break,
        }
        let offset = values.byte_offset();
        rest = rest.get(offset..).unwrap_or_default();
    }
    objects
}

fn look(value: &Value, path: &str, seen: &mut BTreeMap<String, Seen>, depth: usize) {
    match value {
        Value::Null => {}
        Value::Object(object) if depth < 10 => {
            if depth > 0 {
                seen.entry(path.to_owned()).or_default().object = true;
            }
            for (key, value) in object {
                // A dot in a key would be taken for a path, an empty key is none.
                if !key.is_empty() && !key.contains('.') {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    look(value, &path, seen, depth + 1);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| look(value, path, seen, depth)),
        Value::String(text) => {
            let seen = seen.entry(path.to_owned()).or_default();
            seen.text |= !is_date(text);
            seen.short |= text.chars().take(KEYWORD_CHARS_MAX + 1).count() <= KEYWORD_CHARS_MAX;
        }
        _ => seen.entry(path.to_owned()).or_default().other = true,
    }
}

/// Puts a field at a dotted path; not where a field that is no object stands in the way.
fn insert(properties: &mut Map<String, Value>, path: &str, field: Value) {
    let Some((first, rest)) = path.split_once('.') else {
        properties.entry(path).or_insert(field);
        return;
    };
    let object = properties.entry(first).or_insert_with(|| json!({ "properties": {} }));
    if let Some(Value::Object(below)) = object.get_mut("properties") {
        insert(below, rest, field);
    }
}

/// Field types by dotted path, out of a mapping as `GET _mapping` shows it.
pub(crate) fn field_types(mapping: &Value) -> BTreeMap<String, String> {
    fn collect(properties: &Value, prefix: &str, types: &mut BTreeMap<String, String>) {
        for (name, field) in properties.as_object().into_iter().flatten() {
            let path = format!("{prefix}{name}");
            match (field.get("type").and_then(Value::as_str), field.get("properties")) {
                (Some(field_type), _) if field_type != "object" => {
                    types.insert(path, field_type.to_owned());
                }
                (_, Some(below)) => collect(below, &format!("{path}."), types),
                _ => {}
            }
        }
    }
    let mut types = BTreeMap::new();
    collect(mapping.get("properties").unwrap_or(&Value::Null), "", &mut types);
    types
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_objects_are_mapped() {
        let text = br#"{"t": "x y", "n": 1, "d": "2024-05-17", "p": {"q": ["a"], "r": 2}, "m": "a", "a.b": "c"}
{"t": null, "m": 3, "v": [1, {"w": "a"}]}
{"cut": "#;
        let expected = json!({ "properties": {
            "t": text_with_keyword(), "p": { "properties": { "q": text_with_keyword() } },
        } });
        assert_eq!(of_objects(text), expected);
        assert_eq!(
            of_objects(b"[\n{\"t\":\n\"x\"},\n{\"u\": \"y\"}, {\"cut"),
            json!({ "properties": {
            "t": text_with_keyword(), "u": text_with_keyword(),
        } })
        );
        assert_eq!(field_types(&expected)["p.q"], "text");
    }
}
