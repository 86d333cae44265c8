//! Mappings as Elasticsearch takes, shows and refuses them.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use trawl_proto::v1::DynamicField;

use super::*;
use crate::analysis::Language;

fn parse(json: Value) -> Mapping {
    Mapping::parse(&json).unwrap()
}

fn refused(json: Value) -> (&'static str, String) {
    let error = Mapping::parse(&json).unwrap_err();
    (error.error_type, error.reason)
}

fn books() -> Mapping {
    parse(json!({"dynamic": "strict", "properties": {
        "title": {"type": "text", "analyzer": "english", "fields": {"raw": {"type": "keyword", "ignore_above": 256}}},
        "year": {"type": "long"},
        "printed": {"type": "date", "format": "epoch_second||strict_date"},
        "author": {"dynamic": true, "properties": {"name": {"type": "text"}, "ip": {"type": "ip"}}},
        "empty": {"type": "object"}
    }}))
}

#[test]
fn fields_are_sorted_and_know_their_source() {
    let mapping = books();
    let paths: Vec<&str> = mapping.fields().map(|field| field.path.as_str()).collect();
    assert_eq!(paths, ["author.ip", "author.name", "printed", "title", "title.raw", "year"]);
    let raw = mapping.field("title.raw").unwrap();
    assert_eq!(raw.source_path, "title");
    assert_eq!(raw.field_type, FieldType::Keyword { ignore_above: Some(256) });
    assert_eq!(mapping.field("title").unwrap().field_type.analyzer(), Some(Analyzer::Language(Language::English)));
    assert_eq!(mapping.targets("title"), [3, 4]);
    assert_eq!(mapping.field("author"), None);
    assert!(mapping.is_object("author") && mapping.is_object("empty"));
    assert!(!mapping.is_object("title") && !mapping.is_object("title.raw") && !mapping.is_object("author.name.x"));
    assert_eq!(mapping.dynamic(), Dynamic::Strict);
    assert_eq!(mapping.size(), 8);
}

#[test]
fn shown_as_elasticsearch_shows_it() {
    assert_eq!(
        books().to_json(),
        json!({"dynamic": "strict", "properties": {
            "title": {"type": "text", "analyzer": "english", "fields": {"raw": {"type": "keyword", "ignore_above": 256}}},
            "year": {"type": "long"},
            "printed": {"type": "date", "format": "epoch_second||strict_date"},
            "author": {"dynamic": "true", "properties": {"name": {"type": "text"}, "ip": {"type": "ip"}}},
            "empty": {"type": "object"}
        }})
    );
    assert_eq!(Mapping::default().to_json(), json!({}));
    assert_eq!(parse(json!({})), Mapping::default());
    let defaults = parse(json!({"properties": {
        "a": {"type": "keyword", "index": true, "doc_values": true, "store": false, "ignore_above": 2147483647},
        "b": {"type": "text", "norms": true, "search_analyzer": "standard", "analyzer": "standard"},
        "c": {"type": "long", "coerce": true},
        "d": {"type": "date", "format": "strict_date_optional_time||epoch_millis"}
    }}));
    assert_eq!(
        defaults.to_json(),
        json!({"properties": {"a": {"type": "keyword"}, "b": {"type": "text"}, "c": {"type": "long"}, "d": {"type": "date"}}})
    );
}

#[test]
fn dotted_names_are_objects() {
    let dotted = parse(
        json!({"properties": {"a.b": {"type": "long"}, "a.c.d": {"type": "ip"}, "a": {"properties": {"e": {"type": "byte"}}}}}),
    );
    let nested = parse(json!({"properties": {"a": {"properties": {
        "b": {"type": "long"}, "c": {"properties": {"d": {"type": "ip"}}}, "e": {"type": "byte"}}}}}));
    assert_eq!(dotted, nested);
}

