//! Seals segments, codes them into blocks, and does the reverse. All of it is computation, which
//! callers run on the blocking pool.

use bytes::{Bytes, BytesMut};
use raic_storage::{ShareNum, StorageIndex};
use ring::aead::{Aad, LessSafeKey, Nonce};

use crate::{
    ArrayError, Result,
    codec::Codec,
    format::{GROUP, Geometry, HASH, HEADER, Hash, Header, Layout, block_length, root},
    keyring::{Key, aead},
};

/// The role of a stream that holds a file. Every seal is bound to the role.
const ROLE_FILE: u8 = 0;
const FORMAT: u8 = 1;

/// Seals and opens the segments of one stream.
///
/// The nonce is the segment's number, with a mark on the last segment. The key is the stream's own.
/// So no pair of key and nonce is used twice, and segments cannot be cut, swapped or replayed.
pub(crate) struct Sealer {
    key: LessSafeKey,
    associated: [u8; 38],
}

impl Sealer {
    pub(crate) fn new(key: &Key, array: &[u8; 16], index: StorageIndex) -> Self {
        let mut associated = [0; 38];
        associated[..4].copy_from_slice(b"RAIC");
        associated[4..6].copy_from_slice(&[FORMAT, ROLE_FILE]);
        associated[6..22].copy_from_slice(array);
        associated[22..].copy_from_slice(&index.0);
        Self {
            key: aead(key),
            associated,
        }
    }

    fn nonce(segment: u64, last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&segment.to_be_bytes());
        nonce[11] = last.into();
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals a segment in place and adds its tag.
    fn seal(&self, segment: u64, last: bool, content: &mut Vec<u8>) -> Result<()> {
        let nonce = Self::nonce(segment, last);
        let sealed = self
            .key
            .seal_in_place_append_tag(nonce, Aad::from(self.associated), content);
        sealed.map_err(|_| ArrayError::Keyring)
    }

    /// Opens a segment in place; `None` if any byte differs from the sealed one.
    fn open<'a>(&self, segment: u64, last: bool, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let opened = self.key.open_in_place(
            Self::nonce(segment, last),
            Aad::from(self.associated),
            sealed,
        );
        opened.ok().map(|content| &*content)
    }
}

/// Makes the shares of one stream, piece by piece.
pub(crate) struct Encoder {
    codec: Codec,
    sealer: Sealer,
    geometry: Geometry,
    headers: Vec<[u8; 64]>,
    segment: u64,
    /// For each share, the hashes of the group that is being filled.
    page: Vec<Vec<u8>>,
    /// For each share, the hashes of the pages that are done.
    page_hashes: Vec<Vec<Hash>>,
}

impl Encoder {
    pub(crate) fn new(codec: Codec, sealer: Sealer, first: Header) -> Self {
        let n = first.geometry.n;
        let headers = (0..n)
            .map(|share| {
                Header {
                    share: ShareNum(share),
                    ..first
                }
                .encode()
            })
            .collect();
        let shares = usize::from(n);
        Self {
            codec,
            sealer,
            geometry: first.geometry,
            headers,
            segment: 0,
            page: vec![Vec::new(); shares],
            page_hashes: vec![Vec::new(); shares],
        }
    }

    /// Makes the next bytes of every share from some segments. `last` marks the end of the stream.
    pub(crate) fn encode(&mut self, segments: Vec<Vec<u8>>, last: bool) -> Result<Vec<Bytes>> {
        let count = segments.len();
        let blocks: u64 = segments
            .iter()
            .map(|s| block_length(s.len() as u64, self.geometry))
            .sum();
        // There is also room for a header and a hash page, so that nothing is moved.
        let room = blocks as usize + HEADER as usize + GROUP as usize * HASH;
        let mut out: Vec<_> = self
            .headers
            .iter()
            .map(|_| BytesMut::with_capacity(room))
            .collect();
        if self.segment == 0 {
            out.iter_mut()
                .zip(&self.headers)
                .for_each(|(out, header)| out.extend_from_slice(header));
        }
        for (i, content) in segments.into_iter().enumerate() {
            let ends = last && i + 1 == count;
            let length = self.add_blocks(content, ends, &mut out)?;
            for (share, page) in out.iter().zip(&mut self.page) {
                page.extend_from_slice(blake3::hash(&share[share.len() - length..]).as_bytes());
            }
            self.segment += 1;
            if ends || self.segment.is_multiple_of(GROUP) {
                for (share, page) in self.page.iter_mut().enumerate() {
                    out[share].extend_from_slice(page);
                    self.page_hashes[share].push(blake3::hash(page).into());
                    page.clear();
                }
            }
        }
        Ok(out.into_iter().map(BytesMut::freeze).collect())
    }

