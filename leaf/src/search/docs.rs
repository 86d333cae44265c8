//! Sets of documents that score a constant: what is found in columns and by walking term
//! dictionaries.
//!
//! Tantivy has queries for most of these, but they expand terms without a bound, know no range of
//! booleans, or error where a segment lacks the column. Here every set is bounded, and a column that
//! is not there is an empty set.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tantivy::index::SegmentId;
use tantivy::postings::BlockSegmentPostings;
use tantivy::query::{BitSetDocSet, ConstScorer, EnableScoring, Explanation, FuzzyTermQuery, Query, Scorer, Weight};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{BitSet, DocId, DocSet, SegmentReader, TERMINATED, TantivyError, Term};

use super::interval::{Interval, Selected};

/// How many terms a prefix, fuzzy or text range query may expand to in one segment.
pub const EXPANSION_MAX: usize = 65_536;

/// A set of documents, found anew for each segment.
pub trait Docs: fmt::Debug + Send + Sync + 'static {
    /// The set's documents in one segment, deleted ones included, in order.
    fn open(&self, reader: &SegmentReader) -> tantivy::Result<Box<dyn DocSet>>;
}

/// A set of documents as a query with a constant score of `score`.
#[derive(Clone, Debug)]
pub struct DocsQuery {
    /// The set.
    pub docs: Arc<dyn Docs>,
    /// What each scores.
    pub score: f32,
}

impl Query for DocsQuery {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(DocsWeight(self.clone())))
    }
}

struct DocsWeight(DocsQuery);

impl Weight for DocsWeight {
    fn scorer(&self, reader: &SegmentReader, boost: f32) -> tantivy::Result<Box<dyn Scorer>> {
        Ok(Box::new(ConstScorer::new(self.0.docs.open(reader)?, boost * self.0.score)))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.scorer(reader, 1.0)?;
        if scorer.doc() > doc || scorer.seek(doc) != doc {
            return Err(TantivyError::InvalidArgument(format!("document {doc} does not match")));
        }
        Ok(Explanation::new("constant", self.0.score))
    }
}

/// Every document. Unlike tantivy's, it keeps its score inside a conjunction.
#[derive(Debug)]
pub struct AllDocs;

impl Docs for AllDocs {
    fn open(&self, reader: &SegmentReader) -> tantivy::Result<Box<dyn DocSet>> {
        Ok(Box::new(Counter { doc: if reader.max_doc() == 0 { TERMINATED } else { 0 }, end: reader.max_doc() }))
    }
}

struct Counter {
    doc: DocId,
    end: DocId,
}

impl DocSet for Counter {
    fn advance(&mut self) -> DocId {
        self.seek(self.doc.saturating_add(1))
    }

    fn seek(&mut self, target: DocId) -> DocId {
        self.doc = if target >= self.end { TERMINATED } else { target.max(self.doc) };
        self.doc
    }

    fn doc(&self) -> DocId {
        self.doc
    }

    fn size_hint(&self) -> u32 {
        self.end
    }
}

/// The documents of any query, to be excluded.
///
/// Tantivy asks an exclusion for documents that it has already passed, which its phrases forbid; the
/// plain seek in between does not mind.
#[derive(Debug)]
pub struct ExcludedDocs(pub Box<dyn Query>);

impl Docs for ExcludedDocs {
    fn open(&self, reader: &SegmentReader) -> tantivy::Result<Box<dyn DocSet>> {
        let weight = self.0.weight(EnableScoring::disabled_from_schema(reader.schema()))?;
        Ok(Box::new(PlainSeek(weight.scorer(reader, 1.0)?)))
    }
}

struct PlainSeek(Box<dyn Scorer>);

impl DocSet for PlainSeek {
    fn advance(&mut self) -> DocId {
        self.0.advance()
    }

    fn seek(&mut self, target: DocId) -> DocId {
        self.0.seek(target)
    }

    fn doc(&self) -> DocId {
        self.0.doc()
    }

    fn size_hint(&self) -> u32 {
        self.0.size_hint()
    }

    fn cost(&self) -> u64 {
        self.0.cost()
    }
}

/// Documents with a value of a column inside an interval.
#[derive(Debug)]
pub struct IntervalDocs {
    /// Physical name.
    pub column: String,
    /// Which values.
    pub interval: Interval,
}

