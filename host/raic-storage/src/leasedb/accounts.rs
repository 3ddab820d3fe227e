//! Accounts, which hold leases and are charged for space.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{LeaseDb, int, uint};
use crate::{Moment, Result, StorageError};

/// The number of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub(crate) i64);

impl AccountId {
    /// The account of a caller that names no account.
    pub const ANONYMOUS: Self = Self(0);
    /// Holds the leases of shares that were found without a row.
    pub const STARTER: Self = Self(1);
    /// Holds the leases of an array's shares. Whose files the shares hold is paid apart from
    /// leases: see [`LeaseDb::pay_for_file`]. Customers' accounts begin at 16.
    pub const SYSTEM: Self = Self(2);

    /// Makes the id of the account with this number.
    pub fn of(number: u32) -> Self {
        Self(i64::from(number))
    }

    /// The account's number.
    pub fn number(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// Whether the account is the program's own.
    pub fn is_own(self) -> bool {
        self != Self::ANONYMOUS && self.0 < FIRST_CUSTOMER
    }
}

/// The lowest number of an account that an operator makes.
const FIRST_CUSTOMER: i64 = 16;

/// An account and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The account's number.
    pub id: AccountId,
    /// The account's name.
    pub name: String,
    /// Whether the account is disabled and may not write.
    pub is_disabled: bool,
    /// Bytes above which the log warns of the account; `None` for no warning.
    pub soft_quota: Option<u64>,
    /// Bytes that the account may use at most; `None` for no limit.
    pub hard_quota: Option<u64>,
    /// How long the account's leases last after each renewal.
    pub lease: Duration,
    /// How often the account's Tahoe secrets were revoked. They are derived from this number.
    pub revocations: u32,
}

/// A change of an account's settings. A setting that is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct AccountChange {
    /// Whether the account is disabled and may not write.
    pub is_disabled: Option<bool>,
    /// The soft quota, in bytes; `Some(None)` removes it.
    pub soft_quota: Option<Option<u64>>,
    /// The hard quota, in bytes; `Some(None)` removes it.
    pub hard_quota: Option<Option<u64>>,
    /// How long the account's leases last after each renewal. Fractions of a second are cut off.
    pub lease: Option<Duration>,
}

