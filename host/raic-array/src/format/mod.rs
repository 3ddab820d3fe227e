//! Share format v1: the layout of a share. `docs/share-format.md` describes it byte by byte.
//!
//! ```text
//! header | group 0: blocks, hash page | group 1: blocks, hash page | ... | trailer
//! ```
//!
//! A stream's content, padded, is cut into segments, and its manifest into some more. Each segment
//! is sealed and gives one block to every share. After every [`GROUP`] blocks follows a page of
//! their hashes. So neither writer nor reader ever holds the hashes of a whole share. The root of a
//! share is a hash over its header and the hashes of its pages. The trailer has the roots of all
//! shares, and the stream's key, wrapped with all of that as additional data: a key that opens
//! proves header, lengths and roots. Numbers are big-endian.

mod header;
mod layout;
mod padding;
mod trailer;

pub use header::{Header, Role};
pub use layout::{Layout, block_length};
pub use padding::Padding;
pub(crate) use trailer::proof;
pub use trailer::{KeyId, Trailer, WrappedKey};

/// Length of the header, in bytes.
pub const HEADER: u64 = 64;
/// Number of blocks that share a hash page.
pub const GROUP: u64 = 256;
/// Length of a hash, in bytes.
pub const HASH: usize = 32;
/// Bytes that sealing adds to a segment.
pub const TAG: u64 = 16;
/// Length of a wrapped key, in bytes: 32 bytes and a tag.
pub const WRAPPED_KEY: usize = 48;
/// Longest segment, in bytes.
pub const MAX_SEGMENT: u32 = 4 << 20;
/// Longest content of a stream, padded, in bytes. A longer file has several extents, each with a
/// stream of its own.
pub const MAX_STREAM: u64 = 1 << 30;
/// Longest manifest, in bytes.
pub const MAX_MANIFEST: u32 = 64 << 20;
/// Manifests are padded to a multiple of so many bytes.
pub const MANIFEST_UNIT: u32 = 256;
/// Most shares of a stream.
pub const MAX_SHARES: u8 = 32;

/// Length of the end of every share, in bytes: trailer hash, trailer length, magic. By them a share
/// can be read without a catalog.
const FOOTER: usize = HASH + 8 + 8;

/// A BLAKE3 hash.
pub type Hash = [u8; HASH];

/// The number of shares that a stream has, and the number that suffice to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of shares that suffice to read the stream.
    pub k: u8,
    /// Number of shares that the stream has.
    pub n: u8,
}

impl Geometry {
    /// Returns whether streams can have this geometry: k < n <= 32, or whole copies (k = 1).
    pub fn is_possible(self) -> bool {
        self.k >= 1 && self.n <= MAX_SHARES && (self.k < self.n || (self.k == 1 && self.n == 1))
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
