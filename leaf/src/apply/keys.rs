//! The keys in use: fields that have no physical field of their own, in order of first appearance.
//!
//! Which key has which types and which spare text field is a pure function of the log.

use std::collections::HashMap;

use trawl_proto::v1;

use crate::schema::fields::fields_version;

/// Keys, their types and their spare text fields.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    list: Vec<v1::DynamicField>,
    by_key: HashMap<String, usize>,
    spares_used: u32,
}

/// What one document wants of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The key.
    pub key: String,
    /// Bits of the types of its values.
    pub types: u32,
    /// Whether it has analysed text.
    pub text: bool,
}

impl Keys {
    /// From a commit.
    pub fn from_proto(list: Vec<v1::DynamicField>) -> Self {
        let by_key = list.iter().enumerate().map(|(at, field)| (field.path.clone(), at)).collect();
        let spares_used = list.iter().filter_map(|field| field.spare).map(|spare| spare + 1).max().unwrap_or(0);
        Self { list, by_key, spares_used }
    }

    /// In order of first appearance, as kept in a commit.
    pub fn list(&self) -> &[v1::DynamicField] {
        &self.list
    }

    /// Counts keys, types and spares given out.
    pub fn version(&self) -> u64 {
        fields_version(&self.list)
    }

    /// Spare text fields given out.
    pub fn spares_used(&self) -> u32 {
        self.spares_used
    }

    /// The spare text field of a key.
    pub fn spare(&self, key: &str) -> Option<u32> {
        self.by_key.get(key).and_then(|at| self.list[*at].spare)
    }

    /// The wanted keys that are new.
    pub fn new_of<'a>(&'a self, wanted: &'a [Wanted]) -> impl Iterator<Item = &'a str> {
        wanted.iter().map(|wanted| wanted.key.as_str()).filter(|key| !self.by_key.contains_key(*key))
    }

    /// How many spare text fields there must be for these wishes.
    pub fn spares_needed(&self, wanted: &[Wanted]) -> u32 {
        let fresh = wanted.iter().filter(|wanted| wanted.text && self.spare(&wanted.key).is_none()).count();
        self.spares_used + u32::try_from(fresh).unwrap_or(u32::MAX / 2)
    }

    /// Fulfils the wishes, in order. Returns whether anything is new.
    pub fn learn(&mut self, wanted: &[Wanted]) -> bool {
        let mut changed = false;
        for wish in wanted {
            let at = *self.by_key.entry(wish.key.clone()).or_insert_with(|| {
                self.list.push(v1::DynamicField { path: wish.key.clone(), types: 0, spare: None });
                self.list.len() - 1
            });
            let field = &mut self.list[at];
            if field.types | wish.types != field.types {
                field.types |= wish.types;
                changed = true;
            }
            if wish.text && field.spare.is_none() {
                field.spare = Some(self.spares_used);
                self.spares_used += 1;
                changed = true;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(key: &str, types: u32, text: bool) -> Wanted {
        Wanted { key: key.to_owned(), types, text }
    }

    #[test]
    fn spares_are_given_out_in_order_of_first_appearance_and_survive_a_commit() {
        let mut keys = Keys::default();
        let wishes = [wanted("a", 2, false), wanted("b", 32, true), wanted("c", 32, true)];
        assert_eq!((keys.new_of(&wishes).count(), keys.spares_needed(&wishes)), (3, 2));
        assert!(keys.learn(&wishes));
        assert!(!keys.learn(&wishes));
        let mut keys = Keys::from_proto(keys.list().to_vec());
        assert_eq!((keys.spare("a"), keys.spare("b"), keys.spare("c")), (None, Some(0), Some(1)));
        let version = keys.version();
        assert!(keys.learn(&[wanted("a", 32, true)]));
        assert_eq!(keys.spare("a"), Some(2));
        assert!(keys.version() > version);
    }
}
