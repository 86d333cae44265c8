//! Random documents and queries, and shards that hold them.

use std::sync::Arc;

use prost::Message;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};
use trawl_cluster::shard_log::{Record, chain};
use trawl_data::mapping::Mapping;
use trawl_proto::v1::{self, Operation, operation, query, value};
use trawl_proto::{Incarnation, Seq, ShardKey};

use crate::ShardSearcher;
use crate::apply::Core;
use crate::index::ReplicaDir;
use crate::statistics::plan_statistics;

#[derive(Clone, Debug)]
pub struct Document {
    pub id: String,
    pub title: Vec<String>,
    pub body: Vec<String>,
    pub tag: Option<String>,
    pub tags: Vec<String>,
    pub n: Option<i64>,
    pub d: Option<f64>,
    pub flag: Option<bool>,
    pub date: Option<i64>,
    pub ip: Option<String>,
    /// Dynamic: always numbers, some whole and some not.
    pub x: Option<f64>,
    /// Dynamic: strings.
    pub y: Option<String>,
    pub deleted: bool,
}

impl Document {
    pub fn source(&self) -> Json {
        let mut object = json!({"title": self.title.join(" "), "body": self.body.join(" ")});
        let mut put = |name: &str, value: Json| {
            object[name] = value;
        };
        if let Some(tag) = &self.tag {
            put("tag", json!(tag));
        }
        if !self.tags.is_empty() {
            put("tags", json!(self.tags));
        }
        if let Some(n) = self.n {
            put("n", json!(n));
        }
        if let Some(d) = self.d {
            put("d", json!(d));
        }
        if let Some(flag) = self.flag {
            put("flag", json!(flag));
        }
        if let Some(date) = self.date {
            put("date", json!(date));
        }
        if let Some(ip) = &self.ip {
            put("ip", json!(ip));
        }
        if let Some(x) = self.x {
            put("x", if x.fract() == 0.0 { json!(x as i64) } else { json!(x) });
        }
        if let Some(y) = &self.y {
            put("y", json!(y));
        }
        object
    }
}

pub struct Corpus {
    pub documents: Vec<Document>,
}

impl Corpus {
    pub fn random(random: &mut StdRng, size: usize) -> Self {
        let documents = (0..size).map(|number| random_document(random, format!("doc-{number}"))).collect();
        Self { documents }
    }

    pub fn live(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter(|document| !document.deleted)
    }
}

/// Words with very different frequencies.
pub fn word(random: &mut StdRng) -> String {
    let weight: f64 = random.random();
    format!("w{}", (weight * weight * 14.0) as usize)
}

fn random_document(random: &mut StdRng, id: String) -> Document {
    let words = |random: &mut StdRng, max: usize| -> Vec<String> {
        let length =
            if random.random_bool(0.1) { random.random_range(0..max * 5) } else { random.random_range(0..max) };
        (0..length).map(|_| word(random)).collect()
    };
    let title = words(random, 9);
    let body = words(random, 30);
    let some = |random: &mut StdRng| random.random_bool(0.7);
    Document {
        id,
        title,
        body,
        tag: some(random).then(|| format!("t{}", random.random_range(0..6))),
        tags: (0..random.random_range(0..3)).map(|_| format!("g{}", random.random_range(0..9))).collect(),
        n: some(random).then(|| random.random_range(-5..20)),
        d: some(random).then(|| f64::from(random.random_range(-20..40)) / 8.0),
        flag: some(random).then(|| random.random_bool(0.5)),
        date: some(random).then(|| 1_700_000_000_000 + random.random_range(0..100_000i64) * 86_413),
        ip: some(random).then(|| format!("10.0.{}.{}", random.random_range(0..3), random.random_range(0..255))),
        x: some(random).then(|| f64::from(random.random_range(-6..12)) / 2.0),
        y: some(random).then(|| format!("{} {}", word(random), word(random))),
        deleted: random.random_bool(0.1),
    }
}

pub fn query_of(kind: query::Kind) -> v1::Query {
    v1::Query { kind: Some(kind), boost: None }
}

pub fn string(text: &str) -> v1::Value {
    v1::Value { kind: Some(value::Kind::String(text.to_owned())) }
}

