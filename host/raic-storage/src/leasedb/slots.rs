//! Slots of mutable shares in a cloud (decision 0004): the current version of each, the write under
//! way, and the versions that are superseded.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{LeaseDb, ServerId, int, shares, states::GOING};
use crate::{Generation, Moment, Result, ShareId, Span, StorageIndex};

/// The number of a chunk, and the generation that wrote it.
pub(crate) type NamedChunk = (u64, Generation);

/// A slot, as the tables have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Counts every change of the slot, so that a caller can change only what it has read.
    pub(crate) fence: i64,
    /// The current commit, encoded; `None` if nothing was committed yet.
    pub(crate) current: Option<Vec<u8>>,
    /// The write under way, if there is one.
    pub(crate) intent: Option<Intent>,
    /// Whether the current commit is not certain: it comes from a single listing, or from a backup
    /// that was restored. The slot is read-only then.
    pub(crate) is_doubtful: bool,
}

/// A write of a slot that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    /// Generation that the write's commit will have.
    pub(crate) generation: Generation,
    /// The encoded commit, if the intent commits an old version again; `None` for a new version.
    pub(crate) again: Option<Vec<u8>>,
}

/// The remains of a version that is no longer current, to be removed after a rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superseded {
    /// Generation of the version's commit.
    pub(crate) generation: Generation,
    /// Chunks that only this version names.
    pub(crate) chunks: Vec<NamedChunk>,
    /// The moment at which the rest ends, in milliseconds since 1970.
    pub(crate) until: Moment,
}

/// The slots of one server.
#[derive(Clone, Debug)]
pub struct Slots {
    leasedb: LeaseDb,
    server: ServerId,
    /// The key that authenticates the server's commits.
    pub(crate) key: [u8; 32],
}

fn encode_chunks(chunks: &[NamedChunk]) -> Vec<u8> {
    chunks
        .iter()
        .flat_map(|(i, g)| i.to_be_bytes().into_iter().chain(g.to_bytes()))
        .collect()
}

fn decode_chunks(bytes: &[u8]) -> Vec<NamedChunk> {
    let chunk = |b: &[u8]| {
        Some((
            u64::from_be_bytes(b[..8].try_into().ok()?),
            Generation::from_bytes(b[8..].try_into().ok()?),
        ))
    };
    bytes.chunks_exact(24).filter_map(chunk).collect()
}

fn supersede(tx: &Connection, server: ServerId, id: ShareId, old: &Superseded) -> Result<()> {
    let ShareId { index, share } = id;
    tx.prepare_cached("INSERT OR REPLACE INTO superseded VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            server.0,
            index.0,
            share.0,
            old.generation.to_bytes(),
            encode_chunks(&old.chunks),
            old.until
        ])?;
    Ok(())
}

impl Slots {
    /// Makes the slots of a server. `key` authenticates its commits and must survive the loss of
    /// the database.
    pub fn new(leasedb: LeaseDb, server: ServerId, key: [u8; 32]) -> Self {
        Self {
            leasedb,
            server,
            key,
        }
    }

    /// The moment until which a request that is given up now may land, in milliseconds since 1970.
    pub(crate) fn rest(&self) -> Moment {
        self.leasedb.after(self.leasedb.grace_periods().late)
    }

    pub(crate) fn now(&self) -> Moment {
        self.leasedb.now()
    }

    pub(crate) async fn get(&self, id: ShareId) -> Result<Option<Slot>> {
        let ShareId { index, share } = id;
        let server = self.server;
        self.leasedb
            .read(move |c| {
                let slot = c
                    .prepare_cached(
                        "SELECT fence, current, intent, intent_commit, is_doubtful FROM slots
                         WHERE server = ?1 AND storage_index = ?2 AND share = ?3",
                    )?
                    .query_row(params![server.0, index.0, share.0], |r| {
                        let (intent, again) = (r.get::<_, Option<[u8; 16]>>(2)?, r.get(3)?);
                        Ok(Slot {
                            fence: r.get(0)?,
                            current: r.get(1)?,
                            intent: intent.map(|g| Intent {
                                generation: Generation::from_bytes(g),
                                again,
                            }),
                            is_doubtful: r.get(4)?,
                        })
                    });
                Ok(slot.optional()?)
            })
            .await
    }

