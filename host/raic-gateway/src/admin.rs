//! The admin door: files and status as HTTP, contents streamed both ways.
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
//! | `POST /v1/reload` | reads the configuration again; its body, if any, goes to whoever does |
//!
//! `storage.rs` has the part for storage servers. Errors are `{"error": sentence, "code": word}`. A
//! content that breaks off on its way out ends the connection before its length: the client must
//! count.

use std::{
    collections::BTreeMap,
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use raic_array::{Array, ArrayError, CloudState, FileInfo, PutOptions, Transfer};
use raic_cloud::{Metering, Meters, Operation};
use raic_storage::StorageError;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::storage::Walks;

/// A future that opens an array in the place of the one given.
pub type Reload = Pin<Box<dyn Future<Output = Result<Array, String>> + Send>>;

/// What the door serves.
pub struct Admin {
    array: RwLock<Arc<Array>>,
    transfers: Transfers,
    pub(crate) walks: Walks,
    reload: Box<Reopen>,
    waiting: WaitingConnectors,
    meters: Meters,
    /// Held while the array is opened anew, so that of two who ask each opens what the other left.
    reloading: tokio::sync::Mutex<()>,
}

/// Opens the array anew in the place of the one before; what the request for it said, if anything.
pub type Reopen = dyn Fn(Arc<Array>, Option<serde_json::Value>) -> Reload + Send + Sync;

/// The connectors that wait for the operator's approval, as whoever watches for them last saw. A
/// std lock: held while it is copied.
pub type WaitingConnectors = Arc<Mutex<Vec<WaitingConnector>>>;

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// What is under way and named itself; bounded, so that nobody fills it.
#[derive(Clone, Default)]
struct Transfers(Arc<Mutex<BTreeMap<String, Transfer>>>);

/// The most that are told of at once.
const MAX_TRANSFERS: usize = 1024;
const MAX_TRANSFER_ID: usize = 64;
/// How long what is left of a refused content is read.
const DRAIN: Duration = Duration::from_secs(10);

/// Ends with the request.
struct Registered {
    transfers: Transfers,
    id: Option<String>,
    transfer: Transfer,
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Transfer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, named: Named) -> Registered {
        let transfer = Transfer::default();
        let mut known = self.lock();
        let id = named.transfer.filter(|id| {
            id.len() <= MAX_TRANSFER_ID && known.len() < MAX_TRANSFERS && !known.contains_key(id)
        });
        if let Some(id) = &id {
            known.insert(id.clone(), transfer.clone());
        }
        Registered {
            transfers: self.clone(),
            id,
            transfer,
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.transfers.lock().remove(id);
        }
    }
}

#[derive(Deserialize)]
struct Named {
    transfer: Option<String>,
    /// Who pays for what is stored; anonymous unless told.
    account: Option<String>,
    /// Bytes of what is stored, where they are known.
    size: Option<u64>,
}

/// A file, as it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Bytes of content.
    pub size: u64,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: i64,
    /// BLAKE3 of the content, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// What names its shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_index: Option<String>,
    /// Whether it took the place of another of its name, just now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// Cloud of each share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<(u8, String)>,
    /// Shares it lacks: number, cloud, reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<(u8, String, String)>,
}

/// How the array is, as it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Shares that suffice.
    pub k: u8,
    /// Shares there are.
    pub n: u8,
    /// Clouds that must work for a file to be stored.
    #[serde(default)]
    pub needed: u8,
    /// Files.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Shares that should be and are not.
    pub lacking: u64,
    /// Shares that wait to be deleted.
    pub deletions: u64,
    /// Shares that vanished from their clouds.
    #[serde(default)]
    pub lost: u64,
    /// Each cloud.
    pub clouds: Vec<CloudStatus>,
    /// Clouds that were said to be gone, and shares of files that were there.
    #[serde(default)]
    pub gone: Vec<(String, u64)>,
    /// What is wrong with the machine's clock, while leases wait for it.
    #[serde(default)]
    pub clock: Option<String>,
    /// Connectors that were dropped in and wait for approval.
    #[serde(default)]
    pub waiting: Vec<WaitingConnector>,
}

