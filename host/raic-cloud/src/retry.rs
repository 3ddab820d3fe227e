//! Repeats requests whose failure may pass.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use sha2::Digest as _;
use tokio::time::Instant;
use tracing::debug;

use crate::{
    Body, ByteRange, Cloud, CloudError, CloudUsage, Digests as _, ErrorKind, Object, ObjectInfo,
    ObjectKey, Operation, Page, Payload, Result, WriteMode,
};

/// How often a request is repeated, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Most attempts at one request, the first included; 1 or more.
    pub attempts: u32,
    /// Most attempts at one put, the first included; 1 or more. A put gets more attempts than a
    /// read. A read can go on to another cloud, but a put that is given up leaves a share missing.
    pub put_attempts: u32,
    /// Upper bound of the first backoff; each further attempt doubles the bound. The backoff is
    /// drawn evenly from zero to its bound (full jitter). After [`ErrorKind::Throttled`] the bound
    /// is five times as high, and the backoff is at least half of it.
    pub base: Duration,
    /// Highest bound of a backoff. A longer retry-after of the provider ends the attempts; a
    /// shorter one is waited for, and up to a quarter longer.
    pub cap: Duration,
    /// No further attempt begins later than this after the first attempt, or after the last piece
    /// of a body.
    pub patience: Duration,
    /// Size of the cloud's retry budget, in retries. Each retry takes one; each success gives back
    /// a tenth. So callers together do not flood a cloud that is down.
    pub budget: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            // About 6 s on average, so a service that restarts costs no share.
            put_attempts: 8,
            base: Duration::from_millis(100),
            cap: Duration::from_secs(20),
            patience: Duration::from_secs(60),
            budget: 100,
        }
    }
}

/// Factor of the backoff after [`ErrorKind::Throttled`], because a service stays busy for seconds.
const THROTTLED: u32 = 5;

/// The attempts at one request, or at one body. For a body the time begins anew with each piece.
#[derive(Debug)]
struct Attempts {
    made: u32,
    most: u32,
    began: Instant,
}

impl Attempts {
    fn begin(most: u32) -> Self {
        Self {
            made: 1,
            most,
            began: Instant::now(),
        }
    }
}

/// A decorator that repeats a request if the kind of its error is retryable, with exponential
/// backoff and full jitter.
///
/// - If a put with a condition finds the condition broken after an attempt without an answer, the
///   object's content decides. The put succeeds exactly if the content is this payload.
/// - A body that breaks is continued from where it broke, with `if-match` on the etag that it began
///   with, if the service reports one. An [`ErrorKind::Integrity`] error is passed on.
#[derive(Debug)]
pub struct Retry<C>(Arc<Shared<C>>);

#[derive(Debug)]
struct Shared<C> {
    inner: C,
    policy: RetryPolicy,
    // What is left of the budget, in tenths of a retry. A blocking lock, because it is only held
    // for an addition.
    budget: Mutex<u32>,
}

impl<C: Cloud> Shared<C> {
    fn succeeded(&self) {
        let mut budget = self.budget.lock();
        *budget = budget
            .saturating_add(1)
            .min(self.policy.budget.saturating_mul(10));
    }

