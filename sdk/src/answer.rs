//! What an answer's status and headers mean in HTTP, whatever the provider.

use crate::{Error, ErrorKind, ObjectInfo, Response, Result, error, now_unix_ms, time};

/// The kind of error that an HTTP status means, if the provider has no code of its own for it (RFC
/// 9110 section 15, RFC 6585, RFC 4918).
pub fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        // If the condition of a write fails, some services answer 304 and others 412.
        304 | 412 => ErrorKind::PreconditionFailed,
        300..=399 => ErrorKind::Misconfigured,
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::PermissionDenied,
        404 | 410 => ErrorKind::NotFound,
        408 => ErrorKind::Timeout,
        409 => ErrorKind::Conflict,
        413 => ErrorKind::TooLarge,
        416 => ErrorKind::RangeNotSatisfiable,
        // RFC 8470 (Too Early): the service is not ready for this request yet.
        425 => ErrorKind::Unavailable,
        429 => ErrorKind::Throttled,
        501 => ErrorKind::Unsupported,
        507 => ErrorKind::QuotaExceeded,
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Protocol,
    }
}

/// Makes an error of a kind out of an answer. It takes over the status, the wait that the answer
/// asks for, and the request's id, which stands in the header `id_header`. If `message` is empty,
/// the error gives the status instead. An empty `code` means that there is none.
pub fn error_of(
    answer: &Response,
    kind: ErrorKind,
    code: &str,
    message: &str,
    id_header: &str,
) -> Error {
    let status = answer.status();
    let message = if message.is_empty() {
        format!("the service answered {status}")
    } else {
        message.to_owned()
    };
    Error {
        provider_code: (!code.is_empty()).then(|| code.to_owned()),
        http_status: Some(status),
        request_id: answer.header(id_header),
        retry_after_ms: retry_after_ms(answer),
        ..error(kind, message)
    }
}

/// How long the service asks to wait, in milliseconds. `x-ms-retry-after-ms` counts first. Else
/// `retry-after` has seconds or a date (RFC 9110 section 10.2.3), or a fraction of seconds, which
/// some services send.
fn retry_after_ms(answer: &Response) -> Option<u64> {
    if let Some(ms) = answer
        .header("x-ms-retry-after-ms")
        .and_then(|ms| ms.trim().parse().ok())
    {
        return Some(ms);
    }
    let text = answer.header("retry-after")?;
    let text = text.trim();
    if let Some(date) = time::parse_http(text) {
        return Some(date.saturating_sub(now_unix_ms()));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    let whole: u64 = whole.parse().ok().filter(|_| is_number(fraction))?;
    // Rounded up to a second.
    whole
        .checked_add(u64::from(!fraction.is_empty()))?
        .checked_mul(1000)
}

/// How far apart the clocks of service and host may be, in milliseconds. Further apart, services
/// refuse requests that are signed with a time.
const SKEW_MS: u64 = 15 * 60 * 1000;
/// Codes of errors that a wrong clock never causes. These errors keep their kind, since the host
/// reads credentials again if they have expired.
const NO_CLOCK: [&str; 6] = [
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidAccessKeyId",
    "InvalidAuthenticationInfo",
    "invalid_client",
];

/// Corrects the error of a request that was signed with a time. Services report a wrong clock in
/// words of their own, or only as a wrong signature. But each answer has a date, and that decides:
/// if it is more than 15 minutes from the host's clock, `unauthenticated` and `permission-denied`
/// become `clock-skew`. Codes that no clock causes, such as `ExpiredToken`, keep their kind.
#[must_use]
pub fn dated(answer: &Response, e: Error) -> Error {
    if !matches!(
        e.kind,
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied
    ) || e
        .provider_code
        .as_deref()
        .is_some_and(|code| NO_CLOCK.contains(&code))
    {
        return e;
    }
    let off = answer
        .header("date")
        .and_then(|date| time::parse_http(&date))
        .map(|date| date.abs_diff(now_unix_ms()));
    match off {
        Some(off) if off > SKEW_MS => {
            let message = format!(
                "{} (this host's clock and the service's are {} s apart)",
                e.message,
                off / 1000
            );
            Error {
                kind: ErrorKind::ClockSkew,
                message,
                ..e
            }
        }
        _ => e,
    }
}

/// The most that is read of an error document, in bytes.
const MAX_ERROR: u32 = 64 << 10;

/// What an error document says, in the provider's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// What the code means; `None` leaves it to the status.
    pub kind: Option<ErrorKind>,
    /// The provider's code; empty if there is none.
    pub code: String,
    /// One line for a person; empty if there is none.
    pub message: String,
}