pub fn term(field: &str, text: &str) -> v1::Query {
    query_of(query::Kind::Term(v1::Term { field: field.to_owned(), value: Some(string(text)) }))
}

fn random_value(random: &mut StdRng, corpus: &Corpus) -> (String, v1::Value) {
    let document = &corpus.documents[random.random_range(0..corpus.documents.len())];
    let (field, kind) = match random.random_range(0..9) {
        0 => ("n", value::Kind::Long(document.n.unwrap_or(3))),
        1 => ("d", value::Kind::Double(document.d.unwrap_or(0.5))),
        2 => ("flag", value::Kind::Boolean(random.random_bool(0.5))),
        3 => ("date", value::Kind::DateMs(document.date.unwrap_or(1_700_000_000_000))),
        4 => {
            let ip: std::net::Ipv4Addr = document.ip.as_deref().unwrap_or("10.0.0.1").parse().unwrap();
            ("ip", value::Kind::Ip(ip.to_ipv6_mapped().octets().to_vec().into()))
        }
        5 => ("tags", value::Kind::String(format!("g{}", random.random_range(0..9)))),
        6 => ("x", value::Kind::Double(document.x.unwrap_or(1.0))),
        7 => ("y.keyword", value::Kind::String(document.y.clone().unwrap_or_default())),
        _ => ("tag", value::Kind::String(format!("t{}", random.random_range(0..7)))),
    };
    (field.to_owned(), v1::Value { kind: Some(kind) })
}

pub fn random_query(random: &mut StdRng, corpus: &Corpus, depth: u32) -> v1::Query {
    let choice = if depth == 0 { random.random_range(0..12) } else { random.random_range(0..20) };
    let text_field = |random: &mut StdRng| ["title", "body", "y"][random.random_range(0..3)].to_owned();
    let kind = match choice {
        0..=3 => {
            let (field, text) = (text_field(random), word(random));
            return boosted(random, term(&field, &text));
        }
        4 => {
            let (field, value) = random_value(random, corpus);
            query::Kind::Term(v1::Term { field, value: Some(value) })
        }
        5 => {
            let (field, first) = random_value(random, corpus);
            let mut values = vec![first];
            while values.len() < 3 {
                let (other, value) = random_value(random, corpus);
                if other == field {
                    values.push(value);
                }
            }
            query::Kind::TermSet(v1::TermSet { field, values })
        }
        6 => {
            let (field, value) = random_value(random, corpus);
            let bound = |value: v1::Value, random: &mut StdRng| {
                Some(v1::Bound { value: Some(value), inclusive: random.random_bool(0.5) })
            };
            let lower = random.random_bool(0.7).then(|| bound(value.clone(), random)).flatten();
            let mut upper = None;
            while upper.is_none() && (lower.is_none() || random.random_bool(0.5)) {
                let (other, value) = random_value(random, corpus);
                if other == field {
                    upper = bound(value, random);
                }
            }
            query::Kind::Range(v1::Range { field, lower, upper })
        }
        7 => {
            let prefix = ["w", "w1", "t", "g", "zz"][random.random_range(0..5)].to_owned();
            let field = ["title", "tag", "tags", "y.keyword"][random.random_range(0..4)].to_owned();
            query::Kind::Prefix(v1::Prefix { field, prefix })
        }
        8 => query::Kind::Fuzzy(v1::Fuzzy {
            field: ["title", "tag", "y.keyword"][random.random_range(0..3)].to_owned(),
            term: ["w1", "w01", "1w", "t2", "w3 w1"][random.random_range(0..5)].to_owned(),
            distance: random.random_range(0..3),
            transpositions: random.random_bool(0.5),
            prefix_length: random.random_range(0..3),
        }),
        9 => {
            let field = ["n", "tag", "x", "y", "title", "nowhere", "ip", "tags"][random.random_range(0..8)].to_owned();
            query::Kind::Exists(v1::Exists { field })
        }
        10 => query::Kind::Phrase(v1::Phrase {
            field: text_field(random),
            terms: (0..random.random_range(2..4))
                .map(|place| v1::PhraseTerm { position: place * random.random_range(1..3), term: word(random) })
                .scan(None, |last: &mut Option<u32>, mut term| {
                    term.position = last.map_or(0, |last| term.position.max(last + 1));
                    *last = Some(term.position);
                    Some(term)
                })
                .collect(),
            slop: random.random_range(0..4),
        }),
        11 => match random.random_range(0..3) {
            0 => query::Kind::MatchAll(v1::MatchAll {}),
            1 => query::Kind::MatchNone(v1::MatchNone {}),
            _ => query::Kind::Ids(v1::Ids {
                ids: (0..5).map(|_| format!("doc-{}", random.random_range(0..corpus.documents.len() * 2))).collect(),
            }),
        },
        12..=16 => return random_boolean(random, corpus, depth),
        17 | 18 => query::Kind::DisjunctionMax(v1::DisjunctionMax {
            queries: (0..random.random_range(1..4)).map(|_| random_query(random, corpus, depth - 1)).collect(),
            tie_breaker: [0.0, 0.3, 1.0][random.random_range(0..3)],
        }),
        _ => {
            let query = Some(Box::new(random_query(random, corpus, depth - 1)));
            query::Kind::ConstantScore(Box::new(v1::ConstantScore { query }))
        }
    };
    boosted(random, query_of(kind))
}

