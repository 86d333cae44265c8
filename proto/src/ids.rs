//! Ids and positions as types of their own.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next one.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

number! {
    /// An operation's position in its shard's log: strictly increasing within an incarnation,
    /// from 1; 0 is "before the first". Shown to users as `_seq_no`.
    Seq
}
number! {
    /// An unbroken history of a shard's log, from 1. Shown to users as `_primary_term`.
    Incarnation
}
number! {
    /// The fencing number of leadership; grows with each change of holder, from 1.
    Epoch
}
text! {
    /// The immutable id of an index, unlike its name never given again.
    IndexUid
}
text! {
    /// The name of a root or leaf process, stable over restarts.
    NodeName
}

/// One shard of one index. Displayed as `uid/number`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardKey {
    /// The index.
    pub index_uid: IndexUid,
    /// The shard's number, from 0.
    pub number: u32,
}

impl ShardKey {
    /// The shard `number` of an index.
    pub fn new(index_uid: impl Into<IndexUid>, number: u32) -> Self {
        Self { index_uid: index_uid.into(), number }
    }
}

impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index_uid, self.number)
    }
}

impl From<&crate::v1::Shard> for ShardKey {
    fn from(shard: &crate::v1::Shard) -> Self {
        Self { index_uid: IndexUid(shard.index_uid.clone()), number: shard.number }
    }
}

impl From<crate::v1::Shard> for ShardKey {
    fn from(shard: crate::v1::Shard) -> Self {
        Self { index_uid: IndexUid(shard.index_uid), number: shard.number }
    }
}

impl From<&ShardKey> for crate::v1::Shard {
    fn from(key: &ShardKey) -> Self {
        Self { index_uid: key.index_uid.0.clone(), number: key.number }
    }
}

/// A point in a shard's history: equal generations mean equal documents, statistics and scores.
/// Ordered by incarnation, then seq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// Which history.
    pub incarnation: Incarnation,
    /// The last operation contained.
    pub seq: Seq,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.incarnation, self.seq)
    }
}

impl From<crate::v1::Generation> for Generation {
    fn from(generation: crate::v1::Generation) -> Self {
        Self { incarnation: Incarnation(generation.incarnation), seq: Seq(generation.seq) }
    }
}

impl From<Generation> for crate::v1::Generation {
    fn from(generation: Generation) -> Self {
        Self { incarnation: generation.incarnation.0, seq: generation.seq.0 }
    }
}
