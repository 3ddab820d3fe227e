//! Stores a file: its content is cut into extents, and each extent is a stream.
//!
//! Order of writes, for each extent in turn: a transaction allocates the shares that will be
//! written, then the shares go out. After the last extent, one transaction makes the file. A crash
//! before that transaction leaves COMING shares, which rest and are then collected. After it the
//! file is whole. See `docs/decisions/0001-order-of-writes.md`.

use bytes::Bytes;
use futures::Stream;
use raic_storage::{
    AccountId, MAX_SHARE, ShareNum, StorageError, StorageIndex, StorageServer, Stored, StreamMemory,
};
use std::{sync::Arc, time::Duration};

use crate::{
    ArrayError, Fault, PutOptions, Result, Transfer, VersionId,
    array::{Inner, PROBE},
    catalog::{
        FileInfo, FileName, Lacking, NewExtent, NewFile, Stream as CatalogStream, Target, paid,
    },
    class::OpenClass,
    encoder::Encoder,
    format::{Hash, Header, Layout, Role, Trailer, proof},
    health::{Work, shortened},
    ingest::Ingest,
    keyring::stream_key,
    manifest::{Described, Manifest, Place},
    place::{Rule, Site, Spot, sites_of},
    sealer::Sealer,
    share_reader::ShareReader,
    share_rebuild::{Rebuild, RebuildFault},
    share_upload::{Failed, ShareUploads, SharesStored, Watching, too_few},
    upload_memory::UploadMemory,
};

/// How long the content may pause, as a multiple of the patience with clouds. A pipe may be slow to
/// begin.
const IDLE: u32 = 5;
/// An upload whose content pauses gives memory back after so many parts of the patience: after 5 s.
const PAUSES: u32 = 24;
/// A place whose manifest is as long as that of any other extent of a file, or longer.
const FURTHEST: Place = Place {
    position: u64::MAX,
    offset: u64::MAX,
    is_last: true,
};
/// How long an upload waits for clouds that failed lately if the others suffice.
const MOMENT: Duration = Duration::from_secs(1);

/// The shares that an upload has allocated so far, by the storage indexes of its streams.
type Allocated = Vec<(StorageIndex, Vec<Target>)>;

/// The hash of a file's content while it comes, and that of the extent which is being stored.
struct Hashers {
    file: blake3::Hasher,
    /// `None` in the first extent: what the file has so far is the extent.
    extent: Option<blake3::Hasher>,
}

impl Hashers {
    fn update(&mut self, segments: &[Vec<u8>]) {
        for segment in segments {
            self.file.update(segment);
            if let Some(extent) = &mut self.extent {
                extent.update(segment);
            }
        }
    }

    fn of_extent(&self) -> Hash {
        self.extent.as_ref().unwrap_or(&self.file).finalize().into()
    }
}

