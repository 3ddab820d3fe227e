//! Rows of shares, in every state: COMING, STABLE, GOING.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{LeaseDb, ServerId, int, states::*, uint};
use crate::{Result, ShareId, ShareNum, Span, StorageError, StorageIndex, Stored};

/// The kind of a share. The database stores these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareKind {
    /// A share of an array. Its length is in its trailer.
    Array = 0,
    /// An immutable share of Tahoe-LAFS.
    Immutable = 1,
    /// A mutable share of Tahoe-LAFS.
    Mutable = 2,
}

/// The state of a share. The database stores these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareState {
    /// COMING: the share is being written.
    Coming = 0,
    /// STABLE: the share is whole.
    Stable = 1,
    /// GOING: the share is being deleted.
    Going = 2,
}

/// The row of a share in leasedb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareRow {
    /// Number of the row. No other row ever gets it.
    pub(crate) row: i64,
    /// The share that the row stands for.
    pub id: ShareId,
    /// Kind of the share.
    pub kind: ShareKind,
    /// State of the share.
    pub state: ShareState,
    /// Bytes that the share takes, or that are reserved for it.
    pub used_space: u64,
    /// Number of objects that the share is kept in. It is 0 for a mutable share, and for one that
    /// is not whole yet.
    pub objects: u64,
    /// Number of leases on the share.
    pub leases: u64,
    /// Whether the share counts as lost: it has vanished, or it was found after a take-over and no
    /// second listing has confirmed it yet.
    pub is_lost: bool,
    /// Whether the share vanished from its container, as two passes agreed.
    pub has_vanished: bool,
}

/// A whole share and the server that keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The server's name.
    pub server: String,
    /// The share's number.
    pub share: ShareNum,
    /// The objects that the share is kept in.
    pub stored: Stored,
    /// Whether the share counts as lost, or its server is marked as gone.
    pub is_lost: bool,
}

/// Length of the largest share, in bytes. It keeps sums of sizes far below the largest integer of
/// SQLite.
pub const MAX_SHARE: u64 = 1 << 44;

/// Requires that a share may have `asked` bytes.
///
/// # Errors
/// Fails with [`StorageError::TooLarge`] if `asked` is more than [`MAX_SHARE`].
pub(super) fn require_possible(id: ShareId, asked: u64) -> Result<()> {
    if asked > MAX_SHARE {
        return Err(StorageError::TooLarge { id, asked });
    }
    Ok(())
}

/// The columns that [`row`] reads, in its order.
pub(super) const COLUMNS: &str = "shares.id, shares.storage_index, shares.share, shares.kind, \
     shares.state, shares.used_space, shares.objects, shares.leases, shares.lost_ms IS NOT NULL, \
     shares.is_unconfirmed";

/// Reads a share's name from two columns: the storage index in `column`, the number in the next.
pub(super) fn share_id(row: &Row<'_>, column: usize) -> rusqlite::Result<ShareId> {
    Ok(ShareId {
        index: StorageIndex(row.get(column)?),
        share: ShareNum(row.get(column + 1)?),
    })
}

pub(super) fn row(row: &Row<'_>) -> rusqlite::Result<ShareRow> {
    let (has_vanished, is_unconfirmed): (bool, bool) = (row.get(8)?, row.get(9)?);
    Ok(ShareRow {
        row: row.get(0)?,
        id: share_id(row, 1)?,
        kind: row.get(3)?,
        state: row.get(4)?,
        used_space: uint(row.get(5)?),
        objects: uint(row.get(6)?),
        leases: uint(row.get(7)?),
        is_lost: has_vanished || is_unconfirmed,
        has_vanished,
    })
}

/// Reads the row of a share on a server; `None` if there is none.
pub(super) fn find(c: &Connection, server: ServerId, id: ShareId) -> Result<Option<ShareRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM shares WHERE server = ?1 AND storage_index = ?2 AND share = ?3"
    );
    Ok(c.prepare_cached(&sql)?
        .query_row(params![server.0, id.index.0, id.share.0], row)
        .optional()?)
}

