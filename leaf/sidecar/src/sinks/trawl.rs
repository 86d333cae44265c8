//! `trawl://`: `_bulk` into daily indices. A record's id is its `_id` and the action is `create`, so a record that is sent
//! again is refused as being there, which is as good as taken.

use std::collections::BTreeSet;

use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::Poster;
use super::{Again, Sent};
use crate::batch::{About, Payload};
use crate::config::{ConfigError, SinkConfig};
use crate::encode::day_name;

/// Days whose indices are known to be there.
const DAYS_MAX: usize = 64;
const NDJSON: &str = "application/x-ndjson";

/// A cluster.
pub struct Trawl {
    poster: Poster,
    index: String,
    shards: u32,
    replicas: u32,
    made: BTreeSet<i64>,
}

/// The part of a bulk answer that matters.
#[derive(Deserialize)]
struct Answer {
    errors: bool,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    create: ItemResult,
}

#[derive(Deserialize)]
struct ItemResult {
    status: u16,
    error: Option<Value>,
}

impl Trawl {
    /// Nothing is connected yet.
    pub fn new(config: &SinkConfig, endpoints: &[String]) -> Result<Self, ConfigError> {
        let poster = Poster::new(endpoints, config.gzip)?;
        let SinkConfig { index, shards, replicas, .. } = config;
        Ok(Self { poster, index: index.clone(), shards: *shards, replicas: *replicas, made: BTreeSet::new() })
    }

    /// Makes the indices if they are missing, then sends the documents.
    pub async fn send(&mut self, payload: &Payload) -> Result<Sent, Again> {
        for day in &payload.about.days {
            self.make_index(*day).await?;
        }
        let (sent, refused) = self.bulk(&payload.about.key, &payload.body).await?;
        if refused.is_empty() {
            return Ok(sent);
        }
        // What the mapping does not take is shipped with its fields as text: a line is never dropped for its form.
        let mut plainer = Vec::new();
        for (action, document, error) in &refused {
            plainer.extend_from_slice(action);
            plainer.extend_from_slice(&simplified(document, error));
        }
        let again = |mut again: Again| {
            again.rest = None;
            again.sent = Sent::default();
            again
        };
        let (taken, lost) = self.bulk(&format!("{}-plain", payload.about.key), &plainer.into()).await.map_err(again)?;
        for (_, _, error) in &lost {
            tracing::warn!(error, "a record was refused also in its plainest form");
        }
        let (all, lost) = (refused.len() as u64, lost.len() as u64);
        Ok(Sent { duplicates: sent.duplicates + taken.duplicates, simplified: all - lost, rejected: lost })
    }

    async fn make_index(&mut self, day: i64) -> Result<(), Again> {
        if self.made.contains(&day) {
            return Ok(());
        }
        let name = format!("{}{}", self.index, day_name(day));
        let body = json!({
            "settings": {"number_of_shards": self.shards, "number_of_replicas": self.replicas},
            "mappings": mapping(),
        });
        let body = Bytes::from(body.to_string());
        let reply =
            self.poster.send(Method::PUT, &[&name], &[], "application/json", body).await.map_err(Again::whole)?;
        let there = reply.status.as_u16() == 400
            && memchr::memmem::find(&reply.body, b"resource_already_exists_exception").is_some();
        if !reply.status.is_success() && !there {
            return Err(Again { retry_after: reply.retry_after, ..Again::whole(reply.describe()) });
        }
        if self.made.len() >= DAYS_MAX {
            self.made.pop_first();
        }
        self.made.insert(day);
        Ok(())
    }

    /// Sends a body; returns what was taken and what was refused for good.
    async fn bulk(&mut self, key: &str, body: &Bytes) -> Result<(Sent, Vec<Refused>), Again> {
        let headers = [("idempotency-key", key)];
        let path = ["_bulk"];
        let reply =
            self.poster.send(Method::POST, &path, &headers, NDJSON, body.clone()).await.map_err(Again::whole)?;
        if reply.status.as_u16() == 413 {
            return self.halves(key, body).await;
        }
        if !reply.status.is_success() {
            return Err(Again { retry_after: reply.retry_after, ..Again::whole(reply.describe()) });
        }
        if reply.body.get(..200).unwrap_or(&reply.body).windows(14).any(|part| part == b"\"errors\":false") {
            return Ok((Sent::default(), Vec::new()));
        }
        let answer: Answer =
            serde_json::from_slice(&reply.body).map_err(|error| Again::whole(format!("not a bulk answer: {error}")))?;
        if !answer.errors {
            return Ok((Sent::default(), Vec::new()));
        }
        let sorted = sort(body, answer.items).map_err(Again::whole)?;
        if sorted.again.is_empty() {
            return Ok((sorted.sent, sorted.refused));
        }
        // The refused come again with the rest, and are refused again: one way to deal with them is enough.
        let mut rest = sorted.again;
        for (action, document, _) in &sorted.refused {
            rest.extend_from_slice(action);
            rest.extend_from_slice(document);
        }
        let records = sorted.again_count + sorted.refused.len() as u64;
        let about = About { records, key: key.to_owned(), days: BTreeSet::new() };
        let (reason, retry_after) = (sorted.again_reason, reply.retry_after);
        Err(Again { reason, retry_after, rest: Some((about, rest.into())), sent: sorted.sent })
    }

