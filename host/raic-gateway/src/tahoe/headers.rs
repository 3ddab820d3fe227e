//! The headers of requests of Tahoe-LAFS clients: authorization, secrets, media types and ranges.
//!
//! Source: the Tahoe-LAFS storage protocol (http-storage-node-protocol).

use std::ops::Range;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use data_encoding::BASE64;
use raic_storage::{RenewSecret, UploadSecret, WriteEnabler};
use zeroize::Zeroizing;

use super::Refusal;

/// The media type of all documents.
pub(crate) const CBOR: &str = "application/cbor";
/// The media type of shares' contents.
pub(crate) const OCTETS: &str = "application/octet-stream";
/// The header of secrets.
const SECRETS: HeaderName = HeaderName::from_static("x-tahoe-authorization");
/// Longest upload secret, in bytes.
const LONGEST_SECRET: usize = 64;

/// The secrets of a request. An endpoint takes those that it needs, and there must be no others.
#[derive(Default)]
pub(crate) struct Secrets {
    renew: Option<Zeroizing<Vec<u8>>>,
    cancel: Option<Zeroizing<Vec<u8>>>,
    upload: Option<Zeroizing<Vec<u8>>>,
    enabler: Option<Zeroizing<Vec<u8>>>,
}

/// Returns the swissnum that a request presents; `None` if it presents none.
pub(crate) fn presented(headers: &HeaderMap) -> Option<Zeroizing<Vec<u8>>> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (only, None) = (all.next()?, all.next()) else {
        return None;
    };
    let encoded = only.as_bytes().strip_prefix(b"Tahoe-LAFS ")?;
    BASE64.decode(encoded).ok().map(Zeroizing::new)
}

fn bytes_of<const N: usize>(secret: Option<Zeroizing<Vec<u8>>>) -> Result<[u8; N], Refusal> {
    let secret = secret.ok_or(Refusal::Secrets)?;
    secret[..].try_into().map_err(|_| Refusal::Secrets)
}

impl Secrets {
    /// Reads the secrets of a request.
    ///
    /// # Errors
    /// Refuses a secret of an unknown kind, one that is not base64, and two of one kind.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut secrets = Self::default();
        for value in headers.get_all(SECRETS) {
            let (kind, secret) = secret_of(value).ok_or(Refusal::Secrets)?;
            let place = match kind {
                "lease-renew-secret" => &mut secrets.renew,
                "lease-cancel-secret" => &mut secrets.cancel,
                "upload-secret" => &mut secrets.upload,
                "write-enabler" => &mut secrets.enabler,
                _ => return Err(Refusal::Secrets),
            };
            if place.replace(secret).is_some() {
                return Err(Refusal::Secrets);
            }
        }
        Ok(secrets)
    }

    /// Takes the secrets of a lease. The cancel secret must be there, and nothing needs it.
    pub(crate) fn lease(&mut self) -> Result<RenewSecret, Refusal> {
        bytes_of::<32>(self.cancel.take())?;
        let renew = Zeroizing::new(bytes_of::<32>(self.renew.take())?);
        Ok(RenewSecret::of(&renew[..]))
    }

    /// Takes the secret that names an upload.
    pub(crate) fn upload(&mut self) -> Result<UploadSecret, Refusal> {
        let secret = self.upload.take().ok_or(Refusal::Secrets)?;
        match secret.len() {
            1..=LONGEST_SECRET => Ok(UploadSecret::of(&secret)),
            _ => Err(Refusal::Secrets),
        }
    }

    /// Takes the write enabler of a slot.
    pub(crate) fn enabler(&mut self) -> Result<WriteEnabler, Refusal> {
        Ok(WriteEnabler(bytes_of(self.enabler.take())?))
    }

    /// Requires that all secrets were taken.
    pub(crate) fn require_no_other(&self) -> Result<(), Refusal> {
        let rest = [&self.renew, &self.cancel, &self.upload, &self.enabler];
        match rest.iter().all(|secret| secret.is_none()) {
            true => Ok(()),
            false => Err(Refusal::Secrets),
        }
    }
}

fn secret_of(value: &HeaderValue) -> Option<(&str, Zeroizing<Vec<u8>>)> {
    let (kind, encoded) = value.to_str().ok()?.split_once(' ')?;
    let secret = BASE64.decode(encoded.trim().as_bytes()).ok()?;
    Some((kind, Zeroizing::new(secret)))
}

/// Requires that the client accepts a media type. A request without the header accepts all. Of
/// several headers the first counts, as in the reference.
pub(crate) fn require_accepts(headers: &HeaderMap, media_type: &str) -> Result<(), Refusal> {
    let Some(accepted) = headers.get(header::ACCEPT) else {
        return Ok(());
    };
    let wanted = |range: &str| {
        let range = range.split(';').next().unwrap_or_default().trim();
        range.eq_ignore_ascii_case(media_type) || range == "*/*" || range == "application/*"
    };
    match accepted.to_str().unwrap_or_default().split(',').any(wanted) {
        true => Ok(()),
        false => Err(Refusal::NotAcceptable),
    }
}

