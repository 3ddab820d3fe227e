//! What a share is that lies in a container, by its header, its end and the names of its objects.
//!
//! **Invariant:** a listing alone decides nothing: an object that a listing leaves out is asked for
//! by its name.

use futures::TryStreamExt as _;

use crate::{
    Found, FoundShare, MAX_SHARE, RangeSet, Recovered, Result, ShareHeader, ShareId, ShareKind,
    ShareRow, StorageError, StorageServer, Stored,
    backend::mutable_store,
    object::ShareObject,
    share_header::{FOOTER, HEADER},
};

/// What a share is that a listing showed and no row has.
pub(crate) enum Examined {
    /// It is whole.
    Whole(ShareKind, Stored),
    /// A mutable share that was deleted: what is there of it goes by itself.
    Deleted,
    /// It is not whole, for want of the object of that name; `None` if no object is known to be
    /// missing.
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

/// The number after that of the last chunk.
fn past(chunks: &RangeSet) -> u64 {
    chunks.ranges().last().map_or(0, |last| last.end)
}

impl StorageServer {
    /// What a share is that no row has. At most two small reads where it is immutable.
    pub(crate) async fn examine(&self, share: &FoundShare) -> Result<Examined> {
        let Found::Immutable {
            chunks,
            chunk_size,
            bytes,
        } = &share.found
        else {
            return Ok(match self.recover(share).await? {
                Recovered::Whole(there) => Examined::mutable(there.length),
                Recovered::Deleted => Examined::Deleted,
                Recovered::Torn(missing) => Examined::Torn(missing),
            });
        };
        match self.whole(share, chunks, *chunk_size, *bytes).await? {
            Some(Examined::Torn(_)) => {
                // A newer format, or damage: which chunk would make it whole is not known.
                tracing::warn!(
                    "{} begins with no header that is known; it stays as it is",
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
                        "cloud {:?}: {} is all there, and its header or its end is damaged; it is kept",
                        self.name(),
                        share.id
                    );
                    return Ok(Examined::Torn(None));
                }
                Ok(Examined::Torn(missing.map(|(_, object)| object)))
            }
        }
    }

    /// Whether chunks without a gap look like all of a share, though its header or its end says
    /// otherwise: one that never was complete ends with a whole chunk of the size that new shares
    /// have, and has no end.
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

    /// What an immutable share is that was listed, or a file; torn where its header is none that is
    /// known, none where it is not whole. What lies beyond its end is a leftover, and says nothing
    /// against it.
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
        // Of the last chunk only that it is there is known.
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
                    // Its last byte is there, and where nothing follows it is the last.
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
            // Deleted since it was listed, or listed of another length than it has.
            Err(StorageError::NotFound { .. } | StorageError::Short { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The object that would make a torn share whole, where it is not found by its name; none where
    /// it is there.
    async fn decisive(
        &self,
        share: &FoundShare,
        chunks: &RangeSet,
    ) -> Result<Option<(u64, String)>> {
        let name = |chunk| ShareObject::Chunk(chunk).key(share.id).to_string();
        // In a gap, what the listing may have left out; after a full row, the next.
        let past = past(chunks);
        for chunk in chunks.missing(past).into_iter().flatten().chain([past]) {
            if self.backend.chunk_length(share.id, chunk).await?.is_none() {
                return Ok(Some((chunk, name(chunk))));
            }
        }
        Ok(None)
    }

    /// The bytes of a share's objects, each asked for by its name; `None` where one is not there.
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

    /// An object of a mutable share's current version that is neither listed nor found by name.
    pub(crate) async fn lacks(&self, row: &ShareRow, found: &Found) -> Result<Option<String>> {
        let lock = self.slot_lock(row.id.index);
        let _turn = lock.lock().await;
        match mutable_store(&*self.backend)?
            .lacks_mutable(row.id, found)
            .await
        {
            // A write that is open still is settled first.
            Err(StorageError::NotKnown { .. }) => Ok(None),
            other => other,
        }
    }

    /// Looks for a whole immutable share by the names of its chunks, its header and its end: its kind, and its objects and bytes; `None` if it is not whole.
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
            // A cloud that has one of every name.
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
