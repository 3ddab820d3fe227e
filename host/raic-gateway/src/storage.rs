//! The admin door's part for storage servers: accounts, usage, leases, collection, reconciliation
//! and rebuilding.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/accounts` | all accounts |
//! | `PUT /v1/accounts/NAME` | makes an account; body and answer as below |
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

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::{get, post},
};
use raic_array::{Array, ArrayError};
use raic_storage::{
    Account, AccountChange, Expiry, IndexPrefix, LeaseDb, Ownership, Reconciled, RenewSecret, ShareNum,
    StorageError, StorageIndex, StorageServer,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::admin::{Admin, Refused, Shared};

/// Leases in a page, and shares that a dry run shows of each cloud.
const PAGE: u32 = 1000;
/// Steps of collection that one request waits for, on each cloud.
const STEPS: usize = 1000;

/// An account, as it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountInfo {
    /// Its name.
    pub name: String,
    /// Whether it may not write.
    pub disabled: bool,
    /// Past so many bytes it is warned.
    pub soft_quota: Option<u64>,
    /// It may use so many bytes.
    pub hard_quota: Option<u64>,
    /// How long its leases last.
    pub lease_seconds: u64,
}

impl From<Account> for AccountInfo {
    fn from(account: Account) -> Self {
        Self {
            name: account.name,
            disabled: account.is_disabled,
            soft_quota: account.soft_quota,
            hard_quota: account.hard_quota,
            lease_seconds: account.lease.as_secs(),
        }
    }
}

/// A change of an account; what is absent stays, a quota that is null goes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountRequest {
    /// Whether it may not write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Past so many bytes it is warned.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "twice")]
    pub soft_quota: Option<Option<u64>>,
    /// It may use so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "twice")]
    pub hard_quota: Option<Option<u64>>,
    /// How long its leases last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u64>,
}

/// A field that may be absent, null or a value.
mod twice {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::option_option, reason = "absent, null, and a value")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Option<u64>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.flatten().serialize(to)
    }

    #[allow(clippy::option_option, reason = "absent, null, and a value")]
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Option<u64>>, D::Error> {
        Option::deserialize(from).map(Some)
    }
}

impl From<AccountRequest> for AccountChange {
    fn from(request: AccountRequest) -> Self {
        Self {
            is_disabled: request.disabled,
            soft_quota: request.soft_quota,
            hard_quota: request.hard_quota,
            lease: request.lease_seconds.map(Duration::from_secs),
        }
    }
}

/// A line of usage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UsageLine {
    /// The day, of history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// Shares.
    pub shares: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A lease, as it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseLine {
    /// Where the share is.
    pub cloud: String,
    /// Its storage index.
    pub storage_index: String,
    /// Its number.
    pub share: u8,
    /// Who holds the lease.
    pub account: String,
    /// When it was renewed, in milliseconds since 1970.
    pub renewed_ms: i64,
    /// When it ends; none: never.
    pub expires_ms: Option<i64>,
    /// Bytes of the share.
    pub bytes: u64,
    /// `coming`, `stable` or `going`.
    pub state: String,
}

/// What collection did, or would do, on one cloud.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CollectLine {
    /// The cloud.
    pub cloud: String,
    /// Shares that would go, with their bytes and why; up to 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_go: Vec<(String, u8, u64, String)>,
    /// Leases that ended.
    pub expired: u64,
    /// Shares whose objects were deleted.
    pub deleted: u64,
    /// Deletions that failed.
    pub failed: u64,
    /// Why it did not go on to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// That the clock was accepted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct AcceptedClock {
    /// How far it had moved, in milliseconds; 0 if it was right.
    pub off_ms: i64,
}

