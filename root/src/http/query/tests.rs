//! Every query parsed and lowered, and every bad one refused by name.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;
use trawl_data::mapping::Mapping;
use trawl_proto::v1;

use super::*;
use crate::http::json;

fn mapping() -> Mapping {
    Mapping::parse(&json!({"properties": {
        "title": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        "body": {"type": "text"},
        "tag": {"type": "keyword"},
        "year": {"type": "integer"},
        "price": {"type": "double"},
        "live": {"type": "boolean"},
        "when": {"type": "date"},
        "host": {"type": "ip"},
        "author": {"properties": {"name": {"type": "keyword"}, "age": {"type": "short"}}}
    }}))
    .unwrap()
}

fn lowered(text: &str) -> Result<v1::Query, Error> {
    let parsed = parse(&json::parse(text.as_bytes()).unwrap())?;
    let mapping = mapping();
    lower(&parsed, &mut Lowering::new("books", &mapping, 1_600_000_000_000))
}

/// A short form for comparison.
fn show(query: &v1::Query) -> String {
    use v1::query::Kind;
    let list = |queries: &[v1::Query]| queries.iter().map(show).collect::<Vec<_>>().join(" ");
    let text = match query.kind.as_ref().unwrap() {
        Kind::MatchAll(_) => "all".to_owned(),
        Kind::MatchNone(_) => "none".to_owned(),
        Kind::Term(term) => format!("{}:{}", term.field, value(term.value.as_ref().unwrap())),
        Kind::TermSet(set) => {
            format!("{}:{{{}}}", set.field, set.values.iter().map(value).collect::<Vec<_>>().join(","))
        }
        Kind::Phrase(phrase) => {
            let terms: Vec<String> =
                phrase.terms.iter().map(|term| format!("{}@{}", term.term, term.position)).collect();
            format!("{}:\"{}\"~{}", phrase.field, terms.join(" "), phrase.slop)
        }
        Kind::Boolean(boolean) => {
            let mut parts = Vec::new();
            for (name, queries) in [
                ("must", &boolean.must),
                ("should", &boolean.should),
                ("filter", &boolean.filter),
                ("not", &boolean.must_not),
            ] {
                if !queries.is_empty() {
                    parts.push(format!("{name}[{}]", list(queries)));
                }
            }
            format!("bool({} min {})", parts.join(" "), boolean.minimum_should_match)
        }
        Kind::DisjunctionMax(max) => format!("max[{}]~{}", list(&max.queries), max.tie_breaker),
        Kind::ConstantScore(constant) => format!("const({})", show(constant.query.as_ref().unwrap())),
        Kind::Range(range) => {
            let bound = |bound: &Option<v1::Bound>| match bound {
                None => "*".to_owned(),
                Some(bound) => {
                    format!("{}{}", if bound.inclusive { "=" } else { "" }, value(bound.value.as_ref().unwrap()))
                }
            };
            format!("{}:({}..{})", range.field, bound(&range.lower), bound(&range.upper))
        }
        Kind::Prefix(prefix) => format!("{}:{}*", prefix.field, prefix.prefix),
        Kind::Fuzzy(fuzzy) => format!("{}:{}~{}", fuzzy.field, fuzzy.term, fuzzy.distance),
        Kind::Exists(exists) => format!("exists({})", exists.field),
        Kind::Ids(ids) => format!("ids({})", ids.ids.join(",")),
    };
    match query.boost {
        None => text,
        Some(boost) => format!("{text}^{boost}"),
    }
}

