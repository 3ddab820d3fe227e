//! Sends the shares of one stream to their clouds, all at once. The slowest cloud sets the pace of
//! all, until it is given up.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use raic_storage::{ShareId, ShareWriter, StorageError, StorageIndex, StorageServer, Stored};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ArrayError, Fault, Result, Transfer,
    place::{Rule, Site, Spot, sites_of},
};

/// Most pieces that wait for one cloud. Each is one batch.
pub(crate) const QUEUE: usize = 2;
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
                let text = format!("cloud {cloud:?}: it returned other bytes than were stored");
                Err(WriteFault {
                    is_lie: true,
                    ..text.into()
                })
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
    spot: Spot,
    cloud: String,
    /// Queue of pieces to the task that writes the share; `None` once the share failed.
    queue: Option<mpsc::Sender<Piece>>,
    task: AbortOnDropHandle<Result<Stored, WriteFault>>,
}

/// The reason why a share was not stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WriteFault {
    pub(crate) text: String,
    pub(crate) is_full: bool,
    /// Whether the cloud returned other bytes than it had taken.
    pub(crate) is_lie: bool,
}

impl From<StorageError> for WriteFault {
    fn from(e: StorageError) -> Self {
        Self {
            text: e.to_string(),
            is_full: e.is_full(),
            is_lie: false,
        }
    }
}

impl From<String> for WriteFault {
    fn from(text: String) -> Self {
        Self {
            text,
            is_full: false,
            is_lie: false,
        }
    }
}

/// A share that was not stored.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) spot: Spot,
    pub(crate) cloud: String,
    pub(crate) fault: WriteFault,
}

fn begin_share(
    server: Arc<StorageServer>,
    (id, site): (ShareId, usize),
    length: Option<u64>,
    (transfer, takes_sample): (Transfer, bool),
) -> ShareUpload {
    let (queue, pieces) = mpsc::channel(QUEUE);
    let cloud = server.name().to_owned();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let sample = takes_sample.then(Sample::default);
        write_share(&server, id, length, pieces, (transfer, sample)).await
    }));
    ShareUpload {
        spot: (id.share, site),
        cloud,
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

/// All shares of one stream, on their way to their clouds.
pub(crate) struct ShareUploads {
    shares: Vec<ShareUpload>,
    rule: Rule,
    sites: Vec<Site>,
    /// How long the other clouds wait for one that takes nothing.
    patience: Duration,
    failed: Vec<Failed>,
}

/// The outcome of a stream's shares.
pub(crate) struct SharesStored {
    /// The shares that were stored, with their objects and bytes.
    pub(crate) stored: Vec<(Spot, Stored)>,
    /// The shares that were not stored.
    pub(crate) failed: Vec<Failed>,
}

/// What an upload does beside sending shares.
pub(crate) struct Watching<'a, F: Fn(&StorageServer) -> bool> {
    /// Says of which clouds a sample is read back.
    pub(crate) takes_sample: F,
    /// Counts what each cloud takes.
    pub(crate) transfer: &'a Transfer,
}

impl ShareUploads {
    /// Begins the shares of a stream at their spots: a spot's site is the place of a server in
    /// `servers`. `length` is that of each share, if it is known.
    pub(crate) fn begin<F: Fn(&StorageServer) -> bool>(
        index: StorageIndex,
        servers: &[Arc<StorageServer>],
        (sites, spots): (Vec<Site>, &[Spot]),
        length: Option<u64>,
        (rule, patience): (Rule, Duration),
        watching: Watching<'_, F>,
    ) -> Self {
        let shares = spots.iter().map(|(share, site)| {
            let (server, share) = (&servers[*site], *share);
            let sampled = (watching.transfer.clone(), (watching.takes_sample)(server));
            let at = (ShareId { index, share }, *site);
            begin_share(server.clone(), at, length, sampled)
        });
        Self {
            shares: shares.collect(),
            rule,
            sites,
            patience,
            failed: Vec::new(),
        }
    }

