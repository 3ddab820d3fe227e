//! Share format v1: the layout of a share. `docs/share-format.md` describes it byte by byte.
//!
//! ```text
//! header | group 0: blocks, hash page | group 1: blocks, hash page | ... | trailer
//! ```
//!
//! A file is cut into segments. Each segment is sealed and gives one block to every share. After
//! every [`GROUP`] blocks follows a page of their hashes. So neither writer nor reader ever holds
//! the hashes of a whole share. The root of a share is a hash over its header and the hashes of its
//! pages. Numbers are big-endian.

use raic_storage::{ShareNum, StorageIndex};

/// Length of the header, in bytes.
pub const HEADER: u64 = 64;
/// Number of blocks that share a hash page.
pub const GROUP: u64 = 1024;
/// Length of a hash, in bytes.
pub const HASH: usize = 32;
/// Bytes that sealing adds to a segment.
pub const TAG: u64 = 16;
/// Length of a wrapped key, in bytes: 32 bytes and a tag.
pub const WRAPPED_KEY: usize = 48;

const HEADER_MAGIC: &[u8; 8] = b"RAICSHR1";
const TRAILER_MAGIC: &[u8; 8] = b"RAICTRL1";
const END_MAGIC: &[u8; 8] = b"RAICEND1";
/// Length of the end of every share, in bytes: trailer hash, trailer length, magic. By them a share
/// can be read without a catalog.
const FOOTER: usize = HASH + 8 + 8;

/// A BLAKE3 hash.
pub type Hash = [u8; HASH];

/// The number of shares that a file has, and the number that suffice to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of shares that suffice to read the file.
    pub k: u8,
    /// Number of shares that the file has.
    pub n: u8,
}

/// The layout of every share of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Geometry of the stream.
    pub geometry: Geometry,
    /// Bytes of content in every segment but the last one of the content.
    pub segment_size: u32,
    /// Bytes of content in the whole stream.
    pub length: u64,
    /// Bytes of the manifest, which is the last segment of all.
    pub manifest_length: u32,
}

impl Layout {
    /// Returns the number of segments that hold content.
    pub fn data_segments(&self) -> u64 {
        self.length.div_ceil(self.segment_size.into())
    }

    /// Returns the number of all segments: those of the content, and the manifest.
    pub fn segments(&self) -> u64 {
        // A stranger's trailer may have any length.
        self.data_segments().saturating_add(1)
    }

    /// Returns the length of a segment before it is sealed, in bytes.
    pub fn segment_length(&self, segment: u64) -> u64 {
        let size = u64::from(self.segment_size);
        if segment >= self.data_segments() {
            self.manifest_length.into()
        } else {
            size.min(self.length - segment * size)
        }
    }

    /// Returns the length of a segment's block, in bytes.
    pub fn block_length(&self, segment: u64) -> u64 {
        block_length(self.segment_length(segment), self.geometry)
    }

    /// Returns the offset at which a segment's block begins, in bytes.
    pub fn block_offset(&self, segment: u64) -> u64 {
        let pages = segment / GROUP * (GROUP * HASH as u64);
        let full = block_length(self.segment_size.into(), self.geometry);
        if segment == 0 {
            HEADER
        } else {
            // All blocks before are full, except perhaps the one just before: the last of the
            // content.
            HEADER + (segment - 1) * full + self.block_length(segment - 1) + pages
        }
    }

    /// Returns the number of hash pages of a share.
    pub fn pages(&self) -> u64 {
        self.segments().div_ceil(GROUP)
    }

    /// Returns the number of blocks of a group.
    pub fn blocks_in(&self, group: u64) -> u64 {
        GROUP.min(self.segments() - group * GROUP)
    }

    /// Returns the offset at which a group's hash page begins, in bytes.
    pub fn page_offset(&self, group: u64) -> u64 {
        let last = group * GROUP + self.blocks_in(group) - 1;
        self.block_offset(last) + self.block_length(last)
    }

    /// Returns the offset at which the trailer begins, in bytes.
    pub fn trailer_offset(&self) -> u64 {
        let last = self.pages() - 1;
        self.page_offset(last) + self.blocks_in(last) * HASH as u64
    }