    fn take_from_budget(&self) -> bool {
        let mut budget = self.budget.lock();
        match budget.checked_sub(10) {
            Some(rest) => {
                *budget = rest;
                true
            }
            None => false,
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The error that was given, if there is no further attempt. Then its kind is final, or the
    /// attempts, the patience or the budget are used up. Or the provider asks for a longer wait
    /// than the cap.
    async fn backoff(&self, attempts: &mut Attempts, error: CloudError) -> Result<()> {
        if !error.kind.is_retryable() || attempts.made >= attempts.most {
            return Err(error);
        }
        let slower = if error.kind == ErrorKind::Throttled {
            THROTTLED
        } else {
            1
        };
        let base = self.policy.base.saturating_mul(slower);
        let ceiling = base
            .saturating_mul(1 << (attempts.made - 1).min(20))
            .min(self.policy.cap);
        // A throttled request waits for at least half of the bound, whatever the jitter is.
        let least = if slower > 1 { 0.5 } else { 0.0 };
        let mut wait = ceiling.mul_f64(least + (1.0 - least) * rand::random::<f64>());
        if let Some(asked) = error.retry_after {
            if asked > self.policy.cap {
                return Err(error);
            }
            // The jitter keeps callers that got the same retry-after from returning together.
            wait = wait.max(asked.mul_f64(1.0 + rand::random::<f64>() / 4.0));
        }
        if attempts.began.elapsed() + wait > self.policy.patience {
            return Err(error);
        }
        if !self.take_from_budget() {
            debug!(cloud = self.inner.name(), %error, "retry budget used up");
            return Err(error);
        }
        debug!(cloud = self.inner.name(), attempt = attempts.made, ?wait, %error, "retrying");
        tokio::time::sleep(wait).await;
        attempts.made += 1;
        Ok(())
    }

    async fn run<T, F: Future<Output = Result<T>>>(&self, request: impl Fn() -> F) -> Result<T> {
        let mut attempts = Attempts::begin(self.policy.attempts);
        loop {
            match request().await {
                Ok(answer) => {
                    self.succeeded();
                    return Ok(answer);
                }
                Err(error) => self.backoff(&mut attempts, error).await?,
            }
        }
    }

    /// Returns what is known of the object if its content is exactly this payload, else `None`.
    async fn holds(&self, key: &ObjectKey, content: &Payload) -> Result<Option<ObjectInfo>> {
        let Object { info, mut body } = self.run(|| self.inner.get(key, None, None)).await?;
        if info.size != content.size() {
            return Ok(None);
        }
        let mut hash = sha2::Sha256::new();
        while let Some(piece) = body.try_next().await? {
            hash.update(&piece);
        }
        Ok((hash.finalize()[..] == content.sha256()).then_some(info))
    }
}

impl<C: Cloud> Retry<C> {
    /// Repeats the requests of `inner` as `policy` says.
    pub fn new(inner: C, policy: RetryPolicy) -> Self {
        Self(Arc::new(Shared {
            inner,
            policy,
            budget: Mutex::new(policy.budget.saturating_mul(10)),
        }))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<C: Cloud + 'static> Cloud for Retry<C> {
    fn name(&self) -> &str {
        self.0.inner.name()
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        self.0.run(|| self.0.inner.describe()).await
    }

    async fn probe(&self) -> Result<()> {
        self.0.run(|| self.0.inner.probe()).await
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let this = &self.0;
        let mut attempts = Attempts::begin(this.policy.put_attempts);
        let mut unanswered = false;
        loop {
            let error = match this.inner.put(key, content.clone(), mode.clone()).await {
                Ok(info) => {
                    this.succeeded();
                    return Ok(info);
                }
                Err(error) => error,
            };
            let has_conflict = match mode {
                WriteMode::CreateOnly => error.kind == ErrorKind::AlreadyExists,
                WriteMode::IfMatch(_) => error.kind == ErrorKind::PreconditionFailed,
                WriteMode::Overwrite => false,
            };
            if has_conflict && unanswered {
                // An earlier attempt without an answer may have stored the object. So every error
                // from here on has `may_land` set.
                let unseen = |e: CloudError| CloudError {
                    may_land: true,
                    operation: Operation::Put,
                    ..e
                };
                let landed = CloudError {
                    may_land: true,
                    ..error
                };
                return this
                    .holds(key, &content)
                    .await
                    .map_err(unseen)?
                    .ok_or(landed);
            }
            unanswered |= error.may_land;
            this.backoff(
                &mut attempts,
                CloudError {
                    may_land: unanswered,
                    ..error
                },
            )
            .await?;
        }
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        let Object { info, body } = self
            .0
            .run(|| self.0.inner.get(key, range, if_match))
            .await?;
        let wanted = match range {
            None => 0..info.size,
            Some(range) => range.within(info.size).unwrap_or(0..0),
        };
        let reading = Reading {
            shared: self.0.clone(),
            key: key.clone(),
            etag: info.etag.clone(),
            next: wanted.start,
            end: wanted.end,
            body,
            attempts: Attempts::begin(self.0.policy.attempts),
        };
        let body = stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.piece().await?.map(|piece| (piece, reading)))
        });
        Ok(Object {
            info,
            body: body.boxed(),
        })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.0.run(|| self.0.inner.head(key)).await
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        self.0.run(|| self.0.inner.delete(key, if_match)).await
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        self.0
            .run(|| self.0.inner.list(prefix, cursor, limit))
            .await
    }

