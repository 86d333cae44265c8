//! Apply rules, version 1, pinned: the same rows have to come to the same for as long as rows of version 1 are in
//! anybody's log. A change that fails here needs a new version (see `APPLY_VERSION`), not a new expectation.

use trawl_proto::v1::ReturnedSource;
use trawl_proto::v1::operation::VersionType;

use super::*;

fn update(id: &str, body: &str) -> Operation {
    let source = body.as_bytes().to_vec().into();
    Operation { kind: Kind::Update.into(), id: id.to_owned(), source, ..Operation::default() }
}

fn external(id: &str, version: u64, version_type: VersionType) -> Operation {
    Operation { version: Some(version), version_type: version_type.into(), ..index(id, &json!({"n": version})) }
}

fn history() -> Vec<Operation> {
    let create = |id: &str| Operation { kind: Kind::Create.into(), ..index(id, &json!({"n": 1})) };
    let conditional =
        |seq, term| Operation { if_seq_no: Some(seq), if_primary_term: Some(term), ..index("a", &json!({"n": 2})) };
    vec![
        create("a"),
        create("a"),
        index("a", &json!({"n": 2, "o": {"x": [1, "y"]}})),
        conditional(3, 1),
        conditional(3, 1),
        update("a", r#"{"doc":{"o":{"z":null},"n":2}}"#),
        update("a", r#"{"doc":{"n":2}}"#),
        update("a", r#"{"doc":{"n":2},"detect_noop":false}"#),
        update("a", r#"{"doc":{"n":"word"}}"#),
        update("b", r#"{"doc":{"n":3}}"#),
        update("b", r#"{"doc":{"n":3},"upsert":{"n":4}}"#),
        update("b", r#"{"doc":{"n":5},"doc_as_upsert":true}"#),
        update("b", r#"{"dok":{}}"#),
        delete("b"),
        delete("b"),
        delete("never"),
        index("b", &json!({"n": 6})),
        external("c", 7, VersionType::External),
        external("c", 7, VersionType::External),
        external("c", 7, VersionType::ExternalGte),
        external("c", 6, VersionType::ExternalGte),
        delete("c"),
        index("c", &json!({"n": 1.5})),
        index("c", &json!({"n": {"not": "a number"}})),
        index("", &json!({})),
        index(&"x".repeat(513), &json!({})),
        Operation { id: "d".to_owned(), ..Operation::default() },
        index("d", &json!({"new": [1, "two", 3.5], "date": "2024-02-03", "deep": [{"a": true}, {"a": "b"}]})),
    ]
}

const EXPECTED: &str = r#"1 Created 1
2 VersionConflict 1 version_conflict_engine_exception
3 Updated 2
4 Updated 3
5 VersionConflict 3 version_conflict_engine_exception
6 Updated 4
7 Noop 4
8 Updated 5
9 Rejected 0 document_parsing_exception
10 Missing 0 document_missing_exception
11 Created 1
12 Updated 2
13 Rejected 0 x_content_parse_exception
14 Deleted 3
15 NotFound 4
16 NotFound 1
17 Created 5
18 Created 7
19 VersionConflict 7 version_conflict_engine_exception
20 Updated 7
21 VersionConflict 7 version_conflict_engine_exception
22 Deleted 8
23 Created 9
24 Rejected 0 document_parsing_exception
25 Rejected 0 illegal_argument_exception
26 Rejected 0 illegal_argument_exception
27 Rejected 0 illegal_argument_exception
28 Created 1
a at 8, version 5: {"n":2,"o":{"z":null}}
b at 17, version 5: {"n":6}
c at 23, version 9: {"n":1.5}
d at 28, version 1: {"date":"2024-02-03","deep":[{"a":true},{"a":"b"}],"new":[1,"two",3.5]}"#;

#[test]
fn rules_of_version_1_stay_as_they_are() {
    let mut bench = Bench::new(vec![json!({"properties": {"n": {"type": "long"}}})]);
    for (place, operation) in history().into_iter().enumerate() {
        bench.append(vec![operation], 1, 1_000 * place as u64);
    }
    let shown = bench.catch_up().into_iter().map(|outcome| {
        let kind = outcome.error.as_ref().map_or("", |error| error.r#type.as_str());
        format!("{} {:?} {} {kind}", outcome.seq, outcome.result(), outcome.version).trim().to_owned()
    });
    let mut shown: Vec<String> = shown.collect();
    shown.extend(bench.documents().into_iter().map(|(id, (seq, version, source))| {
        format!("{id} at {seq}, version {version}: {}", String::from_utf8(source).unwrap())
    }));
    assert_eq!(shown.join("\n"), EXPECTED.trim(), "see the head of this file");
}

#[test]
fn a_row_of_newer_rules_stops_the_replica_before_it() {
    let mut bench = Bench::new(vec![json!({})]);
    bench.append(vec![index("a", &json!({}))], 1, 1);
    bench.catch_up();
    let row = bench.append(vec![index("b", &json!({}))], 1, 1);
    let newer = Record { apply_version: APPLY_VERSION + 1, ..row.clone() };
    let Err(Stop::Error(error)) = bench.core().apply(&newer, None) else { panic!("it was applied") };
    assert!(error.reason().contains("row 2 needs apply rules 2") && error.reason().contains("knows 1"));
    assert!(!error.is_damage(), "a copy would not help");
    assert_eq!(bench.core().applied().seq, Seq(1));
    assert_eq!(results(&bench.core().apply(&row, None).unwrap()), [(Came::Created, 1)]);
}

#[test]
fn an_operation_of_an_unknown_kind_stops_the_replica_and_is_not_rejected() {
    let known = index("a", &json!({}));
    for unknown in [Operation { kind: 99, ..known.clone() }, Operation { version_type: 7, ..known.clone() }] {
        let mut bench = Bench::new(vec![json!({})]);
        let row = bench.append(vec![known.clone(), unknown], 1, 1);
        let Err(Stop::Error(error)) = bench.core().apply(&row, None) else { panic!("it was applied") };
        assert!(error.reason().contains("operation 2 is of a kind") && !error.is_damage(), "{}", error.reason());
        assert_eq!(bench.core().applied().seq, Seq(0));
    }
}

#[test]
fn an_outcome_brings_the_document_of_that_very_update_along() {
    let mut bench = Bench::new(vec![json!({})]);
    let returned = |includes: &[&str]| {
        let includes = includes.iter().map(|path| (*path).to_owned()).collect();
        Some(ReturnedSource { includes, excludes: Vec::new() })
    };
    let asked = |body: &str, includes: &[&str]| Operation { returned: returned(includes), ..update("a", body) };
    let with_routing = Operation {
        routing: Some("r".to_owned()),
        ..asked(r#"{"doc":{"n":1,"o":{"x":1}},"doc_as_upsert":true}"#, &[])
    };
    let missing = Operation { id: "b".to_owned(), ..asked(r#"{"doc":{}}"#, &[]) };
    // One row, so that later operations are applied before anybody can ask.
    let row = vec![
        with_routing,
        asked(r#"{"doc":{"n":2}}"#, &["o.x"]),
        update("a", r#"{"doc":{"n":3}}"#),
        asked(r#"{"doc":{"n":3}}"#, &[]),
        missing,
        delete("a"),
    ];
    bench.append(row, 1, 1);
    let outcomes = bench.catch_up();
    let documents: Vec<&str> = outcomes.iter().map(|o| std::str::from_utf8(&o.document).unwrap()).collect();
    let noop = r#"{"n":3,"o":{"x":1}}"#;
    assert_eq!(documents, [r#"{"n":1,"o":{"x":1}}"#, r#"{"o":{"x":1}}"#, "", noop, "", ""]);
    assert_eq!(outcomes[0].document_routing.as_deref(), Some("r"));
    assert_eq!((outcomes[3].result(), outcomes[3].document_seq), (Came::Noop, 3));
}
