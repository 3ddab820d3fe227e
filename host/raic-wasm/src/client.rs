//! The HTTP client of one cloud: pooled connections, TLS settings, judged addresses, and timeouts.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::sync::Notify;

use crate::{
    ConnectorError,
    address::{is_metadata, is_public},
    names::Names,
    trust::PinnedOrTrusted,
};

const CONNECT: Duration = Duration::from_secs(10);
/// Most informational answers (RFC 9110 section 15.2) that may come before an answer. A service may
/// send a few; after more the request fails.
const INFORMATIONAL: usize = 32;
/// Timeout of the next piece of a body. The head of an answer may take as long, and the time for
/// the upload.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

/// The TLS settings of one cloud.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Certificates in PEM to trust beside the system's root certificates.
    pub extra_ca: Option<Vec<u8>>,
}

type Pool = Client<HttpsConnector<HttpConnector<JudgedResolver>>, Upload>;

/// The HTTP client of one cloud. It has two pools of connections: one for hosts that the operator
/// typed, and one for all others.
pub(crate) struct HttpClient {
    typed: Pool,
    judged: Pool,
}

impl HttpClient {
    pub(crate) fn new(tls: &TlsSettings) -> Result<Self, ConnectorError> {
        let config = tls_config(tls)?;
        let names = Names::default();
        let pool = |any_address| {
            let mut http = HttpConnector::new_with_resolver(JudgedResolver {
                any_address,
                names: names.clone(),
            });
            http.enforce_http(false);
            http.set_connect_timeout(Some(CONNECT));
            http.set_nodelay(true);
            let https = HttpsConnectorBuilder::new()
                .with_tls_config(config.clone())
                .https_or_http()
                .enable_http1()
                .wrap_connector(http);
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(64)
                .http1_max_headers(128)
                .build(https)
        };
        Ok(Self {
            typed: pool(true),
            judged: pool(false),
        })
    }

    /// Sends a request and waits for the head of its answer. `typed` is whether the operator typed
    /// the host.
    pub(crate) async fn send(
        &self,
        mut request: http::Request<Upload>,
        typed: bool,
        timeout: Duration,
    ) -> Result<http::Response<Incoming>, SendError> {
        let pool = if typed { &self.typed } else { &self.judged };
        let too_many = Arc::new(Notify::new());
        let (notify, count) = (too_many.clone(), AtomicUsize::new(0));
        hyper::ext::on_informational(&mut request, move |_| {
            if count.fetch_add(1, Ordering::Relaxed) == INFORMATIONAL {
                notify.notify_one();
            }
        });
        tokio::select! {
            answered = tokio::time::timeout(timeout, pool.request(request)) => match answered {
                Err(_) => Err(SendError::Timeout(timeout)),
                Ok(Err(e)) => Err(SendError::Failed(with_advice(causes(&e)))),
                Ok(Ok(answer)) => Ok(answer),
            },
            () = too_many.notified() => Err(SendError::Failed(format!(
                "more than {INFORMATIONAL} informational answers came, and no final one"
            ))),
        }
    }
}

/// The reason why no answer came.
#[derive(Debug)]
pub(crate) enum SendError {
    Timeout(Duration),
    Failed(String),
}

/// Returns the text of an error with those of its causes, each once.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Adds what to do about a certificate that is not trusted. rustls names the cause by a word of its
/// own.
fn with_advice(why: String) -> String {
    let advice = if why.contains("CaUsedAsEndEntity") {
        "its certificate is signed by itself"
    } else if why.contains("UnknownIssuer") {
        "nobody that is trusted here issued its certificate"
    } else {
        return why;
    };
    format!("{why}: {advice}; if it is the right one, name a file with it as `ca` of the cloud")
}

/// Returns the system's root certificates. They are read once, because a rotation of credentials
/// makes a client on the async runtime.
fn system_roots() -> &'static [CertificateDer<'static>] {
    static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let loaded = rustls_native_certs::load_native_certs();
        if loaded.certs.is_empty() {
            let why: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
            tracing::warn!(
                "this system has no root certificates ({}): no https service is trusted \
                 except by a cloud's own `ca`; install ca-certificates",
                why.join("; ")
            );
        }
        loaded.certs
    })
}

fn tls_config(tls: &TlsSettings) -> Result<ClientConfig, ConnectorError> {
    let wrong = |problem: String| ConnectorError::setting("ca", problem);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system_roots().iter().cloned());
    let mut pinned = Vec::new();
    if let Some(pem) = &tls.extra_ca {
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|e| wrong(format!("is not a PEM file: {e:?}")))?;
        if certificates.is_empty() {
            return Err(wrong("holds no certificate".to_owned()));
        }
        for certificate in certificates {
            roots
                .add(certificate.clone())
                .map_err(|e| wrong(format!("holds something that is not a certificate: {e}")))?;
            pinned.push(certificate);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| wrong(e.to_string()))?;
    if pinned.is_empty() {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let verifier = PinnedOrTrusted::new(roots, pinned, provider).map_err(wrong)?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// Looks names up and judges their addresses. Addresses that are not public are dropped, unless
/// `any_address` is set. Addresses of metadata services are always dropped: nobody who typed a name
/// meant them, and the owner of the name chooses its addresses. Connections are made only to
/// addresses that were judged.
#[derive(Clone)]
struct JudgedResolver {
    any_address: bool,
    names: Names,
}

impl tower_service::Service<Name> for JudgedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (any_address, names) = (self.any_address, self.names.clone());
        Box::pin(async move {
            let resolved = names.look_up(name.as_str()).await?;
            let is_allowed =
                |a: &SocketAddr| !is_metadata(a.ip()) && (any_address || is_public(a.ip()));
            let allowed: Vec<_> = resolved.iter().copied().filter(is_allowed).collect();
            if allowed.is_empty() && !resolved.is_empty() {
                let why = match any_address {
                    true => format!(
                        "{name} resolves to addresses of metadata services only; \
                         type the address itself if that is meant"
                    ),
                    false => {
                        format!(
                            "{name} resolves to private addresses only, \
                             and the operator did not type it"
                        )
                    }
                };
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            Ok(allowed.into_iter())
        })
    }
}

