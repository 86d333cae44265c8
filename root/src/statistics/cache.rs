//! What this root remembers of the shards' statistics, and when that is good enough.

use std::collections::VecDeque;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;
use trawl_proto::{Generation, ShardKey, v1};
use xxhash_rust::xxh3::Xxh3;

use super::Terms;

/// How many generations of a shard are remembered with the times they were seen.
const MOMENTS_MAX: usize = 16;

/// Shards whose generations are remembered.
const SHARDS_MAX: usize = 10_000;

/// One shard's numbers for the terms of one query.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardNumbers {
    /// The oldest generation that any of the numbers is of.
    pub generation: Generation,
    /// When all numbers were known to be current.
    pub as_of: Instant,
    /// Live documents.
    pub documents: u64,
    /// Tokens per field of the query's terms.
    pub tokens: Vec<u64>,
    /// Documents per term of the query's terms.
    pub frequencies: Vec<u64>,
}

impl ShardNumbers {
    /// As a leaf just told them; what it left out is 0.
    pub fn of(generation: Generation, terms: &Terms, statistics: &v1::IndexStatistics, now: Instant) -> Self {
        let tokens = |field: &String| statistics.fields.iter().find(|there| there.field == *field);
        let frequency = |term: &v1::FieldTerm| {
            statistics.terms.iter().find(|there| there.field == term.field && there.term == term.term)
        };
        Self {
            generation,
            as_of: now,
            documents: statistics.documents,
            tokens: terms.fields.iter().map(|field| tokens(field).map_or(0, |there| there.tokens)).collect(),
            frequencies: terms.terms.iter().map(|term| frequency(term).map_or(0, |there| there.documents)).collect(),
        }
    }
}

/// The numbers of one (shard, field, term), all of one generation.
#[derive(Clone, Copy, Debug)]
struct Entry {
    generation: Generation,
    learned: Instant,
    documents: u64,
    tokens: u64,
    frequency: u64,
}

/// When a shard was seen at a generation.
#[derive(Clone, Copy, Debug)]
struct Moment {
    generation: Generation,
    first: Instant,
    last: Instant,
}

/// The bounded cache. Keys are 128-bit hashes with a seed of this process, so that nobody can aim at
/// a collision.
pub struct StatisticsCache {
    entries: Cache<u128, Entry>,
    moments: Cache<u128, VecDeque<Moment>>,
    seed: u64,
    age_max: Duration,
}

impl StatisticsCache {
    /// An empty cache.
    pub fn new(entries_max: usize, age_max: Duration) -> Self {
        Self {
            entries: Cache::new(entries_max),
            moments: Cache::new(SHARDS_MAX.min(entries_max)),
            seed: rand::random(),
            age_max,
        }
    }

    /// The shard's numbers for these terms; `None` when one is missing, or when they are of different
    /// generations and the oldest was current too long ago.
    pub fn lookup(&self, shard: &ShardKey, terms: &Terms, now: Instant) -> Option<ShardNumbers> {
        let entries: Option<Vec<Entry>> =
            terms.terms.iter().map(|term| self.entries.get(&self.key(shard, &term.field, &term.term))).collect();
        let entries = entries?;
        let newest = entries.iter().max_by_key(|entry| entry.generation)?;
        let oldest = entries.iter().min_by_key(|entry| entry.generation)?;
        let moments = self.moments.get(&self.key(shard, "", ""));
        let as_of = entries.iter().map(|entry| as_of(entry, moments.as_ref())).min()?;
        if oldest.generation != newest.generation && now.duration_since(as_of) > self.age_max {
            return None;
        }
        let tokens = terms.fields.iter().map(|field| {
            let of_field = terms.terms.iter().zip(&entries).filter(|(term, _)| term.field == *field);
            of_field.max_by_key(|(_, entry)| entry.generation).map_or(0, |(_, entry)| entry.tokens)
        });
        Some(ShardNumbers {
            generation: oldest.generation,
            as_of,
            documents: newest.documents,
            tokens: tokens.collect(),
            frequencies: entries.iter().map(|entry| entry.frequency).collect(),
        })
    }

    /// Keeps what a leaf told, unless something newer is known.
    pub fn learn(&self, shard: &ShardKey, generation: Generation, statistics: &v1::IndexStatistics, now: Instant) {
        self.seen(shard, generation, now);
        for term in &statistics.terms {
            let key = self.key(shard, &term.field, &term.term);
            if self.entries.peek(&key).is_some_and(|known| known.generation > generation) {
                continue;
            }
            let tokens = statistics.fields.iter().find(|field| field.field == term.field);
            self.entries.insert(
                key,
                Entry {
                    generation,
                    learned: now,
                    documents: statistics.documents,
                    tokens: tokens.map_or(0, |field| field.tokens),
                    frequency: term.documents,
                },
            );
        }
    }

    /// Notes that a replica of the shard answered at this generation just now.
    pub fn seen(&self, shard: &ShardKey, generation: Generation, now: Instant) {
        let key = self.key(shard, "", "");
        let mut moments = self.moments.get(&key).unwrap_or_default();
        let newest = moments.back().map(|newest| newest.generation);
        match moments.iter_mut().find(|moment| moment.generation == generation) {
            Some(moment) => moment.last = now,
            None if newest.is_some_and(|newest| newest > generation) => return,
            None => moments.push_back(Moment { generation, first: now, last: now }),
        }
        if moments.len() > MOMENTS_MAX {
            moments.pop_front();
        }
        self.moments.insert(key, moments);
    }

