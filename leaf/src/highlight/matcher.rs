//! Which tokens of a text a query's terms match.

use std::collections::{HashMap, HashSet};

use trawl_data::analysis::Token;
use trawl_proto::v1::{self, query, value};

/// Queries looked at; beyond, terms are not highlighted.
const QUERIES_MAX: usize = 4_096;

/// The terms of a query for one field.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    terms: HashSet<String>,
    prefixes: Vec<String>,
    fuzzy: Vec<v1::Fuzzy>,
    phrases: Vec<v1::Phrase>,
}

impl Matcher {
    /// Collects the terms that a document may have matched by: not those it must not have.
    pub fn new(query: Option<&v1::Query>, field: &str) -> Self {
        let mut matcher = Self::default();
        let mut left = QUERIES_MAX;
        let mut open: Vec<&v1::Query> = query.into_iter().collect();
        while let Some(query) = open.pop() {
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
            matcher.take(query, field, &mut open);
        }
        matcher
    }

    fn take<'a>(&mut self, query: &'a v1::Query, field: &str, open: &mut Vec<&'a v1::Query>) {
        let text = |value: &v1::Value| match value.kind.as_ref()? {
            value::Kind::String(text) => Some(text.clone()),
            value::Kind::Long(number) => Some(number.to_string()),
            value::Kind::Boolean(flag) => Some(flag.to_string()),
            _ => None,
        };
        match query.kind.as_ref() {
            Some(query::Kind::Term(term)) if term.field == field => {
                self.terms.extend(term.value.as_ref().and_then(text));
            }
            Some(query::Kind::TermSet(set)) if set.field == field => {
                self.terms.extend(set.values.iter().filter_map(text))
            }
            Some(query::Kind::Prefix(prefix)) if prefix.field == field => self.prefixes.push(prefix.prefix.clone()),
            Some(query::Kind::Fuzzy(fuzzy)) if fuzzy.field == field => self.fuzzy.push(fuzzy.clone()),
            Some(query::Kind::Phrase(phrase)) if phrase.field == field => self.phrases.push(phrase.clone()),
            Some(query::Kind::Boolean(boolean)) => {
                open.extend(boolean.must.iter().chain(&boolean.should).chain(&boolean.filter));
            }
            Some(query::Kind::DisjunctionMax(max)) => open.extend(&max.queries),
            Some(query::Kind::ConstantScore(constant)) => open.extend(constant.query.as_deref()),
            _ => {}
        }
    }

    /// For each token whether it is part of a match.
    pub fn marks(&self, tokens: &[Token]) -> Vec<bool> {
        let mut known: HashMap<&str, bool> = HashMap::new();
        let mut marks: Vec<bool> = tokens
            .iter()
            .map(|token| *known.entry(token.text.as_str()).or_insert_with(|| self.is_match(&token.text)))
            .collect();
        for phrase in &self.phrases {
            mark_phrase(phrase, tokens, &mut marks);
        }
        marks
    }

    fn is_match(&self, text: &str) -> bool {
        self.terms.contains(text)
            || self.prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()))
            || self.fuzzy.iter().any(|fuzzy| is_near(fuzzy, text))
    }
}

/// Marks the tokens where the phrase stands; with slop, wherever all its terms are in the text.
fn mark_phrase(phrase: &v1::Phrase, tokens: &[Token], marks: &mut [bool]) {
    let mut places: HashMap<(&str, u32), usize> = HashMap::new();
    let mut by_text: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, token) in tokens.iter().enumerate() {
        places.insert((&token.text, token.position), at);
        by_text.entry(&token.text).or_default().push(at);
    }
    let Some(first) = phrase.terms.first() else { return };
    if phrase.slop > 0 {
        let all: Vec<_> = phrase.terms.iter().map(|term| by_text.get(term.term.as_str())).collect();
        if all.iter().all(Option::is_some) {
            for at in all.into_iter().flatten().flatten() {
                set(marks, *at);
            }
        }
        return;
    }
    for at in by_text.get(first.term.as_str()).into_iter().flatten() {
        let Some(start) = tokens.get(*at).and_then(|token| token.position.checked_sub(first.position)) else {
            continue;
        };
        let found: Option<Vec<usize>> = phrase
            .terms
            .iter()
            .map(|term| places.get(&(term.term.as_str(), start.checked_add(term.position)?)).copied())
            .collect();
        for at in found.into_iter().flatten() {
            set(marks, at);
        }
    }
}

fn set(marks: &mut [bool], at: usize) {
    if let Some(mark) = marks.get_mut(at) {
        *mark = true;
    }
}

/// Whether a token is within the edit distance of a fuzzy term.
fn is_near(fuzzy: &v1::Fuzzy, text: &str) -> bool {
    let a: Vec<char> = fuzzy.term.chars().collect();
    let b: Vec<char> = text.chars().collect();
    let prefix = fuzzy.prefix_length as usize;
    let limit = fuzzy.distance as usize;
    if a.len().abs_diff(b.len()) > limit || a.get(..prefix.min(a.len())) != b.get(..prefix.min(a.len())) {
        return false;
    }
    distance(&a, &b, fuzzy.transpositions) <= limit
}

/// Edit distance by rows; swaps of neighbours cost one when `transpositions`.
fn distance(a: &[char], b: &[char], transpositions: bool) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&above, j) + usize::from(x != y)).min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            let is_swap = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if transpositions && is_swap {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far(a: &str, b: &str, transpositions: bool) -> usize {
        distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>(), transpositions)
    }

    #[test]
    fn swaps_cost_one_or_two() {
        assert_eq!(far("search", "saerch", true), 1);
        assert_eq!(far("search", "saerch", false), 2);
        assert_eq!(far("", "ab", true), 2);
        assert_eq!(far("kitten", "sitting", true), 3);
    }

    #[test]
    fn a_phrase_marks_only_where_it_stands() {
        let token = |text: &str, position: u32| Token { text: text.to_owned(), position, start: 0, end: 0 };
        let tokens = [token("new", 0), token("york", 1), token("is", 2), token("new", 3), token("to", 4)];
        let term = |position, term: &str| v1::PhraseTerm { position, term: term.to_owned() };
        let phrase = v1::Phrase { field: "t".to_owned(), terms: vec![term(0, "new"), term(1, "york")], slop: 0 };
        let matcher = Matcher { phrases: vec![phrase], ..Matcher::default() };
        assert_eq!(matcher.marks(&tokens), [true, true, false, false, false]);
    }
}
