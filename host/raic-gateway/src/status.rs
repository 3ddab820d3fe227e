//! The route that reports the state of the array and of its clouds.

use axum::{Json, extract::State};
use raic_array::CloudState;

use crate::{
    admin::{Answer, Shared},
    wire::{CloudStatus, GoneCloud, LastFailure, Status},
};

pub(crate) async fn status(State(admin): Shared) -> Answer<Status> {
    let status = admin.live.array().status().await?;
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
        gone: status
            .gone
            .into_iter()
            .map(|(name, shares)| GoneCloud { name, shares })
            .collect(),
        clock: status.clock,
        waiting: admin.control.waiting_connectors(),
    }))
}
