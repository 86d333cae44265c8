//! Phrases whose terms may move.
//!
//! Tantivy's own sloppy phrase walks terms rarest first, so what it matches and counts depends on the
//! segment (and on whether it scores). This one depends on the document alone: terms are taken in the
//! phrase's order, a match is a choice of one position per term whose displacements (position in the
//! document minus place in the phrase) lie within `slop` of each other, as in Lucene, and matches
//! are counted greedily from the left without sharing positions.

use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::{Postings, SegmentPostings};
use tantivy::query::{Bm25Weight, EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight};
use tantivy::schema::IndexRecordOption;
use tantivy::{DocId, DocSet, SegmentReader, TERMINATED, TantivyError, Term};

/// A phrase with slop; at least two terms.
#[derive(Clone, Debug)]
pub struct SloppyPhrase {
    /// Place in the phrase and term.
    pub terms: Vec<(u32, Term)>,
    /// Greatest difference between displacements.
    pub slop: u32,
}

impl Query for SloppyPhrase {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        let bm25 = match scoring {
            EnableScoring::Enabled { statistics_provider, .. } => {
                let terms: Vec<Term> = self.terms.iter().map(|(_, term)| term.clone()).collect();
                Some(Bm25Weight::for_terms(statistics_provider, &terms)?)
            }
            EnableScoring::Disabled { .. } => None,
        };
        Ok(Box::new(SloppyWeight { phrase: self.clone(), bm25 }))
    }

    fn query_terms<'a>(&'a self, visitor: &mut dyn FnMut(&'a Term, bool)) {
        for (_, term) in &self.terms {
            visitor(term, true);
        }
    }
}

struct SloppyWeight {
    phrase: SloppyPhrase,
    bm25: Option<Bm25Weight>,
}

impl Weight for SloppyWeight {
    fn scorer(&self, reader: &SegmentReader, boost: f32) -> tantivy::Result<Box<dyn Scorer>> {
        let Some(field) = self.phrase.terms.first().map(|(_, term)| term.field()) else {
            return Ok(Box::new(EmptyScorer));
        };
        let inverted_index = reader.inverted_index(field)?;
        let mut postings = Vec::with_capacity(self.phrase.terms.len());
        for (_, term) in &self.phrase.terms {
            match inverted_index.read_postings(term, IndexRecordOption::WithFreqsAndPositions)? {
                Some(found) => postings.push(found),
                None => return Ok(Box::new(EmptyScorer)),
            }
        }
        let norms = match reader.fieldnorms_readers().get_field(field)? {
            Some(norms) => norms,
            None => FieldNormReader::constant(reader.max_doc(), 1),
        };
        // The rarest term leads; it decides nothing but speed.
        let lead =
            (0..postings.len()).min_by_key(|at| postings.get(*at).map_or(0, SegmentPostings::doc_freq)).unwrap_or(0);
        let places = self.phrase.terms.iter().map(|(place, _)| *place).collect();
        let twins = twins(&self.phrase.terms);
        let bm25 = self.bm25.as_ref().map(|weight| weight.boost_by(boost));
        let positions = vec![Vec::new(); postings.len()];
        let mut scorer = SloppyScorer {
            postings,
            places,
            twins,
            positions,
            lead,
            slop: self.phrase.slop,
            bm25,
            norms,
            boost,
            count: 0,
            doc: 0,
        };
        scorer.doc = scorer.postings.get(lead).map_or(TERMINATED, DocSet::doc);
        scorer.find();
        Ok(Box::new(scorer))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.scorer(reader, 1.0)?;
        if scorer.doc() > doc || scorer.seek(doc) != doc {
            return Err(TantivyError::InvalidArgument(format!("document {doc} does not match")));
        }
        Ok(Explanation::new("sloppy phrase", scorer.score()))
    }
}

/// For each term the earlier terms that are equal to it: they must not use the same position.
fn twins(terms: &[(u32, Term)]) -> Vec<Vec<usize>> {
    terms
        .iter()
        .enumerate()
        .map(|(at, (_, term))| {
            terms.iter().take(at).enumerate().filter(|(_, (_, other))| other == term).map(|(other, _)| other).collect()
        })
        .collect()
}

struct SloppyScorer {
    postings: Vec<SegmentPostings>,
    places: Vec<u32>,
    twins: Vec<Vec<usize>>,
    positions: Vec<Vec<u32>>,
    lead: usize,
    slop: u32,
    bm25: Option<Bm25Weight>,
    norms: FieldNormReader,
    boost: f32,
    count: u32,
    doc: DocId,
}

