//! What the server promises, told at the start where it is less than Trawl does.

use sqlx::Row;

use super::connect::Session;
use super::database::bounded;

/// Logs a line for each setting with which "acknowledged" means less than "durable, also when one machine
/// is lost".
pub(super) async fn report(session: &mut Session) {
    let query = "SELECT name, setting FROM pg_settings
        WHERE name IN ('synchronous_commit', 'fsync', 'full_page_writes', 'synchronous_standby_names')";
    match bounded(sqlx::query(query).fetch_all(&mut session.connection)).await {
        Ok(rows) => {
            for (name, setting, reason) in weak(rows.iter().map(|row| (row.get(0), row.get(1)))) {
                tracing::warn!(host = %session.host, setting = format!("{name}={setting}"), reason, "PostgreSQL promises less");
            }
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "PostgreSQL does not tell its settings");
        }
    }
}

/// The settings that promise less, with the reason.
fn weak<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(&'a str, &'a str, &'static str)> {
    let reason = |name: &str, setting: &str| match (name, setting) {
        ("fsync" | "full_page_writes", "off") => Some("a crash of the machine damages or loses what was acknowledged"),
        // The session's own; it was raised where the server allows it.
        ("synchronous_commit", "off" | "local" | "remote_write") => {
            Some("what was acknowledged may be lost when a server crashes")
        }
        ("synchronous_standby_names", "") => {
            Some("no synchronous standby: what was acknowledged last may be lost with this machine")
        }
        _ => None,
    };
    settings.filter_map(|(name, setting)| Some((name, setting, reason(name, setting)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::weak;

    #[test]
    fn weak_settings_are_told() {
        let good = [
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("synchronous_commit", "on"),
            ("synchronous_standby_names", "ANY 1 (a, b)"),
        ];
        assert_eq!(weak(good.into_iter()), []);
        let bad = [
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("synchronous_commit", "local"),
            ("synchronous_standby_names", ""),
        ];
        assert_eq!(weak(bad.into_iter()).iter().map(|(name, ..)| *name).collect::<Vec<_>>(), bad.map(|(name, _)| name));
        assert_eq!(weak([("synchronous_commit", "remote_apply")].into_iter()), []);
    }
}
