//! Collection: what has no lease goes, in steps that can each be stopped: STABLE, GOING, objects
//! deleted, row deleted.
//!
//! **Invariant:** nothing is destroyed in a container that is not known, just now, to be ours.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};

use crate::{
    AccountId, Container, Expiry, Going, MAX_SHARE, Ownership, RenewSecret, Result, ShareKind,
    ShareNum, ShareRow, StorageError, StorageIndex, StorageServer,
    container::{FOOTER, HEADER},
};

/// Shares looked up at once.
const BATCH: u32 = 64;
/// Uploads of earlier runs that a step looks through.
const EXAMINED: u32 = 4;
/// Shares deleted at once on one cloud.
const AT_ONCE: usize = 4;
/// How often what failed, or was too early, is looked for.
const PAUSE: Duration = Duration::from_secs(20);
/// How often it is looked whose the container is, though there is nothing to do: of two daemons on
/// copies of one home, the older one stops then.
const OWNER_PAUSE: Duration = Duration::from_secs(120);
/// How often the run's number rises, where something changed.
const RUN_PAUSE: Duration = Duration::from_secs(600);
/// Objects that are deleted between two looks at whether the share is still to be deleted.
const OBJECTS: u64 = 64;
/// How long such a batch may take: one that brings nothing to an end is given up, however large the
/// share is.
const LONGEST_BATCH: Duration = Duration::from_secs(600);
/// How long one share's deletion goes on before others have their turn.
const TURN: Duration = Duration::from_secs(60);
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

