//! What B2's answers mean.

use raic_sdk::{ErrorKind, Response, Result, answer::Described, error, json};

/// The most that is read of an answer, in bytes: a listing of 1000 names.
const MAX_DOCUMENT: u32 = 4 << 20;

/// Returns the document of a call that succeeded, else the error that the answer describes.
pub(crate) fn document(answer: &Response) -> Result<json::Value> {
    expect(answer, &[200])?;
    json::parse(&answer.read(MAX_DOCUMENT)?)
}

/// Returns the text at a place of a document, which the protocol promises.
pub(crate) fn text<'a>(document: &'a json::Value, place: &str) -> Result<&'a str> {
    let text = json::text(document, place);
    text.ok_or_else(|| error(ErrorKind::Protocol, format!("the answer lacks {place}")))
}

/// Returns `Ok` if the status is one of those wanted, else the error that the answer describes.
pub(crate) fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
    raic_sdk::answer::expect(answer, wanted, "x-bz-request-id", |answer, document| {
        let Ok(document) = json::parse(document) else {
            return Described::text(document);
        };
        let code = json::text(&document, "/code").unwrap_or_default();
        let message = json::text(&document, "/message").unwrap_or_default();
        let message = message
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(200)
            .collect();
        Described {
            kind: kind_of(answer.status(), code),
            code: code.to_owned(),
            message,
        }
    })
}

/// The error code of an answer, if it has one.
pub(crate) fn code(answer: &Response) -> Option<String> {
    let document = json::parse(&answer.read(MAX_DOCUMENT).ok()?).ok()?;
    json::text(&document, "/code").map(str::to_owned)
}

/// Whether an answer means that the account's token has ended. A 401 alone does not: the service
/// also answers it if a key does not permit the call.
pub(crate) fn has_ended(answer: &Response) -> bool {
    answer.status() == 401
        && code(answer).is_some_and(|code| code == "expired_auth_token" || code == "bad_auth_token")
}

/// The kind of error that a code means ("Error handling" of the native API, and each call's own
/// list). `None` for a code that is not listed: then the status decides.
fn kind_of(status: u16, code: &str) -> Option<ErrorKind> {
    Some(match (status, code) {
        // A login with a wrong key is answered so, too; `log_in` corrects that.
        (401, "unauthorized" | "unsupported" | "access_denied") => ErrorKind::PermissionDenied,
        (403, code) if code.ends_with("cap_exceeded") => ErrorKind::QuotaExceeded,
        (400 | 404, "file_not_present" | "no_such_file") => ErrorKind::NotFound,
        (400, "bad_bucket_id" | "invalid_bucket_id") => ErrorKind::ContainerNotFound,
        (400, "duplicate_bucket_name") => ErrorKind::AlreadyExists,
        (400, "cannot_delete_non_empty_bucket") => ErrorKind::PreconditionFailed,
        (400, "too_many_buckets") => ErrorKind::QuotaExceeded,
        (400, "auth_token_limit") => ErrorKind::Unavailable,
        (400, _) => ErrorKind::Misconfigured,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_a_status_does_not() {
        assert_eq!(
            kind_of(401, "unauthorized"),
            Some(ErrorKind::PermissionDenied)
        );
        assert_eq!(kind_of(401, "expired_auth_token"), None);
        assert_eq!(
            kind_of(403, "storage_cap_exceeded"),
            Some(ErrorKind::QuotaExceeded)
        );
        assert_eq!(
            kind_of(400, "bad_bucket_id"),
            Some(ErrorKind::ContainerNotFound)
        );
        assert_eq!(kind_of(400, "file_not_present"), Some(ErrorKind::NotFound));
        assert_eq!(kind_of(404, "not_found"), None);
        assert_eq!(kind_of(503, "service_unavailable"), None);
    }
}
