//! The admin door: files, status, accounts and leases as HTTP over a unix socket; contents are
//! streamed both ways.
//!
//! | request | answer |
//! | --- | --- |
//! | `PUT /v1/files/NAME?account=&size=` | stores the body; the file, when it is durable |
//! | `GET /v1/files/NAME` | the content; `range: bytes=a-b` for a part |
//! | `DELETE /v1/files/NAME` | removes the file |
//! | `GET /v1/stat/NAME` | the file, its shares and what it lacks |
//! | `GET /v1/files?prefix=&after=&limit=` | a page of files |
//! | `GET /v1/status` | clouds, totals |
//! | `GET /v1/transfers/ID` | bytes by cloud of the request under way with `?transfer=ID` |
//! | `POST /v1/reload` | reads the configuration again; its body, if any, moves clouds to versions |
//! | `GET /v1/accounts` | all accounts |
//! | `PUT /v1/accounts/NAME` | makes an account |
//! | `POST /v1/accounts/NAME` | changes an account |
//! | `GET /v1/usage?by=account\|cloud\|day` | what is used |
//! | `GET /v1/leases?account=&index=&after=` | a page of leases |
//! | `POST /v1/leases/renew?account=&index=` | adds or renews an account's lease on its shares |
//! | `GET /v1/collect` | what collection would take |
//! | `POST /v1/collect` | collects what is due |
//! | `POST /v1/walks/reconcile`, `POST /v1/walks/rebuild` | begins a walk through all containers |
//! | `GET /v1/walks` | how far it is |
//! | `POST /v1/clouds/NAME/adopt` | gives a container its owner object again |
//! | `POST /v1/clouds/NAME/gone` | says that a cloud which is not configured is lost |
//! | `POST /v1/clock/accept` | takes the machine's clock for right, and says how far it had moved |
//!
//! [`crate::wire`] has the documents. Errors are [`Failure`]s. A content that breaks off on its way
//! out ends the connection before its length: the client must count.

use std::{future::Future, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use raic_array::ArrayError;
use raic_storage::StorageError;
use tokio::net::UnixListener;

use crate::{
    Control, Live, accounts, files, leases, status,
    walks::{self, Walks},
    wire::{Code, ConnectorVersions, Failure},
};

/// The admin door.
pub struct Admin {
    pub(crate) live: Live,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) transfers: files::Transfers,
    pub(crate) walks: Walks,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

pub(crate) type Shared = State<Arc<Admin>>;
pub(crate) type Answer<T> = Result<Json<T>, Refused>;

/// An error on its way out.
pub(crate) struct Refused(ArrayError);

impl<E: Into<ArrayError>> From<E> for Refused {
    fn from(e: E) -> Self {
        Self(e.into())
    }
}

/// What HTTP and programs are told of an error.
fn code_of(e: &ArrayError) -> (StatusCode, Code) {
    match e {
        ArrayError::NoSuchFile(_) => (StatusCode::NOT_FOUND, Code::NoSuchFile),
        ArrayError::Name { .. } | ArrayError::StorageIndex(_) => {
            (StatusCode::BAD_REQUEST, Code::BadName)
        }
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
        | StorageError::ReadOnly { .. }
        | StorageError::TooManyLeases { .. } => (StatusCode::FORBIDDEN, Code::Refused),
        StorageError::NoAccount(_) => (StatusCode::NOT_FOUND, Code::Configuration),
        StorageError::AccountExists(_) => (StatusCode::CONFLICT, Code::Configuration),
        StorageError::Unusable { .. }
        | StorageError::NoCloud(_)
        | StorageError::AccountName(_)
        | StorageError::Quotas { .. } => (StatusCode::BAD_REQUEST, Code::Configuration),
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
    /// A door to the array that is open, of the daemon that `control` is.
    pub fn new(live: Live, control: Arc<dyn Control>) -> Self {
        Self {
            live,
            control,
            transfers: files::Transfers::default(),
            walks: Walks::default(),
        }
    }

    /// Serves until `stop` is ready; then lets requests end.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve(
        self,
        listener: UnixListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let routes = Router::new()
            .route("/v1/files", get(files::list))
            .route(
                "/v1/files/{*name}",
                get(files::read).put(files::store).delete(files::remove),
            )
            .route("/v1/stat/{*name}", get(files::stat))
            .route("/v1/transfers/{id}", get(files::transferred))
            .route("/v1/status", get(status::status))
            .route("/v1/reload", post(reload))
            .route("/v1/accounts", get(accounts::accounts))
            .route(
                "/v1/accounts/{name}",
                post(accounts::change_account).put(accounts::create_account),
            )
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
            .with_state(Arc::new(self));
        axum::serve(listener, routes)
            .with_graceful_shutdown(stop)
            .await
    }
}

async fn reload(State(admin): Shared, versions: Option<Json<ConnectorVersions>>) -> Response {
    let versions = versions.map(|Json(versions)| versions).unwrap_or_default();
    match admin.control.reload(versions).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            let failure = Failure {
                error,
                code: Code::Configuration,
            };
            (StatusCode::BAD_REQUEST, Json(failure)).into_response()
        }
    }
}