impl Described {
    /// Describes an error whose document is plain text. The first line becomes the message, cut
    /// after 200 characters.
    pub fn text(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let message = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .chars()
            .take(200)
            .collect();
        Self {
            message,
            ..Self::default()
        }
    }
}

/// Returns `Ok` if the status is one of those wanted, else the error that the answer describes. The
/// header `id_header` has the request's id in the provider's own records. `describe` gets the
/// answer and its document. That is empty if there is none (after a HEAD), or if the status is
/// below 400.
///
/// ```
/// # use raic_sdk::{ErrorKind, Request, answer::{Described, expect}, testing::{Answer, Host}};
/// let (e, _) = Host::new()
///     .answer(Answer::new(503).header("retry-after", "7").body("down for a while"))
///     .run(|| {
///         let answer = Request::new("GET", "https://h/x".to_owned()).send(None).unwrap();
///         expect(&answer, &[200], "x-request-id", |_, text| Described::text(text)).unwrap_err()
///     });
/// assert_eq!((e.kind, e.retry_after_ms), (ErrorKind::Unavailable, Some(7000)));
/// assert_eq!(e.message, "down for a while");
/// ```
///
/// # Errors
/// The error that the answer describes, if its status is another.
pub fn expect(
    answer: &Response,
    wanted: &[u16],
    id_header: &str,
    describe: impl FnOnce(&Response, &[u8]) -> Described,
) -> Result<()> {
    let status = answer.status();
    if wanted.contains(&status) {
        return Ok(());
    }
    let document = if status >= 400 {
        answer.read(MAX_ERROR).unwrap_or_default()
    } else {
        Vec::new()
    };
    let Described {
        kind,
        code,
        message,
    } = describe(answer, &document);
    let kind = kind.unwrap_or_else(|| kind_of_status(status));
    Err(error_of(answer, kind, &code, &message, id_header))
}

/// The etag as it stands in the header; `None` if it is missing or weak.
pub fn etag(answer: &Response) -> Option<String> {
    answer.header("etag").as_deref().and_then(strong_etag)
}

/// Returns an etag trimmed; `None` if it is empty or weak (RFC 9110 section 8.8.3).
pub fn strong_etag(etag: &str) -> Option<String> {
    let etag = etag.trim();
    (!etag.is_empty() && !etag.starts_with("W/")).then(|| etag.to_owned())
}

/// A strong etag without its quotes; `None` if it is empty or weak. Some services write the quotes
/// in headers but not in listings. Conditions need them again: see [`quoted`].
pub fn bare_etag(etag: &str) -> Option<String> {
    let etag = strong_etag(etag)?;
    let bare = etag
        .strip_prefix('"')
        .and_then(|e| e.strip_suffix('"'))
        .unwrap_or(&etag);
    (!bare.is_empty()).then(|| bare.to_owned())
}

/// An etag in quotes, as conditions such as `if-match` take it.
pub fn quoted(bare: &str) -> String {
    format!("\"{bare}\"")
}

/// What the headers of a GET or HEAD say of the whole object.
///
/// # Errors
/// `protocol` if they do not give its size.
pub fn info(answer: &Response) -> Result<ObjectInfo> {
    let size = match answer.header("content-range") {
        Some(range) => total(&range),
        None => answer
            .header("content-length")
            .and_then(|length| length.trim().parse().ok()),
    };
    let size = size.ok_or_else(|| {
        error(
            ErrorKind::Protocol,
            "the answer does not give the object's size",
        )
    })?;
    Ok(ObjectInfo {
        size,
        etag: etag(answer),
        last_modified_unix_ms: answer
            .header("last-modified")
            .and_then(|d| time::parse_http(&d)),
        extra: Vec::new(),
    })
}

