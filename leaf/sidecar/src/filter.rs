//! Which records a sink gets: by level, by what the message says, and by lot. A lot is drawn from the record's id, so that
//! it falls the same way when the record is read again.

use crate::config::SinkConfig;
use crate::record::Record;

/// Whether the sink is to have the record.
pub fn wants(sink: &SinkConfig, record: &Record<'_>, id: u128) -> bool {
    if record.severity > 0 && record.severity < sink.severity_min {
        return false;
    }
    if sink.only.as_ref().is_some_and(|only| !only.is_match(&record.message)) {
        return false;
    }
    if sink.drop.as_ref().is_some_and(|drop| drop.is_match(&record.message)) {
        return false;
    }
    let level = |severity: u8| severity.div_ceil(4);
    match sink.samples.iter().find(|(severity, _)| level(*severity) == level(record.severity)) {
        // The low 53 bits as a number between 0 and 1.
        Some((_, share)) => ((id as u64) >> 11) as f64 / ((1_u64 << 53) as f64) < *share,
        None => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::record::record_id;

    #[test]
    fn level_words_and_lot() {
        let sink: SinkConfig = "file:/x?level=info&sample=info:0.1&drop=health".parse().unwrap();
        let record = |severity, message: &'static str| Record { severity, ..Record::text(message) };
        assert!(!wants(&sink, &record(5, "x"), 0));
        assert!(!wants(&sink, &record(17, "GET /healthz"), 0));
        assert!(wants(&sink, &record(17, "x"), u128::MAX));
        let taken = (0..10_000).filter(|n| wants(&sink, &record(9, "x"), record_id("n", 1, *n))).count();
        assert!((800..1_200).contains(&taken), "{taken}");
    }
}
