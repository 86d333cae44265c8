//! Dead letters as people meet them: listed, replayed, dropped.
//!
//! A replay appends the operation once more, through the same way as any write, under a message id made
//! of the letter's address: one that is cut off and repeated writes nothing twice. The letter goes when
//! the operation is not rejected again. If it is, the new rejection takes its place. A document that
//! was written since is not overwritten with what it was before.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;

use futures::StreamExt;
use prost::Message;
use trawl_cluster::dead_letters::{DeadLetter, LetterCounts, LetterKey};
use trawl_proto::v1::operation::{Kind, VersionType};
use trawl_proto::v1::outcome::Result as Came;
use trawl_proto::{Generation, Incarnation, IndexUid, Seq, ShardKey, v1};

use crate::error::Error;
use crate::request::{Refresh, WriteItem, WriteOptions, WriteOutcome};
use crate::root::Root;
use crate::{catalog, get, ingest};

/// Letters that are read at a time for a replay or a drop.
const PAGE: usize = 100;
/// Documents that are replayed at a time.
const REPLAYS_AT_ONCE: usize = 8;
/// Failures that an answer names; more are only counted.
const FAILURES_MAX: usize = 1_000;

/// A letter with what the root knows of it.
#[derive(Clone, Debug)]
pub struct Letter {
    /// As it is kept.
    pub letter: DeadLetter,
    /// Name of its index; `None` when that was deleted meanwhile.
    pub index: Option<String>,
    /// What was rejected.
    pub operation: v1::Operation,
}

/// Which letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These.
    Keys(Vec<LetterKey>),
    /// All of the index of this name.
    Index(String),
    /// All.
    All,
}

/// What became of the letters chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// Written, and no letters any more.
    pub replayed: u64,
    /// Rejected again: letters under a new id.
    pub still_rejected: u64,
    /// Not written because the document was written since, or because of a condition of their own; no
    /// letters any more.
    pub conflicts: u64,
    /// Dropped.
    pub dropped: u64,
    /// Not there (any more).
    pub missing: u64,
    /// Letters that stay as they are, and why; the first 1,000.
    pub failures: Vec<(LetterKey, String)>,
    /// How many stay.
    pub failed: u64,
}

/// A letter's id, as users see it: `INDEXUID/SHARD/INCARNATION/SEQ`.
pub fn id(key: &LetterKey) -> impl Display {
    format!("{}/{}/{}", key.shard, key.at.incarnation, key.at.seq)
}

/// Reads a letter's id.
pub fn parse_id(id: &str) -> Option<LetterKey> {
    let mut parts = id.rsplitn(4, '/');
    let seq = Seq(parts.next()?.parse().ok()?);
    let incarnation = Incarnation(parts.next()?.parse().ok()?);
    let number = parts.next()?.parse().ok()?;
    let uid = parts.next().filter(|uid| !uid.is_empty())?;
    Some(LetterKey { shard: ShardKey::new(uid, number), at: Generation { incarnation, seq } })
}

/// Letters in the order of their ids, behind `after`; of one index, or of all.
///
/// # Errors
/// [`Error::NoSuchIndex`]; [`Error::Unavailable`].
pub async fn list(
    root: &Root,
    index: Option<&str>,
    after: Option<&LetterKey>,
    size: usize,
) -> Result<Vec<Letter>, Error> {
    let uid = index.map(|name| uid_of(root, name)).transpose()?;
    let letters = root.engine.letters.letters(uid.as_ref(), after, size).await?;
    letters.into_iter().map(|letter| open(root, letter)).collect()
}

/// One letter.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn one(root: &Root, key: &LetterKey) -> Result<Option<Letter>, Error> {
    root.engine.letters.letter(key).await?.map(|letter| open(root, letter)).transpose()
}

/// How many there are; also sets the metrics.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn counts(root: &Root) -> Result<LetterCounts, Error> {
    let counts = root.engine.letters.counts().await?;
    root.metrics.dead_letters.set(counts);
    Ok(counts)
}

