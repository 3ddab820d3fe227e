//! Keys. The recovery key opens the keyring, the keyring holds the array's keys, and these wrap the
//! key of every stream.

use raic_storage::StorageIndex;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{self, HKDF_SHA256, Salt},
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    ArrayError, RecoveryKey,
    format::{KeyId, WRAPPED_KEY, WrappedKey},
};

pub(crate) const KEY: usize = 32;
const NONCE: usize = 12;
const SEALED_MAGIC: &[u8; 8] = b"RAICKEY1";

/// A key of 256 bits.
pub type Key = Zeroizing<[u8; KEY]>;

/// What becomes of the identity secret when the array's key is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Keys, ids and secrets of the doors stay.
    Kept,
    /// They are all others.
    New,
}

/// The keyring: all generations of the array's key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Keyring {
    /// Id of the array, 16 random bytes.
    pub array: [u8; 16],
    /// The generations of the array's key, oldest first. Generation g is at index g - 1.
    generations: Vec<Generation>,
    /// The secret that identities are derived from: keys, ids and passwords of the doors. A new
    /// generation leaves it alone.
    identity: Key,
}

/// One generation of the array's key.
#[derive(Clone, Serialize, Deserialize)]
struct Generation {
    /// Random id, by which shares name the generation.
    id: [u8; 16],
    key: Key,
}

impl Generation {
    fn generate() -> Result<Self, ArrayError> {
        Ok(Self {
            id: random()?,
            key: stream_key()?,
        })
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring")
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// The number of bytes that HKDF is asked for.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], ArrayError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ArrayError::Randomness)?;
    Ok(bytes)
}

/// Derives a key for one purpose (HKDF-SHA-256, RFC 5869).
fn derive(key: &[u8; KEY], salt: &[u8], purpose: &str) -> LessSafeKey {
    let mut derived = Zeroizing::new([0; KEY]);
    #[allow(clippy::expect_used, reason = "32 bytes is a length that both take")]
    {
        let pseudorandom = Salt::new(HKDF_SHA256, salt).extract(key);
        let info = [purpose.as_bytes()];
        let expanded = pseudorandom
            .expand(&info, hkdf::HKDF_SHA256)
            .expect("one block");
        expanded.fill(&mut *derived).expect("one block");
        aead(&derived)
    }
}

pub(crate) fn aead(key: &[u8; KEY]) -> LessSafeKey {
    #[allow(clippy::expect_used, reason = "the key's length is the type's")]
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes"))
}

/// Makes a new random key for one stream.
pub(crate) fn stream_key() -> Result<Key, ArrayError> {
    Ok(Zeroizing::new(random()?))
}

impl Keyring {
    /// Makes the keyring of a new array, with its first generation.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Randomness`] if the system gives no random numbers.
    pub fn generate() -> Result<Self, ArrayError> {
        Ok(Self {
            array: random()?,
            generations: vec![Generation::generate()?],
            identity: stream_key()?,
        })
    }

    /// Derives the key that authenticates owner objects of containers and commits of mutable
    /// shares. It comes from the first generation, so that it never changes.
    pub fn owner_key(&self) -> [u8; KEY] {
        let mut key = [0; KEY];
        let first = self.generations.first().map_or(&[][..], |g| &*g.key);
        #[allow(clippy::expect_used, reason = "32 bytes is a length that HKDF takes")]
        {
            let pseudorandom = Salt::new(HKDF_SHA256, &self.array).extract(first);
            let expanded = pseudorandom
                .expand(&[b"RAIC container owner v1"], hkdf::HKDF_SHA256)
                .expect("one block");
            expanded.fill(&mut key).expect("one block");
        }
        key
    }

