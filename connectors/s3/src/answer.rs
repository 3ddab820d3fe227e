//! What the service's answers mean.

use raic_sdk::{
    ErrorKind, Response, Result,
    answer::{error_of, kind_of_status},
    xml::Element,
};

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
    Err(error_of(answer, kind, &code, &message, "x-amz-request-id"))
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
        _ => kind_of_status(status),
    }
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
}
