//! The last rows that a replica applied, with the log's chain after each: kept with every commit, so
//! that the rows a replica shares with a log can be found when the log has lost history.

use std::collections::VecDeque;

use trawl_proto::{Seq, v1};

/// Rows that are remembered. About 9 bytes each in a commit.
pub const ROWS_MAX: usize = 4_096;

/// A position in a log, with the chain there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The last operation of a row; 0 for the start of the log.
    pub seq: Seq,
    /// The log's chain there.
    pub chain: u64,
}

/// The last rows applied; never empty, since it begins with the point before the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    points: VecDeque<Point>,
}

impl Rows {
    /// Nothing is known of what led to this point.
    pub fn starting(seq: Seq, chain: u64) -> Self {
        Self { points: VecDeque::from([Point { seq, chain }]) }
    }

    /// Remembers a row, and forgets the oldest one when there are too many.
    pub fn push(&mut self, last: Seq, chain: u64) {
        self.points.push_back(Point { seq: last, chain });
        if self.points.len() > ROWS_MAX + 1 {
            self.points.pop_front();
        }
    }

    /// From the oldest to the newest.
    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        self.points.iter().copied()
    }

    /// As kept in a commit.
    pub fn to_proto(&self) -> v1::RowHistory {
        let steps = self.points.iter().zip(self.points.iter().skip(1));
        v1::RowHistory {
            operations: steps.clone().map(|(a, b)| u32::try_from(b.seq.0 - a.seq.0).unwrap_or(u32::MAX)).collect(),
            chains: steps.map(|(_, b)| b.chain).collect(),
            before: self.points.front().map_or(0, |point| point.chain),
        }
    }

    /// From a commit at this point. What does not lead to the point is not believed.
    pub fn from_proto(rows: Option<v1::RowHistory>, at: Point) -> Self {
        let nothing = || Self::starting(at.seq, at.chain);
        let Some(rows) = rows else { return nothing() };
        let operations: u64 = rows.operations.iter().copied().map(u64::from).sum();
        let Some(start) = at.seq.0.checked_sub(operations) else { return nothing() };
        let ends_there = rows.chains.last().copied().unwrap_or(rows.before) == at.chain;
        if rows.operations.len() != rows.chains.len() || rows.chains.len() > ROWS_MAX || !ends_there {
            return nothing();
        }
        let mut seq = start;
        let mut points = VecDeque::with_capacity(rows.chains.len() + 1);
        points.push_back(Point { seq: Seq(start), chain: rows.before });
        for (operations, chain) in rows.operations.into_iter().zip(rows.chains) {
            seq += u64::from(operations);
            points.push_back(Point { seq: Seq(seq), chain });
        }
        Self { points }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_come_back_as_they_were(start in 0..1_000u64, steps in prop::collection::vec((1..500u64, any::<u64>()), 0..50)) {
            let mut rows = Rows::starting(Seq(start), 7);
            let mut seq = start;
            for (operations, chain) in steps {
                seq += operations;
                rows.push(Seq(seq), chain);
            }
            let at = *rows.points.back().unwrap();
            prop_assert_eq!(Rows::from_proto(Some(rows.to_proto()), at), rows.clone());
            let elsewhere = Point { chain: !at.chain, ..at };
            prop_assert_eq!(Rows::from_proto(Some(rows.to_proto()), elsewhere), Rows::starting(at.seq, !at.chain));
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut rows = Rows::starting(Seq(0), 0);
        (1..=ROWS_MAX as u64 + 10).for_each(|seq| rows.push(Seq(seq), seq));
        assert_eq!(rows.points().next(), Some(Point { seq: Seq(10), chain: 10 }));
        assert_eq!(rows.points().count(), ROWS_MAX + 1);
        assert_eq!(Rows::from_proto(None, Point { seq: Seq(3), chain: 4 }), Rows::starting(Seq(3), 4));
    }
}
