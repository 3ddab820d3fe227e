//! Clouds that stop answering at a certain request, as they seem to a host that stops there.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use raic_cloud::{
    ByteRange, Cloud, CloudError, Object, ObjectInfo, ObjectKey, Page, Payload, WriteMode,
};

/// Counts the requests that change something, of all clouds together.
#[derive(Debug)]
pub(crate) struct Stopper {
    count: AtomicUsize,
    at: usize,
    /// Whether the request at which the host stops is still done.
    lands: bool,
}

impl Stopper {
    pub(crate) fn new(at: usize, lands: bool) -> Arc<Self> {
        Arc::new(Self {
            count: AtomicUsize::new(0),
            at,
            lands,
        })
    }

    /// Whether the host has stopped. Then nothing more is sent.
    pub(crate) fn has_stopped(&self) -> bool {
        self.count.load(Ordering::SeqCst) > self.at
    }

    /// Waits for ever once the host has stopped.
    async fn go_on(&self) {
        if self.has_stopped() {
            std::future::pending::<()>().await;
        }
    }

    /// Does a change, unless the host has stopped or stops here.
    async fn change<T>(&self, change: impl Future<Output = T>) -> T {
        match self.count.fetch_add(1, Ordering::SeqCst) {
            before if before < self.at => change.await,
            before => {
                if before == self.at && self.lands {
                    change.await;
                }
                std::future::pending().await
            }
        }
    }
}

/// A cloud that stops answering with the others.
#[derive(Debug)]
pub(crate) struct Stopping<C> {
    pub(crate) inner: C,
    pub(crate) stopper: Arc<Stopper>,
}

type Result<T> = std::result::Result<T, CloudError>;

#[async_trait]
impl<C: Cloud> Cloud for Stopping<Arc<C>> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        self.inner.describe().await
    }

    async fn probe(&self) -> Result<()> {
        self.stopper.go_on().await;
        self.inner.probe().await
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let put = self.inner.put(key, content, mode);
        self.stopper.change(put).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        self.stopper.go_on().await;
        self.inner.get(key, range, if_match).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.stopper.go_on().await;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        let delete = self.inner.delete(key, if_match);
        self.stopper.change(delete).await
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        self.stopper.go_on().await;
        self.inner.list(prefix, cursor, limit).await
    }
}
