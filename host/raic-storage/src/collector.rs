//! Collection: what has no lease goes, in steps that can each be stopped: STABLE, GOING, objects deleted, row deleted.
//!
//! **Invariant:** nothing is destroyed in a container that is not known, just now, to be ours.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};

use crate::{
    AccountId, Expiry, Going, Ownership, RenewSecret, Result, ShareKind, ShareRow, StorageError,
    StorageServer, leasedb::LONGEST_DELETION,
};

/// Shares looked up at once.
const BATCH: u32 = 64;
/// Shares deleted at once on one cloud.
const AT_ONCE: usize = 4;
/// How often what failed, or was too early, is looked for.
const PAUSE: Duration = Duration::from_secs(20);
/// How often it is looked whose the container is, though there is nothing to do.
const OWNER_PAUSE: Duration = Duration::from_secs(600);
/// A share that is being read is looked at again after so long.
const HELD: Duration = Duration::from_secs(5);

/// What one step of collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Leases that ended by age or cutoff.
    pub expired: usize,
    /// Uploads that nobody carried on.
    pub abandoned: usize,
    /// Shares without a lease that are GOING now.
    pub condemned: usize,
    /// Shares whose objects were deleted.
    pub deleted: usize,
    /// Deletions that failed and are tried again.
    pub failed: usize,
    /// Mutable shares whose older versions went.
    pub tidied: usize,
}

impl Collected {
    /// Whether there may be more to do at once.
    pub fn went_on(&self) -> bool {
        self.expired + self.abandoned + self.condemned + self.deleted + self.tidied > 0
    }
}