#[test]
fn what_is_not_honoured_is_named() {
    let parsing = "mapper_parsing_exception";
    for (json, reason) in [
        (
            json!({"properties": {"title": {"type": "text", "foo": 1}}}),
            "unknown parameter [foo] on mapper [title] of type [text]",
        ),
        (
            json!({"properties": {"a": {"properties": {"b": {"type": "long", "ignore_above": 1}}}}}),
            "unknown parameter [ignore_above] on mapper [b] of type [long]",
        ),
        (
            json!({"properties": {"b": {"type": "keyword", "index": false}}}),
            "unknown parameter [index] on mapper [b] of type [keyword]",
        ),
        (json!({"properties": {"y": {"type": "x"}}}), "No handler for type [x] declared on field [y]"),
        (json!({"properties": {"y": {"type": "nested"}}}), "No handler for type [nested] declared on field [y]"),
        (json!({"properties": {"y": {}}}), "No type specified for field [y]"),
        (json!({"properties": {"y": {"analyzer": "x"}}}), "No type specified for field [y]"),
        (
            json!({"properties": {"y": "long"}}),
            "Expected map for property [fields] on field [y] but got a java.lang.String",
        ),
        (json!({"properties": []}), "properties must be a map type"),
        (
            json!({"properties": {"y": {"type": "text", "analyzer": "klingon"}}}),
            "analyzer [klingon] has not been configured in mappings",
        ),
        (
            json!({"properties": {"y": {"type": "text", "search_analyzer": "english"}}}),
            "[search_analyzer] of field [y] must be its analyzer: [english] is not [standard]",
        ),
        (
            json!({"properties": {"y": {"type": "date", "format": "strict_date||no"}}}),
            "Invalid format: [no]: unknown date format on field [y]",
        ),
        (json!({"foo": {"a": 1}}), "Root mapping definition has unsupported parameters:  [foo : {\"a\":1}]"),
        (json!({"properties": {"_id": {"type": "keyword"}}}), "Field [_id] is defined more than once"),
        (
            json!({"properties": {"a": {"type": "text", "fields": {"b": {"type": "object"}}}}}),
            "Type [object] cannot be used in multi field [a.b]",
        ),
        (json!({"properties": {"a": {"type": "text", "fields": {"b": {}}}}}), "no type specified for property [b]"),
        (
            json!({"properties": {"a": {"type": "text", "fields": {"b": {"type": "text", "fields": {}}}}}}),
            "unknown parameter [fields] on mapper [b] of type [text]",
        ),
    ] {
        assert_eq!(refused(json.clone()), (parsing, reason.to_owned()), "{json}");
    }
    assert_eq!(refused(json!([])).0, parsing);
    assert_eq!(refused(json!({"dynamic": "runtime"})).0, parsing);
    assert_eq!(refused(json!({"properties": {"": {"type": "long"}}})).0, "illegal_argument_exception");
    assert_eq!(refused(json!({"properties": {"a..b": {"type": "long"}}})).0, "illegal_argument_exception");
    assert_eq!(
        refused(json!({"properties": {"k": {"type": "keyword", "ignore_above": 0}}})).0,
        "illegal_argument_exception"
    );
}

#[test]
fn a_thousand_fields_and_no_more() {
    let of = |count: usize| {
        let properties: serde_json::Map<String, Value> = (0..count)
            .map(|number| (format!("f{number}"), json!({"type": "text", "fields": {"k": {"type": "keyword"}}})))
            .collect();
        json!({"properties": properties})
    };
    assert_eq!(parse(of(500)).size(), 1000);
    let limit = ("illegal_argument_exception", "Limit of total fields [1000] has been exceeded".to_owned());
    assert_eq!(refused(of(501)), limit);
    let error = parse(of(500)).merge(&json!({"properties": {"one.more": {"type": "long"}}})).unwrap_err();
    assert_eq!((error.error_type, error.reason), limit);
}

#[test]
fn depth_is_limited() {
    let nested = |objects: usize| {
        let mut json = json!({"type": "long"});
        for _ in 0..objects {
            json = json!({"properties": {"a": json}});
        }
        json!({"properties": {"a": json}})
    };
    assert!(Mapping::parse(&nested(19)).is_ok());
    for objects in [20, 21, 22, 23, 100] {
        let (error_type, reason) = refused(nested(objects));
        assert_eq!(error_type, "illegal_argument_exception");
        assert!(
            reason.starts_with("Limit of mapping depth [20] has been exceeded due to object field [a.a"),
            "{reason}"
        );
    }
    let dotted = vec!["a"; 5000].join(".");
    assert_eq!(refused(json!({"properties": {dotted: {"type": "long"}}})).0, "illegal_argument_exception");
}

#[test]
fn updates_add() {
    let grown = books()
        .merge(&json!({"dynamic": false, "properties": {
            "title": {"type": "text", "analyzer": "english", "fields": {"plain": {"type": "text"}}},
            "author": {"properties": {"born": {"type": "date"}}},
            "author.name": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
            "pages": {"type": "short"}
        }}))
        .unwrap();
    assert_eq!(grown.dynamic(), Dynamic::False);
    for path in ["title.raw", "title.plain", "author.born", "author.name.raw", "author.ip", "pages", "year"] {
        assert!(grown.field(path).is_some(), "{path}");
    }
    assert_eq!(books().merge(&json!({})).unwrap(), books());
    assert_eq!(books().merge(&books().to_json()).unwrap(), books());
}

#[test]
fn contradictions_are_refused() {
    for (update, reason) in [
        (json!({"year": {"type": "text"}}), "mapper [year] cannot be changed from type [long] to [text]"),
        (
            json!({"title": {"type": "text", "analyzer": "english", "fields": {"raw": {"type": "long"}}}}),
            "mapper [title.raw] cannot be changed from type [keyword] to [long]",
        ),
        (
            json!({"title": {"type": "text"}}),
            "Mapper for [title] conflicts with existing mapper:\n\tCannot update parameter [analyzer] from [english] to [default]",
        ),
        (
            json!({"printed": {"type": "date"}}),
            "Mapper for [printed] conflicts with existing mapper:\n\tCannot update parameter [format] from [epoch_second||strict_date] to [strict_date_optional_time||epoch_millis]",
        ),
        (json!({"author": {"type": "text"}}), "can't merge a non object mapping [author] with an object mapping"),
        (
            json!({"year": {"properties": {"a": {"type": "long"}}}}),
            "mapper [year] cannot be changed from type [long] to [object]",
        ),
    ] {
        let error = books().merge(&json!({"properties": update})).unwrap_err();
        assert_eq!((error.error_type, error.reason.as_str()), ("illegal_argument_exception", reason), "{update}");
    }
}