impl SloppyScorer {
    /// Moves to the first match at or after `self.doc`.
    fn find(&mut self) {
        'candidates: while self.doc != TERMINATED {
            for postings in &mut self.postings {
                if postings.doc() < self.doc {
                    postings.seek(self.doc);
                }
                if postings.doc() > self.doc {
                    self.doc = postings.doc();
                    continue 'candidates;
                }
            }
            for (postings, positions) in self.postings.iter_mut().zip(&mut self.positions) {
                postings.positions(positions);
            }
            self.count = count_matches(&self.positions, &self.places, &self.twins, self.slop);
            if self.count > 0 {
                return;
            }
            self.doc = self.postings.get_mut(self.lead).map_or(TERMINATED, DocSet::advance);
        }
    }
}

impl DocSet for SloppyScorer {
    fn advance(&mut self) -> DocId {
        if self.doc != TERMINATED {
            self.doc = self.postings.get_mut(self.lead).map_or(TERMINATED, DocSet::advance);
            self.find();
        }
        self.doc
    }

    fn seek(&mut self, target: DocId) -> DocId {
        if self.doc < target {
            self.doc = target.min(TERMINATED);
            self.find();
        }
        self.doc
    }

    fn doc(&self) -> DocId {
        self.doc
    }

    fn size_hint(&self) -> u32 {
        self.postings.get(self.lead).map_or(0, |postings| postings.doc_freq() / 10)
    }

    fn cost(&self) -> u64 {
        self.postings
            .get(self.lead)
            .map_or(0, |postings| u64::from(postings.doc_freq()) * 10 * self.postings.len() as u64)
    }
}

impl Scorer for SloppyScorer {
    fn score(&mut self) -> f32 {
        match &self.bm25 {
            Some(bm25) => bm25.score(self.norms.fieldnorm_id(self.doc), self.count),
            None => self.boost,
        }
    }
}

/// Counts matches: at each step the term with the least displacement moves on, unless all
/// displacements are within `slop`; then that is a match and all terms move on.
pub fn count_matches(positions: &[Vec<u32>], places: &[u32], twins: &[Vec<usize>], slop: u32) -> u32 {
    let mut at = vec![0usize; positions.len()];
    let mut count = 0;
    'search: loop {
        let mut least = (i64::MAX, 0);
        let mut greatest = i64::MIN;
        for (term, place) in places.iter().enumerate() {
            let Some(position) = positions.get(term).and_then(|all| all.get(*at.get(term)?)) else { break 'search };
            let displacement = i64::from(*position) - i64::from(*place);
            if displacement < least.0 {
                least = (displacement, term);
            }
            greatest = greatest.max(displacement);
        }
        if greatest - least.0 > i64::from(slop) {
            step(&mut at, least.1);
            continue;
        }
        let position_of = |term: usize| positions.get(term).and_then(|all| all.get(*at.get(term)?));
        let shared = (0..places.len()).find(|term| {
            twins.get(*term).is_some_and(|others| others.iter().any(|o| position_of(*o) == position_of(*term)))
        });
        match shared {
            Some(term) => step(&mut at, term),
            None => {
                count += 1;
                for index in &mut at {
                    *index += 1;
                }
            }
        }
    }
    count
}

fn step(at: &mut [usize], term: usize) {
    if let Some(index) = at.get_mut(term) {
        *index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(positions: &[&[u32]], slop: u32) -> u32 {
        let positions: Vec<Vec<u32>> = positions.iter().map(|all| all.to_vec()).collect();
        let places: Vec<u32> = (0..).take(positions.len()).collect();
        count_matches(&positions, &places, &vec![Vec::new(); positions.len()], slop)
    }

    #[test]
    fn slop_counts_moves_as_lucene_does() {
        assert_eq!(count(&[&[3], &[4]], 0), 1);
        assert_eq!(count(&[&[3], &[6]], 1), 0);
        assert_eq!(count(&[&[3], &[6]], 2), 1);
        // Swapped neighbours are two moves apart.
        assert_eq!(count(&[&[4], &[3]], 1), 0);
        assert_eq!(count(&[&[4], &[3]], 2), 1);
        assert_eq!(count(&[&[1, 10], &[3, 11], &[5, 12]], 2), 2);
    }

    #[test]
    fn a_repeated_term_needs_two_positions() {
        let twins = vec![vec![], vec![0]];
        assert_eq!(count_matches(&[vec![5], vec![5]], &[0, 1], &twins, 3), 0);
        assert_eq!(count_matches(&[vec![5, 6], vec![5, 6]], &[0, 1], &twins, 3), 1);
    }
}
