//! Entry points of the fuzz targets in `fuzz/`. Each function gives foreign bytes to a parser and
//! asserts properties of the outcome.

use crate::tahoe;

/// Reads the documents of Tahoe-LAFS clients: allocations, requests to slots, advisories. The first
/// byte says which.
pub fn documents(data: &[u8]) {
    let Some((kind, document)) = data.split_first() else {
        return;
    };
    tahoe::fuzz_document(kind % 3, document);
}

/// Reads the headers of a Tahoe-LAFS client's request: a line each, as `name: value`.
pub fn headers(data: &[u8]) {
    let mut headers = axum::http::HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(16) {
        let mut parts = line.splitn(2, |b| *b == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        let name = axum::http::HeaderName::from_bytes(name);
        let value = axum::http::HeaderValue::from_bytes(value.trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    tahoe::fuzz_headers(&headers);
}
