//! The k-way merge of the shards' hits.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use trawl_proto::v1;

use super::order::compare_hits;

/// A hit of the merged list.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Position of its shard's list.
    pub list: usize,
    /// The hit.
    pub hit: v1::Hit,
}

/// Merges sorted lists, one per shard, into ranks `from` to `from + size`. Hits that are equal in
/// everything, `_id` included, are of different indices: the list that stands first wins.
pub fn merge(sort: &[v1::SortKey], lists: Vec<Vec<v1::Hit>>, from: usize, size: usize) -> Vec<Ranked> {
    let heads = lists.into_iter().enumerate().filter_map(|(list, hits)| Head::new(sort, list, hits.into_iter()));
    let mut heap: BinaryHeap<Head<'_>> = heads.collect();
    let mut ranked = Vec::with_capacity(size.min(heap.len() * 16));
    let mut rank = 0;
    while rank < from.saturating_add(size) {
        let Some(Head { list, hit, rest, .. }) = heap.pop() else { break };
        if rank >= from {
            ranked.push(Ranked { list, hit });
        }
        rank += 1;
        heap.extend(Head::new(sort, list, rest));
    }
    ranked
}

/// The first hit of a list that is not merged yet.
struct Head<'a> {
    sort: &'a [v1::SortKey],
    list: usize,
    hit: v1::Hit,
    rest: std::vec::IntoIter<v1::Hit>,
}

impl<'a> Head<'a> {
    fn new(sort: &'a [v1::SortKey], list: usize, mut hits: std::vec::IntoIter<v1::Hit>) -> Option<Self> {
        Some(Self { sort, list, hit: hits.next()?, rest: hits })
    }
}

/// The greatest of the heap is what comes first in the merged list.
impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_hits(self.sort, &other.hit, &self.hit).then_with(|| other.list.cmp(&self.list))
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hit(score: u8, id: u16) -> v1::Hit {
        let id = id.to_string();
        v1::Hit { score: f32::from(score), tie: trawl_data::routing::tie(&id), id, ..Default::default() }
    }

    proptest! {
        /// However documents fall into shards, the merged pages are those of one list.
        #[test]
        fn pages_do_not_depend_on_sharding(
            scores in prop::collection::vec(0u8..5, 0..200),
            shards in 1usize..9,
            page in 1usize..30,
        ) {
            let hits: Vec<_> = scores.iter().enumerate().map(|(id, score)| hit(*score, id as u16)).collect();
            let mut whole = hits.clone();
            whole.sort_by(|left, right| compare_hits(&[], left, right));
            let mut lists = vec![Vec::new(); shards];
            for hit in hits {
                lists[(hit.tie % shards as u64) as usize].push(hit);
            }
            lists.iter_mut().for_each(|list| list.sort_by(|left, right| compare_hits(&[], left, right)));
            let mut paged = Vec::new();
            for from in (0..whole.len()).step_by(page) {
                let cut: Vec<_> = lists.iter().map(|list| list[..list.len().min(from + page)].to_vec()).collect();
                paged.extend(merge(&[], cut, from, page).into_iter().map(|ranked| ranked.hit));
            }
            prop_assert_eq!(paged, whole);
        }
    }

    #[test]
    fn the_same_id_in_two_indices_keeps_their_order() {
        let ranked = merge(&[], vec![vec![hit(1, 7)], vec![hit(1, 7)], vec![hit(2, 7)]], 0, 10);
        assert_eq!(ranked.iter().map(|ranked| ranked.list).collect::<Vec<_>>(), [2, 0, 1]);
        assert!(merge(&[], Vec::new(), 0, 10).is_empty());
        assert!(merge(&[], vec![vec![hit(1, 7)]], 1, 10).is_empty());
    }
}