/// Writes the rejected operations again.
///
/// # Errors
/// [`Error::NoSuchIndex`]; [`Error::Unavailable`] when the letters cannot be read. What fails for one letter
/// only is in the answer.
pub async fn replay(root: &Root, choice: Choice, refresh: Refresh) -> Result<Handled, Error> {
    let mut handled = Handled::default();
    let mut made = HashSet::new();
    let mut pages = Pages::new(root, choice, &mut handled)?;
    while let Some(letters) = pages.next(&mut handled).await? {
        // Operations on the same document keep their order.
        let mut documents: BTreeMap<(ShardKey, String), Vec<DeadLetter>> = BTreeMap::new();
        for letter in letters {
            if !made.contains(&letter.key) {
                documents.entry((letter.key.shard.clone(), letter.id.clone())).or_default().push(letter);
            }
        }
        let replays = documents.into_values().map(|letters| async move {
            let mut outcomes = Vec::new();
            for letter in letters {
                let key = letter.key.clone();
                outcomes.push((key, replay_one(root, letter, refresh).await));
            }
            outcomes
        });
        let mut replays = futures::stream::iter(replays).buffer_unordered(REPLAYS_AT_ONCE);
        while let Some(outcomes) = replays.next().await {
            for (key, outcome) in outcomes {
                match outcome {
                    Ok(Replay::Written) => handled.replayed += 1,
                    Ok(Replay::Conflict) => handled.conflicts += 1,
                    Ok(Replay::Rejected(key)) => {
                        handled.still_rejected += 1;
                        made.insert(key);
                    }
                    Err(error) => handled.fail(key, error.to_string()),
                }
            }
        }
    }
    Ok(handled)
}

/// Forgets letters for good.
///
/// # Errors
/// [`Error::NoSuchIndex`]; [`Error::Unavailable`].
pub async fn drop_letters(root: &Root, choice: Choice) -> Result<Handled, Error> {
    let mut handled = Handled::default();
    if let Choice::Keys(keys) = &choice {
        handled.dropped = root.engine.letters.remove(keys).await?;
        handled.missing = keys.len() as u64 - handled.dropped.min(keys.len() as u64);
        return Ok(handled);
    }
    let mut pages = Pages::new(root, choice, &mut handled)?;
    while let Some(letters) = pages.next(&mut handled).await? {
        let keys: Vec<_> = letters.into_iter().map(|letter| letter.key).collect();
        handled.dropped += root.engine.letters.remove(&keys).await?;
    }
    Ok(handled)
}

impl Handled {
    fn fail(&mut self, key: LetterKey, reason: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push((key, reason));
        }
    }
}

/// The letters chosen, page by page.
struct Pages<'a> {
    root: &'a Root,
    keys: Option<std::vec::IntoIter<LetterKey>>,
    uid: Option<IndexUid>,
    after: Option<LetterKey>,
    ended: bool,
}

impl<'a> Pages<'a> {
    fn new(root: &'a Root, choice: Choice, _: &mut Handled) -> Result<Self, Error> {
        let (mut keys, mut uid) = (None, None);
        match choice {
            Choice::Keys(chosen) => keys = Some(chosen.into_iter()),
            Choice::Index(name) => uid = Some(uid_of(root, &name)?),
            Choice::All => {}
        }
        Ok(Self { root, keys, uid, after: None, ended: false })
    }

    async fn next(&mut self, handled: &mut Handled) -> Result<Option<Vec<DeadLetter>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let letters = &self.root.engine.letters;
        if let Some(keys) = &mut self.keys {
            let mut page = Vec::new();
            for key in keys.by_ref().take(PAGE) {
                match letters.letter(&key).await? {
                    Some(letter) => page.push(letter),
                    None => handled.missing += 1,
                }
            }
            self.ended = keys.len() == 0;
            return Ok(Some(page));
        }
        let page = letters.letters(self.uid.as_ref(), self.after.as_ref(), PAGE).await?;
        self.ended = page.len() < PAGE;
        self.after = page.last().map(|letter| letter.key.clone());
        Ok(Some(page))
    }
}