    /// Whether numbers that were used must be replaced, now that the shard answered at a generation:
    /// it is newer, and the numbers were current too long ago or the shard has been quiet that long.
    pub fn outdated(&self, shard: &ShardKey, used: &ShardNumbers, answered: Generation, now: Instant) -> bool {
        if answered <= used.generation {
            return false;
        }
        let quiet = self.moments.get(&self.key(shard, "", "")).is_some_and(|moments| {
            moments.back().is_some_and(|newest| now.duration_since(newest.first) > self.age_max)
        });
        quiet || now.duration_since(used.as_of) > self.age_max
    }

    fn key(&self, shard: &ShardKey, field: &str, term: &str) -> u128 {
        let mut hasher = Xxh3::with_seed(self.seed);
        hasher.update(&shard.number.to_le_bytes());
        for part in [shard.index_uid.as_str(), field, term] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.digest128()
    }
}

/// When an entry was last known to be current: a shard that was seen at its generation later says so.
fn as_of(entry: &Entry, moments: Option<&VecDeque<Moment>>) -> Instant {
    let seen = moments.and_then(|moments| moments.iter().find(|moment| moment.generation == entry.generation));
    seen.map_or(entry.learned, |moment| moment.last.max(entry.learned))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use trawl_proto::{Incarnation, Seq};

    use super::*;

    const AGE: Duration = Duration::from_secs(5);

    fn at(seq: u64) -> Generation {
        Generation { incarnation: Incarnation(1), seq: Seq(seq) }
    }

    fn terms(names: &[&str]) -> Terms {
        let term = |name: &&str| v1::FieldTerm { field: "f".to_owned(), term: (*name).to_owned() };
        Terms { fields: vec!["f".to_owned()], terms: names.iter().map(term).collect() }
    }

    fn told(documents: u64, names: &[&str]) -> v1::IndexStatistics {
        let frequency =
            |name: &&str| v1::TermFrequency { field: "f".to_owned(), term: (*name).to_owned(), documents: 1 };
        v1::IndexStatistics {
            documents,
            fields: vec![v1::FieldTokens { field: "f".to_owned(), tokens: documents * 10 }],
            terms: names.iter().map(frequency).collect(),
        }
    }

    #[test]
    fn numbers_stay_good_while_the_shard_is_seen_at_their_generation() {
        let cache = StatisticsCache::new(100, AGE);
        let shard = ShardKey::new("u", 0);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(cache.lookup(&shard, &terms(&["a"]), start), None);
        cache.learn(&shard, at(7), &told(3, &["a"]), start);
        cache.seen(&shard, at(7), after(60));
        let used = cache.lookup(&shard, &terms(&["a"]), after(60)).unwrap();
        assert_eq!((used.generation, used.documents, used.tokens[0], used.frequencies[0]), (at(7), 3, 30, 1));
        assert!(!cache.outdated(&shard, &used, at(7), after(60)));
        cache.seen(&shard, at(8), after(64));
        assert!(!cache.outdated(&shard, &used, at(8), after(64)), "newer, but the numbers are 4 s old");
        assert!(cache.outdated(&shard, &used, at(8), after(66)));
        assert!(!cache.outdated(&shard, &used, at(6), after(66)), "a replica that lags behind proves nothing");
    }

    #[test]
    fn mixed_generations_are_good_for_a_while_only() {
        let cache = StatisticsCache::new(100, AGE);
        let shard = ShardKey::new("u", 0);
        let start = Instant::now();
        cache.learn(&shard, at(7), &told(3, &["a"]), start);
        cache.learn(&shard, at(9), &told(4, &["b"]), start + Duration::from_secs(1));
        let used = cache.lookup(&shard, &terms(&["a", "b"]), start + Duration::from_secs(2)).unwrap();
        assert_eq!((used.generation, used.documents, used.tokens[0]), (at(7), 4, 40));
        let late = start + Duration::from_secs(6);
        assert_eq!(cache.lookup(&shard, &terms(&["a", "b"]), late), None);
        assert!(cache.lookup(&shard, &terms(&["b"]), late).is_some());
    }

    #[test]
    fn a_shard_that_has_been_quiet_is_exact() {
        let cache = StatisticsCache::new(100, AGE);
        let shard = ShardKey::new("u", 0);
        let start = Instant::now();
        let later = start + Duration::from_secs(6);
        cache.seen(&shard, at(9), start);
        // Told by a replica that lags.
        cache.learn(&shard, at(7), &told(3, &["a"]), later);
        let used = cache.lookup(&shard, &terms(&["a"]), later).unwrap();
        assert!(cache.outdated(&shard, &used, at(9), later));
    }

    #[test]
    fn older_numbers_do_not_replace_newer_ones() {
        let cache = StatisticsCache::new(100, AGE);
        let shard = ShardKey::new("u", 0);
        let now = Instant::now();
        cache.learn(&shard, at(9), &told(4, &["a"]), now);
        cache.learn(&shard, at(7), &told(3, &["a"]), now);
        assert_eq!(cache.lookup(&shard, &terms(&["a"]), now).unwrap().documents, 4);
    }
}
