//! Stores a stream: all shares go out at once. The slowest cloud sets the pace of all, until it is
//! given up.
//!
//! Order of writes: a transaction allocates the shares that will be written, then the shares go
//! out, then one transaction makes the file. A crash before that last transaction leaves COMING
//! shares, which rest and are then collected. After it the file is whole. See
//! `docs/decisions/0001-order-of-writes.md`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream::FuturesUnordered};
use raic_storage::{
    AccountId, ShareId, ShareNum, ShareWriter, StorageError, StorageIndex, StorageServer, Stored,
    held_by_writers,
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ArrayError, Fault, PutOptions, Result, Transfer,
    array::Inner,
    catalog::{FileInfo, Lacking, NewFile, Stream as CatalogStream, Target},
    format::{Header, Layout, Trailer},
    health::{Work, shortened},
    keyring::stream_key,
    segment::{Encoder, Sealer},
};

/// Segments that are coded at once on the blocking pool: about 2 ms of work.
const BATCH: usize = 8;
/// How long the content may pause, as a multiple of the patience with clouds. A pipe may be slow to
/// begin.
const IDLE: u32 = 5;
/// Most pieces that wait for one cloud. Each is one batch.
const QUEUE: usize = 2;

/// The manifest of a stream, for a reader that finds a share without a catalog.
#[derive(serde::Serialize)]
struct Manifest<'a> {
    name: &'a str,
    length: u64,
    content_hash: String,
}

fn manifest(name: &str, length: u64, content_hash: [u8; 32]) -> Result<Vec<u8>> {
    let content_hash = blake3::Hash::from(content_hash).to_hex().to_string();
    serde_json::to_vec(&Manifest {
        name,
        length,
        content_hash,
    })
    .map_err(|e| ArrayError::Task(e.to_string()))
}

/// The lengths that follow from the size that the caller announced before the upload.
#[derive(Clone, Copy, Debug)]
struct Announced {
    /// Bytes of content, as announced.
    size: u64,
    /// Bytes of each share.
    share_length: u64,
}

/// Bytes of a share's beginning that are read back.
const SAMPLE: usize = 64 << 10;
/// Longest time that reading the sample back may take. A cloud that is slower is not a liar.
const SAMPLING: Duration = Duration::from_secs(10);

/// The beginning of a share, which is read back once the share is stored. So a cloud that loses or
/// changes shares is found while the content is still elsewhere, and not when it is needed.
#[derive(Debug, Default)]
struct Sample(Vec<u8>);

impl Sample {
    fn take(&mut self, bytes: &Bytes) {
        let room = SAMPLE - self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    async fn compare(self, server: &StorageServer, id: ShareId) -> Result<(), WriteFault> {
        let cloud = server.name();
        let read = async {
            let mut pieces = server.read(id, 0..self.0.len() as u64).await?;
            let mut offset = 0;
            while let Some(piece) = pieces.next().await.transpose()? {
                let past = offset + piece.len();
                if self.0.get(offset..past) != Some(&piece[..]) {
                    return Ok(false);
                }
                offset = past;
            }
            Ok::<_, StorageError>(offset == self.0.len())
        };
        match tokio::time::timeout(SAMPLING, read).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                tracing::error!(
                    "cloud {cloud:?} returned other bytes than were stored a moment before: do not \
                     trust it"
                );
                Err(format!("cloud {cloud:?}: it returned other bytes than were stored").into())
            }
            // The share may appear late, or the cloud may answer later. Reads and walks will show
            // it.
            Ok(Err(e)) => {
                tracing::warn!("cloud {cloud:?}: the share just stored cannot be read back: {e}");
                Ok(())
            }
            Err(_) => {
                tracing::warn!(
                    "cloud {cloud:?}: the share just stored was not read back within {} s",
                    SAMPLING.as_secs()
                );
                Ok(())
            }
        }
    }
}

/// A piece of a share, for the task that writes it.
enum Piece {
    Bytes(Bytes),
    End,
}

/// One share on its way to one cloud.
struct ShareUpload {
    share: ShareNum,
    cloud: String,
    domain: String,
    /// Queue of pieces to the task that writes the share; `None` once the share failed.
    queue: Option<mpsc::Sender<Piece>>,
    task: AbortOnDropHandle<Result<Stored, WriteFault>>,
}

