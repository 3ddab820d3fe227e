//! A storage server that could not be opened: its disk is not mounted, its credential is missing.

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::{
    Backend, Found, FoundShare, MutableShare, MutableWrite, RangeSet, Recovered, Result, ShareNum,
    ShareStream, ShareUpload, ShareWriter, Span, StorageError, StorageIndex,
};

/// How often opening is tried again, where somebody asks.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a share that is to be stored waits for an opening that is under way.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Opens a storage server, or says in a sentence that names it why it cannot be. May block.
pub type Open = Box<dyn Fn() -> Result<Arc<dyn Backend>, String> + Send + Sync>;

/// Holds a cloud's place in the array and answers everything with the reason why it cannot be used,
/// so that one cloud that fails does not keep the others from serving. When asked it tries to open
/// it again now and then, and from then on is that cloud.
pub struct UnusableBackend {
    name: String,
    open: Arc<Open>,
    state: Arc<Mutex<State>>,
}

// Behind a std lock: held while fields are read and set.
struct State {
    opened: Option<Arc<dyn Backend>>,
    reason: String,
    /// When opening is tried again.
    next: Instant,
    /// While it is being opened: whoever stores waits for that a moment.
    opening: Option<Arc<Notify>>,
    owner: Option<String>,
    is_writable: bool,
}