    /// Adds one segment's block to every share, data blocks first, then parity. Returns the length
    /// of a block in bytes.
    fn add_blocks(&self, mut content: Vec<u8>, last: bool, out: &mut [BytesMut]) -> Result<usize> {
        let k = usize::from(self.geometry.k);
        let length = block_length(content.len() as u64, self.geometry) as usize;
        self.sealer.seal(self.segment, last, &mut content)?;
        content.resize(length * k, 0);
        let data: Vec<&[u8]> = content.chunks(length).collect();
        let (of_data, of_parity) = out.split_at_mut(k);
        of_data
            .iter_mut()
            .zip(&data)
            .for_each(|(out, block)| out.extend_from_slice(block));
        for (number, out) in of_parity.iter_mut().enumerate() {
            let start = out.len();
            out.resize(start + length, 0);
            self.codec.parity(number, &data, &mut out[start..]);
        }
        Ok(length)
    }

    /// Returns the hashes of every share's pages, and its root. It is called after the last
    /// segment.
    pub(crate) fn finish(self) -> Vec<(Vec<Hash>, Hash)> {
        let roots: Vec<_> = self
            .headers
            .iter()
            .zip(&self.page_hashes)
            .map(|(h, p)| root(h, p))
            .collect();
        self.page_hashes.into_iter().zip(roots).collect()
    }
}

/// Returns whether a block has the hash that its page names. `in_group` is the block's place in its
/// group, from 0.
pub(crate) fn is_authentic(block: &[u8], page: &[u8], in_group: u64) -> bool {
    let offset = usize::try_from(in_group)
        .unwrap_or(usize::MAX)
        .saturating_mul(HASH);
    page.get(offset..offset.saturating_add(HASH))
        .is_some_and(|hash| blake3::hash(block) == *hash_of(hash))
}

fn hash_of(bytes: &[u8]) -> &Hash {
    bytes.try_into().unwrap_or(&[0; HASH])
}

/// Makes a segment's content from k of its blocks, each with its share number.
pub(crate) fn decode(
    codec: &Codec,
    sealer: &Sealer,
    layout: &Layout,
    index: StorageIndex,
    segment: u64,
    blocks: &[(ShareNum, Bytes)],
) -> Result<Bytes> {
    let mut sealed = codec.data(blocks)?;
    let length = layout.segment_length(segment);
    let whole = usize::try_from(length + crate::format::TAG).unwrap_or(usize::MAX);
    sealed.truncate(whole);
    let last = segment + 1 == layout.segments();
    if sealer.open(segment, last, &mut sealed).is_none() {
        return Err(ArrayError::Sealed { index, segment });
    }
    sealed.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    Ok(sealed.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INDEX: StorageIndex = StorageIndex([9; 16]);

    fn encoder(geometry: Geometry) -> Encoder {
        let header = Header {
            array: [1; 16],
            index: INDEX,
            share: ShareNum(0),
            geometry,
            segment_size: 100,
        };
        Encoder::new(
            Codec::new(geometry).unwrap(),
            Sealer::new(&Key::new([7; 32]), &[1; 16], INDEX),
            header,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Any k blocks give the segment back. Blocks that were swapped between segments do not.
        #[test]
        fn any_k_blocks_suffice(k in 1..6_u8, m in 1..5_u8, length in 0..300_u64, order in any::<u64>()) {
            let geometry = Geometry { k, n: k + m };
            let layout = Layout { geometry, segment_size: 100, length, manifest_length: 3 };
            let content: Vec<Vec<u8>> = (0..layout.segments())
                .map(|s| (0..layout.segment_length(s)).map(|i| (i + s) as u8).collect())
                .collect();
            let shares = encoder(geometry).encode(content.clone(), true).unwrap();
            let sealer = Sealer::new(&Key::new([7; 32]), &[1; 16], INDEX);
            let codec = Codec::new(geometry).unwrap();
            for segment in 0..layout.segments() {
                let range = layout.block_offset(segment) as usize..;
                let range = range.start..range.start + layout.block_length(segment) as usize;
                let mut blocks: Vec<_> =
                    (0..geometry.n).map(|s| (ShareNum(s), shares[usize::from(s)].slice(range.clone()))).collect();
                let page = layout.page_offset(0) as usize;
                for (share, block) in &blocks {
                    prop_assert!(is_authentic(block, &shares[usize::from(share.0)][page..], segment));
                }
                let turn = order as usize % blocks.len();
                blocks.rotate_left(turn);
                let read = decode(&codec, &sealer, &layout, INDEX, segment, &blocks[..k.into()]).unwrap();
                prop_assert_eq!(&read[..], &content[segment as usize][..]);
                if layout.data_segments() > 1 && segment < 2 && layout.block_length(0) == layout.block_length(1) {
                    prop_assert!(decode(&codec, &sealer, &layout, INDEX, 1 - segment, &blocks[..k.into()]).is_err());
                }
            }
        }
    }
}
