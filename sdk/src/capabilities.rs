//! What a service can do, in the words that the host knows.

use crate::{ErrorKind, Extra, Result, error};

/// What a service does with a create-only put, which must not replace an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOnly {
    /// Of writers that race to create a key, exactly one wins.
    Native,
    /// A later writer is refused, but of writers that race several may win.
    Emulated,
    /// The put overwrites the object.
    None,
}

impl CreateOnly {
    /// Reads the word of a setting: `native`, `emulated` or `none`.
    ///
    /// # Errors
    /// `misconfigured` for any other word.
    pub fn of_setting(name: &str, word: &str) -> Result<Self> {
        match word {
            "native" => Ok(Self::Native),
            "emulated" => Ok(Self::Emulated),
            "none" => Ok(Self::None),
            _ => Err(error(
                ErrorKind::Misconfigured,
                format!("{name}: {word:?} is not native, emulated or none"),
            )),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Emulated => "emulated",
            Self::None => "none",
        }
    }
}

/// The pairs that `describe` returns. State only what is true: `raic connector test` tries it.
///
/// ```
/// use raic_sdk::{Capabilities, CreateOnly};
///
/// let described = Capabilities::new(CreateOnly::Native)
///     .if_match()
///     .ordered()
///     .strong()
///     .max_object_size(5 << 30)
///     .describe();
/// assert_eq!(described[0], ("create-only".to_owned(), "native".to_owned()));
/// assert!(described.contains(&("max-object-size".to_owned(), "5368709120".to_owned())));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Capabilities(Extra);

impl Capabilities {
    /// Capabilities of a service that treats create-only puts so, and has no other ability.
    pub fn new(create_only: CreateOnly) -> Self {
        Self(Extra::new()).with("create-only", create_only.word())
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// States that a put takes an etag as its condition, atomically. Get and delete take one in any
    /// case.
    pub fn if_match(self) -> Self {
        self.with("if-match", "native")
    }

    /// States that the pages of a listing come in the order of their keys' bytes.
    pub fn ordered(self) -> Self {
        self.with("ordered-list", "yes")
    }

    /// States that what was written is read and listed at once.
    pub fn strong(self) -> Self {
        self.with("consistency", "strong")
    }

    /// States that what was written may not be read or listed until some time later.
    pub fn eventual(self) -> Self {
        self.with("consistency", "eventual")
    }

    /// States the largest object that one put takes, in bytes; 1 MiB or more.
    pub fn max_object_size(self, bytes: u64) -> Self {
        self.with("max-object-size", &bytes.to_string())
    }

    /// Returns the pairs as the contract has them.
    #[must_use]
    pub fn describe(self) -> Extra {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_says_how_objects_are_created() {
        for way in [CreateOnly::Native, CreateOnly::Emulated, CreateOnly::None] {
            assert_eq!(CreateOnly::of_setting("x", way.word()).unwrap(), way);
        }
        let e = CreateOnly::of_setting("create-only", "maybe").unwrap_err();
        assert_eq!(e.kind, ErrorKind::Misconfigured);
        assert!(e.message.contains("create-only"), "{}", e.message);
    }
}
