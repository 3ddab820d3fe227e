//! Limits how many requests a cloud has in flight.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    ByteRange, Cloud, CloudError, CloudUsage, Object, ObjectInfo, ObjectKey, Page, Payload, Result,
    WriteMode,
};

/// A decorator that lets at most a given number of requests run at once; others wait in order. A
/// get counts until its body is dropped.
#[derive(Debug)]
pub struct Limit<C> {
    inner: C,
    permits: Arc<Semaphore>,
}

impl<C: Cloud> Limit<C> {
    /// Limits `inner` to `max` requests in flight; 0 counts as 1.
    pub fn new(inner: C, max: usize) -> Self {
        Self {
            inner,
            permits: Arc::new(Semaphore::new(max.max(1))),
        }
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        match self.permits.clone().acquire_owned().await {
            Ok(permit) => permit,
            Err(_) => unreachable!("this semaphore is never closed"),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<C: Cloud> Cloud for Limit<C> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        let _permit = self.permit().await;
        self.inner.describe().await
    }

    async fn probe(&self) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.probe().await
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let _permit = self.permit().await;
        self.inner.put(key, content, mode).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        let permit = self.permit().await;
        let Object { info, body } = self.inner.get(key, range, if_match).await?;
        let body = body.map(move |piece| {
            let _held = &permit;
            piece
        });
        Ok(Object {
            info,
            body: body.boxed(),
        })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        let _permit = self.permit().await;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.delete(key, if_match).await
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        let _permit = self.permit().await;
        self.inner.list(prefix, cursor, limit).await
    }

    async fn create_container(&self) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.create_container().await
    }

    async fn delete_container(&self) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.delete_container().await
    }

    async fn usage(&self) -> Result<CloudUsage> {
        let _permit = self.permit().await;
        self.inner.usage().await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        let _permit = self.permit().await;
        self.inner.delete_many(keys).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{FaultPlan, Faulty, MemoryCloud};

    #[tokio::test]
    async fn conforms() {
        crate::conformance::all(&Limit::new(MemoryCloud::new("m"), 2), "t/").await;
    }

    #[tokio::test]
    async fn a_get_holds_its_place_until_the_body_is_dropped() {
        let cloud = Limit::new(MemoryCloud::new("m"), 1);
        let key = ObjectKey::new("a").unwrap();
        cloud
            .put(&key, Payload::from(&b"x"[..]), WriteMode::Overwrite)
            .await
            .unwrap();
        let open = cloud.get(&key, None, None).await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(20), cloud.head(&key))
                .await
                .is_err()
        );
        drop(open);
        cloud.head(&key).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_request_gives_its_place_back() {
        let slow = Faulty::new(
            MemoryCloud::new("m"),
            1,
            FaultPlan {
                hang: 1.0,
                ..FaultPlan::default()
            },
        );
        let cloud = Limit::new(slow, 1);
        for _ in 0..3 {
            assert!(
                tokio::time::timeout(Duration::from_secs(1), cloud.probe())
                    .await
                    .is_err()
            );
        }
        assert_eq!(cloud.permits.available_permits(), 1);
    }
}