impl Docs for IntervalDocs {
    fn open(&self, reader: &SegmentReader) -> tantivy::Result<Box<dyn DocSet>> {
        let mut parts = Vec::new();
        for handle in reader.fast_fields().dynamic_column_handles(&self.column)? {
            parts.extend(self.interval.select(handle.open()?)?);
        }
        Ok(Box::new(Windowed::new(parts, reader.max_doc())))
    }
}

/// Documents with any value in one of the columns.
#[derive(Debug)]
pub struct ExistsDocs {
    /// Physical names.
    pub columns: Vec<String>,
}

impl Docs for ExistsDocs {
    fn open(&self, reader: &SegmentReader) -> tantivy::Result<Box<dyn DocSet>> {
        let mut parts = Vec::new();
        for column in &self.columns {
            for handle in reader.fast_fields().dynamic_column_handles(column)? {
                parts.push(Selected::all(handle.open()?));
            }
        }
        Ok(Box::new(Windowed::new(parts, reader.max_doc())))
    }
}

/// Documents of both sets.
#[derive(Debug)]
pub struct BothDocs(pub Arc<dyn Docs>, pub Arc<dyn Docs>);

impl Docs for BothDocs {
    fn open(&self, reader: &SegmentReader) -> tantivy::Result<Box<dyn DocSet>> {
        let (mut left, mut right) = (self.0.open(reader)?, self.1.open(reader)?);
        let mut bits = BitSet::with_max_value(reader.max_doc());
        let mut doc = left.doc();
        while doc != TERMINATED {
            let there = if right.doc() < doc { right.seek(doc) } else { right.doc() };
            if there == doc {
                bits.insert(doc);
            }
            doc = left.advance();
        }
        Ok(Box::new(BitSetDocSet::from(bits)))
    }
}

const WINDOW_MIN: u32 = 1_024;
const WINDOW_MAX: u32 = 65_536;

/// Reads columns a window of documents at a time, so that a seek skips what lies between.
struct Windowed {
    parts: Vec<Selected>,
    max_doc: DocId,
    /// First document of the next window.
    next: DocId,
    window: u32,
    found: Vec<DocId>,
    position: usize,
}

impl Windowed {
    fn new(parts: Vec<Selected>, max_doc: DocId) -> Self {
        let next = if parts.is_empty() { max_doc } else { 0 };
        let mut windowed = Self { parts, max_doc, next, window: WINDOW_MIN, found: Vec::new(), position: 0 };
        windowed.fill();
        windowed
    }

    /// Reads windows until one holds a document or all are read.
    fn fill(&mut self) {
        self.found.clear();
        self.position = 0;
        let mut part_found = Vec::new();
        while self.found.is_empty() && self.next < self.max_doc {
            let end = self.next.saturating_add(self.window).min(self.max_doc);
            for part in &self.parts {
                part_found.clear();
                part.docs(self.next..end, &mut part_found);
                self.found.append(&mut part_found);
            }
            if self.parts.len() > 1 {
                self.found.sort_unstable();
            }
            self.found.dedup();
            self.next = end;
            self.window = (self.window * 2).min(WINDOW_MAX);
        }
    }
}

impl DocSet for Windowed {
    fn advance(&mut self) -> DocId {
        self.position += 1;
        if self.position >= self.found.len() {
            self.fill();
        }
        self.doc()
    }

    fn seek(&mut self, target: DocId) -> DocId {
        if self.doc() >= target {
            return self.doc();
        }
        if target < self.next {
            self.position +=
                self.found.get(self.position..).map_or(0, |rest| rest.partition_point(|doc| *doc < target));
            if self.position >= self.found.len() {
                self.fill();
            }
        } else {
            self.next = target.min(self.max_doc);
            self.window = WINDOW_MIN;
            self.fill();
        }
        self.doc()
    }

    fn doc(&self) -> DocId {
        self.found.get(self.position).copied().unwrap_or(TERMINATED)
    }

    fn size_hint(&self) -> u32 {
        self.max_doc
    }

    /// A scan is dearer than postings, so that a conjunction is led by something else.
    fn cost(&self) -> u64 {
        u64::from(self.max_doc) * 2
    }
}

