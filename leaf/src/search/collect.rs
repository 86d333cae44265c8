//! The best hits of a shard, its count and its aggregations.
//!
//! Two ways: `pruning` lets block-max WAND skip what cannot be among the best and counts nothing;
//! `visiting` looks at every match once. Both stop at the deadline with what they have.

mod pruning;
mod visiting;

use std::cmp::Ordering;
use std::ops::ControlFlow;

use tantivy::aggregation::agg_req::Aggregations;
use tantivy::aggregation::intermediate_agg_result::IntermediateAggregationResults;
use tantivy::query::{EnableScoring, Weight};
use tantivy::{DocId, DocSet, SegmentOrdinal, SegmentReader, TERMINATED};

use super::Cancel;
use super::plan::Node;
use super::score::{Canonical, CanonicalScorer};
use super::sort::{Key, KeyReader, Order};
use super::top::Top;
use crate::ShardSearcher;
use crate::columns::Identity;
use crate::statistics::Statistics;

/// Documents between two looks at the clock.
const CHECK_EVERY: u32 = 1_024;
/// A union of more terms is faster visited than pruned.
const WAND_TERMS_MAX: usize = 10;
/// What to collect.
pub struct Wanted<'a> {
    /// Where.
    pub searcher: &'a ShardSearcher,
    /// The query.
    pub root: &'a Node,
    /// What scores are made with.
    pub statistics: &'a Statistics,
    /// The order of hits.
    pub order: &'a Order,
    /// Only hits after these keys.
    pub after: Option<&'a [Key]>,
    /// How many hits.
    pub hits_max: usize,
    /// Whether scores are wanted although the order does not need them.
    pub track_scores: bool,
    /// Matches that score less do not count.
    pub min_score: Option<f32>,
    /// In physical names; `None` for none.
    pub aggregations: Option<&'a Aggregations>,
    /// When to stop.
    pub cancel: &'a Cancel,
}

/// One of the best.
#[derive(Clone, Debug)]
pub struct Ranked {
    /// NaN when not computed.
    pub score: f32,
    /// Empty when the order is that of scores.
    pub keys: Vec<Key>,
    /// `_tie`.
    pub tie: u64,
    /// Ordinal of the segment.
    pub segment: SegmentOrdinal,
    /// In the segment.
    pub doc: DocId,
}

/// What was collected.
#[derive(Default)]
pub struct Collected {
    /// Best first.
    pub hits: Vec<Ranked>,
    /// All matches; `None` when not all were visited.
    pub matched: Option<u64>,
    /// The greatest score of all matches, if scores were computed.
    pub max_score: Option<f32>,
    /// Partial results, when asked for.
    pub aggregations: Option<IntermediateAggregationResults>,
    /// Whether the deadline cut it short.
    pub timed_out: bool,
}

/// Collects in the way that suits the query.
pub fn collect(wanted: &Wanted<'_>) -> tantivy::Result<Collected> {
    let can_prune = wanted.order.is_by_score()
        && wanted.aggregations.is_none()
        && wanted.min_score.is_none()
        && wanted.hits_max > 0
        && wanted.root.wand_terms().is_some_and(|terms| terms.len() <= WAND_TERMS_MAX);
    if can_prune { pruning::collect(wanted) } else { visiting::collect(wanted) }
}

/// What both ways share: the best so far, and when a document need not be looked at.
struct Best<'a> {
    wanted: &'a Wanted<'a>,
    identities: &'a [Identity],
    top: Top<Ranked>,
    max_score: Option<f32>,
    by_score: bool,
    /// Tantivy's score may be off the canonical one by this part of it; 0 when it is the same.
    epsilon: f32,
    error: Option<tantivy::TantivyError>,
}

impl<'a> Best<'a> {
    fn new(wanted: &'a Wanted<'a>) -> tantivy::Result<Self> {
        let identities = wanted.searcher.columns.identities(&wanted.searcher.searcher)?;
        let nodes = wanted.root.scoring_nodes() as f32;
        // A sum of n numbers is off by at most n roundings, in each of both orders; a product with a
        // tie breaker magnifies them by at most n again.
        let epsilon =
            if wanted.root.scores_exactly() { 0.0 } else { ((nodes + 4.0) * (nodes + 4.0) * f32::EPSILON).min(0.5) };
        Ok(Self {
            wanted,
            identities,
            top: Top::new(wanted.hits_max),
            max_score: None,
            by_score: wanted.order.is_by_score(),
            epsilon,
            error: None,
        })
    }

