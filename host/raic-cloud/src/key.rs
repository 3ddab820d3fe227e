//! Keys: the names of objects.

use std::{fmt, sync::Arc};

/// Longest object key, in bytes.
pub const MAX_KEY_LEN: usize = 512;
/// Longest segment of a key, in bytes: some services and file systems take no longer names.
pub(crate) const MAX_SEGMENT_LEN: usize = 200;

/// The name of an object: 1 to 512 bytes of `[A-Za-z0-9._/-]`. Slashes divide it into segments. No
/// segment is empty, `.`, `..` or longer than 200 bytes.
///
/// The host chooses keys so that no key is a folder of another. So every provider can hold them,
/// also a provider that maps keys to paths.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(Arc<str>);

/// A text that is not an [`ObjectKey`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an object key: use 1 to 512 bytes of [A-Za-z0-9._/-] in segments of 1 to 200, \
     none of them \".\" or \"..\""
)]
pub struct InvalidKey(pub String);

impl ObjectKey {
    /// Makes a key of a text, if the text is one.
    ///
    /// # Errors
    /// [`InvalidKey`] if the text is not an object key.
    pub fn new(key: impl AsRef<str>) -> Result<Self, InvalidKey> {
        let key = key.as_ref();
        let good = (1..=MAX_KEY_LEN).contains(&key.len())
            && key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-'))
            && key.split('/').all(|segment| {
                segment.len() <= MAX_SEGMENT_LEN && !matches!(segment, "" | "." | "..")
            });
        if good {
            Ok(Self(key.into()))
        } else {
            Err(InvalidKey(key.to_owned()))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_share_names_and_refuses_paths_that_escape() {
        assert!(ObjectKey::new("shares/aa/aaaaaaaaaaaaaaaaaaaaaaaaaa/0.17").is_ok());
        for bad in [
            "", "/", "a//b", "/a", "a/", "a/../b", ".", "a/./b", "a b", "ä", "a\\b", "a%2fb",
        ] {
            assert!(ObjectKey::new(bad).is_err(), "{bad:?}");
        }
        let segments =
            |last: usize| [&*"a".repeat(200), &*"b".repeat(200), &*"c".repeat(last)].join("/");
        assert!(ObjectKey::new(segments(110)).is_ok(), "512 bytes");
        assert!(ObjectKey::new(segments(111)).is_err(), "513");
        assert!(
            ObjectKey::new("a".repeat(201)).is_err(),
            "a segment too long"
        );
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_what_it_takes(text in "\\PC{0,40}") {
            if let Ok(key) = ObjectKey::new(&text) {
                prop_assert_eq!(key.as_str(), text);
            }
        }
    }
}