/// How far a walk through one cloud is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WalkLine {
    /// The cloud.
    pub cloud: String,
    /// Prefixes done.
    pub prefixes: u64,
    /// Of so many.
    pub of: u64,
    /// Shares that were listed.
    pub listed: u64,
    /// Shares that had no row and got one.
    pub discovered: u64,
    /// Objects of no whole share.
    pub torn: u64,
    /// Torn shares that are being destroyed.
    pub reaped: u64,
    /// Shares that are not where they should be.
    pub vanished: u64,
    /// Shares that could not be examined.
    #[serde(default)]
    pub failed: u64,
    /// Those that are lost now.
    pub lost: u64,
    /// Why it ended before its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A walk through all clouds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Walk {
    /// Whether it has not ended.
    pub is_running: bool,
    /// Each cloud.
    pub clouds: Vec<WalkLine>,
}

/// The walk that was begun last.
#[derive(Default)]
pub(crate) struct Walks {
    begun: Mutex<Option<Begun>>,
    /// Held by the request that begins one.
    beginning: tokio::sync::Mutex<()>,
}

/// What a walk is for, the lesser first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WalkKind {
    /// To reconcile what is leased with what is there.
    Reconcile,
    /// To take the containers over first.
    Rebuild,
}

impl WalkKind {
    fn name(self) -> &'static str {
        match self {
            Self::Reconcile => "reconcile",
            Self::Rebuild => "rebuild",
        }
    }
}

struct Begun {
    what: WalkKind,
    told: Vec<(String, Arc<Told>)>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    counts: Reconciled,
    error: Mutex<Option<String>>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer<T> = Result<Json<T>, Refused>;

fn refused(e: StorageError) -> Refused {
    Refused::from(ArrayError::from(e))
}

fn leasedb(array: &Array) -> Result<LeaseDb, Refused> {
    let first = array.servers().first();
    let none = || {
        refused(StorageError::Unusable {
            reason: "there are no clouds".to_owned(),
        })
    };
    first
        .map(|server| server.leasedb().clone())
        .ok_or_else(none)
}

pub(crate) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/accounts", get(accounts))
        .route(
            "/v1/accounts/{name}",
            post(change_account).put(create_account),
        )
        .route("/v1/usage", get(usage))
        .route("/v1/leases", get(leases))
        .route("/v1/leases/renew", post(renew))
        .route("/v1/collect", get(would_collect).post(collect))
        .route("/v1/walks", get(walked))
        .route("/v1/walks/{what}", post(walk))
        .route("/v1/clouds/{name}/adopt", post(adopt))
        .route("/v1/clouds/{name}/gone", post(gone))
        .route("/v1/clock/accept", post(accept_clock))
}

async fn accounts(State(admin): Shared) -> Answer<Vec<AccountInfo>> {
    let accounts = leasedb(&admin.array())?.accounts().await.map_err(refused)?;
    Ok(Json(accounts.into_iter().map(AccountInfo::from).collect()))
}

async fn create_account(
    State(admin): Shared,
    Path(name): Path<String>,
    Json(request): Json<AccountRequest>,
) -> Answer<AccountInfo> {
    let made = leasedb(&admin.array())?
        .create_account(&name, request.into())
        .await;
    Ok(Json(made.map_err(refused)?.into()))
}

async fn change_account(
    State(admin): Shared,
    Path(name): Path<String>,
    Json(request): Json<AccountRequest>,
) -> Answer<AccountInfo> {
    let changed = leasedb(&admin.array())?
        .change_account(&name, request.into())
        .await;
    Ok(Json(changed.map_err(refused)?.into()))
}

#[derive(Deserialize)]
struct By {
    by: Option<String>,
    /// Of days: those before this one, as the page before ended.
    before: Option<String>,
}