fn value(value: &v1::Value) -> String {
    use v1::value::Kind;
    match value.kind.as_ref().unwrap() {
        Kind::String(text) => text.clone(),
        Kind::Long(value) => value.to_string(),
        Kind::Double(value) => format!("{value:?}"),
        Kind::Boolean(value) => value.to_string(),
        Kind::DateMs(value) => format!("@{value}"),
        Kind::Ip(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(show(&lowered(text).unwrap()), expected, "{text}");
}

#[track_caller]
fn refused(text: &str, reason: &str) {
    assert_eq!(lowered(text).unwrap_err().to_string(), reason, "{text}");
}

#[test]
fn texts() {
    check(r#"{"match":{"title":"Quick"}}"#, "title:quick");
    check(r#"{"match":{"title":"Quick Fox"}}"#, "bool(should[title:quick title:fox] min 1)");
    check(r#"{"match":{"title":{"query":"a b","operator":"and","boost":2}}}"#, "bool(must[title:a title:b] min 0)^2");
    check(
        r#"{"match":{"title":{"query":"a b c d","minimum_should_match":"75%"}}}"#,
        "bool(should[title:a title:b title:c title:d] min 3)",
    );
    check(
        r#"{"match":{"title":{"query":"quickly an","fuzziness":"AUTO"}}}"#,
        "bool(should[bool(should[title:quickly title:quickly~2] min 1) title:an] min 1)",
    );
    check(r#"{"match":{"title":"--"}}"#, "none");
    check(r#"{"match":{"title":{"query":"--","zero_terms_query":"all"}}}"#, "all");
    check(r#"{"match":{"tag":"Quick Fox"}}"#, "tag:Quick Fox");
    check(r#"{"match":{"year":"2020"}}"#, "year:2020");
    check(r#"{"match":{"year":{"query":"abc","lenient":true}}}"#, "none");
    check(r#"{"match":{"nothing":"x"}}"#, "none");
    check(r#"{"match_phrase":{"title":{"query":"Quick brown fox","slop":1}}}"#, "title:\"quick@0 brown@1 fox@2\"~1");
    check(r#"{"match_phrase":{"title":"one"}}"#, "title:one");
    check(r#"{"multi_match":{"query":"x","fields":["title^3","body"]}}"#, "max[title:x^3 body:x]~0");
    check(r#"{"multi_match":{"query":"x","fields":["title","body"],"type":"most_fields"}}"#, "max[title:x body:x]~1");
    check(
        r#"{"multi_match":{"query":"x y","fields":["title*"],"type":"phrase"}}"#,
        "max[title:\"x@0 y@1\"~0 title.raw:x y]~0",
    );
    check(r#"{"multi_match":{"query":"x"}}"#, "max[body:x title:x]~0");
    check(r#"{"multi_match":{"query":"x","fields":["year","tag","title*"]}}"#, "max[tag:x title:x title.raw:x]~0");
}

#[test]
fn values_as_the_field_compares_them() {
    check(r#"{"term":{"title":"Quick Fox"}}"#, "title:Quick Fox");
    check(r#"{"term":{"tag":{"value":2020,"boost":0.5}}}"#, "tag:2020^0.5");
    check(r#"{"term":{"year":"2020"}}"#, "year:2020");
    check(r#"{"term":{"year":2020.0}}"#, "year:2020");
    check(r#"{"term":{"year":2020.5}}"#, "none");
    check(r#"{"term":{"year":99999999999}}"#, "none");
    check(r#"{"term":{"price":3}}"#, "price:3.0");
    check(r#"{"term":{"live":true}}"#, "live:true");
    check(r#"{"term":{"when":"2020-01-01T10:00:00.000Z"}}"#, "when:@1577872800000");
    check(r#"{"term":{"when":"2020-01-01"}}"#, "when:(=@1577836800000..=@1577923199999)");
    check(r#"{"term":{"host":"10.0.0.1"}}"#, "host:00000000000000000000ffff0a000001");
    check(
        r#"{"term":{"host":"10.0.0.0/8"}}"#,
        "host:(=00000000000000000000ffff0a000000..=00000000000000000000ffff0affffff)",
    );
    check(r#"{"term":{"_id":"7"}}"#, "ids(7)");
    check(r#"{"term":{"_index":"boo*"}}"#, "all");
    check(r#"{"terms":{"year":[1,2,2.5]}}"#, "year:{1,2}");
    check(r#"{"terms":{"tag":["a","b"],"boost":2}}"#, "tag:{a,b}^2");
    check(r#"{"terms":{"tag":[]}}"#, "none");
    check(
        r#"{"terms":{"when":["2020-01-01","2020-01-01T10:00:00.000Z"]}}"#,
        "const(bool(should[when:(=@1577836800000..=@1577923199999) when:{@1577872800000}] min 1))",
    );
    check(r#"{"prefix":{"tag":"ab"}}"#, "tag:ab*");
    check(r#"{"fuzzy":{"title":{"value":"quikc","fuzziness":1}}}"#, "title:quikc~1");
    check(r#"{"exists":{"field":"year"}}"#, "exists(year)");
    check(r#"{"exists":{"field":"author"}}"#, "const(bool(should[exists(author.age) exists(author.name)] min 1))");
    check(r#"{"ids":{"values":["1",2]}}"#, "ids(1,2)");
}

#[test]
fn ranges() {
    check(r#"{"range":{"year":{"gte":2000,"lt":"2010"}}}"#, "year:(=2000..2010)");
    check(r#"{"range":{"year":{"gt":1.5,"lte":2.5}}}"#, "year:(=2..=2)");
    check(r#"{"range":{"year":{"gte":null}}}"#, "exists(year)");
    check(r#"{"range":{"price":{"gt":1}}}"#, "price:(1.0..*)");
    check(r#"{"range":{"tag":{"gte":"a"}}}"#, "tag:(=a..*)");
    check(r#"{"range":{"when":{"gte":"2020-01-01","lte":"2020-01-01"}}}"#, "when:(=@1577836800000..=@1577923199999)");
    check(r#"{"range":{"when":{"gte":"2020-01-01","time_zone":"+01:00"}}}"#, "when:(=@1577833200000..*)");
    check(r#"{"range":{"when":{"gte":"now-1d","lt":"now"}}}"#, "when:(=@1599913600000..@1600000000000)");
    refused(
        r#"{"range":{"when":{"gte":"x","time_zone":"Europe/Berlin"}}}"#,
        "[range] time_zone [Europe/Berlin] is not supported: it must be an offset such as [+01:00]",
    );
    refused(r#"{"range":{"year":{"from":1}}}"#, "[range] query does not support [from]");
}

#[test]
fn combinations() {
    check(
        r#"{"bool":{"must":{"match":{"title":"x"}},"should":[{"term":{"tag":"a"}}],"filter":[{"term":{"year":1}}],"must_not":{"term":{"live":false}}}}"#,
        "bool(must[title:x] should[tag:a] filter[year:1] not[live:false] min 0)",
    );
    check(r#"{"bool":{"should":[{"term":{"tag":"a"}},{"term":{"tag":"b"}}]}}"#, "bool(should[tag:a tag:b] min 1)");
    check(r#"{"bool":{"should":[{"term":{"tag":"a"}}],"minimum_should_match":2}}"#, "none");
    check(r#"{"bool":{"must_not":{"term":{"tag":"a"}}}}"#, "bool(filter[all] not[tag:a] min 0)");
    check(r#"{"bool":{}}"#, "all");
    check(r#"{"bool":{"must":[{"match":{"nothing":"x"}}]}}"#, "none");
    check(r#"{"constant_score":{"filter":{"term":{"tag":"a"}},"boost":3}}"#, "const(tag:a)^3");
    check(r#"{"dis_max":{"queries":[{"term":{"tag":"a"}},{"match_all":{}}],"tie_breaker":0.5}}"#, "max[tag:a all]~0.5");
}

#[test]
fn query_strings() {
    let q = |text: &str| json!({"query_string": {"query": text}}).to_string();
    check(&q("title:quick"), "title:quick");
    check(&q("quick"), "max[body:quick title:quick]~0");
    check(&q("quick fox"), "max[bool(should[body:quick body:fox] min 1) bool(should[title:quick title:fox] min 1)]~0");
    check(
        &q("title:(quick fox) AND year:[2000 TO 2010}"),
        "bool(must[bool(should[title:quick title:fox] min 1) year:(=2000..2010)] min 0)",
    );
    check(&q("+title:Qu* -tag:x"), "bool(must[title:qu*] not[tag:x] min 0)");
    check(&q("title:\"a b\"~3"), "title:\"a@0 b@1\"~3");
    check(&q("title:quikc~1 _exists_:year"), "bool(should[title:quikc~1 exists(year)] min 1)");
    check(&q("*"), "all");
    check(&q("nothing:x"), "none");
    check(
        r#"{"query_string":{"query":"a b","default_field":"title","minimum_should_match":2}}"#,
        "bool(should[title:a title:b] min 2)",
    );
    check(
        r#"{"query_string":{"query":"a b","default_field":"title","default_operator":"AND"}}"#,
        "bool(must[title:a title:b] min 0)",
    );
    refused(&q("a*b"), "Failed to parse query [a*b]");
    check(&q("year:abc"), "none");
    refused(
        r#"{"query_string":{"query":"year:abc","default_field":"title"}}"#,
        "failed to create query: For input string: \"abc\"",
    );
}

#[test]
fn errors_name_the_part() {
    refused(r#"{"foo":{}}"#, "unknown query [foo]");
    refused(r#"{"match":{"title":{"query":"x","foo":1}}}"#, "[match] query does not support [foo]");
    refused(r#"{"bool":{"foo":[]}}"#, "[bool] query does not support [foo]");
    refused(
        r#"{"match":{"title":{"query":"x","max_expansions":3}}}"#,
        "[match] query does not support [max_expansions]",
    );
    refused(r#"{"match":{"a":"x","b":"y"}}"#, "[match] query doesn't support multiple fields, found [a] and [b]");
    refused(r#"{"match":{"year":"abc"}}"#, "failed to create query: For input string: \"abc\"");
    refused(
        r#"{"term":{"live":"maybe"}}"#,
        "failed to create query: Can't parse boolean value [maybe], expected [true] or [false]",
    );
    refused(r#"{"term":{"host":"x"}}"#, "failed to create query: 'x' is not an IP string literal.");
    refused(
        r#"{"prefix":{"year":"1"}}"#,
        "failed to create query: Can only use prefix queries on keyword, text and wildcard fields - not on [year] which is of type [integer]",
    );
    refused(r#"{}"#, "query malformed, empty clause found");
    refused(r#"{"term":{"tag":null}}"#, "value cannot be null");
    refused(
        r#"{"match":{"title":{"query":"x","boost":-1}}}"#,
        "negative [boost] are not allowed in [match], use a value between 0 and 1 to deboost",
    );
}

#[test]
fn limits() {
    let deep =
        |depth: usize| format!("{}{{\"match_all\":{{}}}}{}", "{\"bool\":{\"must\":".repeat(depth), "}}".repeat(depth));
    lowered(&deep(29)).unwrap();
    refused(&deep(30), "The nested depth of the query exceeds the maximum nested depth for queries set in [30]");
    let wide = |clauses: usize| {
        let clauses = vec![r#"{"term":{"tag":"a"}}"#; clauses].join(",");
        format!(r#"{{"bool":{{"should":[{clauses}]}}}}"#)
    };
    lowered(&wide(1000)).unwrap();
    refused(&wide(10_000), "failed to create query: maxClauseCount is set to 1024");
    // Depth of a body and of the syntax inside it add up to what the wire can carry.
    let syntax = format!("{}title:a{}", "(tag:b ".repeat(29), ")".repeat(29));
    let nested = |depth: usize| {
        let inner = json!({"query_string": {"query": syntax}});
        format!("{}{inner}{}", "{\"bool\":{\"must\":[{\"match_all\":{}},".repeat(depth), "]}}".repeat(depth))
    };
    lowered(&nested(10)).unwrap();
    refused(&nested(25), "The nested depth of the query exceeds the maximum nested depth for queries set in [45]");
    let words = vec!["w"; 2000].join(" ");
    refused(&json!({"match": {"title": words}}).to_string(), "failed to create query: maxClauseCount is set to 1024");
}

#[test]
fn dynamic_fields_are_matched_in_every_form() {
    let field = |path: &str, types: &[v1::DynamicType]| v1::DynamicField {
        path: path.to_owned(),
        types: types.iter().fold(0, |bits, dynamic_type| bits | 1 << *dynamic_type as u32),
        spare: None,
    };
    use v1::DynamicType::{DynamicDouble, DynamicLong, DynamicString};
    let mapping = mapping()
        .with_dynamic(&[field("mixed", &[DynamicLong, DynamicString]), field("number", &[DynamicLong, DynamicDouble])]);
    let on_index = |text: &str| {
        let parsed = parse(&json::parse(text.as_bytes()).unwrap()).unwrap();
        let mut lowering = Lowering::new("books", &mapping, 0);
        let query = parsed.lower(&mut lowering).unwrap();
        assert!(lowering.uses_dynamic);
        show(&query)
    };
    assert_eq!(on_index(r#"{"term":{"mixed":"5"}}"#), "mixed:5");
    assert_eq!(on_index(r#"{"terms":{"mixed":[5,"x"]}}"#), "mixed:{5,x}");
    assert_eq!(on_index(r#"{"match":{"mixed":"five"}}"#), "mixed:five");
    assert_eq!(on_index(r#"{"term":{"number":5}}"#), "number:{5.0,5}");
    assert_eq!(on_index(r#"{"term":{"unknown":5}}"#), "none");
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let names = prop::sample::select(vec![
        "match",
        "term",
        "terms",
        "range",
        "bool",
        "must",
        "should",
        "query",
        "value",
        "boost",
        "title",
        "year",
        "when",
        "gte",
        "query_string",
        "multi_match",
        "fields",
        "fuzziness",
        "exists",
        "field",
        "ids",
        "values",
        "dis_max",
        "queries",
        "prefix",
        "constant_score",
        "filter",
        "minimum_should_match",
        "match_phrase",
        "fuzzy",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[a-z0-9 :*~^\"()<%-]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(names.clone(), inner, 0..3).prop_map(|members| {
                serde_json::Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_body_is_handled(body in any_json()) {
        let _ = lowered(&body.to_string());
    }
}
