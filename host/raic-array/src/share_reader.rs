//! Reads the blocks of one share, and judges them by the share's root in the catalog. It needs no
//! key.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use parking_lot::Mutex;
use raic_storage::{ShareId, StorageError, StorageServer};
use tokio::sync::OnceCell;

use crate::{
    Transfer,
    format::{GROUP, HASH, Hash, Header, Layout, root},
    share_hasher::is_authentic,
};

/// Most hash pages that are remembered.
const REMEMBERED: usize = 4;

/// What was read of a share, as it came.
#[derive(Default)]
struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// Cuts `length` bytes off the front, or what is left of them. They are copied only if they lie
    /// in several pieces.
    fn cut(&mut self, length: usize) -> Bytes {
        if let Some(first) = self.0.front_mut()
            && first.len() > length
        {
            return first.split_to(length);
        }
        let mut cut = self.0.pop_front().unwrap_or_default();
        if cut.len() < length {
            let mut copy = BytesMut::with_capacity(length);
            copy.extend_from_slice(&cut);
            while copy.len() < length
                && let Some(mut piece) = self.0.pop_front()
            {
                copy.extend_from_slice(&piece.split_to(piece.len().min(length - copy.len())));
                if !piece.is_empty() {
                    self.0.push_front(piece);
                }
            }
            cut = copy.freeze();
        }
        cut
    }
}

/// One share of a stream, on the server that keeps it.
pub(crate) struct ShareReader {
    server: Arc<StorageServer>,
    /// The share's header, made from the catalog.
    header: Header,
    layout: Layout,
    /// The share's root in the catalog; `None` if the catalog lacks it.
    root: Option<Hash>,
    transfer: Transfer,
    /// Hashes of the share's pages, once they were verified against the root.
    page_hashes: OnceCell<Vec<Hash>>,
    /// The last few hash pages, by the number of their group. Batches of one group that are read at
    /// once wait for one page.
    pages: Mutex<BTreeMap<u64, Arc<OnceCell<Bytes>>>>,
}

impl ShareReader {
    pub(crate) fn new(
        server: Arc<StorageServer>,
        header: Header,
        layout: Layout,
        root: Option<Hash>,
        transfer: Transfer,
    ) -> Self {
        Self {
            server,
            header,
            layout,
            root,
            transfer,
            page_hashes: OnceCell::new(),
            pages: Mutex::default(),
        }
    }

    /// Name of the cloud that has the share.
    pub(crate) fn cloud(&self) -> &str {
        self.server.name()
    }

    pub(crate) fn server(&self) -> &Arc<StorageServer> {
        &self.server
    }

    pub(crate) fn share(&self) -> raic_storage::ShareNum {
        self.header.share
    }

    /// Reads the blocks of some segments of one group. A block with a wrong hash is `None`.
    ///
    /// # Errors
    /// Fails with a sentence that names the cloud.
    pub(crate) async fn blocks(&self, segments: Range<u64>) -> Result<Vec<Option<Bytes>>, String> {
        let page = self.page(segments.start / GROUP);
        let (page, blocks) = futures::join!(page, self.unverified(segments));
        Self::judged(page?, blocks?).await
    }

    /// Judges blocks of one group that were read before, with their segments' numbers. A block with
    /// a wrong hash becomes `None`.
    ///
    /// # Errors
    /// Fails with a sentence that names the cloud.
    pub(crate) async fn judge(
        &self,
        blocks: Vec<(u64, Bytes)>,
    ) -> Result<Vec<Option<Bytes>>, String> {
        let Some((segment, _)) = blocks.first() else {
            return Ok(Vec::new());
        };
        let page = self.page(segment / GROUP).await?;
        Self::judged(page, blocks).await
    }

    async fn judged(page: Bytes, blocks: Vec<(u64, Bytes)>) -> Result<Vec<Option<Bytes>>, String> {
        let judge = move |(segment, block): (u64, Bytes)| {
            is_authentic(&block, &page, segment % GROUP).then_some(block)
        };
        let judged = tokio::task::spawn_blocking(move || blocks.into_iter().map(judge).collect());
        judged.await.map_err(|e| e.to_string())
    }