fn random_boolean(random: &mut StdRng, corpus: &Corpus, depth: u32) -> v1::Query {
    let some = |max: usize, random: &mut StdRng| -> Vec<v1::Query> {
        (0..random.random_range(0..=max)).map(|_| random_query(random, corpus, depth - 1)).collect()
    };
    let must = some(2, random);
    let should = some(4, random);
    let filter = if random.random_bool(0.3) { some(1, random) } else { Vec::new() };
    let must_not = if random.random_bool(0.3) { some(1, random) } else { Vec::new() };
    let is_optional = !must.is_empty() || !filter.is_empty();
    let minimum_should_match = match random.random_range(0..3) {
        0 => u32::from(!is_optional && !should.is_empty()),
        1 => u32::from(!should.is_empty()),
        _ => random
            .random_range(0..=u32::try_from(should.len()).unwrap())
            .max(u32::from(!is_optional && !should.is_empty())),
    };
    let boolean = v1::Boolean { must, should, filter, must_not, minimum_should_match };
    boosted(random, query_of(query::Kind::Boolean(boolean)))
}

fn boosted(random: &mut StdRng, query: v1::Query) -> v1::Query {
    let boost = random.random_bool(0.2).then(|| [0.5, 2.0, 3.7][random.random_range(0..3)]);
    v1::Query { boost, ..query }
}

/// Shards that hold a corpus.
pub struct Shards {
    pub searchers: Vec<Arc<ShardSearcher>>,
    _dirs: Vec<tempfile::TempDir>,
}

impl Shards {
    /// Each shard gets its documents in this order, with a commit now and then.
    pub fn of(documents: Vec<Vec<(String, Json)>>, random: &mut StdRng) -> Self {
        let mut shards = Vec::new();
        for documents in documents {
            let mut shard = Shard::new();
            for (id, source) in documents {
                let source = source.to_string().into_bytes().into();
                let kind = operation::Kind::Index.into();
                shard.write(vec![Operation { kind, id, source, ..Operation::default() }]);
                if random.random_bool(0.1) {
                    shard.commit();
                }
            }
            shards.push(shard);
        }
        Self::finish(shards)
    }
}

impl Shards {
    /// Spreads the documents; with a `history` they come in several commits, with updates and deletes.
    pub fn build(corpus: &Corpus, shard_count: usize, history: bool, random: &mut StdRng) -> Self {
        let mut shards: Vec<Shard> = (0..shard_count).map(|_| Shard::new()).collect();
        let mut rows: Vec<Vec<Operation>> = vec![Vec::new(); shard_count];
        for document in &corpus.documents {
            let at = random.random_range(0..shard_count);
            if history && (document.deleted || random.random_bool(0.2)) {
                // An older version first, in a commit of its own, so that it is really deleted.
                let old = random_document(random, document.id.clone());
                shards[at].write(vec![index(&old)]);
                if random.random_bool(0.1) {
                    shards[at].commit();
                }
            }
            match (document.deleted, history) {
                (false, _) => rows[at].push(index(document)),
                (true, true) => rows[at].push(delete(document)),
                (true, false) => {}
            }
        }
        for (shard, row) in shards.iter_mut().zip(rows) {
            let parts = if history { 4 } else { 1 };
            for part in row.chunks(row.len().div_ceil(parts).max(1)) {
                shard.write(part.to_vec());
                shard.commit();
            }
        }
        Self::finish(shards)
    }

