//! `raic connector practice`: a simple HTTP object service on loopback, to try connectors on. It
//! keeps objects in memory. Its protocol is described in `connectors/examples/practice/src/lib.rs`,
//! the connector that `raic connector new` begins with.

use std::{collections::BTreeMap, net::Ipv4Addr, ops::Bound, path::PathBuf, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use clap::Args;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    error::{Failed, Outcome},
    home::private_file,
    output::say,
};

/// Bytes of the largest object: more than the largest object that connectors are tested with.
const MAX_OBJECT: usize = 80 << 20;
/// Bytes of all objects together, at most.
const MAX_BYTES: usize = 1 << 30;

#[derive(Args)]
pub(crate) struct PracticeArguments {
    /// The port of 127.0.0.1 to listen on; 0 is any free port
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The file to write the token to; if it holds a token already, that one is used [default: a
    /// temporary file, removed at the end]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

struct Stored {
    content: Bytes,
    etag: String,
    modified: Timestamp,
}

struct Service {
    token: String,
    // A blocking lock: held while a map is changed.
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    by_key: BTreeMap<String, Stored>,
    written: u64,
}

impl Service {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock()
    }
}

/// Serves until a signal to stop.
pub(crate) async fn serve(arguments: PracticeArguments, json: bool) -> Outcome {
    let mut token = raic_storage::StorageIndex::random()
        .map_err(Failed::other)?
        .to_string();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port)).await;
    let listener = listener
        .map_err(|e| Failed::other(format!("cannot listen on port {}: {e}", arguments.port)))?;
    let url = format!("http://{}", listener.local_addr().map_err(Failed::other)?);
    let folder = tempfile::tempdir().map_err(Failed::other)?;
    let file = arguments
        .token_file
        .unwrap_or_else(|| folder.path().join("token"));
    match std::fs::read_to_string(&file) {
        // The old token is kept, so that clouds that were set up with it go on working.
        Ok(kept) if !kept.trim().is_empty() => kept.trim().clone_into(&mut token),
        _ => private_file(&file, token.as_bytes())?,
    }
    if json {
        crate::files::print_json(&json!({"url": url, "token_file": file}))?;
    } else {
        say!("a service for practice is at {url}; Ctrl-C stops it, and its objects are gone then");
        say!("try a connector on it:");
        say!(
            "  raic connector test FILE --set endpoint={url} --credential account={}",
            file.display()
        );
    }
    let service = Arc::new(Service {
        token,
        objects: Mutex::default(),
    });
    let router = Router::new()
        .route("/objects", get(list))
        .route("/objects/{*key}", get(read).put(write).delete(remove))
        .layer(DefaultBodyLimit::max(MAX_OBJECT))
        .layer(middleware::from_fn_with_state(service.clone(), authorised))
        .with_state(service);
    // Every signal to stop ends this function, so that a temporary token file is removed.
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served.map_err(Failed::other),
        _ = crate::files::stopped() => Ok(()),
    }
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({"code": code, "message": message}))).into_response()
}

async fn authorised(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if given.and_then(|value| value.strip_prefix("Bearer ")) == Some(&service.token) {
        return next.run(request).await;
    }
    refusal(
        StatusCode::UNAUTHORIZED,
        "token",
        "the token is missing, or another one",
    )
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Returns whether the conditions of a request hold for the stored object, if there is one.
fn holds(headers: &HeaderMap, stored: Option<&Stored>) -> bool {
    let matches = text(headers, header::IF_MATCH)
        .is_none_or(|etag| stored.is_some_and(|stored| stored.etag == etag));
    let is_new = text(headers, header::IF_NONE_MATCH) != Some("*") || stored.is_none();
    matches && is_new
}

fn unmet() -> Response {
    refusal(
        StatusCode::PRECONDITION_FAILED,
        "condition",
        "the condition does not hold",
    )
}

fn missing() -> Response {
    refusal(StatusCode::NOT_FOUND, "missing", "there is no such object")
}

async fn write(
    State(service): State<Arc<Service>>,
    Path(key): Path<String>,
    headers: HeaderMap,
    content: Bytes,
) -> Response {
    let mut objects = service.lock();
    if !holds(&headers, objects.by_key.get(&key)) {
        return unmet();
    }
    let held: usize = objects
        .by_key
        .values()
        .map(|stored| stored.content.len())
        .sum();
    if held + content.len() > MAX_BYTES {
        return refusal(
            StatusCode::INSUFFICIENT_STORAGE,
            "quota",
            "the service's memory is full",
        );
    }
    objects.written += 1;
    let etag = format!("\"{}\"", objects.written);
    objects.by_key.insert(
        key,
        Stored {
            content,
            etag: etag.clone(),
            modified: Timestamp::now(),
        },
    );
    (StatusCode::CREATED, [(header::ETAG, etag)]).into_response()
}

async fn read(
    State(service): State<Arc<Service>>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Response {
    let objects = service.lock();
    let Some(stored) = objects.by_key.get(&key) else {
        return missing();
    };
    if !holds(&headers, Some(stored)) {
        return unmet();
    }
    let size = stored.content.len();
    let modified = stored
        .modified
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string();
    let common = [
        (header::ETAG, stored.etag.clone()),
        (header::LAST_MODIFIED, modified),
    ];
    let range = text(&headers, header::RANGE)
        .and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let range = range
        .and_then(|(start, end)| Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?)));
    match range {
        None => (StatusCode::OK, common, stored.content.clone()).into_response(),
        Some((start, end)) if start < size && start <= end => {
            let end = end.min(size - 1);
            let range = [(header::CONTENT_RANGE, format!("bytes {start}-{end}/{size}"))];
            (
                StatusCode::PARTIAL_CONTENT,
                common,
                range,
                stored.content.slice(start..=end),
            )
                .into_response()
        }
        Some(_) => refusal(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range",
            "the range begins past the end",
        ),
    }
}

async fn remove(
    State(service): State<Arc<Service>>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Response {
    let mut objects = service.lock();
    match objects.by_key.get(&key) {
        None => missing(),
        stored if !holds(&headers, stored) => unmet(),
        Some(_) => {
            objects.by_key.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
    }
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    #[serde(default = "thousand")]
    limit: usize,
}

fn thousand() -> usize {
    1000
}

async fn list(State(service): State<Arc<Service>>, Query(asked): Query<Listing>) -> Response {
    let objects = service.lock();
    // The page begins after the last key of the page before, or at the prefix if that is later.
    let from = match asked.after {
        Some(after) if after >= asked.prefix => Bound::Excluded(after),
        _ => Bound::Included(asked.prefix.clone()),
    };
    let listed = objects.by_key.range((from, Bound::Unbounded));
    let mut listed = listed
        .take_while(|(key, _)| key.starts_with(&asked.prefix))
        .peekable();
    let mut page = Vec::new();
    while page.len() < asked.limit.clamp(1, 1000) {
        let Some((key, stored)) = listed.next() else {
            break;
        };
        page.push((key, stored));
    }
    let next = listed.peek().and(page.last()).map(|(key, _)| key);
    let rows = page.iter().map(|(key, stored)| {
        let modified = stored.modified.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        json!({"key": key, "size": stored.content.len(), "etag": stored.etag, "modified": modified})
    });
    Json(json!({"objects": rows.collect::<Vec<_>>(), "next": next})).into_response()
}
