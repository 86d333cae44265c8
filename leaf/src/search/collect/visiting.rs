//! Collecting by looking at every match once: for sorts, counts and aggregations.

use std::ops::ControlFlow;

use tantivy::aggregation::intermediate_agg_result::IntermediateAggregationResults;
use tantivy::query::Weight;
use tantivy::{DocId, SegmentOrdinal, SegmentReader};

use super::super::score::Canonical;
use super::super::sort::KeyReader;
use super::{Best, Collected, Lazy, Wanted, canonical, is_alive, visit_live, visit_scored, weight};
use crate::aggregation::{SegmentAggregation, merge};

pub(super) fn collect(wanted: &Wanted<'_>) -> tantivy::Result<Collected> {
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

/// The state of [`collect`].
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