/// How a deletion ended for now.
enum Deletion {
    /// All its objects were deleted.
    Done,
    /// Of a mutable share something rests still.
    Rests,
    /// More is to be deleted, in another turn.
    GoesOn,
    /// It is not to be deleted any more, or by another.
    OfAnother,
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
        {
            // Nobody else of this process has any meanwhile.
            let _turn = self.uploads.collecting.lock().await;
            if let Err(e) = self.leasedb.release_claims(self.id).await {
                tracing::warn!("collection: {e}");
            }
        }
        let (mut checked, mut raised): (Option<Instant>, _) = (None, Instant::now());
        loop {
            if raised.elapsed() > RUN_PAUSE && self.refusal().is_none() {
                raised = Instant::now();
                if let Err(e) = self.leasedb.raise_run_if_changed().await {
                    tracing::warn!("the run's number: {e}");
                }
            }
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

    /// What ends leases by now: a cutoff that lies in the future ends none, or a year that was
    /// mistyped would end all.
    fn expiry_now(&self) -> Expiry {
        match self.settings.expiry {
            Expiry::Cutoff(cutoff) if cutoff > self.leasedb.now_ms() => Expiry::Never,
            expiry => expiry,
        }
    }

    /// What collection would take: shares without a lease, and those whose leases would end by what
    /// is set; with the reason.
    ///
    /// # Errors
    /// The database's.
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

    /// One bounded step of collection, which takes as long as what it deleted may take: a great
    /// collection leaves the cloud to others.
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
        // Whoever collects here, by itself or for an operator, and before or after the
        // configuration was read anew: one at a time.
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
            Expiry::Age => leasedb.end_expired(leasedb.now_ms(), BATCH * 4).await?,
            Expiry::Cutoff(cutoff) => self.end_by_cutoff(cutoff).await?,
        };
        step.abandoned = leasedb.abandon_expired(self.id, BATCH).await?;
        let unleased = leasedb.unleased(self.id, BATCH).await?;
        let free: Vec<ShareRow> = unleased
            .into_iter()
            .filter(|row| !self.holds.is_held(row.index))
            .collect();
        let open = [
            leasedb.unmeasured(self.id, BATCH).await?,
            leasedb.expired_mutable(self.id, BATCH).await?,
        ]
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
            let deleted = self.delete(&going).await;
            (going, Some(deleted))
        });
        let tried: Vec<_> = tried.buffer_unordered(AT_ONCE).collect().await;
        // What was deleted counts as gone only in the container that is ours.
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
                    let may_land =
                        going.row.kind == ShareKind::Immutable && self.backend.deletions_may_land();
                    let has_gone = self.leasedb.going_tried(&going, None, may_land).await?;
                    if has_gone && going.row.kind == ShareKind::Immutable && !going.is_whole {
                        self.backend
                            .forget_upload(going.row.index, going.row.share)
                            .await?;
                    }
                }
                Ok(Deletion::Rests) => self.leasedb.unclaim_going(&going, PAUSE).await?,
                // Behind the others that are due.
                Ok(Deletion::GoesOn) => {
                    step.tidied += 1;
                    self.leasedb.unclaim_going(&going, Duration::ZERO).await?;
                }
                Ok(Deletion::OfAnother) => {}
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

    /// Deletes a share's objects, or as many as there is time for. Whether it is still to be
    /// deleted is asked anew before each batch.
    async fn delete(&self, going: &Going) -> Result<Deletion> {
        let ShareRow {
            index,
            share,
            kind,
            objects,
            ..
        } = going.row;
        if kind == ShareKind::Mutable {
            let lock = self.slot_lock(index);
            let _turn = lock.lock().await;
            if !self.leasedb.still_claimed(going).await? {
                return Ok(Deletion::OfAnother);
            }
            // One that lost its leases was not deleted before.
            self.in_time(going, self.backend.delete_mutable(index, share))
                .await?;
            let is_gone = self
                .in_time(going, self.backend.tidy_mutable(index, share))
                .await?;
            return Ok(if is_gone {
                Deletion::Done
            } else {
                Deletion::Rests
            });
        }
        if !self.leasedb.still_claimed(going).await? {
            return Ok(Deletion::OfAnother);
        }
        // An upload of it that is open here ends, and gives its room back.
        self.close((index, share));
        if going.deleted_ms.is_some() {
            return Ok(Deletion::Done);
        }
        let began = Instant::now();
        let mut left = if going.is_whole { objects } else { 0 };
        let is_large = left > OBJECTS;
        if is_large {
            // Without chunk 0 the share is not there, whatever follows; then from its end, so that
            // the row tells what is left.
            self.in_time(going, self.backend.remove_chunks(index, share, 0..1))
                .await?;
        }
        while left > OBJECTS {
            if !self.leasedb.still_claimed(going).await? {
                return Ok(Deletion::OfAnother);
            }
            let from = (left - OBJECTS).max(1);
            self.in_time(going, self.backend.remove_chunks(index, share, from..left))
                .await?;
            self.leasedb.deleted_down_to(going, from).await?;
            left = from;
            if began.elapsed() > TURN {
                return Ok(Deletion::GoesOn);
            }
        }
        // Of a small one it was asked just now.
        if is_large && !self.leasedb.still_claimed(going).await? {
            return Ok(Deletion::OfAnother);
        }
        self.in_time(
            going,
            self.backend
                .remove(index, share, (left > 0).then_some(left)),
        )
        .await?;
        Ok(Deletion::Done)
    }

    async fn in_time<T>(&self, going: &Going, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(LONGEST_BATCH, work)
            .await
            .unwrap_or_else(|_| {
                let (index, share) = (going.row.index, going.row.share);
                let reason =
                    format!("deleting some of its objects took longer than {LONGEST_BATCH:?}");
                Err(StorageError::NotKnown {
                    backend: self.name().to_owned(),
                    index,
                    share,
                    reason,
                })
            })
    }

    /// Uploads of earlier runs whose rest is over: one that is whole in the container rests for
    /// another day, since the daemon of a home that this one is a copy of may have recorded it.
    async fn rest_whole_uploads(&self) -> Result<()> {
        for row in self.leasedb.rested_uploads(self.id, EXAMINED).await? {
            let examined = tokio::time::timeout(
                LONGEST_BATCH,
                self.whole_by_its_chunks((row.index, row.share)),
            )
            .await;
            let slow = || StorageError::NotKnown {
                backend: self.name().to_owned(),
                index: row.index,
                share: row.share,
                reason: format!("it was not examined within {LONGEST_BATCH:?}"),
            };
            match examined.unwrap_or_else(|_| Err(slow())) {
                Ok(None) => self.leasedb.rest_upload(row.id, Duration::ZERO).await?,
                Ok(Some(_)) => {
                    let by = self.leasedb.patience().suspicion;
                    tracing::warn!(
                        "cloud {:?}: share {} of {} is whole, and no file has it: it is deleted after a day; if another daemon runs with a \
                         copy of this home, stop one of them now",
                        self.name(),
                        row.share,
                        row.index
                    );
                    self.leasedb.rest_upload(row.id, by).await?;
                }
                // Looked at again, before anything is given up.
                Err(e) => {
                    tracing::debug!("an upload of {} rests on: {e}", row.index);
                    self.leasedb.put_off_upload(row.id, PAUSE).await?;
                }
            }
        }
        Ok(())
    }

    /// What an immutable share is that is whole, by the names of its chunks, its header and its
    /// end: its kind, and its objects and bytes.
    pub(crate) async fn whole_by_its_chunks(
        &self,
        (index, share): (StorageIndex, ShareNum),
    ) -> Result<Option<(ShareKind, (u64, u64))>> {
        let (mut total, mut objects) = (0_u64, 0);
        for chunk in 0.. {
            match self.backend.chunk_length(index, share, chunk).await? {
                Some(length) => total = total.saturating_add(length),
                None => break,
            }
            objects += 1;
            // A cloud that has one of every name.
            if total > MAX_SHARE || objects > MAX_SHARE {
                return Ok(None);
            }
        }
        let part = async |range| -> Result<Vec<u8>> {
            let read = self.backend.read(index, share, range).await?;
            Ok(futures::TryStreamExt::try_collect::<Vec<_>>(read)
                .await?
                .concat())
        };
        let beginning = match part(0..total.min(HEADER as u64)).await {
            Err(StorageError::NotFound { .. } | StorageError::Short { .. }) => return Ok(None),
            read => read?,
        };
        let end = part(total.saturating_sub(FOOTER as u64)..total).await?;
        let container = Container::parse(&beginning).filter(|found| found.is_whole(total, &end));
        Ok(container.and_then(|container| match container {
            Container::Array => Some((ShareKind::Array, (objects, total))),
            Container::Immutable { .. } => Some((ShareKind::Immutable, (objects, total))),
            Container::Mutable { .. } => None,
        }))
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
            let lease = begun.map_or((AccountId::STARTER, RenewSecret::NONE), |b| {
                (b.account, b.renew)
            });
            self.measured(at, there.map(|there| there.length), lease)
                .await
        };
        if let Err(e) = settled.await {
            tracing::debug!(
                "a write of share {} of {} is open still: {e}",
                row.share,
                row.index
            );
        }
    }

    /// Walks all leases, from where the step before ended; the place is kept, so that a restart
    /// goes on.
    async fn end_by_cutoff(&self, cutoff: i64) -> Result<usize> {
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
        ChunkBudget, Clock, CloudBackend, Database, Holds, LeaseDb, Owner, Patience,
        ServerSettings, ShareNum, StorageIndex, TestWrite, slots::Slots,
    };

    const INDEX: StorageIndex = StorageIndex([1; 16]);
    const SHARE: ShareNum = ShareNum(0);
    const SECRET: RenewSecret = RenewSecret([3; 16]);

    async fn server(clock: &Clock, folder: &tempfile::TempDir) -> Arc<StorageServer> {
        let database = Database::open(&folder.path().join("db")).unwrap();
        let leasedb = LeaseDb::open(database, clock.clone(), Patience::default())
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
                INDEX,
                [SHARE].into(),
                1500,
                SECRET,
                SECRET,
            )
            .await
            .unwrap();
        assert_eq!(allocated.allocated.len(), 1);
        server
            .write(INDEX, SHARE, SECRET, 0, Bytes::from_static(&[7; 1500]))
            .await
            .unwrap();
    }

    async fn store_slot(server: &Arc<StorageServer>) {
        let write = TestWrite {
            writes: vec![(0, Bytes::from_static(b"slot"))],
            ..TestWrite::default()
        };
        let vectors = [(SHARE, write)].into();
        let done = server
            .read_test_write(AccountId::ANONYMOUS, INDEX, b"e", SECRET, vectors, &[])
            .await;
        assert!(done.unwrap().is_written);
    }

    /// Claims the share's deletion and is slow, until another collector has ended it; then goes on.
    async fn slow_and_quick(
        server: &Arc<StorageServer>,
        clock: &Clock,
        store_again: impl AsyncFnOnce(),
    ) -> Collected {
        // Day by day, or it would be the clock that is wrong.
        for _ in 0..32 {
            clock.advance(Duration::from_secs(24 * 3600));
            server.leasedb.keep_time().await.unwrap();
        }
        server.collect_step().await.unwrap();
        let claimed = server.leasedb.claim_going(server.id, BATCH).await.unwrap();
        assert_eq!(claimed.len(), 1, "it is going");
        for _ in 0..6 {
            // Longer than a claim lasts, and than what was deleted rests.
            clock.advance(Duration::from_secs(61 * 60));
            server.collect_step().await.unwrap();
        }
        store_again().await;
        let mut step = Collected::default();
        server.delete_due(claimed, &mut step).await.unwrap();
        step
    }

    /// Two collectors of one cloud: the slower one once deleted what had been stored anew
    /// meanwhile.
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
        let read = server
            .read_immutable(INDEX, SHARE, 0..u64::MAX)
            .await
            .unwrap();
        let read: Vec<Bytes> = futures::TryStreamExt::try_collect(read).await.unwrap();
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
                INDEX,
                b"e",
                SECRET,
                [].into(),
                std::slice::from_ref(&(0..9)),
            )
            .await;
        assert_eq!(read.unwrap().data[&SHARE], [Bytes::from_static(b"slot")]);
    }
}
