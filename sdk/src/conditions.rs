//! Conditions of writes, for services that leave them to the connector or answer them in their own
//! way.
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
//! // A put that must not replace an object: 412 means that there is one.
//! let e = conditions::of_put(error(ErrorKind::PreconditionFailed, "412"), &WriteMode::CreateOnly);
//! assert_eq!(e.kind, ErrorKind::AlreadyExists);
//!
//! // An object that is gone counts as deleted.
//! let deleted = conditions::or_gone(Err(error(ErrorKind::NotFound, "404")), ErrorKind::NotFound);
//! assert!(deleted.is_ok());
//! ```

use crate::{Error, ErrorKind, ObjectInfo, Result, WriteMode, error};

/// Returns whether there is an object to delete, if it may be deleted only while it has `etag`.
/// `head` is what a HEAD of it returned just now; false means that the object is gone already. For
/// services whose delete takes no condition: it is not atomic.
///
/// # Errors
/// `precondition-failed` if the object has another etag, and whatever else the HEAD failed with.
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

/// Checks that there is no object. `head` is what a HEAD of it returned just now. This is the
/// create-only that `describe` calls `emulated`.
///
/// # Errors
/// `already-exists` if the object is there, and whatever else the HEAD failed with.
pub fn is_absent(head: Result<ObjectInfo>) -> Result<()> {
    match head {
        Ok(_) => Err(error(ErrorKind::AlreadyExists, "the object exists")),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Corrects the error of a put by its mode.
///
/// - If the condition of a create-only put fails, the object exists: `already-exists`.
/// - If a put by etag finds nothing, the object to replace is gone: `precondition-failed`.
/// - If another put finds nothing, only the container can be missing: `container-not-found`.
pub fn of_put(mut e: Error, mode: &WriteMode) -> Error {
    e.kind = match (e.kind, mode) {
        (ErrorKind::PreconditionFailed, WriteMode::CreateOnly) => ErrorKind::AlreadyExists,
        (ErrorKind::NotFound, WriteMode::IfMatch(_)) => ErrorKind::PreconditionFailed,
        (ErrorKind::NotFound, _) => ErrorKind::ContainerNotFound,
        (kind, _) => kind,
    };
    e
}

/// Turns the error kind `gone` of a removal into success: what was to be removed is gone already.
///
/// # Errors
/// The removal's error of any other kind.
pub fn or_gone(removed: Result<()>, gone: ErrorKind) -> Result<()> {
    match removed {
        Err(e) if e.kind == gone => Ok(()),
        other => other,
    }
}
