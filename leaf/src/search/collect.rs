//! The best hits of a shard, its count and its aggregations.
//!
//! Two ways: `by_pruning` lets block-max WAND skip what cannot be among the best and counts nothing;
//! `by_visiting` looks at every match once. Both stop at the deadline with what they have.

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
use crate::aggregation::{SegmentAggregation, merge};
use crate::columns::Identity;
use crate::statistics::Statistics;

/// Documents between two looks at the clock.
const CHECK_EVERY: u32 = 1_024;
/// A union of more terms is faster visited than pruned.
const WAND_TERMS_MAX: usize = 10;
/// Block maxima are kept for the segment's own average length. With another average they may be too
/// low by at most the ratio of the two; the threshold is lowered by it. Beyond this ratio pruning
/// does not pay.
const LENGTH_RATIO_MAX: f32 = 1.5;

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
    if can_prune { by_pruning(wanted) } else { by_visiting(wanted) }
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

fn by_pruning(wanted: &Wanted<'_>) -> tantivy::Result<Collected> {
    let mut best = Best::new(wanted)?;
    let weight = weight_for_pruning(wanted)?;
    let canonical = canonical(wanted, best.epsilon)?;
    let mut timed_out = false;
    for (segment, reader) in (0..).zip(wanted.searcher.searcher.segment_readers()) {
        if wanted.cancel.expired() {
            timed_out = true;
            break;
        }
        let ratio = length_ratio(wanted, reader)?;
        let mut lazy = Lazy::new(canonical.as_ref(), reader);
        if ratio > LENGTH_RATIO_MAX {
            timed_out |= visit_scored(weight.as_ref(), reader, wanted.cancel, &mut |doc, score| {
                if score > best.threshold() && is_alive(reader, doc) {
                    let score = lazy.score(doc, score)?;
                    best.offer_by_score(segment, doc, score);
                }
                Ok(())
            })?;
            continue;
        }
        let lowered = |threshold: f32| if threshold > 0.0 { (threshold / ratio).next_down() } else { threshold };
        let start = lowered(best.threshold());
        weight.for_each_pruning(start, reader, &mut |doc, score| {
            if best.error.is_some() || wanted.cancel.expired() {
                timed_out |= best.error.is_none();
                return f32::INFINITY;
            }
            if score > best.threshold() && is_alive(reader, doc) {
                match lazy.score(doc, score) {
                    Ok(score) => best.offer_by_score(segment, doc, score),
                    Err(error) => best.error = Some(error),
                }
            }
            lowered(best.threshold())
        })?;
    }
    best.finish(None, timed_out)
}

/// A boost around a lone term would hide it from WAND; inside a union it does not.
fn weight_for_pruning(wanted: &Wanted<'_>) -> tantivy::Result<Box<dyn Weight>> {
    use tantivy::query::{BooleanQuery, Query};
    if wanted.root.boost == 1.0 || wanted.root.single_term().is_none() {
        return weight(wanted, true);
    }
    BooleanQuery::union(vec![wanted.root.query()]).weight(scoring(wanted, true))
}

/// How far the segment's average lengths are from the index's, over the query's fields: at least 1.
fn length_ratio(wanted: &Wanted<'_>, reader: &SegmentReader) -> tantivy::Result<f32> {
    let mut worst = 1.0f32;
    for term in wanted.root.wand_terms().unwrap_or_default() {
        let own = reader.inverted_index(term.field())?.total_num_tokens() as f32 / reader.max_doc().max(1) as f32;
        let global = wanted.statistics.average_length(term.field());
        if own > 0.0 && global > 0.0 {
            worst = worst.max(own / global).max(global / own);
        }
    }
    // For the rounding of this very computation.
    Ok(if worst > 1.0 { worst * 1.000_01 } else { worst })
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

fn by_visiting(wanted: &Wanted<'_>) -> tantivy::Result<Collected> {
    let constant = wanted.root.constant();
    let wants_scores = wanted.order.needs_score() || wanted.track_scores || wanted.min_score.is_some();
    let scored = wants_scores && constant.is_none();
    let best = Best::new(wanted)?;
    let canonical = if scored { canonical(wanted, best.epsilon)? } else { None };
    let mut visit = Visit {
        by_score: best.by_score,
        every_score: !best.by_score && wants_scores,
        best,
        matched: 0,
        merged: None,
        unscored: if wants_scores { constant.unwrap_or(0.0) } else { f32::NAN },
        scored,
    };
    let weight = weight(wanted, scored)?;
    let mut timed_out = false;
    for (segment, reader) in (0..).zip(wanted.searcher.searcher.segment_readers()) {
        if timed_out || wanted.cancel.expired() {
            timed_out = true;
            break;
        }
        timed_out |= visit.segment(weight.as_ref(), canonical.as_ref(), segment, reader)?;
    }
    let Visit { best, matched, merged, .. } = visit;
    let mut collected = best.finish(Some(matched), timed_out)?;
    collected.aggregations = merged;
    Ok(collected)
}

/// The state of [`by_visiting`].
struct Visit<'a> {
    best: Best<'a>,
    matched: u64,
    merged: Option<IntermediateAggregationResults>,
    by_score: bool,
    /// Whether every document needs its canonical score, because the order or `max_score` does.
    every_score: bool,
    scored: bool,
    /// The score of a document when none is computed.
    unscored: f32,
}

