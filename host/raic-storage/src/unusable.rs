//! A backend that holds the place of one that cannot be opened, because its disk is not mounted or
//! its credential is missing.

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::{
    Backend, Container, Found, FoundShare, Moment, MutableShare, MutableStore, MutableWrite,
    RangeSet, Recovered, Result, ShareId, ShareNum, ShareStore, ShareStream, ShareUpload,
    ShareWriter, Span, StorageError, StorageIndex, Stored, StreamMemory, backend::mutable_store,
};

/// Shortest pause between two attempts to open a backend. An attempt begins only when the backend
/// is used.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a share that is to be stored waits for an opening that is under way.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Opens a backend, or returns a sentence that names it and the reason why it cannot be opened. May
/// block the thread.
pub type Open = Box<dyn Fn() -> Result<Arc<dyn Backend>, String> + Send + Sync>;

/// Holds a cloud's place in the array while the cloud cannot be opened. So one cloud that fails
/// does not keep the others from serving. Every call fails with the reason. From time to time, a
/// call tries to open the cloud again. Once that succeeds, all calls go to the cloud.
pub struct UnusableBackend {
    name: String,
    open: Arc<Open>,
    state: Arc<Mutex<State>>,
}

/// The state of an [`UnusableBackend`], behind a blocking lock that is held only while fields are
/// read and set.
struct State {
    opened: Option<Arc<dyn Backend>>,
    reason: String,
    /// The moment from which a call may try to open the cloud again.
    next: Instant,
    /// The attempt under way, if there is one. A share that is to be stored waits for it.
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
    /// Holds the place of the cloud `name`, which `open` could not open just now because of
    /// `reason`.
    pub fn new(name: &str, reason: String, open: Open) -> Self {
        Self::tried_from(name, reason, open, Instant::now() + PAUSE)
    }

    /// Holds the place of the cloud `name`, which takes long to open, as `reason` explains. The
    /// first call begins to open it. This goes on even if that caller waits no longer.
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
            // The opening may have ended since.
            if self.state().opening.is_some() {
                // The opening goes on if it takes longer.
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
        // One attempt at a time, and to its end. The caller may give up meanwhile, and the next
        // caller finds the outcome.
        let (open, state, name) = (self.open.clone(), self.state.clone(), self.name.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| open()));
            let outcome =
                outcome.unwrap_or_else(|_| Err(format!("cloud {name:?}: opening it panicked")));
            let mut state = locked(&state);
            // An attempt that takes long and fails, such as compiling, is not repeated all the
            // time.
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
        opening
            .await
            .unwrap_or_else(|e| Err(StorageError::Task(e.to_string())))
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ShareStore for UnusableBackend {
    async fn create(&self, id: ShareId, memory: Arc<StreamMemory>) -> Result<Box<dyn ShareWriter>> {
        // A share that is stored a moment later is better than a share that is lacking.
        self.wait_for_opening().await;
        self.opened().await?.create(id, memory).await
    }

    async fn upload(
        &self,
        id: ShareId,
        length: u64,
        received: RangeSet,
    ) -> Result<Box<dyn ShareUpload>> {
        self.opened().await?.upload(id, length, received).await
    }

    async fn read(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        self.opened().await?.read(id, range).await
    }

    fn remember(&self, id: ShareId, stored: Stored) {
        let opened = self.state().opened.clone();
        if let Some(opened) = opened {
            opened.remember(id, stored);
        }
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        self.opened().await?.shares(index).await
    }

    async fn remove(&self, id: ShareId, objects: Option<u64>) -> Result<()> {
        self.opened().await?.remove(id, objects).await
    }

    async fn remove_chunks(&self, id: ShareId, chunks: Range<u64>) -> Result<()> {
        self.opened().await?.remove_chunks(id, chunks).await
    }

    async fn chunk_length(&self, id: ShareId, chunk: u64) -> Result<Option<u64>> {
        self.opened().await?.chunk_length(id, chunk).await
    }

    async fn forget_upload(&self, id: ShareId) -> Result<()> {
        self.opened().await?.forget_upload(id).await
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
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MutableStore for UnusableBackend {
    async fn state(&self, id: ShareId) -> Result<Option<MutableShare>> {
        mutable_store(&*self.opened().await?)?.state(id).await
    }

    async fn read_mutable(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        mutable_store(&*self.opened().await?)?
            .read_mutable(id, range)
            .await
    }

    async fn write_mutable(&self, id: ShareId, write: MutableWrite) -> Result<u64> {
        mutable_store(&*self.opened().await?)?
            .write_mutable(id, write)
            .await
    }

    async fn delete_mutable(&self, id: ShareId) -> Result<()> {
        mutable_store(&*self.opened().await?)?
            .delete_mutable(id)
            .await
    }

    async fn tidy_mutable(&self, id: ShareId) -> Result<bool> {
        mutable_store(&*self.opened().await?)?
            .tidy_mutable(id)
            .await
    }

    async fn untidy_mutable(&self, limit: u32) -> Result<Vec<ShareId>> {
        mutable_store(&*self.opened().await?)?
            .untidy_mutable(limit)
            .await
    }

    async fn recover_mutable(&self, id: ShareId, found: &Found) -> Result<Recovered> {
        mutable_store(&*self.opened().await?)?
            .recover_mutable(id, found)
            .await
    }

    async fn forget_unlisted(&self, span: Span, listed: BTreeSet<ShareId>) -> Result<()> {
        mutable_store(&*self.opened().await?)?
            .forget_unlisted(span, listed)
            .await
    }

    async fn give_up_mutable(&self, id: ShareId, found: &Found) -> Result<()> {
        mutable_store(&*self.opened().await?)?
            .give_up_mutable(id, found)
            .await
    }

    async fn lacks_mutable(&self, id: ShareId, found: &Found) -> Result<Option<String>> {
        mutable_store(&*self.opened().await?)?
            .lacks_mutable(id, found)
            .await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Container for UnusableBackend {
    async fn scan(&self, span: Span, most: u64) -> Result<Vec<FoundShare>> {
        self.opened().await?.scan(span, most).await
    }

    async fn sweep(&self, before: Moment) -> Result<u64> {
        self.opened().await?.sweep(before).await
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

    async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        self.opened().await?.store_object(name, content).await
    }

    async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        self.opened().await?.load_object(name).await
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

    async fn probe(&self) -> Result<()> {
        self.opened().await?.probe().await
    }
}

impl Backend for UnusableBackend {
    fn name(&self) -> &str {
        &self.name
    }

    fn mutable_store(&self) -> Option<&dyn MutableStore> {
        Some(self)
    }
}
