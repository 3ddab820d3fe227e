//! Reconciliation: what a container holds against what leasedb knows, by complete paged listings, a
//! prefix of storage indexes at a time, so that it resumes.
//!
//! **Invariant:** a listing alone destroys nothing and marks nothing as lost: the object that
//! decides must be not-found by name in two passes a day apart, in a container that is ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    Found, FoundShare, IndexPrefix, MAX_SHARE, Ownership, Recovered, Result, ShareId, ShareKind,
    ShareRow, ShareState, Span, StorageError, StorageServer, Suspect, Suspicion,
    backend::mutable_store, examine::Examined, object::ShareObject,
};

/// What a pass found. Counts up while it runs.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Prefixes done, of [`IndexPrefix::COUNT`].
    pub prefixes: AtomicU64,
    /// Shares that the container holds.
    pub listed: AtomicU64,
    /// Shares that had no row and got one, with a starter lease.
    pub discovered: AtomicU64,
    /// Objects of no whole share: to be destroyed when a second pass agrees.
    pub torn: AtomicU64,
    /// Torn shares that are being destroyed now.
    pub reaped: AtomicU64,
    /// Shares that are not where they should be.
    pub vanished: AtomicU64,
    /// Vanished ones that are lost now, as two passes agreed.
    pub lost: AtomicU64,
    /// Shares that could not be examined: nothing is known of them, and nothing was done.
    pub failed: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The walk that the daemon does by itself.
const RECONCILE: &str = "reconcile";
/// Leftovers of one share that one pass removes, at most.
const LEFTOVERS: usize = 1000;
/// How often it is looked whether one is due.
const PAUSE: Duration = Duration::from_secs(300);
/// Shares, and objects, of a server that is walked in one go rather than by its 1024 prefixes: a
/// few pages of a listing.
const IN_ONE_GO: u64 = 4_000;
/// Objects that a listing may have beside those that the rows tell of: leftovers, versions, and
/// what was lost with a database.
const BESIDE: u64 = 100_000;
/// Shares of one server that something is said against, at most: a cloud that makes up names fills
/// no database.
const MOST_SUSPECTS: u64 = 100_000;

impl StorageServer {
    /// Walks through the container from where the walk of that name ended, to its end; a new one
    /// begins at the first.
    ///
    /// # Errors
    /// Where a listing ends early or the container is not ours: what was done stays, and the walk
    /// goes on there.
    pub async fn reconcile(&self, walk: &'static str, progress: &Reconciled) -> Result<()> {
        let (next, _) = self.leasedb.walk(self.id, walk).await?;
        progress.prefixes.store(u64::from(next), Ordering::Relaxed);
        let rows = self.leasedb.share_count(self.id).await?;
        // A small container costs a few requests, and not a thousand. Where it turns out to be
        // larger it is walked by prefixes.
        let is_done =
            next == 0 && rows <= IN_ONE_GO && self.reconcile_whole(walk, progress).await?;
        if is_done {
            progress
                .prefixes
                .store(u64::from(IndexPrefix::COUNT), Ordering::Relaxed);
        } else {
            for prefix in IndexPrefix::all_from(next) {
                self.reconcile_prefix(prefix, progress).await?;
                self.leasedb.walked(self.id, walk, prefix).await?;
                count(&progress.prefixes);
            }
        }
        // Files have the wall clock's times.
        if self.leasedb.clock_is_off().is_some() || self.require_writable().await.is_err() {
            return Ok(());
        }
        // An upload that lives was written to in its time; a day more is for clocks.
        let grace = self.leasedb.grace_periods();
        let swept = self
            .backend
            .sweep(self.leasedb.over_since(grace.upload + grace.suspicion))
            .await?;
        if swept > 0 {
            tracing::info!(
                "cloud {:?}: {swept} files of writes that never ended were removed",
                self.name()
            );
        }
        Ok(())
    }

