//! The documents that the admin door and its clients exchange, as JSON.

use std::{collections::BTreeMap, time::Duration};

use raic_array::{BucketInfo, ClassState, Details, FileInfo};
use raic_cloud::{Metering, Operation};
use raic_storage::{Account, AccountChange, Event, Moment};
use serde::{Deserialize, Serialize};

/// The kind of a failure. Programs act on it, and the command `raic` derives its exit code from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The command line is wrong.
    Usage,
    /// The text cannot be the name of a file, is not a storage index or the id of a version, or
    /// cannot be kept beside a file.
    BadName,
    /// The range begins past the end of the file.
    BadRange,
    /// There is no file or no bucket of that name.
    NoSuchFile,
    /// There is a file or a bucket of that name already, or a bucket holds files.
    Exists,
    /// The configuration, an account, a credential, a key or a connector is wrong or missing.
    Configuration,
    /// The operation is forbidden now: an account is disabled or has too many leases on a share, or
    /// a cloud is read-only.
    Refused,
    /// A key does not open what it should open.
    WrongKey,
    /// No daemon answers.
    NoDaemon,
    /// Too few clouds can be reached for the operation.
    TooFewClouds,
    /// A quota or a disk is full.
    Full,
    /// A daemon already runs in this home, or is starting or stopping.
    Busy,
    /// The content to be stored broke off, or is not as long as the client announced.
    ContentBrokeOff,
    /// Any failure that has no code of its own, or a code that this program does not know: the
    /// daemon may be of another version.
    #[serde(other)]
    Other,
}

/// A failed operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What failed, where and what to do, as a sentence.
    pub error: String,
    /// Kind of the failure, for programs.
    pub code: Code,
}

/// A share of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileShare {
    /// Number of the share.
    pub share: u8,
    /// Name of the cloud that holds the share.
    pub cloud: String,
}

/// A share that a file lacks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LackingShare {
    /// Number of the share.
    pub share: u8,
    /// Name of the cloud that did not take the share, or lost it.
    pub cloud: String,
    /// Why the share is missing, as a sentence.
    pub reason: String,
}

/// A file. The list of files leaves out the fields from `storage_index` on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct File {
    /// Name of the file.
    pub name: String,
    /// Bytes of content.
    pub size: u64,
    /// When the file was stored, in milliseconds since 1970.
    pub modified_ms: i64,
    /// When the file's source was last modified, in milliseconds since 1970, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_modified_ms: Option<i64>,
    /// BLAKE3 of the content, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// Storage index of the file's shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_index: Option<String>,
    /// Name of the class that the file was stored with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Number of shares that suffice to read the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<u8>,
    /// Number of shares that the file has if none is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u8>,
    /// Id of this version of the file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Whether this is an older version than the one that the name stands for now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_old: bool,
    /// Whether this only marks that the file was removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_delete_mark: bool,
    /// What is kept beside the content.
    #[serde(flatten)]
    pub details: FileDetails,
    /// Whether the file replaced another file of its name. Only the answer to a put reports it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// The shares that are stored, each with its cloud.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<FileShare>,
    /// The shares that the file lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<LackingShare>,
}

/// What is kept beside the content of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDetails {
    /// Media type of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Opaque text that names this content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Metadata of the client's own, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Tags, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Checksums of the content, by the name of their algorithm.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checksums: BTreeMap<String, String>,
}

impl From<Details> for FileDetails {
    fn from(details: Details) -> Self {
        Self {
            content_type: details.content_type,
            etag: details.etag,
            metadata: details.metadata,
            tags: details.tags,
            checksums: details.checksums,
        }
    }
}

impl From<FileDetails> for Details {
    fn from(details: FileDetails) -> Self {
        Self {
            content_type: details.content_type,
            etag: details.etag,
            metadata: details.metadata,
            tags: details.tags,
            checksums: details.checksums,
        }
    }
}

