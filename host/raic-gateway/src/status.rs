//! The route that reports the state of the array and of its clouds.

use std::time::Duration;

use axum::{Json, extract::State};
use raic_array::CloudState;
use raic_storage::StorageServer;

use crate::{
    Opened,
    admin::{Admin, Answer, Refused, Shared},
    wire::{ClassStatus, CloudStatus, GoneCloud, LastFailure, Status},
};

/// Longest time that one cloud may take to say that it works.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn status(State(admin): Shared) -> Answer<Status> {
    let now = admin.live.now();
    let Some(array) = &now.array else {
        return Ok(Json(of_servers(&admin, &now).await?));
    };
    let status = array.status().await?;
    let failure = |f: raic_array::LastFailure| LastFailure {
        work: f.work.to_string(),
        at_ms: f.at_ms,
        text: f.text,
    };
    let cloud = |state: CloudState| CloudStatus {
        traffic: admin.control.traffic(&state.name),
        name: state.name,
        fault: state.fault,
        stores: state.stores,
        draining: state.is_draining,
        keyring: state.has_keyring,
        lacking: state.lacking,
        available: state.available,
        last: state.last.into_iter().map(failure).collect(),
    };
    let classes: Vec<ClassStatus> = status.classes.into_iter().map(ClassStatus::from).collect();
    let default = classes.iter().find(|class| class.is_default);
    let needed = default.map_or(0, |class| class.needed);
    Ok(Json(Status {
        k: default.map_or(0, |class| class.k),
        n: default.map_or(0, |class| class.n),
        needed: u8::try_from(needed).unwrap_or(u8::MAX),
        classes,
        files: status.totals.files,
        bytes: status.totals.bytes,
        lacking: status.totals.lacking,
        deletions: status.totals.deletions,
        lost: status.totals.lost,
        clouds: status.clouds.into_iter().map(cloud).collect(),
        gone: status
            .gone
            .into_iter()
            .map(|(name, shares)| GoneCloud { name, shares })
            .collect(),
        clock: status.clock,
        waiting: admin.control.waiting_connectors(),
    }))
}

/// Reports the storage servers of a daemon without an array.
async fn of_servers(admin: &Admin, now: &Opened) -> Result<Status, Refused> {
    let clouds = now.servers.iter().map(|server| of_server(admin, server));
    let clouds = futures::future::join_all(clouds).await;
    let (deletions, lost) = now.leasedb.waiting().await?;
    let gone = now.leasedb.gone().await?;
    Ok(Status {
        k: 0,
        n: 0,
        needed: 0,
        classes: Vec::new(),
        files: 0,
        bytes: 0,
        lacking: 0,
        deletions,
        lost,
        clouds,
        gone: gone
            .into_iter()
            .map(|(name, shares)| GoneCloud { name, shares })
            .collect(),
        clock: now.leasedb.clock_fault(),
        waiting: admin.control.waiting_connectors(),
    })
}

async fn of_server(admin: &Admin, server: &StorageServer) -> CloudStatus {
    let name = server.name();
    let (stores, fault, available) = match tokio::time::timeout(PATIENCE, server.condition()).await
    {
        Ok(Ok(condition)) => (condition.stores, condition.fault, condition.available),
        Ok(Err(e)) => (false, Some(e.to_string()), None),
        Err(_) => {
            let silent = format!("cloud {name:?}: no answer within {} s", PATIENCE.as_secs());
            (false, Some(silent), None)
        }
    };
    CloudStatus {
        traffic: admin.control.traffic(name),
        name: name.to_owned(),
        fault,
        stores,
        draining: server.is_draining(),
        // Without an array nothing needs the keyring but the identities of the doors.
        keyring: true,
        lacking: 0,
        available,
        last: Vec::new(),
    }
}
