//! Errors of SQLite, made into the crate's by what the caller can do about them.

use std::path::Path;

use crate::Error;
use crate::engines::failure::unavailable;

/// The error of a statement on a file.
pub(super) fn of_sql(doing: &str, path: &Path, error: sqlx::Error) -> Error {
    // Primary result codes of SQLite: 11 is CORRUPT, 26 is NOTADB.
    let code = match &error {
        sqlx::Error::Database(error) => error.code().and_then(|code| code.parse::<i64>().ok()),
        _ => None,
    };
    let doing = format!("cannot {doing} {}", path.display());
    if matches!(code.map(|code| code & 0xff), Some(11 | 26)) {
        return Error::Corrupt(format!("{doing}: {error}"));
    }
    unavailable(doing, error)
}