    /// Sets an intent, if the slot has none and its fence is still the one that was read (`None`
    /// for a slot without a row). Returns the intent's generation, or `None` if another writer was
    /// faster. The chunks that it will write become superseded until its commit is current.
    pub(crate) async fn begin(
        &self,
        id: ShareId,
        fence: Option<i64>,
        chunks: Vec<u64>,
    ) -> Result<Option<Generation>> {
        let ShareId { index, share } = id;
        let (server, rest) = (self.server, self.rest());
        let micros = u64::try_from(self.now().as_millis())
            .unwrap_or_default()
            .saturating_mul(1000);
        let random = StorageIndex::random().map_err(crate::DatabaseError::Randomness)?;
        let random = u32::from_be_bytes([random.0[0], random.0[1], random.0[2], random.0[3]]);
        self.leasedb
            .write(move |tx| {
                let generation = next_generation(tx, server, id, micros, random)?;
                let key = params![server.0, index.0, share.0, generation.to_bytes(), fence];
                let changed = match fence {
                    None => tx
                        .prepare_cached(
                            "INSERT INTO slots(server, storage_index, share, fence, intent, last_generation)
                             SELECT ?1, ?2, ?3, 1, ?4, ?4 WHERE ?5 IS NULL ON CONFLICT DO NOTHING",
                        )?
                        .execute(key)?,
                    Some(_) => tx
                        .prepare_cached(
                            "UPDATE slots SET intent = ?4, intent_commit = NULL, last_generation = ?4, fence = fence + 1
                             WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND fence = ?5 AND intent IS NULL",
                        )?
                        .execute(key)?,
                };
                if changed == 0 {
                    return Ok(None);
                }
                // Until the commit is current, the chunks that the write sends are to be removed.
                let chunks = chunks.into_iter().map(|i| (i, generation)).collect();
                supersede(tx, server, id, &Superseded { generation, chunks, until: rest })?;
                Ok(Some(generation))
            })
            .await
    }

    /// Records that an intent's commit is current, and that the version that it replaced
    /// (`replaced`) is superseded. Returns false if the slot has another intent by now.
    pub(crate) async fn record(
        &self,
        id: ShareId,
        generation: Generation,
        commit: Vec<u8>,
        replaced: Option<(Generation, Vec<NamedChunk>)>,
    ) -> Result<bool> {
        let ShareId { index, share } = id;
        let (server, until) = (self.server, self.rest());
        self.leasedb
            .write(move |tx| {
                let changed = tx
                    .prepare_cached(
                        "UPDATE slots SET current = ?5, intent = NULL, intent_commit = NULL, fence = fence + 1
                         WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND intent = ?4",
                    )?
                    .execute(params![server.0, index.0, share.0, generation.to_bytes(), commit])?;
                if changed == 0 {
                    return Ok(false);
                }
                tx.prepare_cached(
                    "DELETE FROM superseded WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND generation = ?4",
                )?
                .execute(params![server.0, index.0, share.0, generation.to_bytes()])?;
                if let Some((generation, chunks)) = replaced {
                    supersede(tx, server, id, &Superseded { generation, chunks, until })?;
                }
                Ok(true)
            })
            .await
    }

    /// Drops an intent whose commit was never sent. The chunks that it wrote are superseded.
    pub(crate) async fn forget(&self, id: ShareId, generation: Generation) -> Result<()> {
        let ShareId { index, share } = id;
        let (server, until) = (self.server, self.rest());
        self.leasedb
            .write(move |tx| {
                let key = params![server.0, index.0, share.0, generation.to_bytes()];
                tx.prepare_cached(
                    "UPDATE slots SET intent = NULL, intent_commit = NULL, fence = fence + 1
                     WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND intent = ?4",
                )?
                .execute(key)?;
                tx.prepare_cached(
                    "UPDATE superseded SET until_ms = ?5
                     WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND generation = ?4",
                )?
                .execute(params![
                    server.0,
                    index.0,
                    share.0,
                    generation.to_bytes(),
                    until
                ])?;
                Ok(())
            })
            .await
    }