/// The reason why a share was not stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WriteFault {
    text: String,
    is_full: bool,
}

impl From<StorageError> for WriteFault {
    fn from(e: StorageError) -> Self {
        Self {
            text: e.to_string(),
            is_full: e.is_full(),
        }
    }
}

impl From<String> for WriteFault {
    fn from(text: String) -> Self {
        Self {
            text,
            is_full: false,
        }
    }
}

fn begin_share(
    server: Arc<StorageServer>,
    id: ShareId,
    length: Option<u64>,
    (transfer, takes_sample): (Transfer, bool),
) -> ShareUpload {
    let (queue, pieces) = mpsc::channel(QUEUE);
    let (cloud, domain) = (server.name().to_owned(), server.domain().to_owned());
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let sample = takes_sample.then(Sample::default);
        write_share(&server, id, length, pieces, (transfer, sample)).await
    }));
    ShareUpload {
        share: id.share,
        cloud,
        domain,
        queue: Some(queue),
        task,
    }
}

async fn write_share(
    server: &StorageServer,
    id: ShareId,
    length: Option<u64>,
    mut pieces: mpsc::Receiver<Piece>,
    (transfer, mut sample): (Transfer, Option<Sample>),
) -> Result<Stored, WriteFault> {
    let mut writer: Box<dyn ShareWriter> = server.create(id, length).await?;
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Bytes(bytes) => {
                let length = bytes.len();
                if let Some(sample) = &mut sample {
                    sample.take(&bytes);
                }
                writer.write(bytes).await?;
                transfer.add(server.name(), length);
            }
            Piece::End => {
                let stored = writer.finish().await?;
                if let Some(sample) = sample {
                    sample.compare(server, id).await?;
                }
                return Ok(stored);
            }
        }
    }
    Err("the upload was given up".to_owned().into())
}

impl Inner {
    /// Stores `content` as `name`. When this returns, the file is durable and survives the loss of
    /// `survive` more clouds.
    pub(crate) async fn store<S, E>(
        &self,
        name: String,
        content: S,
        options: PutOptions,
    ) -> Result<FileInfo>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::fmt::Display,
    {
        // Before a cloud is asked: a misspelt name is answered at once.
        let account = match &options.account {
            Some(name) => self.catalog.leasedb().storing_account(name).await?.id,
            None => AccountId::ANONYMOUS,
        };
        self.keyring_is_stored().await?;
        // Without the clouds that failed lately, the file would be refused. Perhaps they are back.
        let (suspects, others): (Vec<_>, Vec<_>) = self
            .servers
            .iter()
            .partition(|server| self.health.failed_lately(server.name()));
        if others.len() < self.needed() {
            self.that_answer(suspects).await;
        }
        let index = StorageIndex::random().map_err(|_| ArrayError::Randomness)?;
        let PutOptions { transfer, size, .. } = options;
        let target = |(s, share): (&Arc<StorageServer>, u8)| Target {
            share: ShareNum(share),
            server: s.id(),
        };
        let targets: Vec<Target> = self.servers.iter().zip(0..).map(target).collect();
        let layout = |length| Layout {
            geometry: self.geometry,
            segment_size: self.segment_size,
            length,
            manifest_length: 0,
        };
        // The length includes the manifest, whose length follows from the name and the size.
        let reserve = match size {
            Some(size) => {
                let manifest_length = manifest(&name, size, [0; 32])?.len();
                let manifest_length =
                    u32::try_from(manifest_length).map_err(|e| ArrayError::Task(e.to_string()))?;
                Layout {
                    manifest_length,
                    ..layout(size)
                }
                .share_length()
            }
            None => 0,
        };
        // This comes before the upload holds anything: it waits for memory without holding any.
        let _reserved = self
            .budget
            .reserve(self.held_by_upload(size.map(|_| reserve)))
            .await;
        self.catalog
            .begin(index, targets.clone(), account, reserve)
            .await?;
        let stored = async {
            let file = self
                .store_stream(
                    index,
                    name,
                    content,
                    size.map(|size| Announced {
                        size,
                        share_length: reserve,
                    }),
                    transfer,
                )
                .await?;
            self.catalog.commit(file, targets.clone(), account).await
        };
        let stored = stored.await;
        let lacking: Vec<(&str, &str)> = match &stored {
            Ok(file) => file
                .lacking
                .iter()
                .map(|lacking| (lacking.cloud.as_str(), lacking.reason.as_str()))
                .collect(),
            Err(ArrayError::TooFewClouds { faults, .. }) => faults
                .iter()
                .map(|f| (f.cloud.as_str(), f.text.as_str()))
                .collect(),
            Err(_) => Vec::new(),
        };
        for (cloud, why) in lacking {
            self.health.failed(cloud, Work::Storing, why);
        }
        if stored.is_err() {
            // A commit that came through although it was reported as failed has left nothing to
            // abandon.
            if let Err(e) = self.catalog.abandon(index, targets).await {
                tracing::warn!("the shares of {index} are only deleted after the next start: {e}");
            }
        }
        // The shares of the replaced file, and the parts of failed shares, are to be collected.
        self.servers.iter().for_each(|server| server.wake());
        stored
    }

