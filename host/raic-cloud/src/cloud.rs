//! The trait [`Cloud`] and the values in its signatures.

use std::{fmt, num::NonZeroU64, ops::Range, pin::Pin, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};

use crate::{CloudError, ErrorKind, ObjectKey, Operation, Payload, Result};

/// Most entries that a page of a listing may have, and most keys of one [`Cloud::delete_many`]. S3
/// has the same limit, and one guest call can handle as many.
pub const MAX_PAGE: u32 = 1000;

/// A part of an object. A range that passes the object's end is cut there, as HTTP does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the range's first byte in the object.
    pub offset: u64,
    /// Length of the range in bytes, 1 or more.
    pub length: NonZeroU64,
}

impl ByteRange {
    /// The range of `length` bytes from `offset`. Returns `None` if it is empty or if its end
    /// passes 2^64.
    pub fn new(offset: u64, length: u64) -> Option<Self> {
        offset.checked_add(length)?;
        Some(Self {
            offset,
            length: NonZeroU64::new(length)?,
        })
    }

    /// The bytes that the range covers in an object of `size` bytes. Returns `None` if the range
    /// begins at or past the object's end.
    pub fn within(self, size: u64) -> Option<Range<u64>> {
        (self.offset < size)
            .then(|| self.offset..size.min(self.offset.saturating_add(self.length.get())))
    }
}

/// What a provider reports about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Size of the whole object in bytes, also if only a range was read.
    pub size: u64,
    /// The entity tag: a text that changes with the content and that `if-match` takes. Put, get,
    /// head and list report the same one. `None` if the provider's is weak or missing.
    pub etag: Option<String>,
    /// Time of the last write, by the provider's clock.
    pub last_modified: Option<SystemTime>,
}

/// How a put treats an object that already has the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Replaces the object.
    Overwrite,
    /// Fails with [`ErrorKind::AlreadyExists`], if the service can detect it (capability
    /// `create-only`). This is an optimisation and an alarm, never a lock.
    CreateOnly,
    /// Replaces the object only if its etag is this one; fails with
    /// [`ErrorKind::PreconditionFailed`] otherwise.
    IfMatch(String),
}

/// An object's bytes on their way from the provider.
///
/// The stream ends after exactly the bytes asked for, or with an error. Dropping it abandons the
/// transfer.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The answer to [`Cloud::get`].
pub struct Object {
    /// Describes the whole object, also if only a range was asked for.
    pub info: ObjectInfo,
    /// The bytes of the object, or of the range that was asked for.
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
    /// The object's key.
    pub key: ObjectKey,
    /// What the listing reports about the object.
    pub info: ObjectInfo,
}

/// One page of a listing. It has at most as many entries as were asked for. A page with fewer
/// entries, or none, may still have a `next`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The listed objects.
    pub entries: Vec<Listed>,
    /// Cursor of the next page; `None` at the end of the listing. It is opaque and is never stored.
    pub next: Option<String>,
}

/// One configured place for objects: a container at a provider.
///
/// Every method can be cancelled by dropping its future; a write that was cancelled may still land.
/// Errors name the cloud, the operation and the object. Implementations are shared between tasks.
///
/// A cloud around a cloud carries `#[deny(clippy::missing_trait_methods)]`: an ability that is
/// added to this trait must be forwarded by each decorator, or refused on purpose.
#[async_trait]
pub trait Cloud: Send + Sync + fmt::Debug {
    /// The cloud's configured name, as messages show it.
    fn name(&self) -> &str;

    /// Returns the service's capabilities as text pairs. The list is open; known names are
    /// `max-object-size`, `create-only` (`native`, `emulated`, `none`), `if-match`, `ordered-list`
    /// and `consistency`.
    async fn describe(&self) -> Result<Vec<(String, String)>>;

    /// Sends the cheapest request that proves that the credentials and the container are good.
    async fn probe(&self) -> Result<()>;

    /// Stores an object. Once this has returned, a reader sees the whole object. No reader ever
    /// sees a part of it.
    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo>;

    /// Opens an object, or a range of it, for reading. With `if_match` it succeeds only if the
    /// object's etag is that one.
    ///
    /// # Errors
    /// [`ErrorKind::RangeNotSatisfiable`] if the range begins at or past the end of the object.
    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object>;

    /// Returns what the provider reports about an object.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo>;

    /// Deletes an object. Succeeds also if the object is already gone. With `if_match` it deletes
    /// only an object whose etag is that one.
    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()>;

    /// Returns a page of at most `limit` (1 to [`MAX_PAGE`]) objects whose keys begin with
    /// `prefix`. `cursor` is the `next` of the page before, or `None` for the first page.
    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page>;

