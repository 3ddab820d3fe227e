//! Codes sealed segments into the blocks of shares, and does the reverse. All of it is computation,
//! which callers run on the blocking pool.

use bytes::{Bytes, BytesMut};
use raic_storage::{ShareNum, StorageIndex};

use crate::{
    ArrayError, Result,
    codec::Codec,
    format::{GROUP, Geometry, HASH, HEADER, Hash, Header, Layout, block_length},
    sealer::{Part, Sealer},
    share_hasher::ShareHasher,
};

/// Makes the shares of one stream, piece by piece.
pub(crate) struct Encoder {
    codec: Codec,
    sealer: Sealer,
    header: Header,
    segment: u64,
    /// Whether the headers were given out.
    has_begun: bool,
    hashers: Vec<ShareHasher>,
}

/// The end of all shares of a stream.
pub(crate) struct Ended {
    /// The last bytes of every share before its trailer.
    pub(crate) pieces: Vec<Bytes>,
    /// Hashes of every share's pages.
    pub(crate) page_hashes: Vec<Vec<Hash>>,
    /// Roots of all shares.
    pub(crate) roots: Vec<Hash>,
}

impl Encoder {
    /// Begins the shares of a stream. `header` is that of any of them.
    pub(crate) fn new(codec: Codec, sealer: Sealer, header: Header) -> Self {
        let shares = (0..header.geometry.n).map(ShareNum);
        let hashers = shares.map(|share| ShareHasher::new(Header { share, ..header }.encode()));
        Self {
            codec,
            sealer,
            header,
            segment: 0,
            has_begun: false,
            hashers: hashers.collect(),
        }
    }

    /// Makes the next bytes of every share from some segments of the content.
    pub(crate) fn encode(&mut self, content: Vec<Vec<u8>>) -> Result<Vec<Bytes>> {
        let mut out = self.room(&content);
        self.add(content, Part::Content, &mut out)?;
        Ok(out.into_iter().map(BytesMut::freeze).collect())
    }

    /// Makes the last bytes of every share before its trailer, from the manifest.
    pub(crate) fn finish(mut self, manifest: &[u8]) -> Result<Ended> {
        let size = self.header.segment_size as usize;
        let manifest: Vec<_> = manifest.chunks(size).map(<[u8]>::to_vec).collect();
        let mut out = self.room(&manifest);
        self.add(manifest, Part::Manifest, &mut out)?;
        let (mut page_hashes, mut roots) = (Vec::new(), Vec::new());
        for (hasher, out) in self.hashers.into_iter().zip(&mut out) {
            let (page, hashes, root) = hasher.finish();
            out.extend_from_slice(&page.unwrap_or_default());
            page_hashes.push(hashes);
            roots.push(root);
        }
        Ok(Ended {
            pieces: out.into_iter().map(BytesMut::freeze).collect(),
            page_hashes,
            roots,
        })
    }

    /// Makes room for every share's blocks of some segments, and for the header and the pages that
    /// come between, so that nothing is moved and nothing is held in vain. The first bytes of a
    /// share are its header.
    fn room(&mut self, content: &[Vec<u8>]) -> Vec<BytesMut> {
        let has_begun = std::mem::replace(&mut self.has_begun, true);
        let blocks: u64 = content
            .iter()
            .map(|s| block_length(s.len() as u64, self.header.geometry))
            .sum();
        let header = if has_begun { 0 } else { HEADER };
        let groups = (self.segment + content.len() as u64) / GROUP - self.segment / GROUP;
        let room = (blocks + header + groups * GROUP * HASH as u64) as usize;
        let room = self.hashers.iter().map(|hasher| {
            let mut out = BytesMut::with_capacity(room);
            if !has_begun {
                out.extend_from_slice(hasher.header());
            }
            out
        });
        room.collect()
    }

