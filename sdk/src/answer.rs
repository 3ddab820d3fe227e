//! What an answer's status and headers mean in HTTP, whatever the provider.

use crate::{Error, ErrorKind, ObjectInfo, Response, Result, error, time};

/// What a status means where the provider has no word of its own for it (RFC 9110 section 15, RFC 6585, RFC 4918).
pub fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        300..=399 => ErrorKind::Misconfigured,
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::PermissionDenied,
        404 | 410 => ErrorKind::NotFound,
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
    }
}

/// An error of a kind with what every answer has: its status, its `retry-after` in seconds, and the header that names the
/// request. A message that is empty becomes the status.
pub fn error_of(answer: &Response, kind: ErrorKind, code: &str, message: &str, id_header: &str) -> Error {
    let status = answer.status();
    let message =
        if message.is_empty() { format!("the service answered {status}") } else { message.to_owned() };
    let seconds = answer.header("retry-after").and_then(|s| s.trim().parse::<u64>().ok());
    Error {
        provider_code: (!code.is_empty()).then(|| code.to_owned()),
        http_status: Some(status),
        request_id: answer.header(id_header),
        retry_after_ms: seconds.and_then(|seconds| seconds.checked_mul(1000)),
        ..error(kind, message)
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
        let message = text.lines().next().unwrap_or_default().trim().chars().take(200).collect();
        Self { message, ..Self::default() }
    }
}

/// Ok where the status is one of those wanted, else the error that the answer describes. `id_header` names the request in the
/// provider's own records; `describe` gets the answer and its document, which is empty where there is none (a HEAD's).
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
    let document = if status >= 400 { answer.read(MAX_ERROR).unwrap_or_default() } else { Vec::new() };
    let Described { kind, code, message } = describe(answer, &document);
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

/// What the headers of a GET or HEAD say of the whole object.
///
/// # Errors
/// `protocol` where they do not tell its size.
pub fn info(answer: &Response) -> Result<ObjectInfo> {
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

/// The `range` header's value for a range.
pub fn range_header(range: crate::ByteRange) -> String {
    format!("bytes={}-{}", range.offset, range.offset.saturating_add(range.length - 1))
}

/// The object's size out of `bytes 0-9/100` (RFC 9110 section 14.4).
fn total(content_range: &str) -> Option<u64> {
    content_range.trim().strip_prefix("bytes ")?.split_once('/')?.1.parse().ok()
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
    fn weak_etags_are_none() {
        assert_eq!(strong_etag(" \"x\" "), Some("\"x\"".to_owned()));
        assert_eq!(strong_etag("W/\"x\""), None);
    }
}
