//! Leases: listed, renewed and collected; and the clock by which they run.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{Query, State},
};
use raic_array::ArrayError;
use raic_storage::{Expiry, LeaseInfo, RenewSecret, ShareId, ShareNum, ShareState, StorageIndex};
use serde::Deserialize;

use crate::{
    admin::{Answer, Refused, Shared},
    wire::{AcceptedClock, CollectLine, LeaseLine, WouldGo},
};

/// Leases in a page, and shares that a dry run shows of each cloud.
const PAGE: u32 = 1000;
/// Steps of collection that one request waits for, on each cloud.
const STEPS: usize = 1000;

#[derive(Deserialize)]
pub(crate) struct Which {
    account: Option<String>,
    index: Option<String>,
    /// `CLOUD/INDEX/SHARE` of the last lease of the page before.
    after: Option<String>,
}

fn parse_index(text: &str) -> Result<StorageIndex, Refused> {
    text.parse()
        .map_err(|_| Refused::from(ArrayError::StorageIndex(text.to_owned())))
}

pub(crate) async fn leases(
    State(admin): Shared,
    Query(which): Query<Which>,
) -> Answer<Vec<LeaseLine>> {
    let array = admin.live.array();
    let leasedb = array.leasedb();
    let account = match which.account {
        Some(name) => Some(leasedb.account(&name).await?.id),
        None => None,
    };
    let index = which.index.as_deref().map(parse_index).transpose()?;
    let after = which.after.as_deref().and_then(|after| {
        let mut parts = after.rsplitn(3, '/');
        let (share, index, server) = (parts.next()?, parts.next()?, parts.next()?);
        let id = ShareId {
            index: index.parse().ok()?,
            share: ShareNum(share.parse().ok()?),
        };
        Some((server.to_owned(), id))
    });
    let leases = leasedb.leases(account, index, after, PAGE).await?;
    // A lease that nothing ends by itself has no end to show.
    let lasts: BTreeSet<String> = array
        .servers()
        .iter()
        .filter(|server| server.expiry() == Expiry::Never)
        .map(|server| server.name().to_owned())
        .collect();
    let line = |l: LeaseInfo| LeaseLine {
        expires_ms: l.expires_ms.filter(|_| !lasts.contains(&l.server)),
        cloud: l.server,
        storage_index: l.id.index.to_string(),
        share: l.id.share.0,
        account: l.account,
        renewed_ms: l.renewed_ms,
        bytes: l.used_space,
        state: match l.state {
            ShareState::Coming => "coming",
            ShareState::Stable => "stable",
            ShareState::Going => "going",
        }
        .to_owned(),
    };
    Ok(Json(leases.into_iter().map(line).collect()))
}

pub(crate) async fn renew(
    State(admin): Shared,
    Query(which): Query<Which>,
) -> Answer<BTreeMap<String, usize>> {
    let array = admin.live.array();
    let account = array
        .leasedb()
        .account(which.account.as_deref().unwrap_or("anonymous"))
        .await;
    let account = account?;
    let index = parse_index(which.index.as_deref().unwrap_or_default())?;
    let mut renewed = BTreeMap::new();
    for server in array.servers() {
        // A lease of a name of its own, beside that of what is stored there.
        let secret = RenewSecret::of(format!("raic lease renew {}", account.name).as_bytes());
        let count = server.renew(account.id, index, secret).await?.len();
        renewed.insert(server.name().to_owned(), count);
    }
    Ok(Json(renewed))
}

pub(crate) async fn would_collect(State(admin): Shared) -> Answer<Vec<CollectLine>> {
    let mut lines = Vec::new();
    for server in admin.live.array().servers() {
        let would_go = server.would_collect(PAGE).await?;
        let would_go = would_go
            .into_iter()
            .map(|(row, why)| WouldGo {
                storage_index: row.id.index.to_string(),
                share: row.id.share.0,
                bytes: row.used_space,
                reason: why.to_owned(),
            })
            .collect();
        lines.push(CollectLine {
            cloud: server.name().to_owned(),
            would_go,
            ..CollectLine::default()
        });
    }
    Ok(Json(lines))
}

pub(crate) async fn collect(State(admin): Shared) -> Answer<Vec<CollectLine>> {
    // Side by side: one that hangs holds up none of the others.
    let array = admin.live.array();
    let lines = array.servers().iter().map(|server| async move {
        let mut line = CollectLine {
            cloud: server.name().to_owned(),
            ..CollectLine::default()
        };
        for _ in 0..STEPS {
            let step = match server.collect_paced_step().await {
                Ok(step) => step,
                Err(e) => {
                    line.error = Some(e.to_string());
                    break;
                }
            };
            line.expired += step.expired as u64;
            line.deleted += step.deleted as u64;
            line.failed += step.failed as u64;
            if !step.went_on() {
                break;
            }
        }
        line
    });
    Ok(Json(futures::future::join_all(lines).await))
}

pub(crate) async fn accept_clock(State(admin): Shared) -> Answer<AcceptedClock> {
    let off_ms = admin.live.array().leasedb().accept_clock().await?;
    Ok(Json(AcceptedClock { off_ms }))
}
