//! Digests of bytes that a guest holds itself. The host computes those of a payload, which is far
//! cheaper.

use sha2::Digest as _;

/// SHA-256 of a small body.
///
/// ```
/// assert!(raic_sdk::hex(&raic_sdk::sha256(b"")).starts_with("e3b0c442"));
/// ```
pub fn sha256(content: &[u8]) -> Vec<u8> {
    sha2::Sha256::digest(content).to_vec()
}

/// MD5 of a small body, for a protocol that still wants one.
pub fn md5(content: &[u8]) -> Vec<u8> {
    use md5::Digest as _;
    md5::Md5::digest(content).to_vec()
}

/// SHA-1 of a small body, for a protocol that still wants one.
pub fn sha1(content: &[u8]) -> Vec<u8> {
    use sha1::Digest as _;
    sha1::Sha1::digest(content).to_vec()
}

/// The digests of a payload that every host of this contract computes.
///
/// ```
/// use raic_sdk::{Digests, hex, testing::payload};
/// assert_eq!(hex(&payload("").sha1()), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
/// ```
pub trait Digests {
    /// SHA-256, 32 bytes.
    fn sha256(&self) -> Vec<u8>;
    /// SHA-1, 20 bytes.
    fn sha1(&self) -> Vec<u8>;
    /// MD5, 16 bytes.
    fn md5(&self) -> Vec<u8>;
}

impl Digests for crate::Payload {
    fn sha256(&self) -> Vec<u8> {
        known(self, "sha256")
    }

    fn sha1(&self) -> Vec<u8> {
        known(self, "sha1")
    }

    fn md5(&self) -> Vec<u8> {
        known(self, "md5")
    }
}

/// A digest that the contract promises. If a host broke that promise, the digest would be empty,
/// and the service would refuse it.
fn known(payload: &crate::Payload, name: &str) -> Vec<u8> {
    payload.digest(name).unwrap_or_default()
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
