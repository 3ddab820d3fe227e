//! What the service's answers mean.

use raic_sdk::{Error, ErrorKind, ObjectInfo, Response, Result, error, time, xml::Element};

/// The most that is read of an error document.
const MAX_ERROR: u32 = 64 << 10;

/// Ok where the status is one of those wanted, else the error that the answer describes.
pub(crate) fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
    let status = answer.status();
    if wanted.contains(&status) {
        return Ok(());
    }
    let document = (status >= 300).then(|| answer.read(MAX_ERROR).ok()).flatten();
    let (code, message) = document.as_deref().and_then(describe).unwrap_or_default();
    let kind = kind_of(status, &code);
    let message = if message.is_empty() { format!("the service answered {status}") } else { message };
    Err(Error {
        provider_code: (!code.is_empty()).then_some(code),
        http_status: Some(status),
        request_id: answer.header("x-amz-request-id"),
        retry_after_ms: answer
            .header("retry-after")
            .and_then(|s| s.trim().parse::<u64>().ok())
            .and_then(|s| s.checked_mul(1000)),
        ..error(kind, message)
    })
}

/// Code and message of an error document.
fn describe(document: &[u8]) -> Option<(String, String)> {
    let e = Element::parse(document).ok()?;
    let text = |name| e.text_of(name).unwrap_or_default().trim().to_owned();
    (e.name == "Error").then(|| (text("Code"), text("Message")))
}

/// By the code where there is one (S3 API reference, "Error responses"), else by the status.
fn kind_of(status: u16, code: &str) -> ErrorKind {
    match code {
        "NoSuchKey" | "NoSuchVersion" => ErrorKind::NotFound,
        "NoSuchBucket" => ErrorKind::ContainerNotFound,
        "PreconditionFailed" => ErrorKind::PreconditionFailed,
        "BucketAlreadyExists" | "BucketAlreadyOwnedByYou" => ErrorKind::AlreadyExists,
        "OperationAborted" | "ConditionalRequestConflict" | "BucketNotEmpty" => ErrorKind::Conflict,
        "InvalidRange" => ErrorKind::RangeNotSatisfiable,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired" => ErrorKind::Unauthenticated,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "NotSignedUp" => {
            ErrorKind::PermissionDenied
        }
        "RequestTimeTooSkewed" | "RequestExpired" => ErrorKind::ClockSkew,
        "QuotaExceeded" | "StorageFull" | "InsufficientStorage" => ErrorKind::QuotaExceeded,
        "EntityTooLarge" => ErrorKind::TooLarge,
        "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests" => {
            ErrorKind::Throttled
        }
        "InternalError" | "ServiceUnavailable" | "Busy" => ErrorKind::Unavailable,
        "RequestTimeout" => ErrorKind::Timeout,
        "BadDigest" | "InvalidDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch" => {
            ErrorKind::Integrity
        }
        "InvalidObjectState" => ErrorKind::Archived,
        "NotImplemented" => ErrorKind::Unsupported,
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "InvalidLocationConstraint"
        | "InvalidBucketName" => ErrorKind::Misconfigured,
        _ => match status {
            300..=399 => ErrorKind::Misconfigured,
            401 => ErrorKind::Unauthenticated,
            403 => ErrorKind::PermissionDenied,
            404 => ErrorKind::NotFound,
            408 => ErrorKind::Timeout,
            409 => ErrorKind::Conflict,
            412 => ErrorKind::PreconditionFailed,
            413 => ErrorKind::TooLarge,
            416 => ErrorKind::RangeNotSatisfiable,
            429 => ErrorKind::Throttled,
            501 => ErrorKind::Unsupported,
            507 => ErrorKind::QuotaExceeded,
            500..=599 => ErrorKind::Unavailable,
            _ => ErrorKind::Protocol,
        },
    }
}

/// The etag, where it is a strong one.
pub(crate) fn etag(answer: &Response) -> Option<String> {
    answer.header("etag").as_deref().and_then(strong)
}

pub(crate) fn strong(etag: &str) -> Option<String> {
    let etag = etag.trim();
    (!etag.is_empty() && !etag.starts_with("W/")).then(|| etag.to_owned())
}

/// What the headers of a GET or HEAD say of the whole object.
pub(crate) fn info(answer: &Response) -> Result<ObjectInfo> {
    let size = match answer.header("content-range") {
        Some(range) => total(&range),
        None => answer.header("content-length").and_then(|length| length.trim().parse().ok()),
    };
    let size =
        size.ok_or_else(|| error(ErrorKind::Protocol, "the answer does not tell the object's size"))?;
    Ok(ObjectInfo {
        size,
        etag: etag(answer),
        last_modified_unix_ms: answer.header("last-modified").and_then(|d| time::parse_http(&d)),
        extra: Vec::new(),
    })
}

/// The object's size out of `bytes 0-9/100` (RFC 9110 section 14.4).
fn total(content_range: &str) -> Option<u64> {
    content_range.trim().strip_prefix("bytes ")?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_before_the_status() {
        assert_eq!(kind_of(404, "NoSuchBucket"), ErrorKind::ContainerNotFound);
        assert_eq!(kind_of(403, "RequestTimeTooSkewed"), ErrorKind::ClockSkew);
        assert_eq!(kind_of(503, "SlowDown"), ErrorKind::Throttled);
        assert_eq!(kind_of(503, "Whatever"), ErrorKind::Unavailable);
        assert_eq!(kind_of(301, ""), ErrorKind::Misconfigured);
    }

    #[test]
    fn error_documents_are_read() {
        let document = b"<Error><Code>NoSuchBucket</Code><Message>The bucket is gone</Message></Error>";
        assert_eq!(describe(document), Some(("NoSuchBucket".into(), "The bucket is gone".into())));
        assert_eq!(describe(b"<html>502</html>"), None);
    }

    #[test]
    fn the_size_of_a_range_is_the_objects() {
        assert_eq!(total("bytes 5-9/100"), Some(100));
        assert_eq!(total("bytes */100"), Some(100));
        assert_eq!(total("bytes 5-9/*"), None);
    }
}
