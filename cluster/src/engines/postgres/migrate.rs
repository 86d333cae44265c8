//! Bringing the schema up to date, when several processes start at once.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};

use super::connect::{Connector, Session};
use super::database::{begin, bounded, commit};
use super::failure::of_sql;
use crate::Error;
use crate::engines::newer_schema;

/// The statements that lead from each version to the next; version 0 is an empty schema.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql"), include_str!("queue.sql"), include_str!("history.sql")];
/// How long a start waits for other processes that are starting.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the schema when it is missing and brings it to this version.
///
/// # Errors
/// [`Error::Corrupt`] when a newer version of this software has been there.
pub(super) async fn migrate(connector: &Connector, session: &mut Session) -> Result<(), Error> {
    let server = session.host.to_string();
    let failed = || |error| of_sql("set up", &server, error);
    let connection = &mut session.connection;
    let schema = &connector.target().schema;
    // Most starts find everything in place, and need neither the lock nor the right to make a schema.
    match version(connection, schema).await.map_err(failed())? {
        Some((found, _)) if found == MIGRATIONS.len() => return Ok(()),
        Some((found, oldest)) if found > MIGRATIONS.len() => {
            let place = format!("schema {schema} at {server}");
            return newer_schema(&place, found, oldest, MIGRATIONS.len());
        }
        _ => {}
    }
    begin(connection).await.map_err(failed())?;
    let lock = format!(
        "SET LOCAL lock_timeout = {}; SELECT pg_advisory_xact_lock({})",
        PATIENCE.as_millis(),
        xxhash_rust::xxh3::xxh3_64(schema.as_bytes()).cast_signed()
    );
    let locked = tokio::time::timeout(PATIENCE, sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *connection)).await;
    locked.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(failed())?;
    let found = version(connection, schema).await.map_err(failed())?;
    let from = match found {
        Some((found, oldest)) if found > MIGRATIONS.len() => {
            let place = format!("schema {schema} at {server}");
            return newer_schema(&place, found, oldest, MIGRATIONS.len());
        }
        Some((version, _)) => version,
        None => {
            let make = format!(
                "DO $$ BEGIN
                   IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{schema}') THEN
                     CREATE SCHEMA \"{schema}\";
                   END IF;
                 END $$;
                 CREATE TABLE schema_version (id int PRIMARY KEY CHECK (id = 1), version int NOT NULL);
                 INSERT INTO schema_version (id, version) VALUES (1, 0)"
            );
            bounded(sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut *connection)).await.map_err(failed())?;
            0
        }
    };
    for migration in &MIGRATIONS[from..] {
        bounded(sqlx::raw_sql(*migration).execute(&mut *connection)).await.map_err(failed())?;
    }
    // No replica can hold more than a schema that was just made, or that this version sees first.
    let history = sqlx::query("UPDATE fence SET history = $1 WHERE history IS NULL");
    let history = history.bind(connector.history_name(session.history));
    bounded(history.execute(&mut *connection)).await.map_err(failed())?;
    let note = sqlx::query("UPDATE schema_version SET version = $1").bind(MIGRATIONS.len() as i32);
    bounded(note.execute(&mut *connection)).await.map_err(failed())?;
    commit(connection, &server).await
}

/// The version of the schema, and the oldest version whose software may use it too (0 where none is said); `None` when
/// there is no schema. Asks the catalog: how names are resolved is
/// remembered by a connection, and another process may have made the schema since.
async fn version(connection: &mut sqlx::PgConnection, schema: &str) -> Result<Option<(usize, i64)>, sqlx::Error> {
    let there = "SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE nspname = $1 AND relname = 'schema_version'";
    if bounded(sqlx::query(there).bind(schema).fetch_optional(&mut *connection)).await?.is_none() {
        return Ok(None);
    }
    let read = format!("SELECT * FROM \"{schema}\".schema_version");
    let rows = bounded(sqlx::raw_sql(AssertSqlSafe(read)).fetch_all(connection)).await?;
    let oldest = |row: &PgRow| row.try_get::<i32, _>("oldest").unwrap_or_default().into();
    Ok(rows.first().map(|row| (row.get::<i32, _>("version") as usize, oldest(row))))
}
