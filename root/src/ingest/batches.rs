//! Operations into batches: one log row per shard, more when it would be too large.
//!
//! Pure but for automatic ids without a key, which are random. With a key, ids, batches and message
//! ids are functions of the request, so that a repeated write is the same write.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use prost::Message;
use trawl_cluster::catalog::IndexRecord;
use trawl_data::routing::shard_of;
use trawl_proto::{ShardKey, v1};
use v1::operation::Kind;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::Error;
use crate::request::{ItemWritten, WriteItem};

/// Longest `_id` in bytes, as in Elasticsearch.
const ID_BYTES_MAX: usize = 512;

/// What becomes of one item.
#[derive(Debug)]
pub(super) struct Slot {
    pub index: String,
    pub id: String,
    pub result: Option<Result<ItemWritten, Error>>,
}

/// One log row to be.
#[derive(Debug)]
pub(super) struct Batch {
    pub record: Arc<IndexRecord>,
    pub shard: ShardKey,
    /// The items, in the order of the operations.
    pub places: Vec<usize>,
    /// The encoded `v1::Batch`.
    pub body: Bytes,
    pub message_id: Option<String>,
}

/// A batch that is being filled.
#[derive(Default)]
struct Filling {
    places: Vec<usize>,
    operations: Vec<v1::Operation>,
    bytes: usize,
}

/// Makes the batches, sorted by shard; operations of one shard keep their order. Items that cannot be
/// written have their error in their slot.
pub(super) fn make(
    items: Vec<WriteItem>,
    records: &HashMap<String, Result<Arc<IndexRecord>, Error>>,
    key: Option<&str>,
    bytes_max: usize,
) -> (Vec<Batch>, Vec<Slot>) {
    let mut slots = Vec::with_capacity(items.len());
    let mut shards: BTreeMap<ShardKey, (Arc<IndexRecord>, Vec<Filling>)> = BTreeMap::new();
    for (place, item) in items.into_iter().enumerate() {
        let WriteItem { index, mut operation } = item;
        let placed = place_of(&index, &mut operation, records, key, place);
        slots.push(Slot { index, id: operation.id.clone(), result: None });
        match placed {
            Err(error) => slots[place].result = Some(Err(error)),
            Ok((record, shard)) => {
                let (_, fillings) = shards.entry(shard).or_insert_with(|| (record, vec![Filling::default()]));
                add(fillings, place, operation, bytes_max);
            }
        }
    }
    let batches = shards.into_iter().flat_map(|(shard, (record, fillings))| {
        fillings.into_iter().enumerate().map(move |(number, filling)| {
            let body: Bytes = v1::Batch { operations: filling.operations }.encode_to_vec().into();
            // The content is part of the id: a key that is used again for something else must not make
            // that vanish.
            let message_id = key.map(|key| format!("{key}/{shard}/{number}/{:016x}", xxh3_64(&body)));
            Batch { record: record.clone(), places: filling.places, body, message_id, shard: shard.clone() }
        })
    });
    (batches.collect(), slots)
}

/// The operation's shard; makes an id where there is none.
fn place_of(
    index: &str,
    operation: &mut v1::Operation,
    records: &HashMap<String, Result<Arc<IndexRecord>, Error>>,
    key: Option<&str>,
    place: usize,
) -> Result<(Arc<IndexRecord>, ShardKey), Error> {
    let no_such = || Err(Error::NoSuchIndex(index.to_owned()));
    if operation.id.is_empty() {
        if matches!(operation.kind(), Kind::Delete | Kind::Update) {
            return Err(Error::invalid("action_request_validation_exception", "Validation Failed: 1: id is missing;"));
        }
        operation.id = automatic_id(key, place);
        operation.kind = Kind::Create.into();
    }
    let length = operation.id.len();
    if length > ID_BYTES_MAX {
        return Err(Error::illegal_argument(format!(
            "id [{}] is too long, must be no longer than {ID_BYTES_MAX} bytes but was: {length}",
            operation.id
        )));
    }
    let record = records.get(index).cloned().unwrap_or_else(no_such)?;
    let number = shard_of(operation.routing.as_deref().unwrap_or(&operation.id), record.shards);
    let shard = ShardKey { index_uid: record.uid.clone(), number };
    Ok((record, shard))
}

/// 22 characters: of the key and the place in the request, or of time and chance.
fn automatic_id(key: Option<&str>, place: usize) -> String {
    let bytes = match key {
        Some(key) => {
            let mut hasher = Xxh3::new();
            hasher.update(key.as_bytes());
            hasher.update(&(place as u64).to_le_bytes());
            hasher.digest128().to_be_bytes()
        }
        None => uuid::Uuid::now_v7().into_bytes(),
    };
    URL_SAFE_NO_PAD.encode(bytes)
}

