//! The admin door: files, status, accounts, leases and walks as HTTP over a unix socket. Contents
//! are streamed both ways.
//!
//! | request | effect and answer |
//! | --- | --- |
//! | `PUT /v1/files/NAME?account=&size=&class=` | stores the body, durably; returns the file |
//! | `GET /v1/files/NAME` | returns the content, or a part of it for `range: bytes=a-b` |
//! | `DELETE /v1/files/NAME` | removes the file |
//! | `GET /v1/stat/NAME` | returns the file, its shares and the shares that it lacks |
//! | `GET /v1/files?prefix=&after=&limit=` | returns a page of files |
//! | `GET /v1/buckets` | returns all buckets |
//! | `PUT /v1/buckets/NAME?class=` | makes a bucket |
//! | `DELETE /v1/buckets/NAME` | removes a bucket that holds no file |
//! | `GET /v1/status` | returns the state of the array and of each cloud |
//! | `GET /v1/transfers/ID` | returns the bytes by cloud of the request with `?transfer=ID` |
//! | `POST /v1/reload` | reads the configuration again; a body moves clouds to its versions |
//! | `GET /v1/accounts` | returns all accounts |
//! | `PUT /v1/accounts/NAME` | makes an account |
//! | `POST /v1/accounts/NAME` | changes an account |
//! | `POST /v1/accounts/NAME/revoke` | revokes the secrets of an account's Tahoe clients |
//! | `GET /v1/tahoe/servers?account=` | returns how clients reach each storage server |
//! | `GET /v1/tahoe/status` | returns the state of the Tahoe door |
//! | `POST /v1/tahoe/moves` | begins to move shares from or to a Tahoe storage folder |
//! | `GET /v1/tahoe/moves` | returns the progress of the move |
//! | `GET /v1/events?after=&limit=` | returns a page of events |
//! | `GET /v1/usage?by=account\|cloud\|day` | returns the space that is used |
//! | `GET /v1/leases?account=&index=&after=` | returns a page of leases |
//! | `POST /v1/leases/renew?account=&index=` | adds or renews an account's lease on shares |
//! | `GET /v1/collect` | returns the shares that collection would delete |
//! | `POST /v1/collect` | collects what is due |
//! | `POST /v1/walks/reconcile`, `POST /v1/walks/rebuild` | begins a walk through all containers |
//! | `GET /v1/walks` | returns the progress of the walk |
//! | `POST /v1/clouds/NAME/adopt` | gives a container that lost its owner object a new one |
//! | `POST /v1/clouds/NAME/gone` | records that a cloud, no longer configured, is lost |
//! | `POST /v1/clock/accept` | accepts the machine's clock; returns how far it had moved |
//!
//! [`crate::wire`] has the documents. A failed operation answers with a [`Failure`]. If a content
//! breaks off on its way out, the connection ends before the announced length. So the client must
//! count the bytes.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use raic_array::ArrayError;
use raic_storage::StorageError;
use tokio::{net::UnixListener, task::JoinSet};

use crate::{
    Control, Live, accounts, files, leases, status,
    tahoe::TahoeDoor,
    tahoe_admin,
    tahoe_folder::{self, Moves},
    walks::{self, Walks},
    wire::{Code, ConnectorVersions, Failure},
};

/// Bytes of an answer's body after which nothing more is taken for a command that does not read.
const BUFFER: usize = 64 << 10;
/// Pause after a connection could not be accepted, since the next could not either.
const REST: Duration = Duration::from_millis(100);

/// The admin door, which serves one daemon.
pub struct Admin {
    pub(crate) live: Live,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) transfers: files::Transfers,
    pub(crate) walks: Walks,
    pub(crate) moves: Moves,
    /// `None` if the configuration has no Tahoe door.
    pub(crate) tahoe: Option<Arc<TahoeDoor>>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

pub(crate) type Shared = State<Arc<Admin>>;
pub(crate) type Answer<T> = Result<Json<T>, Refused>;

/// The error of a refused request. Its response is a [`Failure`] with an HTTP status.
pub(crate) struct Refused(ArrayError);

impl<E: Into<ArrayError>> From<E> for Refused {
    fn from(e: E) -> Self {
        Self(e.into())
    }
}

/// Returns the HTTP status of an error, and the code that programs act on.
fn code_of(e: &ArrayError) -> (StatusCode, Code) {
    match e {
        ArrayError::NoArray | ArrayError::NoTahoe => (StatusCode::NOT_FOUND, Code::Configuration),
        ArrayError::NoSuchFile(_)
        | ArrayError::NoSuchBucket(_)
        | ArrayError::NoSuchVersion { .. }
        | ArrayError::DeleteMark { .. } => (StatusCode::NOT_FOUND, Code::NoSuchFile),
        ArrayError::FileExists(_)
        | ArrayError::BucketExists(_)
        | ArrayError::BucketNotEmpty(_)
        | ArrayError::VersioningStays(_)
        | ArrayError::DefaultBucket => (StatusCode::CONFLICT, Code::Exists),
        ArrayError::Name { .. }
        | ArrayError::BucketName { .. }
        | ArrayError::StorageIndex(_)
        | ArrayError::VersionId(_)
        | ArrayError::Details(_) => (StatusCode::BAD_REQUEST, Code::BadName),
        ArrayError::NoSuchClass(_)
        | ArrayError::ClassName(_)
        | ArrayError::ClassImpossible { .. }
        | ArrayError::Geometry { .. } => (StatusCode::BAD_REQUEST, Code::Configuration),
        ArrayError::Range { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, Code::BadRange),
        ArrayError::Content(_) => (StatusCode::BAD_REQUEST, Code::ContentBrokeOff),
        ArrayError::TooFewClouds { is_full: true, .. } => full(),
        ArrayError::Storage(e) if e.is_full() => full(),
        ArrayError::Database(e) if e.is_full() => full(),
        ArrayError::TooFewClouds { .. }
        | ArrayError::KeyringNotStored { .. }
        | ArrayError::Unreadable { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::TooFewClouds),
        ArrayError::Storage(e) => code_of_storage(e),
        ArrayError::WrongKey { .. } | ArrayError::Sealed { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, Code::WrongKey)
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, Code::Other),
    }
}