    /// Derives `N` bytes of an identity for one purpose, by HKDF-SHA-256 (RFC 5869). `parts` say
    /// which identity of that purpose it is, such as a cloud's number. What is derived is there
    /// again after a lost host, and changes only with the parts.
    pub fn identity<const N: usize>(&self, purpose: &str, parts: &[u32]) -> Zeroizing<[u8; N]> {
        let mut derived = Zeroizing::new([0; N]);
        let salt = [&b"RAIC identity v1"[..], &self.array].concat();
        let parts: Vec<u8> = parts.iter().flat_map(|part| part.to_be_bytes()).collect();
        // The purpose ends with a zero, so that no purpose and parts equal others.
        let info = [purpose.as_bytes(), &[0], &parts];
        #[allow(
            clippy::expect_used,
            reason = "HKDF gives up to 8160 bytes, and N is 64 at most"
        )]
        {
            const { assert!(N <= 64) };
            let pseudorandom = Salt::new(HKDF_SHA256, &salt).extract(&self.identity[..]);
            let expanded = pseudorandom
                .expand(&info, Length(N))
                .expect("64 bytes at most");
            expanded.fill(&mut *derived).expect("as long as asked for");
        }
        derived
    }

    /// Returns this keyring with one generation more, which wraps the keys of new streams.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Randomness`] if the system gives no random numbers.
    pub fn rotated(&self, identity: Identity) -> Result<Self, ArrayError> {
        let mut rotated = self.clone();
        rotated.generations.push(Generation::generate()?);
        if identity == Identity::New {
            rotated.identity = stream_key()?;
        }
        Ok(rotated)
    }

    /// Returns whether another keyring derives the same identities.
    pub fn has_identity_of(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Returns the number of the newest generation, 1 or more.
    pub fn generation(&self) -> u32 {
        u32::try_from(self.generations.len()).unwrap_or(u32::MAX)
    }

    /// Seals the keyring for the clouds. Only the recovery key opens it.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Randomness`] if the system gives no random numbers.
    pub fn seal(&self, recovery: &RecoveryKey) -> Result<Vec<u8>, ArrayError> {
        let nonce: [u8; NONCE] = random()?;
        let mut text = serde_json::to_vec(self).map_err(|_| ArrayError::Keyring)?;
        let key = derive(recovery.key(), SEALED_MAGIC, "RAIC keyring v1");
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(SEALED_MAGIC),
            &mut text,
        )
        .map_err(|_| ArrayError::Keyring)?;
        Ok([SEALED_MAGIC, &nonce[..], &text].concat())
    }

    /// Opens a keyring that [`Keyring::seal`] sealed.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Keyring`] if the recovery key is another one or a byte has changed.
    pub fn open(sealed: &[u8], recovery: &RecoveryKey) -> Result<Self, ArrayError> {
        let rest = sealed
            .strip_prefix(SEALED_MAGIC)
            .ok_or(ArrayError::Keyring)?;
        let (nonce, text) = rest.split_at_checked(NONCE).ok_or(ArrayError::Keyring)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| ArrayError::Keyring)?;
        let mut text = Zeroizing::new(text.to_vec());
        let key = derive(recovery.key(), SEALED_MAGIC, "RAIC keyring v1");
        let text = key
            .open_in_place(nonce, Aad::from(SEALED_MAGIC), &mut text)
            .map_err(|_| ArrayError::Keyring)?;
        Self::from_json(text)
    }

    /// Reads a keyring in the form in which the host keeps it.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Keyring`] if the text is not a keyring.
    pub fn from_json(text: &[u8]) -> Result<Self, ArrayError> {
        let keyring: Self = serde_json::from_slice(text).map_err(|_| ArrayError::Keyring)?;
        if keyring.generations.is_empty() {
            Err(ArrayError::Keyring)
        } else {
            Ok(keyring)
        }
    }

    /// Writes the keyring in the form in which the host keeps it.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Returns the ids of all generations, the newest first.
    pub(crate) fn ids(&self) -> Vec<KeyId> {
        self.generations.iter().rev().map(|g| KeyId(g.id)).collect()
    }

    /// Returns the id of the newest generation.
    pub(crate) fn newest(&self) -> KeyId {
        self.generations
            .last()
            .map_or(KeyId([0; 16]), |g| KeyId(g.id))
    }

    /// Wraps a stream's key with a generation. `proof` is what the wrapped key proves: it opens
    /// only with the same bytes.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Keyring`] if there is no such generation.
    pub(crate) fn wrap(
        &self,
        id: KeyId,
        index: StorageIndex,
        key: &Key,
        proof: &[u8],
    ) -> Result<WrappedKey, ArrayError> {
        self.wrap_with(id, index, key, proof, random()?)
    }

    pub(crate) fn wrap_with(
        &self,
        id: KeyId,
        index: StorageIndex,
        key: &Key,
        proof: &[u8],
        nonce: [u8; NONCE],
    ) -> Result<WrappedKey, ArrayError> {
        let generation = self.generations.iter().find(|g| g.id == id.0);
        let generation = generation.ok_or(ArrayError::Keyring)?;
        let mut sealed = key.to_vec();
        wrapping_key(generation, index)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(proof),
                &mut sealed,
            )
            .map_err(|_| ArrayError::Keyring)?;
        let sealed: [u8; WRAPPED_KEY] = sealed.try_into().map_err(|_| ArrayError::Keyring)?;
        Ok(WrappedKey { id, nonce, sealed })
    }

    /// Unwraps a stream's key.
    ///
    /// # Errors
    /// Fails with [`ArrayError::WrongKey`] if the keyring lacks the generation that wrapped it, or
    /// `proof` is not what the key was wrapped with.
    pub(crate) fn unwrap(
        &self,
        index: StorageIndex,
        wrapped: &WrappedKey,
        proof: &[u8],
    ) -> Result<Key, ArrayError> {
        let wrong = || ArrayError::WrongKey {
            index,
            key: wrapped.id,
        };
        let generation = self.generations.iter().find(|g| g.id == wrapped.id.0);
        let generation = generation.ok_or_else(wrong)?;
        let mut sealed = Zeroizing::new(wrapped.sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(wrapped.nonce);
        let key =
            wrapping_key(generation, index).open_in_place(nonce, Aad::from(proof), &mut sealed);
        let key = key.map_err(|_| wrong())?;
        let key: &[u8; KEY] = (&*key).try_into().map_err(|_| wrong())?;
        Ok(Zeroizing::new(*key))
    }
}

