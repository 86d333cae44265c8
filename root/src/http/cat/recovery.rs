//! `_cat/recovery`: how replicas came to serve, and how far they are that do not yet.

use super::{
    super::{call::Call, cluster::stage, error::ApiError, respond::Answer},
    table::{Cell, Column, Table},
};

const RECOVERY: &[Column] = &[
    Column::left("index", &["i", "idx"]),
    Column::right("shard", &["s", "sh"]),
    Column::left("start_time", &["start"]).hidden(),
    Column::right("start_time_millis", &["start_millis"]).hidden(),
    Column::right("time", &["t", "ti"]),
    Column::left("type", &["ty"]),
    Column::left("stage", &["st"]),
    Column::left("source_node", &["snode"]),
    Column::left("target_node", &["tnode"]),
    Column::right("files", &["f"]),
    Column::right("files_recovered", &["fr"]),
    Column::right("files_percent", &["fp"]),
    Column::right("bytes", &["b"]),
    Column::right("bytes_recovered", &["br"]),
    Column::right("bytes_percent", &["bp"]),
    Column::right("bytes_reused", &[]).hidden(),
    Column::right("bytes_checked", &[]).hidden(),
    Column::right("translog_ops", &["to"]),
    Column::right("translog_ops_recovered", &["tor"]),
    Column::right("translog_ops_percent", &["top"]),
    Column::left("reason", &[]),
];

/// `GET /_cat/recovery`, `/_cat/recovery/{index}`: how replicas came to serve, and how far they are that do not yet
/// (`index`: copying files, `verify_index`: checking them, `translog`: catching up with the log, `finalize`: warming
/// up, `stuck`: it says why). `active_only` leaves out those that are `done`.
pub(crate) async fn recovery(call: Call) -> Result<Answer, ApiError> {
    let names = call.indices()?;
    let active_only = call.params.flag("active_only")?.unwrap_or(false);
    let status = call.root().status().await?;
    let mut table = Table::new(RECOVERY);
    for replica in status.replicas.iter().filter(|replica| names.contains(&replica.index)) {
        let (Some(leaf), Some(reported)) = (&replica.leaf, &replica.status) else { continue };
        let recovery = reported.recovery.clone().unwrap_or_default();
        let stage = stage(replica.state, &recovery);
        if active_only && stage == "done" {
            continue;
        }
        let is_copy = !recovery.source.is_empty();
        table.rows.push(vec![
            Cell::text(&replica.index),
            Cell::number(replica.shard.into()),
            Cell::text(&trawl_data::date::format_date(i64::try_from(recovery.started_ms).unwrap_or_default())),
            Cell::number(recovery.started_ms),
            Cell::text(&took(recovery.took_ms)),
            Cell::text(if is_copy { "peer" } else { "existing_store" }),
            Cell::text(stage),
            Cell::text(if is_copy { &recovery.source } else { "n/a" }),
            Cell::text(leaf.as_str()),
            Cell::number(recovery.files),
            Cell::number(recovery.files_done),
            Cell::text(&percent(recovery.files_done, recovery.files)),
            Cell::Bytes(recovery.bytes),
            Cell::Bytes(recovery.bytes_done),
            Cell::text(&percent(recovery.bytes_done, recovery.bytes)),
            Cell::Bytes(recovery.bytes_reused),
            Cell::Bytes(recovery.checked_bytes),
            Cell::number(recovery.operations),
            Cell::number(recovery.operations_done),
            Cell::text(&percent(recovery.operations_done, recovery.operations)),
            Cell::text(&reported.reason),
        ]);
    }
    table.answer(&call.params, &call.headers)
}

/// As Elasticsearch writes durations.
fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{:.1}s", ms as f64 / 1_000.0),
        _ => format!("{:.1}m", ms as f64 / 60_000.0),
    }
}

/// Nothing to do is all done.
fn percent(done: u64, all: u64) -> String {
    match all {
        0 => "100.0%".to_owned(),
        // Rounded down: all is there only when it is.
        all => format!("{:.1}%", (done.min(all) as f64 * 1_000.0 / all as f64).floor() / 10.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_make_sense() {
        assert_eq!((took(0), took(999), took(1_000)), ("0ms".to_owned(), "999ms".to_owned(), "1.0s".to_owned()));
        assert_eq!((took(59_999), took(90_000)), ("60.0s".to_owned(), "1.5m".to_owned()));
        assert_eq!((percent(0, 0), percent(0, 7)), ("100.0%".to_owned(), "0.0%".to_owned()));
        assert_eq!((percent(9_999, 10_000), percent(10, 10)), ("99.9%".to_owned(), "100.0%".to_owned()));
        assert_eq!(percent(11, 10), "100.0%");
    }
}
