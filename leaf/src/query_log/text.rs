//! A query as a person would write it, and a fingerprint that is the same for queries that differ in their values only.

use std::fmt::Write;

use trawl_proto::v1::query::Kind;
use trawl_proto::v1::value::Kind as ValueKind;
use trawl_proto::v1::{Aggregation, Bound, Query, Value};
use xxhash_rust::xxh3::xxh3_64;

/// Longer texts are cut.
const TEXT_BYTES_MAX: usize = 2_000;
/// Values of one list that are shown.
const VALUES_MAX: usize = 20;

/// The query's text, cut when it is long, and its fingerprint.
pub fn of(query: Option<&Query>, aggregations: &[Aggregation]) -> (String, String) {
    let mut text = Text { out: String::new(), values: true };
    let mut shape = Text { out: String::new(), values: false };
    for written in [&mut text, &mut shape] {
        written.query(query);
        if !aggregations.is_empty() {
            let _ = write!(written.out, " ({} aggregations)", aggregations.len());
        }
    }
    let end = text.out.floor_char_boundary(TEXT_BYTES_MAX);
    text.out.truncate(end);
    (text.out, format!("{:016x}", xxh3_64(shape.out.as_bytes())))
}

struct Text {
    out: String,
    /// Whether values are shown, or `?` for each.
    values: bool,
}

impl Text {
    fn query(&mut self, query: Option<&Query>) {
        // Enough was written to be cut; what is deep costs no more.
        if self.out.len() > 4 * TEXT_BYTES_MAX {
            return;
        }
        match query.and_then(|query| query.kind.as_ref()) {
            None | Some(Kind::MatchAll(_)) => self.out.push_str("*:*"),
            Some(Kind::MatchNone(_)) => self.out.push_str("-*:*"),
            Some(Kind::Term(term)) => {
                self.field(&term.field);
                self.value(term.value.as_ref());
            }
            Some(Kind::TermSet(set)) => {
                self.field(&set.field);
                self.list(set.values.len(), |text, at| text.value(set.values.get(at)));
            }
            Some(Kind::Phrase(phrase)) => {
                self.field(&phrase.field);
                let words: Vec<&str> = phrase.terms.iter().map(|term| term.term.as_str()).collect();
                self.word(&format!("{:?}", words.join(" ")));
            }
            Some(Kind::Boolean(boolean)) => {
                self.out.push('(');
                let clauses =
                    [("+", &boolean.must), ("", &boolean.should), ("#", &boolean.filter), ("-", &boolean.must_not)];
                let all =
                    clauses.into_iter().flat_map(|(sign, queries)| queries.iter().map(move |query| (sign, query)));
                for (at, (sign, query)) in all.enumerate() {
                    self.out.push_str(if at > 0 { " " } else { "" });
                    self.out.push_str(sign);
                    self.query(Some(query));
                }
                self.out.push(')');
            }
            Some(Kind::DisjunctionMax(max)) => {
                self.out.push('(');
                for (at, query) in max.queries.iter().enumerate() {
                    self.out.push_str(if at > 0 { " | " } else { "" });
                    self.query(Some(query));
                }
                self.out.push(')');
            }
            Some(Kind::ConstantScore(constant)) => self.query(constant.query.as_deref()),
            Some(Kind::Range(range)) => {
                self.field(&range.field);
                self.bound(range.lower.as_ref(), "[", "{");
                self.out.push_str(" TO ");
                self.bound(range.upper.as_ref(), "]", "}");
            }
            Some(Kind::Prefix(prefix)) => {
                self.field(&prefix.field);
                self.word(&prefix.prefix);
                self.out.push('*');
            }
            Some(Kind::Fuzzy(fuzzy)) => {
                self.field(&fuzzy.field);
                self.word(&fuzzy.term);
                let _ = write!(self.out, "~{}", fuzzy.distance);
            }
            Some(Kind::Exists(exists)) => {
                self.field("_exists_");
                self.out.push_str(&exists.field);
            }
            Some(Kind::Ids(ids)) => {
                self.field("_id");
                self.list(ids.ids.len(), |text, at| text.word(&ids.ids[at]));
            }
        }
    }

    fn field(&mut self, field: &str) {
        self.out.push_str(field);
        self.out.push(':');
    }

    fn word(&mut self, word: &str) {
        self.out.push_str(if self.values { word } else { "?" });
    }

    /// A list has the same shape however long it is.
    fn list(&mut self, length: usize, mut item: impl FnMut(&mut Self, usize)) {
        self.out.push('(');
        for at in 0..length.min(if self.values { VALUES_MAX } else { 1 }) {
            self.out.push_str(if at > 0 { " " } else { "" });
            item(self, at);
        }
        if self.values && length > VALUES_MAX {
            let _ = write!(self.out, " and {} more", length - VALUES_MAX);
        }
        self.out.push(')');
    }

    fn bound(&mut self, bound: Option<&Bound>, inclusive: &str, exclusive: &str) {
        let sign = if bound.is_none_or(|bound| bound.inclusive) { inclusive } else { exclusive };
        let opens = matches!(sign, "[" | "{");
        if opens {
            self.out.push_str(sign);
        }
        match bound {
            Some(bound) => self.value(bound.value.as_ref()),
            None => self.out.push('*'),
        }
        if !opens {
            self.out.push_str(sign);
        }
    }

    fn value(&mut self, value: Option<&Value>) {
        let text = match value.and_then(|value| value.kind.as_ref()) {
            _ if !self.values => "?".to_owned(),
            None => String::new(),
            Some(ValueKind::String(text)) => text.clone(),
            Some(ValueKind::Long(number)) => number.to_string(),
            Some(ValueKind::Double(number)) => number.to_string(),
            Some(ValueKind::Boolean(truth)) => truth.to_string(),
            Some(ValueKind::DateMs(ms)) => ms.to_string(),
            Some(ValueKind::Ip(bytes)) => match <[u8; 16]>::try_from(&bytes[..]) {
                Ok(bytes) => std::net::Ipv6Addr::from(bytes).to_canonical().to_string(),
                Err(_) => String::new(),
            },
        };
        self.out.push_str(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_proto::v1::{Boolean, Range, Term};

    fn term(value: &str) -> Query {
        let value = Some(Value { kind: Some(ValueKind::String(value.to_owned())) });
        Query { kind: Some(Kind::Term(Term { field: "body".to_owned(), value })), boost: None }
    }

    fn both(word: &str, least: i64) -> Query {
        let value = Some(Value { kind: Some(ValueKind::Long(least)) });
        let range = Range { field: "year".to_owned(), lower: Some(Bound { value, inclusive: true }), upper: None };
        let range = Query { kind: Some(Kind::Range(range)), boost: None };
        let boolean = Boolean { must: vec![term(word)], filter: vec![range], ..Boolean::default() };
        Query { kind: Some(Kind::Boolean(boolean)), boost: None }
    }

    #[test]
    fn queries_read_like_query_strings_and_have_one_fingerprint_per_shape() {
        let (text, fingerprint) = of(Some(&both("storm", 1990)), &[]);
        assert_eq!(text, "(+body:storm #year:[1990 TO *])");
        assert_eq!(fingerprint, of(Some(&both("calm", 2000)), &[]).1);
        assert_ne!(fingerprint, of(Some(&term("storm")), &[]).1);
    }
}
