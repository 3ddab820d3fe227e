//! What the S3 service's answers mean.

use raic_sdk::{ErrorKind, Response, Result, answer::Described, xml::Element};

/// Returns `Ok` if the status is one of those wanted, else the error that the answer describes.
pub(crate) fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
    let outcome =
        raic_sdk::answer::expect(answer, wanted, "x-amz-request-id", |answer, document| {
            let mut described = describe(document);
            // A HEAD has no error document. It answers 405 for an object that was deleted in a
            // bucket with versions, and 301 if the bucket is in another region.
            if answer.status() == 405
                && answer.header("x-amz-delete-marker").as_deref() == Some("true")
            {
                described.kind = Some(ErrorKind::NotFound);
            }
            if described
                .kind
                .is_none_or(|kind| kind == ErrorKind::Misconfigured)
                && let Some(region) = answer.header("x-amz-bucket-region")
            {
                described.message =
                    format!("{} (the bucket's region is {region})", described.message)
                        .trim()
                        .to_owned();
            }
            if described.code == "InvalidRequest"
                && ["Content-MD5", "checksum"]
                    .iter()
                    .any(|w| described.message.contains(w))
            {
                described.kind = Some(ErrorKind::Misconfigured);
                described.message += " (set checksum = md5)";
            }
            described
        });
    outcome.map_err(|e| raic_sdk::answer::dated(answer, e))
}

fn describe(document: &[u8]) -> Described {
    let Some(e) = Element::parse(document).ok().filter(|e| e.name == "Error") else {
        return Described::default();
    };
    let text = |name| e.text_of(name).unwrap_or_default().trim().to_owned();
    let (code, region) = (text("Code"), text("Region"));
    if !region.is_empty() && kind_of(&code) == Some(ErrorKind::Misconfigured) {
        let message = format!("{} (the bucket's region is {region})", text("Message"));
        return Described {
            kind: kind_of(&code),
            code,
            message,
        };
    }
    Described {
        kind: kind_of(&code),
        code,
        message: text("Message"),
    }
}

/// The kind of error that a code means (S3 API reference, "Error responses"). `None` for a code
/// that is not listed: then the status decides.
pub(crate) fn kind_of(code: &str) -> Option<ErrorKind> {
    Some(match code {
        "NoSuchKey" | "NoSuchVersion" => ErrorKind::NotFound,
        "NoSuchBucket" => ErrorKind::ContainerNotFound,
        "PreconditionFailed" | "BucketNotEmpty" => ErrorKind::PreconditionFailed,
        "BucketAlreadyExists" | "BucketAlreadyOwnedByYou" => ErrorKind::AlreadyExists,
        "OperationAborted" | "ConditionalRequestConflict" => ErrorKind::Conflict,
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
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests" => ErrorKind::Throttled,
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
        let document =
            b"<Error><Code>NoSuchBucket</Code><Message>The bucket is gone</Message></Error>";
        let described = describe(document);
        assert_eq!(described.kind, Some(ErrorKind::ContainerNotFound));
        assert_eq!(
            (&*described.code, &*described.message),
            ("NoSuchBucket", "The bucket is gone")
        );
        assert_eq!(kind_of("RequestTimeTooSkewed"), Some(ErrorKind::ClockSkew));
        assert_eq!(kind_of("Whatever"), None);
        let document = b"<Error><Code>AuthorizationHeaderMalformed</Code>\
            <Message>wrong</Message><Region>eu-west-1</Region></Error>";
        assert_eq!(
            describe(document).message,
            "wrong (the bucket's region is eu-west-1)"
        );
        assert_eq!(describe(b"<html>502</html>"), Described::default());
    }
}