    /// Reconciles now and then, for as long as the server lives; goes on where it was stopped.
    pub async fn reconcile_for_ever(self: Arc<Self>, every: Duration) {
        loop {
            let due = async {
                let (next, ended) = self.leasedb.walk(self.id, RECONCILE).await?;
                let settled = self.leasedb.settled_ms(self.id).await?;
                let now = self.leasedb.now_ms();
                let is_due_after = |ended: i64| {
                    // One that ended in a future that the clock has left says nothing.
                    ended > now
                        || ended <= self.leasedb.over_since(every)
                        || settled.is_some_and(|settled| ended <= settled && settled <= now)
                };
                Ok::<_, StorageError>(next > 0 || ended.is_none_or(is_due_after))
            };
            let walked = match due.await {
                Ok(true) => self.reconcile(RECONCILE, &Reconciled::default()).await,
                other => other.map(drop),
            };
            if let Err(e) = walked {
                tracing::debug!("reconciling {:?}: {e}", self.name());
            }
            tokio::time::sleep(PAUSE.min(every)).await;
        }
    }

    /// Reconciles all prefixes at once; false where there is too much for that, and nothing was
    /// done.
    async fn reconcile_whole(&self, walk: &'static str, progress: &Reconciled) -> Result<bool> {
        let before = self.below(Span::Whole).await?;
        match self.backend.scan(Span::Whole, IN_ONE_GO).await {
            Ok(found) => {
                self.compare(Span::Whole, before, found, progress).await?;
                self.leasedb.walked_whole(self.id, walk).await?;
                Ok(true)
            }
            Err(StorageError::Cloud(e)) if e.kind == raic_cloud::ErrorKind::Protocol => Ok(false),
            Err(StorageError::Disk { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reconciles one prefix.
    ///
    /// # Errors
    /// As [`StorageServer::reconcile`].
    pub async fn reconcile_prefix(&self, prefix: IndexPrefix, progress: &Reconciled) -> Result<()> {
        let span = Span::Below(prefix);
        let before = self.below(span).await?;
        let known: u64 = before.values().map(|row| row.objects.max(1)).sum();
        let found = self
            .backend
            .scan(span, known.saturating_mul(4).saturating_add(BESIDE))
            .await?;
        self.compare(span, before, found, progress).await
    }

    /// Compares what a complete listing of a span found with the rows of before and after it.
    async fn compare(
        &self,
        span: Span,
        before: BTreeMap<ShareId, ShareRow>,
        found: Vec<FoundShare>,
        progress: &Reconciled,
    ) -> Result<()> {
        // Read again after the listing: a row is there before its first object, and until after its
        // last.
        let after = self.below(span).await?;
        // What is destroyed looks again.
        match self.seen_owner().await? {
            Ownership::Ours => {}
            other => other.writable(self.name())?,
        }
        let mut suspects = self.leasedb.suspects(self.id, span).await?;
        let mut listed = BTreeSet::new();
        for share in &found {
            count(&progress.listed);
            let id = share.id;
            listed.insert(id);
            let seen = match (before.get(&id), after.get(&id)) {
                (None, None) => self.unknown(share, suspects.remove(&id), progress).await,
                (Some(row), Some(now))
                    if row.state == ShareState::Stable && now.state == ShareState::Stable =>
                {
                    self.known(now, share, suspects.remove(&id), progress).await
                }
                // It is deleted once two listings agree on what it is.
                (_, Some(now))
                    if now.state == ShareState::Going && now.kind == ShareKind::Mutable =>
                {
                    match self.recover(share).await {
                        Ok(_) | Err(StorageError::NotKnown { .. }) => Ok(()),
                        Err(e) => Err(e),
                    }
                }
                // Coming, going, or changed meanwhile.
                _ => Ok(()),
            };
            self.failed_alone(id, seen, progress)?;
        }
        for (id, row) in before.iter().filter(|(id, _)| !listed.contains(id)) {
            let stays = after
                .get(id)
                .is_some_and(|now| now.state == ShareState::Stable);
            if row.state == ShareState::Stable && stays {
                let seen = self.unlisted(row, suspects.remove(id), progress).await;
                self.failed_alone(*id, seen, progress)?;
            }
        }
        if let Some(store) = self.backend.mutable_store() {
            store.forget_unlisted(span, listed).await?;
        }
        // What is left was suspected and is so no longer.
        for id in suspects.into_keys() {
            self.leasedb.clear_suspicion(self.id, id).await?;
        }
        Ok(())
    }

    /// What fails for one share alone must not keep the walk from the others: no bad object holds
    /// it up for ever.
    fn failed_alone(&self, id: ShareId, seen: Result<()>, progress: &Reconciled) -> Result<()> {
        match seen {
            Err(e @ (StorageError::Database(_) | StorageError::ReadOnly { .. })) => Err(e),
            Err(e) => {
                count(&progress.failed);
                tracing::warn!("{id} could not be examined: {e}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn below(&self, span: Span) -> Result<BTreeMap<ShareId, ShareRow>> {
        let rows = self.leasedb.shares_within(self.id, span).await?;
        Ok(rows.into_iter().map(|row| (row.id, row)).collect())
    }

    async fn suspect(&self, id: ShareId, what: Suspicion, object: String) -> Result<()> {
        let server = self.id;
        if what == Suspicion::Torn && self.leasedb.suspect_count(server).await? >= MOST_SUSPECTS {
            tracing::warn!(
                "cloud {:?} lists more than {MOST_SUSPECTS} objects of no share: what is beyond is left alone",
                self.name()
            );
            return Ok(());
        }
        self.leasedb.suspect(server, id, what, object).await
    }

    /// Whether a suspicion of the same object is old enough for the second pass. By a clock that is
    /// off none is.
    fn is_second_pass(&self, before: Option<&Suspect>, what: Suspicion, object: &str) -> bool {
        if self.leasedb.clock_is_off().is_some() {
            return false;
        }
        let old = self
            .leasedb
            .over_since(self.leasedb.grace_periods().suspicion);
        before.is_some_and(|s| s.what == what && s.object == object && s.since_ms <= old)
    }

    /// Deals with a share that was listed and has no row.
    async fn unknown(
        &self,
        share: &FoundShare,
        before: Option<Suspect>,
        progress: &Reconciled,
    ) -> Result<()> {
        let id = share.id;
        let missing = match self.examine(share).await? {
            // None of ours is so large.
            Examined::Whole(_, stored) if stored.bytes > MAX_SHARE => {
                return self.leasedb.clear_suspicion(self.id, id).await;
            }
            Examined::Whole(kind, stored) => {
                if self.leasedb.discover(self.id, id, kind, stored).await? {
                    count(&progress.discovered);
                }
                return Ok(());
            }
            // Where nothing may be written it stays.
            Examined::Deleted if self.require_writable().await.is_err() => {
                return self.leasedb.clear_suspicion(self.id, id).await;
            }
            Examined::Deleted => {
                let lock = self.slot_lock(share.id.index);
                let _turn = lock.lock().await;
                // One whose mark alone was left is looked for by nobody else.
                mutable_store(&*self.backend)?
                    .tidy_mutable(share.id)
                    .await?;
                return self.leasedb.clear_suspicion(self.id, id).await;
            }
            Examined::Torn(missing) => missing,
        };
        count(&progress.torn);
        let Some(object) = missing else {
            return self.leasedb.clear_suspicion(self.id, id).await;
        };
        let grace = self.leasedb.grace_periods();
        let old = self.leasedb.over_since(grace.upload + grace.suspicion);
        let is_old = share.newest_ms.is_none_or(|newest| newest <= old);
        if !(is_old && self.is_second_pass(before.as_ref(), Suspicion::Torn, &object)) {
            return self.suspect(id, Suspicion::Torn, object).await;
        }
        if !self
            .check_owner()
            .await
            .is_ok_and(|found| found == Ownership::Ours)
            || self.settings.is_read_only
        {
            return Ok(());
        }
        count(&progress.reaped);
        self.reap(share).await
    }

    /// Compares a mutable share with what was listed of it, while nobody writes to it.
    pub(crate) async fn recover(&self, share: &FoundShare) -> Result<Recovered> {
        let lock = self.slot_lock(share.id.index);
        let _turn = lock.lock().await;
        mutable_store(&*self.backend)?
            .recover_mutable(share.id, &share.found)
            .await
    }

    /// Destroys a share that never was whole.
    async fn reap(&self, share: &FoundShare) -> Result<()> {
        let id = share.id;
        if let Found::Mutable { .. } = share.found {
            let lock = self.slot_lock(share.id.index);
            let _turn = lock.lock().await;
            mutable_store(&*self.backend)?
                .give_up_mutable(share.id, &share.found)
                .await?;
            return self.leasedb.clear_suspicion(self.id, id).await;
        }
        // Collection does the rest.
        self.leasedb.condemn_torn(self.id, id).await?;
        self.wake();
        Ok(())
    }

    /// Deals with a STABLE share that was listed.
    async fn known(
        &self,
        row: &ShareRow,
        share: &FoundShare,
        before: Option<Suspect>,
        progress: &Reconciled,
    ) -> Result<()> {
        if row.kind == ShareKind::Mutable
            && let Found::Mutable { .. } = share.found
        {
            match self.recover(share).await {
                // A write that is open still is settled first.
                Err(StorageError::NotKnown { .. }) => {}
                other => drop(other?),
            }
            if self.lacks(row, &share.found).await?.is_some() {
                return self.unlisted(row, before, progress).await;
            }
        }
        if let Found::Immutable { chunks, bytes, .. } = &share.found
            && row.kind != ShareKind::Mutable
            && row.objects > 0
        {
            let bytes = *bytes;
            if !chunks.contains(&(0..row.objects)) {
                return self.unlisted(row, before, progress).await;
            }
            let beyond = chunks.within(&(row.objects..u64::MAX));
            // An array's storage index never recurs: what is beyond its share's end is nobody's,
            // and harms nothing.
            if let Some(leftover) = beyond.first().filter(|_| row.kind == ShareKind::Immutable) {
                return self.leftover(row, leftover.start, &beyond, before).await;
            }
            // A share's length is its row's. What a listing says of it is asked of the objects by
            // their names before it counts.
            let differs = bytes < row.used_space
                || (row.kind == ShareKind::Immutable && bytes != row.used_space);
            if beyond.is_empty()
                && differs
                && self.bytes_by_name(row).await? != Some(row.used_space)
            {
                return self.shortened(row, bytes, before, progress).await;
            }
        }
        self.confirm_present(row, before.is_some()).await
    }

    /// Objects beyond a share's end, of an older upload under its name: they go when two passes a
    /// day apart have seen them, and each is found by its name.
    async fn leftover(
        &self,
        row: &ShareRow,
        first: u64,
        beyond: &[std::ops::Range<u64>],
        before: Option<Suspect>,
    ) -> Result<()> {
        let (id, object) = (row.id, ShareObject::Chunk(first).key(row.id).to_string());
        // It is there all the same.
        if row.is_lost {
            self.confirm_present(row, false).await?;
        }
        if !self.is_second_pass(before.as_ref(), Suspicion::Leftover, &object) {
            return self.suspect(id, Suspicion::Leftover, object).await;
        }
        // Where nothing may be written they stay, and the walk goes on.
        if self.require_writable().await.is_err()
            || !self
                .check_owner()
                .await
                .is_ok_and(|found| found == Ownership::Ours)
        {
            return Ok(());
        }
        for chunk in beyond.iter().cloned().flatten().take(LEFTOVERS) {
            // Row and owner are looked at again before each.
            let now = self.leasedb.share(self.id, id).await?;
            let same = now.is_some_and(|now| {
                now.row == row.row && now.state == ShareState::Stable && now.objects <= chunk
            });
            if !same
                || !self
                    .seen_owner()
                    .await
                    .is_ok_and(|found| found == Ownership::Ours)
            {
                return Ok(());
            }
            if self.backend.chunk_length(row.id, chunk).await?.is_some() {
                self.backend.remove_chunks(row.id, chunk..chunk + 1).await?;
            }
        }
        self.leasedb.clear_suspicion(self.id, id).await
    }

    /// Records that a STABLE share is present, whatever was said of it: unless it was found just
    /// after a take-over, when what the host before had sent could still delete it.
    async fn confirm_present(&self, row: &ShareRow, is_suspect: bool) -> Result<()> {
        if !row.is_lost && !is_suspect {
            return Ok(());
        }
        self.leasedb.confirm_present(self.id, row).await
    }

    /// All its objects are there, and hold other bytes than were stored: it counts as lost when the
    /// next pass, a day later, says the same. Nothing is destroyed.
    async fn shortened(
        &self,
        row: &ShareRow,
        bytes: u64,
        before: Option<Suspect>,
        progress: &Reconciled,
    ) -> Result<()> {
        let (id, object) = (row.id, format!("{bytes} bytes"));
        count(&progress.vanished);
        if row.is_lost {
            return Ok(());
        }
        tracing::error!(
            "cloud {:?}: {} has {bytes} bytes, and {} were stored",
            self.name(),
            row.id,
            row.used_space
        );
        if !self.is_second_pass(before.as_ref(), Suspicion::Vanished, &object) {
            return self.suspect(id, Suspicion::Vanished, object).await;
        }
        count(&progress.lost);
        self.leasedb.mark_lost(self.id, row).await
    }

    /// Deals with a STABLE share that was not listed, or not all of it.
    async fn unlisted(
        &self,
        row: &ShareRow,
        before: Option<Suspect>,
        progress: &Reconciled,
    ) -> Result<()> {
        let id = row.id;
        let mut missing = None;
        if row.kind == ShareKind::Mutable {
            let nothing = Found::Mutable {
                commits: BTreeSet::new(),
                chunks: BTreeSet::new(),
            };
            missing = self.lacks(row, &nothing).await?;
        } else {
            for chunk in 0..row.objects.max(1) {
                if self.backend.chunk_length(row.id, chunk).await?.is_none() {
                    missing = Some(ShareObject::Chunk(chunk).key(row.id).to_string());
                    break;
                }
            }
        }
        let Some(object) = missing else {
            // The listing left out what is there.
            return self.confirm_present(row, true).await;
        };
        count(&progress.vanished);
        if row.is_lost {
            return Ok(());
        }
        if !self.is_second_pass(before.as_ref(), Suspicion::Vanished, &object) {
            return self.suspect(id, Suspicion::Vanished, object).await;
        }
        count(&progress.lost);
        tracing::error!(
            "cloud {:?} has lost {}: {object} is gone",
            self.name(),
            row.id
        );
        self.leasedb.mark_lost(self.id, row).await
    }

    /// Takes the container over for this database, whose epoch must be above all that were seen.
    ///
    /// # Errors
    /// [`StorageError::ReadOnly`] if it is another array's or another cloud's.
    pub async fn take_over(&self) -> Result<()> {
        self.require_configured_writable()?;
        let issued = self.leasedb.issued_runs().await?;
        match self.owner.check(&*self.backend, self.id, &issued).await? {
            Ownership::OtherDatabase { epoch } if epoch < self.owner.identity.epoch => {
                self.leasedb.set_taken(self.id).await?;
                self.owner.claim(&*self.backend, self.id, &issued).await?;
            }
            _ => {}
        }
        self.check_owner().await?.writable(self.name())
    }
}
