//! Stops asking a cloud that is down, so that nobody waits for it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ByteRange, Cloud, CloudError, CloudUsage, ErrorKind, Object, ObjectInfo, ObjectKey, Operation,
    Page, Payload, Result, WriteMode,
};

/// How long a cloud is left alone after its first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause, however often it has failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A request that was given up after so long without an answer counts as a failure.
const HANGING: Duration = Duration::from_secs(30);
/// How long the probe after a pause may take.
const PROBE: Duration = Duration::from_secs(20);
/// How long a put may take to a cloud that has taken none since one failed there, beside the time
/// for its bytes.
const DISTRUSTED: Duration = Duration::from_secs(5);
/// The most that it waits for others, beside the time for its own bytes.
const LONGEST: Duration = Duration::from_secs(60);
/// What such a cloud must take in a second, in bytes.
const SLOWEST: u64 = 64 << 10;

/// A circuit breaker. After a request that the cloud could not be reached for, others fail at once,
/// until a probe of its own, after a pause, has found the cloud again. No caller is the one that
/// tries: whoever stores a file a minute would wait each time.
///
/// A probe may be answered by a cloud that takes no puts. So after a failed put each further one is
/// given seconds, until one succeeds.
///
/// Stands around [`crate::Retry`], so that a failure is one that retries did not help.
/// [`Cloud::probe`] always passes.
///
/// Dropping it ends the probe that is under way.
#[derive(Debug)]
pub struct Breaker<C> {
    inner: Arc<C>,
    // A std lock: held while fields are compared and set.
    circuit: Arc<Mutex<Circuit>>,
    /// Puts on trial.
    puts: AtomicU64,
}

/// Counts one less when it goes.
struct Ended<'a>(&'a AtomicU64);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Circuit {
    /// Failures since the last answer, and when the last was.
    failures: u32,
    failed_at: Option<Instant>,
    /// Set while none may pass.
    is_open: bool,
    /// Whether a put failed and none has succeeded since.
    distrusts_puts: bool,
    /// Why it is left alone.
    reason: String,
    /// The probe, or the pause before it.
    probe: Option<AbortOnDropHandle<()>>,
}

/// A request on its way; an end without settling is somebody giving it up.
struct Passage<'a, C: Cloud + 'static> {
    breaker: &'a Breaker<C>,
    began: Instant,
    is_put: bool,
    settled: bool,
}

fn lock(circuit: &Mutex<Circuit>) -> MutexGuard<'_, Circuit> {
    circuit.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Circuit {
    /// A request that began at `began` failed. Gives the pause before the next is tried, unless it
    /// is one failure with another.
    fn failed(&mut self, began: Instant, reason: String) -> Option<Duration> {
        // Requests under way together fail together, and that is one failure.
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

    /// The cloud answered.
    fn answered(&mut self) {
        (self.failures, self.failed_at, self.is_open) = (0, None, false);
        // Whoever probes just now has nothing to find out any more; a probe that says so ends by
        // itself.
        self.reason.clear();
    }
}

impl<C: Cloud + 'static> Passage<'_, C> {
    fn settle<T>(mut self, outcome: Result<T>) -> Result<T> {
        self.settled = true;
        match &outcome {
            Err(e) if matches!(e.kind, ErrorKind::Unavailable | ErrorKind::Timeout) => {
                self.breaker
                    .failed(self.began, self.is_put, e.message.clone());
            }
            // Any answer shows that the cloud is there.
            _ => {
                let mut circuit = lock(&self.breaker.circuit);
                circuit.answered();
                if self.is_put && outcome.is_ok() {
                    circuit.distrusts_puts = false;
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
                self.is_put,
                format!("no answer within {} s", waited.as_secs()),
            );
        }
    }
}

impl<C: Cloud + 'static> Breaker<C> {
    /// Around `inner`.
    pub fn new(inner: C) -> Self {
        Self {
            inner: Arc::new(inner),
            circuit: Arc::default(),
            puts: AtomicU64::new(0),
        }
    }

    fn failed(&self, began: Instant, is_put: bool, reason: String) {
        let mut circuit = lock(&self.circuit);
        circuit.distrusts_puts |= is_put;
        if let Some(pause) = circuit.failed(began, reason) {
            let probing =
                probe_until_found(self.inner.clone(), Arc::downgrade(&self.circuit), pause);
            circuit.probe = Some(AbortOnDropHandle::new(tokio::spawn(probing)));
        }
    }

    fn admit(&self, operation: Operation, key: Option<&ObjectKey>) -> Result<Passage<'_, C>> {
        let circuit = lock(&self.circuit);
        if circuit.is_open {
            let why = format!(
                "not asked until it answers again, since it failed lately: {}",
                circuit.reason
            );
            let mut error =
                CloudError::new(ErrorKind::Unavailable, self.inner.name(), operation, why);
            error.may_land = false;
            return Err(match key {
                Some(key) => error.at(key),
                None => error,
            });
        }
        let is_put = operation == Operation::Put;
        Ok(Passage {
            breaker: self,
            began: Instant::now(),
            is_put,
            settled: false,
        })
    }
}

/// Probes a cloud after each pause, until it answers. Ends with the circuit.
async fn probe_until_found<C: Cloud>(
    cloud: Arc<C>,
    circuit: Weak<Mutex<Circuit>>,
    mut pause: Duration,
) {
    loop {
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        let probed = tokio::time::timeout(PROBE, cloud.probe()).await;
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
        // One that failed meanwhile has a probe of its own, and has ended this one.
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
            is_put: false,
            settled: false,
        };
        passage.settle(self.inner.probe().await)
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let passage = self.admit(Operation::Put, Some(key))?;
        if !lock(&self.circuit).distrusts_puts {
            return passage.settle(self.inner.put(key, content, mode).await);
        }
        // Those that are under way share the line, and wait for each other.
        let under_way = self.puts.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let _ended = Ended(&self.puts);
        let bytes = content.size();
        let limit = (DISTRUSTED + Duration::from_secs(bytes.saturating_mul(under_way) / SLOWEST))
            .min(LONGEST + Duration::from_secs(bytes / SLOWEST));
        let stored = tokio::time::timeout(limit, self.inner.put(key, content, mode)).await;
        passage.settle(stored.unwrap_or_else(|_| {
            let why = format!(
                "no answer within {} s, and a put failed there before",
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
            let told = cloud.head(&key()).await.unwrap_err();
            assert!(
                told.kind == ErrorKind::Unavailable && told.message.contains("not asked"),
                "{told}"
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
        let told = give_up(1).await.expect("at once").unwrap_err();
        assert!(told.message.contains("no answer within 30 s"), "{told}");
        cloud.inner.set(FaultPlan::default());
        cloud.probe().await.unwrap();
        assert_eq!(
            cloud.head(&key()).await.unwrap_err().kind,
            ErrorKind::NotFound
        );
    }

    /// Whoever stored a file a minute waited a minute each time.
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

    /// Answers all but puts.
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
