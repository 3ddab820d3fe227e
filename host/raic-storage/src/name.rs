//! What a share is called.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};

/// 16 random bytes that name a file's shares; written in lower-case base32 (RFC 4648 alphabet), 26
/// characters.
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
    /// A new one, from the system's randomness.
    ///
    /// # Errors
    /// Where the system has none.
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
            .ok_or_else(|| format!("{text:?} is no storage index: 26 characters of a-z and 2-7"))
    }
}

/// The first two characters of storage indexes: `ST` in `shares/ST/`, by which long walks are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexPrefix(u16);

impl IndexPrefix {
    /// How many there are.
    pub const COUNT: u16 = 1024;

    /// All of them, in order, from `first` on.
    pub fn all_from(first: u16) -> impl Iterator<Item = Self> {
        (first..Self::COUNT).map(Self)
    }

    /// Its place among all, from 0.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The first and the last storage index that begin so.
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

/// What a walk looks at in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All shares.
    Whole,
    /// Those whose storage index begins so.
    Below(IndexPrefix),
}

impl Span {
    /// The first and the last storage index within it.
    pub fn bounds(self) -> (StorageIndex, StorageIndex) {
        match self {
            Self::Whole => (StorageIndex([0; 16]), StorageIndex([0xff; 16])),
            Self::Below(prefix) => prefix.bounds(),
        }
    }

    /// Whether a storage index lies within it.
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
