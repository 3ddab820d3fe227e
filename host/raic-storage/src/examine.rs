//! Examines a share that lies in a container, by its header, its end and the names of its objects.
//!
//! **Invariant:** a listing alone decides nothing: an object that a listing leaves out is looked up
//! by its name.

use futures::TryStreamExt as _;

use crate::{
    Found, FoundShare, MAX_SHARE, RangeSet, Recovered, Result, ShareHeader, ShareId, ShareKind,
    ShareRow, StorageError, StorageServer, Stored,
    backend::mutable_store,
    object::ShareObject,
    share_header::{FOOTER, HEADER},
};

/// The result for a share that a listing showed and that has no row.
pub(crate) enum Examined {
    /// The share is whole.
    Whole(ShareKind, Stored),
    /// A mutable share that was deleted. Its remains are removed with its superseded versions.
    Deleted,
    /// The share is not whole, because the object of that name is missing; `None` if no object is
    /// known to be missing.
    Torn(Option<String>),
}

impl Examined {
    fn mutable(bytes: u64) -> Self {
        Self::Whole(ShareKind::Mutable, Stored { objects: 0, bytes })
    }
}

fn whole_of(kind: ShareKind, objects: u64, bytes: u64) -> Examined {
    Examined::Whole(kind, Stored { objects, bytes })
}

/// Returns the number after that of the last chunk.
fn past(chunks: &RangeSet) -> u64 {
    chunks.ranges().last().map_or(0, |last| last.end)
}

impl StorageServer {
    /// Examines a share that has no row. An immutable share takes at most a few small reads.
    pub(crate) async fn examine(&self, share: &FoundShare) -> Result<Examined> {
        let Found::Immutable {
            chunks,
            chunk_size,
            bytes,
        } = &share.found
        else {
            return Ok(match self.recover(share).await? {
                Recovered::Whole(share) => Examined::mutable(share.length),
                Recovered::Deleted => Examined::Deleted,
                Recovered::Torn(missing) => Examined::Torn(missing),
            });
        };
        match self.whole(share, chunks, *chunk_size, *bytes).await? {
            Some(Examined::Torn(_)) => {
                // The header is of a newer format or damaged. Which chunk would make the share
                // whole is not known.
                tracing::warn!(
                    "{} does not begin with a known header; it stays as it is",
                    share.id
                );
                Ok(Examined::Torn(None))
            }
            Some(whole) => Ok(whole),
            None => {
                let missing = self.decisive(share, chunks).await?;
                let is_gap = missing
                    .as_ref()
                    .is_some_and(|(chunk, _)| *chunk < past(chunks));
                if !is_gap && self.has_an_end(share, chunks, *chunk_size, *bytes).await? {
                    tracing::error!(
                        "cloud {:?}: {} has all its chunks, but its header or its end is damaged; \
                         it is kept",
                        self.name(),
                        share.id
                    );
                    return Ok(Examined::Torn(None));
                }
                Ok(Examined::Torn(missing.map(|(_, object)| object)))
            }
        }
    }

    /// Returns whether chunks without a gap look like all chunks of a share, although its header or
    /// its end says otherwise. A share that never was complete ends with a full chunk, and its last
    /// bytes are not an end.
    async fn has_an_end(
        &self,
        share: &FoundShare,
        chunks: &RangeSet,
        chunk_size: u64,
        bytes: u64,
    ) -> Result<bool> {
        if chunk_size == 0 {
            return Ok(false);
        }
        let objects = past(chunks);
        let last = match self
            .backend
            .chunk_length(share.id, objects.saturating_sub(1))
            .await?
        {
            Some(last) => last,
            None => return Ok(false),
        };
        if objects > 1 && last < chunk_size
            || objects == 1 && !last.is_multiple_of(self.backend.chunk_unit())
        {
            return Ok(true);
        }
        let end = self
            .backend
            .read(share.id, bytes.saturating_sub(FOOTER as u64)..bytes)
            .await;
        let end: Vec<u8> = match end {
            Ok(stream) => stream.try_collect::<Vec<_>>().await?.concat(),
            Err(StorageError::NotFound { .. } | StorageError::Short { .. }) => return Ok(false),
            Err(e) => return Err(e),
        };
        Ok(crate::share_header::resembles_an_end(&end))
    }

