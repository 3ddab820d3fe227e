//! Sends the shares of one stream to their clouds, all at once. The slowest cloud sets the pace of
//! all, until it is given up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use raic_storage::{
    ShareId, ShareNum, ShareWriter, StorageError, StorageIndex, StorageServer, Stored,
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{ArrayError, Fault, Result, Transfer};

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

/// All shares of one stream, on their way to their clouds.
pub(crate) struct ShareUploads {
    shares: Vec<ShareUpload>,
    rule: Rule,
    lacking: Vec<(ShareNum, String, WriteFault)>,
}

/// When a stream may be acknowledged, and how long clouds are waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// Shares that suffice to read the stream.
    pub(crate) k: usize,
    /// Failure domains that may be lost right after the stream was acknowledged.
    pub(crate) survive: usize,
    /// Shares that must be stored.
    pub(crate) needed: usize,
    /// How long the other clouds wait for one that takes nothing.
    pub(crate) patience: Duration,
}

/// The outcome of a stream's shares.
pub(crate) struct SharesStored {
    /// The shares that were stored, with their objects and bytes.
    pub(crate) stored: Vec<(ShareNum, Stored)>,
    /// The shares that were not stored, each with its cloud and the reason.
    pub(crate) lacking: Vec<(ShareNum, String, String)>,
}

impl ShareUploads {
    /// Begins the shares of a stream: share i goes to server i. `length` is that of each share, if
    /// it is known. `takes_sample` says of which clouds a sample is read back.
    pub(crate) fn begin(
        index: StorageIndex,
        servers: &[Arc<StorageServer>],
        length: Option<u64>,
        takes_sample: impl Fn(&StorageServer) -> bool,
        transfer: &Transfer,
        rule: Rule,
    ) -> Self {
        let shares = servers.iter().zip(0..).map(|(server, share)| {
            let id = ShareId {
                index,
                share: ShareNum(share),
            };
            let sampled = (transfer.clone(), takes_sample(server));
            begin_share(server.clone(), id, length, sampled)
        });
        Self {
            shares: shares.collect(),
            rule,
            lacking: Vec::new(),
        }
    }

    /// Hands every share its next piece. It waits for room, and gives up shares that take too long.
    pub(crate) async fn send(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let waiting =
            self.shares
                .iter()
                .zip(pieces)
                .enumerate()
                .filter_map(|(i, (share, piece))| {
                    let queue = share.queue.clone()?;
                    Some(async move { (i, queue.send(Piece::Bytes(piece)).await.is_ok()) })
                });
        let sent = patiently(waiting.collect(), self.rule.needed, self.rule.patience).await;
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
    pub(crate) async fn finish(mut self) -> Result<SharesStored> {
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
        let ended = patiently(waiting, self.rule.needed, self.rule.patience).await;
        let mut stored = Vec::new();
        for (i, share) in open.into_iter().enumerate() {
            match ended.iter().find(|(number, _)| *number == i) {
                Some((_, Ok(kept))) => stored.push((share.share, *kept)),
                given_up => {
                    let fault = match given_up {
                        Some((_, Err(fault))) => fault.clone(),
                        _ => too_slow(&share.cloud, self.rule.patience).into(),
                    };
                    tracing::warn!("share {} was given up: {}", share.share, fault.text);
                    self.lacking.push((share.share, share.cloud.clone(), fault));
                }
            }
        }
        self.require_enough()?;
        let lacking = self.lacking.into_iter();
        Ok(SharesStored {
            stored,
            lacking: lacking
                .map(|(share, cloud, fault)| (share, cloud, fault.text))
                .collect(),
        })
    }

    /// Gives up a share whose cloud is too slow (`slow`), or whose task has ended.
    async fn give_up(&mut self, share: usize, slow: bool) {
        let share = &mut self.shares[share];
        share.queue = None;
        let fault = if slow {
            share.task.abort();
            too_slow(&share.cloud, self.rule.patience).into()
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
        let left: usize = domains.iter().skip(self.rule.survive).sum();
        if stored >= self.rule.needed && (left >= self.rule.k || self.lacking.is_empty()) {
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
            needed: self.rule.needed,
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
