//! What the admin door and its clients write to each other, as JSON.

use std::{collections::BTreeMap, time::Duration};

use raic_array::FileInfo;
use raic_cloud::{Metering, Operation};
use raic_storage::{Account, AccountChange};
use serde::{Deserialize, Serialize};

/// What kind of failure it was: programs act on it, and the `raic` command has an exit code for
/// each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A reason that has no code of its own.
    Other,
    /// The command line is wrong.
    Usage,
    /// A name that cannot be a file's or a storage index.
    BadName,
    /// A range past the end of the file.
    BadRange,
    /// There is no file of that name.
    NoSuchFile,
    /// The configuration, a credential, a key or a connector is wrong.
    Configuration,
    /// The state of things forbids it: a disabled account, a read-only cloud.
    Refused,
    /// A key that does not open what it should.
    WrongKey,
    /// No daemon runs.
    NoDaemon,
    /// Too few clouds can be reached to store or to read.
    TooFewClouds,
    /// A quota or a disk is full.
    Full,
    /// A daemon already runs in this home, or is starting or stopping.
    Busy,
    /// The content that was to be stored broke off.
    ContentBrokeOff,
}

/// An error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What failed, where and what to do, as a sentence.
    pub error: String,
    /// What programs act on.
    pub code: Code,
}

/// A share of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileShare {
    /// Its number.
    pub share: u8,
    /// The cloud that has it.
    pub cloud: String,
}

/// A share that a file lacks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LackingShare {
    /// Its number.
    pub share: u8,
    /// The cloud that did not take it, or lost it.
    pub cloud: String,
    /// Why, as a sentence.
    pub reason: String,
}

/// A file.
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
    /// Its shares, and where they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<FileShare>,
    /// The shares that it lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<LackingShare>,
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
                .map(|(share, cloud)| FileShare {
                    share: share.0,
                    cloud,
                })
                .collect(),
            lacking: info
                .lacking
                .into_iter()
                .map(|lacking| LackingShare {
                    share: lacking.share.0,
                    cloud: lacking.cloud,
                    reason: lacking.reason,
                })
                .collect(),
        }
    }
}

/// How the array and its clouds are.
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
    pub gone: Vec<GoneCloud>,
    /// What is wrong with the machine's clock, while leases wait for it.
    #[serde(default)]
    pub clock: Option<String>,
    /// Connectors that were dropped in and wait for approval.
    #[serde(default)]
    pub waiting: Vec<WaitingConnector>,
}

/// A cloud that was said to be gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GoneCloud {
    /// Its name.
    pub name: String,
    /// Shares of files that were there.
    pub shares: u64,
}

/// A version of a connector, which a cloud is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorVersion {
    /// How the configuration names the connector.
    pub connector: String,
    /// The SHA-256 of its file, in hex.
    pub sha256: String,
}

/// The versions that clouds are to run from now on, by the clouds' names.
pub type ConnectorVersions = BTreeMap<String, ConnectorVersion>;

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
    /// What the meter of a cloud counted.
    pub fn of(metering: &Metering) -> Self {
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

/// An account.
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

/// A lease.
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
    /// When it ends, in milliseconds since 1970; `None` if nothing ends it by itself.
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
    /// Shares that would go; up to 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_go: Vec<WouldGo>,
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

/// A share that collection would take.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WouldGo {
    /// Its storage index.
    pub storage_index: String,
    /// Its number.
    pub share: u8,
    /// Bytes of the share.
    pub bytes: u64,
    /// Why it would go.
    pub reason: String,
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
