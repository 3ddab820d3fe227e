//! Reconciliation: it compares a container with leasedb's rows, by complete listings that are read
//! page by page. It goes from prefix to prefix of storage indexes, so that it can resume.
//!
//! **Invariant:** a listing alone destroys nothing and marks nothing as lost. The object that
//! decides must be not-found by its name in two passes a day apart, in a container that is ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    Found, FoundShare, IndexPrefix, MAX_SHARE, Moment, Ownership, Recovered, Result, ShareId,
    ShareKind, ShareRow, ShareState, Span, StorageError, StorageServer, Suspect, Suspicion,
    backend::mutable_store, examine::Examined, object::ShareObject,
};

/// The counts of a pass. They go up while it runs.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Number of prefixes that are done, of [`IndexPrefix::COUNT`].
    pub prefixes: AtomicU64,
    /// Number of shares that were listed in the container.
    pub listed: AtomicU64,
    /// Number of shares that had no row and got one, with a starter lease.
    pub discovered: AtomicU64,
    /// Number of torn shares: objects without a row that are not a whole share. They are destroyed
    /// if a second pass agrees, unless their header or commit cannot be read.
    pub torn: AtomicU64,
    /// Number of torn shares that are being destroyed now.
    pub reaped: AtomicU64,
    /// Number of STABLE shares whose objects are missing or shortened.
    pub vanished: AtomicU64,
    /// Number of vanished shares that were marked as lost, because two passes agreed.
    pub lost: AtomicU64,
    /// Number of shares that could not be examined. Nothing was done to them.
    pub failed: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Name of the walk that the daemon does by itself.
const RECONCILE: &str = "reconcile";
/// Most leftovers of one share that one pass removes.
const LEFTOVERS: usize = 1000;
/// How often the daemon checks whether a walk is due.
const PAUSE: Duration = Duration::from_secs(300);
/// Most shares, and most objects, of a container that is walked in one go and not by its 1024
/// prefixes. This is a few pages of a listing.
const IN_ONE_GO: u64 = 4_000;
/// Number of objects that a listing may have beside those that the rows name: leftovers, versions,
/// and shares whose rows were lost with a database.
const BESIDE: u64 = 100_000;
/// Most suspicions of one server. So a cloud that makes up names cannot fill the database.
const MOST_SUSPECTS: u64 = 100_000;

impl StorageServer {
    /// Walks through the container to its end, from where the walk of that name stopped. A new walk
    /// begins at the first prefix.
    ///
    /// # Errors
    /// Fails if a listing breaks off, the container is not ours, or the database fails. The
    /// prefixes that were done stay done, and the next call continues there.
    pub async fn reconcile(&self, walk: &'static str, progress: &Reconciled) -> Result<()> {
        let (next, _) = self.leasedb.walk(self.id, walk).await?;
        progress.prefixes.store(u64::from(next), Ordering::Relaxed);
        let rows = self.leasedb.share_count(self.id).await?;
        // A small container costs a few requests instead of a thousand. If it turns out to be
        // larger, it is walked by prefixes.
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
        // The times of files are those of the wall clock, so it must be right.
        if self.leasedb.clock_is_off().is_some() || self.require_writable().await.is_err() {
            return Ok(());
        }
        // An upload under way was written to within its time. A day more allows for wrong clocks.
        let grace = self.leasedb.grace_periods();
        let swept = self
            .backend
            .sweep(self.leasedb.ago(grace.upload + grace.suspicion))
            .await?;
        if swept > 0 {
            tracing::info!(
                "cloud {:?}: removed {swept} files of writes that never ended",
                self.name()
            );
        }
        Ok(())
    }