async fn usage(
    State(admin): Shared,
    Query(By { by, before }): Query<By>,
) -> Answer<Vec<UsageLine>> {
    let leasedb = leasedb(&admin.array())?;
    let line = |shares, bytes| UsageLine {
        day: None,
        account: None,
        cloud: None,
        shares,
        bytes,
    };
    let lines = match by.as_deref() {
        Some("cloud") => {
            let usage = leasedb.usage_by_server().await.map_err(refused)?;
            usage
                .into_iter()
                .map(|u| UsageLine {
                    cloud: Some(u.name),
                    ..line(u.shares, u.bytes)
                })
                .collect()
        }
        Some("day") => {
            let days = leasedb
                .usage_days(before, PAGE * 10)
                .await
                .map_err(refused)?;
            let of = |d: raic_storage::UsageDay| UsageLine {
                day: Some(d.day),
                account: Some(d.account),
                cloud: Some(d.server),
                ..line(d.shares, d.bytes)
            };
            days.into_iter().map(of).collect()
        }
        _ => {
            let usage = leasedb.usage_by_account().await.map_err(refused)?;
            usage
                .into_iter()
                .map(|u| UsageLine {
                    account: Some(u.name),
                    ..line(u.shares, u.bytes)
                })
                .collect()
        }
    };
    Ok(Json(lines))
}

#[derive(Deserialize)]
struct Which {
    account: Option<String>,
    index: Option<String>,
    /// `CLOUD/INDEX/SHARE` of the last lease of the page before.
    after: Option<String>,
}

fn parse_index(text: &str) -> Result<StorageIndex, Refused> {
    text.parse()
        .map_err(|_| Refused::from(ArrayError::StorageIndex(text.to_owned())))
}

async fn leases(State(admin): Shared, Query(which): Query<Which>) -> Answer<Vec<LeaseLine>> {
    let leasedb = leasedb(&admin.array())?;
    let account = match which.account {
        Some(name) => Some(leasedb.account(&name).await.map_err(refused)?.id),
        None => None,
    };
    let index = which.index.as_deref().map(parse_index).transpose()?;
    let after = which.after.as_deref().and_then(|after| {
        let mut parts = after.rsplitn(3, '/');
        let (share, index, server) = (parts.next()?, parts.next()?, parts.next()?);
        Some((
            server.to_owned(),
            index.parse().ok()?,
            ShareNum(share.parse().ok()?),
        ))
    });
    let leases = leasedb
        .leases(account, index, after, PAGE)
        .await
        .map_err(refused)?;
    // A lease that nothing ends by itself has no end to show.
    let lasts: BTreeSet<String> = admin
        .array()
        .servers()
        .iter()
        .filter(|server| server.expiry() == Expiry::Never)
        .map(|server| server.name().to_owned())
        .collect();
    let line = |l: raic_storage::LeaseInfo| LeaseLine {
        expires_ms: l.expires_ms.filter(|_| !lasts.contains(&l.server)),
        cloud: l.server,
        storage_index: l.index.to_string(),
        share: l.share.0,
        account: l.account,
        renewed_ms: l.renewed_ms,
        bytes: l.used_space,
        state: l.state.to_owned(),
    };
    Ok(Json(leases.into_iter().map(line).collect()))
}

async fn renew(
    State(admin): Shared,
    Query(which): Query<Which>,
) -> Answer<BTreeMap<String, usize>> {
    let array = admin.array();
    let account = leasedb(&array)?
        .account(which.account.as_deref().unwrap_or("anonymous"))
        .await;
    let account = account.map_err(refused)?;
    let index = parse_index(which.index.as_deref().unwrap_or_default())?;
    let mut renewed = BTreeMap::new();
    for server in array.servers() {
        // A lease of a name of its own, beside that of what is stored there.
        let of = RenewSecret::of(format!("raic lease renew {}", account.name).as_bytes());
        let count = server
            .renew(account.id, index, of)
            .await
            .map_err(refused)?
            .len();
        renewed.insert(server.name().to_owned(), count);
    }
    Ok(Json(renewed))
}

