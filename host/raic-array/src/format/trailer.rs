//! The trailer of a share, which follows the blocks and hash pages.

use std::fmt;

use data_encoding::HEXLOWER;

use super::{FOOTER, HASH, Hash, Header, Layout, MANIFEST_UNIT, WRAPPED_KEY};

const MAGIC: &[u8; 8] = b"RAICTRL1";
const END_MAGIC: &[u8; 8] = b"RAICEND1";
const NONCE: usize = 12;
/// Offset of the hashes in the trailer: magic, lengths, key id, nonce and wrapped key come before.
pub(super) const BEFORE_HASHES: u64 = (8 + 8 + 4 + 16 + NONCE + WRAPPED_KEY) as u64;

/// The random id of a generation of the array's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// A stream's key, wrapped by a generation of the array's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Which generation wrapped the key.
    pub id: KeyId,
    /// The random nonce that was used.
    pub nonce: [u8; NONCE],
    /// The key and the tag.
    pub sealed: [u8; WRAPPED_KEY],
}

/// The trailer of a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Bytes of content in the whole stream, with its padding.
    pub padded: u64,
    /// Bytes of the manifest.
    pub manifest_length: u32,
    /// The stream's key, wrapped.
    pub key: WrappedKey,
    /// Hashes of this share's pages.
    pub page_hashes: Vec<Hash>,
    /// Roots of all shares, by share number.
    pub roots: Vec<Hash>,
}

/// Returns what a stream's key is wrapped with as additional data: the header without the share's
/// number, all lengths, and all roots.
pub(crate) fn proof(header: &Header, layout: &Layout, roots: &[Hash]) -> Vec<u8> {
    let mut proof = header.of_stream().to_vec();
    proof.extend(layout.padded.to_be_bytes());
    proof.extend(layout.manifest_length.to_be_bytes());
    proof.extend(roots.as_flattened());
    proof
}

impl Trailer {
    /// Returns the layout of the share that the trailer ends.
    pub fn layout(&self, header: &Header) -> Layout {
        Layout {
            geometry: header.geometry,
            segment_size: header.segment_size,
            padded: self.padded,
            manifest_length: self.manifest_length,
        }
    }

    /// Encodes the trailer.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.padded.to_be_bytes());
        out.extend(self.manifest_length.to_be_bytes());
        out.extend(self.key.id.0);
        out.extend(self.key.nonce);
        out.extend(self.key.sealed);
        out.extend(self.page_hashes.as_flattened());
        out.extend(self.roots.as_flattened());
        let hash: Hash = blake3::hash(&out).into();
        let length = (out.len() + FOOTER) as u64;
        out.extend(hash);
        out.extend(length.to_be_bytes());
        out.extend(END_MAGIC);
        out
    }

    /// Decodes the trailer of a share with that header; `None` if it is not whole, or its numbers
    /// are not those of a stream.
    pub fn decode(bytes: &[u8], header: &Header) -> Option<Self> {
        let body = bytes.len().checked_sub(FOOTER)?;
        let mut rest = bytes[..body].strip_prefix(MAGIC)?;
        let mut take = |length: usize| -> Option<&[u8]> {
            let (head, tail) = rest.split_at_checked(length)?;
            rest = tail;
            Some(head)
        };
        let padded = u64::from_be_bytes(take(8)?.try_into().ok()?);
        let manifest_length = u32::from_be_bytes(take(4)?.try_into().ok()?);
        let key = WrappedKey {
            id: KeyId(take(16)?.try_into().ok()?),
            nonce: take(NONCE)?.try_into().ok()?,
            sealed: take(WRAPPED_KEY)?.try_into().ok()?,
        };
        let layout = Layout {
            geometry: header.geometry,
            segment_size: header.segment_size,
            padded,
            manifest_length,
        };
        if !layout.is_sound() || !manifest_length.is_multiple_of(MANIFEST_UNIT) {
            return None;
        }
        let pages = usize::try_from(layout.pages()).ok()?;
        let shares = usize::from(header.geometry.n);
        let (hashes, end) = rest.as_chunks::<HASH>();
        if hashes.len() != pages + shares || !end.is_empty() {
            return None;
        }
        let trailer = Self {
            padded,
            manifest_length,
            key,
            page_hashes: hashes[..pages].to_vec(),
            roots: hashes[pages..].to_vec(),
        };
        // So the trailer's hash, its length and the last magic are right.
        (trailer.encode() == bytes).then_some(trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Geometry, MAX_SEGMENT, MAX_STREAM, Role};
    use proptest::prelude::*;
    use raic_storage::{ShareNum, StorageIndex};

    fn header(geometry: Geometry) -> Header {
        Header {
            array: [1; 16],
            index: StorageIndex([2; 16]),
            share: ShareNum(geometry.n - 1),
            geometry,
            role: Role::File,
            segment_size: 131_072,
            may_ignore: 0,
        }
    }

    fn trailer(layout: &Layout) -> Trailer {
        Trailer {
            padded: layout.padded,
            manifest_length: layout.manifest_length,
            key: WrappedKey {
                id: KeyId([3; 16]),
                nonce: [4; 12],
                sealed: [5; WRAPPED_KEY],
            },
            page_hashes: (0..layout.pages()).map(|i| [i as u8; HASH]).collect(),
            roots: vec![[7; HASH]; layout.geometry.n.into()],
        }
    }

    proptest! {
        #[test]
        fn headers_and_trailers_read_as_they_are_written_and_no_other_way(
            (k, m) in (1..8_u8, 1..8_u8), padded in 0..100_000_000_u64, flip in 0..10_000_usize, may_ignore: u64,
        ) {
            let geometry = Geometry { k, n: k + m };
            let header = Header { may_ignore, ..header(geometry) };
            let mut bytes = header.encode();
            prop_assert_eq!(Header::decode(&bytes), Some(header));
            // The magic, and the flags that must be understood.
            bytes[[flip % 8, 48 + flip % 8][flip / 8 % 2]] ^= 1;
            prop_assert_eq!(Header::decode(&bytes), None);

            let layout = Layout { geometry, segment_size: 131_072, padded, manifest_length: 512 };
            let trailer = trailer(&layout);
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
            prop_assert_eq!(Trailer::decode(&rubbish, &header(Geometry { k: 2, n: 4 })), None);
        }
    }

    /// What a stranger writes must not make a reader hold more than a stream's worth.
    #[test]
    fn numbers_beyond_the_limits_are_refused() {
        let geometry = Geometry { k: 1, n: 2 };
        for segment_size in [0, MAX_SEGMENT + 1] {
            let header = Header {
                segment_size,
                ..header(geometry)
            };
            assert_eq!(Header::decode(&header.encode()), None);
        }
        for (k, n) in [(0, 1), (2, 2), (3, 2), (2, 33)] {
            let header = header(Geometry { k, n });
            assert_eq!(Header::decode(&header.encode()), None, "{k}-of-{n}");
        }
        let of = |padded, manifest_length| Layout {
            geometry,
            segment_size: 131_072,
            padded,
            manifest_length,
        };
        for layout in [
            of(MAX_STREAM + 1, 256),
            of(1, 0),
            of(1, 255),
            of(1, (64 << 20) + 256),
        ] {
            let bytes = trailer(&layout).encode();
            assert_eq!(
                Trailer::decode(&bytes, &header(geometry)),
                None,
                "{layout:?}"
            );
        }
        let longest = trailer(&of(MAX_STREAM, 256));
        assert_eq!(
            Trailer::decode(&longest.encode(), &header(geometry)),
            Some(longest)
        );
    }
}
