//! The state machine over a real index, against a model that keeps everything in a map.

#![allow(clippy::unwrap_used)]

mod model;
mod rules;

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;
use serde_json::{Value as Json, json};
use tantivy::TantivyDocument;
use tantivy::schema::Value;
use trawl_cluster::shard_log::chain;
use trawl_proto::v1::Batch;
use trawl_proto::v1::outcome::Result as Came;

use super::*;
use crate::apply::tombstones::TOMBSTONE_MS;
use crate::schema::{ID, Physical, SEQ_NO, VERSION};
use trawl_proto::v1::Operation;

/// A replica and its log, without a cluster.
struct Bench {
    dir: tempfile::TempDir,
    mappings: Vec<Json>,
    log: Vec<Record>,
    core: Option<Core>,
}

impl Bench {
    fn new(mappings: Vec<Json>) -> Self {
        let mut bench = Self { dir: tempfile::tempdir().unwrap(), mappings, log: Vec::new(), core: None };
        bench.open();
        bench
    }

    /// Drops what is open, as a crash would, and opens the last commit.
    fn open(&mut self) {
        self.core = None;
        let mappings: Vec<Mapping> = self.mappings.iter().map(|json| Mapping::from_stored(json).unwrap()).collect();
        let core = Core::open(
            ShardKey::new("uid", 0),
            ReplicaDir::new(self.dir.path().join("0")),
            1,
            0,
            Arc::default(),
            Box::new(move |version| Ok(mappings[version as usize - 1].clone())),
        );
        self.core = Some(core.unwrap());
    }

    fn core(&mut self) -> &mut Core {
        self.core.as_mut().unwrap()
    }

    fn append(&mut self, operations: Vec<Operation>, mapping_version: u64, time_ms: u64) -> Record {
        let first = self.log.last().map_or(Seq(1), |row| row.last.next());
        let last = Seq(first.0 + operations.len() as u64 - 1);
        let body: bytes::Bytes = Batch { operations }.encode_to_vec().into();
        let chain = chain(self.log.last().map_or(0, |row| row.chain), first, &body);
        let incarnation = Incarnation(1);
        let row = Record { incarnation, first, last, mapping_version, apply_version: 1, time_ms, chain, body };
        self.log.push(row.clone());
        row
    }

    /// Applies everything that the log has and the core does not, making the index anew when asked.
    fn catch_up(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        loop {
            let at = self.core().applied().seq;
            let Some(row) = self.log.iter().find(|row| row.first > at).cloned() else { return outcomes };
            match self.core().apply(&row, None) {
                Ok(more) => outcomes.extend(more),
                Err(Stop::Spares(spares)) => {
                    self.core.take().unwrap().rebuild(spares).unwrap();
                    self.open();
                }
                Err(Stop::Schema(version)) => {
                    self.core.take().unwrap().recreate(version).unwrap();
                    self.open();
                }
                Err(Stop::Commit) => drop(self.commit()),
                Err(Stop::Error(error)) => panic!("{error}"),
                Err(Stop::Again) => self.open(),
            }
        }
    }

    fn commit(&mut self) -> Arc<ShardSearcher> {
        let searcher = self.core().commit().unwrap();
        self.core().pending.clear();
        searcher
    }

    /// id -> (seq, version, source) of all live documents.
    fn documents(&mut self) -> BTreeMap<String, (u64, u64, Vec<u8>)> {
        let searcher = self.commit();
        let mut documents = BTreeMap::new();
        for reader in searcher.searcher.segment_readers() {
            let columns = reader.fast_fields();
            let ids = columns.str(ID).unwrap().unwrap();
            let store = reader.get_store_reader(1).unwrap();
            for doc in reader.doc_ids_alive() {
                let mut id = String::new();
                ids.ord_to_str(ids.term_ords(doc).next().unwrap(), &mut id).unwrap();
                let stored: TantivyDocument = store.get(doc).unwrap();
                let source = stored.get_first(searcher.physical.hidden.source).unwrap();
                let first = |name| columns.u64(name).unwrap().first(doc).unwrap();
                let document = (first(SEQ_NO), first(VERSION), source.as_value().as_bytes().unwrap().to_vec());
                assert!(documents.insert(id, document).is_none(), "a document is there twice");
            }
        }
        documents
    }
}

fn index(id: &str, source: &Json) -> Operation {
    let source = source.to_string().into_bytes().into();
    Operation { kind: Kind::Index.into(), id: id.to_owned(), source, ..Operation::default() }
}

fn delete(id: &str) -> Operation {
    Operation { kind: Kind::Delete.into(), id: id.to_owned(), ..Operation::default() }
}

