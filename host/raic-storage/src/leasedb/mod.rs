//! leasedb: raic-storage's tables in the one database file. They record which shares exist, which
//! accounts hold leases on them, and the space that each account uses.
//!
//! A function that takes a transaction is for a caller that changes its own tables in the same
//! transaction. Every other method of [`LeaseDb`] is a whole transaction. States of shares change
//! by compare-and-set.

mod accounts;
mod array_usage;
mod collection;
mod discovery;
mod draining;
mod events;
mod gone;
mod leases;
mod mutable;
mod pins;
mod schema;
mod shares;
mod slots;
mod states;
mod suspects;
mod tahoe_ids;
mod time;
mod uploads;
mod usage;
mod walks;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

pub use accounts::{Account, AccountChange, AccountId};
pub use array_usage::Used;
pub use collection::{Attempt, Expiry, Going};
pub use discovery::{LateRequests, Remains};
pub use events::{Event, EventKind, NewEvent};
pub use gone::{Retired, ServerShares};
pub use leases::{LeaseInfo, RenewSecret};
pub use mutable::WriteEnabler;
pub(crate) use pins::pins;
pub use pins::{Pin, Pins};
pub(crate) use shares::shares_of;
pub use shares::{MAX_SHARE, Placed, ShareKind, ShareRow, ShareState, placed, server_name};
use shares::{find, shareset};
pub use slots::Slots;
pub(crate) use slots::{NamedChunk, Slot, Superseded};
pub use suspects::{Suspect, Suspicion};
use suspects::{clear, is_suspect};
pub use tahoe_ids::TahoeIds;
pub(crate) use uploads::UploadRequest;
pub use uploads::{Allocated, Allocation, Coming, FirstLease, Upload, UploadSecret};
pub use usage::{Usage, UsageDay};

use crate::{Clock, Database, IssuedRuns, Moment, Result, StorageIndex};
use states::{MUTABLE, STABLE};

/// The number of a storage server, which is its cloud's number in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub(crate) i64);

impl ServerId {
    /// Makes the id of the server with this number.
    pub fn of(number: u32) -> Self {
        Self(i64::from(number))
    }

    /// The server's number, 1 or more.
    pub fn number(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

/// The identity of a database: its random name and its epoch. Owner objects are named by both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random name of the database, made when the database is made or a backup of it is restored.
    pub database: StorageIndex,
    /// Epoch of the database, 1 at first. It rises when this database takes containers over.
    pub epoch: u32,
}

/// The waits before something is given up or destroyed. Tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct GracePeriods {
    /// Time for which a request that was given up may still land. Until it has passed, no other
    /// bytes get the request's name, and no deletion of the share ends.
    pub late: Duration,
    /// Time after which an upload ends that received nothing more. An array's upload of this run
    /// ends by itself instead.
    pub upload: Duration,
    /// Time between two passes that must agree. Only then a share is destroyed or marked as lost
    /// because of a listing.
    pub suspicion: Duration,
}

impl GracePeriods {
    /// How long an array's uploads of earlier runs rest before they are given up. This is longer
    /// than a daemon on a copy of this home goes on without checking its containers' owners.
    pub fn of_other_runs(&self) -> Duration {
        self.upload * 2 / 3
    }
}

impl Default for GracePeriods {
    fn default() -> Self {
        Self {
            late: Duration::from_secs(15 * 60),
            upload: Duration::from_secs(30 * 60),
            suspicion: Duration::from_secs(24 * 3600),
        }
    }
}

/// A handle to leasedb's tables, cheap to clone.
#[derive(Clone, Debug)]
pub struct LeaseDb {
    database: Database,
    clock: Clock,
    grace_periods: GracePeriods,
    /// Random nonce of this run of the process. An array's upload with another nonce was cut off
    /// when its own run ended.
    run: [u8; 16],
    /// The number of this run. It rises at each start, and while shares change: see
    /// [`crate::Ownership::Copied`].
    run_number: Arc<AtomicU64>,
    /// Whether shares changed since the run's number rose last.
    has_changed: Arc<AtomicBool>,
    /// Servers that the configuration does not have any longer. They get no new share.
    retired: Arc<Mutex<BTreeSet<ServerId>>>,
    draining: draining::Draining,
    accepted: time::Accepted,
}

/// A run of the daemon, as a container's run object names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the run. It rises at each start of a daemon, and every ten minutes in which shares
    /// changed. The database records it before any container gets it.
    pub number: u64,
    /// Random nonce of this process alone. Two copies of one home that start at once have the same
    /// number, but not the same nonce.
    pub nonce: StorageIndex,
}

pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

impl LeaseDb {
    /// Opens leasedb in a database, brings its tables to the newest version, and issues the number
    /// of this run.
    ///
    /// # Errors
    /// Fails with [`crate::DatabaseError::Newer`] if the tables are newer than this program. Fails
    /// with [`crate::DatabaseError::Randomness`] if the system gives no random numbers, and with
    /// another `StorageError::Database` if the database cannot be written.
    pub async fn open(
        database: Database,
        clock: Clock,
        grace_periods: GracePeriods,
    ) -> Result<Self> {
        database.migrate("storage", schema::STEPS).await?;
        let run = StorageIndex::random()
            .map_err(crate::DatabaseError::Randomness)?
            .0;
        let fresh = StorageIndex::random()
            .map_err(crate::DatabaseError::Randomness)?
            .0;
        let accepted = time::Accepted::default();
        let (run_number, has_changed, retired) = (Arc::default(), Arc::default(), Arc::default());
        let leasedb = Self {
            database,
            clock,
            grace_periods,
            run,
            run_number,
            has_changed,
            retired,
            draining: draining::Draining::default(),
            accepted,
        };
        let this = leasedb.clone();
        leasedb
            .write(move |tx| {
                let sql =
                    "INSERT INTO identity(one, database_id, epoch) VALUES(1, ?1, 1) ON CONFLICT DO NOTHING";
                tx.execute(sql, [fresh])?;
                this.accepted.open(tx, &this.clock)?;
                this.draining.load(tx)?;
                Ok(())
            })
            .await?;
        leasedb.raise_run().await?;
        Ok(leasedb)
    }

    /// This run, as it is written into the containers.
    pub fn run(&self) -> Run {
        Run {
            number: self.run_number.load(Ordering::Relaxed),
            nonce: StorageIndex(self.run),
        }
    }

