//! What operators make of the operands that they stand between.

use super::{Clause, Expression, Occur};

/// What joins an operand to the one before.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Conjunction {
    None,
    And,
    Or,
}

/// What stands before an operand.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Modifier {
    None,
    Required,
    Prohibited,
}

/// An operand as written.
pub(super) struct Raw {
    pub(super) conjunction: Conjunction,
    pub(super) modifier: Modifier,
    pub(super) clause: Clause,
}

impl Raw {
    /// A word without anything around it: neighbours of this kind are analysed together.
    fn is_bare(&self) -> bool {
        self.modifier == Modifier::None
            && self.clause.field.is_none()
            && self.clause.boost == 1.0
            && matches!(self.clause.expression, Expression::Text(_))
    }
}

/// Lucene's `addClause`: what `AND` and `OR` make of their neighbours.
pub(super) fn combine(raws: Vec<Raw>, all_terms: bool) -> Vec<Clause> {
    let raws = merge_words(raws);
    let mut clauses: Vec<Clause> = Vec::with_capacity(raws.len());
    for Raw { conjunction, modifier, mut clause } in raws {
        if let Some(previous) = clauses.last_mut().filter(|previous| previous.occur != Occur::MustNot) {
            match conjunction {
                Conjunction::And => previous.occur = Occur::Must,
                Conjunction::Or if all_terms => previous.occur = Occur::Should,
                _ => {}
            }
        }
        let required = if all_terms { conjunction != Conjunction::Or } else { conjunction == Conjunction::And };
        clause.occur = match modifier {
            Modifier::Prohibited => Occur::MustNot,
            Modifier::Required => Occur::Must,
            Modifier::None if required => Occur::Must,
            Modifier::None => Occur::Should,
        };
        clauses.push(clause);
    }
    clauses
}

/// Joins neighbouring bare words into one text, but not those next to `AND` and `OR`.
fn merge_words(raws: Vec<Raw>) -> Vec<Raw> {
    let conjunctions: Vec<Conjunction> = raws.iter().map(|raw| raw.conjunction).collect();
    let mut merged: Vec<Raw> = Vec::with_capacity(raws.len());
    let mut open = false;
    for (at, raw) in raws.into_iter().enumerate() {
        let next_is_free = conjunctions.get(at + 1).is_none_or(|next| *next == Conjunction::None);
        let bare = raw.is_bare();
        if bare
            && open
            && raw.conjunction == Conjunction::None
            && next_is_free
            && let Expression::Text(word) = &raw.clause.expression
            && let Some(Expression::Text(text)) = merged.last_mut().map(|last| &mut last.clause.expression)
        {
            text.push(' ');
            text.push_str(word);
            continue;
        }
        open = bare && next_is_free && raw.conjunction == Conjunction::None;
        merged.push(raw);
    }
    merged
}
