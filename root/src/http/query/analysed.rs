//! Texts of queries on fields: what `match`, `match_phrase`, `multi_match` and `query_string` share.

use trawl_data::{analysis::Analyzer, mapping::Field};
use trawl_proto::v1::{self, query::Kind};

use super::{Lowering, build, fuzziness::Fuzziness, minimum_should_match::MinimumShouldMatch, values};
use crate::error::Error;

/// How a text is matched.
#[derive(Clone, Debug, PartialEq)]
pub struct TextOptions {
    /// Whether all terms have to match.
    pub all_terms: bool,
    /// How many terms have to match; only without `all_terms`.
    pub minimum_should_match: Option<MinimumShouldMatch>,
    /// How far terms may be away.
    pub fuzziness: Option<Fuzziness>,
    /// How many leading characters a fuzzy term must share.
    pub prefix_length: u32,
    /// Whether a swap is one edit.
    pub transpositions: bool,
    /// Whether a value that the field cannot hold matches nothing instead of failing.
    pub lenient: bool,
    /// Whether a text without terms matches everything instead of nothing.
    pub zero_terms_all: bool,
    /// Instead of the field's own.
    pub analyzer: Option<Analyzer>,
    /// How far the words of a phrase may move.
    pub slop: u32,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            all_terms: false,
            minimum_should_match: None,
            fuzziness: None,
            prefix_length: 0,
            transpositions: true,
            lenient: false,
            zero_terms_all: false,
            analyzer: None,
            slop: 0,
        }
    }
}

impl TextOptions {
    /// Documents whose field holds the text's terms: any, all or enough of them.
    pub fn terms(&self, lowering: &mut Lowering<'_>, field: &Field, text: &str) -> Result<v1::Query, Error> {
        let Some(own) = field.field_type.analyzer() else {
            return self.untokenised(lowering, field, text);
        };
        let tokens = self.analyzer.unwrap_or(own).tokens(text);
        if tokens.is_empty() {
            return Ok(self.without_terms());
        }
        let mut clauses = Vec::with_capacity(tokens.len());
        for token in &tokens {
            clauses.push(self.term(lowering, field, &token.text)?);
        }
        if clauses.len() == 1 {
            return Ok(clauses.remove(0));
        }
        if self.all_terms {
            return Ok(build::every(clauses));
        }
        let minimum = self.minimum_should_match.as_ref().map_or(1, |minimum| minimum.of(clauses.len()).max(1));
        Ok(build::any(clauses, minimum))
    }

    /// Documents whose field holds the text's terms in this order.
    pub fn phrase(&self, lowering: &mut Lowering<'_>, field: &Field, text: &str) -> Result<v1::Query, Error> {
        let Some(own) = field.field_type.analyzer() else {
            return Self { fuzziness: None, ..self.clone() }.untokenised(lowering, field, text);
        };
        let tokens = self.analyzer.unwrap_or(own).tokens(text);
        let Some(first) = tokens.first() else { return Ok(self.without_terms()) };
        if tokens.len() == 1 {
            lowering.clause()?;
            return Ok(build::term(&field.path, build::string(first.text.as_str())));
        }
        let start = first.position;
        let mut terms = Vec::with_capacity(tokens.len());
        for token in &tokens {
            lowering.clause()?;
            let position = token.position.saturating_sub(start);
            terms.push(v1::PhraseTerm { position, term: token.text.clone() });
        }
        Ok(build::query(Kind::Phrase(v1::Phrase { field: field.path.clone(), terms, slop: self.slop })))
    }

    fn without_terms(&self) -> v1::Query {
        if self.zero_terms_all { build::all() } else { build::none() }
    }

    /// One term, analysed already.
    fn term(&self, lowering: &mut Lowering<'_>, field: &Field, term: &str) -> Result<v1::Query, Error> {
        lowering.clause()?;
        let distance = self.fuzziness.map_or(0, |fuzziness| fuzziness.distance(term));
        if distance == 0 {
            return Ok(build::term(&field.path, build::string(term)));
        }
        let near = build::query(Kind::Fuzzy(v1::Fuzzy {
            field: field.path.clone(),
            term: term.to_owned(),
            distance,
            transpositions: self.transpositions,
            prefix_length: self.prefix_length,
        }));
        // Near terms score the same; the term as it was written ranks above them.
        lowering.clause()?;
        let should = vec![build::term(&field.path, build::string(term)), near];
        Ok(build::query(Kind::Boolean(v1::Boolean { should, minimum_should_match: 1, ..v1::Boolean::default() })))
    }

    /// On a field that is not text, the text is one value.
    fn untokenised(&self, lowering: &mut Lowering<'_>, field: &Field, text: &str) -> Result<v1::Query, Error> {
        if field.field_type.is_keyword() {
            return self.term(lowering, field, text);
        }
        match values::exact(lowering, field, text) {
            Err(Error::Invalid { error_type: "query_shard_exception", .. }) if self.lenient => Ok(build::none()),
            result => result,
        }
    }
}
