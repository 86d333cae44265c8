//! A query in physical terms: what [`super::build`] makes of the wire's query, and what both the
//! matching scorers (tantivy's) and the canonical score are made from.

use std::sync::Arc;

use tantivy::Term;
use tantivy::query::{
    BooleanQuery, BoostQuery, ConstScoreQuery, DisjunctionMaxQuery, EmptyQuery, Occur, PhraseQuery, Query, TermQuery,
};
use tantivy::schema::IndexRecordOption;

use super::docs::{Docs, DocsQuery, ExcludedDocs};
use super::phrase::SloppyPhrase;

/// One node of the query tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// The product of all boosts on the way from the root to here.
    pub boost: f32,
    /// What it matches.
    pub kind: Kind,
}

/// What a node matches and how it scores.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing.
    Nothing,
    /// A set of documents, each scoring the boost.
    Docs(Arc<dyn Docs>),
    /// Documents with the term, each scoring the boost.
    Exact(Term),
    /// Documents with the term, scored by BM25.
    Scored {
        /// The term.
        term: Term,
        /// Whether the field has frequencies and norms.
        frequencies: bool,
    },
    /// Documents with the phrase, scored by BM25.
    Phrase {
        /// Place in the phrase and term; at least two.
        terms: Vec<(u32, Term)>,
        /// 0 for an exact phrase.
        slop: u32,
    },
    /// The inner node's documents, each scoring the boost.
    Constant(Box<Node>),
    /// A combination that scores the sum of `must` and `should`.
    Boolean(Clauses),
    /// A union that scores the best plus `tie_breaker` times the others.
    Max {
        /// The nodes.
        nodes: Vec<Node>,
        /// From 0 to 1.
        tie_breaker: f32,
    },
}

/// Clauses of a boolean query.
#[derive(Clone, Debug, Default)]
pub struct Clauses {
    /// Have to match; score.
    pub must: Vec<Node>,
    /// May match; score.
    pub should: Vec<Node>,
    /// Have to match.
    pub filter: Vec<Node>,
    /// Must not match.
    pub must_not: Vec<Node>,
    /// How many of `should` have to match.
    pub minimum: usize,
}

impl Node {
    /// A node that matches nothing.
    pub fn nothing() -> Self {
        Self { boost: 1.0, kind: Kind::Nothing }
    }

    /// Tantivy's query for this node.
    pub fn query(&self) -> Box<dyn Query> {
        match &self.kind {
            Kind::Nothing => Box::new(EmptyQuery),
            Kind::Docs(docs) => Box::new(DocsQuery { docs: docs.clone(), score: self.boost }),
            Kind::Exact(term) => {
                let query = TermQuery::new(term.clone(), IndexRecordOption::Basic);
                Box::new(ConstScoreQuery::new(Box::new(query), self.boost))
            }
            Kind::Scored { term, frequencies } => {
                let option = if *frequencies { IndexRecordOption::WithFreqs } else { IndexRecordOption::Basic };
                self.boosted(Box::new(TermQuery::new(term.clone(), option)))
            }
            Kind::Phrase { terms, slop: 0 } => {
                let terms = terms.iter().map(|(place, term)| (*place as usize, term.clone())).collect();
                self.boosted(Box::new(PhraseQuery::new_with_offset(terms)))
            }
            Kind::Phrase { terms, slop } => self.boosted(Box::new(SloppyPhrase { terms: terms.clone(), slop: *slop })),
            Kind::Constant(inner) => Box::new(ConstScoreQuery::new(inner.query(), self.boost)),
            Kind::Boolean(clauses) => Box::new(clauses.query()),
            Kind::Max { nodes, tie_breaker } => {
                Box::new(DisjunctionMaxQuery::with_tie_breaker(nodes.iter().map(Self::query).collect(), *tie_breaker))
            }
        }
    }

    fn boosted(&self, query: Box<dyn Query>) -> Box<dyn Query> {
        if self.boost == 1.0 { query } else { Box::new(BoostQuery::new(query, self.boost)) }
    }