/// The value of the `range` header that asks for a range.
pub fn range_header(range: crate::ByteRange) -> String {
    format!(
        "bytes={}-{}",
        range.offset,
        range.offset.saturating_add(range.length - 1)
    )
}

/// The object's size out of a `content-range` such as `bytes 0-9/100` (RFC 9110 section 14.4).
fn total(content_range: &str) -> Option<u64> {
    content_range
        .trim()
        .strip_prefix("bytes ")?
        .split_once('/')?
        .1
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_range_is_the_objects() {
        assert_eq!(total("bytes 5-9/100"), Some(100));
        assert_eq!(total("bytes */100"), Some(100));
        assert_eq!(total("bytes 5-9/*"), None);
    }

    #[test]
    fn a_service_says_how_long_to_wait_in_three_ways() {
        use crate::testing::{Answer, Host};
        let waits = |header: &str, value: &str| {
            let host = Host::new()
                .now(1_700_000_000_000)
                .answer(Answer::new(503).header(header, value));
            let (e, _) = host.run(|| {
                let answer = crate::Request::new("GET", "https://h/".to_owned())
                    .send(None)
                    .unwrap();
                error_of(&answer, ErrorKind::Unavailable, "", "", "x-id")
            });
            e.retry_after_ms
        };
        assert_eq!(waits("retry-after", " 7 "), Some(7000));
        assert_eq!(waits("retry-after", "1.5"), Some(2000));
        assert_eq!(
            waits("retry-after", "Tue, 14 Nov 2023 22:13:32 GMT"),
            Some(12_000)
        );
        assert_eq!(
            waits("retry-after", "Tue, 14 Nov 2023 22:13:00 GMT"),
            Some(0)
        );
        assert_eq!(waits("x-ms-retry-after-ms", "250"), Some(250));
        assert_eq!(waits("retry-after", "soon"), None);
        assert_eq!(waits("retry-after", "18446744073709551615"), None);
    }

    /// rclone's S3 server reports a wrong clock as AccessDenied.
    #[test]
    fn a_clock_that_is_off_is_told_by_the_answers_date() {
        use crate::testing::{Answer, Host};
        let kind = |date: &str, kind: ErrorKind| {
            let host = Host::new()
                .now(1_700_000_000_000)
                .answer(Answer::new(403).header("date", date));
            let (e, _) = host.run(|| {
                let answer = crate::Request::new("GET", "https://h/".to_owned())
                    .send(None)
                    .unwrap();
                dated(&answer, error(kind, "no"))
            });
            e.kind
        };
        let (now, later) = (
            "Tue, 14 Nov 2023 22:14:00 GMT",
            "Tue, 14 Nov 2023 23:13:00 GMT",
        );
        assert_eq!(
            kind(now, ErrorKind::PermissionDenied),
            ErrorKind::PermissionDenied
        );
        assert_eq!(
            kind(later, ErrorKind::PermissionDenied),
            ErrorKind::ClockSkew
        );
        assert_eq!(
            kind(later, ErrorKind::Unauthenticated),
            ErrorKind::ClockSkew
        );
        assert_eq!(kind(later, ErrorKind::NotFound), ErrorKind::NotFound);
    }

    #[test]
    fn weak_etags_are_none() {
        assert_eq!(bare_etag(" \"x\" "), Some("x".to_owned()));
        assert_eq!(bare_etag("x"), Some("x".to_owned()));
        assert_eq!(bare_etag("W/\"x\""), None);
        assert_eq!(strong_etag(" \"x\" "), Some("\"x\"".to_owned()));
        assert_eq!(strong_etag("W/\"x\""), None);
    }
}
