//! Streams: the layout, keys, hashes and homes of the shares of one storage index.

use raic_storage::{
    AccountId, FirstLease, LateRequests, LeaseDb, ServerId, ShareId, ShareNum, StorageIndex,
    Stored, placed, server_name,
};
use rusqlite::{Connection, Transaction, params};

use super::{Lacking, int, uint};
use crate::{
    Result,
    format::{Geometry, HASH, Hash, KeyId, Layout, Role, WrappedKey},
};

/// A stream: the layout, keys and hashes of the shares of one storage index.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) index: StorageIndex,
    /// Name of the class that the stream was stored with, if it is recorded.
    pub(crate) class: Option<String>,
    pub(crate) layout: Layout,
    pub(crate) key: WrappedKey,
    pub(crate) roots: Vec<Hash>,
    pub(crate) placements: Vec<Placement>,
}

/// A stored share, with the cloud that keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) share: ShareNum,
    pub(crate) cloud: String,
    /// Its objects and their bytes.
    pub(crate) stored: Stored,
    pub(crate) is_lost: bool,
}

/// A share that an upload writes, with the server that gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) share: ShareNum,
    pub(crate) server: ServerId,
}

/// A stream that was stored, with the part of the file that it holds.
pub(crate) struct NewExtent {
    pub(crate) stream: Stream,
    /// Bytes of content.
    pub(crate) length: u64,
    /// The homes of all shares, in their order.
    pub(crate) homes: Vec<ServerId>,
    /// The shares that were to be stored, and where.
    pub(crate) targets: Vec<Target>,
    /// The shares that were stored, with their objects and bytes.
    pub(crate) stored: Vec<(Target, Stored)>,
    /// The shares that were not stored.
    pub(crate) lacking: Vec<Lacking>,
}

impl Stream {
    pub(super) fn shares(&self) -> Vec<(ShareNum, String)> {
        let there = self.placements.iter().filter(|placed| !placed.is_lost);
        there.map(|p| (p.share, p.cloud.clone())).collect()
    }
}

pub(super) fn placements(c: &Connection, index: StorageIndex) -> rusqlite::Result<Vec<Placement>> {
    let placed = placed(c, index)?.into_iter();
    Ok(placed
        .map(|p| Placement {
            share: p.share,
            cloud: p.server,
            stored: p.stored,
            is_lost: p.is_lost,
        })
        .collect())
}

/// Returns the bytes that an account pays for so many bytes of content: times n/k, rounded up.
pub(crate) fn paid(length: u64, Geometry { k, n }: Geometry) -> u64 {
    length.saturating_mul(n.into()).div_ceil(k.into())
}

impl NewExtent {
    /// Returns the bytes that an account pays for the extent.
    pub(super) fn paid(&self) -> u64 {
        paid(self.length, self.stream.layout.geometry)
    }
}

/// Makes a stream whose shares were stored, and turns the leases of its upload into lasting ones of
/// [`AccountId::SYSTEM`].
pub(super) fn make(tx: &Transaction<'_>, leasedb: &LeaseDb, extent: &NewExtent) -> Result<()> {
    let Stream {
        index,
        class,
        layout,
        key,
        roots,
        ..
    } = &extent.stream;
    let homes = extent.homes.iter();
    let homes: Vec<u8> = homes.flat_map(|home| home.number().to_be_bytes()).collect();
    tx.prepare_cached(
        "INSERT INTO streams VALUES(?1, ?13, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        index.0,
        Role::File.number(),
        layout.geometry.k,
        layout.geometry.n,
        layout.segment_size,
        int(layout.padded),
        layout.manifest_length,
        key.id.0,
        key.nonce,
        key.sealed,
        homes,
        roots.as_flattened(),
        class,
    ])?;
    for target in &extent.targets {
        let id = ShareId {
            index: *index,
            share: target.share,
        };
        match extent.stored.iter().find(|(stored, _)| stored == target) {
            Some((_, stored)) => {
                let lease = FirstLease::Lasting(AccountId::SYSTEM);
                leasedb.complete(tx, target.server, id, *stored, lease)?;
            }
            // The parts of a failed share are removed from its cloud.
            None => leasedb.abandon(tx, target.server, id, LateRequests::MayLand)?,
        }
    }
    for lacking in &extent.lacking {
        let home = extent.homes.get(usize::from(lacking.share.0));
        tx.execute(
            "INSERT INTO lacking VALUES(?1, ?2, ?3, ?4)",
            params![
                index.0,
                lacking.share.0,
                home.map(|home| home.number()),
                lacking.reason
            ],
        )?;
    }
    Ok(())
}

/// Forgets a stream that no extent names any longer, and ends the leases of its shares.
pub(super) fn release(tx: &Transaction<'_>, leasedb: &LeaseDb, index: StorageIndex) -> Result<()> {
    let sql = "SELECT EXISTS(SELECT 1 FROM extents WHERE storage_index = ?1)";
    let mut statement = tx.prepare_cached(sql)?;
    if statement.query_row([index.0], |row| row.get(0))? {
        return Ok(());
    }
    leasedb.release(tx, index)?;
    for sql in [
        "DELETE FROM lacking WHERE storage_index = ?1",
        "DELETE FROM streams WHERE storage_index = ?1",
    ] {
        tx.prepare_cached(sql)?.execute([index.0])?;
    }
    Ok(())
}

/// Reads which shares a stream lacks: those that were not stored, and those that were lost since.
pub(super) fn lacking(c: &Connection, stream: &Stream) -> rusqlite::Result<Vec<Lacking>> {
    let mut rows =
        c.prepare_cached("SELECT share, server, reason FROM lacking WHERE storage_index = ?1")?;
    let rows = rows.query_map([stream.index.0], |row| {
        Ok(Lacking {
            share: ShareNum(row.get(0)?),
            cloud: server_name(c, ServerId::of(row.get(1)?))?,
            reason: row.get(2)?,
        })
    })?;
    let lost = stream.placements.iter().filter(|placed| placed.is_lost);
    let lost = lost.map(|placed| {
        Ok(Lacking {
            share: placed.share,
            cloud: placed.cloud.clone(),
            reason: "it has vanished from its cloud, or the cloud is gone".to_owned(),
        })
    });
    rows.chain(lost).collect()
}

pub(super) fn read(c: &Connection, index: StorageIndex) -> rusqlite::Result<Stream> {
    let placements = placements(c, index)?;
    let mut statement = c.prepare_cached(
        "SELECT k, n, segment_size, padded, manifest_length, key_id, nonce, wrapped_key, roots,
           class
         FROM streams WHERE storage_index = ?1",
    )?;
    statement.query_row([index.0], |row| {
        let roots: Vec<u8> = row.get(8)?;
        let (roots, _) = roots.as_chunks::<HASH>();
        Ok(Stream {
            index,
            layout: Layout {
                geometry: Geometry {
                    k: row.get(0)?,
                    n: row.get(1)?,
                },
                segment_size: row.get(2)?,
                padded: uint(row.get(3)?),
                manifest_length: row.get(4)?,
            },
            key: WrappedKey {
                id: KeyId(row.get(5)?),
                nonce: row.get(6)?,
                sealed: row.get(7)?,
            },
            roots: roots.to_vec(),
            class: row.get(9)?,
            placements,
        })
    })
}