const COLUMNS: &str =
    "id, name, disabled_ms IS NOT NULL, soft_quota, hard_quota, lease_seconds, revocations";

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account {
        id: AccountId(row.get(0)?),
        name: row.get(1)?,
        is_disabled: row.get(2)?,
        soft_quota: row.get::<_, Option<i64>>(3)?.map(uint),
        hard_quota: row.get::<_, Option<i64>>(4)?.map(uint),
        lease: Duration::from_secs(uint(row.get(5)?)),
        revocations: row.get(6)?,
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

/// Reads the bytes that an account uses or has reserved: by its leases on all servers, and by its
/// files in the array (`array_usage`).
pub(super) fn used(c: &Connection, id: AccountId) -> rusqlite::Result<u64> {
    let sql = "SELECT (SELECT coalesce(sum(bytes), 0) FROM usage WHERE account = ?1)
                 + (SELECT coalesce(sum(bytes), 0) FROM array_usage WHERE account = ?1)";
    c.prepare_cached(sql)?
        .query_row([id.0], |row| row.get(0))
        .map(uint)
}

/// Requires that an account may write and may use `asked` more bytes. A soft quota that is passed
/// only gives a warning in the log.
///
/// # Errors
/// Fails with [`StorageError::AccountDisabled`] if the account is disabled, and with
/// [`StorageError::QuotaExceeded`] if its hard quota does not hold the bytes. Also fails with
/// [`StorageError::NoAccount`] if there is no such account, and with [`StorageError::Database`] if
/// a statement fails.
pub(crate) fn admit(c: &Connection, id: AccountId, asked: u64) -> Result<()> {
    let account = by_id(c, id)?;
    require_enabled(&account)?;
    // A request for no more bytes is never refused, even if the quota was lowered below the bytes
    // that are in use.
    if asked == 0 || (account.hard_quota.is_none() && account.soft_quota.is_none()) {
        return Ok(());
    }
    admit_beyond(&account, used(c, id)?, asked)
}

/// Requires that an account is not disabled.
pub(super) fn require_enabled(account: &Account) -> Result<()> {
    match account.is_disabled {
        true => Err(StorageError::AccountDisabled(account.name.clone())),
        false => Ok(()),
    }
}

/// Requires that an account which uses `used` bytes may use `asked` more.
pub(super) fn admit_beyond(account: &Account, used: u64, asked: u64) -> Result<()> {
    let wanted = used.saturating_add(asked);
    if let Some(quota) = account.hard_quota.filter(|quota| wanted > *quota) {
        return Err(StorageError::QuotaExceeded {
            account: account.name.clone(),
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
    /// Makes an account. Its leases last 31 days unless `change` sets another time.
    ///
    /// # Errors
    /// Fails with [`StorageError::AccountName`] if the name is not 1 to 64 of the permitted
    /// characters. Fails with [`StorageError::AccountExists`] if there is an account of that name,
    /// with [`StorageError::Quotas`] if the soft quota is above the hard one, and with
    /// [`StorageError::Database`] if the database cannot be written.
    pub async fn create_account(&self, name: &str, change: AccountChange) -> Result<Account> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(StorageError::AccountName(name.to_owned()));
        }
        let (name, now) = (name.to_owned(), self.now());
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

    /// Changes an account's settings. Returns the account as it is then.
    ///
    /// # Errors
    /// Fails with [`StorageError::NoAccount`] if there is no account of that name,
    /// [`StorageError::OwnAccount`] if it is the program's own, [`StorageError::Quotas`] if the
    /// soft quota would be above the hard one, and [`StorageError::Database`] if the database
    /// cannot be written.
    pub async fn change_account(&self, name: &str, change: AccountChange) -> Result<Account> {
        let (name, now) = (name.to_owned(), self.now());
        self.write(move |tx| match by_name(tx, &name)?.id.is_own() {
            true => Err(StorageError::OwnAccount(name)),
            false => apply(tx, &name, change, now),
        })
        .await
    }

    /// Returns the bytes that an account may still use: 0 if it is disabled, and `None` if it has
    /// no hard quota.
    ///
    /// # Errors
    /// Fails with [`StorageError::NoAccount`] if there is no such account, and with
    /// [`StorageError::Database`] if the database cannot be read.
    pub async fn room_of(&self, account: AccountId) -> Result<Option<u64>> {
        self.read(move |c| {
            let settings = by_id(c, account)?;
            if settings.is_disabled {
                return Ok(Some(0));
            }
            match settings.hard_quota {
                None => Ok(None),
                Some(quota) => Ok(Some(quota.saturating_sub(used(c, account)?))),
            }
        })
        .await
    }

    /// Revokes the account's Tahoe secrets, and returns the account with its next ones.
    ///
    /// # Errors
    /// Fails with [`StorageError::NoAccount`] if there is no account of that name, and with
    /// [`StorageError::Database`] if the database cannot be written.
    pub async fn revoke(&self, name: &str) -> Result<Account> {
        let name = name.to_owned();
        self.write(move |tx| {
            let account = by_name(tx, &name)?;
            let sql = "UPDATE accounts SET revocations = revocations + 1 WHERE id = ?1";
            tx.execute(sql, [account.id.0])?;
            by_name(tx, &name)
        })
        .await
    }

    /// Reads the account of that name.
    ///
    /// # Errors
    /// Fails with [`StorageError::NoAccount`] if there is no account of that name, and with
    /// [`StorageError::Database`] if the database cannot be read.
    pub async fn account(&self, name: &str) -> Result<Account> {
        let name = name.to_owned();
        self.read(move |c| by_name(c, &name)).await
    }

    /// Reads the account of that name, for a caller that stores in its name.
    ///
    /// # Errors
    /// Fails with [`StorageError::OwnAccount`] if the account is the program's own, and as
    /// [`LeaseDb::account`] does.
    pub async fn storing_account(&self, name: &str) -> Result<Account> {
        let account = self.account(name).await?;
        match account.id.is_own() {
            true => Err(StorageError::OwnAccount(account.name)),
            false => Ok(account),
        }
    }

    /// Reads all accounts, in the order of their numbers.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
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
    /// Requires that an account may use `asked` more bytes. A transaction asks once for the sum of
    /// what it allocates: if it asked for each part, a refusal would count the parts before as
    /// used.
    ///
    /// # Errors
    /// Fails with [`StorageError::AccountDisabled`] if the account is disabled, and with
    /// [`StorageError::QuotaExceeded`] if its hard quota does not hold the bytes. Also fails with
    /// [`StorageError::NoAccount`] if there is no such account, and with
    /// [`StorageError::Database`] if a statement fails.
    pub fn admit(&self, tx: &Connection, account: AccountId, asked: u64) -> Result<()> {
        admit(tx, account, asked)
    }
}

fn apply(tx: &Connection, name: &str, change: AccountChange, now: Moment) -> Result<Account> {
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