/// A connector's file that waits for the operator's approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingConnector {
    /// The file.
    pub file: String,
    /// Its name and version; none where it is no connector.
    pub connector: Option<String>,
    /// Why it is none.
    pub fault: Option<String>,
}

/// How one cloud is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloudStatus {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub fault: Option<String>,
    /// Whether it can take a share now.
    #[serde(default)]
    pub stores: bool,
    /// Whether it has the keyring.
    pub keyring: bool,
    /// Shares of files that it should have and has not.
    #[serde(default)]
    pub lacking: u64,
    /// Bytes that may still be stored there, where that is known.
    #[serde(default)]
    pub available: Option<u64>,
    /// The last failure of each kind since the daemon started.
    #[serde(default)]
    pub last: Vec<LastFailure>,
    /// What was asked of it since the daemon started; none of a folder.
    #[serde(default)]
    pub traffic: Option<Traffic>,
}

/// What was asked of a cloud: each attempt, also those that were given up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes of objects that the cloud took.
    pub bytes_up: u64,
    /// Bytes of objects that it gave.
    pub bytes_down: u64,
    /// By operation, those that there were.
    pub operations: Vec<OperationTraffic>,
}

/// How requests of one kind went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OperationTraffic {
    /// Such as `put`.
    pub operation: String,
    /// Requests, failed ones among them.
    pub requests: u64,
    /// Requests that failed or were given up, and bodies that broke off.
    pub errors: u64,
    /// An upper bound of the median time to the answer, in milliseconds.
    pub p50_ms: u64,
    /// The same of the 95th percentile.
    pub p95_ms: u64,
}

impl Traffic {
    fn of(metering: &Metering) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let operations = Operation::ALL.iter().map(|operation| {
            let summary = metering.operation(*operation);
            OperationTraffic {
                operation: operation.to_string(),
                requests: summary.requests,
                errors: summary.errors,
                p50_ms: ms(summary.p50),
                p95_ms: ms(summary.p95),
            }
        });
        Self {
            bytes_up: metering.bytes_up(),
            bytes_down: metering.bytes_down(),
            operations: operations.filter(|asked| asked.requests > 0).collect(),
        }
    }
}

/// The last failure of a kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastFailure {
    /// What it was asked for: `storing` or `reading`.
    pub work: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it was.
    pub text: String,
}

/// What went wrong, as it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// A sentence.
    pub error: String,
    /// A word that programs can act on.
    pub code: String,
}

impl From<FileInfo> for File {
    fn from(info: FileInfo) -> Self {
        let hex = |hash: [u8; 32]| hash.iter().map(|b| format!("{b:02x}")).collect();
        Self {
            name: info.name,
            size: info.size,
            modified_ms: info.modified_ms,
            blake3: info.content_hash.map(hex),
            storage_index: info.index.map(|i| i.to_string()),
            replaced: info.has_replaced,
            shares: info
                .shares
                .into_iter()
                .map(|(share, cloud)| (share.0, cloud))
                .collect(),
            lacking: info
                .lacking
                .into_iter()
                .map(|(share, cloud, why)| (share.0, cloud, why))
                .collect(),
        }
    }
}

pub(crate) struct Refused(ArrayError);