async fn would_collect(State(admin): Shared) -> Answer<Vec<CollectLine>> {
    let mut lines = Vec::new();
    for server in admin.array().servers() {
        let would_go = server.would_collect(PAGE).await.map_err(refused)?;
        let would_go = would_go
            .into_iter()
            .map(|(row, why)| {
                (
                    row.index.to_string(),
                    row.share.0,
                    row.used_space,
                    why.to_owned(),
                )
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

async fn collect(State(admin): Shared) -> Answer<Vec<CollectLine>> {
    // Side by side: one that hangs holds up none of the others.
    let array = admin.array();
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

async fn gone(State(admin): Shared, Path(name): Path<String>) -> Result<StatusCode, Refused> {
    leasedb(&admin.array())?
        .set_gone(&name)
        .await
        .map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn accept_clock(State(admin): Shared) -> Answer<AcceptedClock> {
    let off_ms = leasedb(&admin.array())?
        .accept_clock()
        .await
        .map_err(refused)?;
    Ok(Json(AcceptedClock { off_ms }))
}

async fn adopt(State(admin): Shared, Path(name): Path<String>) -> Result<StatusCode, Refused> {
    let array = admin.array();
    let server = array.servers().iter().find(|server| server.name() == name);
    let unknown = || StorageError::Unusable {
        reason: format!("there is no cloud {name:?}"),
    };
    server
        .ok_or_else(|| refused(unknown()))?
        .adopt()
        .await
        .map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begins a walk. One that does as much already is told of; a reconciliation makes way for a
/// rebuild, which goes on where it was.
async fn walk(State(admin): Shared, Path(what): Path<WalkKind>) -> Answer<Walk> {
    let _one_at_a_time = admin.walks.beginning.lock().await;
    let under_way = {
        let begun = admin
            .walks
            .begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        begun
            .as_ref()
            .filter(|begun| !begun.task.is_finished())
            .map(|begun| begun.what)
    };
    if under_way.is_none_or(|under_way| under_way < what) {
        *admin
            .walks
            .begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        if what == WalkKind::Rebuild {
            take_over(&admin).await?;
        }
        let servers: Vec<Arc<StorageServer>> = admin.array().servers().to_vec();
        let told: Vec<_> = servers
            .iter()
            .map(|s| (s.name().to_owned(), Arc::<Told>::default()))
            .collect();
        let walks = servers.into_iter().zip(&told).map(|(server, (_, told))| {
            let told = told.clone();
            async move {
                if let Err(e) = server.reconcile(what.name(), &told.counts).await {
                    *told.error.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(e.to_string());
                }
            }
        });
        let walks: Vec<_> = walks.collect();
        let task = tokio::spawn(async move {
            futures::future::join_all(walks).await;
        });
        *admin
            .walks
            .begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Begun { what, told, task });
    }
    Ok(Json(admin.walks.tell()))
}

/// Raises the epoch above every one that the containers have, and takes them over.
async fn take_over(admin: &Admin) -> Result<(), Refused> {
    let array = admin.array();
    let mut highest = None;
    for server in array.servers() {
        match server.check_owner().await {
            Ok(Ownership::OtherDatabase { epoch }) => highest = highest.max(Some(epoch)),
            Ok(_) => {}
            Err(e) => tracing::warn!("not rebuilt from: {e}"),
        }
    }
    let Some(highest) = highest else {
        return Ok(());
    };
    leasedb(&array)?
        .raise_epoch(highest)
        .await
        .map_err(refused)?;
    admin
        .reopen(None)
        .await
        .map_err(|why| refused(StorageError::Unusable { reason: why }))?;
    for server in admin.array().servers() {
        if let Err(e) = server.take_over().await {
            tracing::warn!("not taken over: {e}");
        }
    }
    Ok(())
}

async fn walked(State(admin): Shared) -> Json<Walk> {
    Json(admin.walks.tell())
}

impl Walks {
    fn tell(&self) -> Walk {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(begun) = &*begun else {
            return Walk::default();
        };
        let line = |(cloud, told): &(String, Arc<Told>)| {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let counts = &told.counts;
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
                error: told
                    .error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            }
        };
        Walk {
            is_running: !begun.task.is_finished(),
            clouds: begun.told.iter().map(line).collect(),
        }
    }
}
