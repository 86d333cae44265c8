//! Queries carried out the plain way: each document is looked at by itself.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use tantivy::fieldnorm::FieldNormReader;
use tantivy::query::Bm25Weight;
use trawl_data::routing::tie;
use trawl_proto::v1::{self, query, value};

use super::corpus::{Corpus, Document};
use crate::search::phrase::count_matches;

/// All matches with their scores, best first.
pub fn search(corpus: &Corpus, query: &v1::Query) -> Vec<(String, f32)> {
    let scan = Scan::new(corpus);
    let mut found: Vec<(&Document, f32)> =
        corpus.live().filter_map(|document| Some((document, scan.score(document, query, 1.0)?))).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(tie(&a.0.id).cmp(&tie(&b.0.id))));
    found.into_iter().map(|(document, score)| (document.id.clone(), score)).collect()
}

/// Ids in the order of a field.
pub fn sorted(corpus: &Corpus, field: &str, descending: bool, missing_first: bool) -> Vec<String> {
    let mut documents: Vec<(&Document, Option<Plain>)> = corpus
        .live()
        .map(|document| {
            let mut values = values(document, field);
            values.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let value = if descending { values.pop() } else { values.into_iter().next() };
            (document, value)
        })
        .collect();
    documents.sort_by(|(a, x), (b, y)| {
        let by_value = match (x, y) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => {
                if missing_first {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (Some(_), None) => {
                if missing_first {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (Some(x), Some(y)) => {
                let ordering = x.partial_cmp(y).unwrap();
                if descending { ordering.reverse() } else { ordering }
            }
        };
        by_value.then(tie(&a.id).cmp(&tie(&b.id)))
    });
    documents.into_iter().map(|(document, _)| document.id.clone()).collect()
}

#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Plain {
    Number(f64),
    Boolean(bool),
    Date(i64),
    Ip(u128),
    Text(String),
}

fn plain(value: &v1::Value) -> Plain {
    match value.kind.as_ref().unwrap() {
        value::Kind::String(text) => Plain::Text(text.clone()),
        value::Kind::Long(value) => Plain::Number(*value as f64),
        value::Kind::Double(value) => Plain::Number(*value),
        value::Kind::Boolean(value) => Plain::Boolean(*value),
        value::Kind::DateMs(value) => Plain::Date(*value),
        value::Kind::Ip(bytes) => Plain::Ip(u128::from_be_bytes(bytes.as_ref().try_into().unwrap())),
    }
}

fn values(document: &Document, field: &str) -> Vec<Plain> {
    let one = |value: Option<Plain>| value.into_iter().collect();
    match field {
        "tag" => one(document.tag.clone().map(Plain::Text)),
        "tags" => document.tags.iter().cloned().map(Plain::Text).collect(),
        "n" => one(document.n.map(|n| Plain::Number(n as f64))),
        "d" => one(document.d.map(Plain::Number)),
        "x" => one(document.x.map(Plain::Number)),
        "flag" => one(document.flag.map(Plain::Boolean)),
        "date" => one(document.date.map(Plain::Date)),
        "ip" => one(document.ip.as_ref().map(|ip| {
            let address: std::net::Ipv4Addr = ip.parse().unwrap();
            Plain::Ip(address.to_ipv6_mapped().to_bits())
        })),
        "y.keyword" => one(document.y.clone().map(Plain::Text)),
        _ => Vec::new(),
    }
}

fn tokens(document: &Document, field: &str) -> Option<Vec<String>> {
    match field {
        "title" => Some(document.title.clone()),
        "body" => Some(document.body.clone()),
        "y" => Some(document.y.iter().flat_map(|y| y.split(' ')).map(str::to_owned).collect()),
        _ => None,
    }
}

/// A corpus with the counts that scores need, each counted once.
struct Scan<'a> {
    corpus: &'a Corpus,
    documents: u64,
    lengths: RefCell<HashMap<String, u64>>,
    frequencies: RefCell<HashMap<(String, String), u64>>,
}

impl<'a> Scan<'a> {
    fn new(corpus: &'a Corpus) -> Self {
        let documents = corpus.live().count() as u64;
        Self { corpus, documents, lengths: RefCell::default(), frequencies: RefCell::default() }
    }

    fn length(&self, field: &str) -> u64 {
        let count = || self.corpus.live().map(|document| tokens(document, field).unwrap().len() as u64).sum();
        *self.lengths.borrow_mut().entry(field.to_owned()).or_insert_with(count)
    }

    fn frequency(&self, field: &str, text: &str) -> u64 {
        let count = || self.corpus.live().filter(|document| has(document, field, text)).count() as u64;
        *self.frequencies.borrow_mut().entry((field.to_owned(), text.to_owned())).or_insert_with(count)
    }

    fn score(&self, document: &Document, query: &v1::Query, boost: f32) -> Option<f32> {
        let boost = boost * query.boost.unwrap_or(1.0);
        let constant = |matches: bool| matches.then_some(boost);
        match query.kind.as_ref().unwrap() {
            query::Kind::MatchAll(_) => Some(boost),
            query::Kind::MatchNone(_) => None,
            query::Kind::Term(term) => self.term(document, &term.field, term.value.as_ref().unwrap(), boost),
            query::Kind::TermSet(set) => {
                let is_match = |value: &v1::Value| self.term(document, &set.field, value, 1.0).is_some();
                constant(set.values.iter().any(is_match))
            }
            query::Kind::Phrase(phrase) => self.phrase(document, phrase, boost),
            query::Kind::Boolean(boolean) => self.boolean(document, boolean, boost),
            query::Kind::DisjunctionMax(max) => {
                let scores: Vec<f32> =
                    max.queries.iter().filter_map(|query| self.score(document, query, boost)).collect();
                let best = scores.iter().copied().reduce(f32::max)?;
                let sum = scores.iter().fold(0.0f32, |sum, score| sum + score);
                Some(best + max.tie_breaker * (sum - best))
            }
            query::Kind::ConstantScore(inner) => {
                constant(self.score(document, inner.query.as_ref().unwrap(), 1.0).is_some())
            }
            query::Kind::Range(range) => {
                let fits = |value: &Plain| {
                    let below = range.lower.as_ref().is_none_or(|bound| {
                        let low = plain(bound.value.as_ref().unwrap());
                        if bound.inclusive { *value >= low } else { *value > low }
                    });
                    let above = range.upper.as_ref().is_none_or(|bound| {
                        let high = plain(bound.value.as_ref().unwrap());
                        if bound.inclusive { *value <= high } else { *value < high }
                    });
                    below && above
                };
                constant(values(document, &range.field).iter().any(fits))
            }
            query::Kind::Prefix(prefix) => {
                constant(strings(document, &prefix.field).iter().any(|text| text.starts_with(&prefix.prefix)))
            }
            query::Kind::Fuzzy(fuzzy) => {
                constant(strings(document, &fuzzy.field).iter().any(|text| is_near(fuzzy, text)))
            }
            query::Kind::Exists(exists) => constant(match exists.field.as_str() {
                "title" | "body" => true,
                "y" => document.y.is_some(),
                field => !values(document, field).is_empty(),
            }),
            query::Kind::Ids(ids) => constant(ids.ids.contains(&document.id)),
        }
    }

    fn boolean(&self, document: &Document, boolean: &v1::Boolean, boost: f32) -> Option<f32> {
        let total = boolean.must.len() + boolean.should.len() + boolean.filter.len() + boolean.must_not.len();
        if total == 0 {
            return Some(boost);
        }
        let mut sum = 0.0f32;
        for query in &boolean.must {
            sum += self.score(document, query, boost)?;
        }
        let mut matched = 0;
        for query in &boolean.should {
            if let Some(score) = self.score(document, query, boost) {
                sum += score;
                matched += 1;
            }
        }
        let fits = matched >= boolean.minimum_should_match
            && boolean.filter.iter().all(|query| self.score(document, query, 1.0).is_some())
            && !boolean.must_not.iter().any(|query| self.score(document, query, 1.0).is_some());
        fits.then_some(sum)
    }

    fn term(&self, document: &Document, field: &str, value: &v1::Value, boost: f32) -> Option<f32> {
        let Some(value::Kind::String(text)) = &value.kind else {
            return values(document, field).contains(&plain(value)).then_some(boost);
        };
        if !has(document, field, text) {
            return None;
        }
        let doc_freq = self.frequency(field, text);
        let (frequency, norm, average) = match tokens(document, field) {
            Some(own) => {
                let frequency = own.iter().filter(|token| *token == text).count() as u32;
                (frequency, FieldNormReader::fieldnorm_to_id(own.len() as u32), self.average(field))
            }
            None => (1, FieldNormReader::fieldnorm_to_id(1), 1.0),
        };
        let weight = Bm25Weight::for_one_term_without_explain(doc_freq, self.documents, average).boost_by(boost);
        Some(weight.score(norm, frequency))
    }

    fn average(&self, field: &str) -> f32 {
        self.length(field) as f32 / self.documents as f32
    }

    fn phrase(&self, document: &Document, phrase: &v1::Phrase, boost: f32) -> Option<f32> {
        let own = tokens(document, &phrase.field)?;
        let positions: Vec<Vec<u32>> = phrase
            .terms
            .iter()
            .map(|term| (0..).zip(&own).filter(|(_, token)| **token == term.term).map(|(at, _)| at).collect())
            .collect();
        let count = if phrase.slop == 0 {
            let stands = |start: &&u32| {
                phrase.terms.iter().all(|term| {
                    let at = **start as i64 + i64::from(term.position) - i64::from(phrase.terms[0].position);
                    usize::try_from(at).ok().and_then(|at| own.get(at)) == Some(&term.term)
                })
            };
            positions[0].iter().filter(stands).count() as u32
        } else {
            let places: Vec<u32> = phrase.terms.iter().map(|term| term.position).collect();
            let twins: Vec<Vec<usize>> = (0..phrase.terms.len())
                .map(|at| (0..at).filter(|other| phrase.terms[*other].term == phrase.terms[at].term).collect())
                .collect();
            count_matches(&positions, &places, &twins, phrase.slop)
        };
        if count == 0 {
            return None;
        }
        let statistics = Frequencies {
            documents: self.documents,
            tokens: self.length(&phrase.field),
            terms: phrase
                .terms
                .iter()
                .map(|term| (term.term.clone(), self.frequency(&phrase.field, &term.term)))
                .collect(),
        };
        let field = tantivy::schema::Field::from_field_id(0);
        let terms: Vec<tantivy::Term> =
            phrase.terms.iter().map(|term| tantivy::Term::from_field_text(field, &term.term)).collect();
        let weight = Bm25Weight::for_terms(&statistics, &terms).unwrap().boost_by(boost);
        Some(weight.score(FieldNormReader::fieldnorm_to_id(own.len() as u32), count))
    }
}

fn has(document: &Document, field: &str, text: &str) -> bool {
    match tokens(document, field) {
        Some(tokens) => tokens.iter().any(|token| token == text),
        None => values(document, field).contains(&Plain::Text(text.to_owned())),
    }
}

struct Frequencies {
    documents: u64,
    tokens: u64,
    terms: BTreeMap<String, u64>,
}

impl tantivy::query::Bm25StatisticsProvider for Frequencies {
    fn total_num_tokens(&self, _: tantivy::schema::Field) -> tantivy::Result<u64> {
        Ok(self.tokens)
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.documents)
    }

    fn doc_freq(&self, term: &tantivy::Term) -> tantivy::Result<u64> {
        Ok(self.terms[term.value().as_str().unwrap()])
    }
}

