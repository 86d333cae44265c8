//! Reading the sort keys of documents from the columns of one segment.

use std::cmp::Ordering;
use std::net::Ipv6Addr;
use std::sync::Arc;

use tantivy::DocId;
use tantivy::columnar::{DynamicColumn, StrColumn, TermOrdHit};
use trawl_data::date::detect_date;
use trawl_data::mapping::FieldType;

use super::{Key, SortKey};
use crate::columns::Identity;
use crate::schema::fields::DYNAMIC_KEYWORD;

pub(super) enum Reader<'a> {
    Score,
    Tie,
    Id,
    Text(TextReader),
    Columns(Vec<DynamicColumn>, &'a FieldType),
    Mixed(MixedReader),
}

impl<'a> Reader<'a> {
    /// What reads one field's columns.
    pub(super) fn of(columns: Vec<DynamicColumn>, field_type: &'a FieldType) -> Self {
        match <[DynamicColumn; 1]>::try_from(columns) {
            Ok([DynamicColumn::Str(column)]) if !matches!(field_type, FieldType::Ip) => {
                Self::Text(TextReader::new(column))
            }
            Ok(one) => Self::Columns(one.into(), field_type),
            Err(several) => Self::Columns(several, field_type),
        }
    }
}

/// Reads the keys of one segment's documents.
pub struct KeyReader<'a> {
    pub(super) keys: &'a [SortKey],
    pub(super) readers: Vec<Reader<'a>>,
    pub(super) identity: &'a Identity,
}

impl KeyReader<'_> {
    /// The document's keys.
    pub fn keys(&mut self, doc: DocId, score: f32) -> tantivy::Result<Vec<Key>> {
        let mut keys = Vec::with_capacity(self.keys.len());
        for (key, reader) in self.keys.iter().zip(&mut self.readers) {
            let found = match reader {
                Reader::Score => Key::Score(score),
                Reader::Tie => Key::Tie(self.identity.tie_of(doc)),
                Reader::Id => Key::Text(self.identity.id_of(doc)?.into()),
                Reader::Text(reader) => match reader.ordinal(key, doc) {
                    Some(ordinal) => Key::Text(reader.text(ordinal)?),
                    None => Key::Missing,
                },
                Reader::Columns(columns, field_type) => {
                    let mut best = None;
                    for column in columns.iter() {
                        best = column_values(column, field_type, doc, best, key)?;
                    }
                    best.unwrap_or(Key::Missing)
                }
                Reader::Mixed(reader) => reader.best(doc, key)?.unwrap_or(Key::Missing),
            };
            keys.push(match (found, &key.missing) {
                (Key::Missing, Some(missing)) => missing.clone(),
                (found, _) => found,
            });
        }
        Ok(keys)
    }

    /// How the document's first key compares with `other`, when that can be told without looking up a
    /// string; `other` is asked for again and again.
    pub fn compare_first(&mut self, doc: DocId, other: &Key) -> tantivy::Result<Option<Ordering>> {
        let (Some(key), Some(Reader::Text(reader))) = (self.keys.first(), self.readers.first_mut()) else {
            return Ok(None);
        };
        let (Some(ordinal), Key::Text(other)) = (reader.ordinal(key, doc), other) else { return Ok(None) };
        let ordering = reader.compare(ordinal, other)?;
        Ok(Some(if key.descending { ordering.reverse() } else { ordering }))
    }
}

/// Strings of a segment by ordinal: equal order, so most documents are judged by ordinal alone.
pub(super) struct TextReader {
    column: StrColumn,
    last: Option<(u64, Arc<str>)>,
    /// Strings compared with, and the ordinal that each has or would have here.
    places: Vec<(Arc<str>, TermOrdHit)>,
}

impl TextReader {
    pub(super) fn new(column: StrColumn) -> Self {
        Self { column, last: None, places: Vec::new() }
    }

    fn ordinal(&self, key: &SortKey, doc: DocId) -> Option<u64> {
        let ordinals = self.column.term_ords(doc);
        if key.greatest { ordinals.max() } else { ordinals.min() }
    }

