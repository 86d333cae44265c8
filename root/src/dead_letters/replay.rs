//! Rejected operations written again, through the same way as any write.
//!
//! The message id is made of the letter's address, and the content of what the letter says: a replay that is cut off and
//! repeated writes nothing twice and is answered as the first time. A write of a whole document, and a delete, is
//! conditional on the document being what it was when it was rejected, so that nothing is overwritten, and nothing
//! deleted since comes back. Of several such letters of a document the latest that is not rejected again counts,
//! as if none had been; the earlier ones are moot then.

use std::collections::BTreeMap;

use futures::StreamExt;
use trawl_cluster::dead_letters::LetterKey;
use trawl_proto::v1::operation::{Kind, VersionType};
use trawl_proto::v1::outcome::Result as Came;
use trawl_proto::{Generation, Incarnation, Seq, ShardKey, v1};

use super::{Choice, Handled, Letter, Pages, id, one};
use crate::error::Error;
use crate::request::{Refresh, WriteItem, WriteOptions, WriteOutcome};
use crate::root::Root;
use crate::{get, ingest};

/// Documents that are replayed at a time.
const REPLAYS_AT_ONCE: usize = 8;

/// What a replayed operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replay {
    Written,
    /// It has another letter now, or will have shortly.
    Rejected,
    Conflict,
}

/// Writes the rejected operations again: those that are letters now.
///
/// # Errors
/// [`Error::NoSuchIndex`]; [`Error::Unavailable`] when the letters cannot be read. What fails for one letter
/// only is in the answer.
pub async fn replay(root: &Root, choice: Choice, refresh: Refresh) -> Result<Handled, Error> {
    let mut handled = Handled::default();
    let mut documents: BTreeMap<(ShardKey, String), Vec<LetterKey>> = BTreeMap::new();
    let mut pages = Pages::new(root, choice)?;
    while let Some(letters) = pages.next(&mut handled).await? {
        for letter in letters {
            documents.entry((letter.key.shard.clone(), letter.id)).or_default().push(letter.key);
        }
    }
    let replays = documents.into_values().map(|keys| of_document(root, keys, refresh));
    let mut replays = futures::stream::iter(replays).buffer_unordered(REPLAYS_AT_ONCE);
    while let Some(of_document) = replays.next().await {
        handled.add(of_document);
    }
    Ok(handled)
}

/// All letters of one document.
///
/// 1. Whole documents and deletes, the latest first, until one is written.
/// 2. Then what came after that one, in order: updates, and what brings a condition of its own.
async fn of_document(root: &Root, keys: Vec<LetterKey>, refresh: Refresh) -> Handled {
    let mut handled = Handled::default();
    let mut letters = Vec::with_capacity(keys.len());
    for key in keys {
        match one(root, &key).await {
            Ok(Some(letter)) => letters.push(letter),
            Ok(None) => handled.missing += 1,
            Err(error) => handled.fail(key, error.to_string()),
        }
    }
    letters.sort_by_key(|letter| {
        let first = letter.operation.found.map_or(letter.letter.key.at.seq.0, |found| found.rejected_seq);
        (first, letter.letter.key.clone())
    });
    let mut rest = Vec::new();
    let mut written = false;
    while let Some(letter) = letters.pop() {
        if !is_whole(&letter.operation) {
            rest.push(letter);
            continue;
        }
        written = note(root, letter, refresh, &mut handled).await;
        if written {
            break;
        }
    }
    if written {
        // Moot: also updates, whose result is replaced.
        let keys: Vec<_> = letters.into_iter().map(|letter| letter.letter.key).collect();
        match root.engine.letters.remove(&keys).await {
            Ok(_) => handled.superseded += keys.len() as u64,
            Err(error) => keys.into_iter().for_each(|key| handled.fail(key, error.to_string())),
        }
    }
    for letter in rest.into_iter().rev() {
        note(root, letter, refresh, &mut handled).await;
    }
    handled
}

/// Replays one and counts it; whether it was written.
async fn note(root: &Root, letter: Letter, refresh: Refresh, handled: &mut Handled) -> bool {
    let key = letter.letter.key.clone();
    let replayed = replay_one(root, letter, refresh).await;
    match &replayed {
        Ok(Replay::Written) => handled.replayed += 1,
        Ok(Replay::Rejected) => handled.still_rejected += 1,
        Ok(Replay::Conflict) => handled.conflicts += 1,
        Err(error) => handled.fail(key, error.to_string()),
    }
    matches!(replayed, Ok(Replay::Written))
}

