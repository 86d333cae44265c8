//! Where a log and a replica's history part: a pure search over the log's rows.
//!
//! ```text
//! replica   ── 60 ── 70 ── 80 ── 90 ── 100        points it knows (seq and chain after each row)
//! log            ── 70 ── 80 ══ 85 ══ 95 ══ 110   rows it has; those behind the fork (80) were
//!                          ^ fork                 acknowledged since the loss
//! ```
//!
//! A chain value tells of all rows before it, so rows are shared up to the last point whose chain the
//! log has too.

use std::collections::HashMap;

use trawl_cluster::shard_log::{Head, Record, chain};
use trawl_proto::{Seq, v1};

/// A search in progress: rows are fed in order from behind [`Search::after`].
#[derive(Debug)]
pub(in crate::lead) struct Search {
    known: HashMap<Seq, u64>,
    /// The first point that the log reaches back to, with its chain; none when the log has lost more than
    /// the replica remembers.
    start: Option<(Seq, u64)>,
    /// The log's time that the replica has reached.
    time_ms: u64,
    trimmed: Seq,
    linked: bool,
    fork: Option<Seq>,
    /// The last row that is older than what the replica has reached.
    in_time: Seq,
}

/// What a search needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lead) enum Step {
    /// The row behind this one.
    Next,
    /// The rows from behind [`Search::after`] once more: nothing is shared after all.
    Again,
    /// Nothing.
    Done,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lead) enum Fork {
    /// Rows up to here are shared.
    At(Seq),
    /// Not one point is shared, because more was lost than a replica remembers. The best guess: rows up
    /// to here are older than the replica by the log's time.
    InTime(Seq),
}

impl Search {
    /// Begins a search for the replica that said this. `None` when what it said is not a history.
    pub(in crate::lead) fn new(head: &Head, history: &v1::HistoryResponse) -> Option<Self> {
        let points = points(history)?;
        let in_log = |(seq, _): &&(Seq, u64)| *seq >= head.trimmed && *seq <= head.last;
        let start = points.iter().find(in_log).copied();
        // A log that ends at the first point has no row to show that it links.
        let is_end = start.is_some_and(|(seq, chain)| seq == head.last && chain == head.chain);
        Some(Self {
            known: points.into_iter().collect(),
            start,
            time_ms: history.time_ms,
            trimmed: head.trimmed,
            linked: false,
            fork: start.filter(|_| is_end).map(|(seq, _)| seq),
            in_time: head.trimmed,
        })
    }

    /// Where to read from.
    pub(in crate::lead) fn after(&self) -> Seq {
        self.start.map_or(self.trimmed, |(seq, _)| seq)
    }

    /// Looks at the next row.
    pub(in crate::lead) fn see(&mut self, row: &Record) -> Step {
        let Some((seq, before)) = self.start else {
            if row.time_ms >= self.time_ms {
                return Step::Done;
            }
            self.in_time = row.last;
            return Step::Next;
        };
        if !self.linked {
            // The first row behind the first point: without a link there is nothing in common.
            if row.first != seq.next() || chain(before, row.first, &row.body) != row.chain {
                self.start = None;
                return Step::Again;
            }
            (self.linked, self.fork) = (true, Some(seq));
        }
        if self.known.get(&row.last) != Some(&row.chain) {
            return Step::Done;
        }
        self.fork = Some(row.last);
        Step::Next
    }

    /// The answer so far.
    pub(in crate::lead) fn fork(&self) -> Fork {
        self.fork.map_or(Fork::InTime(self.in_time), Fork::At)
    }
}