impl From<ArrayError> for Refused {
    fn from(e: ArrayError) -> Self {
        Self(e)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code) = match &self.0 {
            ArrayError::NoSuchFile(_) => (StatusCode::NOT_FOUND, "no-such-file"),
            ArrayError::Name { .. } | ArrayError::StorageIndex(_) => {
                (StatusCode::BAD_REQUEST, "bad-name")
            }
            ArrayError::Range { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "bad-range"),
            ArrayError::Content(_) => (StatusCode::BAD_REQUEST, "content-broke-off"),
            ArrayError::TooFewClouds { is_full: true, .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, "quota")
            }
            ArrayError::Storage(e) if e.is_full() => (StatusCode::INSUFFICIENT_STORAGE, "quota"),
            ArrayError::Database(e) if e.is_full() => (StatusCode::INSUFFICIENT_STORAGE, "quota"),
            ArrayError::TooFewClouds { .. } | ArrayError::KeyringNotStored { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "too-few-clouds")
            }
            ArrayError::Unreadable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unreadable"),
            ArrayError::Storage(e) => match e {
                StorageError::QuotaExceeded { .. } => (StatusCode::INSUFFICIENT_STORAGE, "quota"),
                StorageError::AccountDisabled(_) | StorageError::ReadOnly { .. } => {
                    (StatusCode::FORBIDDEN, "refused")
                }
                StorageError::NoAccount(_) => (StatusCode::NOT_FOUND, "configuration"),
                StorageError::Unusable { .. } => (StatusCode::BAD_REQUEST, "configuration"),
                StorageError::AccountExists(_) => (StatusCode::CONFLICT, "configuration"),
                StorageError::AccountName(_) | StorageError::Quotas { .. } => {
                    (StatusCode::BAD_REQUEST, "configuration")
                }
                StorageError::TooManyLeases { .. } => (StatusCode::FORBIDDEN, "refused"),
                _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            },
            ArrayError::WrongKey { .. } | ArrayError::Sealed { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "wrong-key")
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        (
            status,
            Json(Failure {
                error: self.0.to_string(),
                code: code.to_owned(),
            }),
        )
            .into_response()
    }
}

pub(crate) type Shared = State<Arc<Admin>>;

impl Admin {
    /// A door to `array`, which `reload` opens anew.
    pub fn new(
        array: Array,
        reload: Box<Reopen>,
        waiting: WaitingConnectors,
        meters: Meters,
    ) -> Self {
        Self {
            array: RwLock::new(Arc::new(array)),
            transfers: Transfers::default(),
            walks: Walks::default(),
            reload,
            waiting,
            meters,
            reloading: tokio::sync::Mutex::default(),
        }
    }

    /// Reads the configuration again, and opens the array anew.
    pub(crate) async fn reopen(&self, with: Option<serde_json::Value>) -> Result<(), String> {
        let _one_at_a_time = self.reloading.lock().await;
        let array = (self.reload)(self.array(), with).await?;
        *self.array.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(array);
        Ok(())
    }

    pub(crate) fn array(&self) -> Arc<Array> {
        self.array
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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
            .route("/v1/files", get(list))
            .route("/v1/files/{*name}", get(read).put(store).delete(remove))
            .route("/v1/stat/{*name}", get(stat))
            .route("/v1/status", get(status))
            .route("/v1/transfers/{id}", get(transferred))
            .route("/v1/reload", post(reload))
            .merge(crate::storage::routes())
            .with_state(Arc::new(self));
        axum::serve(listener, routes)
            .with_graceful_shutdown(stop)
            .await
    }
}

async fn store(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(named): Query<Named>,
    body: Body,
) -> Result<Json<File>, Refused> {
    let array = admin.array();
    let (size, account) = (named.size, named.account.clone());
    let registered = admin.transfers.register(named);
    // Shared, so that what is left of the content can be read after the array has refused it.
    // Nobody waits for the lock: the array's stream is gone by then.
    let body = Arc::new(tokio::sync::Mutex::new(body.into_data_stream()));
    let content = stream::unfold(body.clone(), |body| async move {
        let piece = body.lock().await.next().await;
        piece.map(|piece| (piece, body))
    });
    let stored = async {
        let mut options = PutOptions {
            size,
            transfer: registered.transfer.clone(),
            ..PutOptions::default()
        };
        if let (Some(account), Some(server)) = (account, array.servers().first()) {
            options.account = server.leasedb().account(&account).await?.id;
        }
        array.put(&name, content.boxed(), options).await
    };
    let stored = stored.await;
    if stored.is_err() {
        // Closed on while it sends, a client would see a broken pipe in the place of the reason.
        let drain = async {
            while body
                .lock()
                .await
                .next()
                .await
                .is_some_and(|piece| piece.is_ok())
            {}
        };
        // A client that takes longer has its reason from the log.
        let _ = tokio::time::timeout(DRAIN, drain).await;
    }
    Ok(Json(stored?.into()))
}

