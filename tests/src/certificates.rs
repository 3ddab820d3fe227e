//! Certificates for servers on loopback.

/// An authority that nobody trusts, and a certificate by it.
pub(crate) struct Certificates {
    /// The authority, in PEM.
    pub(crate) ca: Vec<u8>,
    /// The certificate, in PEM.
    pub(crate) certificate: String,
    /// The certificate's private key, in PEM.
    pub(crate) key: String,
}

impl Certificates {
    /// Makes an authority, and a certificate by it for these names or addresses.
    pub(crate) fn new(names: &[&str]) -> Self {
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = parameters.self_signed(&ca_key).expect("an authority");
        let issuer = rcgen::Issuer::new(parameters, ca_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(
            names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        )
        .expect("parameters");
        let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
        Self {
            ca: ca.pem().into_bytes(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}