    /// Decides that an intent does not become the version. From now on the intent is to commit the
    /// current version again: `again` makes that commit for the new generation. Returns the new
    /// generation and its commit, or `None` if another caller decided meanwhile.
    pub(crate) async fn decide_again(
        &self,
        id: ShareId,
        old: Generation,
        again: impl FnOnce(Generation) -> Vec<u8> + Send + 'static,
    ) -> Result<Option<(Generation, Vec<u8>)>> {
        let ShareId { index, share } = id;
        let (server, until) = (self.server, self.rest());
        let micros = u64::try_from(self.now().as_millis())
            .unwrap_or_default()
            .saturating_mul(1000);
        self.leasedb
            .write(move |tx| {
                let generation = next_generation(tx, server, id, micros, old.random)?;
                let commit = again(generation);
                let changed = tx
                    .prepare_cached(
                        "UPDATE slots SET intent = ?5, intent_commit = ?6, last_generation = ?5, fence = fence + 1
                         WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND intent = ?4",
                    )?
                    .execute(params![
                        server.0,
                        index.0,
                        share.0,
                        old.to_bytes(),
                        generation.to_bytes(),
                        commit
                    ])?;
                if changed == 0 {
                    return Ok(None);
                }
                // The commit and the chunks of the old intent may still land until then.
                tx.prepare_cached(
                    "UPDATE superseded SET until_ms = ?5
                     WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND generation = ?4",
                )?
                .execute(params![server.0, index.0, share.0, old.to_bytes(), until])?;
                let own = Superseded { generation, chunks: Vec::new(), until };
                supersede(tx, server, id, &own)?;
                Ok(Some((generation, commit)))
            })
            .await
    }

