//! The names of shares: storage index, share number, and spans of storage indexes.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};

/// 16 bytes that name the shares of a stream (random bytes) or of a Tahoe file. They are written in
/// lower-case base32 (RFC 4648 alphabet), in 26 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageIndex(pub [u8; 16]);

fn base32() -> Encoding {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("abcdefghijklmnopqrstuvwxyz234567");
    #[allow(clippy::unwrap_used, reason = "a constant, which a test reads back")]
    specification.encoding().unwrap()
}

impl StorageIndex {
    /// Makes a new storage index from the system's random numbers.
    ///
    /// # Errors
    /// Fails if the system gives no random numbers.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for StorageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.0))
    }
}

impl fmt::Debug for StorageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageIndex({self})")
    }
}

impl FromStr for StorageIndex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = base32()
            .decode(text.as_bytes())
            .ok()
            .and_then(|b| b.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a storage index: 26 characters of a-z and 2-7"))
    }
}

/// The id of a share: its storage index and share number, without its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareId {
    /// Storage index that the share belongs to.
    pub index: StorageIndex,
    /// Number of the share among those of its storage index.
    pub share: ShareNum,
}

/// Writes the id as `share 3 of STORAGE-INDEX`, for messages.
impl fmt::Display for ShareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "share {} of {}", self.share, self.index)
    }
}

/// The first two characters of a storage index: `ST` in `shares/ST/`. Long walks go from prefix to
/// prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexPrefix(u16);

impl IndexPrefix {
    /// The number of all prefixes.
    pub const COUNT: u16 = 1024;

    /// Returns all prefixes in order, from number `first` on.
    pub fn all_from(first: u16) -> impl Iterator<Item = Self> {
        (first..Self::COUNT).map(Self)
    }

    /// The prefix's place among all prefixes, from 0.
    pub fn number(self) -> u16 {
        self.0
    }

    /// Returns the first and the last storage index that begin with the prefix.
    pub fn bounds(self) -> (StorageIndex, StorageIndex) {
        let bound = |fill: u8| {
            let mut bytes = [fill; 16];
            let head = (self.0 << 6) | u16::from(fill & 0x3f);
            bytes[..2].copy_from_slice(&head.to_be_bytes());
            StorageIndex(bytes)
        };
        (bound(0), bound(0xff))
    }
}

impl From<StorageIndex> for IndexPrefix {
    fn from(index: StorageIndex) -> Self {
        Self(u16::from_be_bytes([index.0[0], index.0[1]]) >> 6)
    }
}

impl fmt::Display for IndexPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bounds().0.to_string()[..2])
    }
}

/// The storage indexes that a walk looks at in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All storage indexes.
    Whole,
    /// The storage indexes that begin with a prefix.
    Below(IndexPrefix),
}

impl Span {
    /// Returns the first and the last storage index within the span.
    pub fn bounds(self) -> (StorageIndex, StorageIndex) {
        match self {
            Self::Whole => (StorageIndex([0; 16]), StorageIndex([0xff; 16])),
            Self::Below(prefix) => prefix.bounds(),
        }
    }

    /// Returns whether a storage index lies within the span.
    pub fn holds(self, index: StorageIndex) -> bool {
        match self {
            Self::Whole => true,
            Self::Below(prefix) => IndexPrefix::from(index) == prefix,
        }
    }
}

/// The number of a share, 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareNum(pub u8);

impl fmt::Display for ShareNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_storage_index_reads_as_it_is_written(bytes: [u8; 16]) {
            let text = StorageIndex(bytes).to_string();
            prop_assert_eq!(text.len(), 26);
            prop_assert_eq!(text.parse(), Ok(StorageIndex(bytes)));
        }

        #[test]
        fn a_prefix_bounds_the_indexes_that_begin_so(bytes: [u8; 16]) {
            let index = StorageIndex(bytes);
            let prefix = IndexPrefix::from(index);
            prop_assert_eq!(&index.to_string()[..2], prefix.to_string());
            let (first, last) = prefix.bounds();
            prop_assert!(first <= index && index <= last);
            prop_assert_eq!(IndexPrefix::from(first), prefix);
            prop_assert_eq!(IndexPrefix::from(last), prefix);
        }

        #[test]
        fn what_is_no_storage_index_is_refused(text in "\\PC{0,40}") {
            if let Ok(index) = text.parse::<StorageIndex>() {
                prop_assert_eq!(index.to_string(), text);
            }
        }
    }
}
