//! Dead letters as people meet them: listed, replayed, dropped.
//!
//! How they are written again stands in `replay`.

mod replay;

use std::fmt::Display;

use prost::Message;
use trawl_cluster::dead_letters::{DeadLetter, LetterCounts, LetterKey};
use trawl_proto::{Generation, Incarnation, IndexUid, Seq, ShardKey, v1};

pub use self::replay::replay;
use crate::catalog;
use crate::error::Error;
use crate::root::Root;

/// Letters that are read at a time for a replay or a drop.
const PAGE: usize = 100;
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
    /// Not written because a later letter of the same document, which makes them moot, was; no letters any more.
    pub superseded: u64,
    /// Rejected again: letters under a new id.
    pub still_rejected: u64,
    /// Not written because the document was written or deleted since, or because of a condition of their own. They
    /// stay letters.
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
    let mut pages = Pages::new(root, choice)?;
    while let Some(letters) = pages.next(&mut handled).await? {
        let keys: Vec<_> = letters.into_iter().map(|letter| letter.key).collect();
        handled.dropped += root.engine.letters.remove(&keys).await?;
    }
    Ok(handled)
}

impl Handled {
    fn add(&mut self, other: Self) {
        self.replayed += other.replayed;
        self.superseded += other.superseded;
        self.still_rejected += other.still_rejected;
        self.conflicts += other.conflicts;
        self.dropped += other.dropped;
        self.missing += other.missing;
        self.failed += other.failed;
        let room = FAILURES_MAX.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(room));
    }

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
    fn new(root: &'a Root, choice: Choice) -> Result<Self, Error> {
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
