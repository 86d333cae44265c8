//! Keeps the files of a SQLite engine locked, as another program would that writes to them and does not end.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use super::PATIENCE;

/// The locks; others can read, and not write, until [`Locked::release`] or the end of this process.
pub struct Locked(Vec<SqliteConnection>);

impl Locked {
    /// Locks the store and the logs below the engine's directory.
    ///
    /// # Panics
    /// When they cannot be locked.
    pub async fn take(directory: &Path) -> Self {
        let mut connections = Vec::new();
        for name in ["store.db", "logs.db"] {
            let options = SqliteConnectOptions::new().filename(directory.join(name)).busy_timeout(PATIENCE);
            let mut connection = options.connect().await.unwrap();
            sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
            connections.push(connection);
        }
        Self(connections)
    }

    /// Gives the locks back.
    pub async fn release(self) {
        for mut connection in self.0 {
            let _ = sqlx::query("ROLLBACK").execute(&mut connection).await;
            let _ = connection.close().await;
        }
    }
}
