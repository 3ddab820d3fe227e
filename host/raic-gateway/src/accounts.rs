//! Routes for accounts, and for the space that accounts and clouds use.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use raic_storage::UsageDay;
use serde::Deserialize;

use crate::{
    admin::{Answer, Shared},
    wire::{AccountInfo, AccountRequest, UsageLine},
};

/// Most lines of a page of days. A page has whole days only, and at least one.
const DAY_LINES: u32 = 10_000;

pub(crate) async fn accounts(State(admin): Shared) -> Answer<Vec<AccountInfo>> {
    let accounts = admin.live.now().leasedb.accounts().await?;
    Ok(Json(accounts.into_iter().map(AccountInfo::from).collect()))
}

pub(crate) async fn create_account(
    State(admin): Shared,
    Path(name): Path<String>,
    Json(request): Json<AccountRequest>,
) -> Answer<AccountInfo> {
    let made = admin
        .live
        .now()
        .leasedb
        .create_account(&name, request.into())
        .await;
    let made = made?;
    if let Some(tahoe) = &admin.tahoe {
        tahoe.accounts_changed();
    }
    Ok(Json(made.into()))
}

pub(crate) async fn change_account(
    State(admin): Shared,
    Path(name): Path<String>,
    Json(request): Json<AccountRequest>,
) -> Answer<AccountInfo> {
    let changed = admin
        .live
        .now()
        .leasedb
        .change_account(&name, request.into())
        .await;
    Ok(Json(changed?.into()))
}

/// The query of a request for usage.
#[derive(Deserialize)]
pub(crate) struct By {
    /// Kind of the lines: `account` (also if absent), `cloud` or `day`.
    by: Option<String>,
    /// For days: the last day of the page before. The page begins with the day before it.
    before: Option<String>,
}

pub(crate) async fn usage(
    State(admin): Shared,
    Query(By { by, before }): Query<By>,
) -> Answer<Vec<UsageLine>> {
    let now = admin.live.now();
    let leasedb = &now.leasedb;
    let line = |shares, files, bytes| UsageLine {
        day: None,
        account: None,
        cloud: None,
        shares,
        files,
        bytes,
    };
    let lines = match by.as_deref() {
        Some("cloud") => {
            let usage = leasedb.usage_by_server().await?;
            usage
                .into_iter()
                .map(|u| UsageLine {
                    cloud: Some(u.name),
                    ..line(u.shares, u.files, u.bytes)
                })
                .collect()
        }
        Some("day") => {
            let days = leasedb.usage_days(before, DAY_LINES).await?;
            let line_of = |d: UsageDay| UsageLine {
                day: Some(d.day),
                account: Some(d.account),
                cloud: d.server,
                ..line(d.shares, d.files, d.bytes)
            };
            days.into_iter().map(line_of).collect()
        }
        _ => {
            let usage = leasedb.usage_by_account().await?;
            usage
                .into_iter()
                .map(|u| UsageLine {
                    account: Some(u.name),
                    ..line(u.shares, u.files, u.bytes)
                })
                .collect()
        }
    };
    Ok(Json(lines))
}
