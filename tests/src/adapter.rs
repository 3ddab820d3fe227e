//! A `Cloud` as a store of arrow's object_store, whose public integration tests so run over RAIC's
//! clouds.
//!
//! The paths of these tests have characters that no object key has. So every byte but letters,
//! digits, `.`, `-` and `/` is written as `_XX`.

use std::{fmt, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, UploadPart, path::Path,
};
use raic_cloud::{
    ByteRange, Cloud, CloudError, ErrorKind, ObjectInfo, ObjectKey, Payload, WriteMode,
    collect_body,
};

/// The largest object that is copied, in bytes.
const MAX_OBJECT: usize = 256 << 20;

/// A cloud, as a store.
#[derive(Clone, Debug)]
pub struct CloudStore(pub Arc<dyn Cloud>);

impl fmt::Display for CloudStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

fn encoded(path: &str) -> String {
    let kept = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'/');
    let each = path.bytes().map(|b| {
        if kept(b) {
            char::from(b).to_string()
        } else {
            format!("_{b:02x}")
        }
    });
    each.collect()
}

fn decoded(key: &str) -> Option<Path> {
    let mut bytes = Vec::new();
    let mut rest = key;
    while let Some((before, after)) = rest.split_once('_') {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(after.get(..2)?, 16).ok()?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Path::parse(String::from_utf8(bytes).ok()?).ok()
}

fn key(path: &Path) -> Result<ObjectKey> {
    let key = ObjectKey::new(encoded(path.as_ref()));
    key.map_err(|e| Error::NotSupported {
        source: Box::new(e),
    })
}

/// The error of the store that a cloud's error means.
fn failure(e: CloudError, path: &Path) -> Error {
    let (path, kind, source) = (path.to_string(), e.kind, Box::new(e));
    match kind {
        ErrorKind::NotFound => Error::NotFound { path, source },
        ErrorKind::AlreadyExists => Error::AlreadyExists { path, source },
        ErrorKind::PreconditionFailed => Error::Precondition { path, source },
        ErrorKind::Unsupported => Error::NotImplemented {
            operation: source.operation.to_string(),
            implementer: source.cloud,
        },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path, source },
        ErrorKind::Unauthenticated => Error::Unauthenticated { path, source },
        _ => Error::Generic {
            store: "raic",
            source,
        },
    }
}

fn meta(location: &Path, info: &ObjectInfo) -> ObjectMeta {
    ObjectMeta {
        location: location.clone(),
        last_modified: info.last_modified.unwrap_or(SystemTime::UNIX_EPOCH).into(),
        size: info.size,
        e_tag: info.etag.clone(),
        version: None,
    }
}

impl CloudStore {
    async fn write(&self, location: &Path, content: Bytes, mode: WriteMode) -> Result<PutResult> {
        let info = self
            .0
            .put(&key(location)?, Payload::from(content), mode)
            .await;
        let info = info.map_err(|e| failure(e, location))?;
        Ok(PutResult {
            e_tag: info.etag,
            version: None,
            extensions: Extensions::default(),
        })
    }

    /// Lists every object below a path; a path ends at a segment.
    fn below(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let cloud = self.0.clone();
        let prefix = prefix
            .map(|p| encoded(p.as_ref()))
            .filter(|p| !p.is_empty())
            .map(|p| format!("{p}/"));
        let prefix = prefix.unwrap_or_default();
        let pages = stream::try_unfold(Some(None::<String>), move |cursor| {
            let (cloud, prefix) = (cloud.clone(), prefix.clone());
            async move {
                let Some(cursor) = cursor else {
                    return Ok::<_, Error>(None);
                };
                let page = cloud.list(&prefix, cursor.as_deref(), 1000).await;
                let page = page.map_err(|e| failure(e, &Path::default()))?;
                let found = page.entries.into_iter().filter_map(|listed| {
                    let location = decoded(listed.key.as_str())?;
                    Some(Ok(meta(&location, &listed.info)))
                });
                let found: Vec<Result<ObjectMeta>> = found.collect();
                Ok(Some((stream::iter(found), page.next.map(Some))))
            }
        });
        pages.try_flatten().boxed()
    }
}

#[async_trait]
impl ObjectStore for CloudStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let mode = match options.mode {
            PutMode::Overwrite => WriteMode::Overwrite,
            PutMode::Create => WriteMode::CreateOnly,
            PutMode::Update(version) => WriteMode::IfMatch(version.e_tag.unwrap_or_default()),
        };
        self.write(location, payload.into(), mode).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Parts {
            store: self.clone(),
            location: location.clone(),
            parts: Vec::new(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = key(location)?;
        let info = self.0.head(&key).await.map_err(|e| failure(e, location))?;
        let meta = meta(location, &info);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(info.size).map_err(|e| Error::Generic {
                store: "raic",
                source: Box::new(e),
            })?,
            None => 0..info.size,
        };
        let empty = || GetResultPayload::Stream(stream::empty().boxed());
        let payload = if options.head || range.is_empty() {
            empty()
        } else {
            let asked = options
                .range
                .as_ref()
                .and_then(|_| ByteRange::new(range.start, range.end - range.start));
            let object = self
                .0
                .get(&key, asked, None)
                .await
                .map_err(|e| failure(e, location))?;
            let location = location.clone();
            GetResultPayload::Stream(object.body.map_err(move |e| failure(e, &location)).boxed())
        };
        Ok(GetResult {
            payload,
            meta,
            range,
            attributes: Attributes::new(),
            extensions: Extensions::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let cloud = self.0.clone();
        let delete = move |location: Result<Path>| {
            let cloud = cloud.clone();
            async move {
                let location = location?;
                cloud
                    .delete(&key(&location)?, None)
                    .await
                    .map_err(|e| failure(e, &location))?;
                Ok(location)
            }
        };
        locations.map(delete).buffered(8).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.below(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let parent = prefix.cloned().unwrap_or_default();
        let (mut objects, mut folders) = (Vec::new(), std::collections::BTreeSet::new());
        let mut found = self.below(prefix);
        while let Some(meta) = found.try_next().await? {
            let Some(mut rest) = meta.location.prefix_match(&parent) else {
                continue;
            };
            let Some(first) = rest.next() else { continue };
            let is_folder = rest.next().is_some();
            let below = parent.clone().join(first);
            if is_folder {
                folders.insert(below);
            } else {
                drop(rest);
                objects.push(meta);
            }
        }
        Ok(ListResult {
            common_prefixes: folders.into_iter().collect(),
            objects,
            extensions: Extensions::default(),
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let object = self
            .0
            .get(&key(from)?, None, None)
            .await
            .map_err(|e| failure(e, from))?;
        let content = collect_body(self.0.name(), object.body, MAX_OBJECT)
            .await
            .map_err(|e| failure(e, from))?;
        let mode = match options.mode {
            CopyMode::Overwrite => WriteMode::Overwrite,
            CopyMode::Create => WriteMode::CreateOnly,
        };
        self.write(to, content, mode).await.map(drop)
    }
}

/// An upload in parts, which are joined and stored at its end.
#[derive(Debug)]
struct Parts {
    store: CloudStore,
    location: Path,
    parts: Vec<Bytes>,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // The order of the parts is that of these calls, whichever is awaited first.
        self.parts.push(data.into());
        async { Ok(()) }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let whole = self.parts.concat();
        self.store
            .write(&self.location, whole.into(), WriteMode::Overwrite)
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}
