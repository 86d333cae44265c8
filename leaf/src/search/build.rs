//! From the wire's query, in logical names, to a plan in physical ones.
//!
//! Bounded in depth and clauses. A field that this replica does not have matches nothing. A logical
//! field with several parts (a dynamic one with strings and numbers) is the union of its parts. What a
//! string means to values of other types is the same whatever types this shard has seen: a number, a
//! switch or a date if it reads as one.

use std::sync::Arc;

use tantivy::Term;
use trawl_data::date::detect_date;
use trawl_proto::v1::{self, Failure, failure, query, value};

use super::docs::{AllDocs, BothDocs, Docs, ExistsDocs, ExpansionDocs, IntervalDocs, Terms};
use super::interval::{Interval, ip};
use super::plan::{Clauses, Kind, Node};
use crate::schema::fields::{FieldMap, Physical, Resolved, number_texts};
use crate::schema::{Hidden, PhysicalSchema};

/// Levels of a query; a message of the wire cannot be much deeper.
pub const DEPTH_MAX: usize = 48;
/// Clauses of one boolean or disjunction query.
pub const CLAUSES_MAX: usize = 1_024;
/// Clauses of a whole query.
pub const CLAUSES_TOTAL_MAX: usize = 10_000;
/// Values of one term set, or ids.
pub const VALUES_MAX: usize = 65_536;

/// A scoring term of a query by its logical name, and what it is physically.
#[derive(Clone, Debug)]
pub struct ScoringTerm {
    /// Logical field.
    pub field: String,
    /// The text of the term.
    pub text: String,
    /// What is looked up.
    pub term: Term,
    /// The column with the exact lengths; `None` for a field without lengths (each counts as 1).
    pub length_column: Option<String>,
}

/// A query in physical terms, and what its scores depend on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The tree.
    pub root: Node,
    /// Every term that is scored by BM25, in order of appearance.
    pub scoring_terms: Vec<ScoringTerm>,
}

/// Translates a query.
///
/// # Errors
/// `INVALID`, naming the part, when it is over a limit or malformed.
pub fn build(fields: &FieldMap, physical: &PhysicalSchema, query: &v1::Query) -> Result<Plan, Failure> {
    let mut builder = Builder { fields, hidden: physical.hidden, clauses: 0, scoring_terms: Vec::new() };
    let root = builder.node(query, 1.0, 1, true)?;
    Ok(Plan { root, scoring_terms: builder.scoring_terms })
}

/// The term of a string value in one part of a field, with its column of lengths if it has one;
/// `None` where strings are not indexed.
pub fn string_term(part: &Physical, text: &str) -> Option<(Term, Option<String>)> {
    match part {
        Physical::Text { field, length_name, .. } => {
            Some((Term::from_field_text(*field, text), Some(length_name.clone())))
        }
        Physical::Keyword { field, .. } => Some((Term::from_field_text(*field, text), None)),
        Physical::Strings { key, .. } => Some((key.term(text), None)),
        _ => None,
    }
}

fn invalid(reason: impl Into<String>) -> Failure {
    trawl_proto::failure(failure::Kind::Invalid, reason)
}

struct Builder<'a> {
    fields: &'a FieldMap,
    hidden: Hidden,
    clauses: usize,
    scoring_terms: Vec<ScoringTerm>,
}

