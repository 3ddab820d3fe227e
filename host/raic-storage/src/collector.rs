//! Collection: it deletes shares that have no lease. Each share goes in steps that may be stopped
//! between: STABLE, GOING, objects deleted, row deleted.
//!
//! **Invariant:** nothing is destroyed in a container unless it was just checked to be ours.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};

use crate::{
    AccountId, Attempt, Expiry, Going, LateRequests, Moment, Ownership, Remains, RenewSecret,
    Result, ShareId, ShareKind, ShareRow, StorageError, StorageServer, backend::mutable_store,
    uploads::own,
};

/// Most shares that one step looks up of each kind.
const BATCH: u32 = 64;
/// Most uploads of earlier runs that one step examines.
const EXAMINED: u32 = 4;
/// Shares that are deleted at once on one cloud.
const AT_ONCE: usize = 4;
/// Pause before the next step if there was nothing to do, or if a step failed.
const PAUSE: Duration = Duration::from_secs(20);
/// How often the container's owner is checked although there is nothing to do. If two daemons run
/// on copies of one home, the older one stops then.
const OWNER_PAUSE: Duration = Duration::from_secs(120);
/// How often the run's number rises if shares changed.
const RUN_PAUSE: Duration = Duration::from_secs(600);
/// Most objects that are deleted between two checks whether the share is still to be deleted.
const OBJECTS: u64 = 64;
/// How long the deletion of such a batch may take. A batch that takes longer is given up, however
/// large the share is.
const LONGEST_BATCH: Duration = Duration::from_secs(600);
/// How long the deletion of one share goes on before other deletions have their turn.
const TURN: Duration = Duration::from_secs(60);
/// How long an upload that is given up waits for the collector.
const SHORT_WAIT: Duration = Duration::from_secs(5);
/// Pause before the deletion of a share that is being read is tried again.
const HELD: Duration = Duration::from_secs(5);

/// The counts of one step of collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Number of leases that ended by age. With a cutoff it is 1 if more leases are to be looked
    /// at.
    pub expired: usize,
    /// Number of uploads that were ended because they were past their time.
    pub abandoned: usize,
    /// Number of shares without a lease that became GOING.
    pub condemned: usize,
    /// Number of shares whose objects were deleted.
    pub deleted: usize,
    /// Number of deletions that failed and will be tried again.
    pub failed: usize,
    /// Number of mutable shares whose older versions were removed, and of deletions that go on in
    /// the next turn.
    pub tidied: usize,
}

/// The outcome of one attempt to delete a share.
enum Deletion {
    /// All objects of the share were deleted.
    Done,
    /// A part of a mutable share still rests.
    Rests,
    /// More objects are to be deleted, in another turn.
    GoesOn,
    /// The share is no longer to be deleted, or by another caller.
    OfAnother,
}

impl Collected {
    /// Returns whether there may be more to do at once.
    pub fn went_on(&self) -> bool {
        self.expired + self.abandoned + self.condemned + self.deleted + self.tidied > 0
    }
}