async fn transferred(
    State(admin): Shared,
    Path(id): Path<String>,
) -> Result<Json<BTreeMap<String, u64>>, StatusCode> {
    let transfer = admin.transfers.lock().get(&id).cloned();
    transfer
        .map(|transfer| Json(transfer.clouds()))
        .ok_or(StatusCode::NOT_FOUND)
}

async fn read(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let registered = admin.transfers.register(named);
    let asked = headers
        .get(header::RANGE)
        .and_then(|v| v.to_str().ok())
        .and_then(parse_range);
    let (info, range, mut content) = admin
        .array()
        .get(&name, asked.clone(), registered.transfer.clone())
        .await?;
    // Before the head of the answer, so that a content that cannot be read at all is an error like
    // any other.
    let first = content.try_next().await?;
    let content =
        content.inspect_err(|e| tracing::warn!("a content broke off on its way out: {e}"));
    let content = stream::iter(first.map(Ok))
        .chain(content)
        .inspect(move |_| {
            let _under_way = &registered;
        });
    let status = if asked.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let length = (range.end - range.start).to_string();
    let answer = (
        status,
        [(header::CONTENT_LENGTH, length)],
        Body::from_stream(content),
    )
        .into_response();
    tracing::debug!(name = info.name, ?range, "read");
    Ok(answer)
}

/// `bytes=a-b` and `bytes=a-` (RFC 9110 section 14.1.2); other ranges are ignored, as HTTP allows.
fn parse_range(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start = first.parse().ok()?;
    let end = if last.is_empty() {
        u64::MAX
    } else {
        last.parse::<u64>().ok()?.checked_add(1)?
    };
    (start < end).then_some(start..end)
}

async fn remove(State(admin): Shared, Path(name): Path<String>) -> Result<StatusCode, Refused> {
    admin.array().remove(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stat(State(admin): Shared, Path(name): Path<String>) -> Result<Json<File>, Refused> {
    Ok(Json(admin.array().stat(&name).await?.into()))
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    after: String,
    limit: Option<u32>,
}

async fn list(State(admin): Shared, Query(q): Query<Listing>) -> Result<Json<Vec<File>>, Refused> {
    let files = admin
        .array()
        .list(&q.prefix, &q.after, q.limit.unwrap_or(1000).min(1000))
        .await?;
    Ok(Json(files.into_iter().map(File::from).collect()))
}

async fn status(State(admin): Shared) -> Result<Json<Status>, Refused> {
    let status = admin.array().status().await?;
    let failure = |f: raic_array::LastFailure| LastFailure {
        work: f.work.to_string(),
        at_ms: f.at_ms,
        text: f.text,
    };
    let meters = &admin.meters;
    let cloud = |state: CloudState| CloudStatus {
        traffic: meters
            .get(&state.name)
            .map(|metering| Traffic::of(&metering)),
        name: state.name,
        fault: state.fault,
        stores: state.stores,
        keyring: state.has_keyring,
        lacking: state.lacking,
        available: state.available,
        last: state.last.into_iter().map(failure).collect(),
    };
    Ok(Json(Status {
        k: status.geometry.k,
        n: status.geometry.n,
        needed: u8::try_from(status.needed).unwrap_or(u8::MAX),
        files: status.totals.files,
        bytes: status.totals.bytes,
        lacking: status.totals.lacking,
        deletions: status.totals.deletions,
        lost: status.totals.lost,
        clouds: status.clouds.into_iter().map(cloud).collect(),
        gone: status.gone,
        clock: status.clock,
        waiting: admin
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
    }))
}

async fn reload(State(admin): Shared, with: Option<Json<serde_json::Value>>) -> Response {
    match admin.reopen(with.map(|Json(with)| with)).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            let failure = Failure {
                error,
                code: "configuration".to_owned(),
            };
            (StatusCode::BAD_REQUEST, Json(failure)).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_https() {
        assert_eq!(parse_range("bytes=0-9"), Some(0..10));
        assert_eq!(parse_range("bytes=5-"), Some(5..u64::MAX));
        for ignored in [
            "bytes=-5",
            "bytes=9-5",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=a-b",
            "",
        ] {
            assert_eq!(parse_range(ignored), None, "{ignored}");
        }
    }
}
