//! Documents as Elasticsearch takes and refuses them.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn mapping() -> Mapping {
    Mapping::parse(&json!({"properties": {
        "active": {"type": "boolean"},
        "at": {"type": "date"},
        "b": {"type": "byte"},
        "day": {"type": "date", "format": "strict_date"},
        "f": {"type": "float"},
        "host": {"type": "ip"},
        "i": {"type": "integer"},
        "o": {"properties": {"x": {"type": "double"}, "strict": {"type": "object", "dynamic": "strict"}, "off": {"type": "object", "dynamic": false}}},
        "tag": {"type": "keyword", "ignore_above": 5},
        "title": {"type": "text", "fields": {"raw": {"type": "keyword"}, "len": {"type": "keyword", "ignore_above": 3}}},
        "year": {"type": "long"}
    }}))
    .unwrap()
}

fn read(json: &str) -> Document {
    mapping().parse_document(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error:?}"))
}

/// Mapped values with the paths of their fields.
fn mapped(json: &str) -> Vec<(String, Value)> {
    let mapping = mapping();
    read(json)
        .mapped
        .into_iter()
        .map(|(number, value)| (mapping.field_at(number).unwrap().path.clone(), value))
        .collect()
}

fn values(json: &str) -> Vec<Value> {
    read(json).mapped.into_iter().map(|(_, value)| value).collect()
}

fn refused(json: &str) -> DocumentError {
    mapping().parse_document(json.as_bytes()).map(|document| panic!("{json}: {document:?}")).unwrap_err().with_id("7")
}

fn cause(json: &str) -> (String, String) {
    refused(json).caused_by.unwrap()
}

fn illegal(reason: &str) -> (String, String) {
    ("illegal_argument_exception".to_owned(), reason.to_owned())
}

