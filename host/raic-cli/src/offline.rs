//! The home's database without a daemon. Commands read it beside a running daemon, and change it
//! only while no daemon runs.

use std::{fs, os::unix::fs::OpenOptionsExt as _};

use raic_storage::{
    Clock, Database, LeaseDb, Pins,
    inspect::{Inspector, Known},
};

use crate::{
    config::Config,
    error::{Failed, Outcome},
    home::Home,
};

/// Takes the lock that a process needs to change the home's database. It holds the lock for as long
/// as the file is open. Returns `None` if another process holds it.
pub(crate) fn lock(home: &Home) -> Outcome<Option<fs::File>> {
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(home.lock());
    let lock = lock.map_err(|e| {
        let hint = if e.kind() == std::io::ErrorKind::NotFound {
            "; `raic init` makes a home"
        } else {
            ""
        };
        Failed::configuration(format!("cannot open {}: {e}{hint}", home.lock().display()))
    })?;
    let locked = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    Ok(locked.is_ok().then_some(lock))
}

/// Opens the home's database.
pub(crate) async fn open_database(home: &Home) -> Outcome<Database> {
    let path = home.database();
    let opened = tokio::task::spawn_blocking(move || Database::open(&path))
        .await
        .map_err(Failed::other)?;
    opened.map_err(Failed::storage)
}

async fn open_leasedb(home: &Home) -> Outcome<LeaseDb> {
    let grace = Config::load(home)?.storage.grace_periods();
    let database = open_database(home).await?;
    LeaseDb::open(database, Clock::system(), grace)
        .await
        .map_err(Failed::storage)
}

/// Stores the connector versions of clouds while no daemon runs. A running daemon stores them when
/// it reads the configuration again.
pub(crate) async fn pin(home: &Home, pins: Pins) -> Outcome {
    if pins.is_empty() {
        return Ok(());
    }
    let _lock = lock(home)?.ok_or_else(|| Failed::busy(home.path()))?;
    let leasedb = open_leasedb(home).await?;
    leasedb
        .store_pins(pins, None)
        .await
        .map_err(Failed::storage)
}

/// Records that a cloud is gone, while no daemon runs that would record it.
pub(crate) async fn set_gone(home: &Home, cloud: &str) -> Outcome {
    let _lock = lock(home)?.ok_or_else(|| Failed::busy(home.path()))?;
    let leasedb = open_leasedb(home).await?;
    leasedb.set_gone(cloud).await.map_err(Failed::storage)
}

fn inspect<T>(home: &Home, look: impl FnOnce(&Inspector) -> raic_storage::Result<T>) -> Outcome<T> {
    let path = home.database();
    look(&Inspector::new(&path))
        .map_err(|e| Failed::configuration(format!("{}: {e}", path.display())))
}

/// Reads the connector versions that the clouds run.
pub(crate) fn read_pins(home: &Home) -> Outcome<Pins> {
    inspect(home, Inspector::pins)
}

/// Counts the shares that a cloud holds or that are being written to it, by the database.
pub(crate) fn shares_on(home: &Home, cloud: &str) -> Outcome<u64> {
    inspect(home, |database| database.shares_of(cloud))
}

/// Reads the identity of the home's database and the number of a cloud; `None` if there is no
/// database yet.
pub(crate) fn identity(home: &Home, cloud: &str) -> Outcome<Option<Known>> {
    inspect(home, |database| database.identity(cloud))
}
