//! Whether a log continues what a replica holds: a pure decision over the log's head, the replica's
//! position and the log's next row.
//!
//! ```text
//! log        trimmed ──────────── last                 the same incarnation, the next row links: go on
//! replica            at ^
//!
//! log        ──── last                                 the log lost its tail: wait for the leader,
//! replica                 at ^                         who opens a new incarnation behind a replica
//!
//! log                 trimmed ──── last                a later incarnation, or trimmed past the
//! replica      at ^                                    replica: copy from one that the log continues
//! ```

use trawl_proto::{Generation, Incarnation};

use crate::shard_log::{Head, Record, chain};

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Incarnation and last operation.
    pub at: Generation,
    /// The log's chain there, as the replica applied it.
    pub chain: u64,
}

/// How a log and a replica go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The log goes on behind the replica.
    Continues,
    /// The log ends where the replica stands, and has begun a new incarnation there.
    Begins(Incarnation),
    /// The log is right and the replica cannot follow it: it has to be made anew.
    Behind(String),
    /// The log has lost history that the replica holds.
    Broken(String),
}

/// Compares them. `next` is the first row with operations behind the replica, needed when the log's
/// head is ahead of the replica and not trimmed past it.
pub fn fit(head: &Head, standing: Standing, next: Option<&Record>) -> Fit {
    let (at, seq) = (standing.at, standing.at.seq);
    let present = next.map_or(head.incarnation, |row| row.incarnation.max(head.incarnation));
    let misfit = |why: String| if present > at.incarnation { Fit::Behind(why) } else { Fit::Broken(why) };
    if present < at.incarnation {
        return Fit::Broken(format!("the log is back at incarnation {present}, the replica is at {at}"));
    }
    if seq < head.trimmed {
        return Fit::Behind(format!("the log begins behind {}, the replica is at {at}", head.trimmed));
    }
    if seq > head.last {
        return misfit(format!("the log ends at {} of incarnation {present}, the replica is at {at}", head.last));
    }
    let links = match next {
        _ if seq == head.last => head.chain == standing.chain,
        Some(row) => row.first == seq.next() && chain(standing.chain, row.first, &row.body) == row.chain,
        None => false,
    };
    match links {
        true if seq == head.last && present > at.incarnation => Fit::Begins(present),
        true => Fit::Continues,
        false => {
            misfit(format!("the log of incarnation {present} has other rows up to {seq} than the replica at {at}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use trawl_proto::Seq;

    use super::*;

    fn head(incarnation: u64, trimmed: u64, last: u64, chain: u64) -> Head {
        Head {
            incarnation: Incarnation(incarnation),
            last: Seq(last),
            chain,
            trimmed: Seq(trimmed),
            mapping_version: 1,
            bytes: 0,
            time_ms: 0,
        }
    }

    fn standing(incarnation: u64, seq: u64, chain: u64) -> Standing {
        Standing { at: Generation { incarnation: Incarnation(incarnation), seq: Seq(seq) }, chain }
    }

    fn row(incarnation: u64, first: u64, previous: u64) -> Record {
        Record {
            incarnation: Incarnation(incarnation),
            first: Seq(first),
            last: Seq(first),
            mapping_version: 1,
            apply_version: 1,
            time_ms: 0,
            chain: chain(previous, Seq(first), b"x"),
            body: bytes::Bytes::from_static(b"x"),
        }
    }

    #[test]
    fn a_log_goes_on_behind_the_replica() {
        assert_eq!(fit(&head(1, 0, 0, 0), standing(1, 0, 0), None), Fit::Continues);
        assert_eq!(fit(&head(1, 0, 5, 55), standing(1, 5, 55), None), Fit::Continues);
        assert_eq!(fit(&head(1, 0, 9, 99), standing(1, 5, 55), Some(&row(1, 6, 55))), Fit::Continues);
        assert_eq!(fit(&head(2, 5, 9, 99), standing(1, 5, 55), Some(&row(2, 6, 55))), Fit::Continues);
        assert_eq!(fit(&head(2, 5, 5, 55), standing(1, 5, 55), None), Fit::Begins(Incarnation(2)));
    }

    #[test]
    fn a_log_that_lost_history_is_broken() {
        let is_broken = |fit| matches!(fit, Fit::Broken(_));
        assert!(is_broken(fit(&head(1, 0, 4, 44), standing(1, 5, 55), None)), "its tail");
        assert!(is_broken(fit(&head(1, 0, 5, 44), standing(1, 5, 55), None)), "its tail, and grew as far");
        assert!(is_broken(fit(&head(1, 0, 9, 99), standing(1, 5, 55), Some(&row(1, 6, 44)))), "and grew further");
        assert!(is_broken(fit(&head(1, 0, 9, 99), standing(1, 5, 55), Some(&row(1, 5, 55)))), "in other rows");
        assert!(is_broken(fit(&head(1, 0, 9, 99), standing(2, 5, 55), Some(&row(1, 6, 55)))), "an incarnation");
        assert!(is_broken(fit(&head(1, 0, 5, 55), standing(2, 5, 55), None)), "an incarnation, and nothing else");
    }

    #[test]
    fn a_replica_that_missed_history_is_behind() {
        let is_behind = |fit| matches!(fit, Fit::Behind(_));
        assert!(is_behind(fit(&head(1, 6, 9, 99), standing(1, 5, 55), None)), "trimmed");
        assert!(is_behind(fit(&head(2, 6, 9, 99), standing(1, 5, 55), None)), "a later incarnation began ahead");
        assert!(is_behind(fit(&head(2, 3, 4, 44), standing(1, 5, 55), None)), "or behind");
        assert!(is_behind(fit(&head(2, 3, 9, 99), standing(1, 5, 55), Some(&row(2, 6, 44)))), "and went on");
        assert!(
            is_behind(fit(&head(1, 3, 9, 99), standing(1, 5, 55), Some(&row(2, 6, 44)))),
            "since the head was read"
        );
    }
}
