//! The order of hits: sort keys, how documents get their values, and how values compare.
//!
//! Values compare the same on every shard, and as the root compares them when it merges: numbers by
//! value whatever their type, dates and booleans as the numbers they are, then addresses, then strings
//! bytewise (a dynamic field may hold several kinds). After the last key come `_tie` and `_id`, always.

mod reader;

use std::cmp::Ordering;
use std::net::Ipv6Addr;
use std::sync::Arc;

use tantivy::SegmentOrdinal;
use tantivy::columnar::DynamicColumn;
use trawl_data::mapping::FieldType;
use trawl_proto::v1::{self, Failure, failure, sort_key, sort_value, value};

use crate::ShardSearcher;
use crate::columns::{Columns, Identity};
use crate::schema::fields::Physical;

use crate::schema::fields::DYNAMIC_KEYWORD;
pub use reader::KeyReader;
use reader::{MixedReader, Reader};

/// A document's value for one sort key.
#[derive(Clone, Debug)]
pub enum Key {
    /// No value.
    Missing,
    /// A whole number.
    Long(i64),
    /// A number.
    Double(f64),
    /// A boolean.
    Boolean(bool),
    /// Milliseconds since the epoch.
    Date(i64),
    /// An address.
    Ip(Ipv6Addr),
    /// A string.
    Text(Arc<str>),
    /// The score.
    Score(f32),
    /// `_tie`.
    Tie(u64),
}

