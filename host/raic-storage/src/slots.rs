//! Which version of a mutable share in a cloud is current, and what is under way: decision 0004's
//! tables.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{Generation, LeaseDb, Result, ServerId, ShareNum, Span, StorageIndex, leasedb::int};

/// A chunk of a version, by number and the generation that wrote it.
pub(crate) type NamedChunk = (u64, Generation);

/// What the tables say of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Counts every change.
    pub(crate) fence: i64,
    /// The current commit, encoded; none where nothing was written yet.
    pub(crate) current: Option<Vec<u8>>,
    /// A write under way.
    pub(crate) intent: Option<Intent>,
    /// Read from one listing only: read-only.
    pub(crate) is_doubtful: bool,
}

/// A write under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) generation: Generation,
    /// The commit itself, where it commits an old version again.
    pub(crate) again: Option<Vec<u8>>,
}

/// What a version left that is no longer current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superseded {
    pub(crate) generation: Generation,
    /// Chunks that only it names.
    pub(crate) chunks: Vec<NamedChunk>,
    pub(crate) until_ms: i64,
}

/// The slots of one server.
#[derive(Clone, Debug)]
pub struct Slots {
    leasedb: LeaseDb,
    server: ServerId,
    /// Under which commits are authenticated.
    pub(crate) key: [u8; 32],
}

type At = (StorageIndex, ShareNum);

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

fn supersede(
    tx: &Connection,
    server: ServerId,
    (index, share): At,
    old: &Superseded,
) -> Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO superseded VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            server.0,
            index.0,
            share.0,
            old.generation.to_bytes(),
            encode_chunks(&old.chunks),
            old.until_ms
        ])?;
    Ok(())
}

impl Slots {
    /// Of a server; `key` authenticates its commits, and must survive the database.
    pub fn new(leasedb: LeaseDb, server: ServerId, key: [u8; 32]) -> Self {
        Self {
            leasedb,
            server,
            key,
        }
    }

    /// Until when a request that was given up now may land.
    pub(crate) fn rest(&self) -> i64 {
        self.leasedb.after(self.leasedb.patience().late)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.leasedb.now_ms()
    }