fn results(outcomes: &[Outcome]) -> Vec<(Came, u64)> {
    outcomes.iter().map(|outcome| (outcome.result(), outcome.version)).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<(u8, u8, u8, u8)>, u64),
    Commit,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let operation = (0u8..3, 0u8..6, 0u8..5, 0u8..6);
    let step = prop_oneof![
        6 => (prop::collection::vec(operation, 1..6), prop_oneof![Just(0u64), Just(5), Just(TOMBSTONE_MS / 2), Just(TOMBSTONE_MS + 1)])
            .prop_map(|(operations, ms)| Step::Batch(operations, ms)),
        2 => Just(Step::Commit),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..25)
}

/// The rules once more, as plainly as they can be said.
#[derive(Default)]
struct Model {
    live: BTreeMap<String, (u64, u64, Vec<u8>)>,
    deleted: BTreeMap<String, (u64, u64)>,
}

impl Model {
    fn apply(&mut self, operation: &Operation, seq: u64, now: u64, is_valid: bool) -> (Came, u64) {
        self.deleted.retain(|_, (_, at)| now - *at <= TOMBSTONE_MS);
        let live = self.live.get(&operation.id).cloned();
        let before =
            live.as_ref().map(|live| live.1).or(self.deleted.get(&operation.id).map(|gone| gone.0)).unwrap_or(0);
        let kind = operation.kind();
        if kind != Kind::Delete && !is_valid {
            return (Came::Rejected, 0);
        }
        if operation.if_seq_no.is_some_and(|wanted| live.as_ref().is_none_or(|live| live.0 != wanted))
            || (kind == Kind::Create && live.is_some())
        {
            return (Came::VersionConflict, before);
        }
        let version = before + 1;
        if kind == Kind::Delete {
            self.live.remove(&operation.id);
            self.deleted.insert(operation.id.clone(), (version, now));
            (if live.is_some() { Came::Deleted } else { Came::NotFound }, version)
        } else {
            self.deleted.remove(&operation.id);
            self.live.insert(operation.id.clone(), (seq, version, operation.source.to_vec()));
            (if live.is_some() { Came::Updated } else { Came::Created }, version)
        }
    }
}

