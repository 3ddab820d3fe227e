//! leasedb: which shares there are, who holds leases on them, and what that costs.
//!
//! raic-storage's tables in the one database file. Functions that take a transaction are for
//! whoever changes tables of its own with them; methods of [`LeaseDb`] are whole transactions.
//! States of shares change by compare-and-set.

mod accounts;
mod collection;
mod gone;
mod leases;
mod schema;
mod shares;
mod time;
mod usage;
mod walks;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

pub use accounts::{Account, AccountChange, AccountId};
pub(crate) use accounts::{admit, by_id as account};
pub use collection::{Expiry, Going};
pub use gone::ServerShares;
pub use leases::{LeaseInfo, RenewSecret};
pub use shares::{
    Allocation, Coming, MAX_SHARE, Placed, ShareKind, ShareRow, ShareState, Upload, placed,
};
pub(crate) use shares::{below, count, find, not_begun, shareset, upload_of};
pub use usage::{Usage, UsageDay};
pub use walks::{Suspect, Suspicion};
pub(crate) use walks::{clear, is_suspect, set_lost, suspect};

use crate::{Clock, Database, IssuedRuns, Result, StorageIndex};

/// A storage server, by number: its cloud's number in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub(crate) i64);

impl ServerId {
    /// The server of a number.
    pub fn of(number: u32) -> Self {
        Self(i64::from(number))
    }

    /// Its number, 1 or more.
    pub fn number(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

/// Which database this is, and of which epoch: what owner objects are named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random, made with the database.
    pub database: StorageIndex,
    /// Rises when a container is taken over; 1 at first.
    pub epoch: u32,
}

/// How long things are waited for before they are given up or destroyed; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A request that was given up may still land until then: other bytes under its name, and a
    /// deletion's end, wait.
    pub late: Duration,
    /// An upload that nobody carries on ends.
    pub upload: Duration,
    /// Between the two passes that must agree before anything is destroyed, or marked lost, on a
    /// listing's word.
    pub suspicion: Duration,
}

impl Patience {
    /// How long the uploads of earlier runs rest before they are given up: longer than a copy of
    /// this home goes on without looking whose its containers are.
    pub fn of_other_runs(&self) -> Duration {
        self.upload * 2 / 3
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            late: Duration::from_secs(15 * 60),
            upload: Duration::from_secs(30 * 60),
            suspicion: Duration::from_secs(24 * 3600),
        }
    }
}

/// A handle to the tables; cheap to clone.
#[derive(Clone, Debug)]
pub struct LeaseDb {
    database: Database,
    clock: Clock,
    patience: Patience,
    /// Of this run of the process: uploads of another one were ended by a crash.
    run: [u8; 16],
    /// The number of this run, which rises at each start, and while things change: see
    /// [`crate::Ownership::Copied`].
    run_number: Arc<AtomicU64>,
    /// Whether shares changed since that number rose.
    has_changed: Arc<AtomicBool>,
    accepted: time::Accepted,
}

/// A run of the daemon on its containers, as they see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Rises at each start of a daemon, and every ten minutes in which something changed: in the
    /// database first.
    pub number: u64,
    /// Of this process alone: two copies of one home that start at once have the same number.
    pub nonce: StorageIndex,
}

pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

impl LeaseDb {
    /// Brings the tables to the newest version.
    ///
    /// # Errors
    /// The database's; [`crate::DatabaseError::Newer`] where they are newer than this program.
    pub async fn open(database: Database, clock: Clock, patience: Patience) -> Result<Self> {
        database.migrate("storage", schema::STEPS).await?;
        let run = StorageIndex::random()
            .map_err(crate::DatabaseError::Randomness)?
            .0;
        let fresh = StorageIndex::random()
            .map_err(crate::DatabaseError::Randomness)?
            .0;
        let accepted = time::Accepted::default();
        let (run_number, has_changed) = (Arc::default(), Arc::default());
        let leasedb = Self {
            database,
            clock,
            patience,
            run,
            run_number,
            has_changed,
            accepted,
        };
        let this = leasedb.clone();
        leasedb
            .write(move |tx| {
                let sql =
                    "INSERT INTO identity(one, database_id, epoch) VALUES(1, ?1, 1) ON CONFLICT DO NOTHING";
                tx.execute(sql, [fresh])?;
                this.accepted.open(tx, &this.clock)?;
                Ok(())
            })
            .await?;
        leasedb.raise_run().await?;
        Ok(leasedb)
    }

    /// This run, as containers are told of it.
    pub fn run(&self) -> Run {
        Run {
            number: self.run_number.load(Ordering::Relaxed),
            nonce: StorageIndex(self.run),
        }
    }

    /// All runs that this database issued.
    ///
    /// # Errors
    /// The database's.
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