    /// Examines an immutable share or a file that was listed. Returns `Torn` if its header is not a
    /// known one, and `None` if the share is not whole. Chunks beyond its end are leftovers, and do
    /// not count against it.
    async fn whole(
        &self,
        share: &FoundShare,
        chunks: &RangeSet,
        chunk_size: u64,
        bytes: u64,
    ) -> Result<Option<Examined>> {
        let Some(first) = chunks
            .ranges()
            .first()
            .filter(|first| first.start == 0 && chunk_size > 0)
        else {
            return Ok(None);
        };
        let is_all = chunks.ranges().len() == 1;
        // If chunks are missing, the length of the last chunk before the gap is not known.
        let certain = if is_all {
            bytes
        } else {
            (first.end - 1).max(1).saturating_mul(chunk_size)
        };
        let part = async |range: std::ops::Range<u64>| {
            let stream = self.backend.read(share.id, range).await?;
            stream
                .try_fold(Vec::new(), async |mut all, piece| {
                    all.extend_from_slice(&piece);
                    Ok(all)
                })
                .await
        };
        let whole = async {
            let beginning = part(0..certain.min(HEADER as u64)).await?;
            Ok(match ShareHeader::parse(&beginning) {
                Some(array @ ShareHeader::Array) if is_all => {
                    let end = part(bytes.saturating_sub(FOOTER as u64)..bytes).await?;
                    array.is_whole(bytes, &end).then_some(whole_of(
                        ShareKind::Array,
                        first.end,
                        bytes,
                    ))
                }
                Some(ShareHeader::Immutable { header, length }) => {
                    let total = header.saturating_add(length);
                    let objects = total.div_ceil(chunk_size).max(1);
                    if objects > first.end {
                        return Ok(None);
                    }
                    // The share's last byte must exist. If no chunk follows, it must be the last
                    // byte of all.
                    part(total - 1..total).await?;
                    let is_whole = !(is_all && objects == first.end) || total == bytes;
                    is_whole.then_some(whole_of(ShareKind::Immutable, objects, total))
                }
                Some(file @ ShareHeader::Mutable { length, .. }) if is_all => file
                    .is_whole(bytes, &[])
                    .then_some(Examined::mutable(length)),
                Some(_) => None,
                None => Some(Examined::Torn(None)),
            })
        };
        match whole.await {
            Ok(whole) => Ok(whole),
            // The share was deleted since it was listed, or was listed with a wrong length.
            Err(StorageError::NotFound { .. } | StorageError::Short { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns the number and name of the first chunk that a torn share lacks and that is not found
    /// by its name. Returns `None` if every such chunk exists.
    async fn decisive(
        &self,
        share: &FoundShare,
        chunks: &RangeSet,
    ) -> Result<Option<(u64, String)>> {
        let name = |chunk| ShareObject::Chunk(chunk).key(share.id).to_string();
        // The listing may have left out the chunks of a gap. If there is no gap, it is the chunk
        // after the last.
        let past = past(chunks);
        for chunk in chunks.missing(past).into_iter().flatten().chain([past]) {
            if self.backend.chunk_length(share.id, chunk).await?.is_none() {
                return Ok(Some((chunk, name(chunk))));
            }
        }
        Ok(None)
    }

    /// Sums the bytes of a share's objects, each looked up by its name; `None` if one does not
    /// exist.
    pub(crate) async fn bytes_by_name(&self, row: &ShareRow) -> Result<Option<u64>> {
        let mut total = 0_u64;
        for chunk in 0..row.objects.max(1) {
            match self.backend.chunk_length(row.id, chunk).await? {
                Some(length) => total = total.saturating_add(length),
                None => return Ok(None),
            }
        }
        Ok(Some(total))
    }

    /// Returns the name of an object of a mutable share's current version that is neither listed
    /// nor found by its name; `None` if there is none, or if the version is not settled yet.
    pub(crate) async fn lacks(&self, row: &ShareRow, found: &Found) -> Result<Option<String>> {
        let lock = self.slot_lock(row.id.index);
        let _turn = lock.lock().await;
        match mutable_store(&*self.backend)?
            .lacks_mutable(row.id, found)
            .await
        {
            // A write whose outcome is unknown is settled first.
            Err(StorageError::NotKnown { .. }) => Ok(None),
            other => other,
        }
    }

    /// Looks for a whole immutable share by the names of its chunks, its header and its end.
    /// Returns its kind with its objects and bytes; `None` if it is not whole.
    pub(crate) async fn whole_by_its_chunks(
        &self,
        id: ShareId,
    ) -> Result<Option<(ShareKind, Stored)>> {
        let (mut total, mut objects) = (0_u64, 0);
        for chunk in 0.. {
            match self.backend.chunk_length(id, chunk).await? {
                Some(length) => total = total.saturating_add(length),
                None => break,
            }
            objects += 1;
            // A cloud that claims to have every chunk must not keep this going.
            if total > MAX_SHARE || objects > MAX_SHARE {
                return Ok(None);
            }
        }
        let part = async |range| -> Result<Vec<u8>> {
            let read = self.backend.read(id, range).await?;
            Ok(futures::TryStreamExt::try_collect::<Vec<_>>(read)
                .await?
                .concat())
        };
        let beginning = match part(0..total.min(HEADER as u64)).await {
            Err(StorageError::NotFound { .. } | StorageError::Short { .. }) => return Ok(None),
            read => read?,
        };
        let end = part(total.saturating_sub(FOOTER as u64)..total).await?;
        let header = ShareHeader::parse(&beginning).filter(|found| found.is_whole(total, &end));
        let stored = Stored {
            objects,
            bytes: total,
        };
        Ok(header.and_then(|header| match header {
            ShareHeader::Array => Some((ShareKind::Array, stored)),
            ShareHeader::Immutable { .. } => Some((ShareKind::Immutable, stored)),
            ShareHeader::Mutable { .. } => None,
        }))
    }
}