    fn text(&mut self, ordinal: u64) -> tantivy::Result<Arc<str>> {
        if let Some((last, text)) = &self.last
            && *last == ordinal
        {
            return Ok(text.clone());
        }
        let mut text = String::new();
        self.column.ord_to_str(ordinal, &mut text)?;
        let text: Arc<str> = text.into();
        self.last = Some((ordinal, text.clone()));
        Ok(text)
    }

    fn compare(&mut self, ordinal: u64, other: &Arc<str>) -> tantivy::Result<Ordering> {
        let known = self.places.iter().find(|(text, _)| Arc::ptr_eq(text, other)).map(|(_, place)| place);
        let place = match known {
            Some(TermOrdHit::Exact(at)) => TermOrdHit::Exact(*at),
            Some(TermOrdHit::Next(at)) => TermOrdHit::Next(*at),
            None => {
                let place = self.column.dictionary().term_ord_or_next(other.as_bytes())?;
                let kept = match &place {
                    TermOrdHit::Exact(at) => TermOrdHit::Exact(*at),
                    TermOrdHit::Next(at) => TermOrdHit::Next(*at),
                };
                // Two are compared with at a time: the worst kept and the one to come after.
                if self.places.len() >= 4 {
                    self.places.remove(0);
                }
                self.places.push((other.clone(), kept));
                place
            }
        };
        Ok(match place {
            TermOrdHit::Exact(at) => ordinal.cmp(&at),
            TermOrdHit::Next(at) => {
                if ordinal < at {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        })
    }
}

/// All values of a dynamic field: strings, and values of other types together with their text forms.
pub(super) struct MixedReader {
    pub(super) strings: StrColumn,
    pub(super) typed: Vec<DynamicColumn>,
}

impl MixedReader {
    fn best(&self, doc: DocId, key: &SortKey) -> tantivy::Result<Option<Key>> {
        let mut best = None;
        let mut typed = 0;
        for column in &self.typed {
            best = column_values(column, &DYNAMIC_KEYWORD, doc, best, key)?;
            typed += values_of(column, doc);
        }
        let strings = self.strings.term_ords(doc).count();
        if strings > typed {
            for text in self.real_strings(doc, typed)? {
                best = key.choose(best, Key::Text(text.into()));
            }
        }
        Ok(best)
    }

    /// The texts that are not text forms of the document's other values.
    fn real_strings(&self, doc: DocId, typed: usize) -> tantivy::Result<Vec<String>> {
        let mut texts = Vec::new();
        for ordinal in self.strings.term_ords(doc) {
            let mut text = String::new();
            self.strings.ord_to_str(ordinal, &mut text)?;
            texts.push(text);
        }
        if typed == 0 {
            return Ok(texts);
        }
        // In bytewise order, so that it does not depend on the segment which of equals is left.
        texts.sort_unstable();
        for column in &self.typed {
            match column {
                DynamicColumn::I64(column) => {
                    column.values_for_doc(doc).for_each(|value| take_number(&mut texts, value as f64));
                }
                DynamicColumn::U64(column) => {
                    column.values_for_doc(doc).for_each(|value| take_number(&mut texts, value as f64));
                }
                DynamicColumn::F64(column) => {
                    column.values_for_doc(doc).for_each(|value| take_number(&mut texts, value));
                }
                DynamicColumn::Bool(column) => column.values_for_doc(doc).for_each(|value| {
                    take(&mut texts, |text| text.parse() == Ok(value));
                }),
                DynamicColumn::DateTime(column) => column.values_for_doc(doc).for_each(|value| {
                    let ms = value.into_timestamp_millis();
                    take(&mut texts, |text| detect_date(text) == Some(ms));
                }),
                DynamicColumn::IpAddr(_) | DynamicColumn::Str(_) | DynamicColumn::Bytes(_) => {}
            }
        }
        Ok(texts)
    }
}

fn take_number(texts: &mut Vec<String>, number: f64) {
    take(texts, |text| text.parse() == Ok(number));
}

fn take(texts: &mut Vec<String>, is_it: impl Fn(&str) -> bool) {
    if let Some(at) = texts.iter().position(|text| is_it(text)) {
        texts.remove(at);
    }
}

/// How many values a document has in a column of other types than strings.
fn values_of(column: &DynamicColumn, doc: DocId) -> usize {
    match column {
        DynamicColumn::Str(_) | DynamicColumn::Bytes(_) => 0,
        column => column.column_index().value_row_ids(doc).len(),
    }
}

/// Takes a document's values of one column into account.
fn column_values(
    column: &DynamicColumn,
    field_type: &FieldType,
    doc: DocId,
    mut best: Option<Key>,
    key: &SortKey,
) -> tantivy::Result<Option<Key>> {
    match column {
        DynamicColumn::I64(column) => {
            for value in column.values_for_doc(doc) {
                best = key.choose(best, long(value, field_type));
            }
        }
        DynamicColumn::U64(column) => {
            for value in column.values_for_doc(doc) {
                let number = i64::try_from(value).map_or(Key::Double(value as f64), |value| long(value, field_type));
                best = key.choose(best, number);
            }
        }
        DynamicColumn::F64(column) => {
            for value in column.values_for_doc(doc) {
                best = key.choose(best, double(value, field_type));
            }
        }
        DynamicColumn::Bool(column) => {
            for value in column.values_for_doc(doc) {
                best = key.choose(best, Key::Boolean(value));
            }
        }
        DynamicColumn::DateTime(column) => {
            for value in column.values_for_doc(doc) {
                best = key.choose(best, Key::Date(value.into_timestamp_millis()));
            }
        }
        DynamicColumn::IpAddr(column) => {
            for value in column.values_for_doc(doc) {
                best = key.choose(best, Key::Ip(value));
            }
        }
        DynamicColumn::Str(column) => {
            let ordinals = column.term_ords(doc);
            let Some(ordinal) = (if key.greatest { ordinals.max() } else { ordinals.min() }) else { return Ok(best) };
            let mut text = String::new();
            column.ord_to_str(ordinal, &mut text)?;
            let address = matches!(field_type, FieldType::Ip).then(|| u128::from_str_radix(&text, 16).ok()).flatten();
            let value = address.map_or_else(|| Key::Text(text.into()), |bits| Key::Ip(Ipv6Addr::from_bits(bits)));
            best = key.choose(best, value);
        }
        DynamicColumn::Bytes(_) => {}
    }
    Ok(best)
}

/// The same number is the same key whether its segment happens to keep `i64` or `f64`.
fn long(value: i64, field_type: &FieldType) -> Key {
    if is_double(field_type) { Key::Double(value as f64) } else { Key::Long(value) }
}

fn double(value: f64, field_type: &FieldType) -> Key {
    let is_whole = value.trunc() == value && value.abs() < 9_007_199_254_740_992.0;
    if is_whole && !is_double(field_type) { Key::Long(value as i64) } else { Key::Double(value) }
}

fn is_double(field_type: &FieldType) -> bool {
    matches!(field_type, FieldType::Double | FieldType::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_by_value_whatever_their_type() {
        let long = Key::Long(9_007_199_254_740_993);
        assert_eq!(long.compare(&Key::Double(9_007_199_254_740_992.0)), Ordering::Greater);
        assert_eq!(Key::Long(2).compare(&Key::Double(2.5)), Ordering::Less);
        assert_eq!(Key::Long(-2).compare(&Key::Double(-2.5)), Ordering::Greater);
        assert_eq!(Key::Long(3).compare(&Key::Double(3.0)), Ordering::Equal);
        assert_eq!(Key::Double(1e300).compare(&Key::Long(i64::MAX)), Ordering::Greater);
        assert_eq!(Key::Long(1).compare(&Key::Text("0".into())), Ordering::Less);
    }
}
