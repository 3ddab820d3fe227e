//! The one database file: SQLite, with one writer for all floors and group commit.
//!
//! SQLite runs with a write-ahead log, `synchronous=FULL` and foreign keys. [`Database::write`]
//! hands a job to the writer's thread. The writer runs the waiting jobs as savepoints of one
//! transaction, and answers each job after the commit is durable. So a job that returned is on
//! disk, and many jobs share one sync.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::sync::{mpsc, oneshot};

/// Most jobs that wait in the writer's queue. While it is full, callers wait to enter it.
const QUEUE: usize = 256;
/// Most jobs that share a commit.
const GROUP: usize = 64;
/// Size of the writer's page cache, in KiB.
const WRITER_CACHE_KIB: i64 = 32 << 10;
/// Size of the write-ahead log at which it is written into the file, in pages of 4 KiB.
const CHECKPOINT_PAGES: i64 = 1_000;
/// Size to which the write-ahead log is cut after it was written into the file, in bytes. A long
/// reader may have made it grow.
const LOG_LIMIT: i64 = 16 << 20;
/// Most statements that a connection keeps prepared. The writer has about fifty.
const STATEMENTS: usize = 128;
/// Size of the largest file that is checked for damage when it is opened, in bytes.
/// [`Database::check`] checks a larger one.
const CHECKED_AT_OPEN: u64 = 64 << 20;
/// Most connections for reading.
const READERS: usize = 4;

/// An error of the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file cannot be opened, or is not a whole SQLite database.
    #[error("database {path}: {source}; {advice}")]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Error of SQLite.
        source: rusqlite::Error,
        /// Advice for the operator.
        advice: &'static str,
    },
    /// A statement of SQL failed.
    #[error("database: {0}{advice}", advice = advice(.0))]
    Sql(#[from] rusqlite::Error),
    /// The tables of a floor are newer than this program.
    #[error(
        "database: its {floor} tables have version {found}, and this raic knows versions up to \
         {known}; run a newer raic"
    )]
    Newer {
        /// Name of the floor that the tables belong to.
        floor: &'static str,
        /// Version of the tables.
        found: u32,
        /// Newest version that this program knows.
        known: u32,
    },
    /// The system gave no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Randomness(std::io::Error),
    /// The writer has ended, or a reader's task failed.
    #[error("the database is closed")]
    Closed,
    /// The job panicked, and nothing of it was done.
    #[error("database: a job failed by an inner fault ({0}); it changed nothing")]
    Panicked(String),
    /// The file system of the database cannot hold one that is read while it is written.
    #[error(
        "database {path}: its file system does not let SQLite keep a write-ahead log (journal mode \
         {mode:?}); put raic's home on a local disk"
    )]
    NoLog {
        /// Path of the file.
        path: PathBuf,
        /// Journal mode that SQLite has set instead.
        mode: String,
    },
}

impl DatabaseError {
    /// Returns whether the error means that the database's disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Sql(source) => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            _ => false,
        }
    }
}

fn advice(e: &rusqlite::Error) -> &'static str {
    match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => "; free space on the disk of raic's home",
        Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::PermissionDenied) => {
            "; let the user who runs raic write to raic's home"
        }
        _ => "",
    }
}

/// A job of the writer. It gets the transaction, or the error that no transaction could begin.
type Job = Box<dyn FnOnce(Result<&Transaction<'_>, DatabaseError>) -> Reply + Send>;
/// Answers a job's caller. It gets the outcome of the commit that holds the job.
type Reply = Box<dyn FnOnce(Result<(), DatabaseError>) + Send>;

/// A handle to the database, cheap to clone. The writer ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Database {
    jobs: mpsc::Sender<Job>,
    readers: Arc<Readers>,
}

#[derive(Debug)]
struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<tokio::sync::Semaphore>,
}

