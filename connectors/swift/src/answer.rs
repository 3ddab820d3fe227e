//! What the answers of Swift and Keystone mean.

use raic_sdk::{ErrorKind, Response, Result, answer::Described};

/// Returns `Ok` if the status is one of those wanted, else the error that the answer describes.
pub(crate) fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
    raic_sdk::answer::expect(answer, wanted, "x-trans-id", |answer, text| {
        let message = plain(&String::from_utf8_lossy(text));
        Described {
            kind: kind_of(answer.status(), &message),
            code: String::new(),
            message,
        }
    })
}

/// The kind of error that Swift means by a status in its own way (Swift API reference); else
/// `None`. Quotas share the status 413 with sizes, so there the text decides.
fn kind_of(status: u16, text: &str) -> Option<ErrorKind> {
    match status {
        413 if text.to_ascii_lowercase().contains("quota") => Some(ErrorKind::QuotaExceeded),
        422 | 499 => Some(ErrorKind::Integrity),
        // The ratelimit middleware's own status.
        498 => Some(ErrorKind::Throttled),
        _ => None,
    }
}

/// The text of an HTML page, or the message of a JSON error, in one line of at most 200 characters.
fn plain(text: &str) -> String {
    if let Ok(document) = raic_sdk::json::parse(text.as_bytes())
        && let Some(message) = raic_sdk::json::text(&document, "/error/message")
    {
        return message.chars().take(200).collect();
    }
    let mut out = String::new();
    let mut is_tag = false;
    for c in text.chars() {
        match c {
            '<' => is_tag = true,
            '>' => {
                is_tag = false;
                out.push(' ');
            }
            c if !is_tag => out.push(c),
            _ => {}
        }
    }
    out.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_documents_become_a_line() {
        let page = "<html><h1>Unauthorized</h1><p>This server could\nnot verify</p></html>";
        assert_eq!(plain(page), "Unauthorized This server could not verify");
        assert_eq!(
            plain(
                r#"{"error":{"code":401,
                "message":"The request you have made requires authentication."}}"#
            ),
            "The request you have made requires authentication."
        );
    }

    #[test]
    fn a_quota_is_no_size() {
        assert_eq!(
            kind_of(413, "Upload exceeds quota."),
            Some(ErrorKind::QuotaExceeded)
        );
        assert_eq!(kind_of(413, "Request Entity Too Large"), None);
    }
}