impl From<FileInfo> for File {
    fn from(info: FileInfo) -> Self {
        let hex = |hash: [u8; 32]| hash.iter().map(|b| format!("{b:02x}")).collect();
        Self {
            name: info.name,
            size: info.size,
            modified_ms: info.modified.as_millis(),
            source_modified_ms: info.source_modified.map(Moment::as_millis),
            blake3: info.content_hash.map(hex),
            storage_index: info.index.map(|i| i.to_string()),
            class: info.class,
            k: info.geometry.map(|geometry| geometry.k),
            n: info.geometry.map(|geometry| geometry.n),
            version: info.version.to_string(),
            is_old: !info.is_current,
            is_delete_mark: info.is_delete_mark,
            details: info.details.into(),
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

/// The header of a content that tells when its source was last modified, or else when it was
/// stored, in milliseconds since 1970.
pub const MODIFIED: &str = "raic-modified-ms";

/// A page of a list of files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Files {
    /// The files, in the order of the bytes of their names.
    pub files: Vec<File>,
    /// What the names of other files have in common, up to the delimiter.
    pub prefixes: Vec<String>,
    /// What the next page comes after; `None` on the last page.
    pub next: Option<String>,
    /// The version of it that the next page comes after, if versions are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_version: Option<String>,
}

/// A bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bucket {
    /// Name of the bucket.
    pub name: String,
    /// When the bucket was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// Number of files.
    pub files: u64,
    /// Bytes of content of all files.
    pub bytes: u64,
    /// Name of the class of new files; `None` is the array's default.
    pub class: Option<String>,
    /// Whether the configuration has no such class, so that the bucket takes no files.
    #[serde(default)]
    pub lacks_class: bool,
    /// Whether it keeps old versions of its files.
    #[serde(default)]
    pub versioning: Versioning,
}

/// Whether a bucket keeps the old versions of its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Versioning {
    /// It never did.
    #[default]
    Off,
    /// It does.
    On,
    /// It did, and keeps those that it has.
    Suspended,
}

impl From<raic_array::Versioning> for Versioning {
    fn from(versioning: raic_array::Versioning) -> Self {
        match versioning {
            raic_array::Versioning::Off => Self::Off,
            raic_array::Versioning::On => Self::On,
            raic_array::Versioning::Suspended => Self::Suspended,
        }
    }
}

impl From<Versioning> for raic_array::Versioning {
    fn from(versioning: Versioning) -> Self {
        match versioning {
            Versioning::Off => Self::Off,
            Versioning::On => Self::On,
            Versioning::Suspended => Self::Suspended,
        }
    }
}

impl From<BucketInfo> for Bucket {
    fn from(info: BucketInfo) -> Self {
        Self {
            name: info.name,
            created_ms: info.created.as_millis(),
            files: info.files,
            bytes: info.bytes,
            class: info.class,
            lacks_class: info.lacks_class,
            versioning: info.versioning.into(),
        }
    }
}

/// The state of the array and of its clouds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Shares that suffice to read a file; 0 if the configuration has no array.
    pub k: u8,
    /// Shares of a new file; 0 if the configuration has no array.
    pub n: u8,
    /// Clouds that must work for a file to be stored.
    #[serde(default)]
    pub needed: u8,
    /// What each class gives. The three numbers above are those of the default.
    #[serde(default)]
    pub classes: Vec<ClassStatus>,
    /// Number of files.
    pub files: u64,
    /// Bytes of content of all files.
    pub bytes: u64,
    /// Shares that their clouds did not take when the files were stored.
    pub lacking: u64,
    /// Shares that wait to be deleted.
    pub deletions: u64,
    /// Shares that vanished from their clouds, or that were on a cloud that is gone.
    #[serde(default)]
    pub lost: u64,
    /// State of each cloud.
    pub clouds: Vec<CloudStatus>,
    /// Clouds that the operator recorded as gone, if they held shares.
    #[serde(default)]
    pub gone: Vec<GoneCloud>,
    /// Sentence about the machine's clock if it is off and leases wait for it; `None` if it is
    /// right.
    #[serde(default)]
    pub clock: Option<String>,
    /// Files in the drop-in folder that are not approved.
    #[serde(default)]
    pub waiting: Vec<WaitingConnector>,
}

