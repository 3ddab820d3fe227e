//! Sends no requests to a cloud that is down, so that nobody waits for it.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ByteRange, Cloud, CloudError, CloudUsage, ErrorKind, Object, ObjectInfo, ObjectKey, Operation,
    Page, Payload, Result, WriteMode,
};

/// Pause between a first failure and the probe that follows it. Each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause, however often the cloud has failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A request that its caller gives up after waiting this long counts as a failure.
const HANGING: Duration = Duration::from_secs(30);
/// The object that is asked for in a probe. Nothing is ever stored there.
const PROBED: &str = "raic/probe";
/// Timeout of a probe.
const PROBE: Duration = Duration::from_secs(20);
/// Base timeout of a put while puts are distrusted: one has failed and none has succeeded since.
/// The time for the bytes comes on top.
const DISTRUSTED: Duration = Duration::from_secs(5);
/// Upper bound of the timeout of a distrusted put, however many other puts are in flight. The time
/// for the put's own bytes comes on top.
const LONGEST: Duration = Duration::from_secs(60);
/// Slowest upload for which a distrusted put is given time, in bytes per second.
const SLOWEST: u64 = 64 << 10;

/// A circuit breaker around a cloud.
///
/// If the cloud is unavailable for a request or does not answer it in time, further requests fail
/// at once. After a pause the breaker sends a probe of its own, and repeats this until the cloud
/// answers. No caller has to try the cloud first: a caller that stores one file a minute would wait
/// every time.
///
/// A cloud may answer probes and still take no puts. So after a put that failed in this way, each
/// further put has a timeout of seconds, until one succeeds.
///
/// A service may fail to list and still hold its objects, or the other way round. So listings have
/// a circuit of their own: a listing that fails stops listings alone.
///
/// A breaker stands around [`crate::Retry`], so a failure is one that retries did not help.
/// [`Cloud::probe`] always passes. Its success counts for both circuits, and its failure for
/// listings, since it lists on most services. [`Cloud::describe`], [`Cloud::create_container`] and
/// [`Cloud::delete_container`] pass uncounted.
///
/// Dropping the breaker aborts its probes.
#[derive(Debug)]
pub struct Breaker<C> {
    inner: Arc<C>,
    // Blocking locks, because they are only held while fields are compared and set.
    objects: Arc<Mutex<Circuit>>,
    listings: Arc<Mutex<Circuit>>,
    /// Distrusted puts in flight.
    puts: AtomicU64,
}

/// Decrements a counter when it is dropped.
struct Decrement<'a>(&'a AtomicU64);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Circuit {
    /// Failures since the last answer; failures of requests in flight together count as one.
    failures: u32,
    failed_at: Option<Instant>,
    /// Whether requests fail at once.
    is_open: bool,
    /// Whether a put failed and none has succeeded since.
    distrusts_puts: bool,
    /// Message of the failure that was recorded last.
    reason: String,
    /// The task that waits for the pause and probes the cloud.
    probe: Option<AbortOnDropHandle<()>>,
}

/// What a request asks of a cloud, as far as the breaker tells requests apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Put,
    Object,
    Listing,
    Probe,
}

impl Asks {
    fn of(operation: Operation) -> Self {
        match operation {
            Operation::Put => Self::Put,
            Operation::List => Self::Listing,
            _ => Self::Object,
        }
    }

    /// Returns whether a failure is one of listings.
    fn is_listing(self) -> bool {
        matches!(self, Self::Listing | Self::Probe)
    }
}

/// A request that was admitted. If it is dropped before it was settled, its caller gave it up.
struct Passage<'a, C: Cloud + 'static> {
    breaker: &'a Breaker<C>,
    began: Instant,
    asks: Asks,
    settled: bool,
}

fn lock(circuit: &Mutex<Circuit>) -> MutexGuard<'_, Circuit> {
    circuit.lock()
}

impl Circuit {
    /// Records the failure of a request that began at `began`. Returns the pause before the next
    /// probe. Returns `None` if a failure was recorded after `began`, since both count as one
    /// failure.
    fn failed(&mut self, began: Instant, reason: String) -> Option<Duration> {
        // Requests in flight together fail together, and that is one failure.
        if self.failed_at.is_some_and(|before| began < before) {
            return None;
        }
        self.failed_at = Some(Instant::now());
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.is_open = true;
        self.reason = reason;
        Some(pause)
    }