/// The points a replica knows, oldest first, from what it said. Between the earlier ones and the others
/// rows may be unknown that lie behind the log's end.
fn points(history: &v1::HistoryResponse) -> Option<Vec<(Seq, u64)>> {
    let rows = history.rows.as_ref()?;
    let end = history.committed.as_ref()?.seq;
    let operations: u64 = rows.operations.iter().copied().map(u64::from).sum();
    let mut seq = end.checked_sub(operations)?;
    if rows.operations.len() != rows.chains.len() || *rows.chains.last().unwrap_or(&rows.before) != history.chain {
        return None;
    }
    let earlier = history.earlier_seqs.iter().zip(&history.earlier_chains);
    let mut points: Vec<_> = earlier.map(|(seq, chain)| (Seq(*seq), *chain)).collect();
    points.push((Seq(seq), rows.before));
    for (operations, chain) in rows.operations.iter().zip(&rows.chains) {
        seq += u64::from(*operations);
        points.push((Seq(seq), *chain));
    }
    Some(points)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use proptest::prelude::*;
    use trawl_proto::Incarnation;

    use super::*;

    /// Rows of so many operations each, behind a point; `salt` makes their bodies.
    fn rows(from: (u64, u64), operations: &[u64], salt: u8, time_ms: u64) -> Vec<Record> {
        let (mut seq, mut previous) = from;
        let row = |operations: &u64| {
            let first = Seq(seq + 1);
            seq += operations;
            let body = Bytes::from(vec![salt, *operations as u8]);
            previous = chain(previous, first, &body);
            Record {
                incarnation: Incarnation(1),
                first,
                last: Seq(seq),
                mapping_version: 1,
                apply_version: 1,
                time_ms,
                chain: previous,
                body,
            }
        };
        operations.iter().map(row).collect()
    }

    fn end(rows: &[Record]) -> (u64, u64) {
        rows.last().map_or((0, 0), |row| (row.last.0, row.chain))
    }

    /// What a replica says that applied these rows and remembers the last `known` of them.
    fn history(applied: &[Record], known: usize, time_ms: u64) -> v1::HistoryResponse {
        let (forgotten, kept) = applied.split_at(applied.len().saturating_sub(known));
        let (seq, chain) = end(applied);
        v1::HistoryResponse {
            broken: true,
            committed: Some(v1::Generation { incarnation: 1, seq }),
            chain,
            time_ms,
            rows: Some(v1::RowHistory {
                operations: kept.iter().map(|row| (row.last.0 - row.first.0 + 1) as u32).collect(),
                chains: kept.iter().map(|row| row.chain).collect(),
                before: end(forgotten).1,
            }),
            ..v1::HistoryResponse::default()
        }
    }

    fn find(log: &[Record], trimmed: u64, history: &v1::HistoryResponse) -> Fork {
        let (last, chain) = end(log);
        let head = Head {
            incarnation: Incarnation(1),
            last: Seq(last),
            chain,
            trimmed: Seq(trimmed),
            mapping_version: 1,
            bytes: 0,
            time_ms: 0,
        };
        let mut search = Search::new(&head, history).unwrap();
        let mut after = search.after();
        while let Some(row) = log.iter().find(|row| row.last > after) {
            match search.see(row) {
                Step::Next => after = row.last,
                Step::Again => after = search.after(),
                Step::Done => break,
            }
        }
        search.fork()
    }

    proptest! {
        /// For any shared, lost and new rows, any trim, and a replica that remembers some rows in its
        /// commit and the others in its outcomes, the fork is the end of what is shared.
        #[test]
        fn the_fork_is_the_end_of_what_is_shared(
            shared in prop::collection::vec(1..5u64, 0..12),
            lost in prop::collection::vec(1..5u64, 1..6),
            grown in prop::collection::vec(1..5u64, 0..10),
            known in 0..18usize,
            trimmed in 0..12usize,
        ) {
            let both = rows((0, 0), &shared, 1, 10);
            let applied: Vec<_> = both.iter().cloned().chain(rows(end(&both), &lost, 2, 20)).collect();
            // By a clock that is behind.
            let log: Vec<_> = both.iter().cloned().chain(rows(end(&both), &grown, 3, 5)).collect();
            let mut history = history(&applied, known.min(applied.len()), 20);
            // Outcomes tell of the rows that a commit has forgotten, in reach of the log.
            let forgotten = &applied[..applied.len() - known.min(applied.len())];
            let in_reach = forgotten.iter().filter(|row| row.first.0 <= end(&log).0);
            let start = forgotten.first().map(|_| (0, 0));
            (history.earlier_seqs, history.earlier_chains) =
                start.into_iter().chain(in_reach.map(|row| (row.last.0, row.chain))).unzip();
            let trimmed = both[..trimmed.min(both.len())].last().map_or(0, |row| row.last.0);
            prop_assert_eq!(find(&log, trimmed, &history), Fork::At(Seq(end(&both).0)));
        }

        /// Where nothing is known to be shared, what was written after the replica's last row goes along.
        #[test]
        fn time_tells_where_more_was_lost_than_is_remembered(
            shared in prop::collection::vec(1..5u64, 0..12),
            grown in prop::collection::vec(1..5u64, 0..12),
        ) {
            let both = rows((0, 0), &shared, 1, 10);
            let lost = rows(end(&both), &[3; 40], 2, 20);
            let applied: Vec<_> = both.iter().cloned().chain(lost).collect();
            let log: Vec<_> = both.iter().cloned().chain(rows(end(&both), &grown, 3, 30)).collect();
            prop_assert_eq!(find(&log, 0, &history(&applied, 5, 20)), Fork::InTime(Seq(end(&both).0)));
        }
    }

    #[test]
    fn a_log_of_another_origin_shares_its_start_only() {
        let applied = rows((0, 0), &[2, 2, 2], 1, 10);
        let log = rows((0, 0), &[1, 1], 2, 30);
        assert_eq!(find(&log, 0, &history(&applied, 10, 10)), Fork::At(Seq(0)));
        assert_eq!(find(&[], 0, &history(&applied, 10, 10)), Fork::At(Seq(0)));
        let broken = v1::HistoryResponse { chain: 1, ..history(&applied, 10, 10) };
        let head = Head {
            incarnation: Incarnation(1),
            last: Seq(0),
            chain: 0,
            trimmed: Seq(0),
            mapping_version: 1,
            bytes: 0,
            time_ms: 0,
        };
        assert!(Search::new(&head, &broken).is_none());
    }
}
