//! What a request asks for.

use std::collections::BTreeMap;

use hyper::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;

/// The bucket, the key and the query of a request.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) bucket: String,
    /// Empty for the bucket itself.
    pub(crate) key: String,
    pub(crate) query: BTreeMap<String, String>,
}

fn decoded(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

impl Target {
    /// Reads a URL with the bucket in its path; `None` if it is not UTF-8.
    pub(crate) fn of(uri: &Uri) -> Option<Self> {
        let path = uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let pairs = uri.query().unwrap_or_default().split('&');
        let pairs = pairs.filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Only forms have a space as "+".
            Some((decoded(name)?, decoded(&value.replace('+', " "))?))
        });
        Some(Self {
            bucket: decoded(bucket)?,
            key: decoded(key)?,
            query: query.collect::<Option<_>>()?,
        })
    }

    pub(crate) fn asks(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }

    /// Returns whether the request removes objects.
    pub(crate) fn is_deletion(&self, method: &Method) -> bool {
        let one = method == Method::DELETE && !self.key.is_empty() && !self.asks("uploadId");
        one || (method == Method::POST && self.asks("delete"))
    }

    /// Returns whether the request is a listing.
    pub(crate) fn is_listing(&self, method: &Method) -> bool {
        method == Method::GET && self.key.is_empty()
    }
}

/// The first and the last byte that a header `Range` asks for, of `size` bytes; `None` if they are
/// not there, or if there is no such header.
pub(crate) fn range(headers: &HeaderMap, size: u64) -> Option<Option<(u64, u64)>> {
    let text = headers.get("range")?.to_str().ok()?;
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = size.checked_sub(1);
    Some(
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) => end.map(|end| (first, last.min(end))),
            (Ok(first), Err(_)) => end.map(|end| (first, end)),
            (Err(_), Ok(count)) => end.map(|end| (size.saturating_sub(count), end)),
            _ => None,
        }
        .filter(|(first, last)| first <= last),
    )
}