impl Inner {
    /// Stores `content` as `name`. When this returns, the file is durable and survives the loss of
    /// `survive` more clouds.
    pub(crate) async fn store<S, E>(
        &self,
        name: FileName,
        content: S,
        options: PutOptions,
    ) -> Result<FileInfo>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::fmt::Display,
    {
        let PutOptions {
            transfer,
            size,
            account,
            class,
            replace,
            source_modified,
            details,
        } = options;
        // Before a cloud is asked: a misspelt name is answered at once.
        let name_of_account = account.as_deref().unwrap_or("anonymous");
        let payer = self.catalog.leasedb().storing_account(name_of_account);
        let payer = payer.await?;
        let (account, is_bounded) = (payer.id, payer.is_disabled || payer.hard_quota.is_some());
        let place = self.catalog.require_place(name.clone(), replace).await?;
        let class = self.classes.find(class.or(place.class).as_deref())?;
        let wraps = self.wrapping_generation().await?;
        self.ask_suspects(class.class.rule()).await;
        let file = Described {
            database: self.catalog.id(),
            sequence: place.sequence,
            file: StorageIndex::random().map_err(|_| ArrayError::Randomness)?,
            name,
            wraps,
            account: payer.name,
            modified: self.catalog.leasedb().now(),
        };
        let first = match size {
            Some(size) => Some(share_length(
                class,
                &file,
                FURTHEST,
                size.min(self.extent_size),
            )?),
            None => None,
        };
        // Before any content is asked for: who may not store so much hears it at once.
        if let Some(size) = size.filter(|_| is_bounded) {
            let bytes = paid(size, class.class.geometry);
            self.catalog.admit(account, bytes).await?;
        }
        // Before it takes memory: whoever sends nothing holds none.
        let mut ingest = Ingest::new(content, size, self.patience * IDLE);
        ingest.has_ended().await?;
        // This comes before the upload holds more than that: it waits for memory without holding
        // any.
        let budgets = (&self.budget, &self.small_budget);
        let mut memory = UploadMemory::reserve(budgets, &class.class, first, size).await;
        let mut allocated = Allocated::new();
        let stored = async {
            let (content_hash, extents) = self
                .store_extents(
                    &file,
                    ingest,
                    (class, size, account),
                    &transfer,
                    (&mut allocated, &mut memory),
                )
                .await?;
            let file = NewFile {
                name: file.name,
                replace,
                version: VersionId(file.file),
                source_modified,
                details,
                content_hash,
                size: extents.iter().map(|extent| extent.length).sum(),
                extents,
            };
            self.catalog.commit(file, account).await
        };
        let stored = stored.await;
        self.learn(&stored);
        let stored = stored.map_err(|e| self.with_down_clouds(e));
        if stored.is_err() {
            // A commit that came through although it was reported as failed has left nothing to
            // abandon.
            for (index, targets) in allocated {
                if let Err(e) = self.catalog.abandon(index, targets).await {
                    tracing::warn!(
                        "the shares of {index} are only deleted after the next start: {e}"
                    );
                }
            }
        }
        // The shares of the replaced file, and the parts of failed shares, are to be collected.
        self.servers.iter().for_each(|server| server.wake());
        stored
    }

    /// Adds to the error of too few clouds those that were not asked, because they failed a moment
    /// before.
    fn with_down_clouds(&self, e: ArrayError) -> ArrayError {
        let ArrayError::TooFewClouds {
            stored,
            n,
            needed,
            lacks_domains,
            is_full,
            mut faults,
        } = e
        else {
            return e;
        };
        let sites = self.sites();
        let down = self.servers.iter().zip(sites).filter(|(server, site)| {
            (!site.is_up || site.is_closed)
                && faults.iter().all(|fault| fault.cloud != server.name())
        });
        let down: Vec<Fault> = down
            .map(|(server, _)| Fault {
                cloud: server.name().to_owned(),
                text: self.why_down(server),
            })
            .collect();
        let is_full = is_full && down.is_empty();
        faults.extend(down);
        ArrayError::TooFewClouds {
            stored,
            n,
            needed,
            lacks_domains,
            is_full,
            faults,
        }
    }

    /// Returns why a cloud is not asked for a share, as a sentence.
    fn why_down(&self, server: &StorageServer) -> String {
        match server.refusal() {
            Some(why) => format!("cloud {:?} is read-only: {why}", server.name()),
            None if server.is_draining() => {
                StorageError::Draining(server.name().to_owned()).to_string()
            }
            None => self.health.why_distrusted(server.name()),
        }
    }

