//! What a leaf answers per shard, whichever phase asked: matched to the targets it was asked for.

use trawl_proto::v1;

use crate::plan::Target;

/// One shard's part of an answer.
pub trait PerShard {
    /// The shard.
    fn shard(&self) -> Option<&v1::Shard>;
    /// Why there is nothing else in it, if so.
    fn failure(&self) -> Option<&v1::Failure>;
}

macro_rules! per_shard {
    ($($result:ident),+) => {
        $(impl PerShard for v1::$result {
            fn shard(&self) -> Option<&v1::Shard> {
                self.shard.as_ref()
            }

            fn failure(&self) -> Option<&v1::Failure> {
                self.failure.as_ref()
            }
        })+
    };
}

per_shard!(ShardSearchResult, ShardCount, ShardStatistics, ShardFetchResult, ShardGetResult);

/// The parts by position in the targets; a shard that was not asked for is left out.
pub fn by_position<T: PerShard>(
    targets: &[Target],
    asked: &[usize],
    parts: impl IntoIterator<Item = T>,
) -> Vec<(usize, Result<T, v1::Failure>)> {
    let placed = parts.into_iter().filter_map(|part| {
        let shard = part.shard()?;
        let at = asked.iter().copied().find(|at| {
            let there = &targets[*at].shard;
            there.number == shard.number && there.index_uid.as_str() == shard.index_uid
        })?;
        Some((at, part.failure().cloned().map_or(Ok(part), Err)))
    });
    placed.collect()
}