/// Derives the key that wraps one stream's key.
fn wrapping_key(generation: &Generation, index: StorageIndex) -> LessSafeKey {
    derive(&generation.key, &index.0, "RAIC stream key v1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_recovery_key_opens_the_keyring() {
        let (keyring, key) = (
            Keyring::generate().unwrap(),
            RecoveryKey::generate().unwrap(),
        );
        let sealed = keyring.seal(&key).unwrap();
        assert_eq!(
            Keyring::open(&sealed, &key).unwrap().to_json(),
            keyring.to_json()
        );
        assert!(Keyring::open(&sealed, &RecoveryKey::generate().unwrap()).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(Keyring::open(&changed, &key).is_err(), "{at}");
        }
    }

    #[test]
    fn identities_differ_by_purpose_and_parts_and_stay_with_the_keyring() {
        let keyring = Keyring::generate().unwrap();
        let again = Keyring::from_json(&keyring.to_json()).unwrap();
        let all = [
            ("a", &[1, 2][..]),
            ("a", &[1, 3]),
            ("a", &[1]),
            ("ab", &[1, 2]),
            ("b", &[1, 2]),
        ];
        let derive = |keyring: &Keyring| all.map(|(what, of)| *keyring.identity::<32>(what, of));
        assert_eq!(derive(&keyring), derive(&again));
        let different: std::collections::BTreeSet<_> = derive(&keyring).into();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn a_rotated_keyring_opens_what_was_sealed_before_and_seals_with_another_key() {
        let (first, key) = (Keyring::generate().unwrap(), stream_key().unwrap());
        let (index, other) = (StorageIndex([1; 16]), StorageIndex([2; 16]));
        let old = first.wrap(first.newest(), index, &key, b"").unwrap();
        let rotated = first.rotated(Identity::Kept).unwrap();
        assert_eq!(rotated.generation(), 2);
        assert_eq!(*rotated.unwrap(index, &old, b"").unwrap(), *key);
        let new = rotated.wrap(rotated.newest(), other, &key, b"").unwrap();
        assert_ne!(new.id, old.id);
        assert!(first.unwrap(other, &new, b"").is_err());
        assert_eq!(rotated.owner_key(), first.owner_key());
        let identity = |keyring: &Keyring| *keyring.identity::<32>("a", &[]);
        assert_eq!(identity(&rotated), identity(&first));
        assert_ne!(
            identity(&first.rotated(Identity::New).unwrap()),
            identity(&first)
        );
    }

    #[test]
    fn a_wrapped_key_belongs_to_its_stream_its_generation_and_what_it_proves() {
        let (keyring, key) = (Keyring::generate().unwrap(), stream_key().unwrap());
        let (a, b) = (StorageIndex([1; 16]), StorageIndex([2; 16]));
        let wrapped = keyring.wrap(keyring.newest(), a, &key, b"proof").unwrap();
        assert_eq!(*keyring.unwrap(a, &wrapped, b"proof").unwrap(), *key);
        assert!(keyring.unwrap(b, &wrapped, b"proof").is_err());
        assert!(keyring.unwrap(a, &wrapped, b"other").is_err());
        let mut changed = wrapped;
        changed.nonce[0] ^= 1;
        assert!(keyring.unwrap(a, &changed, b"proof").is_err());
        let other = Keyring::generate().unwrap();
        assert!(other.unwrap(a, &wrapped, b"proof").is_err());
        // Two wraps of one key differ: the nonce is random.
        assert_ne!(
            keyring.wrap(keyring.newest(), a, &key, b"proof").unwrap(),
            wrapped
        );
    }
}