    /// Only documents that tantivy scores above this can be among the best by score.
    fn threshold(&self) -> f32 {
        match self.top.worst() {
            // Equal scores are told apart by `_tie`, so they have to be seen.
            Some(worst) => (worst.score * (1.0 - self.epsilon)).next_down(),
            None => f32::NEG_INFINITY,
        }
    }

    /// Takes a match with its canonical score.
    fn offer_by_score(&mut self, segment: SegmentOrdinal, doc: DocId, score: f32) {
        self.max_score = Some(self.max_score.map_or(score, |max| max.max(score)));
        if self.top.worst().is_some_and(|worst| score < worst.score) {
            return;
        }
        let Some(identity) = self.identities.get(segment as usize) else { return };
        let tie = identity.tie_of(doc);
        if self.top.worst().is_some_and(|worst| score == worst.score && tie > worst.tie) {
            return;
        }
        let ranked = Ranked { score, keys: Vec::new(), tie, segment, doc };
        if let Some(after) = self.wanted.after
            && !comes_after(&ranked, after, identity)
        {
            return;
        }
        let identities = self.identities;
        self.top.offer(ranked, |a, b| by_score(a, b, identities));
    }

    fn offer_by_keys(
        &mut self,
        reader: &mut KeyReader<'_>,
        segment: SegmentOrdinal,
        doc: DocId,
        score: f32,
    ) -> tantivy::Result<()> {
        if !score.is_nan() {
            self.max_score = Some(self.max_score.map_or(score, |max| max.max(score)));
        }
        // Most documents are told from the worst by their first key's ordinal alone.
        if let Some(first) = self.top.worst().and_then(|worst| worst.keys.first())
            && reader.compare_first(doc, first)? == Some(Ordering::Greater)
        {
            return Ok(());
        }
        if let Some(first) = self.wanted.after.and_then(|after| after.first())
            && reader.compare_first(doc, first)? == Some(Ordering::Less)
        {
            return Ok(());
        }
        let keys = reader.keys(doc, score)?;
        let order = self.wanted.order;
        if self.wanted.after.is_some_and(|after| order.compare(&keys, after) != Ordering::Greater) {
            return Ok(());
        }
        if self.top.worst().is_some_and(|worst| order.compare(&keys, &worst.keys) == Ordering::Greater) {
            return Ok(());
        }
        let tie = self.identities.get(segment as usize).map_or(0, |identity| identity.tie_of(doc));
        let identities = self.identities;
        self.top.offer(Ranked { score, keys, tie, segment, doc }, |a, b| {
            order.compare(&a.keys, &b.keys).then_with(|| by_identity(a, b, identities))
        });
        Ok(())
    }

    fn finish(self, matched: Option<u64>, timed_out: bool) -> tantivy::Result<Collected> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let (identities, order) = (self.identities, self.wanted.order);
        let hits = if self.by_score {
            self.top.into_sorted(|a, b| by_score(a, b, identities))
        } else {
            self.top.into_sorted(|a, b| order.compare(&a.keys, &b.keys).then_with(|| by_identity(a, b, identities)))
        };
        Ok(Collected { hits, matched, max_score: self.max_score, aggregations: None, timed_out })
    }
}

fn by_score(a: &Ranked, b: &Ranked, identities: &[Identity]) -> Ordering {
    b.score.total_cmp(&a.score).then_with(|| by_identity(a, b, identities))
}

/// `_tie`, then `_id`. Two documents with one `_tie` are so rare that the `_id` is looked up for them.
fn by_identity(a: &Ranked, b: &Ranked, identities: &[Identity]) -> Ordering {
    a.tie.cmp(&b.tie).then_with(|| {
        let id = |ranked: &Ranked| identities.get(ranked.segment as usize).and_then(|i| i.id_of(ranked.doc).ok());
        id(a).cmp(&id(b))
    })
}