/// A request's body: bytes that are already in memory. Their length is known, so hyper never uses
/// chunked encoding.
pub(crate) struct Upload {
    parts: std::vec::IntoIter<Bytes>,
    left: u64,
}

impl Upload {
    pub(crate) fn new(parts: Vec<Bytes>) -> Self {
        let left = parts.iter().map(|p| p.len() as u64).sum();
        Self {
            parts: parts.into_iter(),
            left,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.parts.find(|part| !part.is_empty());
        self.left -= next.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(next.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use tower_service::Service as _;

    use super::*;
    use parking_lot::Mutex;

    /// DNS rebinding: every answer of a name server is judged, and only judged addresses are
    /// connected to.
    #[tokio::test]
    async fn a_name_that_leads_elsewhere_the_next_time_is_judged_anew() {
        let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
        let answers = Mutex::new(std::collections::VecDeque::from([
            vec![address("52.216.0.1")],
            vec![address("169.254.169.254")],
            vec![
                address("10.0.0.1"),
                address("52.216.0.1"),
                address("::ffff:127.0.0.1"),
            ],
        ]));
        let names = Names::by(move |_| Ok(answers.lock().pop_front().unwrap_or_default()));
        let mut resolver = JudgedResolver {
            any_address: false,
            names,
        };
        let mut resolve = || resolver.call(Name::from_str("rebinding.example").unwrap());
        assert_eq!(
            resolve().await.unwrap().collect::<Vec<_>>(),
            [address("52.216.0.1")]
        );
        assert_eq!(
            resolve().await.unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        assert_eq!(
            resolve().await.unwrap().collect::<Vec<_>>(),
            [address("52.216.0.1")]
        );
    }

    #[tokio::test]
    async fn a_name_that_leads_to_private_addresses_leads_nowhere_unless_it_was_typed() {
        for name in ["localhost", "bucket.localhost", "a.b.LOCALHOST"] {
            let resolve = |any_address| {
                JudgedResolver {
                    any_address,
                    names: Names::default(),
                }
                .call(Name::from_str(name).unwrap())
            };
            let e = resolve(false).await.unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
            assert!(
                e.to_string().contains("resolves to private addresses"),
                "{e}"
            );
            assert!(
                resolve(true)
                    .await
                    .unwrap()
                    .all(|address| address.ip().is_loopback()),
                "{name}"
            );
        }
    }

    /// A service that refuses an upload answers before it has read it, and closes the connection.
    /// The answer counts, and not the broken connection.
    #[tokio::test]
    async fn an_answer_that_comes_before_the_upload_has_gone_counts() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                let answer =
                    b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlong";
                stream.write_all(answer).await.unwrap();
                // The rest of the request is read, or closing would discard the answer (RFC 9112
                // section 9.6).
                let drain = async {
                    while stream
                        .read(&mut [0; 65536])
                        .await
                        .is_ok_and(|read| read > 0)
                    {}
                };
                let _ = tokio::time::timeout(Duration::from_millis(50), drain).await;
            }
        });
        let client = HttpClient::new(&TlsSettings::default()).unwrap();
        for _ in 0..5 {
            let upload = Upload::new(vec![Bytes::from(vec![7; 4 << 20]); 4]);
            let request = http::Request::put(&url).body(upload).unwrap();
            let answer = client
                .send(request, true, Duration::from_secs(20))
                .await
                .unwrap();
            assert_eq!(answer.status(), 413);
        }
    }

    /// Once a service could have 100,000 informational answers read before each of its answers.
    #[tokio::test]
    async fn informational_answers_without_end_are_an_error() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            for hints in [3, u64::MAX] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                for _ in 0..hints {
                    let hint = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
                    if stream.write_all(hint).await.is_err() {
                        break;
                    }
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        });
        let client = HttpClient::new(&TlsSettings::default()).unwrap();
        let send = async || {
            let request = http::Request::get(&url)
                .body(Upload::new(Vec::new()))
                .unwrap();
            client.send(request, true, Duration::from_secs(20)).await
        };
        assert_eq!(send().await.unwrap().status(), 200);
        let Err(SendError::Failed(why)) = send().await else {
            panic!("the informational answers were read without end")
        };
        assert!(why.contains("informational"), "{why}");
        // The connection is closed, not only forgotten.
        tokio::time::timeout(Duration::from_secs(20), served)
            .await
            .unwrap()
            .unwrap();
    }

    /// The owner of a name that the operator typed chooses its addresses.
    #[tokio::test]
    async fn a_typed_name_leads_to_no_metadata_service() {
        for address in [
            "169.254.169.254",
            "168.63.129.16",
            "fd00:ec2::254",
            "fe80::1",
            "::ffff:169.254.169.254",
        ] {
            let found = SocketAddr::new(address.parse().unwrap(), 0);
            let names = Names::by(move |_| Ok(vec![found]));
            let mut resolver = JudgedResolver {
                any_address: true,
                names,
            };
            let e = resolver
                .call(Name::from_str("typed.example").unwrap())
                .await
                .unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{address}");
        }
    }
}
