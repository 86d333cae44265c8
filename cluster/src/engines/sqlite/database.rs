//! One SQLite file: opening, schema versions, a pool of readers, one writer, checkpoints.
//!
//! WAL with `synchronous=FULL`: every commit is synced before it returns. Checkpoints never run in a
//! commit; see [`Checkpoints`].

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::sync::{Mutex, MutexGuard, Notify, watch};

use super::bell::{Bell, Tones};
use super::failure::of_sql;
use super::turn::{Held, Turnstile, lock, open_lock};
use crate::Error;
use crate::engines::failure::unavailable;
use crate::engines::newer_schema;

/// Connections that read at the same time; more wait.
const READERS_MAX: u32 = 4;
/// How long a start waits for other processes that are starting in the same directory.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes committed by this process after which the write-ahead log is copied back.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// Size of the write-ahead log at which writers are held up until it starts over.
const WAL_BYTES_MAX: u64 = 64 << 20;
/// How late a soft ring is heard at most, give or take one look at the bell. Longer than the pause between
/// two renewals of the lease, which ring aloud and bring along what was rung softly; and short enough that,
/// without a leader, no two sightings of a heartbeat are as far apart as the lease time.
const SOFT_DELAY: Duration = Duration::from_millis(1_500);
/// What a commit writes besides its contents: about four pages.
const COMMIT_BYTES: u64 = 16 << 10;

/// What is particular about a file.
pub(super) struct Kind {
    /// Its name in the directory.
    pub(super) name: &'static str,
    /// The statements that lead from each version to the next; version 0 is an empty file.
    pub(super) migrations: &'static [&'static str],
    /// Whether free pages can be given back to the file system.
    pub(super) incremental_vacuum: bool,
}

/// An open file.
pub(super) struct Database {
    path: PathBuf,
    /// Device and inode, by which a file that was moved away under us is noticed.
    identity: (u64, u64),
    options: SqliteConnectOptions,
    readers: SqlitePool,
    turnstile: Turnstile,
    bell: Bell,
    /// Counts the times at which the file was seen to have changed; who follows it waits here.
    pub(super) changes: watch::Sender<u64>,
    writer: Mutex<Option<SqliteConnection>>,
    pub(super) checkpoints: Checkpoints,
}