    fn add(&mut self, segments: Vec<Vec<u8>>, part: Part, out: &mut [BytesMut]) -> Result<()> {
        for bytes in segments {
            let length = self.add_blocks(bytes, part, out)?;
            for (share, hasher) in out.iter_mut().zip(&mut self.hashers) {
                if let Some(page) = hasher.add(&share[share.len() - length..]) {
                    share.extend_from_slice(&page);
                }
            }
            self.segment += 1;
        }
        Ok(())
    }

    /// Adds one segment's block to every share, data blocks first, then parity. Returns the length
    /// of a block in bytes.
    fn add_blocks(&self, mut bytes: Vec<u8>, part: Part, out: &mut [BytesMut]) -> Result<usize> {
        let Geometry { k, .. } = self.header.geometry;
        let length = block_length(bytes.len() as u64, self.header.geometry) as usize;
        self.sealer.seal(self.segment, part, &mut bytes)?;
        bytes.resize(length * usize::from(k), 0);
        let data: Vec<&[u8]> = bytes.chunks(length).collect();
        let (of_data, of_parity) = out.split_at_mut(k.into());
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
    let part = match segment < layout.data_segments() {
        true => Part::Content,
        false => Part::Manifest,
    };
    if sealer.open(segment, part, &mut sealed).is_none() {
        return Err(ArrayError::Sealed { index, segment });
    }
    sealed.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    Ok(sealed.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{format::Role, keyring::Key, share_hasher::is_authentic};
    use proptest::prelude::*;

    const INDEX: StorageIndex = StorageIndex([9; 16]);

    fn sealer() -> Sealer {
        Sealer::new(&Key::new([7; 32]), &[1; 16], INDEX, Role::File)
    }

    fn shares(geometry: Geometry, content: Vec<Vec<u8>>, manifest: &[u8]) -> Vec<Vec<u8>> {
        let header = Header {
            array: [1; 16],
            index: INDEX,
            share: ShareNum(0),
            geometry,
            role: Role::File,
            segment_size: 100,
            may_ignore: 0,
        };
        let mut encoder = Encoder::new(Codec::new(geometry).unwrap(), sealer(), header);
        let before = encoder.encode(content).unwrap();
        let end = encoder.finish(manifest).unwrap().pieces;
        before
            .iter()
            .zip(end)
            .map(|(a, b)| [&a[..], &b].concat())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Any k blocks give the segment back. Blocks that were swapped between segments do not.
        #[test]
        fn any_k_blocks_suffice(k in 1..6_u8, m in 1..5_u8, padded in 0..300_u64, manifest_length in 1..250_u32, order: u64) {
            let geometry = Geometry { k, n: k + m };
            let layout = Layout { geometry, segment_size: 100, padded, manifest_length };
            let segments: Vec<Vec<u8>> = (0..layout.segments())
                .map(|s| (0..layout.segment_length(s)).map(|i| (i + s) as u8).collect())
                .collect();
            let (content, manifest) = segments.split_at(layout.data_segments() as usize);
            let shares = shares(geometry, content.to_vec(), &manifest.concat());
            let codec = Codec::new(geometry).unwrap();
            for segment in 0..layout.segments() {
                let start = layout.block_offset(segment) as usize;
                let range = start..start + layout.block_length(segment) as usize;
                let mut blocks: Vec<_> =
                    (0..geometry.n).map(|s| (ShareNum(s), Bytes::copy_from_slice(&shares[usize::from(s)][range.clone()]))).collect();
                let page = layout.page_offset(0) as usize;
                for (share, block) in &blocks {
                    prop_assert!(is_authentic(block, &shares[usize::from(share.0)][page..], segment));
                }
                let turn = order as usize % blocks.len();
                blocks.rotate_left(turn);
                let blocks = &blocks[..k.into()];
                let read = decode(&codec, &sealer(), &layout, INDEX, segment, blocks).unwrap();
                prop_assert_eq!(&read[..], &segments[segment as usize][..]);
                if layout.data_segments() > 1 && segment < 2 && layout.block_length(0) == layout.block_length(1) {
                    prop_assert!(decode(&codec, &sealer(), &layout, INDEX, 1 - segment, blocks).is_err());
                }
            }
        }
    }
}