impl StorageServer {
    /// Collects, for as long as the server lives.
    pub async fn collect_for_ever(self: Arc<Self>) {
        let mut woken = self.wake.subscribe();
        // One that was stopped in the middle of a step had claimed some.
        if let Err(e) = self.leasedb.release_claims(self.id).await {
            tracing::warn!("collection: {e}");
        }
        let mut checked: Option<Instant> = None;
        loop {
            if checked.is_none_or(|at| at.elapsed() > OWNER_PAUSE) {
                checked = Some(Instant::now());
                if let Err(e) = self.check_owner().await {
                    tracing::debug!("whose container {:?} is: {e}", self.name());
                    checked = None;
                }
            }
            match self.collect_paced_step().await {
                Ok(step) if step.went_on() => {}
                Ok(_) => {
                    // Woken by a removal, or to try again what failed or was too early.
                    let _ = tokio::time::timeout(PAUSE, woken.changed()).await;
                }
                Err(e) => {
                    tracing::warn!("collection: {e}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// What collection would take: shares without a lease, and those whose leases would end by what is set; with the reason.
    ///
    /// # Errors
    /// The database's.
    pub async fn would_collect(&self, limit: u32) -> Result<Vec<(ShareRow, &'static str)>> {
        let unleased =
            self.leasedb.unleased(self.id, limit).await?.into_iter().map(|row| (row, "has no lease"));
        let expiring = self.leasedb.would_expire(self.id, self.settings.expiry, limit).await?;
        Ok(unleased.chain(expiring.into_iter().map(|row| (row, "its leases have ended"))).collect())
    }

    /// One bounded step of collection, which takes as long as what it deleted may take: a great collection leaves the
    /// cloud to others.
    ///
    /// # Errors
    /// As [`StorageServer::collect_step`].
    pub async fn collect_paced_step(&self) -> Result<Collected> {
        let step = self.collect_step().await?;
        let rate = self.settings.deletions_per_second.max(1);
        let takes = Duration::from_secs(1) * u32::try_from(step.deleted).unwrap_or(u32::MAX) / rate;
        // Whoever collects waits for the turns of all who did.
        let free = {
            let mut paced = self.paced.lock().unwrap_or_else(PoisonError::into_inner);
            let free = paced.map_or_else(Instant::now, |paced| paced.max(Instant::now())) + takes;
            *paced.insert(free)
        };
        tokio::time::sleep_until(free.into()).await;
        Ok(step)
    }

    /// One bounded step of collection.
    ///
    /// # Errors
    /// The database's. What fails at the cloud is recorded and tried again.
    pub async fn collect_step(&self) -> Result<Collected> {
        let mut step = Collected::default();
        if self.settings.is_read_only {
            return Ok(step);
        }
        let leasedb = &self.leasedb;
        step.expired = match self.settings.expiry {
            Expiry::Never => 0,
            Expiry::Age => leasedb.end_expired(leasedb.now_ms(), BATCH * 4).await?,
            Expiry::Cutoff(cutoff) => self.end_by_cutoff(cutoff).await?,
        };
        step.abandoned = leasedb.abandon_expired(self.id, BATCH).await?;
        let unleased = leasedb.unleased(self.id, BATCH).await?;
        let free: Vec<ShareRow> = unleased.into_iter().filter(|row| !self.holds.is_held(row.index)).collect();
        let open =
            [leasedb.unmeasured(self.id, BATCH).await?, leasedb.expired_mutable(self.id, BATCH).await?]
                .concat();
        let untidy = self.backend.untidy_mutable(BATCH).await?;
        // Last: what fails between would hold what was claimed for as long as a claim lasts.
        let due = leasedb.claim_going(self.id, BATCH).await?;
        if free.is_empty() && open.is_empty() && due.is_empty() && untidy.is_empty() {
            return Ok(step);
        }
        match self.check_owner().await {
            Ok(Ownership::Ours) => {}
            other => {
                let why = match other {
                    Ok(ownership) => ownership.refusal(self.name()).unwrap_or_default(),
                    Err(e) => e.to_string(),
                };
                for going in &due {
                    step.failed += 1;
                    leasedb.going_tried(going, Some(why.clone()), true).await?;
                }
                return Ok(step);
            }
        }
        step.condemned = free.len();
        leasedb.condemn_unleased(self.id, free).await?;
        for row in open {
            self.settle(&row).await;
        }
        self.delete_due(due, &mut step).await?;
        for (index, share) in untidy {
            let lock = self.slot_lock(index);
            let _turn = lock.lock().await;
            match self.backend.tidy_mutable(index, share).await {
                Ok(_) => step.tidied += 1,
                Err(e) => tracing::debug!("older versions of share {share} of {index} stay: {e}"),
            }
        }
        Ok(step)
    }

    async fn delete_due(&self, due: Vec<Going>, step: &mut Collected) -> Result<()> {
        let tried = stream::iter(due).map(|going| async move {
            if self.holds.is_held(going.row.index) {
                return (going, None);
            }
            let deleted =
                tokio::time::timeout(LONGEST_DELETION, self.delete(&going)).await.unwrap_or_else(|_| {
                    let (index, share) = (going.row.index, going.row.share);
                    let reason = format!("its deletion took longer than {LONGEST_DELETION:?}");
                    Err(StorageError::NotKnown { backend: self.name().to_owned(), index, share, reason })
                });
            (going, Some(deleted))
        });
        let tried: Vec<_> = tried.buffer_unordered(AT_ONCE).collect().await;
        // What was deleted counts as gone only in the container that is ours.
        let owned = if tried.iter().any(|(_, t)| matches!(t, Some(Ok(_)))) {
            self.require_owned().await
        } else {
            Ok(())
        };
        for (going, outcome) in tried {
            let outcome = match (outcome, &owned) {
                (None, _) => {
                    self.leasedb.unclaim_going(&going, HELD).await?;
                    continue;
                }
                (Some(Ok(_)), Err(e)) => Err(e.to_string()),
                (Some(outcome), _) => outcome.map_err(|e| e.to_string()),
            };
            match outcome {
                Ok(true) => {
                    step.deleted += 1;
                    let may_land =
                        going.row.kind == ShareKind::Immutable && self.backend.deletions_may_land();
                    let has_gone = self.leasedb.going_tried(&going, None, may_land).await?;
                    if has_gone && going.row.kind == ShareKind::Immutable && !going.is_whole {
                        self.backend.forget_upload(going.row.index, going.row.share).await?;
                    }
                }
                // Of a mutable share something rests still.
                Ok(false) => self.leasedb.unclaim_going(&going, PAUSE).await?,
                Err(error) => {
                    let ShareRow { index, share, .. } = going.row;
                    tracing::warn!("deleting share {share} of {index}: {error}; tried again later");
                    step.failed += 1;
                    self.leasedb.going_tried(&going, Some(error), true).await?;
                }
            }
        }
        Ok(())
    }

    /// Deletes a share's objects; false where some must rest still.
    async fn delete(&self, going: &Going) -> Result<bool> {
        let ShareRow { index, share, kind, objects, .. } = going.row;
        if kind == ShareKind::Mutable {
            let lock = self.slot_lock(index);
            let _turn = lock.lock().await;
            // One that lost its leases was not deleted before.
            self.backend.delete_mutable(index, share).await?;
            return self.backend.tidy_mutable(index, share).await;
        }
        // An upload of it that is open here ends, and gives its room back.
        self.close((index, share));
        if going.deleted_ms.is_some() {
            return Ok(true);
        }
        let objects = (going.is_whole && objects > 0).then_some(objects);
        self.backend.remove(index, share, objects).await.map(|()| true)
    }

    /// Finds out what a mutable share's write came to that was not seen to end.
    async fn settle(&self, row: &ShareRow) {
        let at = (row.index, row.share);
        let lock = self.slot_lock(row.index);
        let _turn = lock.lock().await;
        let settled = async {
            let there = self.backend.mutable(row.index, row.share).await?;
            // One that was begun and not seen to end is paid for by who began it.
            let begun = self.leasedb.coming(self.id, row.index, row.share).await?;
            let lease = begun.map_or((AccountId::STARTER, RenewSecret::NONE), |b| (b.account, b.renew));
            self.measured(at, there.map(|there| there.length), lease).await
        };
        if let Err(e) = settled.await {
            tracing::debug!("a write of share {} of {} is open still: {e}", row.share, row.index);
        }
    }

    /// Walks all leases, from where the step before ended; the place is kept, so that a restart goes on.
    async fn end_by_cutoff(&self, cutoff: i64) -> Result<usize> {
        let from = self.leasedb.cutoff_walk(self.id).await?;
        let Some(from) = from else { return Ok(0) };
        let next = self.leasedb.end_not_renewed_since(cutoff, from, BATCH * 4).await?;
        self.leasedb.cutoff_walked(self.id, next).await?;
        Ok(usize::from(next.is_some()))
    }
}
