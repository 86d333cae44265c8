//! `filter_path`: keeps (or with a leading `-` drops) parts of an answer by dotted paths, where `*`
//! stands for any characters of one name and `**` for any number of names.

use super::json::{self, Json, Members};

/// A parsed `filter_path`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterPath {
    includes: Vec<Vec<String>>,
    excludes: Vec<Vec<String>>,
}

impl FilterPath {
    /// Parses a comma-separated list. Empty paths are ignored, as Elasticsearch does.
    pub fn parse(text: &str) -> Self {
        let mut filter = Self::default();
        for path in text.split(',').map(str::trim).filter(|path| !path.is_empty()) {
            match path.strip_prefix('-') {
                Some(path) => filter.excludes.push(split(path)),
                None => filter.includes.push(split(path)),
            }
        }
        filter
    }

    /// Whether it filters nothing.
    pub fn is_empty(&self) -> bool {
        self.includes.is_empty() && self.excludes.is_empty()
    }

    /// The filtered value; an empty object when nothing is left.
    pub fn apply(&self, value: Json) -> Json {
        let mut value = Some(value);
        if !self.includes.is_empty() {
            let paths: Vec<&[String]> = self.includes.iter().map(Vec::as_slice).collect();
            value = value.and_then(|value| include(value, &paths));
        }
        if !self.excludes.is_empty() {
            let paths: Vec<&[String]> = self.excludes.iter().map(Vec::as_slice).collect();
            value = value.and_then(|value| exclude(value, &paths));
        }
        value.unwrap_or(Json::Object(Members::new()))
    }
}

/// Splits at dots that are not escaped.
fn split(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'.') => {
                characters.next();
                push(&mut parts, '.');
            }
            '.' => parts.push(String::new()),
            _ => push(&mut parts, character),
        }
    }
    parts
}

fn push(parts: &mut [String], character: char) {
    if let Some(last) = parts.last_mut() {
        last.push(character);
    }
}

/// What is left of each path below the member `name`: an empty rest means the path ends here.
fn below<'a>(paths: &[&'a [String]], name: &str) -> Vec<&'a [String]> {
    let mut rests: Vec<&[String]> = Vec::new();
    let mut add = |rest| {
        if !rests.contains(&rest) {
            rests.push(rest);
        }
    };
    for path in paths {
        let Some((first, rest)) = path.split_first() else { continue };
        if first == "**" {
            // Swallows this name, or none at all.
            add(path);
            if rest.is_empty() {
                add(rest);
            }
            for deeper in below(&[rest], name) {
                add(deeper);
            }
        } else if matches(first, name) {
            add(rest);
        }
    }
    rests
}

fn include(value: Json, paths: &[&[String]]) -> Option<Json> {
    if paths.iter().any(|path| path.is_empty()) {
        return Some(value);
    }
    match open(value) {
        Json::Object(members) => {
            let kept: Members = members
                .into_iter()
                .filter_map(|(key, value)| {
                    let rests = below(paths, &key);
                    if rests.is_empty() { None } else { include(value, &rests).map(|value| (key, value)) }
                })
                .collect();
            (!kept.is_empty()).then_some(Json::Object(kept))
        }
        Json::Array(elements) => {
            let kept: Vec<Json> = elements.into_iter().filter_map(|element| include(element, paths)).collect();
            (!kept.is_empty()).then_some(Json::Array(kept))
        }
        _ => None,
    }
}

fn exclude(value: Json, paths: &[&[String]]) -> Option<Json> {
    if paths.iter().any(|path| path.is_empty()) {
        return None;
    }
    match open(value) {
        Json::Object(members) => Some(Json::Object(
            members
                .into_iter()
                .filter_map(|(key, value)| {
                    let rests = below(paths, &key);
                    if rests.is_empty() { Some((key, value)) } else { exclude(value, &rests).map(|value| (key, value)) }
                })
                .collect(),
        )),
        Json::Array(elements) => {
            Some(Json::Array(elements.into_iter().filter_map(|element| exclude(element, paths)).collect()))
        }
        scalar => Some(scalar),
    }
}

/// A raw document is parsed when a path leads into it.
fn open(value: Json) -> Json {
    match value {
        Json::Raw(text) => json::parse(&text).unwrap_or(Json::Raw(text)),
        value => value,
    }
}

/// Whether a pattern with `*` fits the whole name. Linear in time, without recursion.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = name;
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(stripped) = rest.strip_prefix(first) else { return false };
    rest = stripped;
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn filtered(filter: &str, text: &str) -> String {
        let value = FilterPath::parse(filter).apply(json::parse(text.as_bytes()).unwrap());
        String::from_utf8(value.to_bytes()).unwrap()
    }

    const ANSWER: &str = r#"{"took":3,"hits":{"total":{"value":2},"hits":[{"_id":"a","_source":{"x":1,"y":2}},{"_id":"b","_source":{"y":3}}]}}"#;

    #[test]
    fn includes() {
        assert_eq!(filtered("took", ANSWER), r#"{"took":3}"#);
        assert_eq!(filtered("hits.hits._id", ANSWER), r#"{"hits":{"hits":[{"_id":"a"},{"_id":"b"}]}}"#);
        assert_eq!(filtered("hits.hits._source.x", ANSWER), r#"{"hits":{"hits":[{"_source":{"x":1}}]}}"#);
        assert_eq!(filtered("t*,h*.t*", ANSWER), r#"{"took":3,"hits":{"total":{"value":2}}}"#);
        assert_eq!(filtered("**._id", ANSWER), r#"{"hits":{"hits":[{"_id":"a"},{"_id":"b"}]}}"#);
        assert_eq!(filtered("nothing", ANSWER), "{}");
    }

    #[test]
    fn excludes() {
        assert_eq!(filtered("-hits", ANSWER), r#"{"took":3}"#);
        assert_eq!(filtered("hits.hits,-**._source", ANSWER), r#"{"hits":{"hits":[{"_id":"a"},{"_id":"b"}]}}"#);
    }

    #[test]
    fn goes_into_raw_documents() {
        let value = object_with_raw();
        assert_eq!(FilterPath::parse("_source.x").apply(value).to_bytes(), br#"{"_source":{"x":1}}"#);
    }

    fn object_with_raw() -> Json {
        Json::Object(vec![("_source".into(), Json::Raw(r#"{"x":1,"y":2}"#.into()))])
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*b", "ab", false),
            ("abc", "abcd", false),
            ("*é", "xé", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn any_filter_is_handled(filter in "[a-c*.,\\\\-]{0,24}", pattern in "[ab*]{0,8}", name in "[ab]{0,8}") {
            FilterPath::parse(&filter).apply(json::parse(ANSWER.as_bytes()).unwrap());
            matches(&pattern, &name);
        }
    }
}
