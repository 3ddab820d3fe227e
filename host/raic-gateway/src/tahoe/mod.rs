//! The Tahoe door: a storage server of Tahoe-LAFS for each cloud, over HTTPS.
//!
//! One listener serves all storage servers. A client's swissnum says which of them it uses, and in
//! the name of which account.
//!
//! | request | secrets | answer |
//! | --- | --- | --- |
//! | `GET /storage/v1/version` | | 200: what the server offers |
//! | `PUT /storage/v1/lease/SI` | renew, cancel | 204; 404 if there is no share |
//! | `POST /storage/v1/immutable/SI` | renew, cancel, upload | 200: shares to write |
//! | `PATCH /storage/v1/immutable/SI/N` | upload | 200, and 201 once complete: ranges to write |
//! | `PUT /storage/v1/immutable/SI/N/abort` | upload | 200; 405 if complete |
//! | `GET /storage/v1/KIND/SI/shares` | | 200: the shares |
//! | `GET /storage/v1/KIND/SI/N` | | 200, 206, 204 past the end, 416 |
//! | `POST /storage/v1/KIND/SI/N/corrupt` | | 200 |
//! | `POST /storage/v1/mutable/SI/read-test-write` | renew, cancel, enabler | 200 |
//!
//! KIND is `immutable` or `mutable`, SI a storage index, N a share number. Source: the Tahoe-LAFS
//! storage protocol (http-storage-node-protocol), as its client 1.20 speaks it.
//!
//! **Invariant:** a request is refused before anything is done, or done whole; but for the write of
//! an upload whose body breaks off or conflicts, of which the beginning counts, and for a slot
//! whose cloud fails between two shares.

mod activity;
mod body;
mod drain;
mod headers;
mod identity;
mod immutable;
mod listener;
mod messages;
mod mutable;
mod offers;
mod refusal;
mod shares;
mod swissnums;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware,
    response::{IntoResponse as _, Response},
    routing::{get, patch, post, put},
};
use raic_array::ArrayError;
use raic_storage::{LeaseDb, ServerId, StorageError, StorageServer, TahoeIds};

pub(crate) use self::identity::lower_base32;
pub(crate) use self::refusal::Refusal;
use self::{
    activity::Activity,
    body::BodyMemory,
    headers::{CBOR, Secrets},
    offers::Offers,
    swissnums::{Client, Swissnums},
};
pub use self::{
    identity::{CertificateError, Swissnum, TahoeIdentity},
    listener::ServeError,
};
use crate::{Live, wire::TahoeServer};

/// Longest request to a slot, in bytes. It is held in memory.
pub(crate) const LONGEST_SLOT_REQUEST: u64 = 72 << 20;
/// Memory for the bodies of all requests together, in bytes.
const BODY_MEMORY: u64 = 2 * LONGEST_SLOT_REQUEST;

/// The Tahoe door of a daemon.
#[derive(Debug)]
pub struct TahoeDoor {
    live: Live,
    identity: TahoeIdentity,
    swissnums: Swissnums,
    offers: Offers,
    pub(crate) activity: Activity,
    pub(crate) memory: BodyMemory,
    /// Memory of answers, apart from that of bodies, so that no answer waits for a body.
    pub(crate) answers: BodyMemory,
    connections: AtomicUsize,
    listens_at: SocketAddr,
}

pub(crate) type SharedDoor = State<Arc<TahoeDoor>>;

/// Who asks, and which storage server.
pub(crate) struct Caller {
    pub(crate) client: Client,
    pub(crate) server: Arc<StorageServer>,
}

impl FromRequestParts<Arc<TahoeDoor>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, door: &Arc<TahoeDoor>) -> Result<Self, Refusal> {
        let presented = headers::presented(&parts.headers).ok_or(Refusal::Unauthorized)?;
        let now = door.live.now();
        let client = door
            .swissnums
            .find(&presented, &now.leasedb, &now.servers)
            .await?
            .ok_or(Refusal::Unauthorized)?;
        let mut servers = now.servers.iter();
        let server = servers.find(|server| server.id() == client.server);
        Ok(Self {
            client,
            server: server.ok_or(Refusal::Unauthorized)?.clone(),
        })
    }
}

/// Makes the response that has a document.
pub(crate) fn answer(status: StatusCode, document: impl Into<Body>) -> Response {
    let mut response = (status, document.into()).into_response();
    let cbor = HeaderValue::from_static(CBOR);
    response.headers_mut().insert(header::CONTENT_TYPE, cbor);
    response
}

