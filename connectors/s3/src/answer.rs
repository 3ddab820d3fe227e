//! What the service's answers mean.

use raic_sdk::{ErrorKind, Response, Result, answer::Described, xml::Element};

/// Ok where the status is one of those wanted, else the error that the answer describes.
pub(crate) fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
    raic_sdk::answer::expect(answer, wanted, "x-amz-request-id", |_, document| describe(document))
}

fn describe(document: &[u8]) -> Described {
    let Some(e) = Element::parse(document).ok().filter(|e| e.name == "Error") else {
        return Described::default();
    };
    let text = |name| e.text_of(name).unwrap_or_default().trim().to_owned();
    let code = text("Code");
    Described { kind: kind_of(&code), code, message: text("Message") }
}

/// What a code means (S3 API reference, "Error responses"); none of one that is not listed, whose status says it.
pub(crate) fn kind_of(code: &str) -> Option<ErrorKind> {
    Some(match code {
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
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_documents_are_read_by_their_code() {
        let document = b"<Error><Code>NoSuchBucket</Code><Message>The bucket is gone</Message></Error>";
        let described = describe(document);
        assert_eq!(described.kind, Some(ErrorKind::ContainerNotFound));
        assert_eq!((&*described.code, &*described.message), ("NoSuchBucket", "The bucket is gone"));
        assert_eq!(kind_of("RequestTimeTooSkewed"), Some(ErrorKind::ClockSkew));
        assert_eq!(kind_of("Whatever"), None);
        assert_eq!(describe(b"<html>502</html>"), Described::default());
    }
}