    /// Returns the range of the share that holds the hashes of the pages. It lies in the trailer.
    pub fn page_hashes(&self) -> std::ops::Range<u64> {
        let start = self.trailer_offset() + 8 + 8 + 4 + 4 + WRAPPED_KEY as u64;
        start..start + self.pages() * HASH as u64
    }

    /// Returns the length of a share, in bytes.
    pub fn share_length(&self) -> u64 {
        self.page_hashes().end + u64::from(self.geometry.n) * HASH as u64 + FOOTER as u64
    }
}

/// Returns the length of a block of a segment that has `length` bytes, in bytes.
pub fn block_length(length: u64, geometry: Geometry) -> u64 {
    (length + TAG).div_ceil(geometry.k.into())
}

/// The header of a share: its first 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Id of the array that the share belongs to.
    pub array: [u8; 16],
    /// Storage index of the stream.
    pub index: StorageIndex,
    /// Number of the share.
    pub share: ShareNum,
    /// Geometry of the stream.
    pub geometry: Geometry,
    /// Bytes of content in a segment.
    pub segment_size: u32,
}

impl Header {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER as usize] {
        let mut out = [0; HEADER as usize];
        out[..8].copy_from_slice(HEADER_MAGIC);
        out[8..24].copy_from_slice(&self.array);
        out[24..40].copy_from_slice(&self.index.0);
        out[40..43].copy_from_slice(&[self.share.0, self.geometry.k, self.geometry.n]);
        out[44..48].copy_from_slice(&self.segment_size.to_be_bytes());
        out
    }

    /// Decodes a header; `None` if the bytes are not a header of this format.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER as usize] = bytes.try_into().ok()?;
        let geometry = Geometry {
            k: bytes[41],
            n: bytes[42],
        };
        let header = Self {
            array: bytes[8..24].try_into().ok()?,
            index: StorageIndex(bytes[24..40].try_into().ok()?),
            share: ShareNum(bytes[40]),
            geometry,
            segment_size: u32::from_be_bytes(bytes[44..48].try_into().ok()?),
        };
        let sound = geometry.k >= 1
            && geometry.k < geometry.n
            && geometry.n <= 32
            && header.segment_size > 0;
        (sound && header.share.0 < geometry.n && header.encode() == *bytes).then_some(header)
    }
}

/// Returns the root of a share: a hash over its header and the hashes of its pages.
pub fn root(header: &[u8], page_hashes: &[Hash]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key("RAIC 2026-11 share root v1");
    hasher.update(header);
    page_hashes.iter().for_each(|page| {
        hasher.update(page);
    });
    hasher.finalize().into()
}

/// The trailer of a share, which follows the blocks and hash pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Bytes of content in the whole stream.
    pub length: u64,
    /// Bytes of the manifest.
    pub manifest_length: u32,
    /// Generation of the array key that wraps the stream's key.
    pub generation: u32,
    /// The stream's key, wrapped.
    pub wrapped_key: [u8; WRAPPED_KEY],
    /// Hashes of this share's pages.
    pub page_hashes: Vec<Hash>,
    /// Roots of all shares, by share number.
    pub roots: Vec<Hash>,
}