impl Database {
    /// Opens a database, and makes the file if it does not exist. Blocks the thread.
    ///
    /// # Errors
    /// Fails with [`DatabaseError::Open`] if the file cannot be opened or is damaged, and with
    /// [`DatabaseError::NoLog`] if its file system cannot hold a write-ahead log. Fails with
    /// [`DatabaseError::Closed`] if the writer's thread cannot be started.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        make_private(path).map_err(|e| {
            let code = match e.kind() {
                io::ErrorKind::StorageFull => rusqlite::ffi::SQLITE_FULL,
                io::ErrorKind::PermissionDenied => rusqlite::ffi::SQLITE_PERM,
                _ => rusqlite::ffi::SQLITE_CANTOPEN,
            };
            let source = rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(code),
                Some(e.to_string()),
            );
            DatabaseError::Open {
                path: path.to_owned(),
                advice: advice_of_opening(&source),
                source,
            }
        })?;
        let size = fs::metadata(path).map_or(0, |meta| meta.len());
        let connection = open(path, OpenFlags::default()).and_then(|connection| {
            let mode: String =
                connection
                    .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // Rows of millions of shares lie all over the file. Pages that are read again should be
            // in the cache, and pages that are written again should be in one checkpoint.
            connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            connection.pragma_update(None, "journal_size_limit", LOG_LIMIT)?;
            // Finds a damaged file now, rather than in the middle of an upload. Of a large file
            // only the beginning is read.
            let check = if size <= CHECKED_AT_OPEN {
                "PRAGMA quick_check(1)"
            } else {
                "SELECT 'ok' FROM sqlite_schema LIMIT 1"
            };
            let sound: String = connection.query_row(check, [], |row| row.get(0))?;
            // A daemon that was killed left a log, which is written into the file now.
            fold_log(&connection)?;
            if sound == "ok" {
                Ok((connection, mode))
            } else {
                Err(rusqlite::Error::InvalidPath(sound.into()))
            }
        });
        let (connection, mode) = connection.map_err(|source| DatabaseError::Open {
            path: path.to_owned(),
            advice: advice_of_opening(&source),
            source,
        })?;
        if mode != "wal" {
            return Err(DatabaseError::NoLog {
                path: path.to_owned(),
                mode,
            });
        }
        let (jobs, queue) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("database-writer".to_owned())
            .spawn(move || write_jobs(connection, queue))
            .map_err(|_| DatabaseError::Closed)?;
        let permits = Arc::new(tokio::sync::Semaphore::new(READERS));
        let readers = Readers {
            path: path.to_owned(),
            idle: Mutex::default(),
            permits,
        };
        Ok(Self {
            jobs,
            readers: Arc::new(readers),
        })
    }

    /// Brings a floor's tables to the newest version. `steps[v]` leads from version v to v + 1.
    ///
    /// # Errors
    /// Fails with [`DatabaseError::Newer`] if the tables have a later version than `steps` leads
    /// to, and as [`Database::write`] does if a step fails.
    pub async fn migrate(
        &self,
        floor: &'static str,
        steps: &'static [&'static str],
    ) -> Result<(), DatabaseError> {
        self.write(move |tx| {
            tx.execute_batch(
                "CREATE TABLE IF NOT EXISTS migrations(floor TEXT PRIMARY KEY, version INTEGER NOT NULL)",
            )?;
            let found: u32 = tx.query_row(
                "SELECT coalesce((SELECT version FROM migrations WHERE floor = ?1), 0)",
                [floor],
                |row| row.get(0),
            )?;
            let known = u32::try_from(steps.len()).unwrap_or(u32::MAX);
            if found > known {
                return Err(DatabaseError::Newer { floor, found, known });
            }
            steps[found as usize..].iter().try_for_each(|step| tx.execute_batch(step))?;
            tx.execute("INSERT OR REPLACE INTO migrations VALUES(?1, ?2)", (floor, known))?;
            Ok(())
        })
        .await
    }

    /// Runs `work` in a transaction. If this returns `Ok`, the changes are durable; if it returns
    /// an error, nothing was changed. Cancelling the wait does not cancel the work.
    ///
    /// # Errors
    /// Fails with the error of `work` or of the commit, with [`DatabaseError::Panicked`] if `work`
    /// panicked, and with [`DatabaseError::Closed`] if the writer has ended.
    pub async fn write<T: Send + 'static, E: From<DatabaseError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            let outcome = match tx {
                Ok(tx) => in_savepoint(tx, work),
                Err(e) => Err(E::from(e)),
            };
            // The caller may have gone. The work stands all the same.
            Box::new(move |committed| {
                // The job's own error is more precise than the failure of its transaction.
                let _ = answer.send(match (committed, outcome) {
                    (Err(_), Err(own)) => Err(own),
                    (committed, outcome) => committed.map_err(E::from).and(outcome),
                });
            })
        });
        self.jobs
            .send(job)
            .await
            .map_err(|_| DatabaseError::Closed)?;
        answered.await.map_err(|_| DatabaseError::Closed)?
    }

    /// Waits until the writer has ended by a fault. Then nothing can be written any more, and the
    /// process should end.
    pub async fn closed(&self) {
        self.jobs.closed().await;
    }

    /// Checks a large file for damage, which was not read whole when it was opened. This takes
    /// minutes if the file is not in memory. Other callers read and write meanwhile.
    ///
    /// # Errors
    /// Fails with [`DatabaseError::Open`] if the file is damaged, and with another error if it
    /// cannot be read.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        let path = self.readers.path.clone();
        self.read(move |c| {
            if fs::metadata(&path).is_ok_and(|meta| meta.len() <= CHECKED_AT_OPEN) {
                return Ok(());
            }
            let sound: String = c.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if sound == "ok" {
                return Ok(());
            }
            let source = rusqlite::Error::InvalidPath(sound.into());
            Err(DatabaseError::Open {
                path,
                advice: advice_of_opening(&source),
                source,
            })
        })
        .await
    }

    /// Runs `work` on a snapshot of the database, on the blocking pool.
    ///
    /// # Errors
    /// Fails with the error of `work`, with [`DatabaseError::Sql`] if no snapshot can be opened,
    /// and with [`DatabaseError::Closed`] if `work` panicked.
    pub async fn read<T: Send + 'static, E: From<DatabaseError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let readers = self.readers.clone();
        let permit = readers
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| DatabaseError::Closed)?;
        let outcome = tokio::task::spawn_blocking(move || {
            // The permit is held until the query has ended, even if the caller has gone.
            let _permit = permit;
            let idle = || readers.idle.lock();
            let kept = idle().pop();
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = kept
                .map_or_else(|| open(&readers.path, flags), Ok)
                .map_err(DatabaseError::from)?;
            // One transaction, so `work` sees the database of one moment.
            let snapshot = connection
                .unchecked_transaction()
                .map_err(DatabaseError::from)?;
            let outcome = work(&snapshot);
            drop(snapshot);
            idle().push(connection);
            outcome
        });
        outcome.await.map_err(|_| DatabaseError::Closed)?
    }
}

fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Makes the file so that only its owner can use it, or removes the rights of others: it has all
/// names and wrapped keys. SQLite gives its log the same mode.
fn make_private(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(mode & 0o700))?;
    }
    for beside in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(beside);
        match fs::metadata(&name) {
            Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
                fs::set_permissions(
                    &name,
                    fs::Permissions::from_mode(meta.permissions().mode() & 0o700),
                )?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns advice for a file that cannot be opened. Only a file that is certainly damaged is called
/// damaged, because that advice costs the catalog.
fn advice_of_opening(e: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode;
    match (e, e.sqlite_error_code()) {
        (_, Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied)) => {
            "check that the folder is there and may be written"
        }
        (_, Some(ErrorCode::DiskFull)) => "free space on its disk",
        (_, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
            "another program holds it, such as a backup: end that program and start again; \
             nothing is wrong with the file"
        }
        (_, Some(ErrorCode::ReadOnly)) => "let the user who runs raic write to raic's home",
        (
            _,
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport,
            ),
        ) => {
            "its disk or file system fails: look at the system's log; if raic's home is on a \
             network, put it on a local disk"
        }
        (rusqlite::Error::InvalidPath(_), _)
        | (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) => {
            "it is damaged: restore it from a backup, or move it away with `raic lease rebuild \
             --replace-database`; the shares in the clouds are untouched"
        }
        _ => "nothing was changed; try again; if it fails again, look at the system's log",
    }
}