    /// Segments of documents of like lengths.
    pub fn build_by_length(corpus: &Corpus, segments: usize) -> Self {
        let mut documents: Vec<&Document> = corpus.live().collect();
        documents.sort_by_key(|document| document.title.len());
        let mut shard = Shard::new();
        for part in documents.chunks(documents.len().div_ceil(segments)) {
            shard.write(part.iter().map(|document| index(document)).collect());
            shard.commit();
        }
        Self::finish(vec![shard])
    }

    fn finish(shards: Vec<Shard>) -> Self {
        let mut searchers = Vec::new();
        let mut dirs = Vec::new();
        for mut shard in shards {
            searchers.push(shard.commit());
            dirs.push(shard.dir);
        }
        Self { searchers, _dirs: dirs }
    }

    /// The statistics of the whole index for a query, as a root gathers them.
    pub fn statistics(&self, query: &v1::Query) -> v1::IndexStatistics {
        let mut sum = v1::IndexStatistics::default();
        for searcher in &self.searchers {
            let plan = crate::search::build::build(&searcher.fields, &searcher.physical, query).unwrap();
            let own = plan_statistics(searcher, &plan).unwrap();
            sum.documents += own.documents;
            for field in own.fields {
                match sum.fields.iter_mut().find(|known| known.field == field.field) {
                    Some(known) => known.tokens += field.tokens,
                    None => sum.fields.push(field),
                }
            }
            for term in own.terms {
                match sum.terms.iter_mut().find(|known| known.field == term.field && known.term == term.term) {
                    Some(known) => known.documents += term.documents,
                    None => sum.terms.push(term),
                }
            }
        }
        sum
    }
}

fn index(document: &Document) -> Operation {
    let source = document.source().to_string().into_bytes().into();
    Operation { kind: operation::Kind::Index.into(), id: document.id.clone(), source, ..Operation::default() }
}

fn delete(document: &Document) -> Operation {
    Operation { kind: operation::Kind::Delete.into(), id: document.id.clone(), ..Operation::default() }
}

struct Shard {
    dir: tempfile::TempDir,
    core: Core,
    seq: Seq,
    chain: u64,
}

impl Shard {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mapping = Mapping::parse(&json!({"properties": {
            "title": {"type": "text"}, "body": {"type": "text"}, "tag": {"type": "keyword"},
            "tags": {"type": "keyword"}, "n": {"type": "long"}, "d": {"type": "double"},
            "flag": {"type": "boolean"}, "date": {"type": "date"}, "ip": {"type": "ip"},
        }}))
        .unwrap();
        let core = Core::open(
            ShardKey::new("uid", 0),
            ReplicaDir::new(dir.path().join("0")),
            1,
            0,
            Arc::default(),
            Box::new(move |_| Ok(mapping.clone())),
        )
        .unwrap();
        Self { dir, core, seq: Seq(1), chain: 0 }
    }

    fn write(&mut self, operations: Vec<Operation>) {
        if operations.is_empty() {
            return;
        }
        let first = self.seq;
        let last = Seq(first.0 + operations.len() as u64 - 1);
        let body: bytes::Bytes = v1::Batch { operations }.encode_to_vec().into();
        self.chain = chain(self.chain, first, &body);
        let row = Record {
            incarnation: Incarnation(1),
            first,
            last,
            mapping_version: 1,
            apply_version: 1,
            time_ms: 1,
            chain: self.chain,
            body,
        };
        self.seq = last.next();
        for outcome in self.core.apply(&row, None).unwrap_or_else(|_| panic!("a row cannot be applied")) {
            assert!(outcome.error.is_none(), "{outcome:?}");
        }
    }

    fn commit(&mut self) -> Arc<ShardSearcher> {
        self.core.commit().unwrap()
    }
}
