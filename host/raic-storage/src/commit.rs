//! The commit object of a mutable share, which describes one version (decision 0004).
//!
//! | offset | bytes | content |
//! | --- | --- | --- |
//! | 0 | 8 | `RAICCOM1` |
//! | 8 | 16 | generation |
//! | 24 | 16 | generation of the parent, or zeros if there is no parent |
//! | 40 | 1 | 1 if the commit deletes the share, else 0 |
//! | 41 | 8 | length of the share, in bytes |
//! | 49 | 4 | chunk size, in bytes |
//! | 53 | 32 | keyed hash of the write enabler |
//! | 85 | 4 | number of chunks |
//! | 89 | 48 each | a chunk's generation and BLAKE3, or zeros for a hole (a chunk of zeros) |
//! | | 32 | BLAKE3 keyed by the container's key, over storage index, share number and all above |

use crate::{EnablerHash, Generation, ShareId};

const MAGIC: &[u8; 8] = b"RAICCOM1";
const FIXED: usize = 89;
const CHUNK: usize = 48;
const MAC: usize = 32;
/// Most chunks of a mutable share. It keeps the commit shorter than the longest small object.
pub(crate) const MAX_CHUNKS: u64 = 16_384;

/// A chunk, as a commit names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkRef {
    /// Generation that wrote the chunk.
    pub(crate) generation: Generation,
    /// BLAKE3 of the chunk.
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
    /// The chunks, by number. `None` is a hole, a chunk of zeros.
    pub(crate) chunks: Vec<Option<ChunkRef>>,
}

impl Commit {
    /// Makes the commit of a version in which the share is deleted.
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

    fn mac(key: &[u8; 32], id: ShareId, body: &[u8]) -> [u8; MAC] {
        let mut mac = blake3::Hasher::new_keyed(key);
        mac.update(&id.index.0).update(&[id.share.0]).update(body);
        mac.finalize().into()
    }

    pub(crate) fn encode(&self, key: &[u8; 32], id: ShareId) -> Vec<u8> {
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
        let mac = Self::mac(key, id, &body);
        body.extend_from_slice(&mac);
        body
    }

    /// Decodes a commit; `None` if the bytes are not an authentic commit of this share.
    pub(crate) fn decode(bytes: &[u8], key: &[u8; 32], id: ShareId) -> Option<Self> {
        let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
        // The comparison of blake3's hashes takes the same time whatever differs.
        if blake3::Hash::from(Self::mac(key, id, body)) != blake3::Hash::from_slice(mac).ok()? {
            return None;
        }
        let rest = body.strip_prefix(MAGIC)?;
        let number = |offset: usize| {
            Some(Generation::from_bytes(
                rest.get(offset..offset + 16)?.try_into().ok()?,
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

    /// Returns the chunks that the commit names, by number and generation.
    pub(crate) fn named(&self) -> impl Iterator<Item = (u64, Generation)> {
        (0..)
            .zip(&self.chunks)
            .filter_map(|(i, chunk)| Some((i, (*chunk)?.generation)))
    }

    /// Returns the chunks that this commit names and `other` does not.
    pub(crate) fn named_beside(&self, other: &Self) -> Vec<(u64, Generation)> {
        let kept: std::collections::BTreeSet<_> = other.named().collect();
        self.named().filter(|chunk| !kept.contains(chunk)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ShareNum, StorageIndex};
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
            let id = ShareId { index: StorageIndex(index), share: ShareNum(share) };
            let mut bytes = commit.encode(&key, id);
            prop_assert_eq!(Commit::decode(&bytes, &key, id), Some(commit));
            prop_assert_eq!(Commit::decode(&bytes, &key, ShareId { share: ShareNum(share.wrapping_add(1)), ..id }), None);
            prop_assert_eq!(Commit::decode(&bytes, &[7; 32], id), None);
            let at = flip.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Commit::decode(&bytes, &key, id), None);
            bytes.truncate(at);
            prop_assert_eq!(Commit::decode(&bytes, &key, id), None);
        }
    }
}