    /// Number of nodes below and including this one that add to a score.
    pub fn scoring_nodes(&self) -> usize {
        match &self.kind {
            Kind::Nothing => 0,
            Kind::Docs(_) | Kind::Exact(_) | Kind::Scored { .. } | Kind::Phrase { .. } | Kind::Constant(_) => 1,
            Kind::Boolean(clauses) => clauses.must.iter().chain(&clauses.should).map(Self::scoring_nodes).sum(),
            Kind::Max { nodes, .. } => nodes.iter().map(Self::scoring_nodes).sum(),
        }
    }

    /// Whether tantivy's score is the canonical one to the last bit: a sum of at most two numbers does
    /// not depend on their order.
    pub fn scores_exactly(&self) -> bool {
        self.scoring_nodes() <= 1 || (self.scoring_nodes() == 2 && !self.has_max())
    }

    fn has_max(&self) -> bool {
        match &self.kind {
            Kind::Boolean(clauses) => clauses.must.iter().chain(&clauses.should).any(Self::has_max),
            Kind::Max { .. } => true,
            _ => false,
        }
    }

    /// The score, when all matches have the same.
    pub fn constant(&self) -> Option<f32> {
        match &self.kind {
            Kind::Nothing | Kind::Docs(_) | Kind::Exact(_) | Kind::Constant(_) => Some(self.boost),
            Kind::Boolean(clauses) if clauses.scores_nothing() => Some(0.0),
            _ => None,
        }
    }

    /// The terms, when block-max WAND can drive this query: a union or an intersection of text terms.
    pub fn wand_terms(&self) -> Option<Vec<&Term>> {
        match &self.kind {
            Kind::Scored { term, frequencies: true } => Some(vec![term]),
            Kind::Boolean(clauses) if clauses.filter.is_empty() && clauses.must_not.is_empty() => {
                let nodes = match (clauses.must.as_slice(), clauses.should.as_slice()) {
                    ([], should) if clauses.minimum <= 1 => should,
                    (must, []) if clauses.minimum == 0 => must,
                    _ => return None,
                };
                nodes
                    .iter()
                    .map(|node| match &node.kind {
                        Kind::Scored { term, frequencies: true } => Some(term),
                        _ => None,
                    })
                    .collect()
            }
            _ => None,
        }
    }

    /// The nodes of which at least one has to match, when that is all that is asked.
    pub fn union(&self) -> Option<&[Self]> {
        match &self.kind {
            Kind::Boolean(clauses)
                if clauses.must.is_empty()
                    && clauses.filter.is_empty()
                    && clauses.must_not.is_empty()
                    && clauses.minimum <= 1 =>
            {
                Some(&clauses.should)
            }
            Kind::Max { nodes, .. } => Some(nodes),
            _ => None,
        }
    }

    /// The term whose documents are exactly the matches.
    pub fn single_term(&self) -> Option<&Term> {
        match &self.kind {
            Kind::Exact(term) | Kind::Scored { term, .. } => Some(term),
            Kind::Constant(inner) => inner.single_term(),
            _ => None,
        }
    }
}

impl Clauses {
    fn query(&self) -> BooleanQuery {
        let scored = |nodes: &[Node], occur: Occur| -> Vec<(Occur, Box<dyn Query>)> {
            nodes.iter().map(|node| (occur, node.query())).collect()
        };
        let mut clauses = scored(&self.must, Occur::Must);
        clauses.extend(scored(&self.should, Occur::Should));
        for node in &self.filter {
            clauses.push((Occur::Must, Box::new(ConstScoreQuery::new(node.query(), 0.0))));
        }
        for node in &self.must_not {
            let docs = Arc::new(ExcludedDocs(node.query()));
            clauses.push((Occur::MustNot, Box::new(DocsQuery { docs, score: 0.0 })));
        }
        BooleanQuery::with_minimum_required_clauses(clauses, self.minimum)
    }

    fn scores_nothing(&self) -> bool {
        self.must.is_empty() && self.should.is_empty()
    }
}
