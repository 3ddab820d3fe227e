//! Accepts connections over TLS, and serves each within its limits.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::{
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustls::{ServerConfig, crypto::ring};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::{TahoeDoor, identity::CertificateError};

/// Most connections at once. Others wait to be accepted.
const CONNECTIONS: usize = 2048;
/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// How long a client may take until its first request.
const FIRST: Duration = Duration::from_secs(20);
/// How long a connection may be idle, and how long a request's headers may take to come. Clients
/// use a connection again that was idle for up to 240 s, and do not repeat a write that fails then.
const IDLE: Duration = Duration::from_secs(300);
/// How long a client may take nothing of an answer.
const STALLED: Duration = Duration::from_secs(60);
/// Longest headers of a request, in bytes.
const HEADERS: usize = 16 << 10;
/// Pause after a connection could not be accepted, because the process has too many files open.
const REST: Duration = Duration::from_millis(200);

/// An error of the door as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The certificate cannot be used for TLS.
    #[error("the Tahoe door cannot use its certificate: {0}")]
    Tls(#[from] rustls::Error),
}

impl TahoeDoor {
    /// Serves until `stop` is ready. Then it takes no new requests, and returns once those under
    /// way have ended. Dropping the future ends them at once.
    ///
    /// # Errors
    /// Fails if TLS cannot be set up.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let acceptor = self.acceptor()?;
        let service = TowerToHyperService::new(self.clone().routes());
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let leasedb = self.live.now().leasedb.clone();
        let mut work = JoinSet::new();
        let (offers, activity) = (self.clone(), self.clone());
        work.spawn(async move { offers.offers.look_for_ever(offers.live.clone()).await });
        let recorded = leasedb.clone();
        work.spawn(async move { activity.activity.record_for_ever(recorded).await });
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&listener, &places) => accepted,
            };
            let Some((stream, place)) = accepted else {
                tokio::time::sleep(REST).await;
                continue;
            };
            let (acceptor, service) = (acceptor.clone(), service.clone());
            let counted = Counted::new(self.clone());
            let watcher = graceful.watcher();
            connections.spawn(async move {
                let (_place, _counted) = (place, counted);
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await
                else {
                    return;
                };
                let mut builder = http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(IDLE)
                    .max_buf_size(HEADERS);
                let (begun, mut has_begun) = watch::channel(false);
                let service = service_fn(move |request| {
                    begun.send_replace(true);
                    service.clone().call(request)
                });
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                let first = async {
                    let begun = has_begun.wait_for(|begun| *begun);
                    if tokio::time::timeout(FIRST, begun).await.is_ok() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    ended = watcher.watch(connection) => {
                        if let Err(e) = ended {
                            tracing::debug!("a connection of a Tahoe client ended: {e}");
                        }
                    }
                    // Whoever says nothing takes no place from others for long.
                    () = first => {}
                }
            });
        }
        drop(listener);
        graceful.shutdown().await;
        drop(work);
        self.activity.record(&leasedb).await;
        Ok(())
    }

    fn acceptor(&self) -> Result<TlsAcceptor, ServeError> {
        let certificate = self.identity.certificate()?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.certificate], certificate.key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<TahoeDoor>);

impl Counted {
    fn new(door: Arc<TahoeDoor>) -> Self {
        door.connections.fetch_add(1, Ordering::Relaxed);
        Self(door)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

type Timed = std::pin::Pin<Box<TimeoutStream<TcpStream>>>;

/// Accepts one connection, when there is a place for it. Returns `None` if it cannot be accepted
/// now.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(Timed, tokio::sync::OwnedSemaphorePermit)> {
    if places.available_permits() == 0 {
        tracing::warn!("{CONNECTIONS} Tahoe clients are connected; others wait");
    }
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(STALLED));
            Some((Box::pin(stream), place))
        }
        Err(e) => {
            tracing::warn!("a Tahoe client's connection is not accepted: {e}");
            None
        }
    }
}