impl fmt::Debug for UnusableBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnusableBackend")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl UnusableBackend {
    /// In the place of the cloud `name`, which `open` could not open just now for `reason`.
    pub fn new(name: &str, reason: String, open: Open) -> Self {
        Self::tried_from(name, reason, open, Instant::now() + PAUSE)
    }

    /// In the place of the cloud `name`, which takes long to open, as `reason` says: that begins
    /// when it is asked first, and goes on if whoever asked waits no longer.
    pub fn opening(name: &str, reason: String, open: Open) -> Self {
        Self::tried_from(name, reason, open, Instant::now())
    }

    fn tried_from(name: &str, reason: String, open: Open, next: Instant) -> Self {
        let state = State {
            opened: None,
            reason,
            next,
            opening: None,
            owner: None,
            is_writable: true,
        };
        Self {
            name: name.to_owned(),
            open: Arc::new(open),
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    async fn wait_for_opening(&self) {
        let opening = self.state().opening.clone();
        if let Some(opening) = opening {
            let ended = opening.notified();
            // It may have ended since.
            if self.state().opening.is_some() {
                // It goes on if it takes longer.
                let _ = tokio::time::timeout(LONGEST_WAIT, ended).await;
            }
        }
    }

    async fn opened(&self) -> Result<Arc<dyn Backend>> {
        {
            let mut state = self.state();
            if let Some(opened) = &state.opened {
                return Ok(opened.clone());
            }
            if state.opening.is_some() || Instant::now() < state.next {
                return Err(StorageError::Unusable {
                    reason: state.reason.clone(),
                });
            }
            state.opening = Some(Arc::default());
        }
        // One at a time, and to its end: whoever asked may give up meanwhile, and the next finds
        // what came of it.
        let (open, state, name) = (self.open.clone(), self.state.clone(), self.name.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| open()));
            let outcome =
                outcome.unwrap_or_else(|_| Err(format!("cloud {name:?}: opening it panicked")));
            let mut state = locked(&state);
            // What takes long and fails, such as compiling, is not tried all the time.
            state.next = Instant::now() + PAUSE.max(began.elapsed() * 10);
            if let Some(opening) = state.opening.take() {
                opening.notify_waiters();
            }
            match outcome {
                Ok(opened) => {
                    tracing::info!("cloud {name:?} can be used now");
                    opened.set_owner(state.owner.clone());
                    opened.set_writable(state.is_writable);
                    state.opened = Some(opened.clone());
                    Ok(opened)
                }
                Err(reason) => {
                    state.reason.clone_from(&reason);
                    Err(StorageError::Unusable { reason })
                }
            }
        });
        opening.await.unwrap_or_else(|e| {
            Err(StorageError::Unusable {
                reason: e.to_string(),
            })
        })
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for UnusableBackend {
    fn name(&self) -> &str {
        &self.name
    }

    async fn create(&self, index: StorageIndex, share: ShareNum) -> Result<Box<dyn ShareWriter>> {
        // A share that is stored a moment later is better than one that is lacking.
        self.wait_for_opening().await;
        self.opened().await?.create(index, share).await
    }

    async fn read(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        self.opened().await?.read(index, share, range).await
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        self.opened().await?.shares(index).await
    }

    async fn remove(
        &self,
        index: StorageIndex,
        share: ShareNum,
        objects: Option<u64>,
    ) -> Result<()> {
        self.opened().await?.remove(index, share, objects).await
    }

    async fn remove_chunks(
        &self,
        index: StorageIndex,
        share: ShareNum,
        chunks: Range<u64>,
    ) -> Result<()> {
        self.opened()
            .await?
            .remove_chunks(index, share, chunks)
            .await
    }

    async fn upload(
        &self,
        index: StorageIndex,
        share: ShareNum,
        length: u64,
        received: RangeSet,
    ) -> Result<Box<dyn ShareUpload>> {
        self.opened()
            .await?
            .upload(index, share, length, received)
            .await
    }

    async fn chunk_length(
        &self,
        index: StorageIndex,
        share: ShareNum,
        chunk: u64,
    ) -> Result<Option<u64>> {
        self.opened().await?.chunk_length(index, share, chunk).await
    }

    async fn mutable(&self, index: StorageIndex, share: ShareNum) -> Result<Option<MutableShare>> {
        self.opened().await?.mutable(index, share).await
    }

    async fn read_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        self.opened().await?.read_mutable(index, share, range).await
    }

    async fn write_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        write: MutableWrite,
    ) -> Result<u64> {
        self.opened()
            .await?
            .write_mutable(index, share, write)
            .await
    }

    async fn delete_mutable(&self, index: StorageIndex, share: ShareNum) -> Result<()> {
        self.opened().await?.delete_mutable(index, share).await
    }

    async fn tidy_mutable(&self, index: StorageIndex, share: ShareNum) -> Result<bool> {
        self.opened().await?.tidy_mutable(index, share).await
    }

    async fn untidy_mutable(&self, limit: u32) -> Result<Vec<(StorageIndex, ShareNum)>> {
        self.opened().await?.untidy_mutable(limit).await
    }

    async fn recover_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        found: &Found,
    ) -> Result<Recovered> {
        self.opened()
            .await?
            .recover_mutable(index, share, found)
            .await
    }

    async fn forget_unlisted(
        &self,
        span: Span,
        listed: BTreeSet<(StorageIndex, ShareNum)>,
    ) -> Result<()> {
        self.opened().await?.forget_unlisted(span, listed).await
    }

    async fn give_up_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        found: &Found,
    ) -> Result<()> {
        self.opened()
            .await?
            .give_up_mutable(index, share, found)
            .await
    }

    async fn scan(&self, span: Span, most: u64) -> Result<Vec<FoundShare>> {
        self.opened().await?.scan(span, most).await
    }

    async fn lacks_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        found: &Found,
    ) -> Result<Option<String>> {
        self.opened()
            .await?
            .lacks_mutable(index, share, found)
            .await
    }

    async fn sweep(&self, before_ms: i64) -> Result<u64> {
        self.opened().await?.sweep(before_ms).await
    }

    async fn forget_upload(&self, index: StorageIndex, share: ShareNum) -> Result<()> {
        self.opened().await?.forget_upload(index, share).await
    }

    fn chunk_unit(&self) -> u64 {
        let opened = self.state().opened.clone();
        opened.map_or(crate::cloud::CHUNK_UNIT as u64, |opened| {
            opened.chunk_unit()
        })
    }

    fn deletions_may_land(&self) -> bool {
        true
    }

    fn set_writable(&self, is_writable: bool) {
        let mut state = self.state();
        if let Some(opened) = &state.opened {
            opened.set_writable(is_writable);
        }
        state.is_writable = is_writable;
    }

    fn set_owner(&self, object: Option<String>) {
        let mut state = self.state();
        if let Some(opened) = &state.opened {
            opened.set_owner(object.clone());
        }
        state.owner = object;
    }

    async fn objects(&self, prefix: &str) -> Result<Vec<String>> {
        self.opened().await?.objects(prefix).await
    }

    async fn remove_object(&self, name: &str) -> Result<()> {
        self.opened().await?.remove_object(name).await
    }

    async fn available_space(&self) -> Result<Option<u64>> {
        self.opened().await?.available_space().await
    }

    async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        self.opened().await?.store_object(name, content).await
    }

    async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        self.opened().await?.load_object(name).await
    }

    async fn probe(&self) -> Result<()> {
        self.opened().await?.probe().await
    }
}