    /// Returns the most bytes that an upload holds: pieces that wait for its clouds, and the chunks
    /// of its writers.
    fn held_by_upload(&self, share_length: Option<u64>) -> u64 {
        let (n, share_length) = (self.servers.len(), share_length.unwrap_or(u64::MAX));
        let block = u64::from(self.segment_size).div_ceil(u64::from(self.geometry.k));
        // The batch that is being coded, those that wait, and the one that a writer takes.
        let batches = (BATCH * (QUEUE + 2)) as u64 * block;
        held_by_writers(n, share_length) + n as u64 * share_length.min(batches)
    }

    async fn store_stream<S, E>(
        &self,
        index: StorageIndex,
        name: String,
        mut content: S,
        announced: Option<Announced>,
        transfer: Transfer,
    ) -> Result<NewFile>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::fmt::Display,
    {
        let key = stream_key()?;
        let (generation, wrapped_key) = self.keyring.wrap(index, &key)?;
        let header = Header {
            array: self.keyring.array,
            index,
            share: ShareNum(0),
            geometry: self.geometry,
            segment_size: self.segment_size,
        };
        let sealer = Sealer::new(&key, &self.keyring.array, index);
        let mut encoder = Encoder::new(self.codec.clone(), sealer, header);
        let mut uploads = Uploads {
            shares: self
                .servers
                .iter()
                .zip(0..)
                .map(|(s, i)| {
                    let takes_sample = self.health.takes_sample(s.name());
                    let length = announced.map(|announced| announced.share_length);
                    begin_share(
                        s.clone(),
                        ShareId {
                            index,
                            share: ShareNum(i),
                        },
                        length,
                        (transfer.clone(), takes_sample),
                    )
                })
                .collect(),
            k: usize::from(self.geometry.k),
            survive: self.survive,
            needed: self.needed(),
            patience: self.patience,
            lacking: Vec::new(),
        };

        let mut hasher = blake3::Hasher::new();
        let mut received = 0_u64;
        let segment_size = self.segment_size as usize;
        let mut batch: Vec<Vec<u8>> = Vec::new();
        let mut filling: Vec<u8> = Vec::with_capacity(segment_size);
        // An upload does not hold its memory for a sender that sends nothing.
        let idle = self.patience * IDLE;
        let stopped = |_| ArrayError::Content(format!("nothing came for {idle:?}"));
        while let Some(piece) = tokio::time::timeout(idle, content.next())
            .await
            .map_err(stopped)?
        {
            let mut piece = piece.map_err(|e| ArrayError::Content(e.to_string()))?;
            received += piece.len() as u64;
            // Memory and quota were reserved for the announced size. A file that changes while it
            // is sent is another file.
            if let Some(Announced { size, .. }) =
                announced.filter(|announced| received > announced.size)
            {
                return Err(ArrayError::Content(format!(
                    "it is longer than the {size} bytes that were announced"
                )));
            }
            while !piece.is_empty() {
                let room = segment_size - filling.len();
                filling.extend_from_slice(&piece.split_to(room.min(piece.len())));
                if filling.len() == segment_size {
                    // There is room for the tag, which sealing adds.
                    batch.push(std::mem::replace(
                        &mut filling,
                        Vec::with_capacity(segment_size + 16),
                    ));
                }
                if batch.len() == BATCH {
                    (encoder, hasher) = uploads
                        .encode(encoder, hasher, std::mem::take(&mut batch), false)
                        .await?;
                }
            }
        }
        if let Some(Announced { size, .. }) =
            announced.filter(|announced| received < announced.size)
        {
            return Err(ArrayError::Content(format!(
                "it ended after {received} of the {size} bytes that were announced"
            )));
        }
        if !filling.is_empty() {
            batch.push(filling);
        }
        if !batch.is_empty() {
            (encoder, hasher) = uploads.encode(encoder, hasher, batch, false).await?;
        }

        let length = received;
        let content_hash = *hasher.finalize().as_bytes();
        let manifest = manifest(&name, length, content_hash)?;
        let manifest_length =
            u32::try_from(manifest.len()).map_err(|e| ArrayError::Task(e.to_string()))?;
        let (encoder, _) = uploads
            .encode(encoder, hasher, vec![manifest], true)
            .await?;
        let (page_hashes, roots): (Vec<_>, Vec<_>) = encoder.finish().into_iter().unzip();
        let trailer = |page_hashes| {
            let roots = roots.clone();
            Trailer {
                length,
                manifest_length,
                generation,
                wrapped_key,
                page_hashes,
                roots,
            }
            .encode()
            .into()
        };
        uploads
            .send(page_hashes.into_iter().map(trailer).collect())
            .await?;
        let stored = uploads.finish().await?;

        let layout = Layout {
            geometry: self.geometry,
            segment_size: self.segment_size,
            length,
            manifest_length,
        };
        let stream = CatalogStream {
            index,
            layout,
            generation,
            wrapped_key,
            roots,
            placements: Vec::new(),
        };
        let lacking = uploads
            .lacking
            .into_iter()
            .map(|(share, cloud, fault)| Lacking {
                share,
                cloud,
                reason: shortened(&fault.text),
            });
        Ok(NewFile {
            name,
            content_hash,
            stream,
            stored,
            lacking: lacking.collect(),
        })
    }
}