    /// Issues the next number. It is told to nobody before it is durable here: a container that
    /// knows more than this database would take it for a copy.
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

    /// Shares changed: an older state of this database, brought back, would not know of it.
    fn changed(&self) {
        self.has_changed.store(true, Ordering::Relaxed);
    }

    /// Raises the run's number if shares changed since it rose last, so that an older state of this
    /// database can be told from this one. The containers are told by the next look at their
    /// owners.
    ///
    /// # Errors
    /// The database's.
    pub async fn raise_run_if_changed(&self) -> Result<()> {
        if !self.has_changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        self.raise_run().await.inspect_err(|_| self.changed())
    }

    /// The one database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The clock by which leases run.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How long things are waited for.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Which database this is.
    ///
    /// # Errors
    /// The database's.
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

    /// Raises the epoch above one that was seen in a container: this database takes the containers
    /// over.
    ///
    /// # Errors
    /// The database's.
    pub async fn raise_epoch(&self, above: u32) -> Result<()> {
        self.write(move |tx| {
            tx.execute("UPDATE identity SET epoch = max(epoch, ?1 + 1)", [above])?;
            Ok(())
        })
        .await
    }

    /// Whether requests of the host before, which nobody here knows of, may still land.
    pub(crate) fn was_just_taken(&self, c: &Connection, server: ServerId) -> Result<bool> {
        let taken = taken_ms(c, server)?;
        Ok(taken > 0 && taken > self.over_since(self.patience.late))
    }

    /// When a walk through a server's container must have ended last, for another not to be due:
    /// after all that the host before may have sent had landed.
    pub(crate) async fn settled_ms(&self, server: ServerId) -> Result<i64> {
        let late = crate::clock::millis(self.patience.late);
        self.read(move |c| Ok(taken_ms(c, server)?.saturating_add(late)))
            .await
    }

    /// The server's container is being taken over from another database.
    pub(crate) async fn set_taken(&self, server: ServerId) -> Result<()> {
        let now = self.now_ms();
        self.write(move |tx| {
            tx.execute(
                "UPDATE servers SET taken_ms = ?2 WHERE id = ?1",
                params![server.0, now],
            )?;
            Ok(())
        })
        .await
    }

    /// A backup of the database was restored: it is another database from now on, that knows of no
    /// write under way, takes what it knows of mutable shares for doubtful, and must take its
    /// containers over.
    ///
    /// # Errors
    /// The database's.
    pub async fn restored(&self) -> Result<()> {
        let fresh = StorageIndex::random()
            .map_err(crate::DatabaseError::Randomness)?
            .0;
        self.write(move |tx| {
            tx.execute("UPDATE identity SET database_id = ?1, epoch = epoch + 1, run = run + 1", [fresh])?;
            tx.execute_batch(
                "UPDATE servers SET is_claimed = 0;
                 DELETE FROM leases WHERE share IN (SELECT id FROM shares WHERE state <> 1);
                 DELETE FROM shares WHERE state <> 1;
                 DELETE FROM superseded;
                 DELETE FROM suspects;
                 UPDATE slots SET intent = NULL, intent_commit = NULL, fence = fence + 1, is_doubtful = 1;
                 DELETE FROM slots WHERE current IS NULL;
                 UPDATE shares SET objects = 0 WHERE kind = 2;
                 DELETE FROM runs;
                 UPDATE walks SET next = 0, ended_ms = NULL;",
            )?;
            Ok(())
        })
        .await
    }

    /// The number of a server, which it gets the first time it is asked for.
    ///
    /// # Errors
    /// The database's.
    pub async fn server(&self, name: &str) -> Result<ServerId> {
        let name = name.to_owned();
        self.write(move |tx| {
            // Said to be gone, it has come back.
            tx.execute(
                "UPDATE servers SET gone_ms = NULL WHERE name = ?1 AND gone_ms IS NOT NULL",
                [&name],
            )?;
            server_id(tx, &name)
        })
        .await
    }

    /// Whether the server's container was given an owner object by this database.
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

/// The runs that a database issued, by their nonces.
///
/// # Errors
/// The database's.
fn issued(c: &Connection) -> rusqlite::Result<BTreeMap<StorageIndex, u64>> {
    let mut statement = c.prepare("SELECT nonce, number FROM runs")?;
    let rows = statement.query_map([], |r| Ok((StorageIndex(r.get(0)?), uint(r.get(1)?))))?;
    rows.collect()
}

/// When a server's container was taken over from another database; 0 where it never was.
fn taken_ms(c: &Connection, server: ServerId) -> Result<i64> {
    Ok(
        c.prepare_cached("SELECT taken_ms FROM servers WHERE id = ?1")?
            .query_row([server.0], |r| r.get(0))?,
    )
}

/// The number of a server, which it gets the first time it is asked for.
///
/// # Errors
/// The database's.
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
