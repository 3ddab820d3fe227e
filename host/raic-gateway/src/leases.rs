//! Routes for leases: listing, renewal and collection. Also the route that accepts the clock, by
//! which leases run.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{Query, State},
};
use raic_array::ArrayError;
use raic_storage::{
    Expiry, LeaseInfo, Moment, RenewSecret, ShareId, ShareNum, ShareState, StorageIndex,
};
use serde::Deserialize;

use crate::{
    admin::{Answer, Refused, Shared},
    wire::{AcceptedClock, CollectLine, LeaseLine, WouldGo},
};

/// Most leases in a page, and most shares of each kind that a dry run reports for a cloud.
const PAGE: u32 = 1000;
/// Most steps of collection that one request does on each cloud.
const STEPS: usize = 1000;

/// The query of a request about leases.
#[derive(Deserialize)]
pub(crate) struct Which {
    /// Name of the account whose leases are meant.
    account: Option<String>,
    /// Storage index of the shares whose leases are meant.
    index: Option<String>,
    /// `CLOUD/INDEX/SHARE` of the last lease of the page before. The page begins after that share.
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
    let now = admin.live.now();
    let leasedb = &now.leasedb;
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
    // A lease that nothing ends by itself has no end to report.
    let lasts: BTreeSet<String> = now
        .servers
        .iter()
        .filter(|server| server.expiry() == Expiry::Never)
        .map(|server| server.name().to_owned())
        .collect();
    let line = |l: LeaseInfo| LeaseLine {
        expires_ms: l
            .expires
            .filter(|_| l.state == ShareState::Coming || !lasts.contains(&l.server))
            .map(Moment::as_millis),
        cloud: l.server,
        storage_index: l.id.index.to_string(),
        share: l.id.share.0,
        account: l.account,
        renewed_ms: l.renewed.as_millis(),
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
    let now = admin.live.now();
    let account = now
        .leasedb
        .storing_account(which.account.as_deref().unwrap_or("anonymous"))
        .await;
    let account = account?;
    let index = parse_index(which.index.as_deref().unwrap_or_default())?;
    let mut renewed = BTreeMap::new();
    for server in &now.servers {
        // The secret is the account's own, so that the lease stands beside that of a file.
        let secret = RenewSecret::of(format!("raic lease renew {}", account.name).as_bytes());
        let count = server.renew(account.id, index, secret).await?.len();
        renewed.insert(server.name().to_owned(), count);
    }
    Ok(Json(renewed))
}

pub(crate) async fn would_collect(State(admin): Shared) -> Answer<Vec<CollectLine>> {
    let mut lines = Vec::new();
    for server in &admin.live.now().servers {
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
    // All clouds at once, so that a cloud that hangs holds up no other.
    let now = admin.live.now();
    let lines = now.servers.iter().map(|server| async move {
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
    let off_ms = admin.live.now().leasedb.accept_clock().await?;
    Ok(Json(AcceptedClock { off_ms }))
}