impl Database {
    /// Opens the file, making it and bringing its schema up to date when needed. Several processes
    /// may do so at once.
    pub(super) async fn open(directory: &Path, kind: &Kind, busy_timeout: Duration) -> Result<Self, Error> {
        let path = directory.join(kind.name);
        let in_the_way = |error: std::io::Error| unavailable(format!("cannot open {}", path.display()), error);
        let opening = open_lock(&path.with_extension("open")).map_err(in_the_way)?;
        let Some(opening) = lock(&opening, Instant::now() + OPEN_TIMEOUT).await else {
            return Err(unavailable(format!("cannot open {}", path.display()), "another process keeps opening it"));
        };
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(false)
            .foreign_keys(false)
            .busy_timeout(busy_timeout)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", WAL_BYTES_MAX.to_string())
            .disable_statement_logging();
        prepare(&path, kind, &options).await?;
        let metadata = std::fs::metadata(&path).map_err(in_the_way)?;
        let turnstile = Turnstile::open(&path, busy_timeout / 2).map_err(in_the_way)?;
        let bell = Bell::open(&path).map_err(in_the_way)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(busy_timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().pragma("query_only", "1"));
        // From now on one connection has the index of the write-ahead log open, which goes away with the
        // last one and could not be made again on a full disk: then reading would fail, too.
        let looked = sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&readers).await;
        looked.map_err(|error| of_sql("read", &path, error))?;
        drop(opening);
        Ok(Self {
            identity: (metadata.dev(), metadata.ino()),
            options,
            readers,
            turnstile,
            bell,
            changes: watch::Sender::new(0),
            writer: Mutex::new(None),
            checkpoints: Checkpoints::default(),
            path,
        })
    }

    /// The connections that read.
    pub(super) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Makes an error out of a statement's.
    pub(super) fn error(&self, doing: &str) -> impl FnOnce(sqlx::Error) -> Error {
        move |error| of_sql(doing, &self.path, error)
    }

    /// A new connection, for a task of its own.
    pub(super) async fn connect(&self) -> Result<SqliteConnection, Error> {
        self.check_file()?;
        self.options.connect().await.map_err(self.error("open"))
    }

    /// Waits for this process's writer and for the turn among processes, and begins a transaction
    /// that writes.
    pub(super) async fn begin(&self) -> Result<Transaction<'_>, Error> {
        let mut slot = self.writer.lock().await;
        let turn = self.turnstile.enter().await;
        self.check_file()?;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.map_err(self.error("begin to write"))?;
        Ok(Transaction { database: self, slot, connection, _turn: turn })
    }

    /// Carries out a statement on the writer's connection outside of a transaction.
    pub(super) async fn maintain(&self, statement: &'static str) -> Result<(), Error> {
        let mut slot = self.writer.lock().await;
        let _turn = self.turnstile.enter().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        sqlx::query(statement).fetch_all(&mut connection).await.map_err(self.error("tidy up"))?;
        *slot = Some(connection);
        Ok(())
    }

    /// Copies the write-ahead log back into the file, as far as nobody has to wait for it; if it has
    /// grown too long nevertheless (writers never paused), holds them up until it starts over.
    pub(super) async fn checkpoint(&self) -> Result<(), Error> {
        let mut connection = self.connect().await?;
        let passive = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_all(&mut connection).await;
        passive.map_err(self.error("checkpoint"))?;
        let _ = connection.close().await;
        if self.wal_bytes() > WAL_BYTES_MAX {
            self.maintain("PRAGMA wal_checkpoint(RESTART)").await?;
        }
        Ok(())
    }

    /// Tells this process that the file may have changed. Everything committed before is seen by whoever
    /// follows the file and is woken.
    pub(super) fn wake(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// How often this process was told so.
    pub(super) fn wakes(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Whether this process should look for what others have committed since it listened last.
    ///
    /// Our own rings do not count: each is followed by a wake of our own, and what another had rung
    /// before, so that ours drowned it, was committed before that wake. Soft rings count, our own too,
    /// when nothing else has woken us for a while.
    pub(super) fn listen(&self, heard: &mut Heard) -> bool {
        let tones = self.bell.tones();
        let before = std::mem::replace(&mut heard.tones, tones);
        let wakes = self.wakes();
        if std::mem::replace(&mut heard.wakes, wakes) != wakes {
            heard.woken_at = Instant::now();
            heard.soft = false;
        }
        let loud = tones.map(|tones| tones.loud);
        heard.soft |= tones.map(|tones| tones.soft) != before.map(|tones| tones.soft);
        let rung = loud != before.map(|tones| tones.loud) && !loud.is_some_and(|tone| self.bell.is_own(&tone));
        rung || heard.soft && heard.woken_at.elapsed() >= SOFT_DELAY
    }

    /// The present size of the write-ahead log.
    pub(super) fn wal_bytes(&self) -> u64 {
        let mut name = self.path.clone().into_os_string();
        name.push("-wal");
        std::fs::metadata(name).map_or(0, |metadata| metadata.len())
    }

    /// SQLite goes on writing into a file that has been deleted or replaced; nobody would ever read
    /// that again.
    fn check_file(&self) -> Result<(), Error> {
        let doing = || format!("cannot use {}", self.path.display());
        let metadata = std::fs::metadata(&self.path).map_err(|error| unavailable(doing(), error))?;
        if (metadata.dev(), metadata.ino()) != self.identity {
            return Err(unavailable(doing(), "the file was replaced while in use; restart this process"));
        }
        Ok(())
    }
}

/// What a process has heard of a file.
#[derive(Debug)]
pub(super) struct Heard {
    tones: Option<Tones>,
    /// A soft ring since the last wake.
    soft: bool,
    wakes: u64,
    woken_at: Instant,
}

impl Default for Heard {
    fn default() -> Self {
        Self { tones: None, soft: true, wakes: 0, woken_at: Instant::now() }
    }
}

/// A transaction that writes. Dropped without a commit it is rolled back, at the price of a new
/// connection for the next one; [`Transaction::rollback`] is cheaper.
pub(super) struct Transaction<'a> {
    database: &'a Database,
    slot: MutexGuard<'a, Option<SqliteConnection>>,
    pub(super) connection: SqliteConnection,
    _turn: Option<Held>,
}

