//! Percent-encoding as signatures want it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything but RFC 3986's unreserved characters (section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// Encodes a name or value of a query: all but unreserved characters become `%XX`, in upper case.
///
/// ```
/// assert_eq!(raic_sdk::uri::encode("a b/c+d~"), "a%20b%2Fc%2Bd~");
/// ```
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Encodes a path: all but unreserved characters and `/` become `%XX`, in upper case.
///
/// ```
/// assert_eq!(raic_sdk::uri::encode_path("shares/ä 1"), "shares/%C3%A4%201");
/// ```
pub fn encode_path(text: &str) -> String {
    utf8_percent_encode(text, RESERVED_IN_PATH).to_string()
}

/// Decodes `%XX`; `None` if the result is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

/// Decodes a form's encoding: `%XX`, and `+` for a space; `None` if the result is not UTF-8.
///
/// ```
/// use raic_sdk::uri::{decode, decode_form};
/// assert_eq!(decode_form("a+b%2Bc").as_deref(), Some("a b+c"));
/// assert_eq!(decode("a+b%2Bc").as_deref(), Some("a+b+c"));
/// ```
pub fn decode_form(text: &str) -> Option<String> {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8()
        .ok()
        .map(Into::into)
}

/// A URL's scheme, authority (host and port) and path; `None` if it has no `://`.
///
/// ```
/// let parts = raic_sdk::uri::split("http://127.0.0.1:9000/bucket/key");
/// assert_eq!(parts, Some(("http", "127.0.0.1:9000", "/bucket/key")));
/// ```
pub fn split(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find('/').unwrap_or(rest.len());
    Some((scheme, &rest[..end], &rest[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreserved_characters_stay() {
        assert_eq!(encode("a-Z_0.~"), "a-Z_0.~");
        assert_eq!(encode("a/b c+é"), "a%2Fb%20c%2B%C3%A9");
        assert_eq!(encode_path("a/b c"), "a/b%20c");
    }

    #[test]
    fn a_url_splits_into_scheme_authority_and_path() {
        assert_eq!(split("http://h:1/p/q"), Some(("http", "h:1", "/p/q")));
        assert_eq!(split("https://h"), Some(("https", "h", "")));
        assert_eq!(split("h/p"), None);
    }
}