impl Visit<'_> {
    /// Visits one segment; true when time ran out.
    fn segment(
        &mut self,
        weight: &dyn Weight,
        canonical: Option<&Canonical>,
        segment: SegmentOrdinal,
        reader: &SegmentReader,
    ) -> tantivy::Result<bool> {
        let wanted = self.best.wanted;
        let Some(identity) = self.best.identities.get(segment as usize) else { return Ok(false) };
        let mut keys = wanted.order.open(wanted.searcher, segment, identity)?;
        let mut aggregation = match wanted.aggregations {
            Some(aggregations) => Some(SegmentAggregation::new(aggregations, wanted.cancel, reader, segment)?),
            None => None,
        };
        let timed_out = if self.scored {
            let mut lazy = Lazy::new(canonical, reader);
            let mut block = Vec::with_capacity(tantivy::COLLECT_BLOCK_BUFFER_LEN);
            let timed_out = visit_scored(weight, reader, wanted.cancel, &mut |doc, approximate| {
                if !is_alive(reader, doc) || !self.scored_match(&mut lazy, &mut keys, segment, doc, approximate)? {
                    return Ok(());
                }
                if let Some(aggregation) = &mut aggregation {
                    block.push(doc);
                    if block.len() == tantivy::COLLECT_BLOCK_BUFFER_LEN {
                        aggregation.collect(&block);
                        block.clear();
                    }
                }
                Ok(())
            })?;
            if let Some(aggregation) = &mut aggregation {
                aggregation.collect(&block);
            }
            timed_out
        } else if wanted.min_score.is_some_and(|min| self.unscored < min) {
            false
        } else {
            visit_live(weight, reader, wanted.cancel, &mut |docs| {
                self.matched += docs.len() as u64;
                if let Some(aggregation) = &mut aggregation {
                    aggregation.collect(docs);
                }
                if wanted.hits_max > 0 {
                    for doc in docs {
                        self.offer(&mut keys, segment, *doc, self.unscored)?;
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?
        };
        // Finishing cannot be interrupted, and after the deadline nobody waits for what it makes.
        let timed_out = timed_out || (aggregation.is_some() && wanted.cancel.expired());
        if let Some(aggregation) = aggregation.filter(|_| !timed_out) {
            merge(&mut self.merged, aggregation.finish()?)?;
        }
        Ok(timed_out)
    }

    fn offer(
        &mut self,
        keys: &mut KeyReader<'_>,
        segment: SegmentOrdinal,
        doc: DocId,
        score: f32,
    ) -> tantivy::Result<()> {
        if self.by_score {
            self.best.offer_by_score(segment, doc, score);
            Ok(())
        } else {
            self.best.offer_by_keys(keys, segment, doc, score)
        }
    }

    /// Takes a live document with tantivy's score; false when it scores too little to count.
    fn scored_match(
        &mut self,
        lazy: &mut Lazy<'_>,
        keys: &mut KeyReader<'_>,
        segment: SegmentOrdinal,
        doc: DocId,
        approximate: f32,
    ) -> tantivy::Result<bool> {
        let margin = approximate * self.best.epsilon;
        let mut exact = None;
        if let Some(min) = self.best.wanted.min_score {
            if approximate + margin < min {
                return Ok(false);
            }
            if approximate - margin <= min {
                let score = lazy.score(doc, approximate)?;
                if score < min {
                    return Ok(false);
                }
                exact = Some(score);
            }
        }
        self.matched += 1;
        if self.every_score || approximate > self.best.threshold() {
            let score = match exact {
                Some(score) => score,
                None => lazy.score(doc, approximate)?,
            };
            if self.best.wanted.hits_max > 0 {
                self.offer(keys, segment, doc, score)?;
            } else {
                self.best.max_score = Some(self.best.max_score.map_or(score, |max| max.max(score)));
            }
        }
        Ok(true)
    }
}
