//! The one database file: SQLite, with one writer for all floors and group commit.
//!
//! WAL, `synchronous=FULL`, foreign keys on. [`Database::write`] hands a job to the writer's thread, which runs the
//! jobs that wait as savepoints of one transaction and answers each after the commit is durable. So a job that
//! returned is on disk, and many jobs share one sync.

use std::{
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
const CHECKPOINT_PAGES: i64 = 4_000;
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
    #[error("database: its {floor} tables are of version {found}, this raic knows {known}; run a newer raic")]
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

type Job = Box<dyn FnOnce(&Transaction<'_>) -> Reply + Send>;
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
        let connection = open(path, OpenFlags::default()).and_then(|connection| {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // Rows of millions of shares lie all over the file: what is read again should be here, and what is written again
            // should be in one checkpoint.
            connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            // Finds a damaged file now, rather than in the middle of an upload.
            let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if sound == "ok" { Ok(connection) } else { Err(rusqlite::Error::InvalidPath(sound.into())) }
        });
        let connection = connection.map_err(|source| {
            let advice = match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::PermissionDenied) => {
                    "check that the folder is there and may be written"
                }
                Some(rusqlite::ErrorCode::DiskFull) => "free space on its disk",
                _ => "it is damaged: restore it from a backup, or move it away with `raic lease rebuild --replace-database`; the shares in the clouds are untouched",
            };
            DatabaseError::Open { path: path.to_owned(), source, advice }
        })?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("database-writer".to_owned())
            .spawn(move || write_jobs(connection, queue))
            .map_err(|_| DatabaseError::Closed)?;
        let permits = Arc::new(tokio::sync::Semaphore::new(READERS));
        let readers = Readers { path: path.to_owned(), idle: Mutex::default(), permits };
        Ok(Self { jobs, readers: Arc::new(readers) })
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

    /// Runs `work` in a transaction. When it returns `Ok`, what it did is durable; when it returns an error, nothing
    /// was done. Cancelling the wait cancels nothing.
    ///
    /// # Errors
    /// What `work` fails with, or the commit.
    pub async fn write<T: Send + 'static, E: From<DatabaseError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            let outcome = in_savepoint(tx, work);
            // Whoever asked may have gone; the work stands all the same.
            Box::new(move |committed| {
                let _ = answer.send(committed.map_err(E::from).and(outcome));
            })
        });
        self.jobs.send(job).await.map_err(|_| DatabaseError::Closed)?;
        answered.await.map_err(|_| DatabaseError::Closed)?
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
        let permit = readers.permits.clone().acquire_owned().await.map_err(|_| DatabaseError::Closed)?;
        let outcome = tokio::task::spawn_blocking(move || {
            // Kept until the query has ended, though whoever asked may have gone.
            let _permit = permit;
            let idle = || readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = idle().pop();
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection =
                kept.map_or_else(|| open(&readers.path, flags), Ok).map_err(DatabaseError::from)?;
            // One transaction: all that `work` sees is of one moment.
            let snapshot = connection.unchecked_transaction().map_err(DatabaseError::from)?;
            let value = work(&snapshot)?;
            drop(snapshot);
            idle().push(connection);
            Ok::<_, E>(value)
        });
        outcome.await.map_err(|_| DatabaseError::Closed)?
    }
}

fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

fn in_savepoint<T, E: From<DatabaseError>>(
    tx: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let sql = |text: &str| tx.execute_batch(text).map_err(|e| E::from(e.into()));
    sql("SAVEPOINT job")?;
    let outcome = work(tx);
    if outcome.is_err() {
        sql("ROLLBACK TO job")?;
    }
    sql("RELEASE job")?;
    outcome
}

/// The writer: runs what waits as one transaction, and answers after its commit.
fn write_jobs(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let transaction = match connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        {
            Ok(transaction) => transaction,
            Err(e) => {
                // The job is dropped and its caller told that the database is closed.
                tracing::error!("database: no transaction can begin: {e}");
                continue;
            }
        };
        let mut replies = vec![first(&transaction)];
        // A full disk makes SQLite end the transaction by itself: what follows must not run outside of one.
        while replies.len() < GROUP
            && !transaction.is_autocommit()
            && let Ok(job) = queue.try_recv()
        {
            replies.push(job(&transaction));
        }
        match transaction.commit() {
            Ok(()) => replies.into_iter().for_each(|reply| reply(Ok(()))),
            Err(e) => {
                tracing::error!("database: a commit failed: {e}");
                for reply in replies {
                    let code = e.sqlite_error().copied().unwrap_or(rusqlite::ffi::Error::new(1));
                    reply(Err(rusqlite::Error::SqliteFailure(code, Some(e.to_string())).into()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[&str] = &["CREATE TABLE t(x INTEGER NOT NULL)", "ALTER TABLE t ADD COLUMN y INTEGER"];

    async fn count(database: &Database) -> i64 {
        let count = database
            .read(|c| Ok::<_, DatabaseError>(c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?));
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
                if i % 2 == 0 { Ok(()) } else { Err(DatabaseError::Closed) }
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
        Database::open(&path).unwrap().migrate("test", &STEPS[..1]).await.unwrap();
        let database = Database::open(&path).unwrap();
        database.migrate("test", STEPS).await.unwrap();
        database.migrate("test", STEPS).await.unwrap();
        let older = database.migrate("test", &STEPS[..1]).await;
        assert!(matches!(older, Err(DatabaseError::Newer { found: 2, known: 1, .. })));
    }

    #[test]
    fn a_damaged_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        std::fs::write(&path, b"this is no database, however long it may be, and that must be said").unwrap();
        let e = Database::open(&path).unwrap_err().to_string();
        assert!(e.contains("damaged") && e.contains("raic lease rebuild --replace-database"), "{e}");
    }
}