impl Builder<'_> {
    /// `scored` is false below filters and constant scores, where no statistics are needed.
    fn node(&mut self, query: &v1::Query, boost: f32, depth: usize, scored: bool) -> Result<Node, Failure> {
        if depth > DEPTH_MAX {
            return Err(invalid(format!("the query is nested deeper than {DEPTH_MAX} levels")));
        }
        self.clauses += 1;
        if self.clauses > CLAUSES_TOTAL_MAX {
            return Err(invalid(format!("the query has more than {CLAUSES_TOTAL_MAX} clauses")));
        }
        let own = query.boost.unwrap_or(1.0);
        if !own.is_finite() || own < 0.0 {
            return Err(invalid(format!("negative or infinite [boost]: {own}")));
        }
        let boost = boost * own;
        let kind = query.kind.as_ref().ok_or_else(|| invalid("a query without a kind"))?;
        self.kind(kind, boost, depth, scored)
    }

    fn kind(&mut self, kind: &query::Kind, boost: f32, depth: usize, scored: bool) -> Result<Node, Failure> {
        let docs = |docs: Arc<dyn Docs>| Node { boost, kind: Kind::Docs(docs) };
        Ok(match kind {
            query::Kind::MatchAll(_) => docs(Arc::new(AllDocs)),
            query::Kind::MatchNone(_) => Node::nothing(),
            query::Kind::Term(term) => {
                let value = term.value.as_ref().ok_or_else(|| invalid("a term without a value"))?;
                self.term(&term.field, value, boost, scored)
            }
            query::Kind::TermSet(set) => self.term_set(set, boost)?,
            query::Kind::Phrase(phrase) => self.phrase(phrase, boost, scored)?,
            query::Kind::Boolean(boolean) => self.boolean(boolean, boost, depth, scored)?,
            query::Kind::DisjunctionMax(max) => {
                let nodes = self.nodes(&max.queries, boost, depth, scored)?;
                if !(0.0..=1.0).contains(&max.tie_breaker) {
                    return Err(invalid(format!("[tie_breaker] must be from 0 to 1, not {}", max.tie_breaker)));
                }
                Node { boost, kind: Kind::Max { nodes, tie_breaker: max.tie_breaker } }
            }
            query::Kind::ConstantScore(constant) => {
                let inner = constant.query.as_deref().ok_or_else(|| invalid("a constant score without a query"))?;
                let inner = self.node(inner, 1.0, depth + 1, false)?;
                Node { boost, kind: Kind::Constant(Box::new(inner)) }
            }
            query::Kind::Range(range) => {
                let interval = Interval::new(range.lower.as_ref(), range.upper.as_ref())
                    .ok_or_else(|| invalid(format!("range on [{}] needs bounds of one kind", range.field)))?;
                self.union(&range.field, boost, |part| Ok(interval_docs(part, &interval)))?
            }
            query::Kind::Prefix(prefix) => {
                let is_text = self.fields.resolve(&prefix.field).is_none_or(|field| !field.field_type.is_keyword());
                self.union(&prefix.field, boost, |part| Ok(prefix_docs(part, prefix, is_text)))?
            }
            query::Kind::Fuzzy(fuzzy) => self.union(&fuzzy.field, boost, |part| fuzzy_docs(part, fuzzy))?,
            query::Kind::Exists(exists) => {
                let columns: Vec<String> = self
                    .fields
                    .resolve(&exists.field)
                    .map(|resolved| resolved.parts.iter().map(|part| part.column().to_owned()).collect())
                    .unwrap_or_default();
                if columns.is_empty() { Node::nothing() } else { docs(Arc::new(ExistsDocs { columns })) }
            }
            query::Kind::Ids(ids) => {
                check_values(ids.ids.len(), "ids")?;
                let terms = ids.ids.iter().map(|id| Term::from_field_text(self.hidden.id, id)).collect();
                docs(Arc::new(AnyTerm(terms)))
            }
        })
    }

    fn nodes(&mut self, queries: &[v1::Query], boost: f32, depth: usize, scored: bool) -> Result<Vec<Node>, Failure> {
        if queries.len() > CLAUSES_MAX {
            return Err(invalid(format!("a query has {} clauses; the limit is {CLAUSES_MAX}", queries.len())));
        }
        queries.iter().map(|query| self.node(query, boost, depth + 1, scored)).collect()
    }

    fn boolean(&mut self, boolean: &v1::Boolean, boost: f32, depth: usize, scored: bool) -> Result<Node, Failure> {
        let total = boolean.must.len() + boolean.should.len() + boolean.filter.len() + boolean.must_not.len();
        if total > CLAUSES_MAX {
            return Err(invalid(format!("a boolean query has {total} clauses; the limit is {CLAUSES_MAX}")));
        }
        if total == 0 {
            return Ok(Node { boost, kind: Kind::Docs(Arc::new(AllDocs)) });
        }
        let mut clauses = Clauses {
            must: self.nodes(&boolean.must, boost, depth, scored)?,
            should: self.nodes(&boolean.should, boost, depth, scored)?,
            filter: self.nodes(&boolean.filter, 1.0, depth, false)?,
            must_not: self.nodes(&boolean.must_not, 1.0, depth, false)?,
            minimum: boolean.minimum_should_match as usize,
        };
        if clauses.must.is_empty() && clauses.filter.is_empty() {
            if clauses.should.is_empty() {
                // Only exclusions: everything else, scoring nothing.
                clauses.filter.push(Node { boost: 1.0, kind: Kind::Docs(Arc::new(AllDocs)) });
            } else {
                clauses.minimum = clauses.minimum.max(1);
            }
        }
        if clauses.minimum > clauses.should.len() {
            return Ok(Node::nothing());
        }
        Ok(Node { boost, kind: Kind::Boolean(clauses) })
    }

    fn term(&mut self, field: &str, value: &v1::Value, boost: f32, scored: bool) -> Node {
        let Some(resolved) = self.fields.resolve(field) else { return Node::nothing() };
        let mut nodes = Vec::new();
        for part in parts_for(resolved, value) {
            if let Some(value::Kind::String(text)) = &value.kind
                && let Some((term, length_column)) = string_term(part, text)
            {
                let frequencies = length_column.is_some();
                if scored {
                    let (field, text, term) = (field.to_owned(), text.clone(), term.clone());
                    self.scoring_terms.push(ScoringTerm { field, text, term, length_column });
                }
                nodes.push(Node {
                    boost,
                    kind: if scored { Kind::Scored { term, frequencies } } else { Kind::Exact(term) },
                });
            }
            nodes.extend(exact(part, value).map(|found| Node { boost, kind: found.kind() }));
        }
        one_of(nodes, boost)
    }

    fn term_set(&mut self, set: &v1::TermSet, boost: f32) -> Result<Node, Failure> {
        check_values(set.values.len(), &set.field)?;
        // Values that are single terms of one field are looked up together.
        let Some(resolved) = self.fields.resolve(&set.field) else { return Ok(Node::nothing()) };
        let mut terms = Vec::new();
        let mut others = Vec::new();
        for value in &set.values {
            for part in parts_for(resolved, value) {
                if let Some(value::Kind::String(text)) = &value.kind {
                    terms.extend(string_term(part, text).map(|(term, _)| term));
                }
                match exact(part, value) {
                    Some(Found::Terms(found)) => terms.extend(found),
                    Some(Found::Docs(docs)) => others.push(Node { boost, kind: Kind::Docs(docs) }),
                    None => {}
                }
            }
        }
        if others.len() > CLAUSES_MAX {
            return Err(invalid(format!("terms on [{}] has more than {CLAUSES_MAX} values of this type", set.field)));
        }
        if !terms.is_empty() {
            others.push(Node { boost, kind: Kind::Docs(Arc::new(AnyTerm(terms))) });
        }
        let inner = one_of(others, 1.0);
        Ok(if matches!(inner.kind, Kind::Nothing) {
            inner
        } else {
            Node { boost, kind: Kind::Constant(Box::new(inner)) }
        })
    }

    fn phrase(&mut self, phrase: &v1::Phrase, boost: f32, scored: bool) -> Result<Node, Failure> {
        check_values(phrase.terms.len(), &phrase.field)?;
        let Some(resolved) = self.fields.resolve(&phrase.field) else { return Ok(Node::nothing()) };
        if let [only] = phrase.terms.as_slice() {
            let value = v1::Value { kind: Some(value::Kind::String(only.term.clone())) };
            return Ok(self.term(&phrase.field, &value, boost, scored));
        }
        let mut nodes = Vec::new();
        for part in &resolved.parts {
            let Physical::Text { field, length_name, .. } = part else { continue };
            let mut terms = Vec::with_capacity(phrase.terms.len());
            for phrase_term in &phrase.terms {
                let term = Term::from_field_text(*field, &phrase_term.term);
                if scored {
                    self.scoring_terms.push(ScoringTerm {
                        field: phrase.field.clone(),
                        text: phrase_term.term.clone(),
                        term: term.clone(),
                        length_column: Some(length_name.clone()),
                    });
                }
                terms.push((phrase_term.position, term));
            }
            if terms.len() > 1 {
                nodes.push(Node { boost, kind: Kind::Phrase { terms, slop: phrase.slop } });
            }
        }
        Ok(one_of(nodes, boost))
    }

    /// The union over a field's parts of constant-score sets.
    fn union(
        &self,
        field: &str,
        boost: f32,
        docs: impl Fn(&Physical) -> Result<Option<Arc<dyn Docs>>, Failure>,
    ) -> Result<Node, Failure> {
        let mut nodes = Vec::new();
        for part in self.fields.resolve(field).map(|resolved| resolved.parts.as_slice()).unwrap_or_default() {
            nodes.extend(docs(part)?.map(|docs| Node { boost, kind: Kind::Docs(docs) }));
        }
        Ok(one_of(nodes, boost))
    }
}