/// Which terms of a field's dictionary.
#[derive(Clone, Debug)]
pub enum Terms {
    /// All terms that start with these bytes (after `start`).
    Prefix(Vec<u8>),
    /// All terms within an edit distance of a term that begin with these bytes.
    Fuzzy {
        /// The term itself, with its path when the field is JSON.
        term: Term,
        /// 0, 1 or 2.
        distance: u8,
        /// Whether a swap of neighbours costs one edit.
        transpositions: bool,
        /// What every match begins with.
        prefix: Vec<u8>,
    },
    /// Terms within bounds: at least, and below.
    Between {
        /// The least term.
        from: Vec<u8>,
        /// The first term that is too great; `None` for no bound.
        to: Option<Vec<u8>>,
    },
}

/// Documents with any of the terms. The set of a segment is found once and kept, since a query may
/// need it for matching and again for scoring.
pub struct ExpansionDocs {
    field: Field,
    terms: Terms,
    what: String,
    found: Mutex<HashMap<SegmentId, BitSet>>,
}

impl fmt::Debug for ExpansionDocs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpansionDocs").field("field", &self.field).field("terms", &self.terms).finish_non_exhaustive()
    }
}

/// Walks the terms of a stream from a bound to another; the stream's type has no public name.
macro_rules! each_term {
    ($terms:expr, $from:expr, $to:expr, $add:expr) => {{
        let terms = $terms.ge($from);
        let mut stream = match $to {
            Some(to) => terms.lt(to).into_stream()?,
            None => terms.into_stream()?,
        };
        while stream.advance() {
            $add(stream.value())?;
        }
    }};
}

impl ExpansionDocs {
    /// `what` names the query in the error when it expands to too many terms.
    pub fn new(field: Field, terms: Terms, what: String) -> Self {
        Self { field, terms, what, found: Mutex::default() }
    }

    fn find(&self, reader: &SegmentReader) -> tantivy::Result<BitSet> {
        let inverted_index = reader.inverted_index(self.field)?;
        let dictionary = inverted_index.terms();
        let mut bits = BitSet::with_max_value(reader.max_doc());
        let mut expanded = 0usize;
        let mut add = |term_info: &tantivy::postings::TermInfo| -> tantivy::Result<()> {
            expanded += 1;
            if expanded > EXPANSION_MAX {
                return Err(TantivyError::InvalidArgument(format!(
                    "{} expands to more than {EXPANSION_MAX} terms",
                    self.what
                )));
            }
            insert_all(
                inverted_index.read_block_postings_from_terminfo(term_info, IndexRecordOption::Basic)?,
                &mut bits,
            );
            Ok(())
        };
        match &self.terms {
            Terms::Prefix(prefix) => {
                each_term!(dictionary.range(), prefix, prefix_end(prefix), add);
            }
            Terms::Between { from, to } => {
                each_term!(dictionary.range(), from, to.as_ref(), add);
            }
            Terms::Fuzzy { term, distance, transpositions, prefix } => {
                let automaton = FuzzyTermQuery::new(term.clone(), *distance, *transpositions).automaton()?;
                each_term!(dictionary.search(automaton), prefix, prefix_end(prefix), add);
            }
        }
        Ok(bits)
    }
}

impl Docs for ExpansionDocs {
    fn open(&self, reader: &SegmentReader) -> tantivy::Result<Box<dyn DocSet>> {
        let segment = reader.segment_id();
        if let Some(bits) = self.found.lock().get(&segment) {
            return Ok(Box::new(BitSetDocSet::from(bits.clone())));
        }
        let bits = self.find(reader)?;
        self.found.lock().insert(segment, bits.clone());
        Ok(Box::new(BitSetDocSet::from(bits)))
    }
}

fn insert_all(mut postings: BlockSegmentPostings, bits: &mut BitSet) {
    loop {
        let docs = postings.docs();
        if docs.is_empty() {
            return;
        }
        for doc in docs {
            bits.insert(*doc);
        }
        postings.advance();
    }
}

/// The least byte string above all that start with `prefix`; `None` when there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_above_it_and_nothing_else() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[b'a', 255]), Some(b"b".to_vec()));
        assert_eq!(prefix_end(&[255, 255]), None);
        assert_eq!(prefix_end(b""), None);
    }
}