fn full() -> (StatusCode, Code) {
    (StatusCode::INSUFFICIENT_STORAGE, Code::Full)
}

fn code_of_storage(e: &StorageError) -> (StatusCode, Code) {
    match e {
        StorageError::QuotaExceeded { .. } => full(),
        StorageError::AccountDisabled(_)
        | StorageError::Draining(_)
        | StorageError::ReadOnly { .. }
        | StorageError::TooManyLeases { .. } => (StatusCode::FORBIDDEN, Code::Refused),
        StorageError::NoAccount(_) => (StatusCode::NOT_FOUND, Code::Configuration),
        StorageError::AccountExists(_) => (StatusCode::CONFLICT, Code::Configuration),
        StorageError::Unusable { .. }
        | StorageError::NoCloud(_)
        | StorageError::NeverACloud(_)
        | StorageError::AccountName(_)
        | StorageError::OwnAccount(_)
        | StorageError::TahoeIds(_)
        | StorageError::Forgets(_)
        | StorageError::Quotas { .. } => (StatusCode::BAD_REQUEST, Code::Configuration),
        StorageError::Retired(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::TooFewClouds),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, Code::Other),
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code) = code_of(&self.0);
        let error = self.0.to_string();
        (status, Json(Failure { error, code })).into_response()
    }
}

impl Admin {
    /// Makes the admin door of the daemon `control`, to what `live` holds and to the Tahoe door, if
    /// there is one.
    pub fn new(live: Live, control: Arc<dyn Control>, tahoe: Option<Arc<TahoeDoor>>) -> Self {
        Self {
            live,
            control,
            transfers: files::Transfers::default(),
            walks: Walks::default(),
            moves: Moves::default(),
            tahoe,
        }
    }

    /// Serves until `stop` is ready. Then it takes no new requests, and returns once those under
    /// way have ended.
    pub async fn serve(self, listener: UnixListener, stop: impl Future<Output = ()>) {
        let routes = Router::new()
            .route("/v1/files", get(files::list))
            .route(
                "/v1/files/{*name}",
                get(files::read).put(files::store).delete(files::remove),
            )
            .route("/v1/stat/{*name}", get(files::stat))
            .route("/v1/copies/{*name}", post(files::copy))
            .route("/v1/buckets", get(files::buckets))
            .route(
                "/v1/buckets/{name}",
                put(files::create_bucket)
                    .patch(files::change_bucket)
                    .delete(files::remove_bucket),
            )
            .route("/v1/transfers/{id}", get(files::transferred))
            .route("/v1/status", get(status::status))
            .route("/v1/reload", post(reload))
            .route("/v1/accounts", get(accounts::accounts))
            .route(
                "/v1/accounts/{name}",
                post(accounts::change_account).put(accounts::create_account),
            )
            .route("/v1/accounts/{name}/revoke", post(tahoe_admin::revoke))
            .route("/v1/tahoe/servers", get(tahoe_admin::servers))
            .route("/v1/tahoe/status", get(tahoe_admin::status))
            .route(
                "/v1/tahoe/moves",
                get(tahoe_folder::moved).post(tahoe_folder::begin),
            )
            .route("/v1/events", get(tahoe_admin::events))
            .route("/v1/usage", get(accounts::usage))
            .route("/v1/leases", get(leases::leases))
            .route("/v1/leases/renew", post(leases::renew))
            .route(
                "/v1/collect",
                get(leases::would_collect).post(leases::collect),
            )
            .route("/v1/clock/accept", post(leases::accept_clock))
            .route("/v1/walks", get(walks::walked))
            .route("/v1/walks/{what}", post(walks::walk))
            .route("/v1/clouds/{name}/adopt", post(walks::adopt))
            .route("/v1/clouds/{name}/gone", post(walks::gone))
            .route(
                "/v1/clouds/{name}/draining",
                put(walks::drain).delete(walks::undrain),
            )
            .with_state(Arc::new(self));
        serve_connections(listener, routes, stop).await
    }
}

/// Serves connections until `stop` is ready, and returns once the requests under way have ended.
async fn serve_connections(listener: UnixListener, routes: Router, stop: impl Future<Output = ()>) {
    let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
    let service = TowerToHyperService::new(routes);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("a command could not be accepted: {e}");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).max_buf_size(BUFFER);
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!("a connection of a command ended: {e}");
            }
        });
    }
    // No further command finds the socket.
    drop(listener);
    graceful.shutdown().await;
}

async fn reload(State(admin): Shared, body: Bytes) -> Response {
    let versions = match &*body {
        [] => Ok(ConnectorVersions::new()),
        text => serde_json::from_slice(text).map_err(|e| Failure {
            error: format!("the request's versions of connectors make no sense: {e}"),
            code: Code::Configuration,
        }),
    };
    let reloaded = async { admin.control.reload(versions?).await };
    match reloaded.await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(failure) => (StatusCode::BAD_REQUEST, Json(failure)).into_response(),
    }
}