    /// Reads the doubtful slots within a span whose share has no row, or is GOING.
    pub(crate) async fn doubtful(&self, span: Span) -> Result<Vec<ShareId>> {
        let (server, (first, last)) = (self.server, span.bounds());
        self.leasedb
            .read(move |c| {
                let sql = format!(
                    "SELECT storage_index, share FROM slots
                     WHERE server = ?1 AND storage_index BETWEEN ?2 AND ?3 AND is_doubtful
                       AND NOT EXISTS(SELECT 1 FROM shares WHERE shares.server = slots.server
                         AND shares.storage_index = slots.storage_index
                         AND shares.share = slots.share AND state <> {GOING})"
                );
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map(params![server.0, first.0, last.0], |r| {
                    shares::share_id(r, 0)
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Forgets a doubtful slot, if its fence is still the one that was read.
    pub(crate) async fn forget_doubtful(&self, id: ShareId, fence: i64) -> Result<()> {
        let ShareId { index, share } = id;
        let server = self.server;
        self.leasedb
            .write(move |tx| {
                let is_as_read = tx
                    .prepare_cached(
                        "SELECT EXISTS(SELECT 1 FROM slots WHERE server = ?1 AND storage_index = ?2 AND share = ?3
                           AND fence = ?4 AND is_doubtful)",
                    )?
                    .query_row(params![server.0, index.0, share.0, fence], |r| r.get::<_, bool>(0))?;
                for table in ["superseded", "slots"].into_iter().filter(|_| is_as_read) {
                    let sql =
                        format!("DELETE FROM {table} WHERE server = ?1 AND storage_index = ?2 AND share = ?3");
                    tx.execute(&sql, params![server.0, index.0, share.0])?;
                }
                Ok(())
            })
            .await
    }

    /// Reads this database's epoch, and the highest generation that a slot was given. Returns 0 and
    /// the lowest generation if there is no slot.
    pub(crate) async fn last_generation(&self, id: ShareId) -> Result<(u32, Generation)> {
        let ShareId { index, share } = id;
        let server = self.server;
        self.leasedb
            .read(move |c| {
                let sql = "SELECT epoch, last_generation FROM identity, slots
                           WHERE server = ?1 AND storage_index = ?2 AND share = ?3";
                let last = c
                    .prepare_cached(sql)?
                    .query_row(params![server.0, index.0, share.0], |r| {
                        Ok((r.get(0)?, Generation::from_bytes(r.get(1)?)))
                    });
                Ok(last.optional()?.unwrap_or_default())
            })
            .await
    }

    /// Reads the superseded versions of a slot, oldest first.
    pub(crate) async fn superseded(&self, id: ShareId) -> Result<Vec<Superseded>> {
        let ShareId { index, share } = id;
        let server = self.server;
        self.leasedb
            .read(move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT generation, chunks, until_ms FROM superseded
                     WHERE server = ?1 AND storage_index = ?2 AND share = ?3 ORDER BY generation",
                )?;
                let rows = statement.query_map(params![server.0, index.0, share.0], |r| {
                    Ok(Superseded {
                        generation: Generation::from_bytes(r.get(0)?),
                        chunks: decode_chunks(&r.get::<_, Vec<u8>>(1)?),
                        until: r.get(2)?,
                    })
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Records that a superseded version was removed from the cloud.
    pub(crate) async fn tidied(&self, id: ShareId, generation: Generation) -> Result<()> {
        let ShareId { index, share } = id;
        let server = self.server;
        self.leasedb
            .write(move |tx| {
                tx.prepare_cached(
                    "DELETE FROM superseded WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND generation = ?4",
                )?
                .execute(params![server.0, index.0, share.0, generation.to_bytes()])?;
                Ok(())
            })
            .await
    }

    /// Removes the slot of a deleted share whose last commit, the deletion mark, has gone too.
    /// Returns false if the slot has changed since `fence` was read, and stays.
    pub(crate) async fn remove(&self, id: ShareId, fence: i64) -> Result<bool> {
        let ShareId { index, share } = id;
        let server = self.server;
        self.leasedb
            .write(move |tx| {
                let gone = tx.execute(
                    "DELETE FROM slots WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND fence = ?4
                       AND intent IS NULL",
                    params![server.0, index.0, share.0, fence],
                )?;
                Ok(gone == 1)
            })
            .await
    }

    /// Records the version that a listing showed as current, after the database was lost. The slot
    /// is doubtful until a later listing shows the same version, at a time when no request of the
    /// previous host can land any longer. A slot that is not doubtful stays as it is.
    pub(crate) async fn recover(
        &self,
        id: ShareId,
        generation: Generation,
        commit: Vec<u8>,
        older: Vec<Superseded>,
    ) -> Result<()> {
        let ShareId { index, share } = id;
        let (server, leasedb) = (self.server, self.leasedb.clone());
        self.leasedb
            .write(move |tx| {
                let is_early = leasedb.was_just_taken(tx, server)?;
                let changed = tx.execute(
                    "INSERT INTO slots VALUES(?1, ?2, ?3, 1, ?4, NULL, NULL, 1, ?5)
                     ON CONFLICT DO UPDATE SET current = excluded.current, fence = fence + 1,
                       is_doubtful = ?6 OR current IS NOT excluded.current,
                       last_generation = max(last_generation, excluded.last_generation)
                     WHERE is_doubtful",
                    params![server.0, index.0, share.0, commit, generation.to_bytes(), is_early],
                )?;
                // A slot that the database is certain of stays as it is.
                if changed == 0 {
                    return Ok(());
                }
                tx.execute(
                    "DELETE FROM superseded WHERE server = ?1 AND storage_index = ?2 AND share = ?3",
                    params![server.0, index.0, share.0],
                )?;
                older.iter().try_for_each(|old| supersede(tx, server, id, old))
            })
            .await
    }

    /// Records as superseded what a complete listing showed and the slot does not name. Nothing is
    /// recorded if the slot is doubtful or has changed since `fence` was read.
    pub(crate) async fn supersede_strays(
        &self,
        id: ShareId,
        fence: i64,
        strays: Vec<Superseded>,
    ) -> Result<()> {
        let ShareId { index, share } = id;
        let server = self.server;
        self.leasedb
            .write(move |tx| {
                let is_as_read = tx
                    .prepare_cached(
                        "SELECT EXISTS(SELECT 1 FROM slots WHERE server = ?1 AND storage_index = ?2 AND share = ?3
                           AND fence = ?4 AND NOT is_doubtful)",
                    )?
                    .query_row(params![server.0, index.0, share.0, fence], |r| r.get::<_, bool>(0))?;
                if !is_as_read {
                    return Ok(());
                }
                strays.iter().try_for_each(|old| supersede(tx, server, id, old))
            })
            .await
    }

    /// Makes the slot of a share of which no version is whole, as if the share had been deleted:
    /// `deletion` is its current commit. If the share has a slot by now, that slot stays.
    pub(crate) async fn give_up(
        &self,
        id: ShareId,
        generation: Generation,
        deletion: Vec<u8>,
        older: Vec<Superseded>,
    ) -> Result<()> {
        let ShareId { index, share } = id;
        let server = self.server;
        self.leasedb
            .write(move |tx| {
                let changed = tx.execute(
                    "INSERT INTO slots VALUES(?1, ?2, ?3, 1, ?4, NULL, NULL, 0, ?5) ON CONFLICT DO NOTHING",
                    params![server.0, index.0, share.0, deletion, generation.to_bytes()],
                )?;
                if changed == 0 {
                    return Ok(());
                }
                older.iter().try_for_each(|old| supersede(tx, server, id, old))
            })
            .await
    }

    /// Reads the slots with superseded versions whose rest has ended, up to `limit`. Doubtful slots
    /// are left out.
    pub(crate) async fn untidy(&self, limit: u32) -> Result<Vec<ShareId>> {
        let (server, now) = (self.server, self.now());
        self.leasedb
            .read(move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT DISTINCT superseded.storage_index, superseded.share FROM superseded
                     JOIN slots USING(server, storage_index, share)
                     WHERE superseded.server = ?1 AND until_ms <= ?2 AND NOT is_doubtful
                       -- Versions go oldest first: one behind an older one that rests is not due.
                       AND NOT EXISTS(SELECT 1 FROM superseded AS older
                         WHERE older.server = superseded.server AND older.storage_index = superseded.storage_index
                           AND older.share = superseded.share AND older.generation < superseded.generation
                           AND older.until_ms > ?2)
                     LIMIT ?3",
                )?;
                let rows = statement.query_map(params![server.0, now, int(u64::from(limit))], |r| {
                    shares::share_id(r, 0)
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }
}

/// Makes a generation that is higher than every one that this share, or an older host, ever had.
fn next_generation(
    tx: &Connection,
    server: ServerId,
    id: ShareId,
    micros: u64,
    random: u32,
) -> Result<Generation> {
    let ShareId { index, share } = id;
    let last: Option<[u8; 16]> = tx
        .prepare_cached(
            "SELECT last_generation FROM slots WHERE server = ?1 AND storage_index = ?2 AND share = ?3",
        )?
        .query_row(params![server.0, index.0, share.0], |r| r.get(0))
        .optional()?;
    let epoch: u32 = tx
        .prepare_cached("SELECT epoch FROM identity")?
        .query_row([], |r| r.get(0))?;
    let last = last.map(Generation::from_bytes).unwrap_or_default();
    let micros = if last.epoch == epoch {
        micros.max(last.micros + 1)
    } else {
        micros
    };
    Ok(Generation {
        epoch: epoch.max(last.epoch),
        micros,
        random,
    })
}
