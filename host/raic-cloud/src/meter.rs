//! Counts the requests to a cloud, their errors, bytes and latency.
//!
//! Requests that were given up and bodies that broke off count as errors. A meter sits below
//! [`Retry`](crate::Retry), so that it counts each attempt. What the cloud inside it sends on its
//! own, such as a login, is not counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::StreamExt as _;
use parking_lot::Mutex;

use crate::{
    ByteRange, Cloud, CloudError, CloudUsage, Object, ObjectInfo, ObjectKey, Operation, Page,
    Payload, Result, WriteMode,
};

/// The counters of one cloud. They can be read while the cloud works.
#[derive(Debug, Default)]
pub struct Metering {
    operations: [OperationCounters; Operation::ALL.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

#[derive(Debug, Default)]
struct OperationCounters {
    requests: AtomicU64,
    errors: AtomicU64,
    micros: AtomicU64,
    /// Requests by latency. Bucket i counts those that took at least 2^(i-1) and less than 2^i
    /// milliseconds. The first bucket counts those below 1 ms; the last also counts all longer
    /// ones.
    buckets: [AtomicU64; 18],
}

/// Requests, errors and latency of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencySummary {
    /// Requests made, including those that failed or were given up.
    pub requests: u64,
    /// Requests that failed or were given up, and bodies that broke off.
    pub errors: u64,
    /// Mean time to the answer. For a get this is the time to the answer's head.
    pub mean: Duration,
    /// Upper bound of the median, rounded to a power of two in milliseconds; 131 s at most.
    pub p50: Duration,
    /// Upper bound of the 95th percentile, rounded as `p50` is.
    pub p95: Duration,
}

/// The counters of several clouds, by the clouds' names. Clones share the counters, so they outlive
/// a cloud that is opened again.
#[derive(Clone, Debug, Default)]
// A blocking lock, because it is only held while the map is read or changed.
pub struct Meters(Arc<Mutex<BTreeMap<String, Arc<Metering>>>>);

impl Meters {
    /// Returns the counters of a cloud. At the first call for a cloud they are zero.
    pub fn of(&self, cloud: &str) -> Arc<Metering> {
        let mut meters = self.0.lock();
        meters.entry(cloud.to_owned()).or_default().clone()
    }

    /// Returns the counters of a cloud, or `None` if [`of`](Self::of) was never called for it.
    pub fn get(&self, cloud: &str) -> Option<Arc<Metering>> {
        let meters = self.0.lock();
        meters.get(cloud).cloned()
    }
}

impl Metering {
    /// Bytes of all payloads that the cloud has stored.
    pub fn bytes_up(&self) -> u64 {
        self.bytes_up.load(Relaxed)
    }

    /// Bytes of all bodies that have arrived.
    pub fn bytes_down(&self) -> u64 {
        self.bytes_down.load(Relaxed)
    }

    /// Returns the numbers of one operation.
    pub fn operation(&self, operation: Operation) -> LatencySummary {
        let counters = &self.operations[operation as usize];
        let requests = counters.requests.load(Relaxed);
        let buckets: Vec<u64> = counters.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let percentile = |percent: u64| {
            let mut seen = 0;
            let bucket = buckets.iter().position(|bucket| {
                seen += bucket;
                requests > 0 && seen * 100 >= requests * percent
            });
            bucket.map_or(Duration::ZERO, |i| Duration::from_millis(1 << i))
        };
        let micros = counters.micros.load(Relaxed);
        LatencySummary {
            requests,
            errors: counters.errors.load(Relaxed),
            mean: Duration::from_micros(micros.checked_div(requests).unwrap_or(0)),
            p50: percentile(50),
            p95: percentile(95),
        }
    }

    fn record(&self, operation: Operation, since: Instant, has_failed: bool) {
        let counters = &self.operations[operation as usize];
        let took = since.elapsed();
        counters.requests.fetch_add(1, Relaxed);
        counters.errors.fetch_add(u64::from(has_failed), Relaxed);
        counters.micros.fetch_add(took.as_micros() as u64, Relaxed);
        let bucket = (u128::BITS - took.as_millis().leading_zeros()) as usize;
        counters.buckets[bucket.min(counters.buckets.len() - 1)].fetch_add(1, Relaxed);
    }
}

/// A request in flight, recorded when this is dropped. If that happens before an answer came, the
/// caller gave the request up, and it counts as failed.
struct UnderWay<'a> {
    metering: &'a Metering,
    operation: Operation,
    since: Instant,
    has_failed: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.metering
            .record(self.operation, self.since, self.has_failed);
    }
}

/// A decorator that counts requests, errors, bytes and latency of the cloud inside it.
#[derive(Debug)]
pub struct Meter<C> {
    inner: C,
    metering: Arc<Metering>,
}

