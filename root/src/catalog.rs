//! Indices as this root sees them: names to records, records to mappings.

use std::collections::BTreeSet;
use std::sync::Arc;

use quick_cache::sync::Cache;
use trawl_cluster::catalog::IndexRecord;
use trawl_cluster::view::View;
use trawl_data::mapping::Mapping;
use trawl_proto::IndexUid;

use crate::error::Error;
use crate::request::ResolveOptions;

/// Parsed mappings by index and version; a version never changes, so entries never go stale.
pub struct Mappings {
    parsed: Cache<(IndexUid, u64), Arc<Mapping>>,
}

impl Mappings {
    /// An empty cache.
    pub fn new(entries_max: usize) -> Self {
        Self { parsed: Cache::new(entries_max) }
    }

    /// The catalog's mapping of an index, at the record's version.
    ///
    /// # Errors
    /// [`Error::Internal`] when the stored mapping is missing or cannot be read.
    pub fn of(&self, view: &View, record: &IndexRecord) -> Result<Arc<Mapping>, Error> {
        let key = (record.uid.clone(), record.mapping_version);
        if let Some(mapping) = self.parsed.get(&key) {
            return Ok(mapping);
        }
        let stored = view.mappings.get(&key);
        let missing = || Error::Internal(format!("mapping {} of index [{}] is not there", key.1, record.name));
        let mapping = Arc::new(parse(stored.ok_or_else(missing)?, &record.name)?);
        self.parsed.insert(key, mapping.clone());
        Ok(mapping)
    }
}

/// Reads a stored mapping.
///
/// # Errors
/// [`Error::Internal`]: what was stored was valid, so this is damage or a newer version's work.
pub fn parse(stored: &[u8], index: &str) -> Result<Mapping, Error> {
    let broken = |reason: String| Error::Internal(format!("stored mapping of index [{index}]: {reason}"));
    let json: serde_json::Value = serde_json::from_slice(stored).map_err(|error| broken(error.to_string()))?;
    Mapping::from_stored(&json).map_err(|error| broken(error.reason))
}

/// The record of an index.
///
/// # Errors
/// [`Error::NoSuchIndex`].
pub fn record(view: &View, name: &str) -> Result<Arc<IndexRecord>, Error> {
    view.indices.get(name).cloned().ok_or_else(|| Error::NoSuchIndex(name.to_owned()))
}

/// The names an expression stands for: names, commas, `*`, `-exclusions`, `_all` or nothing. In the
/// order written, those of a pattern sorted, none twice.
///
/// # Errors
/// [`Error::NoSuchIndex`] as the options say.
pub fn resolve(view: &View, expression: &str, options: ResolveOptions) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = Vec::new();
    let mut patterns = false;
    let parts: Vec<&str> = expression.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let parts = if parts.is_empty() { vec!["_all"] } else { parts };
    for part in &parts {
        match part.strip_prefix('-').filter(|_| patterns) {
            Some(excluded) => names.retain(|name| !matches(excluded, name)),
            None if *part == "_all" || part.contains('*') => {
                patterns = true;
                let pattern = if *part == "_all" { "*" } else { part };
                names.extend(view.indices.keys().filter(|name| matches(pattern, name)).cloned());
            }
            None if view.indices.contains_key(*part) => names.push((*part).to_owned()),
            None if options.ignore_unavailable => {}
            None => return Err(Error::NoSuchIndex((*part).to_owned())),
        }
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    if names.is_empty() && !options.allow_no_indices {
        return Err(Error::NoSuchIndex(expression.to_owned()));
    }
    Ok(names)
}

/// Whether a name fits a pattern in which `*` stands for any number of characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut middle: Vec<&str> = parts.collect();
    let Some(last) = middle.pop() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Refuses names that Elasticsearch refuses, in its words.
///
/// # Errors
/// `invalid_index_name_exception`.
pub fn check_name(name: &str) -> Result<(), Error> {
    let refuse =
        |why: &str| Err(Error::invalid("invalid_index_name_exception", format!("Invalid index name [{name}], {why}")));
    if name.is_empty() {
        return refuse("must not be empty");
    }
    if name == "." || name == ".." {
        return refuse("must not be '.' or '..'");
    }
    if name.chars().any(|c| matches!(c, ' ' | '"' | '*' | '\\' | '<' | '|' | ',' | '>' | '/' | '?') || c.is_control()) {
        return refuse("must not contain the following characters [' ','\"','*','\\','<','|',',','>','/','?']");
    }
    if name.contains('#') {
        return refuse("must not contain '#'");
    }
    if name.contains(':') {
        return refuse("must not contain ':'");
    }
    if name.starts_with(['_', '-', '+']) {
        return refuse("must not start with '_', '-', or '+'");
    }
    if name.to_lowercase() != name {
        return refuse("must be lowercase");
    }
    if name.len() > 255 {
        return refuse("index name is too long, (must not be longer than 255 bytes)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn view(names: &[&str]) -> View {
        let mut view = View::default();
        for name in names {
            let record = IndexRecord::new(name, IndexUid(format!("uid-{name}")), 1, 0);
            view.indices.insert((*name).to_owned(), Arc::new(record));
        }
        view
    }

    #[test]
    fn expressions_are_resolved_in_order_and_none_twice() {
        let view = view(&["books", "logs-1", "logs-2", "news"]);
        let resolve = |expression: &str| resolve(&view, expression, ResolveOptions::default()).unwrap();
        assert_eq!(resolve("news,books"), ["news", "books"]);
        assert_eq!(resolve("logs-*,logs-1"), ["logs-1", "logs-2"]);
        assert_eq!(resolve("_all").len(), 4);
        assert_eq!(resolve("").len(), 4);
        assert_eq!(resolve("*,-logs-*"), ["books", "news"]);
        assert_eq!(resolve("nothing*"), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_named() {
        let view = view(&["books"]);
        let strict = ResolveOptions { ignore_unavailable: false, allow_no_indices: false };
        assert!(matches!(resolve(&view, "books,other", strict), Err(Error::NoSuchIndex(name)) if name == "other"));
        assert!(matches!(resolve(&view, "x*", strict), Err(Error::NoSuchIndex(name)) if name == "x*"));
        let lenient = ResolveOptions { ignore_unavailable: true, allow_no_indices: true };
        assert_eq!(resolve(&view, "books,other", lenient).unwrap(), ["books"]);
    }

    #[test]
    fn patterns_match_as_shells_do() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acd", false),
            ("*b*", "abc", true),
            ("a*a", "a", false),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for name in ["", ".", "..", "A", "a b", "_a", "-a", "+a", "a*", "a/b", "a,b", "a#b", "a:b", "a?"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name(&"a".repeat(256)).is_err());
        for name in ["a", "logs-2024.01", ".hidden", "größe"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}