    /// Probes the clouds that failed lately: perhaps they are back. If the others suffice without
    /// second shares, this waits for a moment only. Uploads that begin meanwhile wait for the same
    /// probe.
    async fn ask_suspects(&self, rule: Rule) {
        let is_suspect = |server: &&Arc<StorageServer>| {
            self.health.is_probe_due(server.name()) && !server.is_draining()
        };
        if !self.servers.iter().any(|server| is_suspect(&server)) {
            return;
        }
        // One upload probes, and the others have its answer.
        let Ok(_turn) = self.probing.acquire().await else {
            return;
        };
        let suspects: Vec<_> = self.servers.iter().filter(is_suspect).collect();
        if suspects.is_empty() {
            return;
        }
        let sites = self.sites();
        let up = (0..sites.len()).filter(|site| sites[*site].takes());
        let one_each: Vec<Spot> = (0..rule.geometry.n).map(ShareNum).zip(up).collect();
        let patience = match rule.is_met(&sites, &one_each) {
            true => MOMENT,
            false => PROBE,
        };
        self.that_store(suspects, patience).await;
    }

    /// The clouds that shares may go to, in the order of the servers.
    fn sites(&self) -> Vec<Site> {
        let site = |server: &Arc<StorageServer>| Site {
            server: server.id(),
            domain: server.domain().to_owned(),
            weight: server.weight(),
            free: server.last_available(),
            is_up: !self.health.is_down(server.name()),
            is_closed: server.refusal().is_some() || server.is_draining(),
        };
        self.servers.iter().map(site).collect()
    }

    /// Learns from an upload that was refused which clouds failed.
    fn learn(&self, stored: &Result<FileInfo>) {
        if let Err(ArrayError::TooFewClouds { faults, .. }) = stored {
            for Fault { cloud, text } in faults.iter().filter(|f| !f.cloud.is_empty()) {
                self.health.failed(cloud, Work::Storing, text);
            }
        }
    }

    /// Stores a content extent by extent. An empty content is one extent, too. Returns the hash of
    /// the content, and the extents.
    async fn store_extents<S, E>(
        &self,
        file: &Described,
        mut ingest: Ingest<S>,
        (class, size, account): (&OpenClass, Option<u64>, AccountId),
        transfer: &Transfer,
        (allocated, memory): (&mut Allocated, &mut UploadMemory),
    ) -> Result<(Hash, Vec<NewExtent>)>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::fmt::Display,
    {
        let mut hashers = Hashers {
            file: blake3::Hasher::new(),
            extent: None,
        };
        let mut extents: Vec<NewExtent> = Vec::new();
        let mut offset = 0;
        loop {
            let length = size.map(|size| (size - offset).min(self.extent_size));
            let at = Place {
                position: extents.len() as u64,
                offset,
                is_last: false,
            };
            let index = StorageIndex::random().map_err(|_| ArrayError::Randomness)?;
            let sites = self.sites();
            let (homes, spots) = class.class.rule().plan(index, &sites);
            let targets = self.targets(&spots);
            let share_length = match length {
                Some(length) => {
                    let is_last = size == Some(at.offset + length);
                    Some(share_length(class, file, Place { is_last, ..at }, length)?)
                }
                None => None,
            };
            let geometry = class.class.geometry;
            // What the account will pay for the whole file is reserved with its first extent.
            let reserve = match size {
                Some(size) if at.position == 0 => {
                    let each = paid(size, geometry).div_ceil(targets.len().max(1) as u64);
                    // No row holds more. What is beyond is admitted at the commit.
                    each.min(MAX_SHARE)
                }
                _ => 0,
            };
            self.catalog
                .begin(index, targets.clone(), account, reserve)
                .await?;
            allocated.push((index, targets));
            let streaming = Streaming {
                reserve,
                class,
                index,
                at,
                share_length,
                sites,
                homes,
                spots,
                account,
            };
            let (extent, after) = self
                .store_stream(
                    file,
                    streaming,
                    &mut ingest,
                    hashers,
                    (transfer, allocated, memory),
                )
                .await?;
            offset += extent.length;
            hashers = after;
            extents.push(extent);
            if ingest.has_ended().await? {
                break;
            }
            hashers.extent = Some(blake3::Hasher::new());
        }
        Ok((hashers.file.finalize().into(), extents))
    }

