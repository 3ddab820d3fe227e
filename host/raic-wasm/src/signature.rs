//! Checks detached signatures of connectors (Ed25519, in minisign's form), for operators who list
//! the keys that they trust.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use minisign_verify::{PublicKey, Signature};

use crate::{ConnectorError, Package};

/// Most bytes that are read of a signature's file.
const MAX_SIGNATURE: u64 = 16 << 10;

/// Returns the path of a connector's signature: `FILE.minisig`.
pub fn signature_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// Checks that a connector's file is signed by one of `keys` (minisign's public keys, in base64).
/// Returns the key's position in the list, from 0, and the signature's trusted comment.
///
/// # Errors
/// [`ConnectorError::Signature`] if the signature is missing, malformed or by none of the keys, or
/// if a key before the right one is malformed.
pub fn verify_signature(
    package: &Package,
    file: &Path,
    keys: &[String],
) -> Result<(usize, String), ConnectorError> {
    let path = signature_file(file);
    let wrong = |problem: String| ConnectorError::Signature {
        path: path.clone(),
        problem,
    };
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(&path)?
            .take(MAX_SIGNATURE)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|e| {
        wrong(format!(
            "cannot be read ({e}); config.toml asks for signatures ([connectors] signed_by)"
        ))
    })?;
    let signature =
        Signature::decode(&text).map_err(|e| wrong(format!("is not a minisign signature: {e}")))?;
    for (number, key) in keys.iter().enumerate() {
        let key = PublicKey::from_base64(key)
            .map_err(|e| wrong(format!("signed_by lists {key:?}, which is not a key: {e}")))?;
        if key.verify(&package.bytes, &signature, false).is_ok() {
            return Ok((number, signature.trusted_comment().to_owned()));
        }
    }
    Err(wrong(
        "is not by any key that config.toml lists ([connectors] signed_by)".to_owned(),
    ))
}
