//! The one database file: SQLite, with one writer for all floors and group commit.
//!
//! WAL, `synchronous=FULL`, foreign keys on. [`Database::write`] hands a job to the writer's
//! thread, which runs the jobs that wait as savepoints of one transaction and answers each after
//! the commit is durable. So a job that returned is on disk, and many jobs share one sync.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait for the writer before callers do.
const QUEUE: usize = 256;
/// Jobs that share a commit.
const GROUP: usize = 64;
/// The writer's page cache, in KiB.
const WRITER_CACHE_KIB: i64 = 32 << 10;
/// Pages of the write-ahead log (4 KiB each) after which it is written into the file.
const CHECKPOINT_PAGES: i64 = 1_000;
/// What the write-ahead log is cut to after it was written into the file, in bytes: a reader may
/// have let it grow.
const LOG_LIMIT: i64 = 16 << 20;
/// Statements that a connection keeps prepared: the writer has about fifty.
const STATEMENTS: usize = 128;
/// The largest file that is read through when it is opened, in bytes; a larger one is for
/// [`Database::check`].
const CHECKED_AT_OPEN: u64 = 64 << 20;
/// Connections for reading, at most.
const READERS: usize = 4;

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file cannot be opened or is not a database of ours.
    #[error("database {path}: {source}; {advice}")]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's word.
        source: rusqlite::Error,
        /// What to do.
        advice: &'static str,
    },
    /// A statement failed.
    #[error("database: {0}{advice}", advice = advice(.0))]
    Sql(#[from] rusqlite::Error),
    /// The file is newer than this program.
    #[error(
        "database: its {floor} tables are of version {found}, this raic knows {known}; run a newer raic"
    )]
    Newer {
        /// Whose tables.
        floor: &'static str,
        /// Their version.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// The system gave no randomness.
    #[error("the system gives no random numbers: {0}")]
    Randomness(std::io::Error),
    /// The writer is gone.
    #[error("database: it is closed")]
    Closed,
    /// What was to be done panicked; nothing of it was done.
    #[error("database: an inner fault ({0}); nothing was changed")]
    Panicked(String),
    /// Its file system cannot hold a database that is read while it is written.
    #[error(
        "database {path}: its file system does not let SQLite keep a write-ahead log (journal mode {mode:?}); put raic's home on a local disk"
    )]
    NoLog {
        /// The file.
        path: PathBuf,
        /// The mode that SQLite has set instead.
        mode: String,
    },
}