    /// Reconciles once in every period of `every`, for as long as the server lives. A walk that was
    /// stopped continues where it stopped.
    pub async fn reconcile_for_ever(self: Arc<Self>, every: Duration) {
        loop {
            let due = async {
                let (next, ended) = self.leasedb.walk(self.id, RECONCILE).await?;
                let settled = self.leasedb.settled(self.id).await?;
                let now = self.leasedb.now();
                let is_due_after = |ended: Moment| {
                    // A walk that ended in the future, by a clock that was wrong, does not count.
                    ended > now
                        || ended <= self.leasedb.ago(every)
                        || settled.is_some_and(|settled| ended <= settled && settled <= now)
                };
                Ok::<_, StorageError>(next > 0 || ended.is_none_or(is_due_after))
            };
            let walked = match due.await {
                Ok(true) => self.reconcile(RECONCILE, &Reconciled::default()).await,
                other => other.map(drop),
            };
            if let Err(e) = walked {
                tracing::debug!("cloud {:?} could not be reconciled: {e}", self.name());
            }
            tokio::time::sleep(PAUSE.min(every)).await;
        }
    }

    /// Reconciles all prefixes at once. Returns false if there are too many objects for that; then
    /// nothing was done.
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

    /// Reconciles one prefix of storage indexes.
    ///
    /// # Errors
    /// Fails as [`StorageServer::reconcile`] does.
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

    /// Compares the shares that a complete listing of a span found with the rows from before and
    /// after the listing.
    async fn compare(
        &self,
        span: Span,
        before: BTreeMap<ShareId, ShareRow>,
        found: Vec<FoundShare>,
        progress: &Reconciled,
    ) -> Result<()> {
        // The rows are read again after the listing: a row exists before its share's first object
        // and until after its last.
        let after = self.below(span).await?;
        // Before anything is destroyed, the owner is checked again.
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
                // A doubtful mutable share is deleted once two listings agree on its version.
                (_, Some(now))
                    if now.state == ShareState::Going && now.kind == ShareKind::Mutable =>
                {
                    match self.recover(share).await {
                        Ok(_) | Err(StorageError::NotKnown { .. }) => Ok(()),
                        Err(e) => Err(e),
                    }
                }
                // The share is COMING or GOING, or changed meanwhile.
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
        // The suspicions that are left were not confirmed by this listing.
        for id in suspects.into_keys() {
            self.leasedb.clear_suspicion(self.id, id).await?;
        }
        Ok(())
    }

    /// Counts and logs a failure that concerns one share alone, so that one bad object does not
    /// hold up the walk. Failures of the database or the whole cloud are returned.
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

    /// Reads the server's rows within a span.
    async fn below(&self, span: Span) -> Result<BTreeMap<ShareId, ShareRow>> {
        let rows = self.leasedb.shares_within(self.id, span).await?;
        Ok(rows.into_iter().map(|row| (row.id, row)).collect())
    }

    /// Records a suspicion, unless it is against a torn share and there are too many.
    async fn suspect(&self, id: ShareId, what: Suspicion, object: String) -> Result<()> {
        let server = self.id;
        if what == Suspicion::Torn && self.leasedb.suspect_count(server).await? >= MOST_SUSPECTS {
            tracing::warn!(
                "cloud {:?} lists more than {MOST_SUSPECTS} torn shares: the others are left \
                 alone",
                self.name()
            );
            return Ok(());
        }
        self.leasedb.suspect(server, id, what, object).await
    }

    /// Returns whether the same suspicion of the same object is old enough for a second pass. While
    /// the clock is off, none is.
    fn is_second_pass(&self, before: Option<&Suspect>, what: Suspicion, object: &str) -> bool {
        if self.leasedb.clock_is_off().is_some() {
            return false;
        }
        let old = self.leasedb.ago(self.leasedb.grace_periods().suspicion);
        before.is_some_and(|s| s.what == what && s.object == object && s.since <= old)
    }