fn check_values(values: usize, of: &str) -> Result<(), Failure> {
    if values > VALUES_MAX {
        return Err(invalid(format!("[{of}] has {values} values; the limit is {VALUES_MAX}")));
    }
    Ok(())
}

/// The best of alternatives that mean the same.
fn one_of(mut nodes: Vec<Node>, boost: f32) -> Node {
    match (nodes.pop(), nodes.is_empty()) {
        (None, _) => Node::nothing(),
        (Some(only), true) => only,
        (Some(last), false) => {
            nodes.push(last);
            Node { boost, kind: Kind::Max { nodes, tie_breaker: 0.0 } }
        }
    }
}

/// Documents with any of many terms of one field.
#[derive(Debug)]
struct AnyTerm(Vec<Term>);

impl Docs for AnyTerm {
    fn open(&self, reader: &tantivy::SegmentReader) -> tantivy::Result<Box<dyn tantivy::DocSet>> {
        use tantivy::query::{EnableScoring, Query, TermSetQuery};
        let query = TermSetQuery::new(self.0.iter().cloned());
        let weight = query.weight(EnableScoring::disabled_from_schema(reader.schema()))?;
        Ok(Box::new(weight.scorer(reader, 1.0)?))
    }
}

/// The parts of a field that a value is looked up in: `.keyword` of a dynamic field has the text form
/// of every value among its strings.
fn parts_for<'a>(resolved: &'a Resolved, value: &v1::Value) -> impl Iterator<Item = &'a Physical> {
    let only_strings = resolved.field_type.is_keyword() && matches!(value.kind, Some(value::Kind::String(_)));
    resolved.parts.iter().filter(move |part| !only_strings || !matches!(part, Physical::Typed { .. }))
}

