//! How many documents match, without looking at more than is needed.

use std::ops::ControlFlow;

use tantivy::Term;
use tantivy::query::EnableScoring;

use super::Cancel;
use super::collect::visit_live;
use super::plan::Node;
use crate::ShardSearcher;

/// A count and how far it can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Matches counted.
    pub matched: u64,
    /// Whether that is all of them.
    pub exact: bool,
    /// Whether the deadline cut the count short.
    pub timed_out: bool,
}

/// Counts live matches; stops as soon as there are more than `up_to`.
pub fn count(searcher: &ShardSearcher, root: &Node, up_to: u64, cancel: &Cancel) -> tantivy::Result<Counted> {
    if let Some(known) = from_dictionary(searcher, root, up_to)? {
        return Ok(known);
    }
    let weight = root.query().weight(EnableScoring::disabled_from_searcher(&searcher.searcher))?;
    let mut counted = Counted { exact: true, ..Counted::default() };
    for reader in searcher.searcher.segment_readers() {
        let stopped = visit_live(weight.as_ref(), reader, cancel, &mut |docs| {
            counted.matched += docs.len() as u64;
            Ok(if counted.matched > up_to { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if counted.matched > up_to {
            counted.exact = false;
            return Ok(counted);
        }
        if stopped || cancel.expired() {
            return Ok(Counted { exact: false, timed_out: true, ..counted });
        }
    }
    Ok(counted)
}

/// What the dictionaries alone tell: the count of a single term without deletes, or that a union has
/// more than `up_to` matches because one of its terms has.
fn from_dictionary(searcher: &ShardSearcher, root: &Node, up_to: u64) -> tantivy::Result<Option<Counted>> {
    if let Some(term) = root.single_term()
        && let Some(matched) = postings(searcher, term)?
    {
        return Ok(Some(Counted { matched, exact: true, timed_out: false }));
    }
    for term in root.union().unwrap_or_default().iter().filter_map(Node::single_term) {
        if let Some(matched) = postings(searcher, term)?
            && matched > up_to
        {
            return Ok(Some(Counted { matched, exact: false, timed_out: false }));
        }
    }
    Ok(None)
}

/// Documents with the term; `None` when some may be deleted.
fn postings(searcher: &ShardSearcher, term: &Term) -> tantivy::Result<Option<u64>> {
    if searcher.searcher.segment_readers().iter().any(|reader| reader.has_deletes()) {
        return Ok(None);
    }
    searcher.searcher.doc_freq(term).map(Some)
}
