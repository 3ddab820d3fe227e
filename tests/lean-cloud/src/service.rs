//! The service: it listens on loopback, and ends when it is dropped.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use hyper::{
    Request as HttpRequest, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use crate::{
    answer::{Answer, error, xml},
    misbehaviour::{Fault, Misbehaviour, Moment},
    operations::Request,
    pace::{Line, Pace},
    request::Target,
    signature::is_signed,
    socket::Socket,
    store::{Counts, Store},
};

/// The keys that requests are signed with.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The name of the secret key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    keys: Keys,
    pub(crate) pace: Pace,
    /// What came, and what was sent.
    pub(crate) lines: Arc<(Line, Line)>,
    // A blocking lock: held while objects are looked up or put in their place.
    pub(crate) store: Mutex<Store>,
}

/// Another misbehaviour from now on, and who waits for it.
type Change = (Option<Misbehaviour>, oneshot::Sender<()>);

/// A running service.
#[derive(Debug)]
pub struct LeanCloud {
    /// The service's endpoint.
    pub url: String,
    shared: Arc<Shared>,
    changes: mpsc::Sender<Change>,
    task: JoinHandle<()>,
}

impl LeanCloud {
    /// Listens at a port of 127.0.0.1, or at any port if it is 0.
    ///
    /// # Errors
    /// Fails if the port is taken.
    pub async fn start(port: u16, keys: Keys, pace: Pace) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            keys,
            pace,
            lines: Arc::default(),
            store: Mutex::default(),
        });
        let (changes, changed) = mpsc::channel(1);
        Ok(Self {
            url: format!("http://{address}"),
            task: tokio::spawn(serve(shared.clone(), listener, address, changed)),
            shared,
            changes,
        })
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, name: &str) {
        let mut store = self.shared.store.lock();
        store.buckets.entry(name.to_owned()).or_default();
    }

    /// Ends all connections, and misbehaves from now on, or behaves. Returns once it does.
    pub async fn misbehave(&self, how: Option<Misbehaviour>) {
        {
            let mut store = self.shared.store.lock();
            let objects = store.buckets.values_mut().flat_map(|b| b.values_mut());
            objects.for_each(|object| object.is_recent = false);
            store.removed.clear();
        }
        let (done, waits) = oneshot::channel();
        // Both fail only if the service has ended.
        let _ = self.changes.send((how, done)).await;
        let _ = waits.await;
    }

    /// Returns the keys of all objects of a bucket.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let store = self.shared.store.lock();
        let bucket = store.buckets.get(bucket);
        bucket.map_or_else(Vec::new, |bucket| bucket.keys().cloned().collect())
    }

    /// Returns the bytes of all objects of a bucket.
    pub fn stored(&self, bucket: &str) -> u64 {
        let store = self.shared.store.lock();
        let bucket = store.buckets.get(bucket);
        bucket.map_or(0, |bucket| bucket.values().map(|object| object.size).sum())
    }

    /// Returns the requests and bytes so far.
    pub fn counts(&self) -> Counts {
        self.shared.store.lock().counts.clone()
    }
}

impl Drop for LeanCloud {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves until the task is aborted; connections end with it.
async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    mut changed: mpsc::Receiver<Change>,
) {
    let mut listener = Some(listener);
    let mut misbehaviour: Option<Misbehaviour> = None;
    let mut connections = JoinSet::new();
    loop {
        let at_connect = misbehaviour.and_then(|m| m.when(Moment::Connect));
        let accepted = async {
            match (&listener, at_connect) {
                (Some(listener), None | Some(Fault::Reset)) => listener.accept().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            change = changed.recv() => {
                let Some((how, done)) = change else { return };
                connections.shutdown().await;
                misbehaviour = how;
                if how.is_some_and(|how| how.when(Moment::Connect) == Some(Fault::Refuse)) {
                    listener = None;
                } else if listener.is_none() {
                    listener = TcpListener::bind(address).await.ok();
                }
                // Whoever waited may have gone.
                let _ = done.send(());
            }
            accepted = accepted => {
                let Ok((stream, _)) = accepted else { continue };
                if at_connect == Some(Fault::Reset) {
                    // An error here means that it has ended already.
                    let _ = stream.set_zero_linger();
                    continue;
                }
                connections.spawn(connection(shared.clone(), stream, misbehaviour));
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, misbehaviour: Option<Misbehaviour>) {
    // Otherwise small answers would wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move { answer(&shared, request, misbehaviour).await }
    });
    let socket = TokioIo::new(Socket::new(stream, misbehaviour));
    let mut server = http1::Builder::new();
    // Each answer is to be wrong, and what is wrong with a head is wrong with the first one.
    server.keep_alive(misbehaviour.is_none_or(|m| m.at != Moment::Headers));
    // A client that goes away is not a failure of the service.
    let _ = server
        .timer(TokioTimer::new())
        .serve_connection(socket, service)
        .await;
}

async fn answer(
    shared: &Shared,
    request: HttpRequest<Incoming>,
    misbehaviour: Option<Misbehaviour>,
) -> io::Result<Answer> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/.counts" {
        let store = shared.store.lock();
        let Counts {
            requests,
            taken,
            given,
        } = &store.counts;
        let objects = store.buckets.values().flat_map(|bucket| bucket.values());
        let stored: u64 = objects.map(|object| object.size).sum();
        let counts = json!({
            "requests": requests, "taken": taken, "given": given, "stored": stored,
        });
        return Ok(xml(StatusCode::OK, counts.to_string()));
    }
    {
        let mut store = shared.store.lock();
        *store
            .counts
            .requests
            .entry(head.method.to_string())
            .or_default() += 1;
    }
    tokio::time::sleep(shared.pace.latency).await;
    if !is_signed(&shared.keys, &head.method, &head.uri, &head.headers) {
        return Ok(error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch"));
    }
    let Some(target) = Target::of(&head.uri) else {
        return Ok(error(StatusCode::BAD_REQUEST, "InvalidURI"));
    };
    let request = Request {
        method: head.method,
        target,
        headers: head.headers,
        shared,
        misbehaviour,
    };
    request.answer(body).await
}