/// 1. Write, on condition that the document is what it was.
/// 2. Remove the letter, when the operation was written or has a new one.
async fn replay_one(root: &Root, letter: Letter, refresh: Refresh) -> Result<Replay, Error> {
    let Letter { letter, index, mut operation } = letter;
    let key = letter.key;
    let index = index.ok_or_else(|| Error::NoSuchIndex(key.shard.index_uid.to_string()))?;
    if is_whole(&operation) {
        let found = match operation.found {
            Some(found) => found,
            None => match found_now(root, &index, &key, &operation).await? {
                Some(found) => found,
                None => return Ok(Replay::Conflict),
            },
        };
        give_condition(&mut operation, found);
    }
    let options =
        WriteOptions { refresh, idempotency_key: Some(format!("replay/{}", id(&key))), ..WriteOptions::default() };
    let written = ingest::write(root, vec![WriteItem { index, operation }], options).await?;
    let item = written.items.into_iter().next();
    let item = item.ok_or_else(|| Error::Internal("the operation was lost on its way".to_owned()))?.result?;
    let WriteOutcome::Done(outcome) = item.outcome else {
        return Err(Error::Timeout("it is written, what came of it is not known yet: replay it again".to_owned()));
    };
    let replay = match outcome.result() {
        Came::Rejected => Replay::Rejected,
        Came::VersionConflict | Came::NotFound => return Ok(Replay::Conflict),
        _ => Replay::Written,
    };
    root.engine.letters.remove(&[key]).await?;
    Ok(replay)
}

/// Whether it replaces or deletes the whole document, as it was found or whatever it is. One that was replayed before
/// brings the condition that it was given then.
fn is_whole(operation: &v1::Operation) -> bool {
    let found = operation.found.unwrap_or_default().seq_no;
    matches!(operation.kind(), Kind::Index | Kind::Create | Kind::Delete)
        && operation.if_seq_no.is_none_or(|wanted| wanted == found)
        && operation.version_type() == VersionType::Internal
}

/// Makes a whole operation depend on the document being what it was.
fn give_condition(operation: &mut v1::Operation, found: v1::FoundDocument) {
    match (operation.kind(), found.seq_no) {
        (Kind::Index, 0) => operation.kind = Kind::Create.into(),
        (Kind::Create, _) | (_, 0) => {}
        (_, seq_no) => {
            (operation.if_seq_no, operation.if_primary_term) = (Some(seq_no), Some(found.primary_term));
        }
    }
}

/// For letters that do not say what the document was: what it is now; `None` when it was written after the letter's
/// operation was rejected.
async fn found_now(
    root: &Root,
    index: &str,
    key: &LetterKey,
    operation: &v1::Operation,
) -> Result<Option<v1::FoundDocument>, Error> {
    let ids = vec![(operation.id.clone(), operation.routing.clone())];
    let mut found = get::get(root, index, ids, true, v1::FetchOptions::default()).await?;
    Ok(match found.pop().unwrap_or(Ok(None))? {
        None => Some(v1::FoundDocument::default()),
        Some(document) => {
            let at = Generation { incarnation: Incarnation(document.primary_term), seq: Seq(document.seq) };
            let found = v1::FoundDocument {
                seq_no: document.seq,
                primary_term: document.primary_term,
                rejected_seq: key.at.seq.0,
            };
            (at < key.at).then_some(found)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_operations_depend_on_what_was_there() {
        let of = |kind: Kind, seq_no| {
            let mut operation = v1::Operation { kind: kind.into(), ..v1::Operation::default() };
            give_condition(&mut operation, v1::FoundDocument { seq_no, primary_term: 2, rejected_seq: 9 });
            (operation.kind(), operation.if_seq_no.zip(operation.if_primary_term))
        };
        assert_eq!(of(Kind::Index, 0), (Kind::Create, None));
        assert_eq!(of(Kind::Index, 7), (Kind::Index, Some((7, 2))));
        assert_eq!(of(Kind::Delete, 7), (Kind::Delete, Some((7, 2))));
        assert_eq!(of(Kind::Create, 7), (Kind::Create, None));
        let own = v1::Operation { kind: Kind::Index.into(), if_seq_no: Some(3), ..v1::Operation::default() };
        assert!(!is_whole(&own));
        let found = Some(v1::FoundDocument { seq_no: 3, primary_term: 1, rejected_seq: 5 });
        assert!(is_whole(&v1::Operation { found, ..own }));
    }
}
