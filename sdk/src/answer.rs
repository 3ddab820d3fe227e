//! What an answer's status and headers mean in HTTP, whatever the provider.

use crate::{Error, ErrorKind, ObjectInfo, Response, Result, error, now_unix_ms, time};

/// What a status means where the provider has no word of its own for it (RFC 9110 section 15, RFC
/// 6585, RFC 4918).
pub fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        // To a conditional write some services say so what others say by 412.
        304 | 412 => ErrorKind::PreconditionFailed,
        300..=399 => ErrorKind::Misconfigured,
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::PermissionDenied,
        404 | 410 => ErrorKind::NotFound,
        408 => ErrorKind::Timeout,
        409 => ErrorKind::Conflict,
        413 => ErrorKind::TooLarge,
        416 => ErrorKind::RangeNotSatisfiable,
        // RFC 8470: while the service still looks at what came before.
        425 => ErrorKind::Unavailable,
        429 => ErrorKind::Throttled,
        501 => ErrorKind::Unsupported,
        507 => ErrorKind::QuotaExceeded,
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Protocol,
    }
}

/// An error of a kind with what every answer has: its status, how long to wait by its
/// `retry-after`, and the header that names the request. A message that is empty becomes the
/// status.
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

/// How long the service asks to wait, in milliseconds: by seconds, by a date (RFC 9110 section
/// 10.2.3), or by a fraction, which some services send.
fn retry_after_ms(answer: &Response) -> Option<u64> {
    if let Some(ms) = answer
        .header("x-ms-retry-after-ms")
        .and_then(|ms| ms.trim().parse().ok())
    {
        return Some(ms);
    }
    let text = answer.header("retry-after")?;
    let text = text.trim();
    if let Some(at) = time::parse_http(text) {
        return Some(at.saturating_sub(now_unix_ms()));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    let whole: u64 = whole.parse().ok().filter(|_| is_number(fraction))?;
    // Rounded up to a second.
    whole
        .checked_add(u64::from(!fraction.is_empty()))?
        .checked_mul(1000)
}

/// How far the service's clock may be from the host's before requests that are signed with a time
/// are refused for it.
const SKEW_MS: u64 = 15 * 60 * 1000;
/// Codes of errors that no clock causes: credentials that ended are read anew, and not waited for.
const NO_CLOCK: [&str; 6] = [
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidAccessKeyId",
    "InvalidAuthenticationInfo",
    "invalid_client",
];

/// An error of a request that was signed with a time. Services tell a clock that is off in words of
/// their own, or only as a signature that is wrong; but each of their answers has a date, so that
/// decides: where it is more than fifteen minutes from the host's clock, an error of signature or
/// permission becomes `clock-skew`.
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

/// The most that is read of an error document.
const MAX_ERROR: u32 = 64 << 10;

/// What an error document says, in the provider's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// What the code means; by the status where it is none.
    pub kind: Option<ErrorKind>,
    /// The provider's code, or nothing.
    pub code: String,
    /// One line for a person, or nothing.
    pub message: String,
}

impl Described {
    /// An error that is a text, of which the first line is shown.
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

/// Ok where the status is one of those wanted, else the error that the answer describes.
/// `id_header` names the request in the provider's own records; `describe` gets the answer and its
/// document, which is empty where there is none (a HEAD's).
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
/// As above.
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

/// The etag, where it is a strong one, as it stands in the header.
pub fn etag(answer: &Response) -> Option<String> {
    answer.header("etag").as_deref().and_then(strong_etag)
}

/// An etag, unless it is empty or a weak one (RFC 9110 section 8.8.3).
pub fn strong_etag(etag: &str) -> Option<String> {
    let etag = etag.trim();
    (!etag.is_empty() && !etag.starts_with("W/")).then(|| etag.to_owned())
}

/// A strong etag without its quotes: some services put them around in headers and not in listings.
/// Conditions want them: [`quoted`].
pub fn bare_etag(etag: &str) -> Option<String> {
    let etag = strong_etag(etag)?;
    let bare = etag
        .strip_prefix('"')
        .and_then(|e| e.strip_suffix('"'))
        .unwrap_or(&etag);
    (!bare.is_empty()).then(|| bare.to_owned())
}

/// An etag as conditions have it.
pub fn quoted(bare: &str) -> String {
    format!("\"{bare}\"")
}

/// What the headers of a GET or HEAD say of the whole object.
///
/// # Errors
/// `protocol` where they do not tell its size.
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
            "the answer does not tell the object's size",
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

/// The `range` header's value for a range.
pub fn range_header(range: crate::ByteRange) -> String {
    format!(
        "bytes={}-{}",
        range.offset,
        range.offset.saturating_add(range.length - 1)
    )
}

/// The object's size out of `bytes 0-9/100` (RFC 9110 section 14.4).
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

    /// rclone's S3 server tells a clock that is off as AccessDenied.
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
