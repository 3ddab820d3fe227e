//! Records what listings show of shares: found without a row, lost, or present again. Also the way
//! of every share to GOING.

use rusqlite::{Connection, params};

use super::{
    AccountId, LeaseDb, RenewSecret, ServerId, ShareKind, ShareRow, ShareState, accounts, clear,
    find, leases, shares, states::*, uploads::forget_coming,
};
use crate::{Result, ShareId, Stored};

/// The objects that a condemned share has left in its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// A whole share. Its objects are removed by their names, whose number the row has.
    Whole,
    /// Parts of an upload. Objects that it is known to have sent are removed by their names, and so
    /// are objects that a listing shows.
    Parts,
}

/// Whether requests for a share that were given up may still reach its cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateRequests {
    /// Every request was answered.
    Answered,
    /// A request was given up. The share's name is refused until that request can land no longer.
    MayLand,
}

impl LeaseDb {
    /// Makes a share without leases GOING, and its deletion due at once. A share that has a lease,
    /// or is GOING already, stays as it is.
    pub(super) fn condemn(
        &self,
        tx: &Connection,
        server: ServerId,
        row: i64,
        remains: Remains,
        late: LateRequests,
    ) -> Result<()> {
        let sql = format!(
            "UPDATE shares SET state = {GOING} WHERE id = ?1 AND state <> {GOING} AND leases = 0"
        );
        if tx.prepare_cached(&sql)?.execute([row])? == 1 {
            self.changed();
            let now = self.now();
            let until = match late {
                LateRequests::Answered => now,
                LateRequests::MayLand => self.after(self.grace_periods().late),
            };
            tx.prepare_cached(
                "INSERT INTO going(share, server, until_ms, next_ms, is_whole)
                 VALUES(?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                row,
                server.0,
                until,
                now,
                remains == Remains::Whole
            ])?;
        }
        Ok(())
    }

    /// Condemns a lost Tahoe share that a client wants to store again. Its leases end, and objects
    /// that may still be there are deleted.
    pub(super) fn condemn_lost(
        &self,
        tx: &Connection,
        server: ServerId,
        row: &ShareRow,
    ) -> Result<()> {
        leases::end(tx, row.row, None)?;
        self.condemn(tx, server, row.row, Remains::Whole, LateRequests::Answered)
    }

    /// Makes a row for a whole share that a listing showed: STABLE, with a starter lease. If a
    /// deletion of the previous host may still land, the share counts as lost until a later listing
    /// confirms it. Returns whether the row is new.
    pub(crate) async fn discover(
        &self,
        server: ServerId,
        id: ShareId,
        kind: ShareKind,
        stored: Stored,
    ) -> Result<bool> {
        let this = self.clone();
        self.write(move |tx| {
            clear(tx, server, id)?;
            let is_confirmed = !this.was_just_taken(tx, server)?;
            this.discover_in(tx, server, id, kind, stored, is_confirmed)
        })
        .await
    }

    fn discover_in(
        &self,
        tx: &Connection,
        server: ServerId,
        id: ShareId,
        kind: ShareKind,
        stored: Stored,
        is_confirmed: bool,
    ) -> Result<bool> {
        if find(tx, server, id)?.is_some() {
            return Ok(false);
        }
        let row = shares::insert(tx, server, id, (kind, ShareState::Stable), stored)?;
        // An array's share has no client that would renew its lease. The lease lasts until the
        // recovered catalog claims the share, or does not.
        let lease = accounts::by_id(tx, AccountId::STARTER)?.lease;
        let expires = (kind != ShareKind::Array).then(|| self.after(lease));
        leases::insert(
            tx,
            row,
            AccountId::STARTER,
            RenewSecret::NONE,
            self.now(),
            expires,
        )?;
        if !is_confirmed {
            tx.prepare_cached("UPDATE shares SET is_unconfirmed = 1 WHERE id = ?1")?
                .execute([row])?;
        }
        Ok(true)
    }

    /// Replaces the row of an upload by the row of a whole share that was found under its name.
    pub(super) fn found_instead(
        &self,
        tx: &Connection,
        server: ServerId,
        upload: &ShareRow,
        kind: ShareKind,
        stored: Stored,
    ) -> Result<()> {
        leases::end(tx, upload.row, None)?;
        forget_coming(tx, upload.row)?;
        tx.execute("DELETE FROM shares WHERE id = ?1", [upload.row])?;
        self.changed();
        self.discover_in(tx, server, upload.id, kind, stored, true)
            .map(drop)
    }

    /// Condemns a share that a listing showed and that never was whole, unless it has a row by now.
    /// The new row refuses the name to others until the share has gone.
    pub(crate) async fn condemn_torn(&self, server: ServerId, id: ShareId) -> Result<()> {
        let this = self.clone();
        self.write(move |tx| {
            clear(tx, server, id)?;
            if find(tx, server, id)?.is_some() {
                return Ok(());
            }
            let torn = (ShareKind::Immutable, ShareState::Stable);
            let row = shares::insert(tx, server, id, torn, Stored::default())?;
            this.condemn(tx, server, row, Remains::Parts, LateRequests::Answered)
        })
        .await
    }

    /// Records that a STABLE share is present, and drops its suspicion. A share that counts as lost
    /// stays so while a deletion of the previous host may still land.
    pub(crate) async fn confirm_present(&self, server: ServerId, row: &ShareRow) -> Result<()> {
        let (this, id, row, is_lost) = (self.clone(), row.id, row.row, row.is_lost);
        self.write(move |tx| {
            clear(tx, server, id)?;
            if is_lost && !this.was_just_taken(tx, server)? {
                let sql = format!(
                    "UPDATE shares SET lost_ms = NULL, is_unconfirmed = 0
                     WHERE id = ?1 AND state = {STABLE}"
                );
                tx.prepare_cached(&sql)?.execute([row])?;
            }
            Ok(())
        })
        .await
    }

    /// Records that a STABLE share has vanished from its container.
    pub(crate) async fn mark_lost(&self, server: ServerId, row: &ShareRow) -> Result<()> {
        let (id, row, now) = (row.id, row.row, self.now());
        self.write(move |tx| {
            clear(tx, server, id)?;
            let sql = format!("UPDATE shares SET lost_ms = ?2 WHERE id = ?1 AND state = {STABLE}");
            tx.prepare_cached(&sql)?.execute(params![row, now])?;
            Ok(())
        })
        .await
    }
}
