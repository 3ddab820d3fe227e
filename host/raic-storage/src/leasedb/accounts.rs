//! Accounts: who holds leases and is charged for space.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{LeaseDb, int, uint};
use crate::{Result, StorageError};

/// An account, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub(crate) i64);

impl AccountId {
    /// Whoever names no account.
    pub const ANONYMOUS: Self = Self(0);
    /// Holds the leases of shares that were found without any.
    pub const STARTER: Self = Self(1);
    /// Holds the leases of array shares that files of several accounts lie in. Its name and number
    /// are reserved: customers' accounts begin at 16.
    pub const SYSTEM: Self = Self(2);
}

/// An account, as it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub id: AccountId,
    /// Its name.
    pub name: String,
    /// Whether it may not write.
    pub is_disabled: bool,
    /// Past so many bytes it is warned.
    pub soft_quota: Option<u64>,
    /// It may use so many bytes.
    pub hard_quota: Option<u64>,
    /// How long its leases last, where the client does not say.
    pub lease: Duration,
}

/// A change of an account; what is none stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct AccountChange {
    /// Whether it may not write.
    pub is_disabled: Option<bool>,
    /// The soft quota; `Some(None)` takes it away.
    pub soft_quota: Option<Option<u64>>,
    /// The hard quota; `Some(None)` takes it away.
    pub hard_quota: Option<Option<u64>>,
    /// How long its leases last.
    pub lease: Option<Duration>,
}

const COLUMNS: &str = "id, name, disabled_ms IS NOT NULL, soft_quota, hard_quota, lease_seconds";

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account {
        id: AccountId(row.get(0)?),
        name: row.get(1)?,
        is_disabled: row.get(2)?,
        soft_quota: row.get::<_, Option<i64>>(3)?.map(uint),
        hard_quota: row.get::<_, Option<i64>>(4)?.map(uint),
        lease: Duration::from_secs(uint(row.get(5)?)),
    })
}

pub(crate) fn by_id(c: &Connection, id: AccountId) -> Result<Account> {
    let sql = format!("SELECT {COLUMNS} FROM accounts WHERE id = ?1");
    let found = c
        .prepare_cached(&sql)?
        .query_row([id.0], account)
        .optional()?;
    found.ok_or_else(|| StorageError::NoAccount(id.0.to_string()))
}

fn by_name(c: &Connection, name: &str) -> Result<Account> {
    let sql = format!("SELECT {COLUMNS} FROM accounts WHERE name = ?1");
    let found = c
        .prepare_cached(&sql)?
        .query_row([name], account)
        .optional()?;
    found.ok_or_else(|| StorageError::NoAccount(name.to_owned()))
}

/// What an account uses and has reserved, in bytes: by its leases over all servers, and by its
/// files in the array.
pub(super) fn used(c: &Connection, id: AccountId) -> rusqlite::Result<u64> {
    let sql = "SELECT (SELECT coalesce(sum(bytes), 0) FROM usage WHERE account = ?1)
                 + (SELECT coalesce(sum(bytes), 0) FROM array_usage WHERE account = ?1)";
    c.prepare_cached(sql)?
        .query_row([id.0], |row| row.get(0))
        .map(uint)
}

/// Whether an account may use `asked` more bytes.
///
/// # Errors
/// [`StorageError::AccountDisabled`], [`StorageError::QuotaExceeded`].
pub(crate) fn admit(c: &Connection, id: AccountId, asked: u64) -> Result<()> {
    let account = by_id(c, id)?;
    if account.is_disabled {
        return Err(StorageError::AccountDisabled(account.name));
    }
    // What asks for nothing more is no reason to refuse it, also where a quota was lowered below
    // what is used.
    if asked == 0 || (account.hard_quota.is_none() && account.soft_quota.is_none()) {
        return Ok(());
    }
    let used = used(c, id)?;
    let wanted = used.saturating_add(asked);
    if let Some(quota) = account.hard_quota.filter(|quota| wanted > *quota) {
        return Err(StorageError::QuotaExceeded {
            account: account.name,
            quota,
            used,
            asked,
        });
    }
    if let Some(quota) = account
        .soft_quota
        .filter(|quota| wanted > *quota && used <= *quota)
    {
        tracing::warn!(
            "account {:?} passes its soft quota of {quota} bytes",
            account.name
        );
    }
    Ok(())
}