    /// Reads the blocks of some segments of one group, with their segments' numbers. They are not
    /// verified: whoever decodes them finds out by the segment's seal.
    ///
    /// # Errors
    /// Fails with a sentence that names the cloud.
    pub(crate) async fn unverified(
        &self,
        segments: Range<u64>,
    ) -> Result<Vec<(u64, Bytes)>, String> {
        let mut pieces = self.pieces(self.extent_of(&segments)).await?;
        let blocks = segments.map(|segment| {
            let length = self.layout.block_length(segment) as usize;
            (segment, pieces.cut(length))
        });
        Ok(blocks.collect())
    }

    /// Where the blocks of some segments lie, in bytes of the share.
    pub(crate) fn extent_of(&self, segments: &Range<u64>) -> Range<u64> {
        let (layout, last) = (&self.layout, segments.end - 1);
        layout.block_offset(segments.start)..layout.block_offset(last) + layout.block_length(last)
    }

    /// Returns a group's hash page, verified.
    async fn page(&self, group: u64) -> Result<Bytes, String> {
        let page = {
            let mut pages = self.pages.lock();
            let page = pages.entry(group).or_default().clone();
            while pages.len() > REMEMBERED {
                pages.pop_first();
            }
            page
        };
        let read = page.get_or_try_init(|| self.read_page(group)).await;
        read.cloned()
    }

    async fn read_page(&self, group: u64) -> Result<Bytes, String> {
        let start = self.layout.page_offset(group);
        let range = start..start + self.layout.blocks_in(group) * HASH as u64;
        let (hashes, page) = futures::join!(self.page_hashes(), self.part(range));
        let (hashes, page) = (hashes?, page?);
        let hash: Hash = blake3::hash(&page).into();
        if hashes.get(group as usize) != Some(&hash) {
            return Err(self.lie("a page of hashes is not the one that was stored"));
        }
        Ok(page)
    }

    /// Returns the hashes of the share's pages, verified.
    async fn page_hashes(&self) -> Result<&Vec<Hash>, String> {
        let read = self.page_hashes.get_or_try_init(|| self.read_page_hashes());
        read.await
    }

    async fn read_page_hashes(&self) -> Result<Vec<Hash>, String> {
        let part = self.part(self.layout.page_hashes()).await?;
        let (hashes, _) = part.as_chunks::<HASH>();
        if self.root != Some(root(&self.header.encode(), hashes)) {
            return Err(self.lie("its hashes are not those that were stored"));
        }
        Ok(hashes.to_vec())
    }

    /// Reads a part of the share as a whole.
    async fn part(&self, range: Range<u64>) -> Result<Bytes, String> {
        let length = (range.end - range.start) as usize;
        // A copy: what is remembered of it holds no buffer of a connection.
        let whole = self.pieces(range).await?.cut(length);
        Ok(Bytes::copy_from_slice(&whole))
    }

    /// Reads a part of the share. It is at most a batch of blocks.
    async fn pieces(&self, range: Range<u64>) -> Result<Pieces, String> {
        let length = (range.end - range.start) as usize;
        let id = ShareId {
            index: self.header.index,
            share: self.header.share,
        };
        let gather = async {
            let mut content = self.server.read(id, range).await?;
            let mut pieces = Pieces::default();
            while let Some(piece) = content.try_next().await? {
                self.transfer.add(self.server.name(), piece.len());
                pieces.0.push_back(piece);
            }
            Ok::<_, StorageError>(pieces)
        };
        let pieces = gather.await.map_err(|e| e.to_string())?;
        if pieces.0.iter().map(Bytes::len).sum::<usize>() == length {
            Ok(pieces)
        } else {
            Err(self.lie("it returned another length than was requested"))
        }
    }

    /// Makes the sentence for a share whose cloud returned wrong bytes.
    pub(crate) fn lie(&self, what: &str) -> String {
        format!(
            "cloud {:?}: share {} of {}: {what}",
            self.cloud(),
            self.header.share,
            self.header.index
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a share came in pieces, its blocks are those of the whole.
        #[test]
        fn cuts_are_those_of_the_whole(
            lengths in prop::collection::vec(0..40_usize, 0..12),
            cuts in prop::collection::vec(0..60_usize, 0..12),
        ) {
            let total: usize = lengths.iter().sum();
            let whole: Bytes = (0..total).map(|at| at as u8).collect();
            let mut rest = whole.clone();
            let mut pieces = Pieces(lengths.iter().map(|length| rest.split_to(*length)).collect());
            let mut at = 0;
            for cut in cuts {
                let end = total.min(at + cut);
                prop_assert_eq!(pieces.cut(cut), whole.slice(at..end));
                at = end;
            }
        }
    }
}