    /// Records that the cloud answered.
    fn answered(&mut self) {
        (self.failures, self.failed_at, self.is_open) = (0, None, false);
        // The task that probes is not aborted: it ends by itself, after a probe that is answered.
        self.reason.clear();
    }
}

impl<C: Cloud + 'static> Passage<'_, C> {
    fn settle<T>(mut self, outcome: Result<T>) -> Result<T> {
        self.settled = true;
        match &outcome {
            Err(e) if matches!(e.kind, ErrorKind::Unavailable | ErrorKind::Timeout) => {
                self.breaker
                    .failed(self.began, self.asks, e.message.clone());
            }
            // Any other outcome is an answer, and shows that the cloud is reachable.
            _ => {
                if self.asks.is_listing() {
                    lock(&self.breaker.listings).answered();
                }
                if self.asks != Asks::Listing {
                    let mut circuit = lock(&self.breaker.objects);
                    circuit.answered();
                    if self.asks == Asks::Put && outcome.is_ok() {
                        circuit.distrusts_puts = false;
                    }
                }
            }
        }
        outcome
    }
}

impl<C: Cloud + 'static> Drop for Passage<'_, C> {
    fn drop(&mut self) {
        let waited = self.began.elapsed();
        if !self.settled && waited >= HANGING {
            self.breaker.failed(
                self.began,
                self.asks,
                format!("no answer within {} s", waited.as_secs()),
            );
        }
    }
}

impl<C: Cloud + 'static> Breaker<C> {
    /// Puts a breaker around `inner`. All requests pass until one fails.
    pub fn new(inner: C) -> Self {
        Self {
            inner: Arc::new(inner),
            objects: Arc::default(),
            listings: Arc::default(),
            puts: AtomicU64::new(0),
        }
    }

    fn failed(&self, began: Instant, asks: Asks, reason: String) {
        let circuit = match asks.is_listing() {
            true => &self.listings,
            false => &self.objects,
        };
        let weak = Arc::downgrade(circuit);
        let mut circuit = lock(circuit);
        circuit.distrusts_puts |= asks == Asks::Put;
        if let Some(pause) = circuit.failed(began, reason) {
            let probing = probe_until_found(self.inner.clone(), weak, (asks, pause));
            circuit.probe = Some(AbortOnDropHandle::new(tokio::spawn(probing)));
        }
    }

    fn admit(&self, operation: Operation, key: Option<&ObjectKey>) -> Result<Passage<'_, C>> {
        let asks = Asks::of(operation);
        let why_open = |circuit: &Mutex<Circuit>| {
            let circuit = lock(circuit);
            circuit.is_open.then(|| circuit.reason.clone())
        };
        // A cloud that is down lists nothing either.
        let mut reason = why_open(&self.objects);
        if asks == Asks::Listing {
            reason = reason.or_else(|| why_open(&self.listings));
        }
        if let Some(reason) = reason {
            let why =
                format!("not asked, because it failed lately and has not answered since: {reason}");
            let mut error =
                CloudError::new(ErrorKind::Unavailable, self.inner.name(), operation, why);
            error.may_land = false;
            return Err(match key {
                Some(key) => error.at(key),
                None => error,
            });
        }
        Ok(Passage {
            breaker: self,
            began: Instant::now(),
            asks,
            settled: false,
        })
    }
}

/// Asks a cloud for what it failed in: for a page, or for an object that need not be there.
async fn probe<C: Cloud>(cloud: &C, asks: Asks) -> Result<()> {
    match ObjectKey::new(PROBED) {
        Ok(key) if !asks.is_listing() => cloud.head(&key).await.map(drop),
        _ => cloud.probe().await,
    }
}