/// What a replayed operation came to; in each case the letter is gone.
enum Replay {
    Written,
    Conflict,
    /// It has another letter now, or will have shortly.
    Rejected(LetterKey),
}

/// 1. See that the document was not written since, and make that a condition.
/// 2. Write.
/// 3. Remove the letter, when it is known what came of it.
async fn replay_one(root: &Root, letter: DeadLetter, refresh: Refresh) -> Result<Replay, Error> {
    let key = letter.key.clone();
    let Letter { index, mut operation, .. } = open(root, letter)?;
    let index = index.ok_or_else(|| Error::NoSuchIndex(key.shard.index_uid.to_string()))?;
    if !give_condition(root, &index, &key, &mut operation).await? {
        root.engine.letters.remove(&[key]).await?;
        return Ok(Replay::Conflict);
    }
    let options =
        WriteOptions { refresh, idempotency_key: Some(format!("replay/{}", id(&key))), ..WriteOptions::default() };
    let written = ingest::write(root, vec![WriteItem { index, operation }], options).await?;
    let item = written.items.into_iter().next();
    let item = item.ok_or_else(|| Error::Internal("the operation was lost on its way".to_owned()))?.result?;
    let WriteOutcome::Done(outcome) = item.outcome else {
        return Err(Error::Timeout("it is written, what came of it is not known yet: replay it again".to_owned()));
    };
    let (incarnation, seq) = (Incarnation(item.primary_term), Seq(outcome.seq));
    let replay = match outcome.result() {
        Came::Rejected => {
            let at = Generation { incarnation, seq };
            Replay::Rejected(LetterKey { shard: key.shard.clone(), at })
        }
        Came::VersionConflict => Replay::Conflict,
        _ => Replay::Written,
    };
    root.engine.letters.remove(&[key]).await?;
    Ok(replay)
}

/// Makes a write of a whole document, or its delete, depend on the document being what it is now; false
/// when it was written after the letter's operation was rejected. Updates and operations with a condition
/// or a version of their own need none.
async fn give_condition(
    root: &Root,
    index: &str,
    key: &LetterKey,
    operation: &mut v1::Operation,
) -> Result<bool, Error> {
    let is_whole = matches!(operation.kind(), Kind::Index | Kind::Delete);
    let has_own = operation.if_seq_no.is_some() || operation.version_type() != VersionType::Internal;
    if !is_whole || has_own {
        return Ok(true);
    }
    let ids = vec![(operation.id.clone(), operation.routing.clone())];
    let mut found = get::get(root, index, ids, true, v1::FetchOptions::default()).await?;
    let present = found.pop().unwrap_or(Ok(None))?;
    match present {
        Some(document) => {
            let at = Generation { incarnation: Incarnation(document.primary_term), seq: Seq(document.seq) };
            (operation.if_seq_no, operation.if_primary_term) = (Some(document.seq), Some(document.primary_term));
            Ok(at < key.at)
        }
        None => {
            if operation.kind() == Kind::Index {
                operation.kind = Kind::Create.into();
            }
            Ok(true)
        }
    }
}

fn open(root: &Root, letter: DeadLetter) -> Result<Letter, Error> {
    let view = root.viewer.view();
    let index = view.uids.get(&letter.key.shard.index_uid).map(|record| record.name.clone());
    let operation = v1::Operation::decode(letter.operation.clone())
        .map_err(|error| Error::Internal(format!("dead letter {} cannot be read: {error}", id(&letter.key))))?;
    Ok(Letter { letter, index, operation })
}

fn uid_of(root: &Root, name: &str) -> Result<IndexUid, Error> {
    Ok(catalog::record(&root.viewer.view(), name)?.uid.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_shown() {
        let at = Generation { incarnation: Incarnation(2), seq: Seq(77) };
        let key = LetterKey { shard: ShardKey::new("uid-1", 3), at };
        assert_eq!(id(&key).to_string(), "uid-1/3/2/77");
        assert_eq!(parse_id("uid-1/3/2/77"), Some(key));
        for bad in ["", "77", "3/2/77", "/3/2/77", "u/3/2/x", "u/x/2/3", "u/-1/2/3"] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }
}
