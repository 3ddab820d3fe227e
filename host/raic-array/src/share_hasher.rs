//! Hashes the blocks of one share. It needs no key, so that a share that was lost can be computed
//! from others and compared with its root.

use crate::format::{GROUP, HASH, HEADER, Hash, root};

/// The hashes of one share, made block by block.
pub(crate) struct ShareHasher {
    header: [u8; HEADER as usize],
    /// Hashes of the group that is being filled.
    page: Vec<u8>,
    page_hashes: Vec<Hash>,
}

impl ShareHasher {
    pub(crate) fn new(header: [u8; HEADER as usize]) -> Self {
        Self {
            header,
            page: Vec::new(),
            page_hashes: Vec::new(),
        }
    }

    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Adds the next block. Returns the page of the group that it ends, which follows the block in
    /// the share.
    pub(crate) fn add(&mut self, block: &[u8]) -> Option<Vec<u8>> {
        self.page.extend_from_slice(blake3::hash(block).as_bytes());
        (self.page.len() == GROUP as usize * HASH).then(|| self.end_page())
    }

    fn end_page(&mut self) -> Vec<u8> {
        self.page_hashes.push(blake3::hash(&self.page).into());
        std::mem::take(&mut self.page)
    }

    /// Ends the share. Returns its last page, unless the last block ended one, the hashes of all
    /// pages, and the root.
    pub(crate) fn finish(mut self) -> (Option<Vec<u8>>, Vec<Hash>, Hash) {
        let page = (!self.page.is_empty()).then(|| self.end_page());
        let root = root(&self.header, &self.page_hashes);
        (page, self.page_hashes, root)
    }
}

/// Returns whether a block has the hash that its page names. `in_group` is the block's place in its
/// group, from 0.
pub(crate) fn is_authentic(block: &[u8], page: &[u8], in_group: u64) -> bool {
    let place = usize::try_from(in_group).unwrap_or(usize::MAX);
    let (hashes, _) = page.as_chunks::<HASH>();
    hashes
        .get(place)
        .is_some_and(|hash| blake3::hash(block) == *hash)
}
