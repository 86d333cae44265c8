//! Random histories of every kind of operation, cut into rows, commits and crashes at random, against a
//! model that keeps everything in maps and knows nothing of how replicas work.

use std::time::Duration;

use trawl_proto::v1::operation::VersionType;

use super::*;
use crate::replica::outcome_files::{Limits, OutcomeFiles};

/// What is asked of one document.
#[derive(Clone, Debug)]
enum Ask {
    Index(usize),
    Create(usize),
    Delete,
    /// Partial document, upsert, doc_as_upsert, detect_noop.
    Update(usize, Option<usize>, bool, bool),
}

#[derive(Clone, Debug)]
enum Only {
    Always,
    /// If the document's seq is this many operations ago.
    Seq(u64),
    External(u64),
    ExternalGte(u64),
}

#[derive(Clone, Debug)]
enum Step {
    Row(Vec<(u8, Ask, Only)>, u64),
    Commit,
    Crash,
    /// A crash that also cuts so many bytes off the newest file of outcomes.
    Torn(u64),
}

/// Documents, and whether they fit the mapping.
const DOCUMENTS: [(&str, bool); 6] = [
    (r#"{"n":1,"o":{"a":1}}"#, true),
    (r#"{"n":2,"o":{"b":[1,2]},"t":"x"}"#, true),
    (r#"{"o":{"a":1}}"#, true),
    (r#"{}"#, true),
    (r#"{"n":"word"}"#, false),
    (r#"{"o":7}"#, true),
];

fn asks() -> impl Strategy<Value = Vec<(u8, Ask, Only)>> {
    let document = || 0..DOCUMENTS.len();
    let ask = prop_oneof![
        3 => document().prop_map(Ask::Index),
        2 => document().prop_map(Ask::Create),
        2 => Just(Ask::Delete),
        6 => (document(), prop::option::of(document()), any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(doc, upsert, as_upsert, noop)| Ask::Update(doc, upsert, as_upsert, noop)),
    ];
    let only = prop_oneof![
        6 => Just(Only::Always),
        2 => (0u64..4).prop_map(Only::Seq),
        1 => (0u64..9).prop_map(Only::External),
        1 => (0u64..9).prop_map(Only::ExternalGte),
    ];
    prop::collection::vec((0u8..3, ask, only), 1..6)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (asks(), prop_oneof![Just(0u64), Just(TOMBSTONE_MS / 2), Just(TOMBSTONE_MS + 1)])
            .prop_map(|(asks, ms)| Step::Row(asks, ms)),
        2 => Just(Step::Commit),
        2 => Just(Step::Crash),
        1 => (1u64..120).prop_map(Step::Torn),
    ];
    prop::collection::vec(step, 1..25)
}

#[derive(Default)]
struct Model {
    /// Seq, version, document.
    live: BTreeMap<String, (u64, u64, Json)>,
    /// Version, when.
    gone: BTreeMap<String, (u64, u64)>,
}

impl Model {
    /// Result, version, and the document's seq for a noop.
    fn apply(&mut self, id: &str, ask: &Ask, only: &Only, seq: u64, now: u64) -> (Came, u64, u64) {
        self.gone.retain(|_, (_, at)| now - *at <= TOMBSTONE_MS);
        let live = self.live.get(id).cloned();
        let before = live.as_ref().map(|live| live.1).or(self.gone.get(id).map(|gone| gone.0));
        let document = |number: usize| serde_json::from_str::<Json>(DOCUMENTS[number].0).unwrap();
        let fits = |json: &Json| json.get("n").is_none_or(Json::is_number);
        let mut wanted = None;
        match ask {
            Ask::Index(number) | Ask::Create(number) => wanted = Some(document(*number)),
            Ask::Delete => {}
            Ask::Update(doc, upsert, as_upsert, noop) => match &live {
                None => match if *as_upsert { Some(*doc) } else { *upsert } {
                    Some(number) => wanted = Some(document(number)),
                    None => return (Came::Missing, 0, 0),
                },
                Some((at, version, old)) => {
                    if matches!(only, Only::Seq(ago) if seq.saturating_sub(*ago) != *at) {
                        return (Came::VersionConflict, *version, 0);
                    }
                    let mut new = old.clone();
                    merge(&mut new, &document(*doc));
                    if *noop && new == *old {
                        return (Came::Noop, *version, *at);
                    }
                    wanted = Some(new);
                }
            },
        }
        if wanted.as_ref().is_some_and(|json| !fits(json)) {
            return (Came::Rejected, 0, 0);
        }
        let is_update = matches!(ask, Ask::Update(..));
        let allowed = match only {
            _ if is_update => true,
            Only::Always => true,
            Only::Seq(ago) => live.as_ref().is_some_and(|live| live.0 == seq.saturating_sub(*ago)),
            Only::External(version) => before.is_none_or(|before| before < *version),
            Only::ExternalGte(version) => before.is_none_or(|before| before <= *version),
        };
        if !allowed || (matches!(ask, Ask::Create(_)) && live.is_some()) {
            return (Came::VersionConflict, before.unwrap_or(0), 0);
        }
        let version = match only {
            Only::External(version) | Only::ExternalGte(version) if !is_update => *version,
            _ => before.unwrap_or(0) + 1,
        };
        match wanted {
            Some(json) => {
                self.gone.remove(id);
                self.live.insert(id.to_owned(), (seq, version, json));
                (if live.is_some() { Came::Updated } else { Came::Created }, version, 0)
            }
            None => {
                self.live.remove(id);
                self.gone.insert(id.to_owned(), (version, now));
                (if live.is_some() { Came::Deleted } else { Came::NotFound }, version, 0)
            }
        }
    }
}

fn merge(old: &mut Json, new: &Json) {
    match (old, new) {
        (Json::Object(old), Json::Object(new)) => {
            for (key, value) in new {
                match old.get_mut(key) {
                    Some(there) => merge(there, value),
                    None => drop(old.insert(key.clone(), value.clone())),
                }
            }
        }
        (old, new) => *old = new.clone(),
    }
}

fn operation(id: &str, ask: &Ask, only: &Only, seq: u64) -> Operation {
    let document = |number: &usize| DOCUMENTS[*number].0.to_owned();
    let (kind, source) = match ask {
        Ask::Index(number) => (Kind::Index, document(number)),
        Ask::Create(number) => (Kind::Create, document(number)),
        Ask::Delete => (Kind::Delete, String::new()),
        Ask::Update(doc, upsert, as_upsert, noop) => {
            let upsert = upsert.as_ref().map(|number| format!(",\"upsert\":{}", document(number))).unwrap_or_default();
            let doc = document(doc);
            (Kind::Update, format!("{{\"doc\":{doc}{upsert},\"doc_as_upsert\":{as_upsert},\"detect_noop\":{noop}}}"))
        }
    };
    let mut operation =
        Operation { kind: kind.into(), id: id.to_owned(), source: source.into(), ..Operation::default() };
    let mut external = |version: u64, version_type: VersionType| {
        if kind != Kind::Update {
            (operation.version, operation.version_type) = (Some(version), version_type.into());
        }
    };
    match only {
        Only::Always => {}
        Only::External(version) => external(*version, VersionType::External),
        Only::ExternalGte(version) => external(*version, VersionType::ExternalGte),
        Only::Seq(ago) => {
            operation.if_seq_no = Some(seq.saturating_sub(*ago));
            operation.if_primary_term = Some(1);
        }
    }
    operation
}

/// The files of outcomes, driven as the tail of a replica drives them.
struct Remembered {
    files: OutcomeFiles,
    dir: std::path::PathBuf,
}

impl Remembered {
    fn open(bench: &mut Bench) -> Self {
        let limits = Limits { time: Duration::from_secs(3_600), bytes_max: 64 << 20 };
        let dir = bench.dir.path().join("beside");
        let files = OutcomeFiles::open(&dir, limits, bench.core().state()).unwrap();
        Self { files, dir }
    }

    fn read(&mut self, last: u64) -> Vec<Outcome> {
        let places = self.files.find(1, last).unwrap();
        places.iter().flat_map(|place| place.read(1, last).unwrap()).map(|(_, outcome)| outcome).collect()
    }

    fn tear(&mut self, bytes: u64) {
        self.files.flush().unwrap();
        let newest = std::fs::read_dir(self.dir.join("outcomes")).unwrap().flatten().map(|entry| entry.path()).max();
        if let Some(path) = newest {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len().saturating_sub(bytes)).unwrap();
        }
    }
}

/// Applies what the log has and the core does not.
fn catch_up(bench: &mut Bench, remembered: &mut Remembered) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    loop {
        let at = bench.core().applied().seq;
        let Some(row) = bench.log.iter().find(|row| row.first > at).cloned() else { return outcomes };
        match bench.core().apply(&row, None) {
            Ok(more) => {
                remembered.files.append(&row, &more).unwrap();
                outcomes.extend(more);
            }
            Err(Stop::Commit) => commit(bench, remembered),
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn commit(bench: &mut Bench, remembered: &mut Remembered) {
    remembered.files.unsynced().unwrap();
    bench.commit();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn outcomes_and_documents_are_those_of_applying_the_log_once(steps in steps(), sources in prop_oneof![Just(0usize), Just(40), Just(1 << 20)]) {
        let mapping = json!({"properties": {"n": {"type": "long"}, "t": {"type": "text"}}});
        let mut bench = Bench::new(vec![mapping]);
        bench.core().keep_sources_within(sources);
        let mut remembered = Remembered::open(&mut bench);
        let mut model = Model::default();
        let mut expected: Vec<(Came, u64, u64)> = Vec::new();
        let (mut now, mut is_torn) = (1_000_000, false);
        for step in steps {
            match step {
                Step::Row(asks, ms) => {
                    now += ms;
                    let mut operations = Vec::new();
                    for (id, ask, only) in &asks {
                        let (id, seq) = (format!("id-{id}"), expected.len() as u64 + 1);
                        operations.push(operation(&id, ask, only, seq));
                        expected.push(model.apply(&id, ask, only, seq, now));
                    }
                    bench.append(operations, 1, now);
                }
                Step::Commit => commit(&mut bench, &mut remembered),
                Step::Crash | Step::Torn(_) => {
                    if let Step::Torn(bytes) = step {
                        remembered.tear(bytes);
                        is_torn = true;
                    }
                    bench.open();
                    bench.core().keep_sources_within(sources);
                    remembered = Remembered::open(&mut bench);
                }
            }
            let from = bench.core().applied().seq.0 as usize;
            let came: Vec<_> = catch_up(&mut bench, &mut remembered)
                .iter()
                .map(|outcome| (outcome.result(), outcome.version, outcome.document_seq))
                .collect();
            prop_assert_eq!(came.as_slice(), &expected[from..]);
        }
        let documents: BTreeMap<String, (u64, u64, Json)> = bench
            .documents()
            .into_iter()
            .map(|(id, (seq, version, source))| (id, (seq, version, serde_json::from_slice(&source).unwrap())))
            .collect();
        prop_assert_eq!(documents, model.live);
        // What is remembered is right, and nothing is forgotten unless files were cut.
        let remembered = remembered.read(expected.len() as u64);
        prop_assert!(is_torn || remembered.len() == expected.len());
        for outcome in remembered {
            let first = expected[outcome.seq as usize - 1];
            prop_assert_eq!((outcome.result(), outcome.version, outcome.document_seq), first);
        }
    }
}
