//! Seals and opens the segments of a stream.

use raic_storage::StorageIndex;
use ring::aead::{Aad, LessSafeKey, Nonce};

use crate::{
    ArrayError, Result,
    format::Role,
    keyring::{Key, aead},
};

const FORMAT: u8 = 1;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Content,
    Manifest,
}

/// Seals and opens the segments of one stream.
///
/// The nonce is the segment's number, with a mark on those of the manifest. The key is the stream's
/// own. So no pair of key and nonce is used twice, and segments cannot be swapped or replayed. How
/// many there are is proved by the wrapped key.
pub(crate) struct Sealer {
    key: LessSafeKey,
    associated: [u8; 38],
}

impl Sealer {
    pub(crate) fn new(key: &Key, array: &[u8; 16], index: StorageIndex, role: Role) -> Self {
        let mut associated = [0; 38];
        associated[..4].copy_from_slice(b"RAIC");
        associated[4..6].copy_from_slice(&[FORMAT, role.number()]);
        associated[6..22].copy_from_slice(array);
        associated[22..].copy_from_slice(&index.0);
        Self {
            key: aead(key),
            associated,
        }
    }

    fn nonce(segment: u64, part: Part) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&segment.to_be_bytes());
        nonce[11] = u8::from(part == Part::Manifest);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals a segment in place and adds its tag.
    pub(crate) fn seal(&self, segment: u64, part: Part, bytes: &mut Vec<u8>) -> Result<()> {
        self.key
            .seal_in_place_append_tag(
                Self::nonce(segment, part),
                Aad::from(self.associated),
                bytes,
            )
            .map_err(|_| ArrayError::Keyring)
    }

    /// Opens a segment in place; `None` if any byte differs from the sealed one.
    pub(crate) fn open<'a>(
        &self,
        segment: u64,
        part: Part,
        sealed: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let nonce = Self::nonce(segment, part);
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(self.associated), sealed);
        opened.ok().map(|content| &*content)
    }
}
