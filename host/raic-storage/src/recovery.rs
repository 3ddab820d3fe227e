//! Compares mutable shares in a cloud with a complete listing. Decision 0004 has the rules for a
//! lost database, for objects of an older host, and for shares that will never be whole.

use std::collections::BTreeSet;

use raic_cloud::ErrorKind;

use crate::{
    Found, Generation, MutableShare, Recovered, Result, ShareId, Span,
    commit::Commit,
    leasedb::{NamedChunk, Slot, Superseded},
    mutable::MutableShares,
    object::ShareObject,
};

/// A generation below every real one. Chunks that no commit names are superseded under it.
const BELOW_ALL: Generation = Generation {
    epoch: 0,
    micros: 1,
    random: 0,
};

impl MutableShares {
    /// Returns the name of the first of `chunks` that is not found by its name; `None` if all are
    /// found.
    async fn missing(
        &self,
        id: ShareId,
        chunks: impl Iterator<Item = NamedChunk>,
    ) -> Result<Option<String>> {
        for (number, generation) in chunks {
            let key = ShareObject::MutableChunk(number, generation).key(id);
            match self.container.cloud.head(&key).await {
                Ok(_) => {}
                Err(e) if e.kind == ErrorKind::NotFound => {
                    self.container.proves_absence().await?;
                    return Ok(Some(key.to_string()));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(None)
    }

    /// Returns the name of an object of the current version that a walk did not find and that is
    /// not found by its name either; `None` if there is none.
    pub(crate) async fn lacks(&self, id: ShareId, found: &Found) -> Result<Option<String>> {
        let slot = self.settle(id).await?;
        let Some(commit) = slot.version() else {
            return Ok(None);
        };
        let Found::Mutable { chunks, .. } = found else {
            return Ok(None);
        };
        self.missing(id, commit.named().filter(|chunk| !chunks.contains(chunk)))
            .await
    }

    /// Compares a share with the objects that a complete listing found of it: see
    /// [`crate::MutableStore::recover_mutable`].
    pub(crate) async fn recover(&self, id: ShareId, found: &Found) -> Result<Recovered> {
        let Found::Mutable { commits, chunks } = found else {
            return Ok(Recovered::Deleted);
        };
        match self.slots.get(id).await? {
            Some(slot) if !slot.is_doubtful => {
                self.note_strays(id, &slot, commits, chunks).await?;
                let slot = self.settle(id).await?;
                let version = slot.version();
                let share = version.map(|v| MutableShare {
                    length: v.length,
                    enabler: v.enabler,
                });
                Ok(share.map_or(Recovered::Deleted, Recovered::Whole))
            }
            slot => {
                let current = slot.and_then(|slot| slot.current);
                let current = current.and_then(|bytes| Commit::decode(&bytes, &self.slots.key, id));
                // What an earlier listing or a backup showed stays a candidate, even if this
                // listing leaves it out: an older commit that is forgotten would be left over when
                // the deletion's mark goes, and be found as the share.
                let superseded = self.slots.superseded(id).await?;
                let known = (current.iter().map(|commit| commit.generation))
                    .chain(superseded.iter().map(|old| old.generation))
                    .filter(|generation| *generation != BELOW_ALL);
                let commits = commits.iter().copied().chain(known).collect();
                let earlier = superseded.into_iter().flat_map(|old| old.chunks).collect();
                self.newest_whole(id, commits, chunks, earlier).await
            }
        }
    }

    /// Supersedes the strays of a slot whose current version the database knows. Strays are listed
    /// objects that neither a version in the tables nor a write under way names: an older host sent
    /// them.
    async fn note_strays(
        &self,
        id: ShareId,
        slot: &Slot,
        commits: &BTreeSet<Generation>,
        chunks: &BTreeSet<NamedChunk>,
    ) -> Result<()> {
        let current = slot
            .current
            .as_deref()
            .map(|bytes| self.decode(id, bytes))
            .transpose()?;
        let superseded = self.slots.superseded(id).await?;
        let known: BTreeSet<Generation> = (current.iter().map(|commit| commit.generation))
            .chain(slot.intent.iter().map(|intent| intent.generation))
            .chain(superseded.iter().map(|old| old.generation))
            .collect();
        let named: BTreeSet<NamedChunk> = (current.iter().flat_map(Commit::named))
            .chain(superseded.iter().flat_map(|old| old.chunks.iter().copied()))
            .collect();
        let strays: Vec<NamedChunk> = chunks
            .iter()
            .filter(|c| !named.contains(c) && !known.contains(&c.1))
            .copied()
            .collect();
        let writers = commits
            .iter()
            .copied()
            .chain(strays.iter().map(|(_, generation)| *generation));
        let writers: BTreeSet<Generation> = writers.filter(|g| !known.contains(g)).collect();
        if writers.is_empty() {
            return Ok(());
        }
        let (epoch, last) = self.slots.last_generation(id).await?;
        if let Some(newer) = writers.iter().find(|g| g.epoch == epoch && **g > last) {
            let what = format!(
                "version {newer} is newer than every version that the database knows, so the \
                 database is a restored backup; stop the daemon and run `raic lease rebuild \
                 --restored-backup`"
            );
            tracing::error!("{}", self.damaged(id, what));
            return Ok(());
        }
        for generation in &writers {
            // A commit that cannot be read may be an acknowledged version, and may name any stray.
            // Then all strays stay.
            let stored = self.get(id, ShareObject::Commit(*generation)).await?;
            if let Some(bytes) = stored
                && let Err(e) = self.decode(id, &bytes)
            {
                tracing::warn!("{e}");
                return Ok(());
            }
        }
        let until = self.slots.rest();
        let old = writers.into_iter().map(|generation| {
            let chunks = strays
                .iter()
                .filter(|(_, writer)| *writer == generation)
                .copied()
                .collect();
            Superseded {
                generation,
                chunks,
                until,
            }
        });
        let old: Vec<_> = old.collect();
        let ShareId { index, share } = id;
        tracing::info!(
            "{} unknown versions of share {share} of {index} will be removed",
            old.len()
        );
        self.slots.supersede_strays(id, slot.fence, old).await
    }

    /// Recovers a share after the database was lost: the newest version becomes current whose
    /// commit is authentic and whose chunks all exist. `chunks` were listed now, `earlier` by an
    /// earlier listing: they may have gone since.
    async fn newest_whole(
        &self,
        id: ShareId,
        mut commits: BTreeSet<Generation>,
        chunks: &BTreeSet<NamedChunk>,
        earlier: BTreeSet<NamedChunk>,
    ) -> Result<Recovered> {
        // A commit has the generation of the chunks that were written with it. So a commit that was
        // not listed is looked up by the generation of its chunks.
        let shown = chunks.union(&earlier);
        commits.extend(shown.clone().map(|(_, generation)| *generation));
        let highest = commits.last().copied();
        let mut whole: Option<Commit> = None;
        let mut older = Vec::new();
        // A commit that cannot be read may name any chunk. Then no chunk is a stray, and nothing is
        // given up.
        let (mut torn, mut is_unreadable) = (None, false);
        let mut named: BTreeSet<NamedChunk> = BTreeSet::new();
        for generation in commits.into_iter().rev() {
            let Some(bytes) = self.get(id, ShareObject::Commit(generation)).await? else {
                self.container.proves_absence().await?;
                continue;
            };
            let Some(commit) = Commit::decode(&bytes, &self.slots.key, id) else {
                is_unreadable = true;
                tracing::warn!(
                    "{}",
                    self.damaged(id, format!("commit {generation} is not authentic"))
                );
                continue;
            };
            if whole.is_some() {
                // A chunk is removed with the newest version that names it.
                let chunks = commit
                    .named()
                    .filter(|chunk| named.insert(*chunk))
                    .collect();
                older.push(Superseded {
                    generation,
                    chunks,
                    until: self.slots.rest(),
                });
                continue;
            }
            named.extend(commit.named());
            match self
                .missing(id, commit.named().filter(|c| !chunks.contains(c)))
                .await?
            {
                None => whole = Some(commit),
                Some(missing) => {
                    tracing::warn!(
                        "{}",
                        self.damaged(id, format!("commit {generation} lacks {missing}"))
                    );
                    torn.get_or_insert(missing);
                }
            }
        }
        let whole = match (whole, highest) {
            (Some(whole), _) => whole,
            // There are only chunks of a first write that was never committed. The share counts as
            // deleted.
            (None, Some(highest)) if torn.is_none() && !is_unreadable => {
                Commit::deletion(highest, None)
            }
            _ => return Ok(Recovered::Torn(torn.filter(|_| !is_unreadable))),
        };
        // Chunks that no version names, such as those of a write that a crash ended, are removed
        // with the oldest version.
        let is_stray = |chunk: &&NamedChunk| !is_unreadable && !named.contains(*chunk);
        let stray: Vec<_> = shown.filter(is_stray).copied().collect();
        if !stray.is_empty() || whole.is_deleted {
            older.push(Superseded {
                generation: BELOW_ALL,
                chunks: stray,
                until: self.slots.rest(),
            });
        }
        self.slots
            .recover(id, whole.generation, self.encode(id, &whole), older)
            .await?;
        if whole.is_deleted {
            return Ok(Recovered::Deleted);
        }
        Ok(Recovered::Whole(MutableShare {
            length: whole.length,
            enabler: whole.enabler,
        }))
    }

    /// Forgets doubtful slots of a span that an earlier listing showed and the next complete one
    /// does not. Such a share had gone by then, like the mark of a deletion that an older host
    /// ended. Its commit is looked up by name before the slot is forgotten.
    pub(crate) async fn forget_slots(&self, span: Span, listed: &BTreeSet<ShareId>) -> Result<()> {
        for id in self
            .slots
            .doubtful(span)
            .await?
            .into_iter()
            .filter(|id| !listed.contains(id))
        {
            let Some(slot) = self.slots.get(id).await?.filter(|slot| slot.is_doubtful) else {
                continue;
            };
            let current = slot.current.as_deref();
            let current = current.and_then(|bytes| Commit::decode(bytes, &self.slots.key, id));
            if let Some(commit) = current {
                match self.get(id, ShareObject::Commit(commit.generation)).await {
                    Ok(None) => {}
                    Ok(Some(_)) => continue,
                    // One bad object must not hold up the walk.
                    Err(e) => {
                        tracing::debug!("whether the last commit of {id} is gone is unknown: {e}");
                        continue;
                    }
                }
            }
            self.container.proves_absence().await?;
            self.slots.forget_doubtful(id, slot.fence).await?;
        }
        Ok(())
    }

    /// Gives up a share of which no version is whole, as two passes agreed. The share is then like
    /// a deleted one.
    pub(crate) async fn give_up(&self, id: ShareId, found: &Found) -> Result<()> {
        let Found::Mutable { commits, chunks } = found else {
            return Ok(());
        };
        let generations = commits
            .iter()
            .copied()
            .chain(chunks.iter().map(|(_, generation)| *generation));
        let Some(highest) = generations.max() else {
            return Ok(());
        };
        let until = self.slots.rest();
        // The highest commit goes last, as a deletion's mark does.
        let mut older: Vec<Superseded> =
            (commits.iter().filter(|generation| **generation != highest))
                .map(|generation| Superseded {
                    generation: *generation,
                    chunks: Vec::new(),
                    until,
                })
                .collect();
        older.push(Superseded {
            generation: BELOW_ALL,
            chunks: chunks.iter().copied().collect(),
            until,
        });
        self.slots
            .give_up(
                id,
                highest,
                self.encode(id, &Commit::deletion(highest, None)),
                older,
            )
            .await
    }
}
