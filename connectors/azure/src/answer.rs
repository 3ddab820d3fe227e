//! What the answers of Azure and of Microsoft Entra mean.

use raic_sdk::{ErrorKind, Response, Result, answer::Described, json, setting, xml::Element};

/// Returns `Ok` if the status is one of those wanted, else the error that the answer describes.
pub(crate) fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
    let outcome =
        raic_sdk::answer::expect(answer, wanted, "x-ms-request-id", |answer, document| {
            let (in_body, message) = describe(document).unwrap_or_default();
            // The answer to a HEAD has the code in the header only.
            let code = answer.header("x-ms-error-code").unwrap_or(in_body);
            // The second line names the request, whose id the error has already.
            let message = message.lines().next().unwrap_or_default().to_owned();
            Described {
                kind: kind_of(&code, &message),
                code,
                message,
            }
        });
    // Only the account key signs with this host's clock: neither a shared access signature, nor a
    // token, nor the login for one has a time of this host.
    let is_dated = !matches!(setting("auth").as_deref(), Some("sas" | "oauth"));
    outcome.map_err(|e| {
        if is_dated {
            raic_sdk::answer::dated(answer, e)
        } else {
            e
        }
    })
}

/// Code and message of an error document: the service's, or Microsoft Entra's.
fn describe(document: &[u8]) -> Option<(String, String)> {
    if let Ok(document) = json::parse(document) {
        let text = |pointer| {
            json::text(&document, pointer)
                .unwrap_or_default()
                .to_owned()
        };
        return Some((text("/error"), text("/error_description")));
    }
    let e = Element::parse(document).ok()?;
    let text = |name| e.text_of(name).unwrap_or_default().trim().to_owned();
    let detail = text("AuthenticationErrorDetail");
    let message = text("Message");
    (e.name == "Error").then(|| {
        (
            text("Code"),
            if detail.is_empty() { message } else { detail },
        )
    })
}

/// The kind of error that a code means ("Status and error codes" and "Blob service error codes").
/// `None` for a code that is not listed: then the status decides.
fn kind_of(code: &str, message: &str) -> Option<ErrorKind> {
    let is_skew =
        message.contains("not within") || message.contains("too old") || message.contains("clock");
    Some(match code {
        "BlobNotFound" | "ResourceNotFound" => ErrorKind::NotFound,
        "ContainerNotFound" | "ContainerBeingDeleted" => ErrorKind::ContainerNotFound,
        "BlobAlreadyExists" | "ContainerAlreadyExists" => ErrorKind::AlreadyExists,
        "ConditionNotMet" | "TargetConditionNotMet" => ErrorKind::PreconditionFailed,
        "InvalidRange" => ErrorKind::RangeNotSatisfiable,
        "AuthenticationFailed" if is_skew => ErrorKind::ClockSkew,
        // What Azurite answers to a wrong signature.
        "AuthorizationFailure" if message.contains("failed to authenticate") => {
            ErrorKind::Unauthenticated
        }
        "AuthenticationFailed"
        | "InvalidAuthenticationInfo"
        | "NoAuthenticationInformation"
        | "invalid_client"
        | "invalid_grant" => ErrorKind::Unauthenticated,
        "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "AuthorizationProtocolMismatch"
        | "AuthorizationResourceTypeMismatch"
        | "AuthorizationServiceMismatch"
        | "AuthorizationSourceIPMismatch"
        | "InsufficientAccountPermissions"
        | "AccountIsDisabled" => ErrorKind::PermissionDenied,
        "BlobArchived" | "BlobBeingRehydrated" => ErrorKind::Archived,
        "RequestBodyTooLarge" => ErrorKind::TooLarge,
        "Md5Mismatch" | "Crc64Mismatch" => ErrorKind::Integrity,
        "ServerBusy" => ErrorKind::Throttled,
        "OperationTimedOut" => ErrorKind::Timeout,
        "InternalError" => ErrorKind::Unavailable,
        // The first two are Entra's, for an unknown tenant or application.
        "invalid_request"
        | "unauthorized_client"
        | "InvalidResourceName"
        | "OutOfRangeInput"
        | "InvalidUri"
        | "InvalidHeaderValue" => ErrorKind::Misconfigured,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_documents_are_read() {
        let document = b"<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code>\
            <Message>Server failed to authenticate\nRequestId:1</Message>\
            <AuthenticationErrorDetail>Request date header not within 15 min\
            </AuthenticationErrorDetail></Error>";
        let (code, message) = describe(document).unwrap();
        assert_eq!(kind_of(&code, &message), Some(ErrorKind::ClockSkew));
        let entra = br#"{"error":"invalid_client",
            "error_description":"AADSTS7000215: Invalid client secret"}"#;
        assert_eq!(describe(entra).unwrap().0, "invalid_client");
        assert_eq!(
            kind_of("BlobAlreadyExists", ""),
            Some(ErrorKind::AlreadyExists)
        );
        assert_eq!(kind_of("ServerBusy", ""), Some(ErrorKind::Throttled));
    }
}