    /// Stores the next extent of a content as a stream.
    async fn store_stream<S, E>(
        &self,
        file: &Described,
        streaming: Streaming<'_>,
        ingest: &mut Ingest<S>,
        mut hashers: Hashers,
        (transfer, allocated, memory): (&Transfer, &mut Allocated, &mut UploadMemory),
    ) -> Result<(NewExtent, Hashers)>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::fmt::Display,
    {
        let Streaming {
            reserve,
            class,
            index,
            at,
            share_length,
            sites,
            homes,
            spots,
            account,
        } = streaming;
        let header = Header {
            array: self.keyring.array,
            index,
            share: ShareNum(0),
            geometry: class.class.geometry,
            role: Role::File,
            segment_size: class.class.segment_size,
            may_ignore: 0,
        };
        let key = stream_key()?;
        let sealer = Sealer::new(&key, &self.keyring.array, index, Role::File);
        let mut encoder = Encoder::new(class.codec.clone(), sealer, header);
        let of_stream = memory.of_stream();
        let mut uploads = ShareUploads::begin(
            index,
            &self.servers,
            (sites.clone(), &spots),
            share_length,
            (class.class.rule(), self.patience),
            Watching {
                budget: self.budget.clone(),
                memory: of_stream.clone(),
                takes_sample: |server: &StorageServer| self.health.takes_sample(server.name()),
                transfer,
            },
        );

        let segment_size = class.class.segment_size as usize;
        let (mut length, mut padding, mut is_at_end) = (0_u64, 0_u64, false);
        while !is_at_end || padding > 0 {
            let mut batch = Vec::new();
            if !is_at_end {
                let left = self.extent_size - length;
                let is_drained = || uploads.are_drained();
                let pause = self.patience / PAUSES;
                let most = memory.next_batch(is_drained);
                let segments = ingest.segments(most, segment_size, left);
                batch = memory.while_waiting(segments, pause, is_drained).await?;
                length += batch.iter().map(|s| s.len() as u64).sum::<u64>();
                is_at_end = length == self.extent_size || {
                    let ended = ingest.has_ended();
                    memory.while_waiting(ended, pause, is_drained).await?
                };
                if is_at_end {
                    padding = class.class.padding.padded(length) - length;
                } else {
                    memory.grow();
                }
            }
            let most = memory.batch();
            let work = move || {
                hashers.update(&batch);
                let padding = pad(&mut batch, (most, segment_size), padding);
                let pieces = encoder.encode(batch)?;
                Ok::<_, ArrayError>((encoder, hashers, padding, pieces))
            };
            let pieces;
            (encoder, hashers, padding, pieces) = tokio::task::spawn_blocking(work).await??;
            uploads.send(pieces).await?;
        }
        let pause = self.patience / PAUSES;
        let ended = ingest.has_ended();
        let is_last = memory.while_waiting(ended, pause, || uploads.are_drained());
        let at = Place {
            is_last: is_last.await?,
            ..at
        };
        let content_hash = hashers.of_extent();
        let manifest = Manifest::of_extent(file, at, length, content_hash).encode()?;
        let layout = class.class.layout(length, &manifest)?;
        let ended = tokio::task::spawn_blocking(move || encoder.finish(&manifest)).await??;
        uploads.send(ended.pieces).await?;
        // What the key proves is known now.
        let key = self.keyring.wrap(
            file.wraps,
            index,
            &key,
            &proof(&header, &layout, &ended.roots),
        )?;
        let trailer = Trailer {
            padded: layout.padded,
            manifest_length: layout.manifest_length,
            key,
            page_hashes: Vec::new(),
            roots: ended.roots.clone(),
        };
        let trailers = ended.page_hashes.into_iter().map(|page_hashes| {
            let trailer = Trailer {
                page_hashes,
                ..trailer.clone()
            };
            trailer.encode().into()
        });
        uploads.send(trailers.collect()).await?;
        let SharesStored { stored, failed } = uploads.finish().await?;
        for failed in &failed {
            let text = &failed.fault.text;
            self.health.failed(&failed.cloud, Work::Storing, text);
        }
        let completing = Completing {
            reserve,
            memory: of_stream,
            class,
            header,
            layout,
            trailer,
            sites: &sites,
            account,
        };
        let stored = self
            .complete(&completing, stored, &failed, transfer, allocated)
            .await?;
        let extent = NewExtent {
            stream: CatalogStream {
                index,
                class: Some(class.name.clone()),
                layout,
                key,
                roots: ended.roots,
                placements: Vec::new(),
            },
            length,
            lacking: self.lacking(class.class.rule(), &homes, &stored, &failed),
            homes: homes.iter().map(|site| sites[*site].server).collect(),
            targets: allocated
                .iter()
                .filter(|(of, _)| *of == index)
                .flat_map(|(_, targets)| targets.iter().copied())
                .collect(),
            stored: stored
                .iter()
                .map(|(spot, stored)| (self.target(spot), *stored))
                .collect(),
        };
        Ok((extent, hashers))
    }

