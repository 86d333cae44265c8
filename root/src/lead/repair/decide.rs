//! Which replica a log that lost history goes on behind: a pure decision over what the leaves say.
//!
//! Replicas get rows from the log only, so one that holds more than the log, or something else, proves
//! that the log lost it. The most advanced of those holds all that was ever applied anywhere; it becomes
//! the base of a new incarnation. Deciding too early would leave out a replica that is about to report,
//! so every assigned leaf is waited for, for a while.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use trawl_proto::{Generation, Incarnation, NodeName};

use crate::config::LeadConfig;

/// What is known of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lead) enum Report {
    /// The log has lost history that it holds; it has committed this much.
    Broken(Generation),
    /// The log continues it, or it holds nothing.
    Fits,
    /// Its leaf is gone or does not answer, or it is not open yet.
    Silent,
}

/// What to do about one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::lead) enum Decision {
    /// All is well, or well again.
    Nothing,
    /// Others may report.
    Wait,
    /// Begin an incarnation behind what this leaf's replica holds.
    Take(NodeName),
}

/// Decides for a log of this incarnation. A replica of an earlier incarnation proves nothing: it has not
/// seen yet that the log was repaired.
pub(in crate::lead) fn decide(
    incarnation: Incarnation,
    reports: &BTreeMap<NodeName, Report>,
    waited: Duration,
    config: &LeadConfig,
) -> Decision {
    let broken = reports.iter().filter_map(|(leaf, report)| match report {
        Report::Broken(at) if at.incarnation >= incarnation => Some((*at, Reverse(leaf))),
        _ => None,
    });
    let Some((_, Reverse(leaf))) = broken.max() else { return Decision::Nothing };
    let is_silent = reports.values().any(|report| *report == Report::Silent);
    let wait = if is_silent { config.repair_wait_max } else { config.repair_settle };
    match waited < wait {
        true => Decision::Wait,
        false => Decision::Take(leaf.clone()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use trawl_proto::Seq;

    use super::*;

    fn at(incarnation: u64, seq: u64) -> Generation {
        Generation { incarnation: Incarnation(incarnation), seq: Seq(seq) }
    }

    fn of(incarnation: u64, reports: &[(&str, Report)], waited_ms: u64) -> Decision {
        let reports = reports.iter().map(|(leaf, report)| ((*leaf).into(), *report)).collect();
        let config = LeadConfig {
            repair_settle: Duration::from_secs(2),
            repair_wait_max: Duration::from_secs(10),
            ..LeadConfig::default()
        };
        decide(Incarnation(incarnation), &reports, Duration::from_millis(waited_ms), &config)
    }

    #[test]
    fn the_most_advanced_replica_is_taken_when_all_have_reported() {
        let reports = [("a", Report::Broken(at(1, 90))), ("b", Report::Broken(at(1, 100))), ("c", Report::Fits)];
        assert_eq!(of(1, &reports, 0), Decision::Wait, "others may be about to notice");
        assert_eq!(of(1, &reports, 2_000), Decision::Take("b".into()));
        let later = [("a", Report::Broken(at(2, 9))), ("b", Report::Broken(at(1, 100)))];
        assert_eq!(of(1, &later, 2_000), Decision::Take("a".into()), "a later incarnation is more");
    }

    #[test]
    fn who_is_silent_is_waited_for_but_not_for_ever() {
        let reports = [("a", Report::Broken(at(1, 90))), ("b", Report::Silent)];
        assert_eq!(of(1, &reports, 9_999), Decision::Wait);
        assert_eq!(of(1, &reports, 10_000), Decision::Take("a".into()));
    }

    #[test]
    fn a_log_that_was_repaired_is_not_repaired_again() {
        assert_eq!(of(2, &[("a", Report::Broken(at(1, 90))), ("b", Report::Silent)], 60_000), Decision::Nothing);
        assert_eq!(of(1, &[("a", Report::Fits), ("b", Report::Silent)], 60_000), Decision::Nothing);
    }

    fn report() -> impl Strategy<Value = Report> {
        prop_oneof![
            (1..4u64, 0..20u64).prop_map(|(incarnation, seq)| Report::Broken(at(incarnation, seq))),
            Just(Report::Fits),
            Just(Report::Silent),
        ]
    }

    proptest! {
        #[test]
        fn nobody_who_reported_holds_more_than_the_base(
            incarnation in 1..4u64,
            reports in prop::collection::btree_map("[a-d]", report(), 0..5),
            waited_ms in 0..20_000u64,
        ) {
            let list: Vec<_> = reports.iter().map(|(leaf, report)| (leaf.as_str(), *report)).collect();
            if let Decision::Take(base) = of(incarnation, &list, waited_ms) {
                let Report::Broken(held) = reports[base.as_str()] else { panic!("{base} is not broken") };
                prop_assert!(held.incarnation.0 >= incarnation);
                for report in reports.values() {
                    prop_assert!(!matches!(report, Report::Broken(other) if *other > held));
                    prop_assert!(*report != Report::Silent || waited_ms >= 10_000);
                }
            }
        }
    }
}
