//! The trait and the values it speaks in.

use std::{fmt, num::NonZeroU64, ops::Range, pin::Pin, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};

use crate::{CloudError, ErrorKind, ObjectKey, Operation, Payload, Result};

/// The most entries a page of a listing is asked for: S3's own limit, and small enough for one
/// guest call.
pub const MAX_PAGE: u32 = 1000;

/// A part of an object. What lies past the object's end is cut, as HTTP does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes, 1 or more.
    pub length: NonZeroU64,
}

impl ByteRange {
    /// The range of `length` bytes from `offset`; none where it is empty or its end passes 2^64.
    pub fn new(offset: u64, length: u64) -> Option<Self> {
        offset.checked_add(length)?;
        Some(Self {
            offset,
            length: NonZeroU64::new(length)?,
        })
    }

    /// The bytes it covers in an object of `size` bytes; none where it begins at or past the end.
    pub fn within(self, size: u64) -> Option<Range<u64>> {
        (self.offset < size)
            .then(|| self.offset..size.min(self.offset.saturating_add(self.length.get())))
    }
}

/// What a provider says of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes of the whole object, also when a range was asked.
    pub size: u64,
    /// A text that changes with the content and that `if-match` takes, the same from put, get, head
    /// and list; none where the provider's is weak.
    pub etag: Option<String>,
    /// When it was written, by the provider's clock.
    pub last_modified: Option<SystemTime>,
}

/// How a put treats an object that is already there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Replaces it.
    Overwrite,
    /// Fails with [`ErrorKind::AlreadyExists`] where the service can tell (capability
    /// `create-only`): an optimisation and an alarm, never a lock.
    CreateOnly,
    /// Replaces it only while its etag is this one, else [`ErrorKind::PreconditionFailed`].
    IfMatch(String),
}

/// An object's bytes on their way down.
///
/// Ends after exactly the bytes asked for, or with an error. Dropping it abandons the transfer.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// An answer to [`Cloud::get`].
pub struct Object {
    /// Of the whole object.
    pub info: ObjectInfo,
    /// The bytes of the object, or of the range.
    pub body: Body,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: ObjectKey,
    /// What the listing says of it.
    pub info: ObjectInfo,
}

/// One page of a listing: at most the entries asked for; fewer, or none, may still have a `next`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects.
    pub entries: Vec<Listed>,
    /// Where the next page begins; none at the end. Opaque, never stored.
    pub next: Option<String>,
}

/// One configured place for objects: a container at a provider.
///
/// Every method may be cancelled by dropping its future; a write so abandoned may still land.
/// Errors name the cloud, the operation and the object. Implementations are shared between tasks.
///
/// A cloud around a cloud carries `#[deny(clippy::missing_trait_methods)]`: an ability that is
/// added here must be forwarded there, or refused on purpose.
#[async_trait]
pub trait Cloud: Send + Sync + fmt::Debug {
    /// The configured name, as in messages.
    fn name(&self) -> &str;

    /// Capabilities as text pairs, an open list: `max-object-size`, `create-only` (`native`,
    /// `emulated`, `none`), `if-match`, `ordered-list`, `consistency`.
    async fn describe(&self) -> Result<Vec<(String, String)>>;

    /// The cheapest request that proves credentials and container.
    async fn probe(&self) -> Result<()>;

    /// Stores an object. When it returns, a reader sees the whole object; never a part of it.
    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo>;

    /// Opens an object, or a range of it, for reading; with `if_match` only while its etag is that
    /// one.
    ///
    /// # Errors
    /// [`ErrorKind::RangeNotSatisfiable`] where the range begins at or past the end.
    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object>;

    /// What the provider says of an object.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo>;

    /// Removes an object; succeeds when it is already gone. With `if_match` only while its etag is
    /// that one.
    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()>;

    /// A page of at most `limit` (1 to [`MAX_PAGE`]) objects whose key begins with `prefix`.
    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page>;

    /// Makes the container. An optional ability.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the connector does not export it.
    async fn create_container(&self) -> Result<()> {
        Err(lacking(
            self.name(),
            Operation::CreateContainer,
            "this cloud cannot create containers",
        ))
    }

    /// Removes the container, where it is empty; succeeds when it is already gone. An optional
    /// ability.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`] where it is not empty;
    /// [`ErrorKind::Unsupported`] where the connector does not export it.
    async fn delete_container(&self) -> Result<()> {
        Err(lacking(
            self.name(),
            Operation::DeleteContainer,
            "this cloud cannot remove containers",
        ))
    }

    /// What the provider says is used, and may be. An optional ability.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the connector does not export it.
    async fn usage(&self) -> Result<CloudUsage> {
        Err(lacking(
            self.name(),
            Operation::Usage,
            "this cloud does not report what is used",
        ))
    }

