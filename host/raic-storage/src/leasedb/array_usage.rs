//! What accounts pay for files of an array. The account [`AccountId::SYSTEM`] leases the shares,
//! since one share may hold files of several accounts.

use rusqlite::{Connection, params};

use super::{AccountId, LeaseDb, accounts, int};
use crate::Result;

/// The bytes that an account used at a moment, by [`LeaseDb::used`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    account: AccountId,
    bytes: u64,
}

/// Operations for a caller that changes its own tables in the same transaction.
impl LeaseDb {
    /// Reads what an account uses or has reserved, by its leases and by its files.
    ///
    /// # Errors
    /// Fails with [`crate::StorageError::Database`] if a statement fails.
    pub fn used(&self, tx: &Connection, account: AccountId) -> Result<Used> {
        Ok(Used {
            account,
            bytes: accounts::used(tx, account)?,
        })
    }

    /// Lets an account pay `bytes` for one file more.
    ///
    /// # Errors
    /// Fails with [`crate::StorageError::Database`] if a statement fails. The quota is checked when
    /// all is paid, by [`LeaseDb::admit_since`].
    pub fn pay_for_file(&self, tx: &Connection, account: AccountId, bytes: u64) -> Result<()> {
        tx.prepare_cached(
            "INSERT INTO array_usage(account, files, bytes) VALUES(?1, 1, ?2)
             ON CONFLICT(account) DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes",
        )?
        .execute(params![account.0, int(bytes)])?;
        Ok(())
    }

    /// Lets an account pay `bytes` no longer, which it paid for one file.
    ///
    /// # Errors
    /// Fails with [`crate::StorageError::Database`] if a statement fails, also because the account
    /// never paid so much.
    pub fn no_longer_pay(&self, tx: &Connection, account: AccountId, bytes: u64) -> Result<()> {
        let sql = "UPDATE array_usage SET files = files - 1, bytes = bytes - ?2 WHERE account = ?1";
        let changed = tx
            .prepare_cached(sql)?
            .execute(params![account.0, int(bytes)])?;
        match changed {
            0 => Err(rusqlite::Error::StatementChangedRows(0).into()),
            _ => Ok(()),
        }
    }

    /// Requires that an account may use what it uses now, which was `before` at an earlier moment
    /// of the same transaction. It always may if that is no more.
    ///
    /// # Errors
    /// Fails as [`LeaseDb::admit`] does.
    pub fn admit_since(&self, tx: &Connection, before: Used) -> Result<()> {
        let now = accounts::used(tx, before.account)?;
        match now.checked_sub(before.bytes) {
            None | Some(0) => Ok(()),
            Some(more) => {
                let account = accounts::by_id(tx, before.account)?;
                accounts::require_enabled(&account)?;
                accounts::admit_beyond(&account, before.bytes, more)
            }
        }
    }
}