const SOURCES: [(&str, bool); 5] = [
    (r#"{"n":1,"t":"one two"}"#, true),
    (r#"{"n":"abc"}"#, false),
    (r#"{"new":"text of its own","more":{"x":1.5,"when":"2024-02-03"}}"#, true),
    (r#"{"n":"#, false),
    (r#"{"k":["a","b"],"n":null,"t":["x","y z"]}"#, true),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is applied, committed and crashed in between: outcomes, versions and documents are
    /// those of applying the log once.
    #[test]
    fn any_history_gives_what_the_log_says(steps in steps()) {
        let mapping = json!({"properties": {"n": {"type": "long"}, "t": {"type": "text"}, "k": {"type": "keyword"}}});
        let mut bench = Bench::new(vec![mapping]);
        let mut model = Model::default();
        let mut expected: Vec<(Came, u64)> = Vec::new();
        let mut now = 1_000_000;
        for step in steps {
            match step {
                Step::Batch(operations, ms) => {
                    now += ms;
                    let operations: Vec<Operation> = operations.iter().map(|(kind, id, source, condition)| Operation {
                        kind: [Kind::Index, Kind::Create, Kind::Delete][*kind as usize].into(),
                        id: format!("id-{id}"),
                        source: SOURCES[*source as usize].0.as_bytes().to_vec().into(),
                        if_seq_no: (*condition == 0).then_some(expected.len() as u64),
                        if_primary_term: (*condition == 0).then_some(1),
                        ..Operation::default()
                    }).collect();
                    for operation in &operations {
                        let is_valid = SOURCES.iter().any(|(text, valid)| *valid && operation.source == *text);
                        let seq = expected.len() as u64 + 1;
                        expected.push(model.apply(operation, seq, now, is_valid));
                    }
                    bench.append(operations, 1, now);
                }
                Step::Commit => drop(bench.commit()),
                Step::Crash => bench.open(),
            }
            let from = bench.core().applied().seq.0 as usize;
            let outcomes = bench.catch_up();
            prop_assert_eq!(results(&outcomes), &expected[from..]);
            for (at, outcome) in outcomes.iter().enumerate() {
                prop_assert_eq!(outcome.seq, (from + at + 1) as u64);
            }
        }
        prop_assert_eq!(bench.documents(), model.live.clone());
        bench.open();
        prop_assert_eq!(bench.core().applied().seq.0, expected.len() as u64);
        prop_assert_eq!(bench.documents(), model.live);
    }
}

#[test]
fn a_crash_resumes_exactly_behind_the_commit() {
    let mut bench = Bench::new(vec![json!({})]);
    bench.append(vec![index("a", &json!({"x": 1})), index("b", &json!({"x": 2}))], 1, 1);
    bench.catch_up();
    bench.commit();
    bench.append(vec![index("a", &json!({"x": 3})), delete("b")], 1, 2);
    assert_eq!(results(&bench.catch_up()), [(Came::Updated, 2), (Came::Deleted, 2)]);
    bench.open();
    assert_eq!(bench.core().applied().seq, Seq(2));
    assert_eq!(results(&bench.catch_up()), [(Came::Updated, 2), (Came::Deleted, 2)]);
    assert_eq!(bench.documents().into_keys().collect::<Vec<_>>(), ["a"]);
    bench.append(vec![index("b", &json!({}))], 1, 3);
    bench.open();
    assert_eq!(results(&bench.catch_up()), [(Came::Created, 3)]);
}

#[test]
fn a_row_that_does_not_link_stops_the_replica() {
    let mut bench = Bench::new(vec![json!({})]);
    bench.append(vec![index("a", &json!({}))], 1, 1);
    bench.catch_up();
    let good = bench.append(vec![index("b", &json!({}))], 1, 1);
    let mut other = good.clone();
    other.body = Batch { operations: vec![index("c", &json!({}))] }.encode_to_vec().into();
    other.chain = chain(7, other.first, &other.body);
    assert!(matches!(bench.core().apply(&other, None), Err(Stop::Error(Error::History(_)))));
    let skipped = Record { first: Seq(3), last: Seq(3), ..good.clone() };
    assert!(matches!(bench.core().apply(&skipped, None), Err(Stop::Error(Error::History(_)))));
    assert!(bench.core().apply(&good, None).is_ok());
}

#[test]
fn an_empty_index_is_made_again_for_the_first_rows_mapping() {
    let later = json!({"properties": {"t": {"type": "text"}}});
    let mut bench = Bench::new(vec![json!({}), later]);
    bench.append(vec![index("a", &json!({"t": "x"}))], 2, 1);
    bench.catch_up();
    let fields = bench.commit().fields.clone();
    let parts = &fields.resolve("t").unwrap().parts;
    assert!(matches!(&parts[..], [Physical::Text { name, .. }] if name == "m0"), "{parts:?}");
}

#[test]
fn spares_that_run_out_are_doubled_and_every_document_stays_as_it_was() {
    let mapping = json!({"properties": {"t": {"type": "text"}}});
    let mut bench = Bench::new(vec![mapping]);
    let document = |from: usize, to: usize| {
        let mut object: serde_json::Map<String, Json> =
            (from..to).map(|n| (format!("f{n:03}"), json!(format!("word{n} same")))).collect();
        object.insert("t".to_owned(), json!("mapped"));
        Json::Object(object)
    };
    bench.append(vec![index("a", &document(0, 30)), index("gone", &json!({"y": 1})), delete("gone")], 1, 1);
    bench.catch_up();
    let before = bench.documents();
    bench.append(vec![index("b", &document(20, 70)), index("a2", &json!({"t": "again"}))], 1, 2);
    assert_eq!(bench.catch_up().len(), 2);
    let after = bench.documents();
    assert_eq!(after["a"], before["a"]);
    assert_eq!(after.keys().collect::<Vec<_>>(), ["a", "a2", "b"]);
    let searcher = bench.commit();
    assert_eq!(searcher.physical.spare_count(), 128);
    for (field, ids) in [("f000", 1), ("f029", 2), ("f069", 1), ("t", 3)] {
        let part = searcher.fields.resolve(field).unwrap().parts[0].clone();
        let Physical::Text { field: physical, length_name, .. } = part else { panic!("{field} is no text") };
        let lengths: u64 = searcher
            .searcher
            .segment_readers()
            .iter()
            .flat_map(|reader| {
                let column = reader.fast_fields().u64(&length_name).unwrap();
                (0..reader.max_doc())
                    .filter(|doc| !reader.is_deleted(*doc))
                    .filter_map(move |doc| column.first(doc))
                    .collect::<Vec<_>>()
            })
            .sum();
        let term = if field == "t" { "mapped" } else { "same" };
        let found = searcher.searcher.doc_freq(&tantivy::Term::from_field_text(physical, term)).unwrap();
        if field == "t" {
            assert_eq!((found, lengths), (2, 3));
        } else {
            assert_eq!((found, lengths), (ids, 2 * ids), "{field}");
        }
    }
    // The old index directory goes at the next opening.
    bench.open();
    let directories = std::fs::read_dir(bench.dir.path().join("0")).unwrap().flatten();
    assert_eq!(directories.filter(|entry| entry.path().is_dir()).count(), 1);
    assert_eq!(bench.documents(), after);
}

#[test]
fn later_fields_live_in_spares_and_under_keys_by_their_type() {
    let later = json!({"properties": {
        "title": {"type": "text", "analyzer": "english", "fields": {"keyword": {"type": "keyword"}, "raw": {"type": "keyword"}}},
        "ip": {"type": "ip"}, "n": {"type": "long"}, "own": {"type": "double"}
    }});
    let mut bench = Bench::new(vec![json!({"properties": {"own": {"type": "double"}}}), later]);
    bench.append(vec![index("a", &json!({"title": "Dynamic words", "n": 5, "mixed": 1, "own": 2.5}))], 1, 1);
    bench.append(
        vec![index(
            "b",
            &json!({"title": "Mapped words", "n": 6, "ip": "10.0.0.1", "mixed": "one", "deep": {"er": true}}),
        )],
        2,
        2,
    );
    bench.catch_up();
    let searcher = bench.commit();
    let fields = &searcher.fields;
    let parts = |path: &str| fields.resolve(path).unwrap().parts.clone();
    assert!(matches!(&parts("own")[..], [Physical::Double { name, .. }] if name == "m0"));
    assert!(matches!(&parts("title")[..], [Physical::Text { name, .. }] if name == "s0"));
    // Strings from before and after the mapping are found under the same key.
    assert!(matches!(&parts("title.keyword")[..], [Physical::Strings { key, .. }] if key.path == "title"));
    assert!(matches!(&parts("title.raw")[..], [Physical::Strings { key, .. }] if key.path == "title.raw"));
    assert!(matches!(&parts("mixed")[..], [Physical::Text { .. }, Physical::Typed { .. }]));
    let [Physical::Typed { column, .. }] = &parts("deep.er")[..] else { panic!("deep.er") };
    let column_of = |name: &str| {
        let readers = searcher.searcher.segment_readers();
        readers.iter().filter(|reader| reader.fast_fields().dynamic_column_handles(name).unwrap().len() == 1).count()
    };
    assert_eq!(column_of(column), 1);
    let [Physical::Typed { column, .. }] = &parts("ip")[..] else { panic!("ip") };
    assert_eq!(column_of(column), 1);
    assert_eq!(fields.dynamic().iter().map(|field| field.path.as_str()).collect::<Vec<_>>(), ["mixed", "deep.er"]);
    assert!(fields.resolve("nowhere").is_none());
}

#[test]
fn a_closed_mapping_takes_the_fields_of_its_list_and_no_others() {
    let open = Mapping::parse(&json!({"properties": {"n": {"type": "long"}}})).unwrap();
    let closed = open.close(["a".to_owned(), "b".to_owned()]);
    let mut bench = Bench::new(vec![open.to_stored(), closed.to_stored()]);
    bench.append(vec![index("1", &json!({"a": 1}))], 1, 1);
    bench.append(
        vec![index("2", &json!({"a": 2, "b": "new here"})), index("3", &json!({"c": 1, "d": 2, "n": 1}))],
        2,
        2,
    );
    bench.append(vec![index("4", &json!({"n": 5}))], 2, 3);
    let outcomes = bench.catch_up();
    let came: Vec<Came> = outcomes.iter().map(Outcome::result).collect();
    assert_eq!(came, [Came::Created, Came::Created, Came::Rejected, Came::Created]);
    assert_eq!(
        outcomes[2].error.as_ref().unwrap().reason,
        "Limit of total fields [1000] has been exceeded while adding new fields [2]"
    );
}

#[test]
fn only_so_many_fields_and_bytes_of_id_are_taken() {
    let mut bench = Bench::new(vec![json!({})]);
    let many = |from: usize| Json::Object((from..from + 400).map(|n| (format!("n{n}"), json!(n))).collect());
    bench.append(vec![index("a", &many(0)), index("b", &many(400)), index("c", &many(800))], 1, 1);
    let long = "x".repeat(513);
    bench.append(vec![index(&long, &json!({})), index("", &json!({}))], 1, 1);
    let outcomes = bench.catch_up();
    let came: Vec<Came> = outcomes.iter().map(Outcome::result).collect();
    assert_eq!(came, [Came::Created, Came::Created, Came::Rejected, Came::Rejected, Came::Rejected]);
    assert_eq!(
        outcomes[2].error.as_ref().unwrap().reason,
        "Limit of total fields [1000] has been exceeded while adding new fields [400]"
    );
}
