//! From a document's id to its shard: hash to one of 1,024 slots, contiguous slots to a shard.
//!
//! The hash is `xxh3_64` with seed 0 over the UTF-8 bytes. It is a contract with what is on disk:
//! changing it would orphan every stored document.

use xxhash_rust::xxh3::xxh3_64;

/// The number of slots of every index.
pub const SLOTS: u32 = 1024;

/// The stable tie-breaker of a document: `xxh3_64` of its `_id`.
pub fn tie(id: &str) -> u64 {
    xxh3_64(id.as_bytes())
}

/// The slot of a routing value (the `_id` where a document has no routing of its own), below [`SLOTS`].
pub fn slot(routing: &str) -> u32 {
    (xxh3_64(routing.as_bytes()) % u64::from(SLOTS)) as u32
}

/// The shard that holds a slot, below `shards`.
///
/// Each of 1 to [`SLOTS`] shards has a contiguous, non-empty set of slots, and their sizes differ
/// by one at most. A count outside of that is taken as the nearest inside.
pub fn shard_of_slot(slot: u32, shards: u32) -> u32 {
    slot.min(SLOTS - 1) * shards.clamp(1, SLOTS) / SLOTS
}

/// The shard of a routing value.
pub fn shard_of(routing: &str, shards: u32) -> u32 {
    shard_of_slot(slot(routing), shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_count_gives_each_shard_a_contiguous_share() {
        for shards in 1..=SLOTS {
            let owners: Vec<u32> = (0..SLOTS).map(|slot| shard_of_slot(slot, shards)).collect();
            assert_eq!(owners[0], 0);
            assert_eq!(owners[SLOTS as usize - 1], shards - 1);
            assert!(owners.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1));
            let mut sizes = vec![0u32; shards as usize];
            for owner in owners {
                sizes[owner as usize] += 1;
            }
            let (least, most) = (sizes.iter().min(), sizes.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{shards}");
        }
    }

    #[test]
    fn the_hash_is_the_one_on_disk() {
        assert_eq!(tie(""), 0x2d06_8005_38d3_94c2);
        assert_eq!(slot("a"), (tie("a") % 1024) as u32);
        assert_eq!(shard_of("a", 1), 0);
        assert!(shard_of("a", 7) < 7);
    }
}