fn strings(document: &Document, field: &str) -> Vec<String> {
    tokens(document, field).unwrap_or_else(|| {
        values(document, field)
            .into_iter()
            .filter_map(|value| match value {
                Plain::Text(text) => Some(text),
                _ => None,
            })
            .collect()
    })
}

fn is_near(fuzzy: &v1::Fuzzy, text: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (fuzzy.term.chars().collect(), text.chars().collect());
    let prefix = (fuzzy.prefix_length as usize).min(a.len());
    b.get(..prefix) == Some(&a[..prefix]) && can_become(&a, &b, fuzzy.transpositions, fuzzy.distance)
}

/// Whether `edits` edits make one of the other.
fn can_become(a: &[char], b: &[char], transpositions: bool, edits: u32) -> bool {
    match (a, b) {
        ([], rest) | (rest, []) => rest.len() <= edits as usize,
        ([x, a_rest @ ..], [y, b_rest @ ..]) => {
            let is_swap = transpositions && a.len() > 1 && b.len() > 1 && a[0] == b[1] && a[1] == b[0];
            (x == y && can_become(a_rest, b_rest, transpositions, edits))
                || (edits > 0
                    && (can_become(a_rest, b_rest, transpositions, edits - 1)
                        || can_become(a_rest, b, transpositions, edits - 1)
                        || can_become(a, b_rest, transpositions, edits - 1)
                        || (is_swap && can_become(&a[2..], &b[2..], transpositions, edits - 1))))
        }
    }
}
