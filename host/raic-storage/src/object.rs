//! The names of a share's objects in a cloud.
//!
//! An immutable share `SHNUM` of `SI` is the objects `shares/ST/SI/SHNUM` (chunk 0) and
//! `shares/ST/SI/SHNUM.i` (every later chunk i). `ST` is the first two characters of `SI`. A
//! mutable share is chunks `SHNUM.i.G` and commits `SHNUM.v.G`, and `G` is a [`Generation`].
//! Source: the RAIC specification's mapping of shares to objects.
//!
//! **Invariant:** names are matched whole: share 1 is not share 10.

use std::{fmt, str::FromStr};

use raic_cloud::ObjectKey;

use crate::{ShareId, ShareNum, StorageIndex};

/// The generation of a write to a mutable share. Later writes have higher generations, also across
/// restarts, lost databases and hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Epoch of the database that wrote.
    pub epoch: u32,
    /// The clock in microseconds since 1970, or one more than that of the last generation if that
    /// is greater.
    pub micros: u64,
    /// Random number that distinguishes two hosts that write in one microsecond.
    pub random: u32,
}

impl Generation {
    /// Length of a stored generation, in bytes.
    pub(crate) const LEN: usize = 16;

    /// Encodes the generation as it is stored. The bytes sort as the generations do.
    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.micros.to_be_bytes());
        bytes[12..].copy_from_slice(&self.random.to_be_bytes());
        bytes
    }

    /// Decodes a stored generation.
    pub(crate) fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let whole = u128::from_be_bytes(bytes);
        // Each cast cuts the number to its field's width.
        Self {
            epoch: (whole >> 96) as u32,
            micros: (whole >> 32) as u64,
            random: whole as u32,
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:08x}{:016x}{:08x}",
            self.epoch, self.micros, self.random
        )
    }
}

impl FromStr for Generation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let whole = u128::from_str_radix(text, 16).map_err(drop)?;
        let generation = Self::from_bytes(whole.to_be_bytes());
        if generation.to_string() == text {
            Ok(generation)
        } else {
            Err(())
        }
    }
}

/// One object of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ShareObject {
    /// A chunk of an immutable share, by its number.
    Chunk(u64),
    /// A chunk of a mutable share, by its number and the generation that wrote it.
    MutableChunk(u64, Generation),
    /// A commit of a mutable share, by its generation.
    Commit(Generation),
}

impl ShareObject {
    /// Makes the key of this object of a share.
    pub(crate) fn key(self, id: ShareId) -> ObjectKey {
        let ShareId { index, share } = id;
        let prefix = shareset_prefix(index);
        let name = match self {
            Self::Chunk(0) => format!("{prefix}{share}"),
            Self::Chunk(i) => format!("{prefix}{share}.{i}"),
            Self::MutableChunk(i, generation) => format!("{prefix}{share}.{i}.{generation}"),
            Self::Commit(generation) => format!("{prefix}{share}.v.{generation}"),
        };
        #[allow(
            clippy::expect_used,
            reason = "letters, digits, dots and slashes; at most 100 bytes"
        )]
        ObjectKey::new(name).expect("an object's name is a key")
    }

    /// Reads a name below a shareset as a share number and an object; `None` if the name is not the
    /// name of a share's object.
    pub(crate) fn parse(name: &str) -> Option<(ShareNum, Self)> {
        let mut parts = name.split('.');
        let share = ShareNum(parts.next()?.parse().ok()?);
        let object = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => Self::Chunk(0),
            (Some(i), None, _) => Self::Chunk(i.parse().ok().filter(|i| *i > 0)?),
            (Some("v"), Some(generation), None) => Self::Commit(generation.parse().ok()?),
            (Some(i), Some(generation), None) => {
                Self::MutableChunk(i.parse().ok()?, generation.parse().ok()?)
            }
            _ => return None,
        };
        // A number has only one form in which it may be written.
        let index = StorageIndex([0; 16]);
        let key = object.key(ShareId { index, share });
        let is_canonical = key.as_str().strip_prefix(&shareset_prefix(index)) == Some(name);
        is_canonical.then_some((share, object))
    }
}

/// Returns the beginning of the keys of a shareset's objects.
pub(crate) fn shareset_prefix(index: StorageIndex) -> String {
    let index = index.to_string();
    format!("shares/{}/{index}/", &index[..2])
}

/// Reads a key below `shares/` as a share and an object; `None` if it is not the key of one.
pub(crate) fn parse_key(key: &ObjectKey) -> Option<(ShareId, ShareObject)> {
    let mut parts = key.as_str().strip_prefix("shares/")?.splitn(3, '/');
    let (prefix, index, name) = (parts.next()?, parts.next()?, parts.next()?);
    let (share, object) = ShareObject::parse(name)?;
    let is_canonical = index.get(..2) == Some(prefix);
    let index = index.parse().ok()?;
    is_canonical.then_some((ShareId { index, share }, object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const G: &str = "0000000100000000000000ff0000000a";

    #[test]
    fn objects_have_the_specifications_names() {
        let index: StorageIndex = "abcdefghijklmnopqrstuvwxya".parse().unwrap();
        let generation: Generation = G.parse().unwrap();
        assert_eq!(
            generation,
            Generation {
                epoch: 1,
                micros: 255,
                random: 10
            }
        );
        for (object, name) in [
            (ShareObject::Chunk(0), "10".to_owned()),
            (ShareObject::Chunk(7), "10.7".to_owned()),
            (
                ShareObject::MutableChunk(0, generation),
                format!("10.0.{G}"),
            ),
            (ShareObject::Commit(generation), format!("10.v.{G}")),
        ] {
            let key = object.key(ShareId {
                index,
                share: ShareNum(10),
            });
            assert_eq!(key.as_str(), format!("shares/ab/{index}/{name}"));
            assert_eq!(
                parse_key(&key),
                Some((
                    ShareId {
                        index,
                        share: ShareNum(10)
                    },
                    object
                ))
            );
        }
    }

    #[test]
    fn only_whole_names_are_objects() {
        for other in [
            "",
            "01",
            "+1",
            "1.",
            "1.0",
            "1.03",
            "1.2.3",
            "256",
            "x",
            "1.v.3",
            "1.v",
            "1.v.",
            &format!("1.v.{G}.x"),
            &format!("1.v.0{G}"),
            &format!("1.01.{G}"),
            &format!("1.x.{G}"),
            &format!("1.v.{}", G.to_uppercase()),
        ] {
            assert_eq!(ShareObject::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn generations_are_stored_in_their_order(a: (u32, u64, u32), b: (u32, u64, u32)) {
            let of = |(epoch, micros, random)| Generation { epoch, micros, random };
            let (a, b) = (of(a), of(b));
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(Generation::from_bytes(a.to_bytes()), a);
            prop_assert_eq!(a.to_string().parse(), Ok(a));
        }

        #[test]
        fn a_name_that_is_no_objects_is_none(name in "[0-9v.a-f]{0,45}") {
            if let Some((share, object)) = ShareObject::parse(&name) {
                let key = object.key(ShareId { index: StorageIndex([0; 16]), share });
                let written = key.as_str().rsplit('/').next();
                prop_assert_eq!(written, Some(&*name));
            }
        }
    }
}
