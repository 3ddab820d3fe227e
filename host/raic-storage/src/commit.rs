//! The commit object of a mutable share: what one version is made of (decision 0004).
//!
//! | bytes | | |
//! | --- | --- | --- |
//! | 0 | 8 | `RAICCOM1` |
//! | 8 | 16 | generation |
//! | 24 | 16 | parent's generation; zeros: none |
//! | 40 | 1 | 1 where it deletes the share |
//! | 41 | 8 | bytes of the share |
//! | 49 | 4 | bytes of a chunk |
//! | 53 | 32 | the write enabler's hash, keyed |
//! | 85 | 4 | chunks |
//! | 89 | 48 each | a chunk's generation (zeros: a hole, all zeros), and its BLAKE3 |
//! | | 32 | BLAKE3 keyed by the container's key, over storage index, share number and all above |

use crate::{EnablerHash, Generation, ShareNum, StorageIndex};

const MAGIC: &[u8; 8] = b"RAICCOM1";
const FIXED: usize = 89;
const CHUNK: usize = 48;
const MAC: usize = 32;
/// Chunks of a share, at most: its commit stays below the longest small object.
pub(crate) const MAX_CHUNKS: u64 = 16_384;

/// A chunk of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkRef {
    pub(crate) generation: Generation,
    pub(crate) digest: [u8; 32],
}

/// One version of a mutable share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) generation: Generation,
    pub(crate) parent: Option<Generation>,
    pub(crate) is_deleted: bool,
    pub(crate) length: u64,
    pub(crate) chunk_size: u32,
    pub(crate) enabler: EnablerHash,
    /// By number; a hole is all zeros.
    pub(crate) chunks: Vec<Option<ChunkRef>>,
}

impl Commit {
    /// A version in which the share is deleted.
    pub(crate) fn deletion(generation: Generation, parent: Option<Generation>) -> Self {
        Self {
            generation,
            parent,
            is_deleted: true,
            length: 0,
            chunk_size: 1,
            enabler: [0; 32],
            chunks: Vec::new(),
        }
    }

    fn mac(key: &[u8; 32], index: StorageIndex, share: ShareNum, body: &[u8]) -> [u8; MAC] {
        let mut mac = blake3::Hasher::new_keyed(key);
        mac.update(&index.0).update(&[share.0]).update(body);
        mac.finalize().into()
    }

    pub(crate) fn encode(&self, key: &[u8; 32], index: StorageIndex, share: ShareNum) -> Vec<u8> {
        let mut body = Vec::with_capacity(FIXED + CHUNK * self.chunks.len() + MAC);
        body.extend_from_slice(MAGIC);
        body.extend_from_slice(&self.generation.to_bytes());
        body.extend_from_slice(&self.parent.unwrap_or_default().to_bytes());
        body.push(u8::from(self.is_deleted));
        body.extend_from_slice(&self.length.to_be_bytes());
        body.extend_from_slice(&self.chunk_size.to_be_bytes());
        body.extend_from_slice(&self.enabler);
        body.extend_from_slice(
            &u32::try_from(self.chunks.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        for chunk in &self.chunks {
            let (generation, digest) =
                chunk.map_or_else(Default::default, |c| (c.generation, c.digest));
            body.extend_from_slice(&generation.to_bytes());
            body.extend_from_slice(&digest);
        }
        let mac = Self::mac(key, index, share, &body);
        body.extend_from_slice(&mac);
        body
    }

    /// Reads a commit; none where it is not an authentic one of this share.
    pub(crate) fn decode(
        bytes: &[u8],
        key: &[u8; 32],
        index: StorageIndex,
        share: ShareNum,
    ) -> Option<Self> {
        let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
        // blake3's comparison takes the same time whatever differs.
        if blake3::Hash::from(Self::mac(key, index, share, body))
            != blake3::Hash::from_slice(mac).ok()?
        {
            return None;
        }
        let rest = body.strip_prefix(MAGIC)?;
        let number = |at: usize| {
            Some(Generation::from_bytes(
                rest.get(at..at + 16)?.try_into().ok()?,
            ))
        };
        let parent = number(16)?;
        let chunks = rest.get(FIXED - 8..)?;
        let count = u32::from_be_bytes(rest.get(77..81)?.try_into().ok()?);
        if chunks.len() != CHUNK * count as usize {
            return None;
        }
        let chunk = |bytes: &[u8]| {
            let generation = Generation::from_bytes(bytes[..16].try_into().ok()?);
            (generation != Generation::default()).then_some(ChunkRef {
                generation,
                digest: bytes[16..].try_into().ok()?,
            })
        };
        Some(Self {
            generation: number(0)?,
            parent: (parent != Generation::default()).then_some(parent),
            is_deleted: *rest.get(32)? == 1,
            length: u64::from_be_bytes(rest.get(33..41)?.try_into().ok()?),
            chunk_size: u32::from_be_bytes(rest.get(41..45)?.try_into().ok()?).max(1),
            enabler: rest.get(45..77)?.try_into().ok()?,
            chunks: chunks.chunks_exact(CHUNK).map(chunk).collect(),
        })
    }

    /// The chunks it names, by number and generation.
    pub(crate) fn named(&self) -> impl Iterator<Item = (u64, Generation)> {
        (0..)
            .zip(&self.chunks)
            .filter_map(|(i, chunk)| Some((i, (*chunk)?.generation)))
    }

    /// The chunks that it names and `other` does not.
    pub(crate) fn named_beside(&self, other: &Self) -> Vec<(u64, Generation)> {
        let kept: std::collections::BTreeSet<_> = other.named().collect();
        self.named().filter(|chunk| !kept.contains(chunk)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn generation() -> impl Strategy<Value = Generation> {
        (1_u32.., any::<u64>(), any::<u32>()).prop_map(|(epoch, micros, random)| Generation {
            epoch,
            micros,
            random,
        })
    }

    proptest! {
        #[test]
        fn a_commit_reads_as_it_was_written_and_no_other_way(
            own in generation(), parent in prop::option::of(generation()), is_deleted: bool, length: u64, chunk_size in 1_u32..,
            enabler: [u8; 32], chunks in prop::collection::vec(prop::option::of((generation(), any::<[u8; 32]>())), 0..5),
            key: [u8; 32], index: [u8; 16], share: u8, flip: prop::sample::Index, bit in 0..8_u8,
        ) {
            let chunks = chunks.into_iter().map(|c| c.map(|(generation, digest)| ChunkRef { generation, digest })).collect();
            let commit = Commit { generation: own, parent, is_deleted, length, chunk_size, enabler, chunks };
            let (index, share) = (StorageIndex(index), ShareNum(share));
            let mut bytes = commit.encode(&key, index, share);
            prop_assert_eq!(Commit::decode(&bytes, &key, index, share), Some(commit));
            prop_assert_eq!(Commit::decode(&bytes, &key, index, ShareNum(share.0.wrapping_add(1))), None);
            prop_assert_eq!(Commit::decode(&bytes, &[7; 32], index, share), None);
            let at = flip.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Commit::decode(&bytes, &key, index, share), None);
            bytes.truncate(at);
            prop_assert_eq!(Commit::decode(&bytes, &key, index, share), None);
        }
    }
}