fn seen(path: &str, types: &[u32]) -> DynamicField {
    DynamicField { path: path.to_owned(), types: types.iter().map(|number| 1 << number).sum(), spare: None }
}

#[test]
fn dynamic_fields_have_the_least_type_that_holds_them() {
    // Numbers of v1::DynamicType: 1 long, 2 double, 3 boolean, 4 date, 5 string.
    let shown = Mapping::default()
        .with_dynamic(&[
            seen("n", &[1]),
            seen("d", &[1, 2]),
            seen("b", &[3]),
            seen("t", &[4]),
            seen("s", &[5]),
            seen("o.mixed", &[1, 3]),
            seen("o.dated", &[4, 5]),
            seen("shards", &[1]),
            seen("shards", &[2]),
        ])
        .to_json();
    let text = json!({"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}});
    assert_eq!(
        shown,
        json!({"properties": {
            "n": {"type": "long"}, "d": {"type": "double"}, "b": {"type": "boolean"}, "t": {"type": "date"}, "s": text,
            "o": {"properties": {"mixed": text, "dated": text}}, "shards": {"type": "double"}
        }})
    );
}

#[test]
fn the_catalog_wins_over_dynamic_fields() {
    let joined =
        books().with_dynamic(&[seen("year", &[5]), seen("a", &[1]), seen("a.b", &[5]), seen("a.b.keyword", &[1])]);
    assert_eq!(joined.field("year").unwrap().field_type, FieldType::Long);
    assert_eq!(joined.field("year").unwrap().dynamic, None);
    assert_eq!(joined.field("a").unwrap().field_type, FieldType::Long);
    assert!(joined.is_object("a"));
    assert!(joined.field("a.b").unwrap().field_type.is_text());
    // A field of its own hides the multi-field of the same path.
    assert_eq!(joined.field("a.b.keyword").unwrap().field_type, FieldType::Long);
    assert_eq!(joined.field("a.b.keyword").unwrap().source_path, "a.b.keyword");
    let multi = Mapping::default().with_dynamic(&[seen("s", &[5])]);
    assert_eq!(multi.field("s.keyword").unwrap().source_path, "s");
    assert_eq!(multi.field("s.keyword").unwrap().dynamic, Some(32));
    assert_eq!(books().with_dynamic(&[]), books());
}

fn any_type() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"type": "long"})),
        Just(json!({"type": "float"})),
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "ip"})),
        Just(json!({"type": "date"})),
        Just(json!({"type": "date", "format": "epoch_second||date_optional_time"})),
        (1u32..1000).prop_map(|characters| json!({"type": "keyword", "ignore_above": characters})),
        (0usize..23).prop_map(|number| {
            let analyzer = Analyzer::all().nth(number).unwrap_or(Analyzer::Standard);
            json!({"type": "text", "analyzer": analyzer.name(), "fields": {"k": {"type": "keyword"}}})
        }),
    ]
}

fn any_node() -> impl Strategy<Value = Value> {
    any_type().prop_recursive(3, 24, 5, |inner| {
        (
            prop::option::of(prop_oneof![Just("true"), Just("false"), Just("strict")]),
            prop::collection::btree_map("[a-d]{1,2}", inner, 0..5),
        )
            .prop_map(|(dynamic, properties)| {
                let mut json = json!({"properties": properties});
                if let Some(dynamic) = dynamic {
                    json["dynamic"] = dynamic.into();
                }
                json
            })
    })
}

proptest! {
    #[test]
    fn what_is_shown_is_parsed_again(properties in prop::collection::btree_map("[a-e]{1,2}", any_node(), 0..6)) {
        let mapping = Mapping::parse(&json!({"properties": properties})).unwrap();
        prop_assert_eq!(&Mapping::parse(&mapping.to_json()).unwrap(), &mapping);
        prop_assert_eq!(&mapping.merge(&mapping.to_json()).unwrap(), &mapping);
        let paths: Vec<&str> = mapping.fields().map(|field| field.path.as_str()).collect();
        prop_assert!(paths.is_sorted());
        for (number, path) in paths.iter().enumerate() {
            prop_assert_eq!(mapping.field_number(path), Some(number));
        }
    }

    #[test]
    fn no_json_is_too_odd(text in "[\\[\\]{}\":,a-c0-9tfn.]{0,40}") {
        if let Ok(json) = serde_json::from_str::<Value>(&text) {
            let _ = Mapping::parse(&json);
            let _ = Mapping::parse(&json!({"properties": json}));
        }
    }
}
