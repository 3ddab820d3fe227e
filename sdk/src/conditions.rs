//! Conditions of writes, where the service leaves them to the connector or words them its own way.
//!
//! ```
//! use raic_sdk::{ErrorKind, ObjectInfo, WriteMode, conditions, error};
//!
//! // A delete by etag, for a service whose DELETE takes no condition: by a HEAD before it.
//! let etag = Some("v2".to_owned());
//! let found = ObjectInfo { size: 7, etag, last_modified_unix_ms: None, extra: vec![] };
//! assert!(conditions::still_has(Ok(found.clone()), "v2").unwrap());
//! let e = conditions::still_has(Ok(found), "v1").unwrap_err();
//! assert_eq!(e.kind, ErrorKind::PreconditionFailed);
//!
//! // A put that must not replace: 412 means that there is one.
//! let e = conditions::of_put(error(ErrorKind::PreconditionFailed, "412"), &WriteMode::CreateOnly);
//! assert_eq!(e.kind, ErrorKind::AlreadyExists);
//!
//! // What is gone is deleted.
//! let deleted = conditions::or_gone(Err(error(ErrorKind::NotFound, "404")), ErrorKind::NotFound);
//! assert!(deleted.is_ok());
//! ```

use crate::{Error, ErrorKind, ObjectInfo, Result, WriteMode, error};

/// Whether an object that is to be deleted only while it has `etag` is to be deleted, by what a
/// HEAD of it gave just now: not atomic, for services whose delete takes no condition.
///
/// # Errors
/// `precondition-failed` where it has another, and whatever the HEAD failed with.
pub fn still_has(head: Result<ObjectInfo>, etag: &str) -> Result<bool> {
    match head {
        Ok(info) if info.etag.as_deref() == Some(etag) => Ok(true),
        Ok(_) => Err(error(
            ErrorKind::PreconditionFailed,
            "the object has another etag",
        )),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// That there is no object, by what a HEAD of it gave just now: create-only as `describe` calls it
/// `emulated`.
///
/// # Errors
/// `already-exists`, and whatever the HEAD failed with.
pub fn is_absent(head: Result<ObjectInfo>) -> Result<()> {
    match head {
        Ok(_) => Err(error(ErrorKind::AlreadyExists, "the object exists")),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// The error of a put: to a create-only one a condition that failed means that the object exists.
/// What is not found is the object that one by etag was to replace, and else can only be the
/// container.
pub fn of_put(mut e: Error, mode: &WriteMode) -> Error {
    e.kind = match (e.kind, mode) {
        (ErrorKind::PreconditionFailed, WriteMode::CreateOnly) => ErrorKind::AlreadyExists,
        (ErrorKind::NotFound, WriteMode::IfMatch(_)) => ErrorKind::PreconditionFailed,
        (ErrorKind::NotFound, _) => ErrorKind::ContainerNotFound,
        (kind, _) => kind,
    };
    e
}

/// Success where what was to be removed is gone already.
///
/// # Errors
/// All others.
pub fn or_gone(removed: Result<()>, gone: ErrorKind) -> Result<()> {
    match removed {
        Err(e) if e.kind == gone => Ok(()),
        other => other,
    }
}
