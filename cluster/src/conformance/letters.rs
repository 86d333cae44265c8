//! Cases of the dead letters.

use std::ops::RangeInclusive;

use bytes::Bytes;
use trawl_proto::{Epoch, Generation, Incarnation, IndexUid, Seq, ShardKey};

use super::{Open, engine};
use crate::dead_letters::{DeadLetter, DeadLetters, LetterCounts, LetterKey};
use crate::{Engine, EngineOptions};

fn at(incarnation: u64, seq: u64) -> Generation {
    Generation { incarnation: Incarnation(incarnation), seq: Seq(seq) }
}

fn letter(shard: &ShardKey, at: Generation) -> DeadLetter {
    DeadLetter {
        key: LetterKey { shard: shard.clone(), at },
        id: format!("id {at}"),
        operation: Bytes::from(format!("operation {:>3}", at.seq.0)),
        mapping_version: 7,
        error_type: "document_parsing_exception".to_owned(),
        reason: format!("the reason of {at}"),
        time_ms: 1_700_000_000_000,
    }
}

/// Letters of one incarnation.
fn letters(shard: &ShardKey, incarnation: u64, seqs: RangeInclusive<u64>) -> Vec<DeadLetter> {
    seqs.map(|seq| letter(shard, at(incarnation, seq))).collect()
}

fn shards() -> [ShardKey; 3] {
    [ShardKey::new("a", 0), ShardKey::new("a", 10), ShardKey::new("b", 2)]
}

/// An instance with the shards' logs.
async fn with_logs(open: &Open, options: EngineOptions) -> Engine {
    let engine = open(options).await;
    engine.log.create(Epoch(1), &shards()).await.unwrap();
    engine
}

async fn kept(letters: &dyn DeadLetters) -> Vec<LetterKey> {
    letters.letters(None, None, usize::MAX).await.unwrap().into_iter().map(|letter| letter.key).collect()
}

fn keys(letters: &[DeadLetter]) -> Vec<LetterKey> {
    letters.iter().map(|letter| letter.key.clone()).collect()
}

/// Two replicas reject the same operations: each is kept once, as it was given.
pub async fn a_letter_is_kept_once(open: &Open) {
    let shard = &shards()[0];
    let boxes = [with_logs(open, EngineOptions::default()).await.letters, engine(open).await.letters];
    let both = letters(shard, 1, 3..=6);
    boxes[0].record(shard, at(1, 10), both.clone()).await.unwrap();
    boxes[1].record(shard, at(1, 10), both.clone()).await.unwrap();
    // A replica that commits at other places hands over other parts.
    boxes[1].record(shard, at(1, 4), both[..2].to_vec()).await.unwrap();
    let more = letters(shard, 1, 5..=12);
    boxes[1].record(shard, at(1, 12), more.clone()).await.unwrap();
    let expected: Vec<DeadLetter> = both.iter().chain(&more[6..]).cloned().collect();
    assert_eq!(boxes[0].letters(None, None, 100).await.unwrap(), expected);
    assert_eq!(boxes[1].letter(&expected[5].key).await.unwrap().as_ref(), Some(&expected[5]));
    assert_eq!(boxes[1].letter(&letter(shard, at(1, 8)).key).await.unwrap(), None);
    let bytes = expected.iter().map(|letter| letter.operation.len() as u64).sum();
    assert_eq!(boxes[0].counts().await.unwrap(), LetterCounts { kept: 6, bytes, aged_out: 0 });
}

/// Both at the same time, through two instances.
pub async fn replicas_may_record_at_once(open: &Open) {
    let boxes = [with_logs(open, EngineOptions::default()).await.letters, engine(open).await.letters];
    let mut replicas = tokio::task::JoinSet::new();
    for n in 0..4u64 {
        let letter_box = boxes[n as usize % 2].clone();
        replicas.spawn(async move {
            let shard = &shards()[0];
            // Each goes its own way from commit to commit.
            let (mut from, step) = (1, 3 + n);
            while from <= 60 {
                let through = (from + step - 1).min(60);
                letter_box.record(shard, at(1, through), letters(shard, 1, from..=through)).await.unwrap();
                from = through + 1;
            }
        });
    }
    replicas.join_all().await;
    assert_eq!(kept(&*boxes[0]).await, keys(&letters(&shards()[0], 1, 1..=60)));
    assert_eq!(boxes[1].counts().await.unwrap().kept, 60);
}

/// What was removed does not come back from a replica that lags.
pub async fn a_removed_letter_does_not_come_back(open: &Open) {
    let [shard, other, _] = &shards();
    let boxes = [with_logs(open, EngineOptions::default()).await.letters, engine(open).await.letters];
    let all = letters(shard, 1, 1..=5);
    boxes[0].record(shard, at(1, 9), all.clone()).await.unwrap();
    let gone = [all[1].key.clone(), all[3].key.clone(), letter(other, at(1, 1)).key];
    assert_eq!(boxes[1].remove(&gone).await.unwrap(), 2);
    assert_eq!(boxes[1].remove(&gone).await.unwrap(), 0);
    boxes[1].record(shard, at(1, 4), all[..4].to_vec()).await.unwrap();
    boxes[0].record(shard, at(1, 9), all.clone()).await.unwrap();
    assert_eq!(kept(&*boxes[0]).await, keys(&[all[0].clone(), all[2].clone(), all[4].clone()]));
    let bytes = 3 * all[0].operation.len() as u64;
    assert_eq!(boxes[0].counts().await.unwrap(), LetterCounts { kept: 3, bytes, aged_out: 0 });

    // Each shard is known by itself, and a new incarnation comes after an old one.
    boxes[0].record(other, at(1, 2), letters(other, 1, 2..=2)).await.unwrap();
    boxes[0].record(shard, at(2, 3), letters(shard, 2, 3..=3)).await.unwrap();
    boxes[1].record(shard, at(1, 20), letters(shard, 1, 20..=20)).await.unwrap();
    let expected = [1, 3, 5].map(|seq| letter(shard, at(1, seq)).key);
    let expected = expected.into_iter().chain([letter(shard, at(2, 3)).key, letter(other, at(1, 2)).key]);
    assert_eq!(kept(&*boxes[0]).await, expected.collect::<Vec<_>>());
}

