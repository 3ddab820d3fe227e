//! What the answers of Google Cloud Storage and of its logins mean.

use raic_sdk::{ErrorKind, Response, Result, answer::Described, json, xml::Element};

/// The header that has a request's id, in both APIs.
const ID_HEADER: &str = "x-guploader-uploadid";

/// Returns `Ok` if the status is one of those wanted, else the error that the answer describes.
pub(crate) fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
    raic_sdk::answer::expect(answer, wanted, ID_HEADER, |answer, document| {
        describe(answer.status(), document)
    })
}

/// Checks an answer as [`expect`] does, to a request that was signed with this host's clock: an
/// assertion, or any request by an HMAC key. If the clock is wrong, the error says so.
pub(crate) fn expect_signed(answer: &Response, wanted: &[u16]) -> Result<()> {
    expect(answer, wanted).map_err(|e| raic_sdk::answer::dated(answer, e))
}

/// Reads an error document: of the JSON API, of the token endpoint, of the XML API, or the plain
/// text that a media download fails with.
fn describe(status: u16, document: &[u8]) -> Described {
    let described = |code: &str, message: &str| {
        let message = message.lines().next().unwrap_or_default().trim().to_owned();
        Described {
            kind: kind_of(status, code, &message),
            code: code.to_owned(),
            message,
        }
    };
    if let Ok(document) = json::parse(document) {
        let text = |pointer| json::text(&document, pointer).unwrap_or_default();
        return match document.pointer("/error/code") {
            Some(_) => described(text("/error/errors/0/reason"), text("/error/message")),
            None => described(text("/error"), text("/error_description")),
        };
    }
    if let Some(e) = Element::parse(document).ok().filter(|e| e.name == "Error") {
        return described(
            e.text_of("Code").unwrap_or_default(),
            e.text_of("Message").unwrap_or_default(),
        );
    }
    described("", &Described::text(document).message)
}

/// The kind of error that a code means ("HTTP status and error codes" of the JSON and of the XML
/// API, and of OAuth 2.0 for service accounts). `None` for a code that is not listed: then the
/// status decides.
fn kind_of(status: u16, code: &str, message: &str) -> Option<ErrorKind> {
    Some(match code {
        "notFound" | ""
            if status == 404
                && message
                    .to_ascii_lowercase()
                    .contains("bucket does not exist") =>
        {
            ErrorKind::ContainerNotFound
        }
        "NoSuchBucket" => ErrorKind::ContainerNotFound,
        "NoSuchKey" => ErrorKind::NotFound,
        "conflict" if message.contains("not empty") => ErrorKind::PreconditionFailed,
        "BucketNotEmpty" => ErrorKind::PreconditionFailed,
        "conflict"
        | "BucketAlreadyOwnedByYou"
        | "BucketNameUnavailable"
        | "BucketAlreadyExists" => ErrorKind::AlreadyExists,
        "conditionNotMet" | "PreconditionFailed" => ErrorKind::PreconditionFailed,
        "requestedRangeNotSatisfiable" | "InvalidRange" => ErrorKind::RangeNotSatisfiable,
        "authError" | "required" if status == 401 => ErrorKind::Unauthenticated,
        // The assertion has the time of this host's clock.
        "invalid_grant" if message.contains("reasonable timeframe") => ErrorKind::ClockSkew,
        "invalid_grant"
        | "invalid_client"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "AuthenticationRequired" => ErrorKind::Unauthenticated,
        "invalid_scope" | "unauthorized_client" => ErrorKind::PermissionDenied,
        "RequestTimeTooSkewed" => ErrorKind::ClockSkew,
        "quotaExceeded" | "UserProjectAccountProblem" | "accountDisabled" => {
            ErrorKind::QuotaExceeded
        }
        "rateLimitExceeded" | "userRateLimitExceeded" | "SlowDown" => ErrorKind::Throttled,
        "uploadTooLarge" | "EntityTooLarge" => ErrorKind::TooLarge,
        "BadDigest" => ErrorKind::Integrity,
        "backendError" | "internalError" | "InternalError" => ErrorKind::Unavailable,
        // The bucket's requesters pay, and no project was named that does.
        "UserProjectMissing" | "UserProjectInconsistent" => ErrorKind::Misconfigured,
        _ if message.contains("requester pays") || message.contains("user project") => {
            ErrorKind::Misconfigured
        }
        "invalid_request" | "invalidParameter" | "InvalidBucketName" | "TemporaryRedirect" => {
            ErrorKind::Misconfigured
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, document: &str) -> Option<ErrorKind> {
        describe(status, document.as_bytes()).kind
    }

    #[test]
    fn errors_of_both_apis_and_of_logins_are_read() {
        let reason = |reason: &str, message: &str| {
            format!(
                r#"{{"error":{{"code":1,"message":"{message}",
                "errors":[{{"reason":"{reason}"}}]}}}}"#
            )
        };
        let bucket = reason("notFound", "The specified bucket does not exist.");
        assert_eq!(kind(404, &bucket), Some(ErrorKind::ContainerNotFound));
        assert_eq!(kind(404, &reason("notFound", "No such object: b/k")), None);
        assert_eq!(
            kind(404, "No such object: b/k"),
            None,
            "a media download's is plain text"
        );
        assert_eq!(
            kind(403, &reason("userRateLimitExceeded", "slower")),
            Some(ErrorKind::Throttled)
        );
        let xml =
            "<?xml version='1.0'?><Error><Code>NoSuchBucket</Code><Message>gone</Message></Error>";
        assert_eq!(kind(404, xml), Some(ErrorKind::ContainerNotFound));
        let login =
            |text: &str| format!(r#"{{"error":"invalid_grant","error_description":"{text}"}}"#);
        assert_eq!(
            kind(400, &login("Invalid JWT Signature.")),
            Some(ErrorKind::Unauthenticated)
        );
        let skew = login(
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable \
             timeframe.",
        );
        assert_eq!(kind(400, &skew), Some(ErrorKind::ClockSkew));
    }
}