/// Reads the rows of a shareset, in the order of share numbers.
pub(super) fn shareset(
    c: &Connection,
    server: ServerId,
    index: StorageIndex,
) -> Result<Vec<ShareRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM shares WHERE server = ?1 AND storage_index = ?2 ORDER BY share"
    );
    let mut statement = c.prepare_cached(&sql)?;
    Ok(statement
        .query_map(params![server.0, index.0], row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Inserts the row of a share. Returns the row's number.
pub(super) fn insert(
    tx: &Connection,
    server: ServerId,
    id: ShareId,
    (kind, state): (ShareKind, ShareState),
    stored: Stored,
) -> Result<i64> {
    tx.prepare_cached(
        "INSERT INTO shares(server, storage_index, share, kind, state, used_space, objects)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        server.0,
        id.index.0,
        id.share.0,
        kind,
        state,
        int(stored.bytes),
        int(stored.objects)
    ])?;
    Ok(tx.last_insert_rowid())
}

/// How many shares a server holds, or that are being written there, by its name.
pub(crate) fn shares_of(c: &Connection, server: &str) -> rusqlite::Result<u64> {
    let sql = format!(
        "SELECT count(*) FROM shares JOIN servers ON servers.id = server
         WHERE name = ?1 AND state IN ({COMING}, {STABLE})"
    );
    c.query_row(&sql, [server], |row| row.get(0)).map(uint)
}

/// Reads the whole shares of a storage index on all servers, in the order of share numbers.
///
/// # Errors
/// Fails with SQLite's error if a statement fails.
pub fn placed(c: &Connection, index: StorageIndex) -> rusqlite::Result<Vec<Placed>> {
    // One lookup for each server. An index for this query alone would cost one entry more for every
    // share.
    let sql = format!(
        "SELECT servers.name, shares.share, shares.objects, shares.used_space,
           shares.lost_ms IS NOT NULL OR shares.is_unconfirmed OR servers.gone_ms IS NOT NULL
         FROM servers
         CROSS JOIN shares ON shares.server = servers.id AND shares.storage_index = ?1
         WHERE shares.state = {STABLE} ORDER BY shares.share"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let rows = statement.query_map([index.0], |row| {
        Ok(Placed {
            server: row.get(0)?,
            share: ShareNum(row.get(1)?),
            stored: Stored {
                objects: uint(row.get(2)?),
                bytes: uint(row.get(3)?),
            },
            is_lost: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// Reads the name of a server. A number that no server has is told as itself.
///
/// # Errors
/// Fails with SQLite's error if a statement fails.
pub fn server_name(c: &Connection, server: ServerId) -> rusqlite::Result<String> {
    let mut statement = c.prepare_cached("SELECT name FROM servers WHERE id = ?1")?;
    let name = statement
        .query_row([server.0], |row| row.get(0))
        .optional()?;
    Ok(name.unwrap_or_else(|| format!("number {}", server.number())))
}

impl LeaseDb {
    /// Reads the row of a share on a server; `None` if there is none.
    pub(crate) async fn share(&self, server: ServerId, id: ShareId) -> Result<Option<ShareRow>> {
        self.read(move |c| find(c, server, id)).await
    }

    /// Reads a server's rows of a storage index, in the order of share numbers.
    pub(crate) async fn shareset(
        &self,
        server: ServerId,
        index: StorageIndex,
    ) -> Result<Vec<ShareRow>> {
        self.read(move |c| shareset(c, server, index)).await
    }

    /// Reads a page of a server's whole shares that are not an array's, in the order of storage
    /// indexes and share numbers.
    pub(crate) async fn client_shares(
        &self,
        server: ServerId,
        after: Option<ShareId>,
        limit: u32,
    ) -> Result<Vec<ShareRow>> {
        let (index, share) = after.map_or(([0; 16], -1), |id| (id.index.0, i64::from(id.share.0)));
        self.read(move |c| {
            let sql = format!(
                "SELECT {COLUMNS} FROM shares WHERE server = ?1 AND (storage_index, share) > (?2, ?3)
                   AND state = {STABLE} AND kind <> {ARRAY} AND lost_ms IS NULL
                 ORDER BY storage_index, share LIMIT ?4"
            );
            let mut statement = c.prepare_cached(&sql)?;
            let rows = statement.query_map(params![server.0, index, share, limit], row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Counts the rows of a server's shares.
    pub(crate) async fn share_count(&self, server: ServerId) -> Result<u64> {
        self.read(move |c| {
            let sql = "SELECT coalesce((SELECT shares FROM server_usage WHERE server = ?1), 0)";
            Ok(uint(
                c.prepare_cached(sql)?.query_row([server.0], |r| r.get(0))?,
            ))
        })
        .await
    }

    /// Reads a server's rows within a span of storage indexes, in the order of storage indexes and
    /// share numbers.
    pub(crate) async fn shares_within(
        &self,
        server: ServerId,
        span: Span,
    ) -> Result<Vec<ShareRow>> {
        let (first, last) = span.bounds();
        self.read(move |c| {
            let sql = format!(
                "SELECT {COLUMNS} FROM shares
                 WHERE server = ?1 AND storage_index BETWEEN ?2 AND ?3
                 ORDER BY storage_index, share"
            );
            let mut statement = c.prepare_cached(&sql)?;
            let rows = statement.query_map(params![server.0, first.0, last.0], row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
