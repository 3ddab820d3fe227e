//! Digests of what a guest holds itself. A payload's come from the host, far cheaper.

use sha2::Digest as _;

/// SHA-256 of a small body.
///
/// ```
/// assert!(raic_sdk::hex(&raic_sdk::sha256(b"")).starts_with("e3b0c442"));
/// ```
pub fn sha256(content: &[u8]) -> Vec<u8> {
    sha2::Sha256::digest(content).to_vec()
}

/// MD5 of a small body, where a protocol still wants one.
pub fn md5(content: &[u8]) -> Vec<u8> {
    use md5::Digest as _;
    md5::Md5::digest(content).to_vec()
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
