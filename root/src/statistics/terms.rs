//! Which terms of a query are scored: found in this one place.

use std::collections::BTreeSet;

use trawl_proto::v1;
use v1::query::Kind;
use v1::value::Kind as ValueKind;

/// Scored terms and their fields, sorted, none twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// The fields of `terms`.
    pub fields: Vec<String>,
    /// The terms.
    pub terms: Vec<v1::FieldTerm>,
}

impl Terms {
    /// Whether nothing is scored by statistics.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

/// The terms whose statistics make scores: string terms and phrases outside `filter`, `must_not` and
/// constant scores. Everything else scores a constant.
pub fn scoring_terms(query: &v1::Query) -> Terms {
    let mut found = BTreeSet::new();
    collect(query, &mut found);
    let fields: BTreeSet<_> = found.iter().map(|(field, _)| *field).collect();
    Terms {
        fields: fields.into_iter().map(str::to_owned).collect(),
        terms: found
            .into_iter()
            .map(|(field, term)| v1::FieldTerm { field: field.to_owned(), term: term.to_owned() })
            .collect(),
    }
}

fn collect<'a>(query: &'a v1::Query, found: &mut BTreeSet<(&'a str, &'a str)>) {
    match &query.kind {
        Some(Kind::Term(term)) => {
            if let Some(ValueKind::String(text)) = term.value.as_ref().and_then(|value| value.kind.as_ref()) {
                found.insert((&term.field, text));
            }
        }
        Some(Kind::Phrase(phrase)) => {
            found.extend(phrase.terms.iter().map(|term| (phrase.field.as_str(), term.term.as_str())));
        }
        Some(Kind::Boolean(boolean)) => {
            boolean.must.iter().chain(&boolean.should).for_each(|clause| collect(clause, found));
        }
        Some(Kind::DisjunctionMax(disjunction)) => {
            disjunction.queries.iter().for_each(|clause| collect(clause, found));
        }
        Some(
            Kind::MatchAll(_)
            | Kind::MatchNone(_)
            | Kind::TermSet(_)
            | Kind::ConstantScore(_)
            | Kind::Range(_)
            | Kind::Prefix(_)
            | Kind::Fuzzy(_)
            | Kind::Exists(_)
            | Kind::Ids(_),
        )
        | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(field: &str, text: &str) -> v1::Query {
        let value = v1::Value { kind: Some(ValueKind::String(text.to_owned())) };
        let term = v1::Term { field: field.to_owned(), value: Some(value) };
        v1::Query { kind: Some(Kind::Term(term)), boost: None }
    }

    fn query(kind: Kind) -> v1::Query {
        v1::Query { kind: Some(kind), boost: None }
    }

    #[test]
    fn only_scoring_clauses_count() {
        let phrase_term = |position, term: &str| v1::PhraseTerm { position, term: term.to_owned() };
        let phrase = v1::Phrase {
            field: "title".to_owned(),
            terms: vec![phrase_term(0, "quick"), phrase_term(1, "fox")],
            slop: 0,
        };
        let constant = v1::ConstantScore { query: Some(Box::new(term("title", "constant"))) };
        let boolean = query(Kind::Boolean(v1::Boolean {
            must: vec![term("title", "fox"), query(Kind::ConstantScore(Box::new(constant)))],
            should: vec![
                query(Kind::Phrase(phrase)),
                query(Kind::DisjunctionMax(v1::DisjunctionMax {
                    queries: vec![term("body", "dog")],
                    tie_breaker: 0.0,
                })),
            ],
            filter: vec![term("kind", "filtered")],
            must_not: vec![term("kind", "excluded")],
            minimum_should_match: 0,
        }));
        let terms = scoring_terms(&boolean);
        assert_eq!(terms.fields, ["body", "title"]);
        let names: Vec<_> = terms.terms.iter().map(|term| (term.field.as_str(), term.term.as_str())).collect();
        assert_eq!(names, [("body", "dog"), ("title", "fox"), ("title", "quick")]);
    }
}