#[test]
fn one_value_feeds_a_field_and_its_multi_fields() {
    let text = || "abcd".to_owned();
    assert_eq!(
        mapped(r#"{"title": "abcd", "year": 1}"#),
        [
            ("title".to_owned(), Value::Text(text())),
            ("title.raw".to_owned(), Value::Keyword(text())),
            ("year".to_owned(), Value::Long(1))
        ]
    );
}

#[test]
fn whole_numbers_are_coerced() {
    for (written, expected) in [
        ("1", 1),
        ("-7", -7),
        ("1.9", 1),
        ("-1.9", -1),
        ("\"12\"", 12),
        ("\" 12 \"", 12),
        ("\"12.7\"", 12),
        ("1e3", 1000),
        ("\"1.5e2\"", 150),
        ("9223372036854775807", i64::MAX),
        ("\"9007199254740993.5\"", 9007199254740993),
        ("1e-400000000000000000000", 0),
        ("-9223372036854775808", i64::MIN),
        ("0e999999999", 0),
        ("123456e-3", 123),
        ("0.00012e6", 120),
    ] {
        assert_eq!(values(&format!(r#"{{"year": {written}}}"#)), [Value::Long(expected)], "{written}");
    }
    assert_eq!(values(r#"{"year": ""}"#), []);
    assert_eq!(
        values(r#"{"year": [1, null, [2, "3"]], "b": null, "i": []}"#),
        [Value::Long(1), Value::Long(2), Value::Long(3)]
    );
}

#[test]
fn whole_numbers_that_do_not_fit() {
    let error = refused(r#"{"year": "abc"}"#);
    assert_eq!(error.error_type, "document_parsing_exception");
    assert_eq!(
        error.reason,
        "[1:10] failed to parse field [year] of type [long] in document with id '7'. Preview of field's value: 'abc'"
    );
    assert_eq!(error.caused_by, Some(illegal("For input string: \"abc\"")));
    assert_eq!(
        cause(r#"{"i": "abc"}"#),
        ("number_format_exception".to_owned(), "For input string: \"abc\"".to_owned())
    );
    assert_eq!(cause(r#"{"b": 300}"#), illegal("Value [300] is out of range for a byte"));
    assert_eq!(
        cause(r#"{"b": -128.9, "i": "2147483648"}"#),
        illegal("Value [2147483648] is out of range for an integer")
    );
    assert_eq!(
        cause(r#"{"year": 9223372036854775808}"#),
        illegal("Value [9223372036854775808] is out of range for a long")
    );
    assert_eq!(cause(r#"{"year": 1e19}"#), illegal("Value [1e19] is out of range for a long"));
    assert_eq!(cause(r#"{"year": 1e999999999999999999999}"#).0, "illegal_argument_exception");
    assert_eq!(
        cause(r#"{"year": true}"#).1,
        "Current token (VALUE_TRUE) not numeric, can not use numeric value accessors"
    );
    assert_eq!(cause(r#"{"year": {"a": 1}}"#), illegal("Cannot parse object as number"));
    for odd in ["\"0x10\"", "\"1d\"", "\"--1\"", "\".\"", "\"1e\"", "\"é\"", "\"+\"", "\"-\""] {
        assert!(mapping().parse_document(format!(r#"{{"year": {odd}}}"#).as_bytes()).is_err(), "{odd}");
    }
}

#[test]
fn floating_point_numbers() {
    assert_eq!(values(r#"{"o": {"x": 0.1}, "f": 0.1}"#), [Value::Double(0.1), Value::Double(f64::from(0.1f32))]);
    assert_eq!(
        values(r#"{"o": {"x": [1, "2.5", "-1e3", ""]}}"#),
        [Value::Double(1.0), Value::Double(2.5), Value::Double(-1000.0)]
    );
    assert_eq!(cause(r#"{"o.x": "NaN"}"#), illegal("[double] supports only finite values, but got [NaN]"));
    assert_eq!(cause(r#"{"f": 1e39}"#), illegal("[float] supports only finite values, but got [Infinity]"));
    assert_eq!(
        cause(r#"{"f": "inf"}"#),
        ("number_format_exception".to_owned(), "For input string: \"inf\"".to_owned())
    );
}

#[test]
fn booleans_dates_and_addresses() {
    assert_eq!(values(r#"{"active": [true, "false", "true", ""]}"#), [true, false, true, false].map(Value::Boolean));
    assert_eq!(
        cause(r#"{"active": "yes"}"#),
        illegal("Failed to parse value [yes] as only [true] or [false] are allowed.")
    );
    assert_eq!(cause(r#"{"active": 1}"#).1, "Current token (VALUE_NUMBER_INT) not of boolean type");
    assert_eq!(
        values(r#"{"at": ["1970-01-02", 5, "6"], "day": "1970-01-01"}"#),
        [86_400_000, 5, 6, 0].map(Value::Date)
    );
    assert_eq!(
        cause(r#"{"at": "soon"}"#),
        illegal("failed to parse date field [soon] with format [strict_date_optional_time||epoch_millis]")
    );
    assert_eq!(cause(r#"{"day": "1970"}"#), illegal("failed to parse date field [1970] with format [strict_date]"));
    assert_eq!(cause(r#"{"at": ""}"#), illegal("cannot parse empty datetime"));
    assert!(cause(r#"{"at": "2263-01-01"}"#).1.contains("is after 2262"));
    assert_eq!(
        values(r#"{"host": ["10.0.0.1", "::1"]}"#),
        ["::ffff:10.0.0.1", "::1"].map(|text| Value::Ip(text.parse().unwrap()))
    );
    assert_eq!(cause(r#"{"host": "localhost"}"#), illegal("'localhost' is not an IP string literal."));
}

#[test]
fn strings_take_any_scalar_and_long_keywords_are_dropped() {
    assert_eq!(
        values(r#"{"tag": [1.50, true, "abcde", "abcdef", "äöüßa", "😀😀x", "😀😀xy"]}"#),
        ["1.50", "true", "abcde", "äöüßa", "😀😀x"].map(|text| Value::Keyword(text.to_owned()))
    );
    let error = refused(r#"{"title": {"a": "x", "b": [1, null]}}"#);
    assert_eq!(
        error.reason,
        "[1:11] failed to parse field [title] of type [text] in document with id '7'. Preview of field's value: '{a=x, b=[1, null]}'"
    );
    assert_eq!(error.caused_by, Some(illegal("Expected text at 1:11 but found START_OBJECT")));
    let immense = format!(r#"{{"title": "{}"}}"#, "x".repeat(40_000));
    assert!(refused(&immense).reason.starts_with("[1:11] failed to parse field [title.raw] of type [keyword]"));
}

#[test]
fn objects_and_values_do_not_mix() {
    assert_eq!(values(r#"{"o": [{"x": 1}, null, {"x": 2}], "o.x": 3}"#), [1.0, 2.0, 3.0].map(Value::Double));
    let error = refused("{\n  \"o\": 5}");
    assert_eq!(error.error_type, "document_parsing_exception");
    assert_eq!(
        error.reason,
        "[2:8] object mapping for [o] tried to parse field [o] as object, but found a concrete value"
    );
    assert!(refused(r#"{"o": ["x"]}"#).reason.contains("tried to parse field [o] as object"));
    assert_eq!(
        refused(r#"{"year.a": 1}"#).reason,
        "[1:2] Could not dynamically add mapping for field [year.a]. Existing mapping for [year] must be of type object but found [long]."
    );
}

#[test]
fn unknown_fields() {
    let error = refused(r#"{"o": {"strict": {"new": null}}}"#);
    assert_eq!(error.error_type, "strict_dynamic_mapping_exception");
    assert_eq!(
        error.reason,
        "[1:19] mapping set to strict, dynamic introduction of [new] within [o.strict] is not allowed"
    );
    let strict = Mapping::parse(&json!({"dynamic": "strict"})).unwrap();
    assert_eq!(
        strict.parse_document(br#"{"x": 1}"#).unwrap_err().reason,
        "[1:2] mapping set to strict, dynamic introduction of [x] within [_doc] is not allowed"
    );
    assert_eq!(read(r#"{"o": {"off": {"a": 1, "b": {"c": [{}]}}}, "o.off.d.e": "x"}"#), Document::default());
    let dynamic = read(
        r#"{"n": 1, "big": 18446744073709551616, "d": [0.5, "x", false, null], "when": "2024-01-02", "y": "2024", "a.b": {"c.d": [[1], {"e": "é"}]}, "o": {"new": {}}}"#,
    );
    let string = |text: &str| DynamicValue::String(text.to_owned());
    let expected: Vec<(String, DynamicValue)> = [
        ("n", DynamicValue::Long(1)),
        ("big", DynamicValue::Double(18446744073709551616.0)),
        ("d", DynamicValue::Double(0.5)),
        ("d", string("x")),
        ("d", DynamicValue::Boolean(false)),
        ("when", DynamicValue::Date(1_704_153_600_000, "2024-01-02".to_owned())),
        ("y", string("2024")),
        ("a.b.c.d", DynamicValue::Long(1)),
        ("a.b.c.d.e", string("é")),
    ]
    .map(|(path, value)| (path.to_owned(), value))
    .into();
    assert_eq!(dynamic, Document { mapped: vec![], dynamic: expected });
    assert_eq!(dynamic.dynamic[0].1.type_bit(), 2);
    assert_eq!(dynamic.dynamic[3].1.type_bit(), 32);
}

#[test]
fn dynamic_values_never_conflict() {
    let document = read(r#"{"z": 1, "z.y": "x", "q": [1, {"r": 2}]}"#);
    assert_eq!(document.dynamic.len(), 4);
}

#[test]
fn names_that_are_refused() {
    assert_eq!(
        refused(r#"{"_id": "1"}"#).reason,
        "[1:2] Field [_id] is a metadata field and cannot be added inside a document. Use the index API request parameters."
    );
    assert_eq!(read(r#"{"a": {"_id": 1}, "_other": 2}"#).dynamic.len(), 2);
    assert_eq!(cause(r#"{"": 1}"#).1, "field name cannot be an empty string");
    assert_eq!(
        cause(r#"{"a.": 1}"#).1,
        "field name starting or ending with a [.] makes object resolution ambiguous: [a.]"
    );
    assert_eq!(cause(r#"{"a..b": 1}"#).1, "field name cannot contain only whitespace: ['a..b']");
    assert_eq!(cause(r#"{"o": {" ": 1}}"#).1, "field name cannot contain only whitespace: [' ']");
}

#[test]
fn malformed_documents() {
    for (source, reason) in [
        ("", "[1:1] failed to parse, document is empty"),
        (" \n", "[2:1] failed to parse, document is empty"),
        ("[1]", "[1:1] Malformed content, must start with an object"),
        ("{} {}", "[1:4] Malformed content, found extra data after parsing"),
        ("{", "[1:2] Unexpected end-of-input"),
        (
            r#"{"a" 1}"#,
            "[1:6] Unexpected character ('1' (code 49)): was expecting a colon to separate field name and value",
        ),
        (r#"{"a": 1,}"#, "[1:9] Unexpected character ('}' (code 125)): was expecting double-quote to start field name"),
        (
            r#"{"a": [1 2]}"#,
            "[1:10] Unexpected character ('2' (code 50)): was expecting comma to separate Array entries",
        ),
        (r#"{"a": 1, "b": {"a": 2, "a": 3}}"#, "[1:24] Duplicate field 'a'"),
        (r#"{"o": {"off": {"a": 2, "a": 3}}}"#, "[1:24] Duplicate field 'a'"),
        (r#"{"a": 01}"#, "[1:7] Invalid numeric value: Leading zeroes not allowed"),
        (
            r#"{"a": nul}"#,
            "[1:7] Unexpected character ('n' (code 110)): expected a valid value (JSON String, Number, Array, Object or token 'null', 'true' or 'false')",
        ),
    ] {
        let error = refused(source);
        assert_eq!((error.error_type, error.reason.as_str()), ("document_parsing_exception", reason), "{source}");
    }
    for source in [
        "{\"a\": \"x",
        "{\"a\": \"x\n\"}",
        r#"{"a": "\x"}"#,
        r#"{"a": "\u12g4"}"#,
        "{\"a\": \"\\u12",
        "{\"a\": \"\\",
        r#"{"a": truex}"#,
        r#"{"a": 1.}"#,
        r#"{"a": -}"#,
        r#"{"a": 1e}"#,
        r#"{"a": 1a}"#,
    ] {
        refused(source);
    }
    assert_eq!(
        mapping().parse_document(b"{\"a\": \"\xff\"}").unwrap_err().reason,
        "[1:8] Invalid UTF-8 start byte 0xff"
    );
    let many: String = (0..40).map(|number| format!("\"k{number}\": 1, ")).collect();
    assert!(refused(&format!("{{{many} \"k7\": 2}}")).reason.ends_with("Duplicate field 'k7'"));
}

#[test]
fn depth_and_number_of_fields_are_limited() {
    let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    assert_eq!(read(&nested(20)).dynamic.len(), 1);
    assert_eq!(refused(&nested(21)).error_type, "illegal_argument_exception");
    assert!(refused(&nested(100_000)).reason.contains("Limit of mapping depth [20]"));
    let arrays = |depth: usize| format!("{{\"a\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(read(&arrays(99)), Document::default());
    assert!(refused(&arrays(1_000_000)).reason.contains("nesting depth"));
    assert!(refused(&format!("{{\"o\": {{\"off\": {}}}}}", nested(100_000))).reason.contains("nesting depth"));
    let many = |count: usize| {
        format!("{{{}}}", (0..count).map(|number| format!("\"f{number}\": [1, 2]")).collect::<Vec<_>>().join(","))
    };
    let free = 1000 - mapping().size();
    assert_eq!(read(&many(free)).dynamic.len(), 2 * free);
    assert_eq!(
        refused(&many(free + 1)).reason,
        format!("Limit of total fields [1000] has been exceeded while adding new fields [{}]", free + 1)
    );
    assert!(refused(&format!("{{\"{}\": 1}}", "x".repeat(5000))).reason.contains("longer than the limit"));
}

#[test]
fn strings_are_unescaped() {
    assert_eq!(
        read(r#"{"a": "\"\\\/\b\f\n\r\té\ud83d\ude00\ud83dx\ude00"}"#).dynamic[0].1,
        DynamicValue::String("\"\\/\u{8}\u{c}\n\r\té😀\u{fffd}x\u{fffd}".to_owned())
    );
    assert_eq!(read(r#"{"\u0061": 1}"#).dynamic[0].0, "a");
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        "\\PC{0,12}".prop_map(|value| json!(value)),
        "(now|2024-01-0[1-9])(T1[0-9])?".prop_map(|value| json!(value)),
        "[-+0-9.eE]{0,8}".prop_map(|value| json!(value)),
    ];
    let names = prop_oneof![
        "[a-z.]{0,3}",
        Just("year".to_owned()),
        Just("o".to_owned()),
        Just("at".to_owned()),
        Just("b".to_owned())
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| json!(values)),
            prop::collection::btree_map(names.clone(), inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = mapping().parse_document(&bytes);
    }

    #[test]
    fn no_text_is_too_odd(text in "[\\[\\]{}\":,.\\\\ayear0-9eE+tfnu-]{0,60}") {
        let _ = mapping().parse_document(text.as_bytes());
        let source = format!("{{\"a\":{text}}}");
        let accepted = Mapping::default().parse_document(source.as_bytes()).is_ok();
        // What is accepted is JSON; the reverse does not hold (duplicate keys, names, depth).
        prop_assert!(!accepted || serde_json::from_str::<serde_json::Value>(&source).is_ok() || text.contains("\\u"));
    }

    #[test]
    fn any_json_has_one_answer(json in any_json(), pretty: bool) {
        let mapping = mapping();
        let source = if pretty { serde_json::to_vec_pretty(&json) } else { serde_json::to_vec(&json) }.unwrap();
        let first = mapping.parse_document(&source);
        prop_assert_eq!(&first, &mapping.parse_document(&source));
        if let Ok(document) = first {
            prop_assert!(json.is_object());
            prop_assert!(document.mapped.iter().all(|(number, _)| mapping.field_at(*number).is_some()));
        }
    }
}
