//! Mutable shares in a cloud against what a complete listing shows of them: decision 0004's rules
//! for a lost database, for what an older host left, and for what never will be whole.

use std::collections::BTreeSet;

use raic_cloud::ErrorKind;

use crate::{
    Found, Generation, MutableShare, Recovered, Result, ShareNum, Span, StorageIndex,
    commit::Commit,
    mutable::MutableShares,
    object::ShareObject,
    slots::{NamedChunk, Slot, Superseded},
};

type At = (StorageIndex, ShareNum);

/// Below every generation that is given: under it stands what no commit names.
const BELOW_ALL: Generation = Generation {
    epoch: 0,
    micros: 1,
    random: 0,
};

impl MutableShares {
    /// The first of some chunks that is not found by its name.
    async fn missing(
        &self,
        (index, share): At,
        chunks: impl Iterator<Item = NamedChunk>,
    ) -> Result<Option<String>> {
        for (number, generation) in chunks {
            let key = ShareObject::MutableChunk(number, generation).key(index, share);
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

    /// An object of the current version that a walk did not find, and that is not found by its
    /// name.
    pub(crate) async fn lacks(&self, at: At, found: &Found) -> Result<Option<String>> {
        let slot = self.settled(at).await?;
        let Some(commit) = slot.version() else {
            return Ok(None);
        };
        let Found::Mutable { chunks, .. } = found else {
            return Ok(None);
        };
        self.missing(at, commit.named().filter(|chunk| !chunks.contains(chunk)))
            .await
    }

    pub(crate) async fn recover(&self, at: At, found: &Found) -> Result<Recovered> {
        let Found::Mutable { commits, chunks } = found else {
            return Ok(Recovered::Deleted);
        };
        match self.slots.get(at).await? {
            Some(slot) if !slot.is_doubtful => {
                self.note_strays(at, &slot, commits, chunks).await?;
                let slot = self.settled(at).await?;
                let version = slot.version();
                let share = version.map(|v| MutableShare {
                    length: v.length,
                    enabler: v.enabler,
                });
                Ok(share.map_or(Recovered::Deleted, Recovered::Whole))
            }
            slot => {
                let current = slot.and_then(|slot| slot.current);
                let current =
                    current.and_then(|bytes| Commit::decode(&bytes, &self.slots.key, at.0, at.1));
                // What an earlier listing, or a backup, showed: a listing that leaves it out takes
                // nothing back.
                let known = current.map(|commit| commit.generation);
                self.newest_whole(at, commits.iter().copied().chain(known).collect(), chunks)
                    .await
            }
        }
    }

    /// The database says which version is current: what neither it names nor a write under way is
    /// an older host's, and goes as what is superseded does.
    async fn note_strays(
        &self,
        at: At,
        slot: &Slot,
        commits: &BTreeSet<Generation>,
        chunks: &BTreeSet<NamedChunk>,
    ) -> Result<()> {
        let current = slot
            .current
            .as_deref()
            .map(|bytes| self.decode(at, bytes))
            .transpose()?;
        let superseded = self.slots.superseded(at).await?;
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
        let (epoch, last) = self.slots.last_generation(at).await?;
        if let Some(newer) = writers.iter().find(|g| g.epoch == epoch && **g > last) {
            let what = format!(
                "version {newer} is newer than all that the database knows: it is a backup that was restored; stop the \
                 daemon and run `raic lease rebuild --restored-backup`"
            );
            tracing::error!("{}", self.damaged(at, what));
            return Ok(());
        }
        for generation in &writers {
            // One that cannot be read may be a version that was acknowledged: it and what it may
            // name stay.
            let there = self.get(at, ShareObject::Commit(*generation)).await?;
            if let Some(bytes) = there
                && let Err(e) = self.decode(at, &bytes)
            {
                tracing::warn!("{e}");
                return Ok(());
            }
        }
        let until_ms = self.slots.rest();
        let old = writers.into_iter().map(|generation| {
            let chunks = strays
                .iter()
                .filter(|(_, of)| *of == generation)
                .copied()
                .collect();
            Superseded {
                generation,
                chunks,
                until_ms,
            }
        });
        let old: Vec<_> = old.collect();
        let (index, share) = at;
        tracing::info!(
            "{} versions of share {share} of {index} that nobody knows go",
            old.len()
        );
        self.slots.supersede_strays(at, slot.fence, old).await
    }

    /// The database was lost: the newest version whose commit is authentic and whose chunks are all
    /// there.
    async fn newest_whole(
        &self,
        at: At,
        mut commits: BTreeSet<Generation>,
        chunks: &BTreeSet<NamedChunk>,
    ) -> Result<Recovered> {
        // A commit has the generation of the chunks it was written with: one that was not listed is
        // asked for by name.
        commits.extend(chunks.iter().map(|(_, generation)| *generation));
        let highest = commits.last().copied();
        let mut whole: Option<Commit> = None;
        let mut older = Vec::new();
        // A commit that cannot be read may name any chunk: then none is stray, and nothing is given
        // up.
        let (mut torn, mut is_unreadable) = (None, false);
        let mut named: BTreeSet<NamedChunk> = BTreeSet::new();
        for generation in commits.into_iter().rev() {
            let Some(bytes) = self.get(at, ShareObject::Commit(generation)).await? else {
                self.container.proves_absence().await?;
                continue;
            };
            let Some(commit) = Commit::decode(&bytes, &self.slots.key, at.0, at.1) else {
                is_unreadable = true;
                tracing::warn!(
                    "{}",
                    self.damaged(at, format!("commit {generation} is not authentic"))
                );
                continue;
            };
            if whole.is_some() {
                // A chunk goes with the newest of those that name it.
                let chunks = commit
                    .named()
                    .filter(|chunk| named.insert(*chunk))
                    .collect();
                older.push(Superseded {
                    generation,
                    chunks,
                    until_ms: self.slots.rest(),
                });
                continue;
            }
            named.extend(commit.named());
            match self
                .missing(at, commit.named().filter(|c| !chunks.contains(c)))
                .await?
            {
                None => whole = Some(commit),
                Some(missing) => {
                    tracing::warn!(
                        "{}",
                        self.damaged(at, format!("commit {generation} lacks {missing}"))
                    );
                    torn.get_or_insert(missing);
                }
            }
        }
        let whole = match (whole, highest) {
            (Some(whole), _) => whole,
            // Chunks of a first write that was never committed: the share is as one that was
            // deleted.
            (None, Some(highest)) if torn.is_none() && !is_unreadable => {
                Commit::deletion(highest, None)
            }
            _ => return Ok(Recovered::Torn(torn.filter(|_| !is_unreadable))),
        };
        // What no version names, such as a write that a crash ended, goes with the oldest.
        let is_stray = |chunk: &&NamedChunk| !is_unreadable && !named.contains(*chunk);
        let stray: Vec<_> = chunks.iter().filter(is_stray).copied().collect();
        if !stray.is_empty() || whole.is_deleted {
            older.push(Superseded {
                generation: BELOW_ALL,
                chunks: stray,
                until_ms: self.slots.rest(),
            });
        }
        self.slots
            .recover(at, whole.generation, self.encode(at, &whole), older)
            .await?;
        if whole.is_deleted {
            return Ok(Recovered::Deleted);
        }
        Ok(Recovered::Whole(MutableShare {
            length: whole.length,
            enabler: whole.enabler,
        }))
    }

    /// What one listing showed, and the next, complete one does not at all, had gone by then: such
    /// as the mark of a deletion that an older host ended. It is asked for by its name before it is
    /// forgotten.
    pub(crate) async fn forget_unlisted(&self, span: Span, listed: &BTreeSet<At>) -> Result<()> {
        for at in self
            .slots
            .doubtful(span)
            .await?
            .into_iter()
            .filter(|at| !listed.contains(at))
        {
            let Some(slot) = self.slots.get(at).await?.filter(|slot| slot.is_doubtful) else {
                continue;
            };
            let current = slot.current.as_deref();
            let current =
                current.and_then(|bytes| Commit::decode(bytes, &self.slots.key, at.0, at.1));
            if let Some(commit) = current {
                match self.get(at, ShareObject::Commit(commit.generation)).await {
                    Ok(None) => {}
                    Ok(Some(_)) => continue,
                    // No bad object holds the walk up.
                    Err(e) => {
                        tracing::debug!("whether a share's mark is gone: {e}");
                        continue;
                    }
                }
            }
            self.container.proves_absence().await?;
            self.slots.forget_doubtful(at, slot.fence).await?;
        }
        Ok(())
    }

    /// No version is whole, as two passes agreed: the share is as one that was deleted.
    pub(crate) async fn give_up(&self, at: At, found: &Found) -> Result<()> {
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
        let until_ms = self.slots.rest();
        // The highest commit goes last, as a deletion's mark does.
        let mut older: Vec<Superseded> =
            (commits.iter().filter(|generation| **generation != highest))
                .map(|generation| Superseded {
                    generation: *generation,
                    chunks: Vec::new(),
                    until_ms,
                })
                .collect();
        older.push(Superseded {
            generation: BELOW_ALL,
            chunks: chunks.iter().copied().collect(),
            until_ms,
        });
        self.slots
            .give_up(
                at,
                highest,
                self.encode(at, &Commit::deletion(highest, None)),
                older,
            )
            .await
    }
}