    pub(crate) async fn get(&self, (index, share): At) -> Result<Option<Slot>> {
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

    /// Sets an intent, where there is none and the slot is as it was read. Returns its generation;
    /// none where another was faster. The chunks it will write are to go, should it come to
    /// nothing.
    pub(crate) async fn begin(
        &self,
        (index, share): At,
        fence: Option<i64>,
        chunks: Vec<u64>,
    ) -> Result<Option<Generation>> {
        let (server, rest) = (self.server, self.rest());
        let micros = u64::try_from(self.now_ms())
            .unwrap_or_default()
            .saturating_mul(1000);
        let random = StorageIndex::random().map_err(crate::DatabaseError::Randomness)?;
        let random = u32::from_be_bytes([random.0[0], random.0[1], random.0[2], random.0[3]]);
        self.leasedb
            .write(move |tx| {
                let generation = next_generation(tx, server, (index, share), micros, random)?;
                let at = params![server.0, index.0, share.0, generation.to_bytes(), fence];
                let changed = match fence {
                    None => tx
                        .prepare_cached(
                            "INSERT INTO slots(server, storage_index, share, fence, intent, last_generation)
                             SELECT ?1, ?2, ?3, 1, ?4, ?4 WHERE ?5 IS NULL ON CONFLICT DO NOTHING",
                        )?
                        .execute(at)?,
                    Some(_) => tx
                        .prepare_cached(
                            "UPDATE slots SET intent = ?4, intent_commit = NULL, last_generation = ?4, fence = fence + 1
                             WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND fence = ?5 AND intent IS NULL",
                        )?
                        .execute(at)?,
                };
                if changed == 0 {
                    return Ok(None);
                }
                // Until it is current, what it writes is what will be removed.
                let chunks = chunks.into_iter().map(|i| (i, generation)).collect();
                supersede(tx, server, (index, share), &Superseded { generation, chunks, until_ms: rest })?;
                Ok(Some(generation))
            })
            .await
    }

    /// Records an intent's end: its commit is current, `replaced` is superseded. False where the
    /// intent is another's by now.
    pub(crate) async fn record(
        &self,
        (index, share): At,
        generation: Generation,
        commit: Vec<u8>,
        replaced: Option<(Generation, Vec<NamedChunk>)>,
    ) -> Result<bool> {
        let (server, until_ms) = (self.server, self.rest());
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
                    supersede(tx, server, (index, share), &Superseded { generation, chunks, until_ms })?;
                }
                Ok(true)
            })
            .await
    }

    /// Drops an intent whose commit was never sent: what it wrote is superseded.
    pub(crate) async fn forget(&self, (index, share): At, generation: Generation) -> Result<()> {
        let (server, until) = (self.server, self.rest());
        self.leasedb
            .write(move |tx| {
                let at = params![server.0, index.0, share.0, generation.to_bytes()];
                tx.prepare_cached(
                    "UPDATE slots SET intent = NULL, intent_commit = NULL, fence = fence + 1
                     WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND intent = ?4",
                )?
                .execute(at)?;
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

    /// Decides that an intent is not the version: a commit of the current one again, made by
    /// `again` of its generation, is the intent from now on. None where another decided meanwhile.
    pub(crate) async fn decide_again(
        &self,
        (index, share): At,
        old: Generation,
        again: impl FnOnce(Generation) -> Vec<u8> + Send + 'static,
    ) -> Result<Option<(Generation, Vec<u8>)>> {
        let (server, until) = (self.server, self.rest());
        let micros = u64::try_from(self.now_ms())
            .unwrap_or_default()
            .saturating_mul(1000);
        self.leasedb
            .write(move |tx| {
                let generation = next_generation(tx, server, (index, share), micros, old.random)?;
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
                // The old intent may still land until then, its commit and its chunks.
                tx.prepare_cached(
                    "UPDATE superseded SET until_ms = ?5
                     WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND generation = ?4",
                )?
                .execute(params![server.0, index.0, share.0, old.to_bytes(), until])?;
                let own = Superseded { generation, chunks: Vec::new(), until_ms: until };
                supersede(tx, server, (index, share), &own)?;
                Ok(Some((generation, commit)))
            })
            .await
    }

    /// Doubtful slots of a span that stand for no share, or for one that is going.
    pub(crate) async fn doubtful(&self, span: Span) -> Result<Vec<At>> {
        let (server, (first, last)) = (self.server, span.bounds());
        self.leasedb
            .read(move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT storage_index, share FROM slots WHERE server = ?1 AND storage_index BETWEEN ?2 AND ?3
                       AND is_doubtful AND NOT EXISTS(SELECT 1 FROM shares WHERE shares.server = slots.server
                         AND shares.storage_index = slots.storage_index AND shares.share = slots.share AND state <> 2)",
                )?;
                let rows = statement.query_map(params![server.0, first.0, last.0], |r| {
                    Ok((StorageIndex(r.get(0)?), ShareNum(r.get(1)?)))
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Forgets a doubtful slot, if it is still as it was read.
    pub(crate) async fn forget_doubtful(&self, (index, share): At, fence: i64) -> Result<()> {
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

    /// This database's epoch, and the highest generation that was given to a slot.
    pub(crate) async fn last_generation(&self, (index, share): At) -> Result<(u32, Generation)> {
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

    /// What is superseded of a slot, oldest first.
    pub(crate) async fn superseded(&self, (index, share): At) -> Result<Vec<Superseded>> {
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
                        until_ms: r.get(2)?,
                    })
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// A superseded version has gone.
    pub(crate) async fn tidied(&self, (index, share): At, generation: Generation) -> Result<()> {
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

    /// A deleted share has gone, mark and all; false where it was written meanwhile.
    pub(crate) async fn remove(&self, (index, share): At, fence: i64) -> Result<bool> {
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

    /// The database was lost: what a listing showed is current; doubtful until another listing
    /// shows the same, after all that the host before had sent must have landed.
    pub(crate) async fn recover(
        &self,
        (index, share): At,
        generation: Generation,
        commit: Vec<u8>,
        older: Vec<Superseded>,
    ) -> Result<()> {
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
                // One that is known by the database stays as it is.
                if changed == 0 {
                    return Ok(());
                }
                tx.execute(
                    "DELETE FROM superseded WHERE server = ?1 AND storage_index = ?2 AND share = ?3",
                    params![server.0, index.0, share.0],
                )?;
                older.iter().try_for_each(|old| supersede(tx, server, (index, share), old))
            })
            .await
    }

    /// What a complete listing showed and the slot does not name is superseded, where the slot is
    /// as it was read.
    pub(crate) async fn supersede_strays(
        &self,
        (index, share): At,
        fence: i64,
        strays: Vec<Superseded>,
    ) -> Result<()> {
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
                strays.iter().try_for_each(|old| supersede(tx, server, (index, share), old))
            })
            .await
    }

    /// A share of which no version is whole is as one that was deleted, unless there is a slot of
    /// it by now.
    pub(crate) async fn give_up(
        &self,
        (index, share): At,
        generation: Generation,
        deletion: Vec<u8>,
        older: Vec<Superseded>,
    ) -> Result<()> {
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
                older.iter().try_for_each(|old| supersede(tx, server, (index, share), old))
            })
            .await
    }

    /// Slots with something that may be removed by now, up to `limit`.
    pub(crate) async fn untidy(&self, limit: u32) -> Result<Vec<At>> {
        let (server, now) = (self.server, self.now_ms());
        self.leasedb
            .read(move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT DISTINCT superseded.storage_index, superseded.share FROM superseded
                     JOIN slots USING(server, storage_index, share)
                     WHERE superseded.server = ?1 AND until_ms <= ?2 AND NOT is_doubtful
                       -- They go oldest first: what an older one still holds up is not due.
                       AND NOT EXISTS(SELECT 1 FROM superseded AS older
                         WHERE older.server = superseded.server AND older.storage_index = superseded.storage_index
                           AND older.share = superseded.share AND older.generation < superseded.generation
                           AND older.until_ms > ?2)
                     LIMIT ?3",
                )?;
                let rows = statement.query_map(params![server.0, now, int(u64::from(limit))], |r| {
                    Ok((StorageIndex(r.get(0)?), ShareNum(r.get(1)?)))
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }
}

/// Higher than all that this share, or an older host, ever had.
fn next_generation(
    tx: &Connection,
    server: ServerId,
    (index, share): At,
    micros: u64,
    random: u32,
) -> Result<Generation> {
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
