//! What Tahoe-LAFS clients know the storage servers by: the TLS key, FURLs, server ids and
//! swissnums. All are derived from the keyring, so that they are there again after a lost host.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use raic_array::Keyring;
use raic_storage::{Account, ServerId, TahoeIds};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use ring::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// Bytes of a PKCS #8 document (RFC 5958, RFC 8410) before an Ed25519 key's seed.
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// An error in making the door's certificate.
#[derive(Debug, thiserror::Error)]
#[error("the Tahoe door's certificate cannot be made: {0}")]
pub struct CertificateError(#[from] rcgen::Error);

/// Derives everything that clients know of the storage servers.
#[derive(Clone, Debug)]
pub struct TahoeIdentity {
    keyring: Keyring,
}

/// The secret part of a NURL: who knows it may use one storage server in the name of one account.
#[derive(Clone, PartialEq, Eq)]
pub struct Swissnum(Zeroizing<String>);

impl std::fmt::Debug for Swissnum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Swissnum(..)")
    }
}

impl Swissnum {
    /// The text that stands in a NURL.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// A certificate that the door shows, and its key.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Writes an id as Tahoe-LAFS does.
pub(crate) fn lower_base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

impl TahoeIdentity {
    /// Derives from the identity secret of `keyring`.
    pub fn new(keyring: Keyring) -> Self {
        Self { keyring }
    }

    fn key_pair(&self) -> Result<(KeyPair, Zeroizing<Vec<u8>>), CertificateError> {
        let seed = self.keyring.identity::<32>("Tahoe TLS key", &[]);
        let document = Zeroizing::new([&ED25519_PKCS8[..], &seed[..]].concat());
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(&document[..]))?;
        Ok((pair, document))
    }

    /// Makes the door's certificate, which is signed by itself: clients check nothing but its key.
    pub(crate) fn certificate(&self) -> Result<Certificate, CertificateError> {
        let (pair, document) = self.key_pair()?;
        let certificate = CertificateParams::new(Vec::new())?.self_signed(&pair)?;
        Ok(Certificate {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(document.to_vec()).into(),
        })
    }

    /// The hash of the door's public key, as it stands in NURLs: base64url of the SHA-256 of the
    /// certificate's SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// Fails if the key cannot be made.
    pub fn key_hash(&self) -> Result<String, CertificateError> {
        let (pair, _) = self.key_pair()?;
        let hash = digest(&SHA256, &pair.subject_public_key_info());
        Ok(BASE64URL_NOPAD.encode(hash.as_ref()))
    }

    /// The ids of a storage server that was never elsewhere.
    pub fn ids(&self, server: ServerId) -> TahoeIds {
        let furl_id = self
            .keyring
            .identity::<20>("Tahoe FURL", &[server.number()]);
        let server_id = self
            .keyring
            .identity::<32>("Tahoe server", &[server.number()]);
        TahoeIds {
            furl_id: lower_base32(&*furl_id),
            server_id: format!("v0-{}", lower_base32(&*server_id)),
        }
    }

    /// The swissnum by which an account uses a storage server.
    pub fn swissnum(&self, server: ServerId, account: &Account) -> Swissnum {
        let parts = [server.number(), account.id.number(), account.revocations];
        let secret = self.keyring.identity::<20>("Tahoe swissnum", &parts);
        Swissnum(Zeroizing::new(lower_base32(&*secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_have_tahoes_forms_and_stay() {
        let identity = TahoeIdentity::new(Keyring::generate().unwrap());
        let ids = identity.ids(ServerId::of(3));
        assert_eq!((ids.furl_id.len(), ids.server_id.len()), (32, 55));
        assert_ne!(ids, identity.ids(ServerId::of(4)));
        let hash = identity.key_hash().unwrap();
        assert_eq!(hash.len(), 43);
        assert_eq!(identity.clone().key_hash().unwrap(), hash);
        let certificate = identity.certificate().unwrap().certificate;
        let (pair, _) = identity.key_pair().unwrap();
        let key = pair.subject_public_key_info();
        assert!(certificate.windows(key.len()).any(|part| part == key));
    }
}