    /// A body that is too large goes in two pieces; a single document that is too large is refused.
    async fn halves(&mut self, key: &str, body: &Bytes) -> Result<(Sent, Vec<Refused>), Again> {
        let pairs: Vec<_> = pairs(body).collect();
        if let [(action, document)] = pairs[..] {
            let refused = (action.to_vec(), document.to_vec(), "too large for the server".to_owned());
            return Ok((Sent::default(), vec![refused]));
        }
        let middle: usize =
            pairs[..pairs.len() / 2].iter().map(|(action, document)| action.len() + document.len()).sum();
        let mut both = (Sent::default(), Vec::new());
        for (name, half) in [("a", body.slice(..middle)), ("b", body.slice(middle..))] {
            // What was taken of the first half is found to be there when the whole comes again.
            let whole = |again: Again| Again { rest: None, sent: Sent::default(), ..again };
            let (sent, refused) = Box::pin(self.bulk(&format!("{key}{name}"), &half)).await.map_err(whole)?;
            both.0.duplicates += sent.duplicates;
            both.1.extend(refused);
        }
        Ok(both)
    }
}

/// Action line, document and why it was refused.
type Refused = (Vec<u8>, Vec<u8>, String);

#[derive(Default)]
struct Sorted {
    sent: Sent,
    refused: Vec<Refused>,
    again: Vec<u8>,
    again_count: u64,
    again_reason: String,
}

/// Documents by what became of them.
fn sort(body: &[u8], items: Vec<Item>) -> Result<Sorted, &'static str> {
    let mut sorted = Sorted::default();
    let mut pairs = pairs(body);
    for Item { create: ItemResult { status, error } } in items {
        let Some((action, document)) = pairs.next() else {
            return Err("a bulk answer with more items than were sent");
        };
        match status {
            200..300 => {}
            409 => sorted.sent.duplicates += 1,
            408 | 425 | 429 | 500..600 => {
                sorted.again.extend_from_slice(action);
                sorted.again.extend_from_slice(document);
                sorted.again_count += 1;
                if sorted.again_reason.is_empty() {
                    sorted.again_reason = format!("status {status}: {}", error.unwrap_or_default());
                }
            }
            _ => sorted.refused.push((action.to_vec(), document.to_vec(), error.unwrap_or_default().to_string())),
        }
    }
    match pairs.next() {
        None => Ok(sorted),
        Some(_) => Err("a bulk answer with fewer items than were sent"),
    }
}

/// Action lines and documents, each with its line's end.
fn pairs(body: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut lines = body.split_inclusive(|byte| *byte == b'\n');
    std::iter::from_fn(move || Some((lines.next()?, lines.next()?)))
}

/// The document with its fields as one text.
fn simplified(document: &[u8], error: &str) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(document).unwrap_or_else(|_| {
        // Only a raw value can be what no document may be, for example a number out of all bounds.
        json!({"message": String::from_utf8_lossy(document)})
    });
    if let Some(object) = value.as_object_mut() {
        if let Some(fields) = object.remove("fields") {
            object.insert("fields_text".to_owned(), Value::String(fields.to_string()));
        }
        object.insert("refused".to_owned(), Value::String(error.chars().take(1_000).collect()));
    }
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// What every record has is mapped; fields come as they are.
fn mapping() -> Value {
    let keyword = json!({"type": "keyword"});
    json!({
        "properties": {
            "@timestamp": {"type": "date"},
            "level": keyword,
            "severity": {"type": "integer"},
            "message": {"type": "text"},
            "fields_text": {"type": "text"},
            "refused": {"type": "text"},
            "trace_id": keyword,
            "span_id": keyword,
            "resource": {"properties": {
                "service": {"properties": {"name": keyword}},
                "host": {"properties": {"name": keyword}},
                "trawl": {"properties": {"leaf": keyword}},
                "cloud": {"properties": {"availability_zone": keyword}},
                "k8s": {"properties": {
                    "pod": {"properties": {"name": keyword}},
                    "namespace": {"properties": {"name": keyword}},
                    "container": {"properties": {"name": keyword}}
                }}
            }},
            "log": {"properties": {
                "file": keyword,
                "offset": {"type": "long"},
                "observed": {"type": "date"},
                "marks": keyword,
                "cut_bytes": {"type": "long"}
            }},
            // Of the query logs of leaves.
            "fields": {"properties": {
                "query": {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 512}}},
                "query_id": keyword,
                "fingerprint": keyword,
                "index": keyword,
                "shard": {"type": "integer"},
                "generation": keyword,
                "matched": {"type": "long"},
                "returned": {"type": "long"},
                "queue_us": {"type": "long"},
                "search_us": {"type": "long"},
                "took_us": {"type": "long"},
                "outcome": keyword,
                "target": keyword
            }}
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn items_are_sorted_by_what_became_of_them() {
        let body = b"{a1}\n{d1}\n{a2}\n{d2}\n{a3}\n{d3}\n{a4}\n{d4}\n";
        let answer = r#"{"errors":true,"items":[{"create":{"status":201}},{"create":{"status":409,"error":{}}},
            {"create":{"status":429,"error":{"type":"x"}}},{"create":{"status":400,"error":{"reason":"bad"}}}]}"#;
        let answer: Answer = serde_json::from_str(answer).unwrap();
        let sorted = sort(body, answer.items).unwrap();
        assert_eq!(sorted.sent.duplicates, 1);
        assert_eq!(sorted.again, b"{a3}\n{d3}\n");
        assert_eq!(sorted.refused[0].1, b"{d4}\n");
        let fewer: Answer = serde_json::from_str(r#"{"errors":true,"items":[]}"#).unwrap();
        assert!(sort(body, fewer.items).is_err());
    }

    #[test]
    fn a_plainer_document_keeps_everything() {
        let line = simplified(br#"{"message":"m","fields":{"a":{"b":1}}}"#, "why");
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value, json!({"message": "m", "fields_text": "{\"a\":{\"b\":1}}", "refused": "why"}));
    }
}