impl Trailer {
    /// Encodes the trailer.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = TRAILER_MAGIC.to_vec();
        out.extend(self.length.to_be_bytes());
        out.extend(self.manifest_length.to_be_bytes());
        out.extend(self.generation.to_be_bytes());
        out.extend(self.wrapped_key);
        self.page_hashes
            .iter()
            .chain(&self.roots)
            .for_each(|hash| out.extend(hash));
        let hash: Hash = blake3::hash(&out).into();
        let length = (out.len() + FOOTER) as u64;
        out.extend(hash);
        out.extend(length.to_be_bytes());
        out.extend(END_MAGIC);
        out
    }

    /// Decodes the trailer of a share with that header; `None` if it is not whole.
    pub fn decode(bytes: &[u8], header: &Header) -> Option<Self> {
        let body = bytes.len().checked_sub(FOOTER)?;
        let (body, footer) = bytes.split_at(body);
        let mut rest = body.strip_prefix(TRAILER_MAGIC)?;
        let hash: Hash = blake3::hash(body).into();
        let sound = footer[..HASH] == hash && footer[HASH + 8..] == *END_MAGIC;
        let mut take = |length: usize| -> Option<&[u8]> {
            let (head, tail) = rest.split_at_checked(length)?;
            rest = tail;
            Some(head)
        };
        let length = u64::from_be_bytes(take(8)?.try_into().ok()?);
        let manifest_length = u32::from_be_bytes(take(4)?.try_into().ok()?);
        let generation = u32::from_be_bytes(take(4)?.try_into().ok()?);
        let wrapped_key = take(WRAPPED_KEY)?.try_into().ok()?;
        let layout = Layout {
            geometry: header.geometry,
            segment_size: header.segment_size,
            length,
            manifest_length,
        };
        let pages = usize::try_from(layout.pages()).ok()?;
        let mut hashes = rest
            .chunks_exact(HASH)
            .map(|h| h.try_into().unwrap_or_default());
        let page_hashes: Vec<Hash> = hashes.by_ref().take(pages).collect();
        let roots: Vec<Hash> = hashes.collect();
        let counted = page_hashes.len() == pages && roots.len() == usize::from(header.geometry.n);
        let trailer = Self {
            length,
            manifest_length,
            generation,
            wrapped_key,
            page_hashes,
            roots,
        };
        (sound && counted && trailer.encode() == bytes).then_some(trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometries() -> impl Strategy<Value = Geometry> {
        (1..8_u8, 1..8_u8).prop_map(|(k, m)| Geometry { k, n: k + m })
    }

    proptest! {
        /// The formulas give the offsets at which the pieces lie one after the other.
        #[test]
        fn pieces_lie_one_after_the_other(
            geometry in geometries(), segment_size in 1..200_u32, length in 0..500_000_u64, manifest_length in 0..200_u32,
        ) {
            let layout = Layout { geometry, segment_size, length, manifest_length };
            let mut at = HEADER;
            for segment in 0..layout.segments() {
                prop_assert_eq!(layout.block_offset(segment), at);
                at += layout.block_length(segment);
                let group = segment / GROUP;
                if segment + 1 == layout.segments() || (segment + 1) % GROUP == 0 {
                    prop_assert_eq!(layout.page_offset(group), at);
                    at += layout.blocks_in(group) * HASH as u64;
                }
            }
            prop_assert_eq!(layout.trailer_offset(), at);
        }

        #[test]
        fn headers_and_trailers_read_as_they_are_written_and_no_other_way(
            geometry in geometries(), length in 0..100_000_000_u64, array: [u8; 16], index: [u8; 16], flip in 0..10_000_usize,
        ) {
            let index = StorageIndex(index);
            let header = Header { array, index, share: ShareNum(geometry.n - 1), geometry, segment_size: 131_072 };
            let mut bytes = header.encode();
            prop_assert_eq!(Header::decode(&bytes), Some(header));
            bytes[flip % 8] ^= 1;
            prop_assert_eq!(Header::decode(&bytes), None);

            let layout = Layout { geometry, segment_size: 131_072, length, manifest_length: 9 };
            let page_hashes = (0..layout.pages()).map(|i| [i as u8; HASH]).collect();
            let roots = vec![[7; HASH]; geometry.n.into()];
            let trailer =
                Trailer { length, manifest_length: 9, generation: 1, wrapped_key: [5; WRAPPED_KEY], page_hashes, roots };
            let mut bytes = trailer.encode();
            prop_assert_eq!(bytes.len() as u64, layout.share_length() - layout.trailer_offset());
            prop_assert_eq!(Trailer::decode(&bytes, &header), Some(trailer));
            let at = flip % bytes.len();
            bytes[at] ^= 1;
            prop_assert_eq!(Trailer::decode(&bytes, &header), None);
        }

        #[test]
        fn rubbish_is_no_header_and_no_trailer(rubbish in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Header::decode(&rubbish), None);
            let header = Header {
                array: [0; 16], index: StorageIndex([0; 16]), share: ShareNum(0),
                geometry: Geometry { k: 2, n: 4 }, segment_size: 1,
            };
            prop_assert_eq!(Trailer::decode(&rubbish, &header), None);
        }
    }
}
