//! Counts what a cloud is asked for: every attempt, also those that were given up, and bodies that
//! broke off. So a meter sits below whatever repeats requests.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::StreamExt as _;

use crate::{
    ByteRange, Cloud, CloudError, CloudUsage, Object, ObjectInfo, ObjectKey, Operation, Page,
    Payload, Result, WriteMode,
};

/// The counters of one cloud, readable while it works.
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
    /// Requests by latency: bucket i counts those under 2^i milliseconds and not under 2^(i-1).
    buckets: [AtomicU64; 18],
}

/// How long the requests of one operation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencySummary {
    /// Requests, those that failed or were given up among them.
    pub requests: u64,
    /// Requests that failed or were given up, and bodies that broke off.
    pub errors: u64,
    /// Mean time to the answer; for a get, to its head.
    pub mean: Duration,
    /// An upper bound of the median: the next power of two milliseconds.
    pub p50: Duration,
    /// The same of the 95th percentile.
    pub p95: Duration,
}

/// The counters of several clouds, by their names. Clones are one: they outlive clouds that are
/// opened anew.
#[derive(Clone, Debug, Default)]
// A std lock: held while a map is read or changed.
pub struct Meters(Arc<Mutex<BTreeMap<String, Arc<Metering>>>>);

impl Meters {
    /// The counters of a cloud, fresh ones the first time.
    pub fn of(&self, cloud: &str) -> Arc<Metering> {
        let mut meters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        meters.entry(cloud.to_owned()).or_default().clone()
    }

    /// The counters of a cloud, if it has any.
    pub fn get(&self, cloud: &str) -> Option<Arc<Metering>> {
        let meters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        meters.get(cloud).cloned()
    }
}

impl Metering {
    /// Bytes of payloads that were accepted.
    pub fn bytes_up(&self) -> u64 {
        self.bytes_up.load(Relaxed)
    }

    /// Bytes of bodies that arrived.
    pub fn bytes_down(&self) -> u64 {
        self.bytes_down.load(Relaxed)
    }

    /// The numbers of one operation.
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

/// A request under way; one that is dropped before its answer was given up.
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

/// Counts requests, bytes and latency of the cloud inside it.
#[derive(Debug)]
pub struct Meter<C> {
    inner: C,
    metering: Arc<Metering>,
}

impl<C: Cloud> Meter<C> {
    /// Counts into a fresh [`Metering`].
    pub fn new(inner: C) -> Self {
        Self::with(inner, Arc::default())
    }

    /// Counts into `metering`, which may outlive this cloud (a reload keeps its counters).
    pub fn with(inner: C, metering: Arc<Metering>) -> Self {
        Self { inner, metering }
    }

    /// The counters.
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