/// Probes a cloud after each pause, until it answers. Ends also when the circuit is dropped.
async fn probe_until_found<C: Cloud>(
    cloud: Arc<C>,
    circuit: Weak<Mutex<Circuit>>,
    (asks, mut pause): (Asks, Duration),
) {
    loop {
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        let probed = tokio::time::timeout(PROBE, probe(&*cloud, asks)).await;
        let Some(circuit) = circuit.upgrade() else {
            return;
        };
        let mut circuit = lock(&circuit);
        let reason = match probed {
            Ok(Err(e)) if matches!(e.kind, ErrorKind::Unavailable | ErrorKind::Timeout) => {
                e.message
            }
            Err(_) => format!("no answer within {} s", PROBE.as_secs()),
            Ok(_) => {
                circuit.answered();
                return;
            }
        };
        // If a request has failed meanwhile, it has started a task of its own and aborted this one.
        pause = circuit.failed(began, reason).unwrap_or(LONGEST_PAUSE);
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<C: Cloud + 'static> Cloud for Breaker<C> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        self.inner.describe().await
    }

    async fn probe(&self) -> Result<()> {
        let passage = Passage {
            breaker: self,
            began: Instant::now(),
            asks: Asks::Probe,
            settled: false,
        };
        passage.settle(self.inner.probe().await)
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let passage = self.admit(Operation::Put, Some(key))?;
        if !lock(&self.objects).distrusts_puts {
            return passage.settle(self.inner.put(key, content, mode).await);
        }
        // The puts in flight share the line and wait for each other.
        let in_flight = self.puts.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let _decrement = Decrement(&self.puts);
        let bytes = content.size();
        let limit = (DISTRUSTED + Duration::from_secs(bytes.saturating_mul(in_flight) / SLOWEST))
            .min(LONGEST + Duration::from_secs(bytes / SLOWEST));
        let stored = tokio::time::timeout(limit, self.inner.put(key, content, mode)).await;
        passage.settle(stored.unwrap_or_else(|_| {
            let why = format!(
                "no answer within {} s (a short timeout, because an earlier put failed)",
                limit.as_secs()
            );
            Err(CloudError::new(ErrorKind::Timeout, self.inner.name(), Operation::Put, why).at(key))
        }))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        let passage = self.admit(Operation::Get, Some(key))?;
        passage.settle(self.inner.get(key, range, if_match).await)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        let passage = self.admit(Operation::Head, Some(key))?;
        passage.settle(self.inner.head(key).await)
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        let passage = self.admit(Operation::Delete, Some(key))?;
        passage.settle(self.inner.delete(key, if_match).await)
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        let passage = self.admit(Operation::List, None)?;
        passage.settle(self.inner.list(prefix, cursor, limit).await)
    }

    async fn create_container(&self) -> Result<()> {
        self.inner.create_container().await
    }

    async fn delete_container(&self) -> Result<()> {
        self.inner.delete_container().await
    }

    async fn usage(&self) -> Result<CloudUsage> {
        let passage = self.admit(Operation::Usage, None)?;
        passage.settle(self.inner.usage().await)
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        let passage = self.admit(Operation::DeleteMany, None)?;
        passage.settle(self.inner.delete_many(keys).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FaultPlan, Faulty, MemoryCloud};

    fn key() -> ObjectKey {
        ObjectKey::new("a").unwrap()
    }

    #[tokio::test]
    async fn conforms() {
        crate::conformance::all(&Breaker::new(MemoryCloud::new("m")), "t/").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_cloud_that_is_down_is_left_alone_until_a_probe_has_found_it() {
        let cloud = Breaker::new(Faulty::down(MemoryCloud::new("m")));
        let asked = cloud.head(&key()).await.unwrap_err();
        assert!(!asked.message.contains("not asked"), "{asked}");
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(7)).await;
            let error = cloud.head(&key()).await.unwrap_err();
            assert!(
                error.kind == ErrorKind::Unavailable && error.message.contains("not asked"),
                "{error}"
            );
        }
        cloud.inner.set(FaultPlan::default());
        tokio::time::sleep(LONGEST_PAUSE).await;
        assert_eq!(
            cloud.head(&key()).await.unwrap_err().kind,
            ErrorKind::NotFound,
            "an answer"
        );
        assert_eq!(
            cloud.head(&key()).await.unwrap_err().kind,
            ErrorKind::NotFound,
            "and all pass again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_counts_once_it_was_given_up_and_a_probe_always_passes() {
        let hangs = FaultPlan {
            hang: 1.0,
            ..FaultPlan::default()
        };
        let cloud = Breaker::new(Faulty::new(MemoryCloud::new("m"), 0, hangs));
        let give_up = async |after| {
            tokio::time::timeout(Duration::from_secs(after), cloud.head(&key())).await
        };
        assert!(
            give_up(29).await.is_err() && give_up(30).await.is_err(),
            "both hang"
        );
        let error = give_up(1).await.expect("at once").unwrap_err();
        assert!(error.message.contains("no answer within 30 s"), "{error}");
        cloud.inner.set(FaultPlan::default());
        cloud.probe().await.unwrap();
        assert_eq!(
            cloud.head(&key()).await.unwrap_err().kind,
            ErrorKind::NotFound
        );
    }

    /// The listings of three services of four failed once, and their files could not be read.
    #[tokio::test(start_paused = true)]
    async fn listings_that_fail_stop_listings_alone() {
        let cloud = Breaker::new(Faulty::new(MemoryCloud::new("m"), 0, FaultPlan::default()));
        let down = FaultPlan {
            error: 1.0,
            ..FaultPlan::default()
        };
        cloud.inner.set(down.clone());
        assert!(cloud.list("", None, 1).await.is_err());
        cloud.inner.set(FaultPlan::default());
        let error = cloud.list("", None, 1).await.unwrap_err();
        assert!(error.message.contains("not asked"), "{error}");
        let found = cloud.head(&key()).await.unwrap_err();
        assert_eq!(found.kind, ErrorKind::NotFound, "an answer");
        tokio::time::sleep(LONGEST_PAUSE).await;
        cloud.list("", None, 1).await.unwrap();
        cloud.inner.set(down);
        assert!(cloud.head(&key()).await.is_err());
        let error = cloud.list("", None, 1).await.unwrap_err();
        assert!(error.message.contains("not asked"), "down: {error}");
    }

    /// Once a caller that stored a file a minute waited a minute each time.
    #[tokio::test(start_paused = true)]
    async fn a_cloud_that_hangs_costs_puts_seconds_after_the_first() {
        let cloud = Breaker::new(HangingPuts(MemoryCloud::new("m")));
        let put = async |patience: u64| {
            let began = Instant::now();
            let key = key();
            let put = cloud.put(&key, Payload::from(vec![0; 100]), WriteMode::Overwrite);
            let ended = tokio::time::timeout(Duration::from_secs(patience), put).await;
            assert!(!ended.is_ok_and(|stored| stored.is_ok()));
            began.elapsed()
        };
        assert_eq!(
            put(60).await,
            Duration::from_secs(60),
            "nothing is known of it yet"
        );
        for _ in 0..10 {
            // The probe is answered meanwhile.
            tokio::time::sleep(Duration::from_secs(20)).await;
            let waited = put(60).await;
            assert!(waited <= Duration::from_secs(5), "{waited:?}");
        }
    }

    /// A cloud that answers everything but puts.
    #[derive(Debug)]
    struct HangingPuts(MemoryCloud);

    #[async_trait]
    impl Cloud for HangingPuts {
        fn name(&self) -> &str {
            self.0.name()
        }
        async fn describe(&self) -> Result<Vec<(String, String)>> {
            self.0.describe().await
        }
        async fn probe(&self) -> Result<()> {
            self.0.probe().await
        }
        async fn put(&self, _: &ObjectKey, _: Payload, _: WriteMode) -> Result<ObjectInfo> {
            std::future::pending().await
        }
        async fn get(
            &self,
            key: &ObjectKey,
            range: Option<ByteRange>,
            if_match: Option<&str>,
        ) -> Result<Object> {
            self.0.get(key, range, if_match).await
        }
        async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
            self.0.head(key).await
        }
        async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
            self.0.delete(key, if_match).await
        }
        async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
            self.0.list(prefix, cursor, limit).await
        }
        async fn create_container(&self) -> Result<()> {
            self.0.create_container().await
        }
    }
}
