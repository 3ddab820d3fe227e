//! Makes a cloud misbehave, reproducibly by a seed, for tests.

use std::{collections::VecDeque, ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use parking_lot::{Mutex, MutexGuard};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    ByteRange, Cloud, CloudError, CloudUsage, ErrorKind, Listed, Object, ObjectInfo, ObjectKey,
    Operation, Page, Payload, Result, WriteMode,
};

/// Which faults a cloud has, and how often. The numbers are probabilities from 0 (never) to 1
/// (always), drawn for each request if the field does not say otherwise.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// Delay of every request, drawn evenly from this range.
    pub latency: Range<Duration>,
    /// Probability that a request fails before the cloud sees it, with a kind drawn from `kinds`.
    pub error: f64,
    /// Kinds of the errors that `error` makes; [`ErrorKind::Unavailable`] if the list is empty.
    pub kinds: Vec<ErrorKind>,
    /// The retry-after of the errors that `error` makes.
    pub retry_after: Option<Duration>,
    /// Probability that a request never ends.
    pub hang: f64,
    /// Probability that a body breaks off before its end.
    pub short_body: f64,
    /// Probability that one bit of a body is changed.
    pub corrupt_body: f64,
    /// Prefix of the keys of objects whose bodies may be changed; empty for all objects.
    pub corrupt_below: &'static str,
    /// Probability that a put or delete is acknowledged but not done.
    pub lost_write: f64,
    /// Probability that a put or delete is done but fails with a timeout.
    pub lost_answer: f64,
    /// Probability that a put or delete fails with a timeout and is done only by [`Faulty::land`]:
    /// a request that was given up and lands later.
    pub late: f64,
    /// Probability, for each listed object, that a listing leaves it out, as if the service listed
    /// it late.
    pub omit_listed: f64,
    /// Every listing leaves out the objects whose keys contain this text. An empty text leaves out
    /// none.
    pub omit_named: String,
    /// Probability that a page of a listing is the last although there are more.
    pub truncate_list: f64,
    /// Names without objects, which listings return after the real ones.
    pub invented: Option<Invented>,
    /// Size in bytes of the largest object that a put takes; `describe` reports it.
    pub max_object_size: Option<u64>,
    /// Number of drawn faults after which no more are drawn; `None` for no limit.
    pub first: Option<u64>,
}

/// Names of objects that do not exist, for listings.
#[derive(Clone, Copy, Debug)]
pub struct Invented {
    /// How many names there are.
    pub count: u64,
    /// Makes the name with a number, counted from 0. A listing returns these names only if its
    /// prefix is also a prefix of the first one.
    pub name: fn(u64) -> String,
}

impl Invented {
    /// Prefix of the cursors of pages with invented names.
    const CURSOR: &str = "invented.";

    fn page(&self, from: u64, limit: u32) -> Page {
        let end = self.count.min(from.saturating_add(limit.into()));
        let listed = |number| {
            let key = ObjectKey::new((self.name)(number)).ok()?;
            Some(Listed {
                key,
                info: ObjectInfo {
                    size: 1,
                    ..ObjectInfo::default()
                },
            })
        };
        Page {
            entries: (from..end).filter_map(listed).collect(),
            next: (end < self.count).then(|| format!("{}{end}", Self::CURSOR)),
        }
    }
}

impl Default for FaultPlan {
    /// A plan without faults.
    fn default() -> Self {
        Self {
            latency: Duration::ZERO..Duration::ZERO,
            error: 0.0,
            kinds: vec![ErrorKind::Unavailable],
            retry_after: None,
            hang: 0.0,
            short_body: 0.0,
            corrupt_body: 0.0,
            corrupt_below: "",
            lost_write: 0.0,
            lost_answer: 0.0,
            late: 0.0,
            omit_listed: 0.0,
            omit_named: String::new(),
            truncate_list: 0.0,
            invented: None,
            max_object_size: None,
            first: None,
        }
    }
}

/// A decorator whose cloud fails by a plan. The same seed and the same requests in the same order
/// make the same faults.
#[derive(Debug)]
pub struct Faulty<C> {
    inner: C,
    // A blocking lock, because it is only held while random numbers are drawn or the state is
    // changed.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    dice: StdRng,
    plan: FaultPlan,
    made: u64,
    late: VecDeque<Late>,
}

