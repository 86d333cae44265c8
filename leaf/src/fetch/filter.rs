//! `_source` filtering: which parts of a document are returned.
//!
//! As Elasticsearch: a pattern names a dotted path, `*` stands for any characters (dots too), and
//! naming an object includes or excludes everything in it. Exclusion wins over inclusion.

use bytes::Bytes;
use serde_json::{Map, Value};

/// Includes and excludes of dotted paths.
#[derive(Clone, Debug, Default)]
pub struct SourceFilter {
    includes: Vec<String>,
    excludes: Vec<String>,
}

impl SourceFilter {
    /// An empty list of includes includes everything.
    pub fn new(includes: &[String], excludes: &[String]) -> Self {
        Self { includes: includes.to_vec(), excludes: excludes.to_vec() }
    }

    /// Whether nothing is left out.
    pub fn keeps_all(&self) -> bool {
        self.excludes.is_empty() && self.includes.iter().all(|pattern| pattern == "*")
    }

    /// What is wanted of a document as it is stored; nothing when it cannot be read.
    pub fn of_bytes(&self, source: Bytes) -> Bytes {
        if self.keeps_all() {
            return source;
        }
        let Ok(mut json) = serde_json::from_slice(&source) else { return Bytes::new() };
        self.apply(&mut json);
        json.to_string().into()
    }

    /// Removes what is not wanted.
    pub fn apply(&self, source: &mut Value) {
        if let Value::Object(object) = source {
            self.object(object, "", self.includes.is_empty());
        }
    }

    fn object(&self, object: &mut Map<String, Value>, path: &str, included: bool) {
        let taken = std::mem::take(object);
        for (key, value) in taken {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if let Some(kept) = self.value(value, &path, included) {
                object.insert(key, kept);
            }
        }
    }

    /// What is kept of the value at a path; `included` when a parent was named.
    fn value(&self, value: Value, path: &str, included: bool) -> Option<Value> {
        if matches_any(&self.excludes, path) {
            return None;
        }
        let included = included || matches_any(&self.includes, path);
        match value {
            Value::Object(mut object) => {
                let was_empty = object.is_empty();
                self.object(&mut object, path, included);
                (included || (!object.is_empty() && !was_empty)).then_some(Value::Object(object))
            }
            Value::Array(values) => {
                let kept: Vec<Value> = values
                    .into_iter()
                    .filter_map(|value| match value {
                        // Elements share the path of the array.
                        Value::Object(_) | Value::Array(_) => self.element(value, path, included),
                        other => included.then_some(other),
                    })
                    .collect();
                (included || !kept.is_empty()).then_some(Value::Array(kept))
            }
            other => included.then_some(other),
        }
    }

    fn element(&self, value: Value, path: &str, included: bool) -> Option<Value> {
        match value {
            Value::Object(mut object) => {
                self.object(&mut object, path, included);
                (included || !object.is_empty()).then_some(Value::Object(object))
            }
            other => self.value(other, path, included),
        }
    }
}

fn matches_any(patterns: &[String], path: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, path))
}

/// Whether a path fits a pattern with `*`, in time proportional to their lengths' product at most.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < path.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, seen));
            at += 1;
        } else if pattern.get(at) == path.get(seen) {
            at += 1;
            seen += 1;
        } else if let Some((star_at, star_seen)) = star {
            at = star_at + 1;
            seen = star_seen + 1;
            star = Some((star_at, seen));
        } else {
            return false;
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filtered(includes: &[&str], excludes: &[&str], mut source: Value) -> Value {
        let own = |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        SourceFilter::new(&own(includes), &own(excludes)).apply(&mut source);
        source
    }

    #[test]
    fn paths_and_patterns_select_parts() {
        let source = json!({"a": {"b": 1, "c": {"d": 2}}, "e": [{"f": 1, "g": 2}, {"g": 3}], "h": [1, 2]});
        assert_eq!(filtered(&["a.b"], &[], source.clone()), json!({"a": {"b": 1}}));
        assert_eq!(filtered(&["a"], &["a.c"], source.clone()), json!({"a": {"b": 1}}));
        assert_eq!(filtered(&["*.d"], &[], source.clone()), json!({"a": {"c": {"d": 2}}}));
        assert_eq!(filtered(&["e.f"], &[], source.clone()), json!({"e": [{"f": 1}]}));
        assert_eq!(filtered(&[], &["e.*", "a"], source.clone()), json!({"e": [{}, {}], "h": [1, 2]}));
        assert_eq!(filtered(&["h"], &[], source), json!({"h": [1, 2]}));
    }

    #[test]
    fn stars_match_any_run() {
        assert!(matches("a*c", "abbc") && matches("*", "") && matches("a.*", "a.b.c") && !matches("a*c", "ab"));
        assert!(matches("*b*", "abc") && !matches("b", "abc"));
    }
}