/// All shares of one stream, on their way to their clouds.
struct Uploads {
    shares: Vec<ShareUpload>,
    k: usize,
    survive: usize,
    needed: usize,
    patience: Duration,
    lacking: Vec<(ShareNum, String, WriteFault)>,
}

impl Uploads {
    /// Codes segments and sends their blocks. `last` marks the manifest, which is not hashed as
    /// content. Gives encoder and hasher back.
    async fn encode(
        &mut self,
        mut encoder: Encoder,
        mut hasher: blake3::Hasher,
        segments: Vec<Vec<u8>>,
        last: bool,
    ) -> Result<(Encoder, blake3::Hasher)> {
        let work = move || {
            if !last {
                segments.iter().for_each(|s| {
                    hasher.update(s);
                });
            }
            let pieces = encoder.encode(segments, last)?;
            Ok::<_, ArrayError>((encoder, hasher, pieces))
        };
        let (encoder, hasher, pieces) = tokio::task::spawn_blocking(work).await??;
        self.send(pieces).await?;
        Ok((encoder, hasher))
    }

    /// Hands every share its next piece. It waits for room, and gives up shares that take too long.
    async fn send(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let waiting =
            self.shares
                .iter()
                .zip(pieces)
                .enumerate()
                .filter_map(|(i, (share, piece))| {
                    let queue = share.queue.clone()?;
                    Some(async move { (i, queue.send(Piece::Bytes(piece)).await.is_ok()) })
                });
        let sent = patiently(waiting.collect(), self.needed, self.patience).await;
        for i in 0..self.shares.len() {
            let sent = sent
                .iter()
                .find(|(number, _)| *number == i)
                .map(|(_, sent)| *sent);
            if self.shares[i].queue.is_some() && sent != Some(true) {
                self.give_up(i, sent.is_none()).await;
            }
        }
        self.require_enough()
    }