/// A request that was answered by a timeout and is done later.
#[derive(Debug)]
enum Late {
    Put(ObjectKey, Payload, WriteMode),
    Delete(ObjectKey, Option<String>),
}

impl State {
    fn throw(&mut self, probability: f64) -> bool {
        let hit = probability > 0.0
            && self.plan.first.is_none_or(|first| self.made < first)
            && self.dice.random::<f64>() < probability;
        self.made += u64::from(hit);
        hit
    }
}

impl<C: Cloud> Faulty<C> {
    /// Makes `inner` fail by `plan`, with random numbers from `seed`.
    pub fn new(inner: C, seed: u64, plan: FaultPlan) -> Self {
        let state = State {
            dice: StdRng::seed_from_u64(seed),
            plan,
            made: 0,
            late: VecDeque::new(),
        };
        Self {
            inner,
            state: Mutex::new(state),
        }
    }

    /// Does the oldest late request now. Returns false if there is none. The request's own outcome
    /// is dropped, as its caller has gone.
    pub async fn land(&self) -> bool {
        let oldest = self.state().late.pop_front();
        match oldest {
            None => return false,
            Some(Late::Put(key, content, mode)) => drop(self.inner.put(&key, content, mode).await),
            Some(Late::Delete(key, etag)) => drop(self.inner.delete(&key, etag.as_deref()).await),
        }
        true
    }

    /// Drops the late requests, so that they never land.
    pub fn forget_late(&self) {
        self.state().late.clear();
    }

    /// Makes `inner` fail every request until another plan is set.
    pub fn down(inner: C) -> Self {
        Self::new(inner, 0, Self::down_plan())
    }

    /// Returns the plan of a cloud that is down: every request fails as unavailable.
    pub fn down_plan() -> FaultPlan {
        FaultPlan {
            error: 1.0,
            ..FaultPlan::default()
        }
    }

    /// Replaces the plan. The count of its faults begins at zero.
    pub fn set(&self, plan: FaultPlan) {
        let mut state = self.state();
        state.plan = plan;
        state.made = 0;
    }