    /// Handles a share that was listed and has no row.
    async fn unknown(
        &self,
        share: &FoundShare,
        before: Option<Suspect>,
        progress: &Reconciled,
    ) -> Result<()> {
        let id = share.id;
        let missing = match self.examine(share).await? {
            // No share of ours is so large.
            Examined::Whole(_, stored) if stored.bytes > MAX_SHARE => {
                return self.leasedb.clear_suspicion(self.id, id).await;
            }
            Examined::Whole(kind, stored) => {
                if self.leasedb.discover(self.id, id, kind, stored).await? {
                    count(&progress.discovered);
                }
                return Ok(());
            }
            // If nothing may be written to the container, the share stays.
            Examined::Deleted if self.require_writable().await.is_err() => {
                return self.leasedb.clear_suspicion(self.id, id).await;
            }
            Examined::Deleted => {
                let lock = self.slot_lock(share.id.index);
                let _turn = lock.lock().await;
                // If only the deletion mark of a share is left, nothing else removes it.
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
        let old = self.leasedb.ago(grace.upload + grace.suspicion);
        let is_old = share.newest.is_none_or(|newest| newest <= old);
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

    /// Compares a mutable share with the objects that were listed of it, while nobody writes to it.
    pub(crate) async fn recover(&self, share: &FoundShare) -> Result<Recovered> {
        let lock = self.slot_lock(share.id.index);
        let _turn = lock.lock().await;
        mutable_store(&*self.backend)?
            .recover_mutable(share.id, &share.found)
            .await
    }

    /// Destroys a share that never was whole, after two passes agreed.
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
        // The collector does the rest.
        self.leasedb.condemn_torn(self.id, id).await?;
        self.wake();
        Ok(())
    }

    /// Handles a STABLE share that was listed.
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
                // A write whose outcome is unknown is settled first.
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
            // A storage index of an array never recurs. So objects beyond the end of its share
            // belong to nobody and harm nothing.
            if let Some(leftover) = beyond.first().filter(|_| row.kind == ShareKind::Immutable) {
                return self.leftover(row, leftover.start, &beyond, before).await;
            }
            // The row has the share's length. If the listing shows another length, the objects are
            // looked up by their names before that counts.
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

    /// Handles objects beyond a share's end, from an older upload under its name. They are removed
    /// if two passes a day apart have seen them and each is found by its name.
    async fn leftover(
        &self,
        row: &ShareRow,
        first: u64,
        beyond: &[std::ops::Range<u64>],
        before: Option<Suspect>,
    ) -> Result<()> {
        let (id, object) = (row.id, ShareObject::Chunk(first).key(row.id).to_string());
        // The share itself is present.
        if row.is_lost {
            self.confirm_present(row, false).await?;
        }
        if !self.is_second_pass(before.as_ref(), Suspicion::Leftover, &object) {
            return self.suspect(id, Suspicion::Leftover, object).await;
        }
        // If nothing may be written to the container, they stay, and the walk goes on.
        if self.require_writable().await.is_err()
            || !self
                .check_owner()
                .await
                .is_ok_and(|found| found == Ownership::Ours)
        {
            return Ok(());
        }
        for chunk in beyond.iter().cloned().flatten().take(LEFTOVERS) {
            // Row and owner are checked again before each removal.
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

    /// Records that a STABLE share is present, if it counts as lost or a suspicion stands against
    /// it. Just after a take-over it still counts as lost: a request of the previous host could
    /// delete it.
    async fn confirm_present(&self, row: &ShareRow, is_suspect: bool) -> Result<()> {
        if !row.is_lost && !is_suspect {
            return Ok(());
        }
        self.leasedb.confirm_present(self.id, row).await
    }

    /// Handles a share whose objects all exist but have another length than was stored. It counts
    /// as lost if a second pass, a day later, finds the same. Nothing is destroyed.
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
            "cloud {:?}: {} has {bytes} bytes, but {} bytes were stored",
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

    /// Handles a STABLE share that was not listed, or not as a whole.
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
            // The listing left out objects that exist.
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

    /// Takes the container over for this database, whose epoch must be above all that were found.
    ///
    /// # Errors
    /// Fails with [`StorageError::ReadOnly`] if the container belongs to another array or another
    /// cloud, or if config.toml sets the cloud read-only. Also fails if the ownership cannot be
    /// found out.
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