    /// Ends all shares. Returns those that were stored.
    async fn finish(&mut self) -> Result<Vec<(ShareNum, Stored)>> {
        let mut open: Vec<_> = self
            .shares
            .iter_mut()
            .filter(|share| share.queue.is_some())
            .collect();
        let waiting = open.iter_mut().enumerate().map(|(i, share)| async move {
            // A share that failed meanwhile reports that by its outcome.
            if let Some(queue) = share.queue.take() {
                let _ = queue.send(Piece::End).await;
            }
            (i, outcome(&mut share.task).await)
        });
        let waiting: FuturesUnordered<_> = waiting.collect();
        let ended = patiently(waiting, self.needed, self.patience).await;
        let mut stored = Vec::new();
        for (i, share) in open.into_iter().enumerate() {
            match ended.iter().find(|(number, _)| *number == i) {
                Some((_, Ok(kept))) => stored.push((share.share, *kept)),
                given_up => {
                    let fault = match given_up {
                        Some((_, Err(fault))) => fault.clone(),
                        _ => too_slow(&share.cloud, self.patience).into(),
                    };
                    tracing::warn!("share {} was given up: {}", share.share, fault.text);
                    self.lacking.push((share.share, share.cloud.clone(), fault));
                }
            }
        }
        self.require_enough()?;
        Ok(stored)
    }

    /// Gives up a share whose cloud is too slow (`slow`), or whose task has ended.
    async fn give_up(&mut self, share: usize, slow: bool) {
        let share = &mut self.shares[share];
        share.queue = None;
        let fault = if slow {
            share.task.abort();
            too_slow(&share.cloud, self.patience).into()
        } else {
            let ended = outcome(&mut share.task).await.err();
            ended.unwrap_or_else(|| "it ended early".to_owned().into())
        };
        tracing::warn!("share {} was given up: {}", share.share, fault.text);
        self.lacking.push((share.share, share.cloud.clone(), fault));
    }

    /// Requires that enough shares are left: the file must survive the loss of `survive` more
    /// failure domains.
    fn require_enough(&self) -> Result<()> {
        let n = self.shares.len();
        let stored = n - self.lacking.len();
        // Clouds of one failure domain are lost together.
        let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
        for share in self
            .shares
            .iter()
            .filter(|s| !self.lacking.iter().any(|(number, ..)| *number == s.share))
        {
            *domains.entry(&share.domain).or_default() += 1;
        }
        let mut domains: Vec<usize> = domains.into_values().collect();
        domains.sort_unstable_by(|a, b| b.cmp(a));
        let left: usize = domains.iter().skip(self.survive).sum();
        if stored >= self.needed && (left >= self.k || self.lacking.is_empty()) {
            return Ok(());
        }
        let faults = self.lacking.iter().map(|(_, cloud, fault)| Fault {
            cloud: cloud.clone(),
            text: fault.text.clone(),
        });
        let is_full = self.lacking.iter().all(|(.., fault)| fault.is_full);
        Err(ArrayError::TooFewClouds {
            stored,
            n,
            needed: self.needed,
            is_full,
            faults: faults.collect(),
        })
    }
}

/// Waits for futures and returns the outputs that came. It waits long until as many as are `needed`
/// have come. After that it goes on as long as the next one comes within `patience`.
async fn patiently<F: Future>(
    mut waiting: FuturesUnordered<F>,
    needed: usize,
    patience: Duration,
) -> Vec<F::Output> {
    let mut done = Vec::new();
    loop {
        // On a slow line all clouds are slow, and no cloud waits for another.
        let patience = if done.len() < needed {
            patience * 5
        } else {
            patience
        };
        match tokio::time::timeout(patience, waiting.next()).await {
            Ok(Some(one)) => done.push(one),
            Ok(None) | Err(_) => return done,
        }
    }
}

fn too_slow(cloud: &str, patience: Duration) -> String {
    format!("cloud {cloud:?}: too slow: it took nothing for {patience:?} while the others waited")
}

/// Waits for the end of a share's task, and returns the objects and bytes that were stored.
async fn outcome(
    task: &mut AbortOnDropHandle<Result<Stored, WriteFault>>,
) -> Result<Stored, WriteFault> {
    task.await.unwrap_or_else(|e| Err(e.to_string().into()))
}
