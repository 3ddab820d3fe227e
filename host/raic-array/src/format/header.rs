//! The header of a share.

use raic_storage::{ShareNum, StorageIndex};

use super::{Geometry, HEADER, MAX_SEGMENT};

const MAGIC: &[u8; 8] = b"RAICSHR1";

/// What a stream is for. Every seal of the stream is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One extent of one file.
    File,
    /// A group of the log.
    Log,
    /// A part of a snapshot of the catalog.
    Snapshot,
}

impl Role {
    /// The number that stands for the role.
    pub fn number(self) -> u8 {
        match self {
            Self::File => 0,
            Self::Log => 1,
            Self::Snapshot => 2,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::File, Self::Log, Self::Snapshot]
            .into_iter()
            .find(|role| role.number() == number)
    }
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
    /// What the stream is for.
    pub role: Role,
    /// Bytes of content in a segment.
    pub segment_size: u32,
    /// Flags of features that a reader may ignore. This version writes none.
    pub may_ignore: u64,
}

impl Header {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER as usize] {
        let mut out = [0; HEADER as usize];
        let Geometry { k, n } = self.geometry;
        out[..8].copy_from_slice(MAGIC);
        out[8..24].copy_from_slice(&self.array);
        out[24..40].copy_from_slice(&self.index.0);
        out[40..44].copy_from_slice(&[self.share.0, k, n, self.role.number()]);
        out[44..48].copy_from_slice(&self.segment_size.to_be_bytes());
        // 48..56 has the flags of features that a reader must understand. There are none yet.
        out[56..].copy_from_slice(&self.may_ignore.to_be_bytes());
        out
    }

    /// Decodes a header; `None` if the bytes are not a header that this version understands.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER as usize] = bytes.try_into().ok()?;
        let header = Self {
            array: bytes[8..24].try_into().ok()?,
            index: StorageIndex(bytes[24..40].try_into().ok()?),
            share: ShareNum(bytes[40]),
            geometry: Geometry {
                k: bytes[41],
                n: bytes[42],
            },
            role: Role::of(bytes[43])?,
            segment_size: u32::from_be_bytes(bytes[44..48].try_into().ok()?),
            may_ignore: u64::from_be_bytes(bytes[56..].try_into().ok()?),
        };
        let is_sound = header.geometry.is_possible()
            && header.share.0 < header.geometry.n
            && (1..=MAX_SEGMENT).contains(&header.segment_size);
        (is_sound && header.encode() == *bytes).then_some(header)
    }

    /// Encodes what all shares of the stream have in common.
    pub(super) fn of_stream(&self) -> [u8; HEADER as usize] {
        Self {
            share: ShareNum(0),
            ..*self
        }
        .encode()
    }
}
