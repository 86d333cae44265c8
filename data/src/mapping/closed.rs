//! Closing a mapping to new dynamic fields.
//!
//! A shard cannot know how many fields the whole index has, and what becomes of an operation must not
//! depend on anything but the log. So whoever sees the whole index writes a mapping version that lists
//! the dynamic fields there are: from the rows on that carry it, a field that neither the mapping nor
//! the list has is refused, and one of the list is taken by every shard, also by one that has not had it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value as Json;

use super::{Inner, Mapping, MappingError};

/// Where the list stands in a stored mapping; no mapping of a user can have such a key.
const KEY: &str = "_closed";

impl Mapping {
    /// The same mapping, in which no dynamic fields can appear but these.
    pub fn close(&self, dynamic: impl IntoIterator<Item = String>) -> Self {
        let closed: BTreeSet<String> = dynamic.into_iter().filter(|path| self.field(path).is_none()).collect();
        self.with_closed(Some(Arc::new(closed)))
    }

    /// The only dynamic fields that documents may have; `None` while the mapping is open.
    pub fn closed(&self) -> Option<&BTreeSet<String>> {
        self.inner.closed.as_deref()
    }

    /// As it is kept in the catalog: what is shown, and the list if it is closed.
    pub fn to_stored(&self) -> Json {
        let mut json = self.to_json();
        if let (Some(closed), Some(object)) = (self.closed(), json.as_object_mut()) {
            object.insert(KEY.to_owned(), closed.iter().cloned().collect());
        }
        json
    }

    /// From the catalog.
    ///
    /// # Errors
    /// As [`Mapping::parse`]; a list that is none.
    pub fn from_stored(json: &Json) -> Result<Self, MappingError> {
        let Some(list) = json.get(KEY) else { return Self::parse(json) };
        let paths = list.as_array().and_then(|paths| {
            paths.iter().map(|path| path.as_str().map(str::to_owned)).collect::<Option<BTreeSet<String>>>()
        });
        let paths = paths.ok_or_else(|| MappingError::parsing(format!("[{KEY}] is no list of names")))?;
        let mut shown = json.clone();
        if let Some(object) = shown.as_object_mut() {
            object.remove(KEY);
        }
        Ok(Self::parse(&shown)?.with_closed(Some(Arc::new(paths))))
    }

    pub(super) fn with_closed(&self, closed: Option<Arc<BTreeSet<String>>>) -> Self {
        if closed.is_none() && self.inner.closed.is_none() {
            return self.clone();
        }
        let Inner { root, fields, targets, .. } = &*self.inner;
        let inner = Inner { root: root.clone(), fields: fields.clone(), targets: targets.clone(), closed };
        Self { inner: Arc::new(inner) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn the_list_is_stored_and_kept_by_updates_but_never_taken_from_users() {
        let mapping = Mapping::parse(&json!({"properties": {"a": {"type": "long"}}})).unwrap();
        assert_eq!(mapping.closed(), None);
        assert_eq!(Mapping::from_stored(&mapping.to_stored()).unwrap(), mapping);
        let closed = mapping.close(["x".to_owned(), "a".to_owned()]);
        assert_ne!(closed, mapping);
        assert_eq!(closed.to_json(), mapping.to_json());
        let again = Mapping::from_stored(&closed.to_stored()).unwrap();
        assert_eq!(again, closed);
        let merged = again.merge(&json!({"properties": {"b": {"type": "long"}}})).unwrap();
        assert_eq!(merged.closed().unwrap().iter().collect::<Vec<_>>(), ["x"]);
        assert!(Mapping::parse(&closed.to_stored()).is_err());
    }
}