/// The documents with one value.
enum Found {
    /// Any of these terms of one field.
    Terms(Vec<Term>),
    /// Found in a column.
    Docs(Arc<dyn Docs>),
}

impl Found {
    fn kind(self) -> Kind {
        match self {
            Self::Terms(mut terms) if terms.len() == 1 => terms.pop().map_or(Kind::Nothing, Kind::Exact),
            Self::Terms(terms) => Kind::Docs(Arc::new(AnyTerm(terms))),
            Self::Docs(docs) => Kind::Docs(docs),
        }
    }
}

/// A value that is not a string, or what a string means to values of other types, in one part of a
/// field.
fn exact(part: &Physical, value: &v1::Value) -> Option<Found> {
    let kind = value.kind.as_ref()?;
    match (part, kind) {
        (Physical::Long { field, .. }, value::Kind::Long(value)) => {
            Some(Found::Terms(vec![Term::from_field_i64(*field, *value)]))
        }
        (Physical::Boolean { field, .. }, value::Kind::Boolean(value)) => {
            Some(Found::Terms(vec![Term::from_field_bool(*field, *value)]))
        }
        (Physical::Ip { field, .. }, value::Kind::Ip(bytes)) => {
            Some(Found::Terms(vec![Term::from_field_ip_addr(*field, ip(bytes)?)]))
        }
        (
            Physical::Long { name, .. } | Physical::Double { name, .. },
            value::Kind::Long(_) | value::Kind::Double(_),
        )
        | (Physical::Date { name, .. }, value::Kind::DateMs(_)) => in_column(name, value),
        (Physical::Typed { texts: Some(key), .. }, value::Kind::Long(_) | value::Kind::Double(_)) => {
            Some(Found::Terms(number_texts(kind).iter().map(|text| key.term(text)).collect()))
        }
        (Physical::Typed { texts: Some(key), .. }, value::Kind::Boolean(value)) => {
            Some(Found::Terms(vec![key.term(if *value { "true" } else { "false" })]))
        }
        // By the column, since the same text may be there as a string, which has a score of its own.
        (Physical::Typed { column, .. }, value::Kind::String(text)) => {
            in_column(column, &v1::Value { kind: Some(other_type(text)?) })
        }
        (Physical::Typed { column, .. }, _) => in_column(column, value),
        _ => None,
    }
}

