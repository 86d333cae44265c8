//! Term statistics of a shard's live documents, and those that a query is scored with.
//!
//! Everything here counts live documents only, so it is a pure function of the generation: equal on
//! every replica, whatever its segments and deletes.

use std::collections::HashMap;

use tantivy::query::Bm25StatisticsProvider;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{Searcher, Term};
use trawl_proto::v1::{self, Failure};

use crate::schema::fields::Physical;
use crate::search::{Plan, build, failed};
use crate::{ShardSearcher, search::ScoringTerm};

/// The shard's own numbers for logical text fields and terms; what the shard does not have counts 0.
///
/// # Errors
/// `INTERNAL` when the index cannot be read.
pub fn shard_statistics(
    searcher: &ShardSearcher,
    fields: &[String],
    terms: &[v1::FieldTerm],
) -> Result<v1::IndexStatistics, Failure> {
    let documents = searcher.searcher.num_docs();
    let mut statistics = v1::IndexStatistics { documents, ..Default::default() };
    for field in fields {
        let tokens = tokens(searcher, field).map_err(|e| failed(&e))?;
        statistics.fields.push(v1::FieldTokens { field: field.clone(), tokens });
    }
    for v1::FieldTerm { field, term } in terms {
        let mut documents = 0;
        for part in searcher.fields.resolve(field).map(|resolved| resolved.parts.as_slice()).unwrap_or_default() {
            if let Some((term, _)) = build::string_term(part, term) {
                documents += live_doc_freq(&searcher.searcher, &term).map_err(|e| failed(&e))?;
            }
        }
        statistics.terms.push(v1::TermFrequency { field: field.clone(), term: term.clone(), documents });
    }
    Ok(statistics)
}

/// The shard's own numbers for a plan's fields and terms.
///
/// # Errors
/// `INTERNAL` when the index cannot be read.
pub fn plan_statistics(searcher: &ShardSearcher, plan: &Plan) -> Result<v1::IndexStatistics, Failure> {
    let mut fields: Vec<String> = plan.scoring_terms.iter().map(|term| term.field.clone()).collect();
    fields.sort_unstable();
    fields.dedup();
    let mut terms: Vec<v1::FieldTerm> = plan
        .scoring_terms
        .iter()
        .map(|term| v1::FieldTerm { field: term.field.clone(), term: term.text.clone() })
        .collect();
    terms.sort_unstable_by(|a, b| (&a.field, &a.term).cmp(&(&b.field, &b.term)));
    terms.dedup();
    shard_statistics(searcher, &fields, &terms)
}

/// Tokens of a field over live documents; 1 per document for a field without lengths.
fn tokens(searcher: &ShardSearcher, field: &str) -> tantivy::Result<u64> {
    let Some(resolved) = searcher.fields.resolve(field) else { return Ok(0) };
    let mut tokens = 0;
    for part in &resolved.parts {
        tokens += match part {
            Physical::Text { length_name, .. } => searcher.columns.sum_live(&searcher.searcher, length_name)?,
            _ => 0,
        };
    }
    Ok(tokens)
}

/// In how many live documents a term occurs.
pub(crate) fn live_doc_freq(searcher: &Searcher, term: &Term) -> tantivy::Result<u64> {
    let mut total = 0;
    for reader in searcher.segment_readers() {
        let inverted_index = reader.inverted_index(term.field())?;
        total += match reader.alive_bitset() {
            None => u64::from(inverted_index.doc_freq(term)?),
            Some(alive) => inverted_index
                .read_postings(term, IndexRecordOption::Basic)?
                .map_or(0, |postings| u64::from(postings.doc_freq_given_deletes(alive))),
        };
    }
    Ok(total)
}

/// The statistics of a whole index by physical fields and terms, as scorers ask for them.
pub struct Statistics {
    documents: u64,
    tokens: HashMap<Field, u64>,
    terms: HashMap<Term, u64>,
}

impl Statistics {
    /// What a plan's terms are scored with. Unknown terms count 0; counts that contradict each other
    /// (from different moments) are made consistent.
    pub fn new(statistics: &v1::IndexStatistics, terms: &[ScoringTerm]) -> Self {
        let documents = statistics.documents.max(1);
        let tokens_of: HashMap<&str, u64> = statistics.fields.iter().map(|f| (f.field.as_str(), f.tokens)).collect();
        let documents_of: HashMap<(&str, &str), u64> =
            statistics.terms.iter().map(|t| ((t.field.as_str(), t.term.as_str()), t.documents)).collect();
        let mut own = Self { documents, tokens: HashMap::new(), terms: HashMap::new() };
        for ScoringTerm { field, text, term, length_column } in terms {
            let tokens = match length_column {
                Some(_) => tokens_of.get(field.as_str()).copied().unwrap_or(0).max(1),
                None => documents,
            };
            own.tokens.insert(term.field(), tokens);
            let with_term = documents_of.get(&(field.as_str(), text.as_str())).copied().unwrap_or(0);
            own.terms.insert(term.clone(), with_term.min(documents));
        }
        own
    }

    /// The average length of a field.
    pub fn average_length(&self, field: Field) -> f32 {
        self.tokens.get(&field).copied().unwrap_or(1) as f32 / self.documents as f32
    }
}

impl Bm25StatisticsProvider for Statistics {
    fn total_num_tokens(&self, field: Field) -> tantivy::Result<u64> {
        Ok(self.tokens.get(&field).copied().unwrap_or(self.documents))
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.documents)
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        Ok(self.terms.get(term).copied().unwrap_or(0))
    }
}
