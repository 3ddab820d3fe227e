//! Routes for walks through the containers: reconciliation, and the rebuild after the database was
//! lost. Also routes by which an operator adopts a container, or records that a cloud is gone.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use parking_lot::Mutex;
use raic_storage::{IndexPrefix, Ownership, Reconciled, StorageError, StorageServer};
use serde::Deserialize;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    admin::{Admin, Answer, Refused, Shared},
    wire::{ConnectorVersions, Walk, WalkLine},
};

/// The walk that was begun last, if there was one. At most one walk runs.
#[derive(Default)]
pub(crate) struct Walks {
    begun: Mutex<Option<Begun>>,
    /// Held by a request while it begins a walk.
    beginning: tokio::sync::Mutex<()>,
}

/// The kinds of walks. A later kind does all that an earlier one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WalkKind {
    /// Compares the containers with the leases.
    Reconcile,
    /// Takes the containers over, and then compares them with the leases.
    Rebuild,
}

impl WalkKind {
    /// Returns the name under which the progress of the walk is recorded in the database.
    fn name(self) -> &'static str {
        match self {
            Self::Reconcile => "reconcile",
            Self::Rebuild => "rebuild",
        }
    }
}

/// A walk through all containers, under way or ended.
struct Begun {
    what: WalkKind,
    progress: Vec<(String, Arc<Progress>)>,
    task: AbortOnDropHandle<()>,
}

/// Progress of a walk through one container.
#[derive(Default)]
struct Progress {
    counts: Reconciled,
    error: Mutex<Option<String>>,
}

pub(crate) async fn gone(
    State(admin): Shared,
    Path(name): Path<String>,
) -> Result<StatusCode, Refused> {
    admin.live.now().leasedb.set_gone(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn drain(
    State(admin): Shared,
    Path(name): Path<String>,
) -> Result<StatusCode, Refused> {
    admin.live.now().leasedb.begin_draining(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn undrain(
    State(admin): Shared,
    Path(name): Path<String>,
) -> Result<StatusCode, Refused> {
    admin.live.now().leasedb.end_draining(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn adopt(
    State(admin): Shared,
    Path(name): Path<String>,
) -> Result<StatusCode, Refused> {
    let now = admin.live.now();
    let server = now.servers.iter().find(|server| server.name() == name);
    server
        .ok_or_else(|| StorageError::NoCloud(name.clone()))?
        .adopt()
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begins a walk, and returns its progress. A walk under way that does as much goes on instead. A
/// rebuild ends a reconciliation under way. Each kind of walk continues where the last of its kind
/// was stopped.
pub(crate) async fn walk(State(admin): Shared, Path(what): Path<WalkKind>) -> Answer<Walk> {
    let _one_at_a_time = admin.walks.beginning.lock().await;
    let under_way = {
        let begun = admin.walks.begun.lock();
        begun
            .as_ref()
            .filter(|begun| !begun.task.is_finished())
            .map(|begun| begun.what)
    };
    if under_way.is_none_or(|under_way| under_way < what) {
        *admin.walks.begun.lock() = None;
        if what == WalkKind::Rebuild {
            take_over(&admin).await?;
        }
        let servers: Vec<Arc<StorageServer>> = admin.live.now().servers.clone();
        let progress: Vec<_> = servers
            .iter()
            .map(|s| (s.name().to_owned(), Arc::<Progress>::default()))
            .collect();
        let walks = servers
            .into_iter()
            .zip(&progress)
            .map(|(server, (_, progress))| {
                let progress = progress.clone();
                async move {
                    if let Err(e) = server.reconcile(what.name(), &progress.counts).await {
                        *progress.error.lock() = Some(e.to_string());
                    }
                }
            });
        let walks: Vec<_> = walks.collect();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            futures::future::join_all(walks).await;
        }));
        *admin.walks.begun.lock() = Some(Begun {
            what,
            progress,
            task,
        });
    }
    Ok(Json(admin.walks.report()))
}

/// Raises the database's epoch above the epochs of all containers that belong to other databases,
/// and takes these containers over.
pub(crate) async fn take_over(admin: &Admin) -> Result<(), Refused> {
    let now = admin.live.now();
    let mut highest = None;
    for server in &now.servers {
        match server.check_owner().await {
            Ok(Ownership::OtherDatabase { epoch }) => highest = highest.max(Some(epoch)),
            Ok(_) => {}
            Err(e) => tracing::warn!("a container is left out of the rebuild: {e}"),
        }
    }
    let Some(highest) = highest else {
        return Ok(());
    };
    now.leasedb.raise_epoch(highest).await?;
    admin
        .control
        .reload(ConnectorVersions::new())
        .await
        .map_err(|failure| StorageError::Unusable {
            reason: failure.error,
        })?;
    for server in &admin.live.now().servers {
        if let Err(e) = server.take_over().await {
            tracing::warn!("a container was not taken over: {e}");
        }
    }
    Ok(())
}

pub(crate) async fn walked(State(admin): Shared) -> Json<Walk> {
    Json(admin.walks.report())
}

impl Walks {
    fn report(&self) -> Walk {
        let begun = self.begun.lock();
        let Some(begun) = &*begun else {
            return Walk::default();
        };
        let line = |(cloud, progress): &(String, Arc<Progress>)| {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let counts = &progress.counts;
            WalkLine {
                cloud: cloud.clone(),
                prefixes: count(&counts.prefixes),
                of: u64::from(IndexPrefix::COUNT),
                listed: count(&counts.listed),
                discovered: count(&counts.discovered),
                torn: count(&counts.torn),
                reaped: count(&counts.reaped),
                vanished: count(&counts.vanished),
                lost: count(&counts.lost),
                failed: count(&counts.failed),
                error: progress.error.lock().clone(),
            }
        };
        Walk {
            is_running: !begun.task.is_finished(),
            clouds: begun.progress.iter().map(line).collect(),
        }
    }
}