    /// Adds shares that are computed from those that are stored, if the rule is not met without
    /// them.
    async fn complete(
        &self,
        stream: &Completing<'_>,
        mut stored: Vec<(Spot, Stored)>,
        failed: &[Failed],
        transfer: &Transfer,
        allocated: &mut Allocated,
    ) -> Result<Vec<(Spot, Stored)>> {
        let spots: Vec<Spot> = stored.iter().map(|(spot, _)| *spot).collect();
        let (rule, mut wanted) = (stream.class.class.rule(), spots.clone());
        let (missing, on) = (rule.missing(&spots), sites_of(&spots));
        if !rule.add_seconds(stream.sites, &mut wanted, missing, &on) {
            return Err(too_few(rule, stream.sites, &spots, failed));
        }
        let seconds = wanted.split_off(spots.len());
        if seconds.is_empty() {
            return Ok(stored);
        }
        self.allocate_seconds(stream, &seconds, failed, allocated)
            .await?;
        let sources = spots.iter().map(|(share, site)| {
            let header = Header {
                share: *share,
                ..stream.header
            };
            let root = stream.trailer.roots.get(usize::from(share.0)).copied();
            let server = self.servers[*site].clone();
            ShareReader::new(server, header, stream.layout, root, Transfer::default())
        });
        let rebuild = Rebuild {
            codec: stream.class.codec.clone(),
            sources: sources.collect(),
            header: stream.header,
            layout: stream.layout,
            trailer: stream.trailer.clone(),
            patience: self.patience,
            memory: stream.memory.clone(),
            transfer: transfer.clone(),
        };
        let on = seconds.iter();
        let on = on.map(|(share, site)| (*share, self.servers[*site].clone()));
        match rebuild.store_on(on.collect()).await {
            Ok(rebuilt) => stored.extend(seconds.into_iter().zip(rebuilt)),
            Err(RebuildFault { cloud, fault }) => {
                let of_seconds = seconds.first().copied().unwrap_or((ShareNum(0), 0));
                let failed = failed.iter().cloned().chain([Failed {
                    spot: of_seconds,
                    cloud,
                    fault,
                }]);
                let failed: Vec<_> = failed.collect();
                return Err(too_few(rule, stream.sites, &spots, &failed));
            }
        }
        Ok(stored)
    }

    /// Allocates shares that are computed at the end. A share that failed at the same place is sent
    /// again: its bytes are the same. What the others that failed had reserved is given back first.
    async fn allocate_seconds(
        &self,
        stream: &Completing<'_>,
        seconds: &[Spot],
        failed: &[Failed],
        allocated: &mut Allocated,
    ) -> Result<()> {
        let index = stream.header.index;
        let given_up = failed.iter().map(|failed| failed.spot);
        let given_up: Vec<Spot> = given_up.filter(|spot| !seconds.contains(spot)).collect();
        self.catalog.abandon(index, self.targets(&given_up)).await?;
        let is_new = |spot: &&Spot| !failed.iter().any(|failed| failed.spot == **spot);
        let new: Vec<Spot> = seconds.iter().filter(is_new).copied().collect();
        let targets = self.targets(&new);
        // What the others gave back, so that as much stays reserved as before.
        let released = stream.reserve.saturating_mul(given_up.len() as u64);
        let reserve = released.div_ceil(targets.len().max(1) as u64);
        self.catalog
            .begin(index, targets.clone(), stream.account, reserve)
            .await?;
        allocated.push((index, targets));
        Ok(())
    }

