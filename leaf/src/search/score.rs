//! The canonical score: the same f32 on every replica and for any number of shards and segments.
//!
//! A sum of f32 depends on the order of its terms, and tantivy adds clauses in an order that depends
//! on the segment (rarest first, or whichever stands on a document first). So a document that may
//! be among the best is scored again here: each clause by its own scorer, summed in the query's own
//! order, `must` then `should`, depth first.

use tantivy::query::{EnableScoring, Scorer, Weight};
use tantivy::{DocId, SegmentReader, TERMINATED};

use super::plan::{Kind, Node};

/// The weights of a plan's nodes, made once per search.
pub struct Canonical(Tree<Box<dyn Weight>>);

/// The scorers of a plan's nodes in one segment; documents are asked for in ascending order.
pub struct CanonicalScorer(Tree<Box<dyn Scorer>>);

enum Tree<T> {
    Nothing,
    Leaf(T),
    /// A leaf that scores this wherever it matches.
    Constant(T, f32),
    Sum {
        must: Vec<Tree<T>>,
        should: Vec<Tree<T>>,
        filter: Vec<Tree<T>>,
        must_not: Vec<Tree<T>>,
        minimum: usize,
    },
    Max {
        trees: Vec<Tree<T>>,
        tie_breaker: f32,
    },
}

impl Canonical {
    /// The weights for a plan. `known` leaves out what every candidate is known to fulfil: the
    /// filters and exclusions of the root.
    pub fn new(root: &Node, scoring: EnableScoring<'_>) -> tantivy::Result<Self> {
        let mut tree = weights(root, scoring)?;
        if let Tree::Sum { filter, must_not, .. } = &mut tree {
            filter.clear();
            must_not.clear();
        }
        Ok(Self(tree))
    }

    /// The scorers for one segment.
    pub fn open(&self, reader: &SegmentReader) -> tantivy::Result<CanonicalScorer> {
        Ok(CanonicalScorer(open(&self.0, reader)?))
    }
}

impl CanonicalScorer {
    /// The score of a document that matches the query; not below any asked for before.
    pub fn score(&mut self, doc: DocId) -> f32 {
        score(&mut self.0, doc).unwrap_or(0.0)
    }
}

fn weights(node: &Node, scoring: EnableScoring<'_>) -> tantivy::Result<Tree<Box<dyn Weight>>> {
    let all = |nodes: &[Node]| nodes.iter().map(|node| weights(node, scoring)).collect::<tantivy::Result<Vec<_>>>();
    Ok(match &node.kind {
        Kind::Nothing => Tree::Nothing,
        Kind::Docs(_) | Kind::Exact(_) | Kind::Constant(_) => Tree::Constant(node.query().weight(scoring)?, node.boost),
        Kind::Scored { .. } | Kind::Phrase { .. } => Tree::Leaf(node.query().weight(scoring)?),
        Kind::Boolean(clauses) => Tree::Sum {
            must: all(&clauses.must)?,
            should: all(&clauses.should)?,
            filter: all(&clauses.filter)?,
            must_not: all(&clauses.must_not)?,
            minimum: clauses.minimum,
        },
        Kind::Max { nodes, tie_breaker } => Tree::Max { trees: all(nodes)?, tie_breaker: *tie_breaker },
    })
}

fn open(tree: &Tree<Box<dyn Weight>>, reader: &SegmentReader) -> tantivy::Result<Tree<Box<dyn Scorer>>> {
    let all = |trees: &[Tree<Box<dyn Weight>>]| {
        trees.iter().map(|tree| open(tree, reader)).collect::<tantivy::Result<Vec<_>>>()
    };
    Ok(match tree {
        Tree::Nothing => Tree::Nothing,
        Tree::Leaf(weight) => Tree::Leaf(weight.scorer(reader, 1.0)?),
        Tree::Constant(weight, score) => Tree::Constant(weight.scorer(reader, 1.0)?, *score),
        Tree::Sum { must, should, filter, must_not, minimum } => Tree::Sum {
            must: all(must)?,
            should: all(should)?,
            filter: all(filter)?,
            must_not: all(must_not)?,
            minimum: *minimum,
        },
        Tree::Max { trees, tie_breaker } => Tree::Max { trees: all(trees)?, tie_breaker: *tie_breaker },
    })
}

fn score(tree: &mut Tree<Box<dyn Scorer>>, doc: DocId) -> Option<f32> {
    match tree {
        Tree::Nothing => None,
        Tree::Leaf(scorer) => is_at(scorer.as_mut(), doc).then(|| scorer.score()),
        Tree::Constant(scorer, score) => is_at(scorer.as_mut(), doc).then_some(*score),
        Tree::Sum { must, should, filter, must_not, minimum } => {
            let mut sum = 0.0f32;
            for tree in must {
                sum += score(tree, doc)?;
            }
            let mut matched = 0;
            for tree in should {
                if let Some(score) = score(tree, doc) {
                    sum += score;
                    matched += 1;
                }
            }
            let is_match = matched >= *minimum
                && filter.iter_mut().all(|tree| score(tree, doc).is_some())
                && !must_not.iter_mut().any(|tree| score(tree, doc).is_some());
            is_match.then_some(sum)
        }
        Tree::Max { trees, tie_breaker } => {
            let mut best: Option<f32> = None;
            let mut sum = 0.0f32;
            for score in trees.iter_mut().filter_map(|tree| score(tree, doc)) {
                sum += score;
                best = Some(best.map_or(score, |best| best.max(score)));
            }
            best.map(|best| best + *tie_breaker * (sum - best))
        }
    }
}

fn is_at(scorer: &mut dyn Scorer, doc: DocId) -> bool {
    if scorer.doc() < doc && doc < TERMINATED {
        scorer.seek(doc);
    }
    scorer.doc() == doc
}
