//! `query_string`: the syntax of [`crate::http::query_string`] on the fields of an index.

use trawl_data::{analysis::Analyzer, mapping::Field};
use trawl_proto::v1;

use super::{
    Lowering, Node, Parsed,
    analysed::TextOptions,
    bool_query::join,
    build, exists,
    fields::{self, Boosted, FieldPattern},
    fuzziness::Fuzziness,
    fuzzy::Fuzzy,
    match_query, members,
    minimum_should_match::MinimumShouldMatch,
    multi_match::Combine,
    prefix,
    range::{Limit, Range},
    unsupported,
};
use crate::{
    error::{Cause, Error},
    http::{
        error::{illegal, parsing},
        json::Json,
        keys,
        query_string::{self, Clause, Expression, Occur},
    },
};

/// A parsed `query_string` or `?q=`.
#[derive(Debug)]
pub struct QueryString {
    clauses: Vec<Clause>,
    fields: Vec<FieldPattern>,
    options: TextOptions,
    /// When not said, lenient is who searches fields that were not named.
    lenient: Option<bool>,
    combine: Combine,
    tie_breaker: Option<f32>,
    fuzziness: Fuzziness,
    boost: f32,
}

/// What a body or the query string of a request says.
#[derive(Debug)]
pub struct Settings {
    /// The query.
    pub text: String,
    /// Where to look when the query does not say; empty for all text fields.
    pub fields: Vec<FieldPattern>,
    /// How to analyse and match.
    pub options: TextOptions,
    /// Whether values that a field cannot hold match nothing instead of failing.
    pub lenient: Option<bool>,
}

impl QueryString {
    /// The query of `?q=`.
    ///
    /// # Errors
    /// `query_shard_exception` when the text cannot be parsed.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let Settings { text, fields, options, lenient } = settings;
        let clauses = query_string::parse(&text, options.all_terms).map_err(|reason| Error::Invalid {
            error_type: "query_shard_exception",
            reason: format!("Failed to parse query [{text}]"),
            caused_by: Some(Cause {
                error_type: "parse_exception".to_owned(),
                reason: format!("Cannot parse '{text}': {reason}"),
            }),
        })?;
        Ok(Self {
            clauses,
            fields,
            options,
            lenient,
            combine: Combine::Best,
            tie_breaker: None,
            fuzziness: Fuzziness::AUTO,
            boost: 1.0,
        })
    }
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    const NAME: &str = "query_string";
    let mut text = None;
    let mut fields = Vec::new();
    let mut default_field = None;
    let mut options = TextOptions::default();
    let mut lenient = None;
    let mut combine = Combine::Best;
    let mut tie_breaker = None;
    let mut fuzziness = Fuzziness::AUTO;
    let mut boost = 1.0;
    for (key, value) in members(body, NAME)? {
        match key.as_str() {
            "query" => text = Some(keys::text(value, key)?),
            "fields" => fields = FieldPattern::parse_all(value)?,
            "default_field" => default_field = Some(FieldPattern::parse(&keys::text(value, key)?)?),
            "default_operator" => options.all_terms = match_query::operator(value)?,
            "analyzer" => options.analyzer = Some(match_query::analyzer(value, NAME)?),
            "lenient" => lenient = Some(keys::boolean(value, key)?),
            "phrase_slop" => options.slop = keys::count(value, key)?,
            "minimum_should_match" => options.minimum_should_match = Some(MinimumShouldMatch::from_json(value)?),
            "type" => combine = Combine::parse(value, NAME)?,
            "tie_breaker" => tie_breaker = Some(keys::float(value, key)? as f32),
            "fuzziness" => fuzziness = Fuzziness::from_json(value)?,
            "fuzzy_prefix_length" => options.prefix_length = keys::count(value, key)?,
            "fuzzy_transpositions" => options.transpositions = keys::boolean(value, key)?,
            "boost" => boost = keys::boost(value, NAME)?,
            // Without synonyms and inner wildcards either choice is the same.
            "auto_generate_synonyms_phrase_query" | "allow_leading_wildcard" => drop(keys::boolean(value, key)?),
            "analyze_wildcard" | "escape" if !keys::boolean(value, key)? => {}
            _ => return Err(unsupported(NAME, key)),
        }
    }
    let text = text.ok_or_else(|| parsing("query_string must be provided with a [query]"))?;
    if default_field.is_some() && !fields.is_empty() {
        return Err(illegal("cannot use [fields] parameter in conjunction with [default_field]"));
    }
    // `*` is the default: all text fields.
    fields.extend(default_field.filter(|field| field.pattern != "*"));
    let parsed = QueryString::new(Settings { text, fields, options, lenient })?;
    Ok(Box::new(QueryString { combine, tie_breaker, fuzziness, boost, ..parsed }))
}

impl Node for QueryString {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        if self.clauses.is_empty() {
            return Ok(build::none());
        }
        let fields = fields::resolve(lowering, &self.fields);
        let unnamed = self.fields.is_empty() || self.fields.iter().any(FieldPattern::is_wildcard);
        let lenient = self.lenient.unwrap_or(unnamed);
        // The minimum counts the query's own clauses, see `group`.
        let options = TextOptions { lenient, minimum_should_match: None, ..self.options.clone() };
        let on = On { query: self, options, lowering };
        Ok(build::boosted(on.top(&fields)?, self.boost))
    }
}

/// A query on its way down.
struct On<'q, 'l, 'i> {
    query: &'q QueryString,
    options: TextOptions,
    lowering: &'l mut Lowering<'i>,
}