/// What a class gives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClassStatus {
    /// Name of the class.
    pub name: String,
    /// Whether files have the class if neither their bucket nor their request names one.
    pub is_default: bool,
    /// Shares that suffice to read a file.
    pub k: u8,
    /// Shares of a file.
    pub n: u8,
    /// Failure domains that may be lost right after a file was stored.
    pub survive: usize,
    /// Clouds that must work for a file to be stored.
    pub needed: usize,
}

impl From<ClassState> for ClassStatus {
    fn from(state: ClassState) -> Self {
        Self {
            name: state.name,
            is_default: state.is_default,
            k: state.class.geometry.k,
            n: state.class.geometry.n,
            survive: state.class.survive,
            needed: state.needed,
        }
    }
}

/// A cloud that the operator recorded as gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GoneCloud {
    /// Name of the cloud.
    pub name: String,
    /// Number of shares that the cloud held.
    pub shares: u64,
}

/// The version of a connector that a cloud is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorVersion {
    /// Name of the connector in the configuration.
    pub connector: String,
    /// SHA-256 of the connector's file, in hex.
    pub sha256: String,
}

/// The versions that clouds are to run from now on, by the clouds' names.
pub type ConnectorVersions = BTreeMap<String, ConnectorVersion>;

/// A file in the drop-in folder that is not approved. It is a connector that waits for the
/// operator's approval, or it is not a connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingConnector {
    /// Path of the file, quoted and escaped.
    pub file: String,
    /// Name and version of the connector; `None` if the file is not a connector.
    pub connector: Option<String>,
    /// Why the file is not a connector; `None` if it is one.
    pub fault: Option<String>,
}

/// The state of one cloud.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloudStatus {
    /// Name of the cloud.
    pub name: String,
    /// What is wrong with the cloud, as a sentence; `None` if it works.
    pub fault: Option<String>,
    /// Whether the cloud can take a share now.
    #[serde(default)]
    pub stores: bool,
    /// Whether the cloud is draining: it holds shares and gets no new ones.
    #[serde(default)]
    pub draining: bool,
    /// Whether the cloud has a copy of the keyring.
    pub keyring: bool,
    /// Shares of files that the cloud should have and does not have.
    #[serde(default)]
    pub lacking: u64,
    /// Bytes that may still be stored there; `None` if that is not known.
    #[serde(default)]
    pub available: Option<u64>,
    /// Last failure of each kind of work since the daemon started.
    #[serde(default)]
    pub last: Vec<LastFailure>,
    /// Counts of the requests since the daemon started; `None` if the cloud is a folder, or was
    /// never opened.
    #[serde(default)]
    pub traffic: Option<Traffic>,
}

/// Counts of the requests to one cloud since the daemon started. Every attempt counts, also one
/// that was given up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes of the payloads that the cloud stored.
    pub bytes_up: u64,
    /// Bytes of the bodies that arrived from the cloud.
    pub bytes_down: u64,
    /// Counts of each operation that was requested.
    pub operations: Vec<OperationTraffic>,
}

/// Counts and times of the requests of one operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OperationTraffic {
    /// Name of the operation, such as `put`.
    pub operation: String,
    /// Number of requests, including failed ones.
    pub requests: u64,
    /// Number of requests that failed or were given up, and of bodies that broke off.
    pub errors: u64,
    /// Upper bound of the median time to the answer, in milliseconds.
    pub p50_ms: u64,
    /// Upper bound of the 95th percentile of the time to the answer, in milliseconds.
    pub p95_ms: u64,
}

impl Traffic {
    /// Makes the document of the counts that the meter of a cloud has.
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
            operations: operations.filter(|counts| counts.requests > 0).collect(),
        }
    }
}

