//! Stops asking a cloud that is down, so that nobody waits for it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    ByteRange, Cloud, CloudError, CloudUsage, ErrorKind, Object, ObjectInfo, ObjectKey, Operation, Page,
    Payload, Result, WriteMode,
};

/// How long a cloud is left alone after its first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// And at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A request that was given up after so long without an answer counts as a failure.
const HANGING: Duration = Duration::from_secs(30);

/// A circuit breaker. After a request that the cloud could not be reached for, others fail at once for a while; then
/// one is let through, and by its outcome the cloud is asked again or left alone for longer.
///
/// Stands around [`crate::Retry`], so that a failure is one that retries did not help. [`Cloud::probe`] always passes.
#[derive(Debug)]
pub struct Breaker<C> {
    inner: C,
    // A std lock: held while fields are compared and set.
    circuit: Mutex<Circuit>,
}

#[derive(Debug, Default)]
struct Circuit {
    /// Failures since the last answer, and when the last was.
    failures: u32,
    failed_at: Option<Instant>,
    /// When the next request may pass; none while all may.
    closed_until: Option<Instant>,
    /// Why it is left alone.
    reason: String,
}

/// A request on its way; an end without settling is somebody giving it up.
struct Passage<'a> {
    circuit: &'a Mutex<Circuit>,
    began: Instant,
    settled: bool,
}

fn lock(circuit: &Mutex<Circuit>) -> MutexGuard<'_, Circuit> {
    circuit.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Circuit {
    /// A request that began at `began` failed.
    fn failed(&mut self, began: Instant, reason: String) {
        // Requests under way together fail together, and that is one failure.
        if self.failed_at.is_some_and(|before| began < before) {
            return;
        }
        self.failed_at = Some(Instant::now());
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.closed_until = Some(Instant::now() + pause);
        self.reason = reason;
    }
}

impl Passage<'_> {
    fn settle<T>(mut self, outcome: Result<T>) -> Result<T> {
        self.settled = true;
        match &outcome {
            Err(e) if matches!(e.kind, ErrorKind::Unavailable | ErrorKind::Timeout) => {
                lock(self.circuit).failed(self.began, e.message.clone());
            }
            // Any answer shows that the cloud is there.
            _ => *lock(self.circuit) = Circuit::default(),
        }
        outcome
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let waited = self.began.elapsed();
        let mut circuit = lock(self.circuit);
        if waited >= HANGING {
            circuit.failed(self.began, format!("no answer within {} s", waited.as_secs()));
        } else if circuit.closed_until.is_some() {
            // It tried for all and was not waited for: the next one tries.
            circuit.closed_until = Some(Instant::now());
        }
    }
}

impl<C: Cloud> Breaker<C> {
    /// Around `inner`.
    pub fn new(inner: C) -> Self {
        Self { inner, circuit: Mutex::default() }
    }

    fn admit(&self, operation: Operation, key: Option<&ObjectKey>) -> Result<Passage<'_>> {
        let now = Instant::now();
        let mut circuit = lock(&self.circuit);
        if let Some(until) = circuit.closed_until {
            if now < until {
                let left = (until - now).as_secs() + 1;
                let why = format!("not asked for {left} s more, since it failed lately: {}", circuit.reason);
                let mut error = CloudError::new(ErrorKind::Unavailable, self.inner.name(), operation, why);
                error.may_land = false;
                return Err(match key {
                    Some(key) => error.at(key),
                    None => error,
                });
            }
            // This one tries; until its outcome is known another does now and then, since it may take long.
            circuit.closed_until = Some(now + FIRST_PAUSE);
        }
        Ok(Passage { circuit: &self.circuit, began: now, settled: false })
    }
}

#[async_trait]
impl<C: Cloud> Cloud for Breaker<C> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        self.inner.describe().await
    }

    async fn probe(&self) -> Result<()> {
        let passage = Passage { circuit: &self.circuit, began: Instant::now(), settled: false };
        passage.settle(self.inner.probe().await)
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let passage = self.admit(Operation::Put, Some(key))?;
        passage.settle(self.inner.put(key, content, mode).await)
    }

    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>, if_match: Option<&str>) -> Result<Object> {
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
    async fn a_cloud_that_is_down_is_left_alone_and_asked_again_later() {
        let cloud = Breaker::new(Faulty::down(MemoryCloud::new("m")));
        for pause in [2, 4, 8, 15, 15] {
            let asked = cloud.head(&key()).await.unwrap_err();
            assert!(!asked.message.contains("not asked"), "{asked}");
            tokio::time::advance(Duration::from_secs(pause) - Duration::from_millis(1)).await;
            let told = cloud.head(&key()).await.unwrap_err();
            assert!(told.kind == ErrorKind::Unavailable && told.message.contains("not asked"), "{told}");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        cloud.inner.set(FaultPlan::default());
        assert_eq!(cloud.head(&key()).await.unwrap_err().kind, ErrorKind::NotFound, "an answer");
        assert_eq!(cloud.head(&key()).await.unwrap_err().kind, ErrorKind::NotFound, "and all pass again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_counts_once_it_was_given_up_and_a_probe_always_passes() {
        let hangs = FaultPlan { hang: 1.0, ..FaultPlan::default() };
        let cloud = Breaker::new(Faulty::new(MemoryCloud::new("m"), 0, hangs));
        let give_up =
            async |after| tokio::time::timeout(Duration::from_secs(after), cloud.head(&key())).await;
        assert!(give_up(29).await.is_err() && give_up(30).await.is_err(), "both hang");
        let told = give_up(1).await.expect("at once").unwrap_err();
        assert!(told.message.contains("no answer within 30 s"), "{told}");
        cloud.inner.set(FaultPlan::default());
        cloud.probe().await.unwrap();
        assert_eq!(cloud.head(&key()).await.unwrap_err().kind, ErrorKind::NotFound);
    }
}