/// Writes the log into the file and cuts the log to nothing, unless a reader holds it. Then a copy
/// of the file alone is whole.
fn fold_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn in_savepoint<T, E: From<DatabaseError>>(
    tx: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let sql = |text: &str| tx.execute_batch(text).map_err(|e| E::from(e.into()));
    sql("SAVEPOINT job")?;
    // A panic in one job must not end the writer: the daemon would go on serving and could write
    // nothing any more.
    let outcome = catch_unwind(AssertUnwindSafe(|| work(tx))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(E::from(DatabaseError::Panicked(text.unwrap_or_default())))
    });
    // A full disk makes SQLite end the transaction by itself. Then the job has the reason, and
    // there is no savepoint to go back to.
    if tx.is_autocommit() {
        return outcome;
    }
    if outcome.is_err() {
        sql("ROLLBACK TO job")?;
    }
    sql("RELEASE job")?;
    outcome
}

/// Runs the writer: it takes the waiting jobs as one transaction and answers them after its commit.
fn write_jobs(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let transaction =
            match connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate) {
                Ok(transaction) => transaction,
                Err(e) => {
                    tracing::error!("database: a transaction cannot begin: {e}");
                    first(Err(e.into()))(Ok(()));
                    continue;
                }
            };
        let mut replies = vec![first(Ok(&transaction))];
        while replies.len() < GROUP
            && !transaction.is_autocommit()
            && let Ok(job) = queue.try_recv()
        {
            replies.push(job(Ok(&transaction)));
        }
        let committed = match transaction.is_autocommit() {
            // SQLite ended the transaction and undid all jobs in it.
            true => Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
                Some("SQLite ended the transaction, probably because the disk is full".to_owned()),
            )),
            false => transaction.commit(),
        };
        match committed {
            Ok(()) => replies.into_iter().for_each(|reply| reply(Ok(()))),
            Err(e) => {
                tracing::error!("database: a commit failed: {e}");
                for reply in replies {
                    let code = e
                        .sqlite_error()
                        .copied()
                        .unwrap_or(rusqlite::ffi::Error::new(1));
                    reply(Err(rusqlite::Error::SqliteFailure(
                        code,
                        Some(e.to_string()),
                    )
                    .into()));
                }
            }
        }
    }
    // So the log is short after most clean stops. The process may end before this: a copy of the
    // database always needs the log, too.
    if let Err(e) = fold_log(&connection) {
        tracing::warn!("database: its log could not be written into the file: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[&str] = &[
        "CREATE TABLE t(x INTEGER NOT NULL)",
        "ALTER TABLE t ADD COLUMN y INTEGER",
    ];

    async fn count(database: &Database) -> i64 {
        let count = database.read(|c| {
            Ok::<_, DatabaseError>(c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
        });
        count.await.unwrap()
    }

    #[tokio::test]
    async fn a_job_that_fails_undoes_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("db")).unwrap();
        database.migrate("test", STEPS).await.unwrap();
        let jobs = (0..100).map(|i| {
            database.write(move |tx| {
                tx.execute("INSERT INTO t(x) VALUES(?1)", [i])?;
                if i % 2 == 0 {
                    Ok(())
                } else {
                    Err(DatabaseError::Closed)
                }
            })
        });
        let done = futures::future::join_all(jobs).await;
        assert_eq!(done.iter().filter(|d| d.is_ok()).count(), 50);
        assert_eq!(count(&database).await, 50);
    }

    #[tokio::test]
    async fn migrations_go_on_where_they_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        Database::open(&path)
            .unwrap()
            .migrate("test", &STEPS[..1])
            .await
            .unwrap();
        let database = Database::open(&path).unwrap();
        database.migrate("test", STEPS).await.unwrap();
        database.migrate("test", STEPS).await.unwrap();
        let older = database.migrate("test", &STEPS[..1]).await;
        assert!(matches!(
            older,
            Err(DatabaseError::Newer {
                found: 2,
                known: 1,
                ..
            })
        ));
    }

    #[test]
    fn a_damaged_file_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        std::fs::write(
            &path,
            b"this is no database, however long it may be, and that must be said",
        )
        .unwrap();
        let e = Database::open(&path).unwrap_err().to_string();
        assert!(
            e.contains("damaged") && e.contains("raic lease rebuild --replace-database"),
            "{e}"
        );
    }

    /// One panic once made every later write fail for as long as the daemon ran.
    #[tokio::test]
    async fn a_job_that_panics_is_reported_and_the_next_works() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("db")).unwrap();
        database.migrate("test", STEPS).await.unwrap();
        let panics = database.write(|tx| -> Result<(), DatabaseError> {
            tx.execute("INSERT INTO t(x) VALUES(1)", [])?;
            panic!("a fault")
        });
        assert!(matches!(panics.await, Err(DatabaseError::Panicked(text)) if text == "a fault"));
        let works = database
            .write(|tx| Ok::<_, DatabaseError>(tx.execute("INSERT INTO t(x) VALUES(2)", [])?));
        assert_eq!((works.await.unwrap(), count(&database).await), (1, 1));
    }

    /// A file that a backup tool held was once reported as damaged, with the advice to throw the
    /// catalog away.
    #[test]
    fn a_file_that_another_holds_is_not_called_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        drop(Database::open(&path).unwrap());
        let other = Connection::open(&path).unwrap();
        other
            .pragma_update(None, "locking_mode", "EXCLUSIVE")
            .unwrap();
        other
            .execute_batch("BEGIN EXCLUSIVE; CREATE TABLE held(x)")
            .unwrap();
        let e = Database::open(&path).unwrap_err().to_string();
        assert!(
            e.contains("another program holds it") && !e.contains("damaged"),
            "{e}"
        );
    }

    #[tokio::test]
    async fn the_log_is_folded_in_when_the_database_is_closed_and_is_the_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        fs::write(&path, b"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let database = Database::open(&path).unwrap();
        database.migrate("test", STEPS).await.unwrap();
        for file in ["db", "db-wal", "db-shm"] {
            let mode = fs::metadata(folder.path().join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        drop(database);
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(20));
            if !folder.path().join("db-wal").exists() {
                break;
            }
        }
        // A person copies only the file.
        fs::copy(&path, folder.path().join("copy")).unwrap();
        let copy = Connection::open(folder.path().join("copy")).unwrap();
        assert!(copy.table_exists(None, "t").unwrap());
    }

    /// A long reader once made the log grow by hundreds of kilobytes for each file, and it never
    /// shrank.
    #[tokio::test]
    async fn the_log_shrinks_when_a_long_reader_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let database = Database::open(&path).unwrap();
        database
            .migrate("test", &["CREATE TABLE big(x BLOB)"])
            .await
            .unwrap();
        let reader = Connection::open(&path).unwrap();
        reader
            .execute_batch("BEGIN; SELECT count(*) FROM big")
            .unwrap();
        let put = || {
            database.write(|tx| {
                Ok::<_, DatabaseError>(tx.execute("INSERT INTO big VALUES(zeroblob(1000000))", [])?)
            })
        };
        for _ in 0..40 {
            put().await.unwrap();
        }
        let log = || fs::metadata(folder.path().join("db-wal")).unwrap().len();
        assert!(log() > 30 << 20, "{}", log());
        drop(reader);
        for _ in 0..12 {
            put().await.unwrap();
        }
        assert!(log() <= 17 << 20, "{}", log());
    }
}
