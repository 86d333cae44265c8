//! Errors of SQLite, made into the crate's by what the caller can do about them.

use std::path::Path;

use crate::Error;
use crate::engines::failure::unavailable;

/// The error of a statement on a file, by SQLite's result code.
pub(super) fn of_sql(doing: &str, path: &Path, error: sqlx::Error) -> Error {
    let code = match &error {
        sqlx::Error::Database(error) => error.code().and_then(|code| code.parse::<i64>().ok()),
        _ => None,
    };
    let doing = format!("cannot {doing} {}", path.display());
    match code {
        // CORRUPT and NOTADB, whatever their extended code.
        Some(code) if matches!(code & 0xff, 11 | 26) => Error::Corrupt(format!("{doing}: {error}")),
        // FULL; and IOERR_SHMSIZE: no room for the index of the write-ahead log.
        Some(13 | 4_874) => unavailable(format!("{doing}: the disk is full"), error),
        _ => unavailable(doing, error),
    }
}