impl DatabaseError {
    /// Whether a disk is full.
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

/// What is to be done in a transaction, or why there is none.
type Job = Box<dyn FnOnce(Result<&Transaction<'_>, DatabaseError>) -> Reply + Send>;
/// Told whether the commit that holds the job is durable.
type Reply = Box<dyn FnOnce(Result<(), DatabaseError>) + Send>;

/// A handle to the database; cheap to clone. The writer ends when the last is dropped.
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
    /// Opens a database, making it where it is not there. Blocks.
    ///
    /// # Errors
    /// [`DatabaseError::Open`] where it cannot be, or is damaged.
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
            // Rows of millions of shares lie all over the file: what is read again should be here,
            // and what is written again should be in one checkpoint.
            connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            connection.pragma_update(None, "journal_size_limit", LOG_LIMIT)?;
            // Finds a damaged file now, rather than in the middle of an upload; of a large one its
            // beginning.
            let check = if size <= CHECKED_AT_OPEN {
                "PRAGMA quick_check(1)"
            } else {
                "SELECT 'ok' FROM sqlite_schema LIMIT 1"
            };
            let sound: String = connection.query_row(check, [], |row| row.get(0))?;
            // What a daemon that was killed left in the log is folded in.
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

    /// Brings a floor's tables to the newest version: `steps[v]` leads from version v to v + 1.
    ///
    /// # Errors
    /// [`DatabaseError::Newer`] where the file is of a later version than `steps` knows.
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

    /// Runs `work` in a transaction. When it returns `Ok`, what it did is durable; when it returns
    /// an error, nothing was done. Cancelling the wait cancels nothing.
    ///
    /// # Errors
    /// What `work` fails with, or the commit.
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
            // Whoever asked may have gone; the work stands all the same.
            Box::new(move |committed| {
                // What the job itself met says more than that its transaction ended.
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

    /// Waits until the writer has ended, which it does only when the last handle is dropped, or by
    /// a fault: then nothing can be written any more, and the process should end.
    pub async fn closed(&self) {
        self.jobs.closed().await;
    }

    /// Reads a file through, for damage, that was too large for that when it was opened: minutes,
    /// where it is not in memory. Others read and write meanwhile.
    ///
    /// # Errors
    /// [`DatabaseError::Open`] if it is damaged.
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

    /// Runs `work` on a snapshot, off the runtime.
    ///
    /// # Errors
    /// What `work` fails with.
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
            // Kept until the query has ended, though whoever asked may have gone.
            let _permit = permit;
            let idle = || readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = idle().pop();
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = kept
                .map_or_else(|| open(&readers.path, flags), Ok)
                .map_err(DatabaseError::from)?;
            // One transaction: all that `work` sees is of one moment.
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

/// Makes the file for its owner alone, or takes others' rights to it away: it has all names and
/// wrapped keys. SQLite gives its log the same mode.
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

/// What may be wrong with a file that cannot be opened. Only what is certainly damaged is called
/// so: the advice costs the catalog.
fn advice_of_opening(e: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode;
    match (e, e.sqlite_error_code()) {
        (_, Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied)) => {
            "check that the folder is there and may be written"
        }
        (_, Some(ErrorCode::DiskFull)) => "free space on its disk",
        (_, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
            "another program holds it, such as a backup: end that, and start again; nothing is wrong with it"
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
            "its disk or file system fails: look at the system's log; put raic's home on a local disk if it is on a network"
        }
        (rusqlite::Error::InvalidPath(_), _)
        | (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) => {
            "it is damaged: restore it from a backup, or move it away with `raic lease rebuild --replace-database`; the shares in the clouds are untouched"
        }
        _ => "nothing was changed; try again, and look at the system's log if it stays so",
    }
}

/// Writes the log into the file and cuts it to nothing, unless somebody reads: a copy of the file
/// alone is then whole.
fn fold_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn in_savepoint<T, E: From<DatabaseError>>(
    tx: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let sql = |text: &str| tx.execute_batch(text).map_err(|e| E::from(e.into()));
    sql("SAVEPOINT job")?;
    // A fault in one job must not end the writer: the daemon would go on serving, and write nothing
    // any more.
    let outcome = catch_unwind(AssertUnwindSafe(|| work(tx))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(E::from(DatabaseError::Panicked(text.unwrap_or_default())))
    });
    // A full disk makes SQLite end the transaction by itself: then the reason is the job's, and
    // there is nothing to go back to.
    if tx.is_autocommit() {
        return outcome;
    }
    if outcome.is_err() {
        sql("ROLLBACK TO job")?;
    }
    sql("RELEASE job")?;
    outcome
}

/// The writer: runs what waits as one transaction, and answers after its commit.
fn write_jobs(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let transaction =
            match connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate) {
                Ok(transaction) => transaction,
                Err(e) => {
                    tracing::error!("database: no transaction can begin: {e}");
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
            // It was ended, and all that was done in it undone.
            true => Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
                Some("the transaction was ended, as where a disk is full".to_owned()),
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
    // Whoever copies the file alone after a clean stop has all of it.
    if let Err(e) = fold_log(&connection) {
        tracing::warn!("database: its log stays beside it: {e}");
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
    fn a_damaged_file_is_told() {
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

    /// One fault once made every later write fail, for as long as the daemon ran.
    #[tokio::test]
    async fn a_job_that_panics_is_told_and_the_next_works() {
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

    /// A backup tool that holds the file was told as damage, with the advice to throw the catalog
    /// away.
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
        // What a person copies is the file.
        fs::copy(&path, folder.path().join("copy")).unwrap();
        let copy = Connection::open(folder.path().join("copy")).unwrap();
        assert!(copy.table_exists(None, "t").unwrap());
    }

    /// A reader of one moment let the log grow to hundreds of kilobytes a file, and it stayed so.
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