    /// Returns the cloud inside, which has no faults.
    pub fn inner(&self) -> &C {
        &self.inner
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    async fn before(&self, operation: Operation, key: Option<&ObjectKey>) -> Result<()> {
        let (wait, hang, error) = {
            let mut state = self.state();
            let latency = state.plan.latency.clone();
            let wait = if latency.is_empty() {
                latency.start
            } else {
                state.dice.random_range(latency)
            };
            let (hang, error) = (state.plan.hang, state.plan.error);
            let hang = state.throw(hang);
            let error = state.throw(error).then(|| {
                let kinds = state.plan.kinds.len().max(1);
                let index = state.dice.random_range(0..kinds);
                let kind = state
                    .plan
                    .kinds
                    .get(index)
                    .copied()
                    .unwrap_or(ErrorKind::Unavailable);
                let mut error =
                    CloudError::new(kind, self.inner.name(), operation, "made by the fault plan");
                error.retry_after = state.plan.retry_after;
                error.key = key.map(ToString::to_string);
                error
            });
            (wait, hang, error)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if hang {
            std::future::pending::<()>().await;
        }
        error.map_or(Ok(()), Err)
    }

    fn throw(&self, probability: impl Fn(&FaultPlan) -> f64) -> bool {
        let mut state = self.state();
        let probability = probability(&state.plan);
        state.throw(probability)
    }

    fn unanswered(&self, operation: Operation, key: &ObjectKey) -> CloudError {
        CloudError::new(
            ErrorKind::Timeout,
            self.inner.name(),
            operation,
            "the answer was lost by the fault plan",
        )
        .at(key)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<C: Cloud> Cloud for Faulty<C> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        self.before(Operation::Describe, None).await?;
        let mut described = self.inner.describe().await?;
        if let Some(largest) = self.state().plan.max_object_size {
            described.push(("max-object-size".to_owned(), largest.to_string()));
        }
        Ok(described)
    }

    async fn probe(&self) -> Result<()> {
        self.before(Operation::Probe, None).await?;
        self.inner.probe().await
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        self.before(Operation::Put, Some(key)).await?;
        let largest = self.state().plan.max_object_size;
        if largest.is_some_and(|largest| content.size() > largest) {
            let why = "larger than the fault plan allows";
            return Err(
                CloudError::new(ErrorKind::TooLarge, self.name(), Operation::Put, why).at(key),
            );
        }
        if self.throw(|plan| plan.lost_write) {
            return Ok(ObjectInfo {
                size: content.size(),
                ..ObjectInfo::default()
            });
        }
        if self.throw(|plan| plan.late) {
            self.state()
                .late
                .push_back(Late::Put(key.clone(), content, mode));
            return Err(self.unanswered(Operation::Put, key));
        }
        let info = self.inner.put(key, content, mode).await?;
        if self.throw(|plan| plan.lost_answer) {
            return Err(self.unanswered(Operation::Put, key));
        }
        Ok(info)
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        self.before(Operation::Get, Some(key)).await?;
        let Object { info, mut body } = self.inner.get(key, range, if_match).await?;
        let below = self.state().plan.corrupt_below;
        if key.as_str().starts_with(below) && self.throw(|plan| plan.corrupt_body) {
            body = body
                .enumerate()
                .map(|(i, piece)| match piece {
                    Ok(piece) if i == 0 && !piece.is_empty() => {
                        let mut bytes = piece.to_vec();
                        let middle = bytes.len() / 2;
                        bytes[middle] ^= 0x10;
                        Ok(Bytes::from(bytes))
                    }
                    piece => piece,
                })
                .boxed();
        }
        if self.throw(|plan| plan.short_body) {
            let error = CloudError::new(
                ErrorKind::Unavailable,
                self.inner.name(),
                Operation::Get,
                "the body broke off by the fault plan",
            )
            .at(key);
            body = body
                .take(1)
                .map(|piece| piece.map(|bytes| bytes.slice(..bytes.len() / 2)))
                .chain(stream::iter([Err(error)]))
                .boxed();
        }
        Ok(Object { info, body })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.before(Operation::Head, Some(key)).await?;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        self.before(Operation::Delete, Some(key)).await?;
        if self.throw(|plan| plan.lost_write) {
            return Ok(());
        }
        if self.throw(|plan| plan.late) {
            self.state()
                .late
                .push_back(Late::Delete(key.clone(), if_match.map(str::to_owned)));
            return Err(self.unanswered(Operation::Delete, key));
        }
        self.inner.delete(key, if_match).await?;
        if self.throw(|plan| plan.lost_answer) {
            return Err(self.unanswered(Operation::Delete, key));
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        self.before(Operation::List, None).await?;
        let invented = self
            .state()
            .plan
            .invented
            .filter(|i| (i.name)(0).starts_with(prefix));
        let from = cursor.and_then(|cursor| cursor.strip_prefix(Invented::CURSOR)?.parse().ok());
        if let (Some(invented), Some(from)) = (invented, from) {
            return Ok(invented.page(from, limit));
        }
        let mut page = self.inner.list(prefix, cursor, limit).await?;
        if invented.is_some() && page.next.is_none() {
            page.next = Some(format!("{}0", Invented::CURSOR));
        }
        let named = self.state().plan.omit_named.clone();
        page.entries
            .retain(|entry| named.is_empty() || !entry.key.as_str().contains(&named));
        page.entries
            .retain(|_| !self.throw(|plan| plan.omit_listed));
        if page.next.is_some() && self.throw(|plan| plan.truncate_list) {
            page.next = None;
        }
        Ok(page)
    }

    async fn create_container(&self) -> Result<()> {
        self.before(Operation::CreateContainer, None).await?;
        self.inner.create_container().await
    }

    async fn delete_container(&self) -> Result<()> {
        self.before(Operation::DeleteContainer, None).await?;
        self.inner.delete_container().await
    }

    async fn usage(&self) -> Result<CloudUsage> {
        self.before(Operation::Usage, None).await?;
        self.inner.usage().await
    }

    /// Refused on purpose, so that each object is deleted by a request with a fault of its own.
    async fn delete_many(&self, _: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        let why = "deletes one by one, so that each can fail by itself";
        Err(CloudError::new(
            ErrorKind::Unsupported,
            self.name(),
            Operation::DeleteMany,
            why,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryCloud, collect_body};

    fn key(i: u32) -> ObjectKey {
        ObjectKey::new(format!("k/{i}")).unwrap()
    }

    #[tokio::test]
    async fn conforms_without_a_plan() {
        crate::conformance::all(
            &Faulty::new(MemoryCloud::new("m"), 1, FaultPlan::default()),
            "t/",
        )
        .await;
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_faults() {
        let plan = FaultPlan {
            error: 0.3,
            lost_write: 0.2,
            lost_answer: 0.2,
            ..FaultPlan::default()
        };
        let mut runs = vec![];
        for _ in 0..2 {
            let cloud = Faulty::new(MemoryCloud::new("m"), 42, plan.clone());
            let mut outcome = vec![];
            for i in 0..100 {
                let put = cloud
                    .put(&key(i), Payload::from(&b"x"[..]), WriteMode::Overwrite)
                    .await;
                outcome.push((
                    put.map_err(|e| e.kind).err(),
                    cloud.inner().head(&key(i)).await.is_ok(),
                ));
            }
            runs.push(outcome);
        }
        assert_eq!(runs[0], runs[1]);
        let seen = |kind, stored| runs[0].contains(&(kind, stored));
        assert!(
            seen(None, true) && seen(None, false),
            "done, and acknowledged but lost"
        );
        assert!(seen(Some(ErrorKind::Timeout), true) && seen(Some(ErrorKind::Unavailable), false));
    }

    #[tokio::test]
    async fn late_requests_land_in_their_order_or_never() {
        let cloud = Faulty::new(
            MemoryCloud::new("m"),
            1,
            FaultPlan {
                late: 1.0,
                ..FaultPlan::default()
            },
        );
        let content = Payload::from(&b"x"[..]);
        let put = cloud
            .put(&key(0), content.clone(), WriteMode::CreateOnly)
            .await;
        assert_eq!(put.unwrap_err().kind, ErrorKind::Timeout);
        assert_eq!(
            cloud.delete(&key(0), None).await.unwrap_err().kind,
            ErrorKind::Timeout
        );
        assert_eq!(
            cloud.head(&key(0)).await.unwrap_err().kind,
            ErrorKind::NotFound
        );
        assert!(cloud.land().await);
        cloud.head(&key(0)).await.unwrap();
        assert!(cloud.land().await && !cloud.land().await);
        assert_eq!(
            cloud.head(&key(0)).await.unwrap_err().kind,
            ErrorKind::NotFound
        );
        cloud
            .put(&key(1), content, WriteMode::CreateOnly)
            .await
            .unwrap_err();
        cloud.forget_late();
        assert!(!cloud.land().await);
    }

    #[tokio::test]
    async fn listings_leave_out_and_end_early() {
        let cloud = Faulty::new(MemoryCloud::new("m"), 1, FaultPlan::default());
        for i in 0..10 {
            cloud
                .put(&key(i), Payload::from(&b"x"[..]), WriteMode::Overwrite)
                .await
                .unwrap();
        }
        cloud.set(FaultPlan {
            omit_listed: 0.5,
            ..FaultPlan::default()
        });
        let listed = cloud.list("k/", None, 10).await.unwrap().entries.len();
        assert!((1..10).contains(&listed), "{listed}");
        cloud.set(FaultPlan {
            truncate_list: 1.0,
            ..FaultPlan::default()
        });
        assert_eq!(cloud.list("k/", None, 3).await.unwrap().next, None);
    }

    #[tokio::test]
    async fn bodies_break_and_change() {
        let cloud = Faulty::new(MemoryCloud::new("m"), 1, FaultPlan::default());
        let content = Payload::from(vec![7u8; 1000]);
        cloud
            .put(&key(0), content.clone(), WriteMode::Overwrite)
            .await
            .unwrap();
        cloud.set(FaultPlan {
            short_body: 1.0,
            ..FaultPlan::default()
        });
        let body = cloud.get(&key(0), None, None).await.unwrap().body;
        assert_eq!(
            collect_body("m", body, 1000).await.unwrap_err().kind,
            ErrorKind::Unavailable
        );
        cloud.set(FaultPlan {
            corrupt_body: 1.0,
            ..FaultPlan::default()
        });
        let body = cloud.get(&key(0), None, None).await.unwrap().body;
        let bytes = collect_body("m", body, 1000).await.unwrap();
        assert_eq!(bytes.len(), 1000);
        assert_ne!(bytes, content.to_bytes());
    }
}