    /// Reads all runs that this database issued.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn issued_runs(&self) -> Result<IssuedRuns> {
        let run = self.run();
        self.read(move |c| {
            Ok(IssuedRuns {
                run,
                all: issued(c)?,
            })
        })
        .await
    }

    /// Issues the next run number. The number is durable here before any container gets it. A run
    /// that a container holds and this database never issued means that a copy of it runs.
    async fn raise_run(&self) -> Result<()> {
        let nonce = self.run;
        let raise = self.write(move |tx| {
            tx.execute("UPDATE identity SET run = run + 1", [])?;
            let number: i64 = tx.query_row("SELECT run FROM identity", [], |r| r.get(0))?;
            tx.execute(
                "INSERT OR REPLACE INTO runs VALUES(?1, ?2)",
                params![nonce, number],
            )?;
            Ok(number)
        });
        self.run_number.store(uint(raise.await?), Ordering::Relaxed);
        Ok(())
    }

    /// Records that shares changed. An older state of this database, if it is restored, does not
    /// have the change.
    fn changed(&self) {
        self.has_changed.store(true, Ordering::Relaxed);
    }

    /// Raises the run's number if shares changed since it rose last. So an older state of this
    /// database can be distinguished from this one. The next check of a container's owner writes
    /// the number there.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn raise_run_if_changed(&self) -> Result<()> {
        if !self.has_changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        self.raise_run().await.inspect_err(|_| self.changed())
    }

    /// The database that holds the tables.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The clock that leases and waits are measured by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The waits before something is given up or destroyed.
    pub fn grace_periods(&self) -> GracePeriods {
        self.grace_periods
    }

    /// Reads the database's identity.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn identity(&self) -> Result<Identity> {
        self.read(|c| {
            let row = |r: &rusqlite::Row<'_>| {
                Ok(Identity {
                    database: StorageIndex(r.get(0)?),
                    epoch: r.get(1)?,
                })
            };
            Ok(c.query_row("SELECT database_id, epoch FROM identity", [], row)?)
        })
        .await
    }

    /// Raises this database's epoch above `above`, an epoch that was seen in a container. So this
    /// database takes the containers over.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn raise_epoch(&self, above: u32) -> Result<()> {
        self.write(move |tx| {
            tx.execute("UPDATE identity SET epoch = max(epoch, ?1 + 1)", [above])?;
            Ok(())
        })
        .await
    }

    /// Returns whether the server's container was taken over so recently that unknown requests of
    /// its previous host may still land.
    pub(crate) fn was_just_taken(&self, c: &Connection, server: ServerId) -> Result<bool> {
        let taken = taken(c, server)?;
        Ok(taken.is_some_and(|taken| taken > self.ago(self.grace_periods.late)))
    }

    /// The moment from which nothing that the previous host sent can still land, in milliseconds
    /// since 1970; `None` if the container was never taken over. A walk that ended earlier must be
    /// repeated.
    pub(crate) async fn settled(&self, server: ServerId) -> Result<Option<Moment>> {
        let late = self.grace_periods.late;
        self.read(move |c| Ok(taken(c, server)?.map(|taken| taken.after(late))))
            .await
    }

    /// Records that the server's container is taken over from another database now.
    pub(crate) async fn set_taken(&self, server: ServerId) -> Result<()> {
        let now = self.now();
        self.write(move |tx| {
            tx.execute(
                "UPDATE servers SET taken_ms = ?2 WHERE id = ?1",
                params![server.0, now],
            )?;
            Ok(())
        })
        .await
    }

    /// Makes this database, restored from a backup, a database of its own. It gets a new name and a
    /// higher epoch, and must take its containers over. It forgets all writes under way. Its
    /// versions of mutable shares become doubtful.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn restored(&self) -> Result<()> {
        let fresh = StorageIndex::random()
            .map_err(crate::DatabaseError::Randomness)?
            .0;
        self.write(move |tx| {
            tx.execute("UPDATE identity SET database_id = ?1, epoch = epoch + 1, run = run + 1", [fresh])?;
            tx.execute_batch(&format!(
                "UPDATE servers SET is_claimed = 0;
                 DELETE FROM leases WHERE share IN (SELECT id FROM shares WHERE state <> {STABLE});
                 DELETE FROM shares WHERE state <> {STABLE};
                 DELETE FROM superseded;
                 DELETE FROM suspects;
                 UPDATE slots SET intent = NULL, intent_commit = NULL, fence = fence + 1, is_doubtful = 1;
                 DELETE FROM slots WHERE current IS NULL;
                 UPDATE shares SET is_unmeasured = 0 WHERE kind = {MUTABLE};
                 DELETE FROM runs;
                 UPDATE walks SET next = 0, ended_ms = NULL;",
            ))?;
            Ok(())
        })
        .await
    }

    /// Returns the number of the server with this name. A new name gets a new number.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn server(&self, name: &str) -> Result<ServerId> {
        let name = name.to_owned();
        self.write(move |tx| server_id(tx, &name)).await
    }

    /// Returns whether this database has put its owner object into the server's container.
    pub(crate) async fn is_claimed(&self, server: ServerId) -> Result<bool> {
        self.read(move |c| {
            Ok(c.query_row(
                "SELECT is_claimed FROM servers WHERE id = ?1",
                [server.0],
                |row| row.get(0),
            )?)
        })
        .await
    }

    pub(crate) async fn set_claimed(&self, server: ServerId) -> Result<()> {
        self.write(move |tx| {
            tx.execute(
                "UPDATE servers SET is_claimed = 1 WHERE id = ?1",
                [server.0],
            )?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.database.write(work).await
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.database.read(work).await
    }
}

/// Reads the runs that a database issued: the number of each, by its nonce.
fn issued(c: &Connection) -> rusqlite::Result<BTreeMap<StorageIndex, u64>> {
    let mut statement = c.prepare("SELECT nonce, number FROM runs")?;
    let rows = statement.query_map([], |r| Ok((StorageIndex(r.get(0)?), uint(r.get(1)?))))?;
    rows.collect()
}

/// Reads the moment at which a server's container was taken over from another database, in
/// milliseconds since 1970; `None` if it never was.
fn taken(c: &Connection, server: ServerId) -> Result<Option<Moment>> {
    Ok(
        c.prepare_cached("SELECT taken_ms FROM servers WHERE id = ?1")?
            .query_row([server.0], |r| r.get(0))?,
    )
}

/// Reads the configured name of a server, for messages.
fn name_of(c: &Connection, server: ServerId) -> Result<String> {
    Ok(c.prepare_cached("SELECT name FROM servers WHERE id = ?1")?
        .query_row([server.0], |r| r.get(0))?)
}

/// Returns the number of the server with this name. A new name gets a new number.
///
/// # Errors
/// Fails with `StorageError::Database` if a statement fails.
pub fn server_id(tx: &Connection, name: &str) -> Result<ServerId> {
    let known = tx
        .prepare_cached("SELECT id FROM servers WHERE name = ?1")?
        .query_row([name], |row| row.get(0));
    if let Some(id) = known.optional()? {
        return Ok(ServerId(id));
    }
    tx.execute("INSERT INTO servers(name) VALUES(?1)", params![name])?;
    Ok(ServerId(tx.last_insert_rowid()))
}