    async fn create_container(&self) -> Result<()> {
        self.0.run(|| self.0.inner.create_container()).await
    }

    async fn delete_container(&self) -> Result<()> {
        self.0.run(|| self.0.inner.delete_container()).await
    }

    async fn usage(&self) -> Result<CloudUsage> {
        self.0.run(|| self.0.inner.usage()).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        let mut failed = Vec::new();
        for (key, e) in self.0.run(|| self.0.inner.delete_many(keys)).await? {
            // Each of these objects is deleted by itself, with attempts and patience of its own.
            let again = if e.kind.is_retryable() {
                self.delete(&key, None).await
            } else {
                Err(e)
            };
            failed.extend(again.err().map(|e| (key, e)));
        }
        Ok(failed)
    }
}

/// The state of a body that is continued where it breaks.
struct Reading<C> {
    shared: Arc<Shared<C>>,
    key: ObjectKey,
    etag: Option<String>,
    next: u64,
    end: u64,
    body: Body,
    attempts: Attempts,
}

impl<C: Cloud> Reading<C> {
    async fn piece(&mut self) -> Result<Option<bytes::Bytes>> {
        loop {
            let mut error = match self.body.try_next().await {
                Ok(Some(piece)) => {
                    self.next += piece.len() as u64;
                    self.attempts.began = Instant::now();
                    return Ok(Some(piece));
                }
                Ok(None) => return Ok(None),
                Err(error) => error,
            };
            // Bytes that were handed on cannot be taken back. So the reader gets an error that
            // concerns them (a checksum), and an error that comes after the last of them.
            let left = self.end.saturating_sub(self.next);
            let Some(rest) = NonZeroU64::new(left).filter(|_| error.kind != ErrorKind::Integrity)
            else {
                return Err(error);
            };
            loop {
                self.shared.backoff(&mut self.attempts, error).await?;
                let range = ByteRange {
                    offset: self.next,
                    length: rest,
                };
                match self
                    .shared
                    .inner
                    .get(&self.key, Some(range), self.etag.as_deref())
                    .await
                {
                    Ok(object) => {
                        self.body = object.body;
                        break;
                    }
                    Err(again) => error = again,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FaultPlan, Faulty, MemoryCloud, collect_body};

    fn quick() -> RetryPolicy {
        RetryPolicy {
            attempts: 8,
            put_attempts: 8,
            base: Duration::from_millis(1),
            ..RetryPolicy::default()
        }
    }

    fn key() -> ObjectKey {
        ObjectKey::new("a/b").unwrap()
    }

    #[tokio::test]
    async fn conforms() {
        crate::conformance::all(&Retry::new(MemoryCloud::new("m"), quick()), "t/").await;
    }

    #[tokio::test(start_paused = true)]
    async fn hides_failures_that_pass() {
        let plan = FaultPlan {
            error: 0.4,
            lost_answer: 0.2,
            short_body: 0.3,
            ..FaultPlan::default()
        };
        let cloud = Retry::new(
            Faulty::new(MemoryCloud::new("m"), 7, plan),
            RetryPolicy {
                attempts: 50,
                put_attempts: 50,
                budget: 10_000,
                ..quick()
            },
        );
        let content = Payload::from(vec![5u8; 100_000]);
        for i in 0..50 {
            let key = ObjectKey::new(format!("k{i}")).unwrap();
            cloud
                .put(&key, content.clone(), WriteMode::CreateOnly)
                .await
                .unwrap();
            let object = cloud
                .get(&key, ByteRange::new(10, 90_000), None)
                .await
                .unwrap();
            assert_eq!(
                collect_body("m", object.body, 100_000).await.unwrap().len(),
                90_000
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_create_only_put_counts_only_if_the_content_is_ours() {
        let memory = MemoryCloud::new("m");
        memory
            .put(&key(), Payload::from(&b"theirs"[..]), WriteMode::Overwrite)
            .await
            .unwrap();
        // The first attempt ends without an answer; the second finds an object with other content.
        let faulty = Faulty::new(
            memory,
            1,
            FaultPlan {
                error: 1.0,
                first: Some(1),
                ..FaultPlan::default()
            },
        );
        let cloud = Retry::new(faulty, quick());
        let put = async |content: &'static [u8]| {
            cloud
                .put(&key(), Payload::from(content), WriteMode::CreateOnly)
                .await
        };
        assert_eq!(
            put(b"ours").await.unwrap_err().kind,
            ErrorKind::AlreadyExists
        );
        assert_eq!(
            put(b"theirs").await.unwrap_err().kind,
            ErrorKind::AlreadyExists,
            "answered at once"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_cloud_that_answers_late_is_not_asked_for_ever() {
        let slow = FaultPlan {
            error: 1.0,
            latency: Duration::from_secs(10)..Duration::from_secs(11),
            ..FaultPlan::default()
        };
        let cloud = Retry::new(
            Faulty::new(MemoryCloud::new("m"), 1, slow),
            RetryPolicy {
                attempts: 100,
                ..quick()
            },
        );
        let began = Instant::now();
        assert_eq!(
            cloud.probe().await.unwrap_err().kind,
            ErrorKind::Unavailable
        );
        assert!(
            (50..75).contains(&began.elapsed().as_secs()),
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn final_errors_are_not_repeated_and_patience_ends() {
        let faulty = Faulty::new(MemoryCloud::new("m"), 1, FaultPlan::default());
        let counted = crate::Meter::new(faulty);
        let metering = counted.metering();
        let cloud = Retry::new(counted, quick());
        assert_eq!(
            cloud.head(&key()).await.unwrap_err().kind,
            ErrorKind::NotFound
        );
        assert_eq!(metering.operation(crate::Operation::Head).requests, 1);

        let down = crate::Meter::new(Faulty::down(MemoryCloud::new("m")));
        let metering = down.metering();
        let cloud = Retry::new(
            down,
            RetryPolicy {
                attempts: 3,
                budget: 5,
                ..quick()
            },
        );
        for _ in 0..10 {
            assert_eq!(
                cloud.head(&key()).await.unwrap_err().kind,
                ErrorKind::Unavailable
            );
        }
        // Ten first attempts, and the five retries of the budget.
        assert_eq!(metering.operation(crate::Operation::Head).requests, 15);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_as_long_as_the_provider_asks() {
        let plan = FaultPlan {
            error: 1.0,
            first: Some(1),
            retry_after: Some(Duration::from_secs(7)),
            ..FaultPlan::default()
        };
        let cloud = Retry::new(Faulty::new(MemoryCloud::new("m"), 1, plan), quick());
        let start = tokio::time::Instant::now();
        cloud.probe().await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_speaks_of_delivered_bytes_is_not_hidden() {
        let retry = Retry::new(MemoryCloud::new("m"), quick());
        retry
            .put(
                &key(),
                Payload::from(&b"12345678"[..]),
                WriteMode::Overwrite,
            )
            .await
            .unwrap();
        let reading = |delivered: &'static [u8], kind| {
            let error = CloudError::new(kind, "m", crate::Operation::Get, "broke");
            let pieces = [Ok(bytes::Bytes::from_static(delivered)), Err(error)];
            let body = stream::iter(pieces).boxed();
            Reading {
                shared: retry.0.clone(),
                key: key(),
                etag: None,
                next: 0,
                end: 8,
                body,
                attempts: Attempts::begin(8),
            }
        };
        for (delivered, kind) in [
            (&b"12345678"[..], ErrorKind::Unavailable),
            (b"12345678", ErrorKind::Integrity),
            (b"1234", ErrorKind::Integrity),
        ] {
            let mut broken = reading(delivered, kind);
            assert_eq!(broken.piece().await.unwrap().unwrap(), delivered);
            assert_eq!(broken.piece().await.unwrap_err().kind, kind);
        }
        let mut continued = reading(b"1234", ErrorKind::Unavailable);
        continued.piece().await.unwrap();
        assert_eq!(continued.piece().await.unwrap().unwrap(), "5678");
    }
}