/// Whether a hit by score ranks strictly after (score), (score, tie) or (score, tie, id).
fn comes_after(ranked: &Ranked, after: &[Key], identity: &Identity) -> bool {
    let ordering = after.iter().map(|key| match key {
        Key::Score(score) => score.total_cmp(&ranked.score),
        Key::Tie(tie) => ranked.tie.cmp(tie),
        Key::Text(id) => identity.id_of(ranked.doc).map_or(Ordering::Greater, |own| own.as_str().cmp(id)),
        _ => Ordering::Equal,
    });
    ordering.into_iter().find(|o| o.is_ne()) == Some(Ordering::Greater)
}

fn weight(wanted: &Wanted<'_>, scored: bool) -> tantivy::Result<Box<dyn Weight>> {
    wanted.root.query().weight(scoring(wanted, scored))
}

fn scoring<'a>(wanted: &'a Wanted<'_>, scored: bool) -> EnableScoring<'a> {
    let searcher = &wanted.searcher.searcher;
    if scored {
        EnableScoring::enabled_from_statistics_provider(wanted.statistics, searcher)
    } else {
        EnableScoring::disabled_from_searcher(searcher)
    }
}

/// The canonical weights, when tantivy's scores are not canonical already.
fn canonical(wanted: &Wanted<'_>, epsilon: f32) -> tantivy::Result<Option<Canonical>> {
    (epsilon > 0.0).then(|| Canonical::new(wanted.root, scoring(wanted, true))).transpose()
}

/// Opens a segment's canonical scorers at the first candidate only.
struct Lazy<'a> {
    canonical: Option<&'a Canonical>,
    reader: &'a SegmentReader,
    scorer: Option<CanonicalScorer>,
}

impl<'a> Lazy<'a> {
    fn new(canonical: Option<&'a Canonical>, reader: &'a SegmentReader) -> Self {
        Self { canonical, reader, scorer: None }
    }

    fn score(&mut self, doc: DocId, approximate: f32) -> tantivy::Result<f32> {
        let Some(canonical) = self.canonical else { return Ok(approximate) };
        let scorer = match &mut self.scorer {
            Some(scorer) => scorer,
            None => self.scorer.insert(canonical.open(self.reader)?),
        };
        Ok(scorer.score(doc))
    }
}

fn is_alive(reader: &SegmentReader, doc: DocId) -> bool {
    reader.alive_bitset().is_none_or(|alive| alive.is_alive(doc))
}

/// Calls for every document with tantivy's score, deleted ones included; true when time ran out.
fn visit_scored(
    weight: &dyn Weight,
    reader: &SegmentReader,
    cancel: &Cancel,
    visit: &mut dyn FnMut(DocId, f32) -> tantivy::Result<()>,
) -> tantivy::Result<bool> {
    let mut scorer = weight.scorer(reader, 1.0)?;
    let mut until_check = CHECK_EVERY;
    let mut doc = scorer.doc();
    while doc != TERMINATED {
        until_check -= 1;
        if until_check == 0 {
            if cancel.expired() {
                return Ok(true);
            }
            until_check = CHECK_EVERY;
        }
        visit(doc, scorer.score())?;
        doc = scorer.advance();
    }
    Ok(false)
}

/// Calls for every live document in blocks; true when time ran out or the visitor had enough.
pub fn visit_live(
    weight: &dyn Weight,
    reader: &SegmentReader,
    cancel: &Cancel,
    visit: &mut dyn FnMut(&[DocId]) -> tantivy::Result<ControlFlow<()>>,
) -> tantivy::Result<bool> {
    let mut scorer = weight.scorer(reader, 1.0)?;
    let mut buffer = [0u32; tantivy::COLLECT_BLOCK_BUFFER_LEN];
    let mut until_check = CHECK_EVERY / tantivy::COLLECT_BLOCK_BUFFER_LEN as u32;
    loop {
        let found = scorer.fill_buffer(&mut buffer);
        let mut live = 0;
        for at in 0..found {
            let Some(doc) = buffer.get(at).copied() else { break };
            if is_alive(reader, doc) {
                if let Some(slot) = buffer.get_mut(live) {
                    *slot = doc;
                }
                live += 1;
            }
        }
        if live > 0 && visit(buffer.get(..live).unwrap_or_default())?.is_break() {
            return Ok(true);
        }
        if found < buffer.len() {
            return Ok(false);
        }
        until_check -= 1;
        if until_check == 0 {
            if cancel.expired() {
                return Ok(true);
            }
            until_check = CHECK_EVERY / tantivy::COLLECT_BLOCK_BUFFER_LEN as u32;
        }
    }
}
