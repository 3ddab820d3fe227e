//! A client of storage servers of Tahoe-LAFS that sends exactly what a test says: right requests
//! and wrong ones, over one TLS connection.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    client::conn::http1::SendRequest,
    header::{HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Trusts every certificate: the servers are this program's own.
#[derive(Debug)]
struct TrustsAll;

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A request, with what its author gave it.
#[derive(Debug)]
pub struct TahoeRequest {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl TahoeRequest {
    /// Makes a request without secrets and body.
    pub fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to a document in CBOR.
    pub fn cbor(self, document: Vec<u8>) -> Self {
        self.header("content-type", "application/cbor")
            .body(document)
    }

    /// Adds a secret of a kind: `length` times the byte `of`.
    pub fn secret(self, kind: &str, of: u8, length: usize) -> Self {
        let secret = BASE64.encode(&vec![of; length]);
        self.header("x-tahoe-authorization", format!("{kind} {secret}"))
    }

    /// Adds the secrets of a lease.
    pub fn lease(self, of: u8) -> Self {
        self.secret("lease-renew-secret", of, 32)
            .secret("lease-cancel-secret", of, 32)
    }

    /// Adds the secret of an upload.
    pub fn upload(self, of: u8) -> Self {
        self.secret("upload-secret", of, 20)
    }

    /// Adds the write enabler of a slot.
    pub fn enabler(self, of: u8) -> Self {
        self.secret("write-enabler", of, 32)
    }
}

/// Writes a head of CBOR: a major type and a number.
fn head(bytes: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    match number {
        0..24 => bytes.push(major | number as u8),
        24..0x100 => bytes.extend([major | 24, number as u8]),
        _ => {
            bytes.push(major | 27);
            bytes.extend(number.to_be_bytes());
        }
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    head(bytes, 3, text.len() as u64);
    bytes.extend(text.as_bytes());
}

/// Makes the document that allocates shares of `size` bytes.
pub fn allocation(shares: &[u8], size: u64) -> Vec<u8> {
    let mut document = Vec::new();
    head(&mut document, 5, 2);
    text(&mut document, "share-numbers");
    document.extend([0xd9, 1, 2]);
    head(&mut document, 4, shares.len() as u64);
    for share in shares {
        head(&mut document, 0, u64::from(*share));
    }
    text(&mut document, "allocated-size");
    head(&mut document, 0, size);
    document
}

/// Makes the document that writes `content` at the beginning of a share of a slot, without tests.
pub fn slot_write(share: u8, content: &[u8]) -> Vec<u8> {
    let mut document = Vec::new();
    head(&mut document, 5, 2);
    text(&mut document, "test-write-vectors");
    head(&mut document, 5, 1);
    head(&mut document, 0, u64::from(share));
    head(&mut document, 5, 3);
    text(&mut document, "test");
    head(&mut document, 4, 0);
    text(&mut document, "write");
    head(&mut document, 4, 1);
    head(&mut document, 5, 2);
    text(&mut document, "offset");
    head(&mut document, 0, 0);
    text(&mut document, "data");
    head(&mut document, 2, content.len() as u64);
    document.extend(content);
    text(&mut document, "new-length");
    document.push(0xf6);
    text(&mut document, "read-vector");
    head(&mut document, 4, 0);
    document
}

/// Makes the document of an advisory.
pub fn advisory(reason: &str) -> Vec<u8> {
    let mut document = Vec::new();
    head(&mut document, 5, 1);
    text(&mut document, "reason");
    text(&mut document, reason);
    document
}

/// One TLS connection to a storage server.
#[derive(Debug)]
pub struct TahoeConnection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    authorization: String,
    /// The headers of the last answer.
    pub headers: HeaderMap,
}

/// Opens a TLS connection to the server of a NURL, without a request.
///
/// # Panics
/// If the server cannot be reached.
pub async fn tls(nurl: &str) -> TlsStream<TcpStream> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAll))
        .with_no_client_auth();
    let stream = TcpStream::connect(host_of(nurl)).await.expect("a server");
    stream.set_nodelay(true).expect("an option");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.expect("TLS")
}

/// Returns the host and port of a NURL.
fn host_of(nurl: &str) -> &str {
    let rest = nurl.split('@').nth(1).expect("a NURL");
    rest.split('/').next().expect("a NURL")
}

/// Returns the value of the header that presents the swissnum of a NURL.
///
/// # Panics
/// If the text is not a NURL.
pub fn authorization(nurl: &str) -> String {
    let swissnum = nurl.rsplit('/').next().expect("a NURL");
    let swissnum = swissnum.split('#').next().expect("a NURL");
    format!("Tahoe-LAFS {}", BASE64.encode(swissnum.as_bytes()))
}

impl TahoeConnection {
    /// Connects to the server of a NURL.
    ///
    /// # Panics
    /// If the server cannot be reached.
    pub async fn open(nurl: &str) -> Self {
        let stream = TokioIo::new(tls(nurl).await);
        let handshake = hyper::client::conn::http1::handshake(stream).await;
        let (sender, connection) = handshake.expect("HTTP");
        tokio::spawn(connection);
        Self {
            sender,
            host: host_of(nurl).to_owned(),
            authorization: authorization(nurl),
            headers: HeaderMap::new(),
        }
    }

    /// Sends a request, and returns the status and the body of its answer. A request that has an
    /// authorization or names what it accepts keeps its own.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn send(&mut self, request: TahoeRequest) -> (StatusCode, Bytes) {
        let has = |name: &str| request.headers.iter().any(|(known, _)| known == name);
        let (authorized, accepts) = (has("authorization"), has("accept"));
        let mut built = Request::new(Full::new(request.body));
        *built.method_mut() = request.method;
        *built.uri_mut() = request.path.parse().expect("a path");
        let headers = built.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).expect("a header");
        headers.insert("host", value(&self.host));
        if !authorized {
            headers.insert("authorization", value(&self.authorization));
        }
        if !accepts {
            headers.insert("accept", value("application/cbor"));
        }
        for (name, text) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header");
            headers.append(name, value(text));
        }
        self.sender.ready().await.expect("an open connection");
        let answer = self.sender.send_request(built).await.expect("an answer");
        let status = answer.status();
        self.headers = answer.headers().clone();
        let body = answer.into_body().collect().await.expect("a body");
        (status, body.to_bytes())
    }
}
