//! What the answer has to be: one fresh single-segment tantivy index over the live documents, asked
//! in this process.
//!
//! Every scoring leaf of a query (a term, a phrase) is asked of tantivy by itself and exhaustively;
//! the sums and maxima above are formed here, in 32-bit floats, in the query's own clause order.
//! Everything that does not score is decided on the JSON documents, without an index.

use std::collections::BTreeMap;

use serde_json::Value;
use tantivy::{
    Index, Searcher, TantivyDocument, Term,
    collector::TopDocs,
    query::{BoostQuery, PhraseQuery, Query, TermQuery},
    schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions, Value as _},
};
use trawl_data::{analysis::Analyzer, routing};

/// Scores by document number; only matching documents are in it.
pub type Scores = BTreeMap<usize, f32>;

pub struct Reference {
    /// Live documents: `_id` and source.
    pub documents: Vec<(String, Value)>,
    searcher: Searcher,
    number: Field,
    text: BTreeMap<&'static str, (Field, Analyzer)>,
    keywords: Vec<&'static str>,
}

/// One expected hit.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    pub id: String,
    pub score: f32,
}

impl Reference {
    /// Indexes the documents. `text` are analysed fields, `keywords` are exact ones; values are
    /// strings or lists of strings, dotted paths go into objects.
    pub fn new(documents: Vec<(String, Value)>, text: &[(&'static str, Analyzer)], keywords: &[&'static str]) -> Self {
        let mut builder = Schema::builder();
        let number = builder.add_u64_field("number", FAST | tantivy::schema::STORED);
        let mut fields = BTreeMap::new();
        for (name, analyzer) in text {
            let indexing = TextFieldIndexing::default()
                .set_tokenizer(analyzer.name())
                .set_index_option(IndexRecordOption::WithFreqsAndPositions);
            let options = TextOptions::default().set_indexing_options(indexing);
            fields.insert(*name, (builder.add_text_field(name, options), *analyzer));
        }
        let index = Index::create_in_ram(builder.build());
        for (_, analyzer) in text {
            index.tokenizers().register(analyzer.name(), analyzer.text_analyzer());
        }
        let mut writer = index.writer_with_num_threads::<TantivyDocument>(1, 50_000_000).unwrap();
        for (place, (_, source)) in documents.iter().enumerate() {
            let mut document = TantivyDocument::new();
            document.add_u64(number, place as u64);
            for (name, (field, _)) in &fields {
                for text in strings(source, name) {
                    document.add_text(*field, text);
                }
            }
            writer.add_document(document).unwrap();
        }
        writer.commit().unwrap();
        let segments = index.searchable_segment_ids().unwrap();
        if segments.len() > 1 {
            writer.merge(&segments).wait().unwrap();
        }
        writer.wait_merging_threads().unwrap();
        let searcher = index.reader().unwrap().searcher();
        assert!(searcher.segment_readers().len() <= 1);
        Self { documents, searcher, number, text: fields, keywords: keywords.to_vec() }
    }

    /// All matches in rank order: score descending, then `xxh3_64(_id)`, then `_id`.
    pub fn ranked(&self, query: &Value) -> Vec<Expected> {
        let mut found: Vec<(f32, u64, &str)> = self
            .scores(query)
            .into_iter()
            .map(|(place, score)| {
                let id = self.documents[place].0.as_str();
                (score, routing::tie(id), id)
            })
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(b.2)));
        found.into_iter().map(|(score, _, id)| Expected { id: id.to_owned(), score }).collect()
    }

    /// The scores of all matches of an Elasticsearch query (the kinds used in these tests).
    pub fn scores(&self, query: &Value) -> Scores {
        let (kind, body) = query.as_object().unwrap().iter().next().unwrap();
        match kind.as_str() {
            "match_all" => self.constant(|_, _| true),
            "match_none" => Scores::new(),
            "match" => {
                let (field, body) = body.as_object().unwrap().iter().next().unwrap();
                let text = body.as_str().or(body["query"].as_str()).unwrap();
                self.match_field(field, text, body["operator"] == "and", body["minimum_should_match"].as_u64(), 1.0)
            }
            "match_phrase" => {
                let (field, body) = body.as_object().unwrap().iter().next().unwrap();
                let text = body.as_str().or(body["query"].as_str()).unwrap();
                self.phrase(field, text, u32::try_from(body["slop"].as_u64().unwrap_or(0)).unwrap())
            }
            "multi_match" => self.multi_match(body),
            "term" => {
                let (field, body) = body.as_object().unwrap().iter().next().unwrap();
                let value = if body.is_object() { &body["value"] } else { body };
                self.term(field, value, body["boost"].as_f64().unwrap_or(1.0) as f32)
            }
            "bool" => self.boolean(body),
            "constant_score" => {
                let boost = body["boost"].as_f64().unwrap_or(1.0) as f32;
                self.scores(&body["filter"]).into_keys().map(|place| (place, boost)).collect()
            }
            "dis_max" => {
                let clauses = body["queries"].as_array().unwrap().iter().map(|clause| self.scores(clause)).collect();
                disjunction_max(clauses, body["tie_breaker"].as_f64().unwrap_or(0.0) as f32)
            }
            _ => self.constant(|id, source| self.filter_matches(kind, body, id, source)),
        }
    }

    fn constant(&self, matches: impl Fn(&str, &Value) -> bool) -> Scores {
        let documents = self.documents.iter().enumerate();
        documents.filter(|(_, (id, source))| matches(id, source)).map(|(place, _)| (place, 1.0)).collect()
    }

    fn filter_matches(&self, kind: &str, body: &Value, id: &str, source: &Value) -> bool {
        if kind == "ids" {
            return body["values"].as_array().unwrap().iter().any(|value| value == id);
        }
        if kind == "exists" {
            let field = body["field"].as_str().unwrap();
            return values(source, field).iter().any(|value| !value.is_null() && **value != Value::Array(Vec::new()));
        }
        let (field, body) = body.as_object().unwrap().iter().next().unwrap();
        match kind {
            "terms" => body.as_array().unwrap().iter().any(|wanted| values(source, field).contains(&wanted)),
            "range" => values(source, field).iter().any(|value| in_range(value, body)),
            "prefix" => {
                let prefix = body.as_str().or(body["value"].as_str()).unwrap();
                self.tokens(source, field).iter().any(|token| token.starts_with(prefix))
            }
            "fuzzy" => {
                let wanted = body["value"].as_str().unwrap();
                let distance = body["fuzziness"].as_u64().unwrap() as usize;
                self.tokens(source, field).iter().any(|token| edits(wanted, token) <= distance)
            }
            other => panic!("the reference does not know {other}"),
        }
    }

    fn tokens(&self, source: &Value, field: &str) -> Vec<String> {
        match self.text.get(field) {
            Some((_, analyzer)) => {
                let texts = strings(source, field);
                texts.iter().flat_map(|text| analyzer.tokens(text)).map(|token| token.text).collect()
            }
            None => strings(source, field).into_iter().map(str::to_owned).collect(),
        }
    }

    fn match_field(&self, field: &str, text: &str, and: bool, minimum: Option<u64>, boost: f32) -> Scores {
        if self.keywords.contains(&field) {
            return self.term(field, &Value::from(text), boost);
        }
        let (_, analyzer) = self.text[field];
        let tokens = analyzer.tokens(text);
        let clauses: Vec<Scores> =
            tokens.iter().map(|token| self.term(field, &Value::from(token.text.as_str()), boost)).collect();
        // As in Elasticsearch: text that comes to a single term is that term, whatever minimum was asked for.
        let minimum = match clauses.len() {
            1 => 1,
            count if and => count as u64,
            _ => minimum.unwrap_or(1),
        };
        sum(&clauses, minimum)
    }

    fn phrase(&self, field: &str, text: &str, slop: u32) -> Scores {
        let (tantivy_field, analyzer) = self.text[field];
        let terms: Vec<(usize, Term)> = analyzer
            .tokens(text)
            .into_iter()
            .map(|token| (token.position as usize, Term::from_field_text(tantivy_field, &token.text)))
            .collect();
        match terms.len() {
            0 => Scores::new(),
            1 => self.ask(&TermQuery::new(terms[0].1.clone(), IndexRecordOption::WithFreqs)),
            _ => self.ask(&PhraseQuery::new_with_offset_and_slop(terms, slop)),
        }
    }

    fn multi_match(&self, body: &Value) -> Scores {
        let text = body["query"].as_str().unwrap();
        let and = body["operator"] == "and";
        let clauses: Vec<Scores> = body["fields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|field| {
                let (name, boost) = field.as_str().unwrap().split_once('^').unwrap_or((field.as_str().unwrap(), "1"));
                let boost: f32 = boost.parse().unwrap();
                self.match_field(name, text, and, None, boost)
            })
            .collect();
        if body["type"] == "most_fields" {
            sum(&clauses, 1)
        } else {
            disjunction_max(clauses, body["tie_breaker"].as_f64().unwrap_or(0.0) as f32)
        }
    }

    /// One term. A boost goes into the term's own weight, as tantivy does it.
    fn term(&self, field: &str, value: &Value, boost: f32) -> Scores {
        if let Some((tantivy_field, _)) = self.text.get(field) {
            let term = Term::from_field_text(*tantivy_field, value.as_str().unwrap());
            let query = TermQuery::new(term, IndexRecordOption::WithFreqs);
            return self.ask(&BoostQuery::new(Box::new(query), boost));
        }
        let matching = self.constant(|_, source| values(source, field).contains(&value));
        if !self.keywords.contains(&field) {
            return matching;
        }
        let score = keyword_score(matching.len() as f32, self.documents.len() as f32, boost);
        matching.into_keys().map(|place| (place, score)).collect()
    }

    fn boolean(&self, body: &Value) -> Scores {
        let clauses = |name: &str| -> Vec<Scores> {
            match &body[name] {
                Value::Null => Vec::new(),
                Value::Array(list) => list.iter().map(|clause| self.scores(clause)).collect(),
                single => vec![self.scores(single)],
            }
        };
        let (must, should, filter, must_not) =
            (clauses("must"), clauses("should"), clauses("filter"), clauses("must_not"));
        let optional = !must.is_empty() || !filter.is_empty() || should.is_empty();
        let minimum = body["minimum_should_match"].as_u64().unwrap_or(u64::from(!optional)) as usize;
        let everything = 0..self.documents.len();
        everything
            .filter(|place| must.iter().chain(&filter).all(|clause| clause.contains_key(place)))
            .filter(|place| !must_not.iter().any(|clause| clause.contains_key(place)))
            .filter(|place| should.iter().filter(|clause| clause.contains_key(place)).count() >= minimum)
            .map(|place| {
                let scoring = must.iter().chain(&should);
                let score = scoring.filter_map(|clause| clause.get(&place)).fold(0.0f32, |total, score| total + score);
                (place, score)
            })
            .collect()
    }

    /// Exhaustive scores of one tantivy query.
    fn ask(&self, query: &dyn Query) -> Scores {
        let all = TopDocs::with_limit(self.documents.len().max(1)).order_by_score();
        let found = self.searcher.search(query, &all).unwrap();
        let number = |address| {
            let document: TantivyDocument = self.searcher.doc(address).unwrap();
            document.get_first(self.number).unwrap().as_u64().unwrap() as usize
        };
        found.into_iter().map(|(score, address)| (number(address), score)).collect()
    }
}

