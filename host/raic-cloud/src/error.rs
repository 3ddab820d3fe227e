//! What can go wrong at a cloud, as far as the host acts on it differently.

use std::{fmt, time::Duration};

/// Shorthand for results of cloud operations.
pub type Result<T, E = CloudError> = std::result::Result<T, E>;

/// The kind of a failure decides what happens next; each documents its retry rule.
///
/// The list is the contract's (`wit/`, `types.error-kind`) and frozen with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The object does not exist. Final.
    NotFound,
    /// The container does not exist. Final: the operator must create it.
    ContainerNotFound,
    /// A create-only put found an object of that name. Final; after an attempt without an answer
    /// the content decides (see [`Retry`](crate::Retry)).
    AlreadyExists,
    /// An `if-match` did not hold. Final.
    PreconditionFailed,
    /// The provider saw two requests collide. Retried.
    Conflict,
    /// The range begins past the end of the object. Final.
    RangeNotSatisfiable,
    /// Wrong or expired credentials. Final: the connector already tried a fresh login.
    Unauthenticated,
    /// The credentials are right and may not do this. Final.
    PermissionDenied,
    /// The provider's clock and ours differ too much to sign. Final.
    ClockSkew,
    /// No space left, or the account's quota is used up. Final.
    QuotaExceeded,
    /// The object is larger than the provider takes. Final.
    TooLarge,
    /// Too many requests. Retried, after the time the provider names.
    Throttled,
    /// The service, or the way to it, is down. Retried.
    Unavailable,
    /// No answer in time; a write may still land. Retried.
    Timeout,
    /// Bytes arrived changed: a checksum or a length did not hold. Retried.
    Integrity,
    /// The object is in cold storage and must be restored first. Final.
    Archived,
    /// The host's gate refused what the connector wanted to do. Final.
    RefusedByHost,
    /// A setting is missing or makes no sense. Final.
    Misconfigured,
    /// The provider or the connector cannot do this. Final.
    Unsupported,
    /// The answer makes no sense in the provider's protocol. Retried.
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

    /// Whether the same request may succeed a little later.
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

    /// Whether a write that ended so may have been done, or may yet be done, all the same.
    pub fn is_ambiguous(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::Timeout | Self::Protocol | Self::Internal
        )
    }

    /// The name the contract gives this kind, such as `container-not-found`.
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

/// The operation of [`Cloud`](crate::Cloud) that failed.
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
    /// Every operation, for tables of counters.
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

    /// The verb as it stands in messages and counters.
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

/// One failure of one cloud: what failed, where, and what the provider said of it.
///
/// Displayed as one line, such as
/// `cloud "azure-eu": put shares/ab/..: container "x" does not exist (404 ContainerNotFound)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudError {
    /// What the host decides by.
    pub kind: ErrorKind,
    /// The configured name of the cloud.
    pub cloud: String,
    /// What was being done.
    pub operation: Operation,
    /// The object it was done to, if to one.
    pub key: Option<String>,
    /// One line for a person, without secrets.
    pub message: String,
    /// The provider's own code (`SlowDown`, `BlobNotFound`).
    pub provider_code: Option<String>,
    /// The HTTP status of the provider's answer.
    pub http_status: Option<u16>,
    /// What the provider's support asks for.
    pub request_id: Option<String>,
    /// How long the provider asks us to wait.
    pub retry_after: Option<Duration>,
    /// Whether a write that ended so may have been done, or may yet be: by the kind, and by
    /// attempts before the last.
    pub may_land: bool,
}

impl CloudError {
    /// A failure with nothing known of it but its kind and a sentence.
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

    /// The same failure, naming the object.
    #[must_use]
    pub fn at(mut self, key: impl fmt::Display) -> Self {
        self.key = Some(key.to_string());
        self
    }

    /// What a person can do about a failure of this kind, where it is not plain from the message.
    pub fn advice(&self) -> Option<String> {
        let cloud = &self.cloud;
        Some(match self.kind {
            ErrorKind::ContainerNotFound => {
                format!(
                    "create the container at the provider, or correct its name in config.toml, then run `raic cloud test {cloud}`"
                )
            }
            ErrorKind::Unauthenticated => {
                format!(
                    "check the credentials that config.toml names for it, then run `raic cloud test {cloud}`"
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
        // `{:#}` is for those who have no configured cloud, such as who tries a connector.
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
            "cloud \"eu\": put shares/ab/cd/0: bucket \"x\" does not exist (404 NoSuchBucket); create the container \
             at the provider, or correct its name in config.toml, then run `raic cloud test eu`"
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