impl<C: Cloud> Meter<C> {
    /// Puts a meter with new counters around `inner`.
    pub fn new(inner: C) -> Self {
        Self::with(inner, Arc::default())
    }

    /// Puts a meter around `inner` that counts into `metering`. The counters may outlive this
    /// cloud, so that a reload keeps them.
    pub fn with(inner: C, metering: Arc<Metering>) -> Self {
        Self { inner, metering }
    }

    /// Returns the meter's counters.
    pub fn metering(&self) -> Arc<Metering> {
        self.metering.clone()
    }

    async fn timed<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut under_way = UnderWay {
            metering: &self.metering,
            operation,
            since: Instant::now(),
            has_failed: true,
        };
        let result = request.await;
        under_way.has_failed = result.is_err();
        result
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<C: Cloud> Cloud for Meter<C> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        self.timed(Operation::Describe, self.inner.describe()).await
    }

    async fn probe(&self) -> Result<()> {
        self.timed(Operation::Probe, self.inner.probe()).await
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let size = content.size();
        let info = self
            .timed(Operation::Put, self.inner.put(key, content, mode))
            .await?;
        self.metering.bytes_up.fetch_add(size, Relaxed);
        Ok(info)
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        let Object { info, body } = self
            .timed(Operation::Get, self.inner.get(key, range, if_match))
            .await?;
        let metering = self.metering.clone();
        let body = body.inspect(move |piece| match piece {
            Ok(piece) => {
                metering.bytes_down.fetch_add(piece.len() as u64, Relaxed);
            }
            Err(_) => {
                let counters = &metering.operations[Operation::Get as usize];
                counters.errors.fetch_add(1, Relaxed);
            }
        });
        Ok(Object {
            info,
            body: body.boxed(),
        })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.timed(Operation::Head, self.inner.head(key)).await
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        self.timed(Operation::Delete, self.inner.delete(key, if_match))
            .await
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        self.timed(Operation::List, self.inner.list(prefix, cursor, limit))
            .await
    }

    async fn create_container(&self) -> Result<()> {
        self.timed(Operation::CreateContainer, self.inner.create_container())
            .await
    }

    async fn delete_container(&self) -> Result<()> {
        self.timed(Operation::DeleteContainer, self.inner.delete_container())
            .await
    }

    async fn usage(&self) -> Result<CloudUsage> {
        self.timed(Operation::Usage, self.inner.usage()).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        self.timed(Operation::DeleteMany, self.inner.delete_many(keys))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryCloud, collect_body};

    #[tokio::test]
    async fn conforms() {
        crate::conformance::all(&Meter::new(MemoryCloud::new("m")), "t/").await;
    }

    #[tokio::test]
    async fn counts_requests_errors_and_bytes() {
        let cloud = Meter::new(MemoryCloud::new("m"));
        let key = ObjectKey::new("a").unwrap();
        assert!(cloud.head(&key).await.is_err());
        cloud
            .put(&key, Payload::from(&b"12345"[..]), WriteMode::Overwrite)
            .await
            .unwrap();
        let object = cloud.get(&key, ByteRange::new(1, 3), None).await.unwrap();
        collect_body("m", object.body, 10).await.unwrap();
        let m = cloud.metering();
        assert_eq!((m.bytes_up(), m.bytes_down()), (5, 3));
        assert_eq!(
            (
                m.operation(Operation::Head).requests,
                m.operation(Operation::Head).errors
            ),
            (1, 1)
        );
        assert_eq!(
            (
                m.operation(Operation::Put).requests,
                m.operation(Operation::Put).errors
            ),
            (1, 0)
        );
    }

    #[tokio::test]
    async fn what_is_given_up_and_what_breaks_off_counts_as_failed() {
        use crate::{FaultPlan, Faulty};

        let plan = FaultPlan {
            hang: 1.0,
            ..FaultPlan::default()
        };
        let cloud = Meter::new(Faulty::new(MemoryCloud::new("m"), 1, plan));
        let given_up = tokio::time::timeout(Duration::from_millis(5), cloud.probe()).await;
        assert!(given_up.is_err());
        let m = cloud.metering();
        let probes = m.operation(Operation::Probe);
        assert_eq!((probes.requests, probes.errors), (1, 1));
        assert!(probes.p50 >= Duration::from_millis(4), "{probes:?}");

        cloud.inner.set(FaultPlan::default());
        let key = ObjectKey::new("a").unwrap();
        let content = Payload::from(vec![7; 1000]);
        cloud
            .put(&key, content, WriteMode::Overwrite)
            .await
            .unwrap();
        cloud.inner.set(FaultPlan {
            short_body: 1.0,
            ..FaultPlan::default()
        });
        let object = cloud.get(&key, None, None).await.unwrap();
        collect_body("m", object.body, 1000).await.unwrap_err();
        let gets = m.operation(Operation::Get);
        assert_eq!((gets.requests, gets.errors), (1, 1));
    }
}