/// BM25 of a field without lengths and frequencies, in the steps tantivy takes.
fn keyword_score(df: f32, documents: f32, boost: f32) -> f32 {
    const K1: f32 = 1.2;
    let idf = (1.0 + (documents - df + 0.5) / (df + 0.5)).ln();
    let weight = idf * (1.0 + K1) * boost;
    weight * (1.0 / (1.0 + K1))
}

fn sum(clauses: &[Scores], minimum: u64) -> Scores {
    let mut places: Vec<usize> = clauses.iter().flat_map(|clause| clause.keys().copied()).collect();
    places.sort_unstable();
    places.dedup();
    places
        .into_iter()
        .filter(|place| clauses.iter().filter(|clause| clause.contains_key(place)).count() as u64 >= minimum)
        .map(|place| {
            let scores = clauses.iter().filter_map(|clause| clause.get(&place));
            (place, scores.fold(0.0f32, |total, score| total + score))
        })
        .collect()
}

fn disjunction_max(clauses: Vec<Scores>, tie_breaker: f32) -> Scores {
    let mut best: BTreeMap<usize, (f32, f32)> = BTreeMap::new();
    for clause in clauses {
        for (place, score) in clause {
            let (max, total) = best.entry(place).or_insert((0.0, 0.0));
            *max = max.max(score);
            *total += score;
        }
    }
    best.into_iter().map(|(place, (max, total))| (place, max + tie_breaker * (total - max))).collect()
}

fn in_range(value: &Value, body: &Value) -> bool {
    let compare = |bound: &Value| match (value, bound) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().unwrap().total_cmp(&b.as_f64().unwrap()),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        other => panic!("{other:?}"),
    };
    body.as_object().unwrap().iter().all(|(name, bound)| match name.as_str() {
        "gte" => compare(bound).is_ge(),
        "gt" => compare(bound).is_gt(),
        "lte" => compare(bound).is_le(),
        "lt" => compare(bound).is_lt(),
        other => panic!("{other}"),
    })
}

/// The values of a dotted path; lists are flattened.
pub fn values<'a>(source: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![source];
    for part in path.split('.') {
        found = found.into_iter().filter_map(|value| value.get(part)).collect();
    }
    found
        .into_iter()
        .flat_map(|value| value.as_array().map_or_else(|| vec![value], |list| list.iter().collect()))
        .collect()
}

fn strings<'a>(source: &'a Value, path: &str) -> Vec<&'a str> {
    values(source, path).into_iter().filter_map(Value::as_str).collect()
}

/// Optimal string alignment distance: edits, with neighbours swapped as one.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = change.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(table[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    table[a.len()][b.len()]
}