impl Key {
    fn kind(&self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::Long(_) | Self::Double(_) | Self::Boolean(_) | Self::Date(_) => 1,
            Self::Ip(_) => 4,
            Self::Text(_) => 5,
            Self::Score(_) => 6,
            Self::Tie(_) => 7,
        }
    }

    /// Ascending; nothing is said of missing values.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Double(a), Self::Double(b)) => compare_doubles(*a, *b),
            (a, Self::Double(b)) if a.whole().is_some() => compare_mixed(a.whole().unwrap_or(0), *b),
            (Self::Double(a), b) if b.whole().is_some() => compare_mixed(b.whole().unwrap_or(0), *a).reverse(),
            (Self::Ip(a), Self::Ip(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Score(a), Self::Score(b)) => a.total_cmp(b),
            (Self::Tie(a), Self::Tie(b)) => a.cmp(b),
            (a, b) => match (a.whole(), b.whole()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.kind().cmp(&b.kind()),
            },
        }
    }

    fn whole(&self) -> Option<i64> {
        match self {
            Self::Long(value) | Self::Date(value) => Some(*value),
            Self::Boolean(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    fn from_value(value: &v1::Value) -> Option<Self> {
        Some(match value.kind.as_ref()? {
            value::Kind::String(text) => Self::Text(text.as_str().into()),
            value::Kind::Long(value) => Self::Long(*value),
            value::Kind::Double(value) => Self::Double(*value),
            value::Kind::Boolean(value) => Self::Boolean(*value),
            value::Kind::DateMs(value) => Self::Date(*value),
            value::Kind::Ip(bytes) => Self::Ip(super::interval::ip(bytes)?),
        })
    }

    /// As it travels to the root.
    pub fn to_proto(&self) -> v1::SortValue {
        let value = |kind| sort_value::Kind::Value(v1::Value { kind: Some(kind) });
        let kind = match self {
            Self::Missing => sort_value::Kind::Null(true),
            Self::Long(number) => value(value::Kind::Long(*number)),
            Self::Double(number) => value(value::Kind::Double(*number)),
            Self::Boolean(flag) => value(value::Kind::Boolean(*flag)),
            Self::Date(ms) => value(value::Kind::DateMs(*ms)),
            Self::Ip(address) => value(value::Kind::Ip(address.octets().to_vec().into())),
            Self::Text(text) => value(value::Kind::String(text.to_string())),
            Self::Score(score) => sort_value::Kind::Score(*score),
            Self::Tie(tie) => sort_value::Kind::Tie(*tie),
        };
        v1::SortValue { kind: Some(kind) }
    }
}

fn compare_doubles(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.total_cmp(&b))
}

/// Exact also where an `i64` has more digits than a double.
fn compare_mixed(long: i64, double: f64) -> Ordering {
    if double.is_nan() || double >= 9_223_372_036_854_775_808.0 {
        return Ordering::Less;
    }
    if double < -9_223_372_036_854_775_808.0 {
        return Ordering::Greater;
    }
    let whole = double.trunc();
    long.cmp(&(whole as i64)).then_with(|| whole.partial_cmp(&double).unwrap_or(Ordering::Equal))
}

/// Where a key's values come from.
#[derive(Clone, Debug)]
enum Source {
    Score,
    Tie,
    Id,
    /// Names of columns, and the type that users see.
    Columns(Vec<String>, FieldType),
    /// The `.keyword` of a dynamic field: the column of all text forms, that of values of other types.
    Mixed {
        strings: String,
        typed: String,
    },
}

/// One sort key.
#[derive(Clone, Debug)]
struct SortKey {
    source: Source,
    descending: bool,
    greatest: bool,
    missing_first: bool,
    missing: Option<Key>,
}

/// The order of hits.
#[derive(Clone, Debug)]
pub struct Order {
    keys: Vec<SortKey>,
}

impl Order {
    /// The order that a request asks for.
    ///
    /// # Errors
    /// `INVALID` for a text field, which has no values to sort by.
    pub fn new(searcher: &ShardSearcher, keys: &[v1::SortKey]) -> Result<Self, Failure> {
        let keys = keys.iter().map(|key| SortKey::new(searcher, key)).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// Whether this is the order of scores, best first, which block-max WAND can serve.
    pub fn is_by_score(&self) -> bool {
        let by_score = |key: &SortKey| matches!(key.source, Source::Score) && key.descending;
        let mut keys = self.keys.iter();
        keys.next().is_none_or(by_score)
            && keys.next().is_none_or(|key| matches!(key.source, Source::Tie) && !key.descending)
            && keys.next().is_none_or(|key| matches!(key.source, Source::Id) && !key.descending)
            && keys.next().is_none()
    }

    /// Whether any key is the score.
    pub fn needs_score(&self) -> bool {
        self.keys.is_empty() || self.keys.iter().any(|key| matches!(key.source, Source::Score))
    }

    /// Number of keys.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The keys that hits have to come after.
    ///
    /// # Errors
    /// `INVALID` when their number or kinds do not fit the sort.
    pub fn after(&self, values: &[v1::SortValue]) -> Result<Option<Vec<Key>>, Failure> {
        if values.is_empty() {
            return Ok(None);
        }
        if values.len() != self.keys.len().max(1) {
            return Err(invalid(format!(
                "[search_after] has {} value(s) but sort has {}",
                values.len(),
                self.keys.len().max(1)
            )));
        }
        let keys = values.iter().map(|value| {
            match value.kind.as_ref() {
                Some(sort_value::Kind::Null(_)) => Some(Key::Missing),
                Some(sort_value::Kind::Score(score)) => Some(Key::Score(*score)),
                Some(sort_value::Kind::Tie(tie)) => Some(Key::Tie(*tie)),
                Some(sort_value::Kind::Value(value)) => Key::from_value(value),
                None => None,
            }
            .ok_or_else(|| invalid("[search_after] has a malformed value"))
        });
        keys.collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// Compares the keys of two documents; `Less` ranks first.
    pub fn compare(&self, a: &[Key], b: &[Key]) -> Ordering {
        self.keys
            .iter()
            .zip(a.iter().zip(b))
            .map(|(key, (a, b))| key.compare(a, b))
            .find(|ordering| ordering.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// What reads the keys of a segment's documents.
    pub fn open<'a>(
        &'a self,
        searcher: &'a ShardSearcher,
        segment: SegmentOrdinal,
        identity: &'a Identity,
    ) -> tantivy::Result<KeyReader<'a>> {
        let mut readers = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            readers.push(match &key.source {
                Source::Score => Reader::Score,
                Source::Tie => Reader::Tie,
                Source::Id => Reader::Id,
                Source::Columns(names, field_type) => {
                    let mut columns = Vec::new();
                    for name in names {
                        let opened: Columns = searcher.columns.get(&searcher.searcher, segment, name)?;
                        columns.extend(opened.iter().cloned());
                    }
                    Reader::of(columns, field_type)
                }
                Source::Mixed { strings, typed } => {
                    let strings: Columns = searcher.columns.get(&searcher.searcher, segment, strings)?;
                    let typed: Columns = searcher.columns.get(&searcher.searcher, segment, typed)?;
                    match &strings[..] {
                        [DynamicColumn::Str(strings)] if !typed.is_empty() => {
                            Reader::Mixed(MixedReader { strings: strings.clone(), typed: typed.to_vec() })
                        }
                        _ => Reader::of(strings.to_vec(), &DYNAMIC_KEYWORD),
                    }
                }
            });
        }
        Ok(KeyReader { keys: &self.keys, readers, identity })
    }
}

impl SortKey {
    fn new(searcher: &ShardSearcher, key: &v1::SortKey) -> Result<Self, Failure> {
        let source = match key.by.as_ref() {
            Some(sort_key::By::Score(_)) => Source::Score,
            Some(sort_key::By::Tie(_)) => Source::Tie,
            Some(sort_key::By::Id(_)) => Source::Id,
            Some(sort_key::By::Field(field)) => match field_source(searcher, field)? {
                // Another shard has seen fractions.
                Source::Columns(names, FieldType::Long) if key.as_double => Source::Columns(names, FieldType::Double),
                source => source,
            },
            None => return Err(invalid("a sort key without what to sort by")),
        };
        let greatest = match key.mode() {
            v1::sort_key::Mode::Min => false,
            v1::sort_key::Mode::Max => true,
            v1::sort_key::Mode::Unspecified => key.descending,
        };
        let missing = key.missing_value.as_ref().and_then(Key::from_value);
        Ok(Self { source, descending: key.descending, greatest, missing_first: key.missing_first, missing })
    }

    fn compare(&self, a: &Key, b: &Key) -> Ordering {
        match (a, b) {
            (Key::Missing, Key::Missing) => Ordering::Equal,
            (Key::Missing, _) => {
                if self.missing_first {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (_, Key::Missing) => {
                if self.missing_first {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (a, b) if self.descending => b.compare(a),
            (a, b) => a.compare(b),
        }
    }

    /// The value that counts of a document's.
    fn choose(&self, best: Option<Key>, next: Key) -> Option<Key> {
        let Some(best) = best else { return Some(next) };
        let is_better = match next.compare(&best) {
            Ordering::Less => !self.greatest,
            Ordering::Greater => self.greatest,
            Ordering::Equal => false,
        };
        Some(if is_better { next } else { best })
    }
}

fn field_source(searcher: &ShardSearcher, field: &str) -> Result<Source, Failure> {
    let Some(resolved) = searcher.fields.resolve(field) else {
        // No document of this shard has a value.
        return Ok(Source::Columns(Vec::new(), FieldType::Long));
    };
    if resolved.field_type.is_text() {
        return Err(invalid(format!(
            "Text fields are not optimised for operations that require per-document field data like aggregations and \
             sorting, so these operations are disabled by default. Please use a keyword field instead. Alternatively, \
             set fielddata=true on [{field}] in order to load field data by uninverting the inverted index. Note that \
             this can use significant memory."
        )));
    }
    if let [Physical::Strings { column: strings, .. }, Physical::Typed { column: typed, .. }] = &resolved.parts[..] {
        return Ok(Source::Mixed { strings: strings.clone(), typed: typed.clone() });
    }
    let columns = resolved.parts.iter().filter(|part| !matches!(part, Physical::Text { .. }));
    Ok(Source::Columns(columns.map(|part| part.column().to_owned()).collect(), resolved.field_type.clone()))
}

fn invalid(reason: impl Into<String>) -> Failure {
    trawl_proto::failure(failure::Kind::Invalid, reason)
}
