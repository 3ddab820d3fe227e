//! An object's bytes on their way to the provider.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use sha2::Digest;

/// The whole content of one object. The host keeps it for as long as a put may be retried.
///
/// A payload is cheap to clone, because clones share bytes and digests. An object is a chunk, so a
/// payload has at most one chunk (a few MiB); no share and no file is held whole. The bytes stay in
/// the parts in which they were gathered, so assembling a chunk copies nothing.
#[derive(Clone)]
pub struct Payload(Arc<Inner>);

struct Inner {
    parts: Vec<Bytes>,
    size: u64,
    sha256: OnceLock<[u8; 32]>,
    sha1: OnceLock<[u8; 20]>,
    md5: OnceLock<[u8; 16]>,
    crc32c: OnceLock<u32>,
}

/// The digests of a payload that providers ask for. Each is computed once, at its first use.
pub trait Digests {
    /// SHA-256 of the whole content.
    fn sha256(&self) -> [u8; 32];
    /// SHA-1 of the whole content. Backblaze B2 asks for it; RAIC never relies on it.
    fn sha1(&self) -> [u8; 20];
    /// MD5 of the whole content. Old protocols ask for it; RAIC never relies on it.
    fn md5(&self) -> [u8; 16];
    /// CRC-32C (Castagnoli) of the whole content.
    fn crc32c(&self) -> u32;
}

impl Payload {
    /// Makes a payload of parts, which follow each other in this order.
    pub fn from_parts(parts: Vec<Bytes>) -> Self {
        let size = parts.iter().map(|p| p.len() as u64).sum();
        Self(Arc::new(Inner {
            parts,
            size,
            sha256: OnceLock::new(),
            sha1: OnceLock::new(),
            md5: OnceLock::new(),
            crc32c: OnceLock::new(),
        }))
    }

    /// Length of the content in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The content as parts, in order.
    pub fn parts(&self) -> &[Bytes] {
        &self.0.parts
    }

    /// Returns the content in one piece. It copies only if there are several parts.
    pub fn to_bytes(&self) -> Bytes {
        match self.parts() {
            [one] => one.clone(),
            parts => parts.concat().into(),
        }
    }
}

impl Digests for Payload {
    fn sha256(&self) -> [u8; 32] {
        *self.0.sha256.get_or_init(|| {
            let mut hash = sha2::Sha256::new();
            self.parts().iter().for_each(|p| hash.update(p));
            hash.finalize().into()
        })
    }

    fn sha1(&self) -> [u8; 20] {
        *self.0.sha1.get_or_init(|| {
            let mut hash = sha1::Sha1::new();
            self.parts().iter().for_each(|p| hash.update(p));
            hash.finalize().into()
        })
    }

    fn md5(&self) -> [u8; 16] {
        *self.0.md5.get_or_init(|| {
            let mut hash = md5::Md5::new();
            self.parts().iter().for_each(|p| hash.update(p));
            hash.finalize().into()
        })
    }

    fn crc32c(&self) -> u32 {
        *self.0.crc32c.get_or_init(|| {
            self.parts()
                .iter()
                .fold(0, |crc, p| crc32c::crc32c_append(crc, p))
        })
    }
}

impl<T: Into<Bytes>> From<T> for Payload {
    fn from(bytes: T) -> Self {
        Self::from_parts(vec![bytes.into()])
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_do_not_depend_on_how_the_bytes_were_gathered() {
        let whole = Payload::from(&b"123456789"[..]);
        let parts = Payload::from_parts(vec![
            Bytes::from_static(b"1234"),
            Bytes::new(),
            Bytes::from_static(b"56789"),
        ]);
        assert_eq!(whole.sha256(), parts.sha256());
        assert_eq!(whole.md5(), parts.md5());
        assert_eq!(parts.crc32c(), 0xe306_9283, "the check value of CRC-32C");
        assert_eq!(parts.to_bytes(), whole.to_bytes());
    }
}
