//! Making errors.

use crate::{Error, ErrorKind, Result, setting};

/// An error of a kind, with one line for a person.
///
/// ```
/// let e = raic_sdk::error(raic_sdk::ErrorKind::Protocol, "the listing has no names");
/// assert_eq!((e.message.as_str(), e.http_status), ("the listing has no names", None));
/// ```
pub fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error {
        kind,
        message: message.into(),
        provider_code: None,
        http_status: None,
        request_id: None,
        retry_after_ms: None,
        extra: Vec::new(),
    }
}

/// Returns a setting that the connector cannot do without.
///
/// # Errors
/// `misconfigured` if it is not set and has no default in the manifest.
pub fn required_setting(name: &str) -> Result<String> {
    setting(name).ok_or_else(|| {
        error(
            ErrorKind::Misconfigured,
            format!("the setting {name:?} is missing"),
        )
    })
}

/// The error for a credential that lacks a part.
pub fn lacks(part: &str) -> Error {
    error(
        ErrorKind::Misconfigured,
        format!("the credential has no {part}"),
    )
}