    /// Creates the container. This ability is optional.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the connector does not export this ability.
    async fn create_container(&self) -> Result<()> {
        Err(lacking(
            self.name(),
            Operation::CreateContainer,
            "this cloud cannot create containers",
        ))
    }

    /// Deletes the container if it is empty. Succeeds also if it is already gone. This ability is
    /// optional.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`] if the container is not empty; [`ErrorKind::Unsupported`]
    /// if the connector does not export this ability.
    async fn delete_container(&self) -> Result<()> {
        Err(lacking(
            self.name(),
            Operation::DeleteContainer,
            "this cloud cannot remove containers",
        ))
    }

    /// Returns how much space the provider reports as used, and its quota. This ability is
    /// optional.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the connector does not export this ability.
    async fn usage(&self) -> Result<CloudUsage> {
        Err(lacking(
            self.name(),
            Operation::Usage,
            "this cloud does not report what is used",
        ))
    }

    /// Deletes up to [`MAX_PAGE`] objects by one request. Returns the objects that could not be
    /// deleted, each with its error. An object that is already gone counts as deleted. This ability
    /// is optional: [`delete_all`] falls back to single deletions.
    ///
    /// # Errors
    /// Any error means that it is unknown which objects were deleted, except
    /// [`ErrorKind::Unsupported`]: then no deletion was tried.
    async fn delete_many(&self, _keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        Err(lacking(
            self.name(),
            Operation::DeleteMany,
            "this cloud removes objects one by one",
        ))
    }
}

/// Stores an object whose key never gets other bytes. If the object is already there with this
/// content, stored by an attempt whose answer was lost, that is a success.
///
/// # Errors
/// The errors of [`Cloud::put`]; [`ErrorKind::AlreadyExists`] if the key has other bytes. Every
/// error after the object was found there has `may_land` set, because an earlier attempt whose
/// answer was lost may have stored it.
pub async fn put_same<C: Cloud + ?Sized>(
    cloud: &C,
    key: &ObjectKey,
    content: impl Into<Payload>,
) -> Result<()> {
    let content: Payload = content.into();
    match cloud.put(key, content.clone(), WriteMode::CreateOnly).await {
        Err(e) if e.kind == ErrorKind::AlreadyExists => {
            let may_land = |e: CloudError| CloudError {
                may_land: true,
                ..e
            };
            let object = cloud.get(key, None, None).await.map_err(may_land)?;
            // An object of another size is not read.
            if object.info.size == content.size() {
                let content = content.to_bytes();
                let stored = collect_body(cloud.name(), object.body, content.len()).await;
                if stored.map_err(may_land)? == content {
                    return Ok(());
                }
            }
            Err(may_land(e))
        }
        put => put.map(drop),
    }
}

/// Single deletions that one call of [`delete_all`] keeps in flight.
const DELETIONS: usize = 8;

/// Deletes objects, several by one request if the cloud can. If not, it deletes a few at a time, in
/// no order, until a deletion fails.
///
/// # Errors
/// The error of the deletion that failed; other objects may have been deleted.
pub async fn delete_all<C: Cloud + ?Sized>(cloud: &C, keys: &[ObjectKey]) -> Result<()> {
    for page in keys.chunks(MAX_PAGE as usize) {
        match cloud.delete_many(page).await {
            Err(e) if e.kind == ErrorKind::Unsupported => {
                for few in page.chunks(DELETIONS) {
                    let mut deletions = Vec::with_capacity(few.len());
                    for key in few {
                        deletions.push(cloud.delete(key, None));
                    }
                    futures::future::try_join_all(deletions).await?;
                }
            }
            deleted => {
                if let Some((_, e)) = deleted?.into_iter().next() {
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

/// The space that a provider reports as used of an account or a container. A field is `None` if the
/// provider does not report it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudUsage {
    /// Bytes used.
    pub bytes: Option<u64>,
    /// Number of objects.
    pub objects: Option<u64>,
    /// Most bytes that may be used.
    pub quota: Option<u64>,
    /// Further facts, in the provider's own words.
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

/// Returns a body of bytes that are already in memory.
pub fn body_of(bytes: Bytes) -> Body {
    stream::iter((!bytes.is_empty()).then_some(Ok(bytes))).boxed()
}

/// Returns a body without bytes.
pub fn empty_body() -> Body {
    stream::empty().boxed()
}

/// Reads a body of at most `limit` bytes into memory, for small objects.
///
/// # Errors
/// [`ErrorKind::TooLarge`] if the body has more than `limit` bytes, and every error of the body.
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
    // A body of one piece is not copied; a body of several pieces is copied once, at its end.
    Ok(match pieces.len() {
        1 => pieces.swap_remove(0),
        _ => pieces.concat().into(),
    })
}
