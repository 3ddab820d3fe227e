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

use futures::TryStreamExt as _;

use crate::{
    Container, Found, FoundShare, IndexPrefix, Ownership, RangeSet, Recovered, Result, ShareKind,
    ShareNum, ShareRow, ShareState, Span, StorageError, StorageIndex, StorageServer, Suspect,
    Suspicion,
    container::{FOOTER, HEADER},
    leasedb,
    object::ShareObject,
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

/// The number after that of the last chunk.
fn past(chunks: &RangeSet) -> u64 {
    chunks.ranges().last().map_or(0, |last| last.end)
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

type At = (StorageIndex, ShareNum);

/// What a share is that a listing showed and no row has.
enum Examined {
    /// Whole: its kind, objects and bytes.
    Whole(ShareKind, u64, u64),
    /// A mutable share that was deleted: what is there of it goes by itself.
    Deleted,
    /// Not whole, for want of that object; none where nothing is known to be missing.
    Torn(Option<String>),
}

impl StorageServer {
    /// Walks through the container from where the walk of that name ended, to its end; a new one
    /// begins at the first.
    ///
    /// # Errors
    /// Where a listing ends early or the container is not ours: what was done stays, and the walk
    /// goes on there.
    pub async fn reconcile(&self, walk: &'static str, told: &Reconciled) -> Result<()> {
        let (next, _) = self.leasedb.walk(self.id, walk).await?;
        told.prefixes.store(u64::from(next), Ordering::Relaxed);
        let server = self.id;
        let rows = self
            .leasedb
            .read(move |c| leasedb::count(c, server))
            .await?;
        // A small container costs a few requests, and not a thousand. Where it turns out to be
        // larger it is walked by prefixes.
        let is_done = next == 0 && rows <= IN_ONE_GO && self.reconcile_whole(walk, told).await?;
        if is_done {
            told.prefixes
                .store(u64::from(IndexPrefix::COUNT), Ordering::Relaxed);
        } else {
            for prefix in IndexPrefix::all_from(next) {
                self.reconcile_prefix(prefix, told).await?;
                self.leasedb.walked(self.id, walk, prefix).await?;
                count(&told.prefixes);
            }
        }
        // Files have the wall clock's times.
        if self.leasedb.clock_is_off().is_some() || self.require_writable().await.is_err() {
            return Ok(());
        }
        // An upload that lives was written to in its time; a day more is for clocks.
        let patience = self.leasedb.patience();
        let swept = self
            .backend
            .sweep(
                self.leasedb
                    .over_since(patience.upload + patience.suspicion),
            )
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
                let is_old = |at: i64| {
                    // One that ended in a future that the clock has left says nothing.
                    at > self.leasedb.now_ms()
                        || at <= self.leasedb.over_since(every)
                        || (at <= settled && settled <= self.leasedb.now_ms())
                };
                Ok::<_, StorageError>(next > 0 || ended.is_none_or(is_old))
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
    async fn reconcile_whole(&self, walk: &'static str, told: &Reconciled) -> Result<bool> {
        let before = self.below(Span::Whole).await?;
        match self.backend.scan(Span::Whole, IN_ONE_GO).await {
            Ok(found) => {
                self.compare(Span::Whole, before, found, told).await?;
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
    pub async fn reconcile_prefix(&self, prefix: IndexPrefix, told: &Reconciled) -> Result<()> {
        let span = Span::Below(prefix);
        let before = self.below(span).await?;
        let known: u64 = before.values().map(|row| row.objects.max(1)).sum();
        let found = self
            .backend
            .scan(span, known.saturating_mul(4).saturating_add(BESIDE))
            .await?;
        self.compare(span, before, found, told).await
    }

    /// Compares what a complete listing of a span found with the rows of before and after it.
    async fn compare(
        &self,
        span: Span,
        before: BTreeMap<At, ShareRow>,
        found: Vec<FoundShare>,
        told: &Reconciled,
    ) -> Result<()> {
        // Read again after the listing: a row is there before its first object, and until after its
        // last.
        let after = self.below(span).await?;
        // What is destroyed looks again.
        match self.seen_owner().await? {
            Ownership::Ours => {}
            other => other.writable(self.name())?,
        }
        let mut suspects: BTreeMap<At, Suspect> = self
            .leasedb
            .suspects(self.id, span)
            .await?
            .into_iter()
            .map(|(i, s, what)| ((i, s), what))
            .collect();
        let mut listed = BTreeSet::new();
        for share in &found {
            count(&told.listed);
            let at = (share.index, share.share);
            listed.insert(at);
            let seen = match (before.get(&at), after.get(&at)) {
                (None, None) => self.unknown(share, suspects.remove(&at), told).await,
                (Some(row), Some(now))
                    if row.state == ShareState::Stable && now.state == ShareState::Stable =>
                {
                    self.known(now, share, suspects.remove(&at), told).await
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
            self.failed_alone(at, seen, told)?;
        }
        for (at, row) in before.iter().filter(|(at, _)| !listed.contains(at)) {
            let stays = after
                .get(at)
                .is_some_and(|now| now.state == ShareState::Stable);
            if row.state == ShareState::Stable && stays {
                let seen = self.unlisted(row, suspects.remove(at), told).await;
                self.failed_alone(*at, seen, told)?;
            }
        }
        self.backend.forget_unlisted(span, listed).await?;
        // What is left was suspected and is so no longer.
        for at in suspects.into_keys() {
            self.clear(at).await?;
        }
        Ok(())
    }

    /// What fails for one share alone must not keep the walk from the others: no bad object holds
    /// it up for ever.
    fn failed_alone(&self, (index, share): At, seen: Result<()>, told: &Reconciled) -> Result<()> {
        match seen {
            Err(e @ (StorageError::Database(_) | StorageError::ReadOnly { .. })) => Err(e),
            Err(e) => {
                count(&told.failed);
                tracing::warn!("share {share} of {index} could not be examined: {e}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn below(&self, span: Span) -> Result<BTreeMap<At, ShareRow>> {
        let server = self.id;
        let rows = self
            .leasedb
            .read(move |c| leasedb::below(c, server, span))
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| ((row.index, row.share), row))
            .collect())
    }

    async fn clear(&self, at: At) -> Result<()> {
        let server = self.id;
        self.leasedb
            .write(move |tx| leasedb::clear(tx, server, at))
            .await
    }

    async fn suspect(&self, at: At, what: Suspicion, object: String) -> Result<()> {
        let (server, now) = (self.id, self.leasedb.now_ms());
        if what == Suspicion::Torn && self.leasedb.suspect_count(server).await? >= MOST_SUSPECTS {
            tracing::warn!(
                "cloud {:?} lists more than {MOST_SUSPECTS} objects of no share: what is beyond is left alone",
                self.name()
            );
            return Ok(());
        }
        self.leasedb
            .write(move |tx| leasedb::suspect(tx, server, at, what, &object, now))
            .await
    }

    /// Whether a suspicion of the same object is old enough for the second pass. By a clock that is
    /// off none is.
    fn is_second_pass(&self, before: Option<&Suspect>, what: Suspicion, object: &str) -> bool {
        if self.leasedb.clock_is_off().is_some() {
            return false;
        }
        let old = self.leasedb.over_since(self.leasedb.patience().suspicion);
        before.is_some_and(|s| s.what == what && s.object == object && s.since_ms <= old)
    }

    /// Listed, and no row has it.
    async fn unknown(
        &self,
        share: &FoundShare,
        before: Option<Suspect>,
        told: &Reconciled,
    ) -> Result<()> {
        let at = (share.index, share.share);
        let missing = match self.examine(share).await? {
            // None of ours is so large.
            Examined::Whole(_, _, bytes) if bytes > leasedb::MAX_SHARE => {
                return self.clear(at).await;
            }
            Examined::Whole(kind, objects, bytes) => {
                let (server, leasedb) = (self.id, self.leasedb.clone());
                let discovered = self.leasedb.write(move |tx| {
                    leasedb::clear(tx, server, at)?;
                    let confirmed = !leasedb.was_just_taken(tx, server)?;
                    leasedb.discover(tx, server, at, kind, (objects, bytes), confirmed)
                });
                if discovered.await? {
                    count(&told.discovered);
                }
                return Ok(());
            }
            // Where nothing may be written it stays.
            Examined::Deleted if self.require_writable().await.is_err() => {
                return self.clear(at).await;
            }
            Examined::Deleted => {
                let lock = self.slot_lock(share.index);
                let _turn = lock.lock().await;
                // One whose mark alone was left is looked for by nobody else.
                self.backend.tidy_mutable(share.index, share.share).await?;
                return self.clear(at).await;
            }
            Examined::Torn(missing) => missing,
        };
        count(&told.torn);
        let Some(object) = missing else {
            return self.clear(at).await;
        };
        let patience = self.leasedb.patience();
        let old = self
            .leasedb
            .over_since(patience.upload + patience.suspicion);
        let is_old = share.newest_ms.is_none_or(|newest| newest <= old);
        if !(is_old && self.is_second_pass(before.as_ref(), Suspicion::Torn, &object)) {
            return self.suspect(at, Suspicion::Torn, object).await;
        }
        if !self
            .check_owner()
            .await
            .is_ok_and(|found| found == Ownership::Ours)
            || self.settings.is_read_only
        {
            return Ok(());
        }
        count(&told.reaped);
        self.reap(share).await
    }

    /// Compares a mutable share with what was listed of it, while nobody writes to it.
    async fn recover(&self, share: &FoundShare) -> Result<Recovered> {
        let lock = self.slot_lock(share.index);
        let _turn = lock.lock().await;
        self.backend
            .recover_mutable(share.index, share.share, &share.found)
            .await
    }

    /// What a share is that no row has. At most two small reads where it is immutable.
    async fn examine(&self, share: &FoundShare) -> Result<Examined> {
        let Found::Immutable {
            chunks,
            chunk_size,
            bytes,
        } = &share.found
        else {
            return Ok(match self.recover(share).await? {
                Recovered::Whole(there) => Examined::Whole(ShareKind::Mutable, 0, there.length),
                Recovered::Deleted => Examined::Deleted,
                Recovered::Torn(missing) => Examined::Torn(missing),
            });
        };
        match self.whole(share, chunks, *chunk_size, *bytes).await? {
            Some(Examined::Torn(_)) => {
                // A newer format, or damage: which chunk would make it whole is not known.
                let FoundShare { index, share, .. } = share;
                tracing::warn!(
                    "share {share} of {index} begins with no header that is known; it stays as it is"
                );
                Ok(Examined::Torn(None))
            }
            Some(whole) => Ok(whole),
            None => {
                let missing = self.decisive(share, chunks).await?;
                let is_gap = missing
                    .as_ref()
                    .is_some_and(|(chunk, _)| *chunk < past(chunks));
                if !is_gap && self.has_an_end(share, chunks, *chunk_size, *bytes).await? {
                    let FoundShare { index, share, .. } = share;
                    tracing::error!(
                        "cloud {:?}: share {share} of {index} is all there, and its header or its end is damaged; it is kept",
                        self.name()
                    );
                    return Ok(Examined::Torn(None));
                }
                Ok(Examined::Torn(missing.map(|(_, object)| object)))
            }
        }
    }

    /// Whether chunks without a gap look like all of a share, though its header or its end says
    /// otherwise: one that never was complete ends with a whole chunk of the size that new shares
    /// have, and has no end.
    async fn has_an_end(
        &self,
        share: &FoundShare,
        chunks: &RangeSet,
        chunk_size: u64,
        bytes: u64,
    ) -> Result<bool> {
        if chunk_size == 0 {
            return Ok(false);
        }
        let objects = past(chunks);
        let last = match self
            .backend
            .chunk_length(share.index, share.share, objects.saturating_sub(1))
            .await?
        {
            Some(last) => last,
            None => return Ok(false),
        };
        if objects > 1 && last < chunk_size
            || objects == 1 && !last.is_multiple_of(self.backend.chunk_unit())
        {
            return Ok(true);
        }
        let end = self
            .backend
            .read(
                share.index,
                share.share,
                bytes.saturating_sub(FOOTER as u64)..bytes,
            )
            .await;
        let end: Vec<u8> = match end {
            Ok(stream) => stream.try_collect::<Vec<_>>().await?.concat(),
            Err(StorageError::NotFound { .. } | StorageError::Short { .. }) => return Ok(false),
            Err(e) => return Err(e),
        };
        Ok(crate::container::resembles_an_end(&end))
    }

    /// What an immutable share is that was listed, or a file; torn where its header is none that is
    /// known, none where it is not whole. What lies beyond its end is a leftover, and says nothing
    /// against it.
    async fn whole(
        &self,
        share: &FoundShare,
        chunks: &RangeSet,
        chunk_size: u64,
        bytes: u64,
    ) -> Result<Option<Examined>> {
        let (index, number) = (share.index, share.share);
        let Some(first) = chunks
            .ranges()
            .first()
            .filter(|first| first.start == 0 && chunk_size > 0)
        else {
            return Ok(None);
        };
        let is_all = chunks.ranges().len() == 1;
        // Of the last chunk only that it is there is known.
        let certain = if is_all {
            bytes
        } else {
            (first.end - 1).max(1).saturating_mul(chunk_size)
        };
        let part = async |range: std::ops::Range<u64>| {
            let stream = self.backend.read(index, number, range).await?;
            stream
                .try_fold(Vec::new(), async |mut all, piece| {
                    all.extend_from_slice(&piece);
                    Ok(all)
                })
                .await
        };
        let whole = async {
            let beginning = part(0..certain.min(HEADER as u64)).await?;
            Ok(match Container::parse(&beginning) {
                Some(array @ Container::Array) if is_all => {
                    let end = part(bytes.saturating_sub(FOOTER as u64)..bytes).await?;
                    array.is_whole(bytes, &end).then_some(Examined::Whole(
                        ShareKind::Array,
                        first.end,
                        bytes,
                    ))
                }
                Some(Container::Immutable { header, length }) => {
                    let total = header.saturating_add(length);
                    let objects = total.div_ceil(chunk_size).max(1);
                    if objects > first.end {
                        return Ok(None);
                    }
                    // Its last byte is there, and where nothing follows it is the last.
                    part(total - 1..total).await?;
                    let is_whole = !(is_all && objects == first.end) || total == bytes;
                    is_whole.then_some(Examined::Whole(ShareKind::Immutable, objects, total))
                }
                Some(file @ Container::Mutable { length, .. }) if is_all => file
                    .is_whole(bytes, &[])
                    .then_some(Examined::Whole(ShareKind::Mutable, 0, length)),
                Some(_) => None,
                None => Some(Examined::Torn(None)),
            })
        };
        match whole.await {
            Ok(whole) => Ok(whole),
            // Deleted since it was listed, or listed of another length than it has.
            Err(StorageError::NotFound { .. } | StorageError::Short { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The object that would make a torn share whole, where it is not found by its name; none where
    /// it is there.
    async fn decisive(
        &self,
        share: &FoundShare,
        chunks: &RangeSet,
    ) -> Result<Option<(u64, String)>> {
        let (index, number) = (share.index, share.share);
        let name = |chunk| ShareObject::Chunk(chunk).key(index, number).to_string();
        // In a gap, what the listing may have left out; after a full row, the next.
        let past = past(chunks);
        for chunk in chunks.missing(past).into_iter().flatten().chain([past]) {
            if self
                .backend
                .chunk_length(index, number, chunk)
                .await?
                .is_none()
            {
                return Ok(Some((chunk, name(chunk))));
            }
        }
        Ok(None)
    }

    /// Destroys what never was whole.
    async fn reap(&self, share: &FoundShare) -> Result<()> {
        let at = (share.index, share.share);
        let (server, leasedb) = (self.id, self.leasedb.clone());
        if let Found::Mutable { .. } = share.found {
            let lock = self.slot_lock(share.index);
            let _turn = lock.lock().await;
            self.backend
                .give_up_mutable(share.index, share.share, &share.found)
                .await?;
            return self.clear(at).await;
        }
        // Its row refuses the name to others until it has gone; collection does the rest.
        self.leasedb
            .write(move |tx| {
                leasedb::clear(tx, server, at)?;
                leasedb.condemn_unknown(tx, server, at)
            })
            .await?;
        self.wake();
        Ok(())
    }

    /// Listed, and STABLE.
    async fn known(
        &self,
        row: &ShareRow,
        share: &FoundShare,
        before: Option<Suspect>,
        told: &Reconciled,
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
                return self.unlisted(row, before, told).await;
            }
        }
        if let Found::Immutable { chunks, bytes, .. } = &share.found
            && row.kind != ShareKind::Mutable
            && row.objects > 0
        {
            let bytes = *bytes;
            if !chunks.contains(&(0..row.objects)) {
                return self.unlisted(row, before, told).await;
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
                return self.shortened(row, bytes, before, told).await;
            }
        }
        self.is_there(row, before.is_some()).await
    }

    /// The bytes of a share's objects, each asked for by its name; `None` where one is not there.
    async fn bytes_by_name(&self, row: &ShareRow) -> Result<Option<u64>> {
        let mut total = 0_u64;
        for chunk in 0..row.objects.max(1) {
            match self
                .backend
                .chunk_length(row.index, row.share, chunk)
                .await?
            {
                Some(length) => total = total.saturating_add(length),
                None => return Ok(None),
            }
        }
        Ok(Some(total))
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
        let (at, object) = (
            (row.index, row.share),
            ShareObject::Chunk(first)
                .key(row.index, row.share)
                .to_string(),
        );
        // It is there all the same.
        if row.is_lost {
            self.is_there(row, false).await?;
        }
        if !self.is_second_pass(before.as_ref(), Suspicion::Leftover, &object) {
            return self.suspect(at, Suspicion::Leftover, object).await;
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
            let server = self.id;
            let now = self
                .leasedb
                .read(move |c| leasedb::find(c, server, at.0, at.1))
                .await?;
            let same = now.is_some_and(|now| {
                now.id == row.id && now.state == ShareState::Stable && now.objects <= chunk
            });
            if !same
                || !self
                    .seen_owner()
                    .await
                    .is_ok_and(|found| found == Ownership::Ours)
            {
                return Ok(());
            }
            if self
                .backend
                .chunk_length(row.index, row.share, chunk)
                .await?
                .is_some()
            {
                self.backend
                    .remove_chunks(row.index, row.share, chunk..chunk + 1)
                    .await?;
            }
        }
        self.clear(at).await
    }

    /// A STABLE share is there, whatever was said of it: unless it was found just after a
    /// take-over, when what the host before had sent could still delete it.
    async fn is_there(&self, row: &ShareRow, is_suspect: bool) -> Result<()> {
        if !row.is_lost && !is_suspect {
            return Ok(());
        }
        let (server, id, at, is_lost) = (self.id, row.id, (row.index, row.share), row.is_lost);
        let leasedb = self.leasedb.clone();
        self.leasedb
            .write(move |tx| {
                leasedb::clear(tx, server, at)?;
                if is_lost && !leasedb.was_just_taken(tx, server)? {
                    leasedb::set_lost(tx, id, None)?;
                }
                Ok(())
            })
            .await
    }

    /// All its objects are there, and hold other bytes than were stored: it counts as lost when the
    /// next pass, a day later, says the same. Nothing is destroyed.
    async fn shortened(
        &self,
        row: &ShareRow,
        bytes: u64,
        before: Option<Suspect>,
        told: &Reconciled,
    ) -> Result<()> {
        let (at, object) = ((row.index, row.share), format!("{bytes} bytes"));
        count(&told.vanished);
        if row.is_lost {
            return Ok(());
        }
        tracing::error!(
            "cloud {:?}: share {} of {} has {bytes} bytes, and {} were stored",
            self.name(),
            row.share,
            row.index,
            row.used_space
        );
        if !self.is_second_pass(before.as_ref(), Suspicion::Vanished, &object) {
            return self.suspect(at, Suspicion::Vanished, object).await;
        }
        count(&told.lost);
        let (server, id, now) = (self.id, row.id, self.leasedb.now_ms());
        self.leasedb
            .write(move |tx| {
                leasedb::clear(tx, server, at)?;
                leasedb::set_lost(tx, id, Some(now))
            })
            .await
    }

    /// An object of a mutable share's current version that is neither listed nor found by name.
    async fn lacks(&self, row: &ShareRow, found: &Found) -> Result<Option<String>> {
        let lock = self.slot_lock(row.index);
        let _turn = lock.lock().await;
        match self
            .backend
            .lacks_mutable(row.index, row.share, found)
            .await
        {
            // A write that is open still is settled first.
            Err(StorageError::NotKnown { .. }) => Ok(None),
            other => other,
        }
    }

    /// STABLE, and not listed, or not all of it.
    async fn unlisted(
        &self,
        row: &ShareRow,
        before: Option<Suspect>,
        told: &Reconciled,
    ) -> Result<()> {
        let at = (row.index, row.share);
        let mut missing = None;
        if row.kind == ShareKind::Mutable {
            let nothing = Found::Mutable {
                commits: BTreeSet::new(),
                chunks: BTreeSet::new(),
            };
            missing = self.lacks(row, &nothing).await?;
        } else {
            for chunk in 0..row.objects.max(1) {
                if self
                    .backend
                    .chunk_length(row.index, row.share, chunk)
                    .await?
                    .is_none()
                {
                    missing = Some(
                        ShareObject::Chunk(chunk)
                            .key(row.index, row.share)
                            .to_string(),
                    );
                    break;
                }
            }
        }
        let (server, id) = (self.id, row.id);
        let Some(object) = missing else {
            // The listing left out what is there.
            return self.is_there(row, true).await;
        };
        count(&told.vanished);
        if row.is_lost {
            return Ok(());
        }
        if !self.is_second_pass(before.as_ref(), Suspicion::Vanished, &object) {
            return self.suspect(at, Suspicion::Vanished, object).await;
        }
        count(&told.lost);
        tracing::error!(
            "cloud {:?} has lost share {} of {}: {object} is gone",
            self.name(),
            row.share,
            row.index
        );
        let now = self.leasedb.now_ms();
        self.leasedb
            .write(move |tx| {
                leasedb::clear(tx, server, at)?;
                leasedb::set_lost(tx, id, Some(now))
            })
            .await
    }

    /// Takes the container over for this database, whose epoch must be above all that were seen.
    ///
    /// # Errors
    /// [`StorageError::ReadOnly`] where it is another array's or another cloud's.
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