fn add(fillings: &mut Vec<Filling>, place: usize, operation: v1::Operation, bytes_max: usize) {
    let bytes = operation.encoded_len() + 8;
    if fillings.last().is_none_or(|last| last.bytes > 0 && last.bytes + bytes > bytes_max) {
        fillings.push(Filling::default());
    }
    if let Some(last) = fillings.last_mut() {
        last.places.push(place);
        last.operations.push(operation);
        last.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn records(shards: u32) -> HashMap<String, Result<Arc<IndexRecord>, Error>> {
        let record = IndexRecord::new("books", "u".into(), shards, 1);
        HashMap::from([("books".to_owned(), Ok(Arc::new(record)))])
    }

    fn index(id: &str) -> WriteItem {
        let kind = Kind::Index.into();
        let source = Bytes::from_static(b"{}");
        let operation = v1::Operation { kind, id: id.to_owned(), source, ..Default::default() };
        WriteItem { index: "books".to_owned(), operation }
    }

    fn decoded(batch: &Batch) -> Vec<v1::Operation> {
        v1::Batch::decode(batch.body.clone()).unwrap().operations
    }

    #[test]
    fn operations_go_to_the_shard_of_their_routing_in_order() {
        let mut items: Vec<_> = (0..100).map(|id| index(&id.to_string())).collect();
        items[7].operation.routing = Some("elsewhere".to_owned());
        let (batches, slots) = make(items, &records(4), None, 1 << 20);
        assert_eq!(batches.len(), 4);
        assert_eq!(slots.len(), 100);
        let mut seen = 0;
        for batch in &batches {
            assert!(batch.places.windows(2).all(|pair| pair[0] < pair[1]));
            for (operation, place) in decoded(batch).iter().zip(&batch.places) {
                assert_eq!(operation.id, slots[*place].id);
                let routing = operation.routing.as_deref().unwrap_or(&operation.id);
                assert_eq!(shard_of(routing, 4), batch.shard.number);
                seen += 1;
            }
        }
        assert_eq!(seen, 100);
    }

    #[test]
    fn the_same_key_makes_the_same_write() {
        let items = || vec![index(""), index("a"), index("")];
        let (first, _) = make(items(), &records(3), Some("key"), 1 << 20);
        let (again, slots) = make(items(), &records(3), Some("key"), 1 << 20);
        let bodies =
            |batches: &[Batch]| batches.iter().map(|b| (b.body.clone(), b.message_id.clone())).collect::<Vec<_>>();
        assert_eq!(bodies(&first), bodies(&again));
        assert_ne!(slots[0].id, slots[2].id);
        let (other, _) = make(items(), &records(3), Some("other key"), 1 << 20);
        assert_ne!(bodies(&first), bodies(&other));
        let (_, random) = make(items(), &records(3), None, 1 << 20);
        assert_eq!(random[0].id.len(), 22);
        assert_ne!(random[0].id, slots[0].id);
    }

    #[test]
    fn large_writes_are_split() {
        let mut items: Vec<_> = (0..10).map(|id| index(&id.to_string())).collect();
        items.iter_mut().for_each(|item| item.operation.source = vec![b' '; 1000].into());
        let (batches, _) = make(items, &records(1), Some("key"), 3_500);
        assert_eq!(batches.len(), 4);
        assert_eq!(batches.iter().map(|batch| batch.places.len()).sum::<usize>(), 10);
        let ids: Vec<_> = batches.iter().map(|batch| batch.message_id.clone().unwrap()).collect();
        let of_batches = (0..4).map(|number| format!("key/u/0/{number}/"));
        assert!(ids.iter().zip(of_batches).all(|(id, start)| id.starts_with(&start)), "{ids:?}");
        // The content is part of the id.
        let again = |source: &'static [u8]| {
            let mut item = index("a");
            item.operation.source = source.into();
            make(vec![item], &records(1), Some("key"), 3_500).0[0].message_id.clone()
        };
        assert_eq!(again(b"{}"), again(b"{}"));
        assert_ne!(again(b"{}"), again(b"[]"));
    }

    #[test]
    fn what_cannot_be_written_has_its_own_error() {
        let mut delete = index("");
        delete.operation.kind = Kind::Delete.into();
        let mut elsewhere = index("a");
        elsewhere.index = "missing".to_owned();
        let (batches, slots) =
            make(vec![delete, elsewhere, index(&"x".repeat(513)), index("fine")], &records(1), None, 1000);
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].places, [3]);
        assert!(slots[..3].iter().all(|slot| matches!(slot.result, Some(Err(_)))));
    }
}