/// The last failure of a cloud in one kind of work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastFailure {
    /// Kind of work that failed: `storing` or `reading`.
    pub work: String,
    /// When it failed, in milliseconds since 1970.
    pub at_ms: u64,
    /// The failure, as a sentence.
    pub text: String,
}

/// An account and its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountInfo {
    /// Name of the account.
    pub name: String,
    /// Whether the account is disabled and may not write.
    pub disabled: bool,
    /// Bytes above which the daemon's log warns of the account; `None` for no warning.
    pub soft_quota: Option<u64>,
    /// Bytes that the account may use at most; `None` for no limit.
    pub hard_quota: Option<u64>,
    /// How long the account's leases last after each renewal, in seconds.
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

/// A change of an account's settings. A field that is absent stays as it is. A quota that is null
/// is removed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountRequest {
    /// Whether the account is disabled and may not write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Bytes above which the daemon's log warns of the account; `Some(None)` removes the quota.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "twice")]
    pub soft_quota: Option<Option<u64>>,
    /// Bytes that the account may use at most; `Some(None)` removes the quota.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "twice")]
    pub hard_quota: Option<Option<u64>>,
    /// How long the account's leases last after each renewal, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u64>,
}

/// Reads and writes a field that may be absent, null or a value.
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

/// The space that an account, a cloud, or both on one day use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UsageLine {
    /// Day of the line (`YYYY-MM-DD`, UTC); `None` if the line is about now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Name of the account; `None` if the line is about all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Name of the cloud; `None` if the line is about all of them, or about files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// Number of shares that are leased or stored.
    pub shares: u64,
    /// Number of files that the account pays for.
    #[serde(default)]
    pub files: u64,
    /// Bytes of these shares, and what the account pays for these files: content times n/k.
    pub bytes: u64,
}

/// A lease on a share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseLine {
    /// Name of the cloud that holds the share.
    pub cloud: String,
    /// Storage index of the share.
    pub storage_index: String,
    /// Number of the share.
    pub share: u8,
    /// Name of the account that holds the lease.
    pub account: String,
    /// When the lease was renewed last, in milliseconds since 1970.
    pub renewed_ms: i64,
    /// When the lease ends by itself, in milliseconds since 1970; `None` if it lasts, or if the
    /// configuration ends no leases.
    pub expires_ms: Option<i64>,
    /// Bytes that the share takes, or that are reserved for it.
    pub bytes: u64,
    /// State of the share: `coming`, `stable` or `going`.
    pub state: String,
}

/// The outcome of a collection on one cloud, or of its dry run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CollectLine {
    /// Name of the cloud.
    pub cloud: String,
    /// Shares that a collection would delete: up to 1000 without a lease, and up to 1000 whose
    /// leases have ended. Only a dry run has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_go: Vec<WouldGo>,
    /// Number of leases that ended.
    pub expired: u64,
    /// Number of shares whose objects were deleted.
    pub deleted: u64,
    /// Number of deletions that failed and will be tried again.
    pub failed: u64,
    /// Why the collection stopped early; `None` if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A share that collection would delete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WouldGo {
    /// Storage index of the share.
    pub storage_index: String,
    /// Number of the share.
    pub share: u8,
    /// Bytes of the share.
    pub bytes: u64,
    /// Why the share would be deleted.
    pub reason: String,
}

/// The answer to a request that accepts the clock.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct AcceptedClock {
    /// How far the clock had moved, in milliseconds: negative if it was set back, 0 if it was
    /// right.
    pub off_ms: i64,
}

/// How the clients of one account reach a storage server of the Tahoe door.
#[derive(Clone, Serialize, Deserialize)]
pub struct TahoeServer {
    /// Name of the cloud.
    pub cloud: String,
    /// The id in clients' `servers.yaml`.
    pub server_id: String,
    /// The id in the FURL.
    pub furl_id: String,
    /// Hash of the door's public key, as it stands in NURLs.
    pub key_hash: String,
    /// The secret in the NURL. Who knows it stores in the account's name.
    pub swissnum: String,
}