impl StorageServer {
    /// Collects step by step, for as long as the server lives.
    pub async fn collect_for_ever(self: Arc<Self>) {
        let mut woken = self.wake.subscribe();
        // A daemon that was stopped in the middle of a step has left claims.
        {
            // No other collector of this process has claims meanwhile.
            let _turn = self.uploads.collecting.lock().await;
            if let Err(e) = self.leasedb.release_claims(self.id).await {
                tracing::warn!("cloud {:?}: collection cannot begin: {e}", self.name());
            }
        }
        let (mut checked, mut raised): (Option<Instant>, _) = (None, Instant::now());
        loop {
            if raised.elapsed() > RUN_PAUSE && self.refusal().is_none() {
                raised = Instant::now();
                if let Err(e) = self.leasedb.raise_run_if_changed().await {
                    tracing::warn!("the run's number could not be raised: {e}");
                }
            }
            if checked.is_none_or(|at| at.elapsed() > OWNER_PAUSE) {
                checked = Some(Instant::now());
                if let Err(e) = self.check_owner().await {
                    tracing::debug!("cloud {:?}: no check of its owner: {e}", self.name());
                    checked = None;
                }
            }
            match self.collect_paced_step().await {
                Ok(step) if step.went_on() => {}
                Ok(_) => {
                    // Waits for a removal, or for deletions that failed or were too early.
                    let _ = tokio::time::timeout(PAUSE, woken.changed()).await;
                }
                Err(e) => {
                    tracing::warn!("cloud {:?}: collection failed: {e}", self.name());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Returns the rule that ends leases now. A cutoff in the future ends none: otherwise a
    /// mistyped year would end all leases.
    fn expiry_now(&self) -> Expiry {
        match self.settings.expiry {
            Expiry::Cutoff(cutoff) if cutoff > self.leasedb.now() => Expiry::Never,
            expiry => expiry,
        }
    }

    /// Reads the shares that collection would delete, each with the reason: shares without a lease,
    /// and shares whose leases would all end by the server's expiry. There are up to `limit` of
    /// each kind.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the database cannot be read.
    pub async fn would_collect(&self, limit: u32) -> Result<Vec<(ShareRow, &'static str)>> {
        let unleased = self
            .leasedb
            .unleased(self.id, limit)
            .await?
            .into_iter()
            .map(|row| (row, "has no lease"));
        let expiring = self
            .leasedb
            .would_expire(self.id, self.expiry_now(), limit)
            .await?;
        Ok(unleased
            .chain(
                expiring
                    .into_iter()
                    .map(|row| (row, "its leases have ended")),
            )
            .collect())
    }

    /// Does one bounded step of collection, and then waits as long as its deletions may take by
    /// `deletions_per_second`. So a large collection leaves the cloud to others.
    ///
    /// # Errors
    /// Fails as [`StorageServer::collect_step`] does.
    pub async fn collect_paced_step(self: &Arc<Self>) -> Result<Collected> {
        let step = self.collect_step().await?;
        let rate = self.settings.deletions_per_second.max(1);
        let takes = Duration::from_secs(1) * u32::try_from(step.deleted).unwrap_or(u32::MAX) / rate;
        // A collector also waits for the time that earlier steps took up.
        let free = {
            let mut paced = self.uploads.paced.lock();
            let free = paced.map_or_else(Instant::now, |paced| paced.max(Instant::now())) + takes;
            *paced.insert(free)
        };
        tokio::time::sleep_until(free.into()).await;
        Ok(step)
    }

    /// Does one bounded step of collection. A deletion that fails at the cloud is recorded and
    /// tried again. A step that has begun goes on to its end even if the caller goes away:
    /// otherwise the deletions that it claimed would wait for an hour, though nobody does them.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the database fails.
    pub async fn collect_step(self: &Arc<Self>) -> Result<Collected> {
        let this = self.clone();
        own(tokio::spawn(async move { this.step_in_turn().await })).await
    }

    async fn step_in_turn(&self) -> Result<Collected> {
        let mut step = Collected::default();
        // In this process one step runs at a time: of the server's own collector, of an operator's
        // command, and of servers from before a reload.
        let _turn = self.uploads.collecting.lock().await;
        let leasedb = &self.leasedb;
        leasedb.keep_time().await?;
        if self.settings.is_read_only || leasedb.clock_is_off().is_some() {
            return Ok(step);
        }
        leasedb.cut_back(self.id).await?;
        self.rest_whole_uploads().await?;
        step.expired = match self.expiry_now() {
            Expiry::Never => 0,
            Expiry::Age => leasedb.end_expired(leasedb.now(), BATCH * 4).await?,
            Expiry::Cutoff(cutoff) => self.end_by_cutoff(cutoff).await?,
        };
        step.abandoned = self.end_idle_uploads().await?;
        step.abandoned += leasedb.abandon_expired(self.id, BATCH).await?;
        let unleased = leasedb.unleased(self.id, BATCH).await?;
        let free: Vec<ShareRow> = unleased
            .into_iter()
            .filter(|row| !self.holds.is_held(row.id.index))
            .collect();
        let open = [
            leasedb.unmeasured(self.id, BATCH).await?,
            leasedb.expired_mutable(self.id, BATCH).await?,
        ]
        .concat();
        let untidy = match self.backend.mutable_store() {
            Some(store) => store.untidy_mutable(BATCH).await?,
            None => Vec::new(),
        };
        // This comes last: if a call above failed, its claims would last an hour for nothing.
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
                    let failed = Attempt::Failed(why.clone());
                    leasedb.going_tried(going, failed).await?;
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
        for id in untidy {
            let lock = self.slot_lock(id.index);
            let _turn = lock.lock().await;
            match mutable_store(&*self.backend)?.tidy_mutable(id).await {
                Ok(_) => step.tidied += 1,
                Err(e) => tracing::debug!("older versions of {id} stay: {e}"),
            }
        }
        Ok(step)
    }

    /// Ends the uploads by offset that are past their time and whose every request this process saw
    /// answered. Their names are free as soon as their objects are deleted. Returns their number.
    async fn end_idle_uploads(&self) -> Result<usize> {
        let mut ended = 0;
        for id in self.leasedb.expired_uploads(self.id, BATCH).await? {
            ended += usize::from(self.end_if_answered(id).await?);
        }
        Ok(ended)
    }

    /// Deletes a share that was just given up, unless the collector is at work for long:
    /// then that deletes it. So its name is free again when this returns, if the cloud answers.
    pub(crate) async fn delete_now(&self, id: ShareId) -> Result<()> {
        let turn = self.uploads.collecting.lock();
        let Ok(_turn) = tokio::time::timeout(SHORT_WAIT, turn).await else {
            return Ok(());
        };
        let may_delete = !self.settings.is_read_only && self.leasedb.clock_is_off().is_none();
        if !may_delete || self.check_owner().await? != Ownership::Ours {
            return Ok(());
        }
        let due = self.leasedb.claim_going_of(self.id, id).await?;
        self.delete_due(due, &mut Collected::default()).await
    }

    async fn delete_due(&self, due: Vec<Going>, step: &mut Collected) -> Result<()> {
        let tried = stream::iter(due).map(|going| async move {
            if self.holds.is_held(going.row.id.index) {
                return (going, None);
            }
            let deleted = self.delete(&going).await;
            (going, Some(deleted))
        });
        let tried: Vec<_> = tried.buffer_unordered(AT_ONCE).collect().await;
        // Deleted objects count as gone only if the container still is ours.
        let owned = if tried
            .iter()
            .any(|(_, t)| matches!(t, Some(Ok(Deletion::Done))))
        {
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
                Ok(Deletion::Done) => {
                    step.deleted += 1;
                    let is_immutable = going.row.kind == ShareKind::Immutable;
                    let late = match is_immutable && self.backend.deletions_may_land() {
                        true => LateRequests::MayLand,
                        false => LateRequests::Answered,
                    };
                    let deleted = Attempt::Deleted(late);
                    let has_gone = self.leasedb.going_tried(&going, deleted).await?;
                    if has_gone && is_immutable && going.remains == Remains::Parts {
                        self.backend.forget_upload(going.row.id).await?;
                    }
                }
                Ok(Deletion::Rests) => self.leasedb.unclaim_going(&going, PAUSE).await?,
                // It goes on behind the other deletions that are due.
                Ok(Deletion::GoesOn) => {
                    step.tidied += 1;
                    self.leasedb.unclaim_going(&going, Duration::ZERO).await?;
                }
                Ok(Deletion::OfAnother) => {}
                Err(error) => {
                    tracing::warn!(
                        "{} could not be deleted: {error}; it is tried again later",
                        going.row.id
                    );
                    step.failed += 1;
                    let failed = Attempt::Failed(error);
                    self.leasedb.going_tried(&going, failed).await?;
                }
            }
        }
        Ok(())
    }

    /// Deletes a share's objects, or as many as there is time for. Before each batch it checks
    /// whether the share is still to be deleted.
    async fn delete(&self, going: &Going) -> Result<Deletion> {
        let ShareRow {
            id, kind, objects, ..
        } = going.row;
        if kind == ShareKind::Mutable {
            let store = mutable_store(&*self.backend)?;
            let lock = self.slot_lock(id.index);
            let _turn = lock.lock().await;
            if !self.leasedb.still_claimed(going).await? {
                return Ok(Deletion::OfAnother);
            }
            // A share that only lost its leases was not deleted before.
            self.in_time(going, store.delete_mutable(id)).await?;
            let is_gone = self.in_time(going, store.tidy_mutable(id)).await?;
            return Ok(if is_gone {
                Deletion::Done
            } else {
                Deletion::Rests
            });
        }
        if !self.leasedb.still_claimed(going).await? {
            return Ok(Deletion::OfAnother);
        }
        // An open upload of the share ends, and gives its room back.
        self.close(id);
        if going.deleted.is_some() {
            return Ok(Deletion::Done);
        }
        let began = Instant::now();
        let mut left = match going.remains {
            Remains::Whole => objects,
            Remains::Parts => 0,
        };
        let is_large = left > OBJECTS;
        if is_large {
            // Without chunk 0 the share does not exist, whatever follows. The other chunks go from
            // the end, so that the row has the number of those that are left.
            self.in_time(going, self.backend.remove_chunks(id, 0..1))
                .await?;
        }
        while left > OBJECTS {
            if !self.leasedb.still_claimed(going).await? {
                return Ok(Deletion::OfAnother);
            }
            let from = (left - OBJECTS).max(1);
            self.in_time(going, self.backend.remove_chunks(id, from..left))
                .await?;
            self.leasedb.deleted_down_to(going, from).await?;
            left = from;
            if began.elapsed() > TURN {
                return Ok(Deletion::GoesOn);
            }
        }
        // For a small share this was checked just now.
        if is_large && !self.leasedb.still_claimed(going).await? {
            return Ok(Deletion::OfAnother);
        }
        self.in_time(going, self.backend.remove(id, (left > 0).then_some(left)))
            .await?;
        Ok(Deletion::Done)
    }

    /// Gives up work on a deletion that takes longer than [`LONGEST_BATCH`].
    async fn in_time<T>(&self, going: &Going, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(LONGEST_BATCH, work)
            .await
            .unwrap_or_else(|_| {
                Err(StorageError::Slow {
                    backend: self.name().to_owned(),
                    id: going.row.id,
                    work: "a batch of the deletion",
                    most: LONGEST_BATCH,
                })
            })
    }

    /// Examines uploads of earlier runs whose rest is over. An upload that is whole in the
    /// container rests for another day: if this home is a copy, the daemon of the original may have
    /// recorded the share.
    async fn rest_whole_uploads(&self) -> Result<()> {
        for row in self.leasedb.rested_uploads(self.id, EXAMINED).await? {
            let examined =
                tokio::time::timeout(LONGEST_BATCH, self.whole_by_its_chunks(row.id)).await;
            let slow = || StorageError::Slow {
                backend: self.name().to_owned(),
                id: row.id,
                work: "an examination",
                most: LONGEST_BATCH,
            };
            match examined.unwrap_or_else(|_| Err(slow())) {
                Ok(None) => self.leasedb.rest_upload(row.row, Duration::ZERO).await?,
                Ok(Some(_)) => {
                    let by = self.leasedb.grace_periods().suspicion;
                    tracing::warn!(
                        "cloud {:?}: share {} of {} is whole, and no file has it: it is deleted \
                         after a day; if another daemon runs with a copy of this home, stop one of \
                         them now",
                        self.name(),
                        row.id.share,
                        row.id.index
                    );
                    self.leasedb.rest_upload(row.row, by).await?;
                }
                // The upload is examined again before it is given up.
                Err(e) => {
                    tracing::debug!("an upload of {} could not be examined: {e}", row.id);
                    self.leasedb.put_off_upload(row.row, PAUSE).await?;
                }
            }
        }
        Ok(())
    }

    /// Settles a mutable share's write whose outcome is unknown, and records the share's length.
    async fn settle(&self, row: &ShareRow) {
        let lock = self.slot_lock(row.id.index);
        let _turn = lock.lock().await;
        let settled = async {
            let share = mutable_store(&*self.backend)?.state(row.id).await?;
            // The account that began a first write gets the lease, and pays for the share.
            let begun = self.leasedb.coming(self.id, row.id).await?;
            let lease = begun.map_or((AccountId::STARTER, RenewSecret::NONE), |b| {
                (b.account, b.renew)
            });
            let length = share.map(|share| share.length);
            let late = self.late_deletions();
            self.leasedb
                .measured(self.id, row.id, length, lease, late)
                .await
        };
        if let Err(e) = settled.await {
            tracing::debug!("a write of {} is not settled yet: {e}", row.id);
        }
    }

    /// Ends leases by the cutoff, from where the step before ended. The database keeps that place,
    /// so that the walk continues after a restart. Returns 1 if there are more leases, else 0.
    async fn end_by_cutoff(&self, cutoff: Moment) -> Result<usize> {
        let from = self.leasedb.cutoff_walk(self.id).await?;
        let Some(from) = from else { return Ok(0) };
        let next = self
            .leasedb
            .end_not_renewed_since(cutoff, from, BATCH * 4)
            .await?;
        self.leasedb.cutoff_walked(self.id, next).await?;
        Ok(usize::from(next.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use raic_cloud::MemoryCloud;

    use super::*;
    use crate::{
        ChunkBudget, Clock, CloudBackend, Database, GracePeriods, Holds, LeaseDb, Owner,
        ServerSettings, ShareId, ShareNum, Slots, StorageIndex, TestWrite, UploadSecret,
        WriteEnabler,
    };

    const ID: ShareId = ShareId {
        index: StorageIndex([1; 16]),
        share: ShareNum(0),
    };

    fn secret() -> UploadSecret {
        UploadSecret::of(b"an upload")
    }

    fn renew() -> RenewSecret {
        RenewSecret::of(b"a lease")
    }

    async fn server(clock: &Clock, folder: &tempfile::TempDir) -> Arc<StorageServer> {
        let database = Database::open(&folder.path().join("db")).unwrap();
        let leasedb = LeaseDb::open(database, clock.clone(), GracePeriods::default())
            .await
            .unwrap();
        let slots = Slots::new(leasedb.clone(), leasedb.server("c").await.unwrap(), [4; 32]);
        let cloud = Arc::new(MemoryCloud::new("c"));
        let backend = CloudBackend::new(cloud, 1000, ChunkBudget::default());
        let owner = Owner {
            array: [9; 16],
            key: [4; 32],
            identity: leasedb.identity().await.unwrap(),
        };
        let spool = crate::Spool::open(&folder.path().join("spool"), 1 << 20).unwrap();
        let backend = Arc::new(backend.with_slots(slots, 1000).with_spool(spool));
        let settings = ServerSettings {
            expiry: Expiry::Age,
            ..ServerSettings::default()
        };
        Arc::new(
            StorageServer::open(backend, leasedb, owner, settings, Holds::default())
                .await
                .unwrap(),
        )
    }

    async fn store(server: &Arc<StorageServer>) {
        let allocated = server
            .allocate(
                AccountId::ANONYMOUS,
                ID.index,
                [ID.share].into(),
                1500,
                secret(),
                renew(),
            )
            .await
            .unwrap();
        assert_eq!(allocated.allocated.len(), 1);
        server
            .write(ID, secret(), 0, Bytes::from_static(&[7; 1500]))
            .await
            .unwrap();
    }

    async fn store_slot(server: &Arc<StorageServer>) {
        let write = TestWrite {
            writes: vec![(0, Bytes::from_static(b"slot"))],
            ..TestWrite::default()
        };
        let vectors = [(ID.share, write)].into();
        let done = server
            .read_test_write(
                AccountId::ANONYMOUS,
                ID.index,
                WriteEnabler([5; 32]),
                renew(),
                vectors,
                &[],
            )
            .await;
        assert!(done.unwrap().is_written);
    }

    /// Claims the share's deletion, is slow until another collector has ended it, and then goes on.
    async fn slow_and_quick(
        server: &Arc<StorageServer>,
        clock: &Clock,
        store_again: impl AsyncFnOnce(),
    ) -> Collected {
        // The clock goes on day by day, or it would count as wrong.
        for _ in 0..32 {
            clock.advance(Duration::from_secs(24 * 3600));
            server.leasedb.keep_time().await.unwrap();
        }
        server.collect_step().await.unwrap();
        let claimed = server.leasedb.claim_going(server.id, BATCH).await.unwrap();
        assert_eq!(claimed.len(), 1, "it is going");
        for _ in 0..6 {
            // This is longer than a claim lasts, and longer than a deleted share rests.
            clock.advance(Duration::from_secs(61 * 60));
            server.collect_step().await.unwrap();
        }
        store_again().await;
        let mut step = Collected::default();
        server.delete_due(claimed, &mut step).await.unwrap();
        step
    }

    /// Of two collectors of one cloud, the slower one once deleted a share that had been stored
    /// anew meanwhile.
    #[tokio::test]
    async fn a_collector_that_was_slow_deletes_no_share_that_was_stored_since() {
        let (clock, folder) = (
            Clock::manual(1_700_000_000_000),
            tempfile::tempdir().unwrap(),
        );
        let server = server(&clock, &folder).await;
        store(&server).await;
        let step = slow_and_quick(&server, &clock, async || store(&server).await).await;
        assert_eq!(step.deleted, 0);
        let read = server.read_immutable(ID, 0..u64::MAX).await.unwrap();
        let read: Vec<Bytes> = futures::TryStreamExt::try_collect(read.content)
            .await
            .unwrap();
        assert_eq!(read.concat(), [7; 1500]);
    }

    #[tokio::test]
    async fn a_collector_that_was_slow_deletes_no_slot_that_was_written_since() {
        let (clock, folder) = (
            Clock::manual(1_700_000_000_000),
            tempfile::tempdir().unwrap(),
        );
        let server = server(&clock, &folder).await;
        store_slot(&server).await;
        let step = slow_and_quick(&server, &clock, async || store_slot(&server).await).await;
        assert_eq!(step.deleted, 0);
        let read = server
            .read_test_write(
                AccountId::ANONYMOUS,
                ID.index,
                WriteEnabler([5; 32]),
                renew(),
                [].into(),
                std::slice::from_ref(&(0..9)),
            )
            .await;
        assert_eq!(read.unwrap().data[&ID.share], [Bytes::from_static(b"slot")]);
    }
}