/// Requires that a document in the body is CBOR. A request without the header has CBOR.
pub(crate) fn require_cbor(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let media_type = value.to_str().unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    match media_type.eq_ignore_ascii_case(CBOR) {
        true => Ok(()),
        false => Err(Refusal::MediaType),
    }
}

/// Reads the range that a request asks for; `None` if it asks for all. The end is exclusive.
///
/// # Errors
/// Refuses ranges of other units, without an end, from the end, and several ranges.
pub(crate) fn range(headers: &HeaderMap) -> Result<Option<Range<u64>>, Refusal> {
    let mut all = headers.get_all(header::RANGE).iter();
    let value = match (all.next(), all.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        _ => return Err(Refusal::Range),
    };
    let range = value.to_str().ok().and_then(|text| {
        let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
        inclusive(first, last)
    });
    range.map(Some).ok_or(Refusal::Range)
}

/// Reads the place of a body in its share, from `Content-Range: bytes FIRST-LAST/*`. The end is
/// exclusive.
///
/// # Errors
/// Refuses every other form, as the reference does: as a range that cannot be satisfied.
pub(crate) fn content_range(headers: &HeaderMap) -> Result<Range<u64>, Refusal> {
    let mut all = headers.get_all(header::CONTENT_RANGE).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(Refusal::Range);
    };
    let range = value.to_str().ok().and_then(|text| {
        let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        (total == "*" || number(total).is_some()).then_some(())?;
        inclusive(first, last)
    });
    range.ok_or(Refusal::Range)
}

fn inclusive(first: &str, last: &str) -> Option<Range<u64>> {
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..last.checked_add(1)?)
}

/// Reads a number of digits alone.
fn number(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

/// Returns the length of the body that a request announces.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<u64, Refusal> {
    let value = headers.get(header::CONTENT_LENGTH).ok_or(Refusal::Length)?;
    value.to_str().ok().and_then(number).ok_or(Refusal::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_range_is_one_closed_range_of_bytes() {
        let of = |text| range(&with(header::RANGE, &[text]));
        assert_eq!(of("bytes=0-0").unwrap(), Some(0..1));
        assert_eq!(of("bytes=5-9").unwrap(), Some(5..10));
        assert_eq!(range(&HeaderMap::new()).unwrap(), None);
        for bad in [
            "bytes=5-",
            "bytes=-5",
            "bytes=9-5",
            "bytes=0-1,3-4",
            "items=0-1",
            "bytes=",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=0-18446744073709551615",
            "bytes=0-99999999999999999999",
        ] {
            assert!(matches!(of(bad), Err(Refusal::Range)), "{bad}");
        }
        let two = with(header::RANGE, &["bytes=0-1", "bytes=0-1"]);
        assert!(range(&two).is_err());
    }

    #[test]
    fn a_body_has_one_place() {
        let of = |text| content_range(&with(header::CONTENT_RANGE, &[text]));
        assert_eq!(of("bytes 0-9/*").unwrap(), 0..10);
        assert_eq!(of("bytes 0-9/10").unwrap(), 0..10);
        for bad in [
            "bytes 0-9",
            "bytes */10",
            "bytes=0-9/*",
            "bytes 9-0/*",
            "bytes 0-9/x",
            "",
        ] {
            assert!(matches!(of(bad), Err(Refusal::Range)), "{bad}");
        }
    }

    #[test]
    fn secrets_are_exactly_those_that_are_needed() {
        let secret =
            |kind: &str, length: usize| format!("{kind} {}", BASE64.encode(&vec![7; length]));
        let of = |values: &[String]| {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            Secrets::of(&with(SECRETS, &values))
        };
        let (renew, cancel) = (
            secret("lease-renew-secret", 32),
            secret("lease-cancel-secret", 32),
        );
        let mut both = of(&[renew.clone(), cancel.clone()]).unwrap();
        assert_eq!(both.lease().unwrap(), RenewSecret::of(&[7; 32]));
        both.require_no_other().unwrap();
        assert!(of(std::slice::from_ref(&renew)).unwrap().lease().is_err());
        assert!(of(&[renew.clone(), renew.clone()]).is_err());
        assert!(of(&["lease-renew-secret ???".to_owned()]).is_err());
        assert!(of(&[secret("other", 32)]).is_err());
        let mut short = of(&[secret("lease-renew-secret", 31), cancel]).unwrap();
        assert!(short.lease().is_err());
        let more = of(&[renew, secret("upload-secret", 20)]).unwrap();
        assert!(more.require_no_other().is_err());
    }

    #[test]
    fn what_the_client_accepts_is_read_as_http_has_it() {
        let accepts =
            |values: &[&str]| require_accepts(&with(header::ACCEPT, values), CBOR).is_ok();
        assert!(accepts(&[]) && accepts(&["application/cbor"]) && accepts(&["*/*"]));
        assert!(
            accepts(&["text/html, application/cbor;q=0.5"]) && accepts(&["application/*", "a/b"])
        );
        assert!(!accepts(&["application/json", "application/cbor"]) && !accepts(&[""]));
        let typed = |text| require_cbor(&with(header::CONTENT_TYPE, &[text])).is_ok();
        assert!(
            typed("application/cbor") && typed("Application/CBOR; x=y") && !typed("text/plain")
        );
    }
}