impl LeaseDb {
    /// Makes an account.
    ///
    /// # Errors
    /// [`StorageError::AccountName`], [`StorageError::AccountExists`], [`StorageError::Quotas`].
    pub async fn create_account(&self, name: &str, change: AccountChange) -> Result<Account> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(StorageError::AccountName(name.to_owned()));
        }
        let (name, now) = (name.to_owned(), self.now_ms());
        self.write(move |tx| {
            let made = tx.execute(
                "INSERT INTO accounts(name, created_ms, lease_seconds) VALUES(?1, ?2, 2678400) ON CONFLICT DO NOTHING",
                params![name, now],
            )?;
            if made == 0 {
                return Err(StorageError::AccountExists(name));
            }
            apply(tx, &name, change, now)
        })
        .await
    }

    /// Changes an account.
    ///
    /// # Errors
    /// [`StorageError::NoAccount`], [`StorageError::Quotas`].
    pub async fn change_account(&self, name: &str, change: AccountChange) -> Result<Account> {
        let (name, now) = (name.to_owned(), self.now_ms());
        self.write(move |tx| apply(tx, &name, change, now)).await
    }

    /// The account of a name.
    ///
    /// # Errors
    /// [`StorageError::NoAccount`].
    pub async fn account(&self, name: &str) -> Result<Account> {
        let name = name.to_owned();
        self.read(move |c| by_name(c, &name)).await
    }

    /// All accounts, by number.
    ///
    /// # Errors
    /// The database's.
    pub async fn accounts(&self) -> Result<Vec<Account>> {
        self.read(|c| {
            let mut statement =
                c.prepare(&format!("SELECT {COLUMNS} FROM accounts ORDER BY id"))?;
            Ok(statement
                .query_map([], account)?
                .collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}

impl LeaseDb {
    /// Asks whether an account may use so many bytes more, in all that a transaction is about to
    /// allocate for it: asked for each part alone, a refusal would count the parts before.
    ///
    /// # Errors
    /// The database's; [`StorageError::AccountDisabled`], [`StorageError::QuotaExceeded`].
    pub fn admit(&self, tx: &Connection, account: AccountId, asked: u64) -> Result<()> {
        admit(tx, account, asked)
    }

    /// Changes what an account pays for its files in the array, in the transaction that changes
    /// them.
    ///
    /// # Errors
    /// The database's; [`StorageError::AccountDisabled`] and [`StorageError::QuotaExceeded`] if it
    /// is to pay for more.
    pub fn pay_for_files(
        &self,
        tx: &Connection,
        account: AccountId,
        before: u64,
        after: u64,
    ) -> Result<()> {
        admit(tx, account, after.saturating_sub(before))?;
        tx.prepare_cached("INSERT INTO array_usage VALUES(?1, 0) ON CONFLICT DO NOTHING")?
            .execute([account.0])?;
        tx.prepare_cached("UPDATE array_usage SET bytes = bytes + ?2 - ?3 WHERE account = ?1")?
            .execute(params![account.0, int(after), int(before)])?;
        Ok(())
    }
}

fn apply(tx: &Connection, name: &str, change: AccountChange, now: i64) -> Result<Account> {
    let before = by_name(tx, name)?;
    let disabled = change.is_disabled.unwrap_or(before.is_disabled);
    let soft_quota = change.soft_quota.unwrap_or(before.soft_quota);
    let hard_quota = change.hard_quota.unwrap_or(before.hard_quota);
    if let (Some(soft), Some(hard)) = (soft_quota, hard_quota)
        && soft > hard
        && (change.soft_quota.is_some() || change.hard_quota.is_some())
    {
        return Err(StorageError::Quotas {
            account: name.to_owned(),
            soft,
            hard,
        });
    }
    tx.execute(
        "UPDATE accounts SET disabled_ms = CASE WHEN ?2 THEN coalesce(disabled_ms, ?3) END, soft_quota = ?4,
           hard_quota = ?5, lease_seconds = ?6 WHERE id = ?1",
        params![
            before.id.0,
            disabled,
            now,
            soft_quota.map(int),
            hard_quota.map(int),
            int(change.lease.unwrap_or(before.lease).as_secs()),
        ],
    )?;
    by_name(tx, name)
}