impl On<'_, '_, '_> {
    fn top(mut self, fields: &[Boosted<'_>]) -> Result<v1::Query, Error> {
        let minimum = self.query.options.minimum_should_match.clone();
        self.group(&self.query.clauses, fields, minimum.as_ref())
    }

    fn group(
        &mut self,
        clauses: &[Clause],
        fields: &[Boosted<'_>],
        minimum: Option<&MinimumShouldMatch>,
    ) -> Result<v1::Query, Error> {
        let mut boolean = v1::Boolean::default();
        for clause in clauses {
            let query = self.clause(clause, fields)?;
            match (clause.occur, query) {
                // Words side by side in one field are clauses of their own, not a group.
                (Occur::Should, v1::Query { kind: Some(v1::query::Kind::Boolean(inner)), boost: None })
                    if is_words(clause) && only_should(&inner) =>
                {
                    boolean.should.extend(inner.should);
                }
                (Occur::Must, v1::Query { kind: Some(v1::query::Kind::Boolean(inner)), boost: None })
                    if is_words(clause) && only_must(&inner) =>
                {
                    boolean.must.extend(inner.must);
                }
                (Occur::Should, query) => boolean.should.push(query),
                (Occur::Must, query) => boolean.must.push(query),
                (Occur::MustNot, query) => boolean.must_not.push(query),
            }
        }
        let alone = boolean.must.len() + boolean.should.len() == 1 && boolean.must_not.is_empty();
        if alone && let Some(only) = boolean.must.pop().or_else(|| boolean.should.pop()) {
            return Ok(only);
        }
        Ok(join(boolean, minimum))
    }

    fn clause(&mut self, clause: &Clause, defaults: &[Boosted<'_>]) -> Result<v1::Query, Error> {
        let named;
        let fields = match &clause.field {
            None => defaults,
            Some(path) => {
                if let Some(query) = self.special(path, &clause.expression) {
                    return Ok(build::boosted(query, clause.boost));
                }
                let pattern = FieldPattern { pattern: path.clone(), boost: 1.0 };
                named = fields::resolve(self.lowering, &[pattern]);
                named.as_slice()
            }
        };
        let query = match (&clause.expression, &clause.field) {
            (Expression::All, _) => build::all(),
            (Expression::Group(clauses), _) => self.group(clauses, fields, None)?,
            (Expression::Exists, Some(path)) => exists::on(self.lowering, path)?,
            (expression, _) => {
                let mut queries = Vec::with_capacity(fields.len());
                for (field, boost) in fields {
                    queries.push(build::boosted(self.on_field(expression, field)?, *boost));
                }
                self.query.combine.join(queries, self.query.tie_breaker)
            }
        };
        Ok(build::boosted(query, clause.boost))
    }

    /// `_id:x` and `_index:x`.
    fn special(&self, path: &str, expression: &Expression) -> Option<v1::Query> {
        let (Expression::Text(text) | Expression::Phrase { text, .. }) = expression else { return None };
        match path {
            "_id" => Some(build::ids(vec![text.clone()])),
            "_index" => Some(super::term::of_index(self.lowering, text)),
            _ => None,
        }
    }

    fn on_field(&mut self, expression: &Expression, field: &Field) -> Result<v1::Query, Error> {
        let result = match expression {
            Expression::Text(text) if self.query.combine == Combine::Phrase => {
                self.options.phrase(self.lowering, field, text)
            }
            Expression::Text(text) => self.options.terms(self.lowering, field, text),
            Expression::Phrase { text, slop } => {
                let options = TextOptions { slop: slop.unwrap_or(self.options.slop), ..self.options.clone() };
                options.phrase(self.lowering, field, text)
            }
            Expression::Prefix(prefix) => prefix::on(self.lowering, field, &normalised(field, prefix)),
            Expression::Fuzzy { term, distance } => {
                let fuzziness = match distance {
                    None => self.query.fuzziness,
                    Some(distance) => Fuzziness::parse(distance)?,
                };
                let fuzzy = Fuzzy {
                    field: field.path.clone(),
                    term: normalised(field, term),
                    fuzziness,
                    prefix_length: self.options.prefix_length,
                    transpositions: self.options.transpositions,
                    boost: 1.0,
                };
                fuzzy.on(self.lowering, field)
            }
            Expression::Range { lower, upper } => {
                let limit = |bound: &Option<(String, bool)>| {
                    bound.clone().map(|(text, inclusive)| Limit { text, is_number: false, inclusive })
                };
                let range =
                    Range { field: field.path.clone(), lower: limit(lower), upper: limit(upper), ..Range::default() };
                range.on(self.lowering, field)
            }
            Expression::Exists => exists::on(self.lowering, &field.path),
            Expression::All | Expression::Group(_) => Ok(build::all()),
        };
        match result {
            Err(Error::Invalid { error_type: "query_shard_exception", caused_by: Some(cause), .. })
                if self.options.lenient && cause.error_type != "too_many_clauses" =>
            {
                Ok(build::none())
            }
            result => result,
        }
    }
}

fn is_words(clause: &Clause) -> bool {
    clause.boost == 1.0 && matches!(clause.expression, Expression::Text(_))
}

fn only_should(boolean: &v1::Boolean) -> bool {
    boolean.minimum_should_match == 1
        && boolean.must.is_empty()
        && boolean.filter.is_empty()
        && boolean.must_not.is_empty()
}

fn only_must(boolean: &v1::Boolean) -> bool {
    boolean.should.is_empty() && boolean.filter.is_empty() && boolean.must_not.is_empty()
}

/// Terms that are not analysed are still lower-cased where the field's terms are.
fn normalised(field: &Field, text: &str) -> String {
    match field.field_type.analyzer() {
        None | Some(Analyzer::Whitespace | Analyzer::Keyword) => text.to_owned(),
        Some(_) => text.to_lowercase(),
    }
}
