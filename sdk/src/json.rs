//! JSON documents.

pub use serde_json::{Value, json};

use crate::{ErrorKind, Result, error};

/// Reads a document.
///
/// ```
/// use raic_sdk::json;
///
/// // Google writes numbers of 64 bits as texts.
/// let object = json::parse(br#"{"name": "k", "size": "7", "acl": [{"role": "OWNER"}]}"#).unwrap();
/// assert_eq!(json::text(&object, "/acl/0/role"), Some("OWNER"));
/// assert_eq!((json::number(&object, "/size"), json::number(&object, "/none")), (Some(7), None));
/// ```
///
/// # Errors
/// `protocol` if it is not a JSON document.
pub fn parse(document: &[u8]) -> Result<Value> {
    // serde_json's messages may quote the document.
    let bad = |e: serde_json::Error| {
        format!(
            "the answer is not a JSON document (line {}, column {})",
            e.line(),
            e.column()
        )
    };
    serde_json::from_slice(document).map_err(|e| error(ErrorKind::Protocol, bad(e)))
}

/// The text at a pointer (RFC 6901); `None` if there is no text.
pub fn text<'a>(document: &'a Value, pointer: &str) -> Option<&'a str> {
    document.pointer(pointer)?.as_str()
}

/// The number at a pointer (RFC 6901), also if it is written as a text, as Google's int64 are.
pub fn number(document: &Value, pointer: &str) -> Option<u64> {
    let value = document.pointer(pointer)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// `text` as a JSON string: in quotes, escaped.
///
/// ```
/// assert_eq!(raic_sdk::json::quote("say \"x\""), r#""say \"x\"""#);
/// ```
pub fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_are_found() {
        let document = parse(br#"{"a":[{"n":"12","t":"x"}],"m":7}"#).unwrap();
        assert_eq!(
            (number(&document, "/a/0/n"), number(&document, "/m")),
            (Some(12), Some(7))
        );
        assert_eq!(
            (text(&document, "/a/0/t"), text(&document, "/m")),
            (Some("x"), None)
        );
        assert!(
            parse(b"{\"secret\"")
                .unwrap_err()
                .message
                .contains("line 1")
        );
        assert_eq!(quote("a\"b"), r#""a\"b""#);
    }
}
