//! What can go wrong at a cloud: one kind for each case on which the host acts differently.

use std::{fmt, time::Duration};

/// Result of a cloud operation.
pub type Result<T, E = CloudError> = std::result::Result<T, E>;

/// The kind of a failure. It decides what happens next; each kind documents its retry rule.
///
/// The list is that of the contract (`wit/`, `types.error-kind`) and is frozen with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The object does not exist. Final.
    NotFound,
    /// The container does not exist. Final: the operator must create it.
    ContainerNotFound,
    /// A create-only put found an object with that key. Final. After an attempt without an answer,
    /// the object's content decides whether the put succeeded (see [`Retry`](crate::Retry)).
    AlreadyExists,
    /// The object's etag was not the one of `if-match`. Final. After an attempt without an answer,
    /// the object's content decides whether a put succeeded (see [`Retry`](crate::Retry)).
    PreconditionFailed,
    /// The provider saw two requests collide. Retried.
    Conflict,
    /// The range begins past the end of the object. Final.
    RangeNotSatisfiable,
    /// The credentials are wrong or expired. Final: the connector has already tried a fresh login.
    Unauthenticated,
    /// The credentials are valid but do not permit this. Final.
    PermissionDenied,
    /// The provider's clock and the host's differ too much for a signature to be accepted. Final.
    ClockSkew,
    /// The provider has no space left, or the account's quota is used up. Final.
    QuotaExceeded,
    /// An object or an answer is larger than its limit. Final.
    TooLarge,
    /// The provider refused the request because of too many requests. Retried, not before the time
    /// that the provider names.
    Throttled,
    /// The service, or the network path to it, is down. Retried.
    Unavailable,
    /// No answer came in time; a write may still land. Retried.
    Timeout,
    /// The bytes arrived damaged: a checksum or a length did not match. Retried.
    Integrity,
    /// The object is in cold storage and must be restored first. Final.
    Archived,
    /// The host refused what the connector wanted to do. Final.
    RefusedByHost,
    /// A setting is missing or wrong. Final.
    Misconfigured,
    /// The provider or the connector cannot do this. Final.
    Unsupported,
    /// The answer violates the provider's protocol. Retried.
    Protocol,
    /// The connector failed: a trap, a limit, or its own bug. Final.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the contract's order.
    pub const ALL: [Self; 21] = [
        Self::NotFound,
        Self::ContainerNotFound,
        Self::AlreadyExists,
        Self::PreconditionFailed,
        Self::Conflict,
        Self::RangeNotSatisfiable,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::ClockSkew,
        Self::QuotaExceeded,
        Self::TooLarge,
        Self::Throttled,
        Self::Unavailable,
        Self::Timeout,
        Self::Integrity,
        Self::Archived,
        Self::RefusedByHost,
        Self::Misconfigured,
        Self::Unsupported,
        Self::Protocol,
        Self::Internal,
    ];

    /// Whether the same request may succeed if it is repeated a little later.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Conflict
                | Self::Throttled
                | Self::Unavailable
                | Self::Timeout
                | Self::Integrity
                | Self::Protocol
        )
    }

    /// Whether a write that failed with this kind may nevertheless have been done, or may yet be
    /// done.
    pub fn is_ambiguous(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::Timeout | Self::Protocol | Self::Internal
        )
    }

    /// The contract's name of this kind, such as `container-not-found`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::ContainerNotFound => "container-not-found",
            Self::AlreadyExists => "already-exists",
            Self::PreconditionFailed => "precondition-failed",
            Self::Conflict => "conflict",
            Self::RangeNotSatisfiable => "range-not-satisfiable",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission-denied",
            Self::ClockSkew => "clock-skew",
            Self::QuotaExceeded => "quota-exceeded",
            Self::TooLarge => "too-large",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Integrity => "integrity",
            Self::Archived => "archived",
            Self::RefusedByHost => "refused-by-host",
            Self::Misconfigured => "misconfigured",
            Self::Unsupported => "unsupported",
            Self::Protocol => "protocol",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An operation of [`Cloud`](crate::Cloud): in an error, the one that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Operation {
    Describe,
    Probe,
    Put,
    Get,
    Head,
    Delete,
    List,
    DeleteMany,
    CreateContainer,
    DeleteContainer,
    Usage,
}

impl Operation {
    /// Every operation, in the order of their numbers, for tables of counters.
    pub const ALL: [Self; 11] = [
        Self::Describe,
        Self::Probe,
        Self::Put,
        Self::Get,
        Self::Head,
        Self::Delete,
        Self::List,
        Self::DeleteMany,
        Self::CreateContainer,
        Self::DeleteContainer,
        Self::Usage,
    ];

