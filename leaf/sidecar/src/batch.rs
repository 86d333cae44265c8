//! Records to payloads: what one request, or one write to a file, carries. Every sink's payload of a batch covers the same
//! part of the files.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::{SinkConfig, SinkKind};
use crate::encode;
use crate::filter;
use crate::metrics::{Metrics, Of};
use crate::record::{Origin, Record};
use crate::sinks::otlp;

/// How far each generation of a file is covered: everything before the offset.
pub type Progress = Arc<Vec<(u128, u64)>>;

/// What one attempt to ship sends, ready to be sent.
#[derive(Clone, Debug)]
pub struct Payload {
    /// Grows with every payload of a sink.
    pub seq: u64,
    /// What it is besides its bytes.
    pub about: About,
    /// The request's body, not compressed.
    pub body: Bytes,
    /// What is safe when it is.
    pub progress: Progress,
}

/// What is kept with a payload on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct About {
    /// Records in it.
    pub records: u64,
    /// The same for the same records: makes sending it again safe.
    pub key: String,
    /// Days of the indices that it needs.
    pub days: BTreeSet<i64>,
}

/// Gathers the records of one batch.
pub struct Batch {
    resource: Vec<u8>,
    otlp_resource: otlp::Resource,
    open: Vec<Open>,
    /// The record as a document, made once for all sinks that want it.
    document: Vec<u8>,
    records: u64,
}

struct Open {
    sink: SinkConfig,
    filtered: prometheus_client::metrics::counter::Counter,
    body: Vec<u8>,
    otlp: otlp::Logs,
    about: About,
    hash: xxhash_rust::xxh3::Xxh3,
    last_day: Option<i64>,
    /// The action line up to the id, for the last day.
    action: Vec<u8>,
}

impl Batch {
    /// An empty batch for these sinks.
    pub fn new(sinks: &[SinkConfig], resource: &[(String, String)], metrics: &Metrics) -> Self {
        let open = |sink: &SinkConfig| Open {
            sink: sink.clone(),
            filtered: metrics.filtered.get_or_create(&Of { sink: sink.name.clone() }).clone(),
            body: Vec::new(),
            otlp: otlp::Logs::default(),
            about: About::default(),
            hash: xxhash_rust::xxh3::Xxh3::new(),
            last_day: None,
            action: Vec::new(),
        };
        Self {
            resource: encode::resource_json(resource),
            otlp_resource: otlp::Resource::new(resource),
            open: sinks.iter().map(open).collect(),
            document: Vec::new(),
            records: 0,
        }
    }

    /// Adds a record for the sinks that do not have it yet (`has` says so by number) and want it.
    pub fn add(&mut self, record: &Record<'_>, origin: &Origin<'_>, has: impl Fn(usize) -> bool) {
        self.records += 1;
        self.document.clear();
        for (number, open) in self.open.iter_mut().enumerate() {
            if has(number) {
                continue;
            }
            if !filter::wants(&open.sink, record, origin.id) {
                open.filtered.inc();
                continue;
            }
            open.about.records += 1;
            open.hash.update(&origin.id.to_le_bytes());
            if matches!(open.sink.kind, SinkKind::OtlpHttp(_) | SinkKind::OtlpGrpc(_)) {
                open.otlp.add(record, origin);
                continue;
            }
            if self.document.is_empty() {
                encode::document(&mut self.document, record, origin, &self.resource);
                self.document.push(b'\n');
            }
            if let SinkKind::Trawl(_) = open.sink.kind {
                open.action(origin);
            }
            open.body.extend_from_slice(&self.document);
        }
    }

    /// Records added since the last [`Batch::close`], also those that no sink wanted.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of the largest payload.
    pub fn bytes(&self) -> usize {
        self.open.iter().map(|open| open.body.len().max(open.otlp.bytes())).max().unwrap_or(0)
    }

    /// The payloads, one per sink and in their order, without numbers yet; the batch is empty again.
    pub fn close(&mut self, progress: &Progress) -> Vec<Payload> {
        self.records = 0;
        let Self { open, otlp_resource, .. } = self;
        let close = |open: &mut Open| {
            let mut about = std::mem::take(&mut open.about);
            about.key = format!("{:032x}", open.hash.digest128());
            open.hash.reset();
            open.last_day = None;
            let capacity = open.body.len();
            let body = match open.otlp.is_empty() {
                true => std::mem::replace(&mut open.body, Vec::with_capacity(capacity.min(1 << 20))),
                false => open.otlp.take(otlp_resource),
            };
            Payload { seq: 0, about, body: body.into(), progress: progress.clone() }
        };
        open.iter_mut().map(close).collect()
    }
}

impl Open {
    /// The line before a document of a bulk request.
    fn action(&mut self, origin: &Origin<'_>) {
        if self.last_day != Some(origin.day) {
            self.last_day = Some(origin.day);
            self.about.days.insert(origin.day);
            self.action.clear();
            self.action.extend_from_slice(b"{\"create\":{\"_index\":");
            encode::write_text(&mut self.action, &format!("{}{}", self.sink.index, encode::day_name(origin.day)));
            self.action.extend_from_slice(b",\"_id\":\"");
        }
        self.body.extend_from_slice(&self.action);
        self.body.extend_from_slice(format!("{:032x}", origin.id).as_bytes());
        self.body.extend_from_slice(b"\"}}\n");
    }
}