impl Transaction<'_> {
    /// Commits; durable when it returns. `bytes` is about how much was written.
    pub(super) async fn commit(self, bytes: u64) -> Result<(), Error> {
        let database = self.database;
        self.commit_quietly(bytes).await?;
        // First the others, then ourselves: see `listen`.
        database.bell.ring();
        database.wake();
        Ok(())
    }

    /// Commits what others may hear of later.
    pub(super) async fn commit_softly(self, bytes: u64) -> Result<(), Error> {
        let database = self.database;
        self.commit_quietly(bytes).await?;
        database.bell.ring_softly();
        Ok(())
    }

    /// Commits what nobody waits for.
    pub(super) async fn commit_quietly(mut self, bytes: u64) -> Result<(), Error> {
        sqlx::query("COMMIT").execute(&mut self.connection).await.map_err(self.database.error("commit to"))?;
        *self.slot = Some(self.connection);
        self.database.checkpoints.note(bytes + COMMIT_BYTES);
        Ok(())
    }

    /// Undoes everything.
    pub(super) async fn rollback(mut self) {
        if sqlx::query("ROLLBACK").execute(&mut self.connection).await.is_ok() {
            *self.slot = Some(self.connection);
        }
    }
}

/// Counts what this process commits, and calls for a checkpoint when it is much. Each process thus
/// cares for its own writes, and one that only reads does nothing.
#[derive(Default)]
pub(super) struct Checkpoints {
    bytes: AtomicU64,
    due: Notify,
}

impl Checkpoints {
    /// Counts bytes.
    pub(super) fn note(&self, bytes: u64) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= CHECKPOINT_BYTES {
            self.bytes.store(0, Ordering::Relaxed);
            self.due.notify_one();
        }
    }

    /// Returns when a checkpoint should be made.
    pub(super) async fn due(&self) {
        self.due.notified().await;
    }
}

/// Makes the file if it is missing and brings its schema up to date. The caller keeps others out.
async fn prepare(path: &Path, kind: &Kind, options: &SqliteConnectOptions) -> Result<(), Error> {
    let mut options = options.clone().create_if_missing(true);
    if kind.incremental_vacuum {
        // Has an effect only while the file is empty.
        options = options.auto_vacuum(SqliteAutoVacuum::Incremental);
    }
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let failed = |doing: &'static str| move |error| of_sql(doing, path, error);
    let mut connection = options.connect().await.map_err(failed("open"))?;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.map_err(failed("begin to write"))?;
    let row = sqlx::query("PRAGMA user_version").fetch_one(&mut connection).await.map_err(failed("read"))?;
    let version = usize::try_from(row.get::<i64, _>(0)).unwrap_or(usize::MAX);
    let newest = kind.migrations.len();
    if version > newest {
        let row = sqlx::query("PRAGMA application_id").fetch_one(&mut connection).await.map_err(failed("read"))?;
        newer_schema(&path.display().to_string(), version, row.get(0), newest)?;
    }
    for migration in kind.migrations.get(version..).unwrap_or_default() {
        sqlx::raw_sql(*migration).execute(&mut connection).await.map_err(failed("set up"))?;
    }
    if version < newest {
        let statement = format!("PRAGMA user_version = {newest}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.map_err(failed("set up"))?;
    }
    sqlx::query("COMMIT").execute(&mut connection).await.map_err(failed("set up"))?;
    connection.close().await.map_err(failed("close"))
}