/// At the limits those that came first make room, of whatever shard, and are counted.
pub async fn old_letters_make_room(open: &Open) {
    let [one, two, _] = &shards();
    let options = EngineOptions { letters_max: 10, ..EngineOptions::default() };
    let letter_box = with_logs(open, options).await.letters;
    letter_box.record(two, at(1, 6), letters(two, 1, 1..=6)).await.unwrap();
    letter_box.record(one, at(1, 7), letters(one, 1, 1..=7)).await.unwrap();
    let expected = [letters(one, 1, 1..=7), letters(two, 1, 4..=6)].concat();
    assert_eq!(kept(&*letter_box).await, keys(&expected));
    let bytes = expected.iter().map(|letter| letter.operation.len() as u64).sum();
    assert_eq!(letter_box.counts().await.unwrap(), LetterCounts { kept: 10, bytes, aged_out: 3 });
    // More at once than are kept at all.
    letter_box.record(one, at(1, 600), letters(one, 1, 8..=600)).await.unwrap();
    assert_eq!(kept(&*letter_box).await, keys(&letters(one, 1, 591..=600)));
    assert_eq!(letter_box.counts().await.unwrap().aged_out, 6 + 590);
    // What aged out stays away.
    letter_box.record(one, at(1, 7), letters(one, 1, 1..=7)).await.unwrap();
    assert_eq!(letter_box.counts().await.unwrap().kept, 10);

    let size = letters(one, 1, 601..=601)[0].operation.len() as u64;
    let options = EngineOptions { letters_bytes_max: 4 * size + size / 2, ..EngineOptions::default() };
    let letter_box = open(options).await.letters;
    letter_box.record(one, at(1, 601), letters(one, 1, 601..=601)).await.unwrap();
    assert_eq!(kept(&*letter_box).await, keys(&letters(one, 1, 598..=601)));
    assert_eq!(letter_box.counts().await.unwrap(), LetterCounts { kept: 4, bytes: 4 * size, aged_out: 596 + 7 });
}

/// Lists are in the order of keys, of one index if asked, and come in pages.
pub async fn letters_are_listed_in_pages(open: &Open) {
    let letter_box = with_logs(open, EngineOptions::default()).await.letters;
    let mut expected = Vec::new();
    for shard in shards().iter().rev() {
        for incarnation in [1, 2] {
            let new = letters(shard, incarnation, 8..=12);
            letter_box.record(shard, at(incarnation, 99), new.clone()).await.unwrap();
            expected.extend(new);
        }
    }
    expected.sort_by(|a, b| a.key.cmp(&b.key));
    for (index, expected) in [
        (None, expected.clone()),
        (Some("a"), expected[..20].to_vec()),
        (Some("b"), expected[20..].to_vec()),
        (Some("c"), vec![]),
    ] {
        let index = index.map(IndexUid::from);
        let mut listed: Vec<DeadLetter> = Vec::new();
        loop {
            let after = listed.last().map(|letter| letter.key.clone());
            let page = letter_box.letters(index.as_ref(), after.as_ref(), 3).await.unwrap();
            assert!(page.len() <= 3);
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert_eq!(listed, expected, "{index:?}");
    }
}

/// With a log its letters go, and nothing is kept for a shard that has none.
pub async fn letters_go_with_their_log(open: &Open) {
    let [one, two, _] = &shards();
    let engine = with_logs(open, EngineOptions::default()).await;
    for shard in [one, two] {
        engine.letters.record(shard, at(1, 5), letters(shard, 1, 4..=5)).await.unwrap();
    }
    engine.log.remove(Epoch(1), std::slice::from_ref(one)).await.unwrap();
    engine.letters.record(one, at(1, 8), letters(one, 1, 7..=8)).await.unwrap();
    assert_eq!(kept(&*engine.letters).await, keys(&letters(two, 1, 4..=5)));
    let bytes = 2 * letter(two, at(1, 4)).operation.len() as u64;
    assert_eq!(engine.letters.counts().await.unwrap(), LetterCounts { kept: 2, bytes, aged_out: 0 });
}

/// Letters, and how far they are known, are there after all instances have been closed.
pub async fn letters_outlive_the_engine(open: &Open) {
    let shard = &shards()[0];
    let all = letters(shard, 1, 1..=5);
    {
        let letter_box = with_logs(open, EngineOptions::default()).await.letters;
        letter_box.record(shard, at(1, 9), all.clone()).await.unwrap();
        letter_box.remove(&keys(&all[..2])).await.unwrap();
    }
    let letter_box = engine(open).await.letters;
    letter_box.record(shard, at(1, 9), letters(shard, 1, 1..=9)).await.unwrap();
    assert_eq!(letter_box.letters(None, None, 100).await.unwrap(), all[2..]);
    assert_eq!(letter_box.counts().await.unwrap().kept, 3);
}