    /// Returns the shares that a stream lacks, with the reasons.
    fn lacking(
        &self,
        rule: Rule,
        homes: &[usize],
        stored: &[(Spot, Stored)],
        failed: &[Failed],
    ) -> Vec<Lacking> {
        let spots: Vec<Spot> = stored.iter().map(|(spot, _)| *spot).collect();
        // A share for which there is no cloud is not lacking on any.
        let has_a_cloud = |share: &ShareNum| usize::from(share.0) < self.servers.len();
        let missing = rule.missing(&spots).into_iter().filter(has_a_cloud);
        let lacking = missing.map(|share| {
            let cloud = homes
                .get(usize::from(share.0))
                .map_or("", |site| self.servers[*site].name());
            let fault = failed.iter().find(|failed| failed.spot.0 == share);
            let reason = match fault {
                Some(failed) => shortened(&failed.fault.text),
                None => homes
                    .get(usize::from(share.0))
                    .map_or(String::new(), |site| self.why_down(&self.servers[*site])),
            };
            Lacking {
                share,
                cloud: cloud.to_owned(),
                reason,
            }
        });
        lacking.collect()
    }

    fn target(&self, (share, site): &Spot) -> Target {
        Target {
            share: *share,
            server: self.servers[*site].id(),
        }
    }

    fn targets(&self, spots: &[Spot]) -> Vec<Target> {
        spots.iter().map(|spot| self.target(spot)).collect()
    }
}

/// Returns the length of each share of an extent, in bytes. It includes the manifest, whose length
/// follows from the file's name and the extent's place.
fn share_length(class: &OpenClass, file: &Described, at: Place, length: u64) -> Result<u64> {
    let manifest = Manifest::of_extent(file, at, length, [0; 32]).encode()?;
    Ok(class.class.layout(length, &manifest)?.share_length())
}

/// A stream whose shares were sent.
struct Completing<'a> {
    /// Bytes that are reserved for each share.
    reserve: u64,
    memory: Arc<StreamMemory>,
    class: &'a OpenClass,
    header: Header,
    layout: Layout,
    /// The trailer, without the hashes of a share's pages.
    trailer: Trailer,
    sites: &'a [Site],
    account: AccountId,
}

/// Adds zeros to the last segments of a content, up to a batch of `most` segments. Returns how many
/// bytes are still to be added.
fn pad(batch: &mut Vec<Vec<u8>>, (most, segment_size): (usize, usize), padding: u64) -> u64 {
    let mut left = padding;
    let mut zeros = |room: usize| {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        left -= count as u64;
        count
    };
    if let Some(last) = batch.last_mut() {
        let count = zeros(segment_size - last.len());
        last.resize(last.len() + count, 0);
    }
    while batch.len() < most {
        match zeros(segment_size) {
            0 => break,
            count => batch.push(vec![0; count]),
        }
    }
    left
}

/// A stream that is about to be stored.
struct Streaming<'a> {
    /// Bytes that are reserved for each share.
    reserve: u64,
    class: &'a OpenClass,
    index: StorageIndex,
    at: Place,
    /// Bytes of each share, if they are known.
    share_length: Option<u64>,
    sites: Vec<Site>,
    /// The site of each share's home.
    homes: Vec<usize>,
    /// Where shares are written.
    spots: Vec<Spot>,
    account: AccountId,
}