    /// Removes up to [`MAX_PAGE`] objects by one request; gives those that could not be removed,
    /// each with its reason. One that is gone already counts as removed. An optional ability:
    /// [`delete_all`] does without where it must.
    ///
    /// # Errors
    /// Where it is not known which were removed; [`ErrorKind::Unsupported`] where none was tried.
    async fn delete_many(&self, _keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        Err(lacking(
            self.name(),
            Operation::DeleteMany,
            "this cloud removes objects one by one",
        ))
    }
}

/// Stores an object whose name never has other bytes. If it is there already with this content,
/// from an attempt whose answer was lost, that is success.
///
/// # Errors
/// The put's; [`ErrorKind::AlreadyExists`] if other bytes have the name. Whatever fails after the
/// object was found there keeps `may_land`: it is there by an attempt that was not heard.
pub async fn put_same<C: Cloud + ?Sized>(cloud: &C, key: &ObjectKey, content: Bytes) -> Result<()> {
    let payload = Payload::from(content.clone());
    match cloud.put(key, payload, WriteMode::CreateOnly).await {
        Err(e) if e.kind == ErrorKind::AlreadyExists => {
            let landed = |e: CloudError| CloudError {
                may_land: true,
                ..e
            };
            let there = cloud.get(key, None, None).await.map_err(landed)?;
            // A larger one is not read to its end.
            if there.info.size == content.len() as u64 {
                let there = collect_body(cloud.name(), there.body, content.len()).await;
                if there.map_err(landed)? == content {
                    return Ok(());
                }
            }
            Err(landed(e))
        }
        put => put.map(drop),
    }
}

/// Single deletions of one call that are under way at once.
const DELETIONS: usize = 8;

/// Removes objects, several by a request where the cloud can, else some at once and in no order,
/// until one cannot be removed.
///
/// # Errors
/// That one's; others may have been removed.
pub async fn delete_all<C: Cloud + ?Sized>(cloud: &C, keys: &[ObjectKey]) -> Result<()> {
    for some in keys.chunks(MAX_PAGE as usize) {
        match cloud.delete_many(some).await {
            Err(e) if e.kind == ErrorKind::Unsupported => {
                for few in some.chunks(DELETIONS) {
                    let mut deletions = Vec::with_capacity(few.len());
                    for key in few {
                        deletions.push(cloud.delete(key, None));
                    }
                    futures::future::try_join_all(deletions).await?;
                }
            }
            failed => {
                if let Some((_, e)) = failed?.into_iter().next() {
                    return Err(e);
                }
            }
        }
    }
    Ok(())
}

fn lacking(cloud: &str, operation: Operation, what: &str) -> CloudError {
    CloudError::new(ErrorKind::Unsupported, cloud, operation, what)
}

/// What a provider says is used of an account or a container; none where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudUsage {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Objects.
    pub objects: Option<u64>,
    /// The most bytes that may be used.
    pub quota: Option<u64>,
    /// More, in the provider's own words.
    pub extra: Vec<(String, String)>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<C: Cloud + ?Sized> Cloud for Arc<C> {
    fn name(&self) -> &str {
        (**self).name()
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        (**self).describe().await
    }

    async fn probe(&self) -> Result<()> {
        (**self).probe().await
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        (**self).put(key, content, mode).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        (**self).get(key, range, if_match).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        (**self).head(key).await
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        (**self).delete(key, if_match).await
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        (**self).list(prefix, cursor, limit).await
    }

    async fn create_container(&self) -> Result<()> {
        (**self).create_container().await
    }

    async fn delete_container(&self) -> Result<()> {
        (**self).delete_container().await
    }

    async fn usage(&self) -> Result<CloudUsage> {
        (**self).usage().await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        (**self).delete_many(keys).await
    }
}

/// A body of bytes that are already here.
pub fn body_of(bytes: Bytes) -> Body {
    stream::iter((!bytes.is_empty()).then_some(Ok(bytes))).boxed()
}

/// A body without bytes.
pub fn empty_body() -> Body {
    stream::empty().boxed()
}

/// Reads a body of at most `limit` bytes into memory, for small objects.
///
/// # Errors
/// [`ErrorKind::TooLarge`] past `limit`, and whatever the body fails with.
pub async fn collect_body(cloud: &str, mut body: Body, limit: usize) -> Result<Bytes> {
    let (mut pieces, mut size) = (Vec::new(), 0);
    while let Some(piece) = body.try_next().await? {
        size += piece.len();
        if size > limit {
            let message = format!("the object is larger than the {limit} bytes expected");
            return Err(CloudError::new(
                ErrorKind::TooLarge,
                cloud,
                Operation::Get,
                message,
            ));
        }
        pieces.push(piece);
    }
    // Copied once, at its end, and not at all where it came at once.
    Ok(match pieces.len() {
        1 => pieces.swap_remove(0),
        _ => pieces.concat().into(),
    })
}
