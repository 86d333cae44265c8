//! Makes one ranked list and one set of figures of the shards' partial results.

pub mod aggregation;
mod merge;
mod order;

pub use self::merge::{Ranked, merge};
pub use self::order::compare_values;

use trawl_proto::v1;

use crate::request::{Total, TrackTotal};

/// The number of matches over all shards that answered: exact when every shard counted to the end
/// and the sum is within what was asked for.
pub fn total<'a>(results: impl Iterator<Item = &'a v1::ShardSearchResult>, track: TrackTotal) -> Option<Total> {
    let (mut value, mut exact) = (0u64, true);
    for result in results {
        value = value.saturating_add(result.matched);
        exact &= result.matched_exact;
    }
    match track {
        TrackTotal::No => None,
        TrackTotal::Exact => Some(Total { value, exact }),
        TrackTotal::UpTo(limit) if value > limit => Some(Total { value: limit, exact: false }),
        TrackTotal::UpTo(_) => Some(Total { value, exact }),
    }
}

/// The greatest score of all shards that computed one.
pub fn max_score<'a>(results: impl Iterator<Item = &'a v1::ShardSearchResult>) -> Option<f32> {
    results.filter_map(|result| result.max_score).max_by(f32::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(matched: u64, matched_exact: bool) -> v1::ShardSearchResult {
        v1::ShardSearchResult { matched, matched_exact, ..Default::default() }
    }

    #[test]
    fn totals_are_exact_up_to_the_limit() {
        let limit = TrackTotal::UpTo(100);
        let of = |results: &[v1::ShardSearchResult], track| total(results.iter(), track);
        assert_eq!(of(&[counted(60, true), counted(40, true)], limit), Some(Total { value: 100, exact: true }));
        assert_eq!(of(&[counted(60, true), counted(41, true)], limit), Some(Total { value: 100, exact: false }));
        assert_eq!(of(&[counted(101, false), counted(0, true)], limit), Some(Total { value: 100, exact: false }));
        assert_eq!(
            of(&[counted(60, true), counted(41, true)], TrackTotal::Exact),
            Some(Total { value: 101, exact: true })
        );
        assert_eq!(of(&[], TrackTotal::No), None);
    }

    #[test]
    fn the_greatest_score_counts() {
        let scored = |max_score| v1::ShardSearchResult { max_score, ..Default::default() };
        assert_eq!(max_score([scored(Some(1.5)), scored(None), scored(Some(2.5))].iter()), Some(2.5));
        assert_eq!(max_score([scored(None)].iter()), None);
    }
}