fn in_column(name: &str, value: &v1::Value) -> Option<Found> {
    Some(Found::Docs(Arc::new(IntervalDocs { column: name.to_owned(), interval: Interval::of(value)? })))
}

/// What a string is to a value that is none.
fn other_type(text: &str) -> Option<value::Kind> {
    if let Ok(value) = text.parse() {
        Some(value::Kind::Long(value))
    } else if let Ok(value) = text.parse() {
        Some(value::Kind::Boolean(value))
    } else if let Some(ms) = detect_date(text) {
        Some(value::Kind::DateMs(ms))
    } else {
        let value: f64 = text.parse().ok()?;
        value.is_finite().then_some(value::Kind::Double(value))
    }
}

/// Documents with a term in one part of a field that begins so. For a text field that is also the text
/// form of a number, a switch or a date: a word of its own.
fn prefix_docs(part: &Physical, prefix: &v1::Prefix, is_text: bool) -> Option<Arc<dyn Docs>> {
    let what = format!("prefix [{}] on [{}]", prefix.prefix, prefix.field);
    let (term, typed) = match part {
        Physical::Typed { column, texts: Some(key) } if is_text => (key.term(&prefix.prefix), Some(column)),
        part => (string_term(part, &prefix.prefix)?.0, None),
    };
    let bytes = term.serialized_value_bytes().to_vec();
    let docs: Arc<dyn Docs> = Arc::new(ExpansionDocs::new(term.field(), Terms::Prefix(bytes), what));
    Some(match typed {
        Some(column) => Arc::new(BothDocs(docs, Arc::new(ExistsDocs { columns: vec![column.clone()] }))),
        None => docs,
    })
}

/// The documents of an interval in one part of a field.
fn interval_docs(part: &Physical, interval: &Interval) -> Option<Arc<dyn Docs>> {
    use std::ops::Bound;
    if let Physical::Text { field, name, .. } = part {
        // Text has no column of its terms: walk the dictionary.
        let Interval::Text(low, high) = interval else { return None };
        let above = |text: &str| [text.as_bytes(), &[0]].concat();
        let from = match low {
            Bound::Unbounded => Vec::new(),
            Bound::Included(text) => text.as_bytes().to_vec(),
            Bound::Excluded(text) => above(text),
        };
        let to = match high {
            Bound::Unbounded => None,
            Bound::Included(text) => Some(above(text)),
            Bound::Excluded(text) => Some(text.as_bytes().to_vec()),
        };
        let what = format!("range on the text field {name}");
        return Some(Arc::new(ExpansionDocs::new(*field, Terms::Between { from, to }, what)));
    }
    Some(Arc::new(IntervalDocs { column: part.column().to_owned(), interval: interval.clone() }))
}

fn fuzzy_docs(part: &Physical, fuzzy: &v1::Fuzzy) -> Result<Option<Arc<dyn Docs>>, Failure> {
    let distance = u8::try_from(fuzzy.distance).ok().filter(|distance| *distance <= 2).ok_or_else(|| {
        invalid(format!("fuzzy distance on [{}] must be 0, 1 or 2, not {}", fuzzy.field, fuzzy.distance))
    })?;
    let start: String = fuzzy.term.chars().take(fuzzy.prefix_length as usize).collect();
    let (Some((term, _)), Some((start, _))) = (string_term(part, &fuzzy.term), string_term(part, &start)) else {
        return Ok(None);
    };
    let prefix = start.serialized_value_bytes().to_vec();
    let what = format!("fuzzy [{}] on [{}]", fuzzy.term, fuzzy.field);
    let terms = Terms::Fuzzy { term: term.clone(), distance, transpositions: fuzzy.transpositions, prefix };
    Ok(Some(Arc::new(ExpansionDocs::new(term.field(), terms, what))))
}
