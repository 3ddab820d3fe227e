//! The recovery key, and the two ways in which people write it down.

use bip39::{Language, Mnemonic};
use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use crate::{
    ArrayError,
    keyring::{KEY, Key, random},
};

/// Words of a key that is written in words: 24 stand for 256 bits and a check of 8 (BIP-39).
const WORDS: usize = 24;

/// The recovery key: the one key that a person keeps. With it and the clouds, everything can be
/// rebuilt.
pub struct RecoveryKey(Key);

impl RecoveryKey {
    /// Makes a new random recovery key.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Randomness`] if the system gives no random numbers.
    pub fn generate() -> Result<Self, ArrayError> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    pub(crate) fn key(&self) -> &[u8; KEY] {
        &self.0
    }

    /// Writes the key as a person copies it: groups of letters and digits. The last characters are
    /// a check.
    pub fn to_text(&self) -> Zeroizing<String> {
        let check = blake3::hash(&*self.0);
        let whole = Zeroizing::new([&self.0[..], &check.as_bytes()[..3]].concat());
        let text = Zeroizing::new(BASE32_NOPAD.encode(&whole));
        let groups: Vec<_> = text
            .as_bytes()
            .chunks(7)
            .map(String::from_utf8_lossy)
            .collect();
        Zeroizing::new(groups.join("-"))
    }

    /// Writes the key as a person reads it out or writes it by hand: 24 English words, as BIP-39
    /// has them. A part of the last word is a check.
    pub fn to_words(&self) -> Zeroizing<String> {
        #[allow(
            clippy::expect_used,
            reason = "32 bytes are a length that BIP-39 has words for"
        )]
        let words = Mnemonic::from_entropy(&*self.0).expect("32 bytes");
        let mut text = Zeroizing::new(String::with_capacity(WORDS * 9));
        for word in words.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }

    /// Reads a key that was written down, in either way. Case, dashes and the number of spaces do
    /// not matter.
    ///
    /// # Errors
    /// Fails with [`ArrayError::RecoveryKey`] if the text is not a recovery key, such as one with a
    /// wrong letter.
    pub fn from_text(text: &str) -> Result<Self, ArrayError> {
        let is_between = |c: char| c.is_whitespace() || c == '-';
        let parts = text.split(is_between).filter(|part| !part.is_empty());
        match parts.clone().count() {
            WORDS => {
                let words: Vec<&str> = parts.collect();
                Self::from_words(&Zeroizing::new(words.join(" ")))
            }
            _ => Self::from_groups(text),
        }
    }

    fn from_words(text: &str) -> Result<Self, ArrayError> {
        let words = Zeroizing::new(text.to_lowercase());
        let words = Mnemonic::parse_in_normalized(Language::English, &words);
        let (entropy, length) = words
            .map_err(|_| ArrayError::RecoveryKey)?
            .to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let key = entropy.get(..length).and_then(|key| key.try_into().ok());
        key.map(|key| Self(Zeroizing::new(key)))
            .ok_or(ArrayError::RecoveryKey)
    }

    fn from_groups(text: &str) -> Result<Self, ArrayError> {
        let text: Zeroizing<String> = Zeroizing::new(
            text.chars()
                .filter(|c| c.is_alphanumeric())
                .collect::<String>()
                .to_uppercase(),
        );
        let whole = Zeroizing::new(
            BASE32_NOPAD
                .decode(text.as_bytes())
                .map_err(|_| ArrayError::RecoveryKey)?,
        );
        let key: [u8; KEY] = whole
            .get(..KEY)
            .and_then(|k| k.try_into().ok())
            .ok_or(ArrayError::RecoveryKey)?;
        if whole[KEY..] != blake3::hash(&key).as_bytes()[..3] {
            return Err(ArrayError::RecoveryKey);
        }
        Ok(Self(Zeroizing::new(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_survives_being_written_down(key: [u8; KEY], at in 0..WORDS) {
            let key = RecoveryKey(Zeroizing::new(key));
            let (text, words) = (key.to_text(), key.to_words());
            let read = |text: &str| RecoveryKey::from_text(text).map(|read| *read.0);
            prop_assert_eq!(read(&text).unwrap(), *key.0);
            prop_assert_eq!(read(&text.to_lowercase().replace('-', " ")).unwrap(), *key.0);
            prop_assert_eq!(read(&words).unwrap(), *key.0);
            let typed = format!(" {}\n", words.to_uppercase().replacen(' ', "\n  ", 9).replace(' ', "-"));
            prop_assert_eq!(read(&typed).unwrap(), *key.0);
            // A slip is found: a wrong letter always, a wrong word unless its check fits.
            let first = if text.starts_with('A') { "B" } else { "A" };
            prop_assert!(read(&text.replacen(&text[..1], first, 1)).is_err());
            let mut slip: Vec<&str> = words.split(' ').collect();
            slip[at] = if slip[at] == "zoo" { "able" } else { "zoo" };
            prop_assert!(read(&slip.join(" ")).ok() != Some(*key.0));
            slip[at] = "nobody";
            prop_assert!(read(&slip.join(" ")).is_err());
        }
    }

    /// The words of the standard's own example: <https://github.com/trezor/python-mnemonic>.
    #[test]
    fn words_are_those_of_the_standard() {
        let key = RecoveryKey(Zeroizing::new([0x7f; KEY]));
        assert_eq!(
            &**key.to_words(),
            "legal winner thank year wave sausage worth useful legal winner thank year wave sausage \
             worth useful legal winner thank year wave sausage worth title"
        );
        assert!(RecoveryKey::from_text("").is_err());
        assert!(RecoveryKey::from_text(&"legal ".repeat(24)).is_err());
    }
}
