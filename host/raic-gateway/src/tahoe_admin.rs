//! Routes about the Tahoe door: how clients reach its storage servers, its state, and the
//! revocation of secrets. Also the route of events.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use raic_array::ArrayError;
use raic_storage::{EventKind, NewEvent, StorageError};
use serde::Deserialize;

use crate::{
    admin::{Admin, Answer, Refused, Shared},
    tahoe::TahoeDoor,
    wire::{EventLine, TahoeServer, TahoeServerStatus, TahoeStatus},
};

/// Most events of a page.
const PAGE: u32 = 1000;

/// The query of a request about one account.
#[derive(Deserialize)]
pub(crate) struct Of {
    /// Name of the account.
    account: Option<String>,
}

fn door(admin: &Admin) -> Result<&Arc<TahoeDoor>, Refused> {
    Ok(admin.tahoe.as_ref().ok_or(ArrayError::NoTahoe)?)
}

pub(crate) async fn servers(
    State(admin): Shared,
    Query(of): Query<Of>,
) -> Answer<Vec<TahoeServer>> {
    let account = of.account.as_deref().unwrap_or("anonymous");
    Ok(Json(door(&admin)?.servers(account).await?))
}

pub(crate) async fn status(State(admin): Shared) -> Answer<TahoeStatus> {
    let door = door(&admin)?;
    let now = admin.live.now();
    door.look(&now.servers).await;
    let mut uploads: BTreeMap<String, u64> = BTreeMap::new();
    for (server, _) in now.leasedb.uploads_under_way().await? {
        *uploads.entry(server).or_default() += 1;
    }
    let servers = now.servers.iter().map(|server| {
        let (stores, available) = door.seen(server);
        TahoeServerStatus {
            cloud: server.name().to_owned(),
            stores,
            available,
            uploads: uploads.get(server.name()).copied().unwrap_or_default(),
        }
    });
    Ok(Json(TahoeStatus {
        listen: door.listens_at().to_string(),
        connections: door.connections(),
        servers: servers.collect(),
    }))
}

/// Revokes the secrets by which an account's clients use the Tahoe door.
pub(crate) async fn revoke(
    State(admin): Shared,
    Path(account): Path<String>,
) -> Result<StatusCode, Refused> {
    let leasedb = admin.live.now().leasedb.clone();
    let account = leasedb.storing_account(&account).await?;
    let door = admin.tahoe.clone();
    // A task of its own, so that the door learns of it even if the command is interrupted.
    let revoked = tokio::spawn(async move {
        leasedb.revoke(&account.name).await?;
        if let Some(door) = door {
            door.accounts_changed();
        }
        let event = NewEvent {
            kind: EventKind::Revoked,
            server: None,
            account: Some(account.id),
            text: "the secrets of its Tahoe clients were revoked".to_owned(),
        };
        leasedb.record_events(vec![event]).await
    });
    revoked
        .await
        .map_err(|e| StorageError::Task(e.to_string()))??;
    Ok(StatusCode::NO_CONTENT)
}

/// The query of a request for events.
#[derive(Deserialize)]
pub(crate) struct After {
    /// Number of the event after which the page begins. If it is absent, the page has the newest
    /// events.
    after: Option<u64>,
    /// Most events of the page.
    limit: Option<u32>,
}

pub(crate) async fn events(
    State(admin): Shared,
    Query(page): Query<After>,
) -> Answer<Vec<EventLine>> {
    let leasedb = admin.live.now().leasedb.clone();
    if let Some(door) = &admin.tahoe {
        door.record_activity(&leasedb).await;
    }
    let limit = page.limit.unwrap_or(PAGE).min(PAGE);
    let events = leasedb.events(page.after, limit).await?;
    Ok(Json(events.into_iter().map(EventLine::from).collect()))
}