    /// Hands every share its next piece: the pieces are in the order of share numbers. It waits for
    /// room, and gives up shares that take too long.
    pub(crate) async fn send(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let waiting = self.shares.iter().enumerate().filter_map(|(i, share)| {
            let queue = share.queue.clone()?;
            let piece = pieces.get(usize::from(share.spot.0.0))?.clone();
            Some(async move { (i, queue.send(Piece::Bytes(piece)).await.is_ok()) })
        });
        let sent = patiently(waiting.collect(), self.needed(), self.patience).await;
        for i in 0..self.shares.len() {
            let sent = sent
                .iter()
                .find(|(number, _)| *number == i)
                .map(|(_, sent)| *sent);
            if self.shares[i].queue.is_some() && sent != Some(true) {
                self.give_up(i, sent.is_none()).await;
            }
        }
        self.require_possible()
    }

    /// Ends all shares. Returns those that were stored. They may be too few for the rule, but
    /// enough to compute the others from.
    pub(crate) async fn finish(mut self) -> Result<SharesStored> {
        let needed = self.needed();
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
        let ended = patiently(waiting, needed, self.patience).await;
        let mut stored = Vec::new();
        for (i, share) in open.into_iter().enumerate() {
            match ended.iter().find(|(number, _)| *number == i) {
                Some((_, Ok(kept))) => stored.push((share.spot, *kept)),
                given_up => {
                    let fault = match given_up {
                        Some((_, Err(fault))) => fault.clone(),
                        _ => too_slow(&share.cloud, self.patience).into(),
                    };
                    self.failed.push(gone(share, fault));
                }
            }
        }
        // What a liar took does not count, whichever share it was that it changed.
        let liars: BTreeSet<usize> = self
            .failed
            .iter()
            .filter(|failed| failed.fault.is_lie)
            .map(|failed| failed.spot.1)
            .collect();
        let lies = |((_, site), _): &mut (Spot, Stored)| liars.contains(site);
        for (spot, _) in stored.extract_if(.., lies) {
            let share = self.shares.iter().find(|share| share.spot == spot);
            self.failed.extend(share.map(|share| {
                let text = format!("cloud {:?}: it changes what it stores", share.cloud);
                gone(share, text.into())
            }));
        }
        self.require_possible()?;
        Ok(SharesStored {
            stored,
            failed: self.failed,
        })
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
        self.failed.push(gone(share, fault));
    }

    /// The number of shares that are waited for longer than for the others: all, if some are second
    /// shares already.
    fn needed(&self) -> usize {
        let spots: Vec<Spot> = self.shares.iter().map(|share| share.spot).collect();
        match sites_of(&spots).len() < spots.len() {
            true => spots.len(),
            false => usize::from(self.rule.geometry.k) + self.rule.survive,
        }
    }

    /// Requires that the rule can be met: with the shares that are left, and others that are
    /// computed from them and stored beside them.
    fn require_possible(&self) -> Result<()> {
        let has_failed = |spot: &Spot| self.failed.iter().any(|failed| failed.spot == *spot);
        let spots = self.shares.iter().map(|share| share.spot);
        let left: Vec<Spot> = spots.filter(|spot| !has_failed(spot)).collect();
        match self.rule.can_be_met(&self.sites, &left) {
            true => Ok(()),
            false => Err(too_few(self.rule, &left, &self.failed)),
        }
    }
}

/// Makes the error of a stream that too few clouds took.
pub(crate) fn too_few(rule: Rule, stored: &[Spot], failed: &[Failed]) -> ArrayError {
    let faults = failed.iter().map(|failed| Fault {
        cloud: failed.cloud.clone(),
        text: failed.fault.text.clone(),
    });
    ArrayError::TooFewClouds {
        stored: sites_of(stored).len(),
        n: rule.geometry.n.into(),
        needed: rule.least_clouds(),
        is_full: failed.iter().all(|failed| failed.fault.is_full),
        faults: faults.collect(),
    }
}

fn gone(share: &ShareUpload, fault: WriteFault) -> Failed {
    tracing::warn!("share {} was given up: {}", share.spot.0, fault.text);
    Failed {
        spot: share.spot,
        cloud: share.cloud.clone(),
        fault,
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