/// Makes the response to a request that is done and has nothing to tell.
pub(crate) fn done() -> Response {
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

impl TahoeDoor {
    /// Makes the door to the storage servers that `live` holds, which will listen at an address.
    pub fn new(live: Live, identity: TahoeIdentity, listens_at: SocketAddr) -> Self {
        Self {
            listens_at,
            live,
            swissnums: Swissnums::new(identity.clone()),
            identity,
            offers: Offers::default(),
            activity: Activity::default(),
            memory: BodyMemory::new(BODY_MEMORY),
            answers: BodyMemory::new(BODY_MEMORY),
            connections: AtomicUsize::new(0),
        }
    }

    /// The address and port that the door listens at.
    pub(crate) fn listens_at(&self) -> SocketAddr {
        self.listens_at
    }

    /// Returns how an account's clients reach each storage server.
    ///
    /// # Errors
    /// Fails with [`raic_storage::StorageError::NoAccount`] or
    /// [`raic_storage::StorageError::OwnAccount`] if the account cannot have clients, and if the
    /// key cannot be made.
    pub async fn servers(&self, account: &str) -> Result<Vec<TahoeServer>, ArrayError> {
        let now = self.live.now();
        let account = now.leasedb.storing_account(account).await?;
        let elsewhere = now.leasedb.tahoe_ids().await?;
        let key_hash = self
            .identity
            .key_hash()
            .map_err(|e| StorageError::Unusable {
                reason: e.to_string(),
            })?;
        let servers = now.servers.iter().map(|server| {
            let ids = elsewhere.get(&server.id()).cloned();
            let ids = ids.unwrap_or_else(|| self.identity.ids(server.id()));
            TahoeServer {
                cloud: server.name().to_owned(),
                server_id: ids.server_id,
                furl_id: ids.furl_id,
                key_hash: key_hash.clone(),
                swissnum: self
                    .identity
                    .swissnum(server.id(), &account)
                    .text()
                    .to_owned(),
            }
        });
        Ok(servers.collect())
    }

    /// Returns the ids of a storage server that was never elsewhere.
    pub(crate) fn ids(&self, server: ServerId) -> TahoeIds {
        self.identity.ids(server)
    }

    /// Returns whether a storage server takes shares, and the bytes that it can still take, as the
    /// door knows it.
    pub(crate) fn seen(&self, server: &StorageServer) -> (bool, Option<u64>) {
        self.offers.seen(server)
    }

    /// Looks at storage servers now, if they were not looked at within the last half minute.
    pub(crate) async fn look(&self, servers: &[Arc<StorageServer>]) {
        self.offers.look_at(servers).await;
    }

    /// Records the lease activity that is not recorded yet.
    pub(crate) async fn record_activity(&self, leasedb: &LeaseDb) {
        self.activity.record(leasedb).await;
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Makes revoked swissnums void at once, and new accounts and storage servers known.
    pub fn accounts_changed(&self) {
        self.swissnums.forget();
    }

    fn routes(self: Arc<Self>) -> Router {
        let immutable = Router::new()
            .route("/{index}", post(immutable::allocate))
            .route("/{index}/shares", get(shares::list_immutable))
            .route(
                "/{index}/{share}",
                patch(immutable::write).get(shares::read_immutable),
            )
            .route("/{index}/{share}/abort", put(immutable::abort))
            .route("/{index}/{share}/corrupt", post(shares::advise_immutable));
        let mutable = Router::new()
            .route("/{index}/shares", get(shares::list_mutable))
            .route("/{index}/{share}", get(shares::read_mutable))
            .route("/{index}/{share}/corrupt", post(shares::advise_mutable))
            .route("/{index}/read-test-write", post(mutable::read_test_write));
        let version1 = Router::new()
            .route("/version", get(version))
            .route("/lease/{index}", put(shares::renew))
            .nest("/immutable", immutable)
            .nest("/mutable", mutable);
        Router::new()
            .nest("/storage/v1", version1)
            .fallback(async || Refusal::NoSuchResource)
            .layer(middleware::from_fn(drain::drained))
            .with_state(self)
    }
}

/// Tells what the storage server is and offers. Clients ask every second, so that no question goes
/// to a cloud.
async fn version(
    State(door): SharedDoor,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Secrets::of(&headers)?.require_no_other()?;
    headers::require_accepts(&headers, CBOR)?;
    let leasedb = caller.server.leasedb();
    let account = caller.client.account;
    let offer = door.offers.to(account, &caller.server, leasedb).await?;
    Ok(answer(StatusCode::OK, messages::version(offer)))
}

/// Reads a document of a kind, and asserts what holds of every document that can be read.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_document(kind: u8, document: &[u8]) {
    match kind {
        0 => drop(messages::Allocate::decode(document)),
        1 => {
            let document = bytes::Bytes::copy_from_slice(document);
            if let Ok(read) = messages::ReadTestWrite::decode(&document) {
                // What is read lies in the document: no length takes memory of its own.
                let tests = read
                    .vectors
                    .values()
                    .flat_map(|v| v.tests.iter().map(|t| t.2.len()));
                let writes = read
                    .vectors
                    .values()
                    .flat_map(|v| v.writes.iter().map(|w| w.1.len()));
                assert!(tests.chain(writes).sum::<usize>() <= document.len());
            }
        }
        _ => {
            if let Ok(reason) = messages::decode_reason(document) {
                assert!(!reason.is_empty() && reason.len() <= document.len());
            }
        }
    }
}

/// Reads headers in every way.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_headers(headers: &HeaderMap) {
    let _ = headers::presented(headers);
    if let Ok(mut secrets) = Secrets::of(headers) {
        let _ = (secrets.lease(), secrets.upload(), secrets.enabler());
    }
    let _ = headers::require_accepts(headers, CBOR);
    let _ = headers::require_cbor(headers);
    for range in [
        headers::range(headers).ok().flatten(),
        headers::content_range(headers).ok(),
    ] {
        assert!(range.is_none_or(|range| range.start < range.end));
    }
    let _ = headers::content_length(headers);
}
