//! Collecting by block-max WAND: what cannot be among the best is skipped.

use tantivy::SegmentReader;
use tantivy::query::{BooleanQuery, Query, Weight};

use super::{Best, Collected, Lazy, Wanted, canonical, is_alive, scoring, visit_scored, weight};

/// Block maxima are kept for the segment's own average length. With another average they may be too
/// low by at most the ratio of the two; the threshold is lowered by it. Beyond this ratio pruning
/// does not pay.
const LENGTH_RATIO_MAX: f32 = 1.5;

pub(super) fn collect(wanted: &Wanted<'_>) -> tantivy::Result<Collected> {
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
