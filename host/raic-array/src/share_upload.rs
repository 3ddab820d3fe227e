//! Sends the shares of one stream to their clouds, all at once.
//!
//! A cloud may lag behind the others by a window of pieces, if there is memory for them. Beyond
//! that the others wait for it. If the rule is met without it, they wait for a part of the time
//! that they needed themselves, and then it is given up: no single cloud sets the pace.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use raic_storage::{
    ChunkBudget, Reserved, ShareId, ShareWriter, StorageError, StorageIndex, StorageServer, Stored,
    StreamMemory,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ArrayError, Fault, Result, Transfer,
    place::{Rule, Site, Spot, sites_of},
};

/// Pieces that may always wait for one cloud. Each is one batch.
pub(crate) const QUEUE: usize = 2;
/// KiB of a share by which a cloud may lag, if there is memory for them.
const WINDOW: u32 = 16 << 10;
/// Most pieces by which it may lag, however small they are.
const MOST_PIECES: usize = 1024;
/// The least time for which a stream waits for clouds without which the rule is met, and that lag
/// by more than the window.
const LEAST_LAG: Duration = Duration::from_millis(100);
/// The least time at the end of the stream, where clouds lag by less: time for a cloud on another
/// continent to take a small share, and to give its sample back.
const LEAST_AT_END: Duration = Duration::from_secs(3);
/// The longest time.
const LONGEST_LAG: Duration = Duration::from_secs(10);
/// One part in so many of the time that a stream has taken is waited for such clouds.
const LAG_SHARE: u32 = 4;
/// Bytes of a share's beginning that are read back.
const SAMPLE: usize = 64 << 10;
/// Longest time that reading the sample back may take. A cloud that is slower is not a liar.
const SAMPLING: Duration = Duration::from_secs(2);

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
    Bytes(Bytes, Held),
    End,
}

/// What a piece holds until its cloud's writer has taken it.
struct Held {
    /// The memory that it takes beyond the first few pieces.
    _reserved: Option<Reserved>,
    /// Its part of the window.
    _window: OwnedSemaphorePermit,
}

/// One share on its way to one cloud.
struct ShareUpload {
    spot: Spot,
    cloud: String,
    /// Queue of pieces to the task that writes the share; `None` once the share failed.
    queue: Option<mpsc::Sender<Piece>>,
    /// The KiB by which the cloud may still fall behind.
    window: Arc<Semaphore>,
    /// The task that writes the share; `None` once it has ended or was given up.
    task: Option<AbortOnDropHandle<Result<Stored, WriteFault>>>,
}

impl ShareUpload {
    /// Takes what is needed to end the share; `None` if it has failed.
    fn end(&mut self) -> Option<Ending> {
        Some(Ending {
            queue: self.queue.take()?,
            task: self.task.take()?,
        })
    }
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
    memory: Arc<StreamMemory>,
) -> ShareUpload {
    let (queue, pieces) = mpsc::channel(MOST_PIECES);
    let cloud = server.name().to_owned();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let sample = takes_sample.then(Sample::default);
        let writer = server.create(id, length, memory).await?;
        write_share(&server, (id, writer), pieces, (transfer, sample)).await
    }));
    ShareUpload {
        spot: (id.share, site),
        cloud,
        queue: Some(queue),
        window: Arc::new(Semaphore::new(WINDOW as usize)),
        task: Some(task),
    }
}