impl std::fmt::Debug for TahoeServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TahoeServer")
            .field("cloud", &self.cloud)
            .field("server_id", &self.server_id)
            .finish_non_exhaustive()
    }
}

/// The state of the Tahoe door.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TahoeStatus {
    /// The address and port that the door listens at.
    pub listen: String,
    /// Number of connections that are open.
    pub connections: usize,
    /// State of each storage server.
    pub servers: Vec<TahoeServerStatus>,
}

/// The state of one storage server of the Tahoe door.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TahoeServerStatus {
    /// Name of the cloud.
    pub cloud: String,
    /// Whether the server takes shares now.
    pub stores: bool,
    /// Bytes that can still be stored there; `None` if that is not known.
    pub available: Option<u64>,
    /// Number of uploads that are under way.
    pub uploads: u64,
}

/// The direction in which shares move between a cloud and a folder of Tahoe-LAFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveDirection {
    /// From the folder to the cloud.
    Import,
    /// From the cloud to the folder.
    Export,
}

/// A request to move shares between a cloud and a storage folder of Tahoe-LAFS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderRequest {
    /// Where the shares move.
    pub direction: MoveDirection,
    /// Name of the cloud.
    pub cloud: String,
    /// Absolute path of the storage folder, which has or gets `shares/`.
    pub folder: String,
    /// Name of the account that will hold the leases.
    pub account: String,
    /// The id in the FURL by which clients knew the folder's server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub furl_id: Option<String>,
    /// The id by which clients' `servers.yaml` knew the folder's server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
}

/// The progress of a move of shares between a cloud and a folder.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FolderMove {
    /// Whether the move is under way.
    pub is_running: bool,
    /// Number of shares that were found so far.
    pub found: u64,
    /// Number of shares that were moved.
    pub moved: u64,
    /// Number of shares that were there already.
    pub known: u64,
    /// Bytes of data that were moved.
    pub bytes: u64,
    /// Number of mutable shares that clients can read, but not write to, in the folder.
    pub read_only: u64,
    /// Number of files or shares that could not be moved.
    pub failed: u64,
    /// What could not be moved, and why, each as a sentence: the first 100.
    pub problems: Vec<String>,
    /// The FURL ids that the folder's mutable shares name.
    pub named_ids: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventLine {
    /// Number of the event. Later events have higher numbers.
    pub number: u64,
    /// When it was recorded, in milliseconds since 1970.
    pub at_ms: i64,
    /// Kind of the event: `advisory`, `leases`, `revoked`, `imported`, `exported` or
    /// `other`.
    pub kind: String,
    /// Name of the cloud that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// Name of the account that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What happened, as a sentence. It may have a client's words.
    pub text: String,
}

impl From<Event> for EventLine {
    fn from(event: Event) -> Self {
        Self {
            number: event.number,
            at_ms: event.at.as_millis(),
            kind: event.kind.name().to_owned(),
            cloud: event.server,
            account: event.account,
            text: event.text,
        }
    }
}

/// The progress of a walk through one container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WalkLine {
    /// Name of the cloud.
    pub cloud: String,
    /// Number of prefixes of storage indexes that are done.
    pub prefixes: u64,
    /// Number of all prefixes.
    pub of: u64,
    /// Number of shares that the listing showed.
    pub listed: u64,
    /// Number of whole shares that had no row and got one.
    pub discovered: u64,
    /// Number of torn shares: objects without a row that are not a whole share.
    pub torn: u64,
    /// Number of torn shares that are being destroyed.
    pub reaped: u64,
    /// Number of shares whose objects are missing or shortened.
    pub vanished: u64,
    /// Number of shares that could not be examined.
    #[serde(default)]
    pub failed: u64,
    /// Number of vanished shares that were marked as lost.
    pub lost: u64,
    /// Why the walk stopped before its end; `None` if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The progress of a walk through all containers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Walk {
    /// Whether the walk is under way.
    pub is_running: bool,
    /// Progress in each container.
    pub clouds: Vec<WalkLine>,
}