    /// The operation's name in messages and counters, such as `delete-many`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Probe => "probe",
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
            Self::DeleteMany => "delete-many",
            Self::CreateContainer => "create-container",
            Self::DeleteContainer => "delete-container",
            Self::Usage => "usage",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One failure of one cloud: what failed, where, and what the provider reported.
///
/// Displayed as one line: the cloud, the operation, the object, the message, the provider's status
/// and code, the request id, and advice. `{:#}` leaves the advice out. An example is `cloud
/// "azure-eu": put shares/ab/..: no answer within 60 s (503 ServerBusy)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudError {
    /// The kind by which the host decides what to do.
    pub kind: ErrorKind,
    /// The configured name of the cloud.
    pub cloud: String,
    /// The operation that failed.
    pub operation: Operation,
    /// Key of the object, if the operation concerns a single object.
    pub key: Option<String>,
    /// The failure in one line for a person, without secrets.
    pub message: String,
    /// The provider's own error code, such as `SlowDown` or `BlobNotFound`.
    pub provider_code: Option<String>,
    /// HTTP status of the provider's answer.
    pub http_status: Option<u16>,
    /// The provider's id of the request, for which its support asks.
    pub request_id: Option<String>,
    /// How long the provider asks the caller to wait before it repeats the request.
    pub retry_after: Option<Duration>,
    /// Whether a write that failed so may have been done, or may yet be done. It follows from the
    /// kind and, for puts, from earlier attempts at the same request.
    pub may_land: bool,
}

impl CloudError {
    /// Makes a failure of which only the kind, the place and a message are known.
    pub fn new(
        kind: ErrorKind,
        cloud: &str,
        operation: Operation,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            cloud: cloud.to_owned(),
            operation,
            key: None,
            message: message.into(),
            provider_code: None,
            http_status: None,
            request_id: None,
            retry_after: None,
            may_land: kind.is_ambiguous(),
        }
    }

    /// Adds the object's key to the failure.
    #[must_use]
    pub fn at(mut self, key: impl fmt::Display) -> Self {
        self.key = Some(key.to_string());
        self
    }

    /// Returns what a person can do about a failure of this kind, or `None` if the message makes it
    /// plain.
    pub fn advice(&self) -> Option<String> {
        let cloud = &self.cloud;
        Some(match self.kind {
            ErrorKind::ContainerNotFound => {
                format!(
                    "create the container at the provider, or correct its name in config.toml, \
                     then run `raic cloud test {cloud}`"
                )
            }
            ErrorKind::Unauthenticated => {
                format!(
                    "check the credentials that config.toml names for it, \
                     then run `raic cloud test {cloud}`"
                )
            }
            ErrorKind::PermissionDenied => {
                "grant these credentials reading, writing, deleting and listing on the container"
                    .to_owned()
            }
            ErrorKind::ClockSkew => "set this machine's clock (NTP)".to_owned(),
            ErrorKind::QuotaExceeded => "free or buy space at the provider".to_owned(),
            ErrorKind::Misconfigured => {
                format!("correct [clouds.{cloud}] in config.toml")
            }
            _ => return None,
        })
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cloud {:?}: {}", self.cloud, self.operation)?;
        if let Some(key) = &self.key {
            write!(f, " {key}")?;
        }
        write!(
            f,
            ": {}",
            if self.message.is_empty() {
                self.kind.as_str()
            } else {
                &self.message
            }
        )?;
        match (self.http_status, &self.provider_code) {
            (Some(status), Some(code)) => write!(f, " ({status} {code})")?,
            (Some(status), None) => write!(f, " ({status})")?,
            (None, Some(code)) => write!(f, " ({code})")?,
            (None, None) => {}
        }
        if let Some(id) = &self.request_id {
            write!(f, " [request {id}]")?;
        }
        // `{:#}` is for users without a configured cloud, such as `raic connector test`.
        if let Some(advice) = self.advice().filter(|_| !f.alternate()) {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CloudError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_sentence_with_the_next_step() {
        let mut e = CloudError::new(
            ErrorKind::ContainerNotFound,
            "eu",
            Operation::Put,
            "bucket \"x\" does not exist",
        )
        .at("shares/ab/cd/0");
        e.http_status = Some(404);
        e.provider_code = Some("NoSuchBucket".into());
        assert!(!format!("{e:#}").contains("config.toml"), "{e:#}");
        assert_eq!(
            e.to_string(),
            "cloud \"eu\": put shares/ab/cd/0: bucket \"x\" does not exist (404 NoSuchBucket); \
             create the container at the provider, or correct its name in config.toml, \
             then run `raic cloud test eu`"
        );
    }

    #[test]
    fn kinds_have_distinct_names() {
        let names: std::collections::BTreeSet<_> =
            ErrorKind::ALL.iter().map(|k| k.as_str()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn kinds_are_the_contracts_in_its_order() {
        let contract = include_str!("../../../wit/connector.wit");
        let (_, from) = contract
            .split_once("enum error-kind {")
            .expect("the contract has error kinds");
        let (cases, _) = from.split_once('}').expect("the enum ends");
        let cases: Vec<_> = cases
            .lines()
            .filter(|line| !line.trim_start().starts_with("///"))
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|case| !case.is_empty())
            .collect();
        assert_eq!(cases, ErrorKind::ALL.map(ErrorKind::as_str));
    }
}