async fn write_share(
    server: &StorageServer,
    (id, mut writer): (ShareId, Box<dyn ShareWriter>),
    mut pieces: mpsc::Receiver<Piece>,
    (transfer, mut sample): (Transfer, Option<Sample>),
) -> Result<Stored, WriteFault> {
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Bytes(bytes, _held) => {
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
    budget: ChunkBudget,
    began: Instant,
    /// How long the stream has waited for clouds without which the rule is met.
    lagged: Duration,
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
    /// The memory for pieces that wait for a cloud that lags.
    pub(crate) budget: ChunkBudget,
    /// The memory of those who write the shares.
    pub(crate) memory: Arc<StreamMemory>,
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
            let takes_sample = (watching.takes_sample)(server);
            let sampled = (watching.transfer.clone(), takes_sample);
            let at = (ShareId { index, share }, *site);
            begin_share(server.clone(), at, length, sampled, watching.memory.clone())
        });
        Self {
            shares: shares.collect(),
            rule,
            sites,
            patience,
            budget: watching.budget,
            began: Instant::now(),
            lagged: Duration::ZERO,
            failed: Vec::new(),
        }
    }

    /// Hands every share its next piece: the pieces are in the order of share numbers. It waits for
    /// room, and gives up shares that take too long.
    pub(crate) async fn send(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let budget = &self.budget;
        // A cloud that lags by less is waited for longer: there was no memory for its pieces.
        let is_behind = |share: &ShareUpload| {
            let piece = pieces.get(usize::from(share.spot.0.0));
            let needed = piece.map_or(0, |piece| in_window(piece.len()));
            share.queue.is_some() && share.window.available_permits() < needed as usize
        };
        let least = match self.shares.iter().any(is_behind) {
            true => LEAST_LAG,
            false => LEAST_AT_END,
        };
        let waiting = self.shares.iter().enumerate().filter_map(|(i, share)| {
            let queue = share.queue.clone()?;
            let piece = pieces.get(usize::from(share.spot.0.0))?.clone();
            let window = share.window.clone();
            Some(async move { (i, hand_over(&queue, window, piece, budget).await) })
        });
        let sent = self.together(waiting.collect(), least).await;
        self.lagged += sent.lagged;
        for i in 0..self.shares.len() {
            let of_share = sent.outputs.iter().find(|(number, _)| *number == i);
            let is_sent = of_share.map(|(_, is_sent)| *is_sent);
            if self.shares[i].queue.is_some() && is_sent != Some(true) {
                self.give_up(i, is_sent.is_none()).await;
            }
        }
        self.require_possible()
    }

    /// Whether no piece waits for a cloud.
    pub(crate) fn are_drained(&self) -> bool {
        let mut open = self.shares.iter().filter(|share| share.queue.is_some());
        open.all(|share| share.window.available_permits() == WINDOW as usize)
    }

    /// Waits for work on shares, and returns what came. Without the rule it waits long: on a slow
    /// line all clouds are slow. Once the rule is met by what came, the others get a part of the
    /// time that the stream has taken, or of what is left of it.
    async fn together<T: Succeeds>(
        &self,
        mut waiting: FuturesUnordered<impl Future<Output = (usize, T)>>,
        least: Duration,
    ) -> Together<T> {
        let (mut outputs, mut lagged) = (Vec::new(), Duration::ZERO);
        while !waiting.is_empty() {
            let came: Vec<Spot> = outputs
                .iter()
                .filter(|(_, output): &&(usize, T)| output.succeeds())
                .map(|(share, _)| self.shares[*share].spot)
                .collect();
            let is_met = self.rule.is_met(&self.sites, &came);
            let patience = match is_met {
                true => self.lag_left(lagged, least).min(self.patience),
                false => self.patience * 5,
            };
            let began = Instant::now();
            let next = tokio::time::timeout(patience, waiting.next()).await;
            if is_met {
                lagged += began.elapsed();
            }
            match next {
                Ok(Some(one)) => outputs.push(one),
                Ok(None) | Err(_) => break,
            }
        }
        Together { outputs, lagged }
    }

    /// How long the stream still waits for clouds without which the rule is met. The time that it
    /// waited for them does not count as its own.
    fn lag_left(&self, lagged: Duration, least: Duration) -> Duration {
        let lagged = self.lagged + lagged;
        let own = self.began.elapsed().saturating_sub(lagged);
        let allowed = (own / LAG_SHARE).clamp(least, LONGEST_LAG);
        allowed.saturating_sub(lagged)
    }

    /// Ends all shares. Returns those that were stored. They may be too few for the rule, but
    /// enough to compute the others from.
    pub(crate) async fn finish(mut self) -> Result<SharesStored> {
        // What was waited for before is not held against whoever has little left to send.
        self.lagged = Duration::ZERO;
        let mut open: Vec<(usize, Ending)> = Vec::new();
        for (i, share) in self.shares.iter_mut().enumerate() {
            open.extend(share.end().map(|ending| (i, ending)));
        }
        let numbers: Vec<usize> = open.iter().map(|(i, _)| *i).collect();
        let waiting = open
            .into_iter()
            .map(|(i, ending)| async move { (i, ending.outcome().await) });
        let ended = self.together(waiting.collect(), LEAST_AT_END).await.outputs;
        let mut stored = Vec::new();
        for i in numbers {
            let share = &self.shares[i];
            match ended.iter().find(|(number, _)| *number == i) {
                Some((_, Ok(kept))) => stored.push((share.spot, *kept)),
                given_up => {
                    let fault = match given_up {
                        Some((_, Err(fault))) => fault.clone(),
                        _ => too_slow(&share.cloud).into(),
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
        // A task that is dropped is aborted.
        let fault = match share.task.take() {
            Some(task) if !slow => {
                let ended = outcome(task).await.err();
                ended.unwrap_or_else(|| "it ended early".to_owned().into())
            }
            _ => too_slow(&share.cloud).into(),
        };
        self.failed.push(gone(share, fault));
    }

    /// Requires that the rule can be met: with the shares that are left, and others that are
    /// computed from them and stored beside them.
    fn require_possible(&self) -> Result<()> {
        let has_failed = |spot: &Spot| self.failed.iter().any(|failed| failed.spot == *spot);
        let spots = self.shares.iter().map(|share| share.spot);
        let left: Vec<Spot> = spots.filter(|spot| !has_failed(spot)).collect();
        match self.rule.can_be_met(&self.sites, &left) {
            true => Ok(()),
            false => Err(too_few(self.rule, &self.sites, &left, &self.failed)),
        }
    }
}

/// Makes the error of a stream that too few clouds took.
pub(crate) fn too_few(
    rule: Rule,
    sites: &[Site],
    stored: &[Spot],
    failed: &[Failed],
) -> ArrayError {
    let anywhere = Rule { survive: 0, ..rule };
    let faults = failed.iter().map(|failed| Fault {
        cloud: failed.cloud.clone(),
        text: failed.fault.text.clone(),
    });
    ArrayError::TooFewClouds {
        stored: sites_of(stored).len(),
        n: rule.geometry.n.into(),
        needed: rule.least_clouds(),
        lacks_domains: !rule.can_be_met(sites, stored) && anywhere.can_be_met(sites, stored),
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

/// What came of work on several shares.
struct Together<T> {
    /// The outputs that came, with the places of their shares.
    outputs: Vec<(usize, T)>,
    /// How long it waited for shares without which the rule is met.
    lagged: Duration,
}

/// Whether work on a share counts for the rule.
trait Succeeds {
    fn succeeds(&self) -> bool;
}

impl Succeeds for bool {
    fn succeeds(&self) -> bool {
        *self
    }
}

impl<T, E> Succeeds for Result<T, E> {
    fn succeeds(&self) -> bool {
        self.is_ok()
    }
}

/// Hands a piece to a share's task. It waits for room: for that of the first few pieces, or for
/// memory. Returns whether the task took it.
async fn hand_over(
    queue: &mpsc::Sender<Piece>,
    window: Arc<Semaphore>,
    piece: Bytes,
    budget: &ChunkBudget,
) -> bool {
    let Ok(window) = window.acquire_many_owned(in_window(piece.len())).await else {
        return false;
    };
    let held = |reserved| Held {
        _reserved: reserved,
        _window: window,
    };
    let waiting = queue.max_capacity() - queue.capacity();
    let reserved = match waiting < QUEUE {
        true => None,
        // Growth is tried and never waited for: nobody holds memory while waiting for more.
        false => match budget.try_grow(piece.len() as u64) {
            Some(reserved) => Some(reserved),
            None => {
                let room = queue.max_capacity() - QUEUE + 1;
                let Ok(permits) = queue.reserve_many(room).await else {
                    return false;
                };
                let Some(permit) = permits.into_iter().next() else {
                    return false;
                };
                permit.send(Piece::Bytes(piece, held(None)));
                return true;
            }
        },
    };
    queue
        .send(Piece::Bytes(piece, held(reserved)))
        .await
        .is_ok()
}

/// Returns the part of the window that a piece takes.
fn in_window(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024))
        .unwrap_or(u32::MAX)
        .clamp(1, WINDOW)
}

/// A share whose last piece was handed over.
struct Ending {
    queue: mpsc::Sender<Piece>,
    task: AbortOnDropHandle<Result<Stored, WriteFault>>,
}

impl Ending {
    /// Waits for the end of the share's task. A share that failed meanwhile tells that by its
    /// outcome.
    async fn outcome(self) -> Result<Stored, WriteFault> {
        let _ = self.queue.send(Piece::End).await;
        drop(self.queue);
        outcome(self.task).await
    }
}

fn too_slow(cloud: &str) -> String {
    format!("cloud {cloud:?}: too slow: the others waited for it in vain")
}

/// Waits for the end of a share's task, and returns the objects and bytes that were stored.
async fn outcome(
    task: AbortOnDropHandle<Result<Stored, WriteFault>>,
) -> Result<Stored, WriteFault> {
    task.await.unwrap_or_else(|e| Err(e.to_string().into()))
}
