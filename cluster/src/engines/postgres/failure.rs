//! Errors of PostgreSQL, made into the crate's by what the caller can do about them.

use crate::Error;
use crate::engines::failure::unavailable;

/// The error of a statement.
pub(super) fn of_sql(doing: &str, server: &str, error: sqlx::Error) -> Error {
    let doing = format!("cannot {doing} PostgreSQL at {server}");
    // data_corrupted, index_corrupted
    if matches!(code(&error).as_deref(), Some("XX001" | "XX002")) {
        return Error::Corrupt(format!("{doing}: {error}"));
    }
    unavailable(doing, error)
}

/// Whether the error says that the connection is gone, so that nothing is known about the statement
/// except that it was not answered.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle sessions that were ended
        _ => matches!(code(error).as_deref(), Some("57P01" | "57P02" | "57P03" | "57P05" | "25P03")),
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    match error {
        sqlx::Error::Database(error) => error.code().map(|code| code.into_owned()),
        _ => None,
    }
}
