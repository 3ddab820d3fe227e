//! Finds tokens in answers, where the manifest says they are. A token's text is never shown.

use std::sync::Arc;

use quick_xml::{Reader, events::Event};
use zeroize::Zeroizing;

use crate::{manifest::Token, redaction::SHORTEST, secrets::SecretValue};

/// Longest token in bytes: Keystone's tokens with a catalogue in them have a few thousand. A token
/// is kept in every form that is looked for.
const LONGEST: usize = 16 << 10;

/// Most elements that may lie one inside another.
const MAX_DEPTH: usize = 32;

/// Whether all places of a token are in an answer's head.
pub(crate) fn is_in_head(token: &Token) -> bool {
    token.from.iter().all(|from| from.starts_with("header:"))
}

/// Finds a token in an answer's headers and, if it was read, in its body. Returns `None` if an
/// optional token is at none of its places.
///
/// # Errors
/// One line without the answer's words, if a required place is missing, if places differ, or if the
/// value is not a token.
pub(crate) fn find(
    name: &str,
    token: &Token,
    headers: &[(String, Vec<u8>)],
    body: Option<&[u8]>,
) -> Result<Option<Arc<SecretValue>>, String> {
    let mut found: Option<Zeroizing<String>> = None;
    for from in &token.from {
        let value = match from.split_once(':') {
            Some(("header", header)) => in_header(headers, header),
            Some(("json", pointer)) => body.and_then(|body| in_json(body, pointer)),
            Some(("xml", path)) => body.and_then(|body| in_xml(body, path)),
            _ => body.and_then(|body| {
                Some(Zeroizing::new(
                    std::str::from_utf8(body).ok()?.trim().to_owned(),
                ))
            }),
        };
        let value = value.filter(|value| !value.is_empty());
        match (value, &found) {
            (None, _) if token.optional => {}
            (None, _) => return Err(format!("the answer has no {name} at {from}")),
            (Some(value), Some(first)) if value != *first => {
                return Err(format!(
                    "the answer has another {name} at {from} than at a place before it"
                ));
            }
            (Some(value), _) => found = Some(value),
        }
    }
    let Some(value) = found else { return Ok(None) };
    if !is_token(&value) {
        return Err(format!(
            "the answer's {name} is shorter than {SHORTEST} bytes, longer than {LONGEST}, \
             or not printable ASCII text"
        ));
    }
    Ok(Some(Arc::new(SecretValue::taken(value, token))))
}

/// Returns the token in a header's value, if the value can be a token.
pub(crate) fn in_value(value: &[u8], token: &Token) -> Option<Arc<SecretValue>> {
    let text = Zeroizing::new(std::str::from_utf8(value).ok()?.trim().to_owned());
    is_token(&text).then(|| Arc::new(SecretValue::taken(text, token)))
}

fn is_token(text: &str) -> bool {
    (SHORTEST..=LONGEST).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

fn in_header(headers: &[(String, Vec<u8>)], name: &str) -> Option<Zeroizing<String>> {
    let (_, value) = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
    Some(Zeroizing::new(
        std::str::from_utf8(value).ok()?.trim().to_owned(),
    ))
}

fn in_json(body: &[u8], pointer: &str) -> Option<Zeroizing<String>> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(Zeroizing::new(
        document.pointer(pointer)?.as_str()?.to_owned(),
    ))
}

/// Returns the text of the first element at a path of local names below the root.
fn in_xml(body: &[u8], path: &str) -> Option<Zeroizing<String>> {
    let wanted: Vec<&str> = path.split('/').collect();
    let mut reader = Reader::from_str(std::str::from_utf8(body).ok()?);
    let is_at = |open: &[String]| open.get(1..).is_some_and(|below| below == wanted);
    let mut open: Vec<String> = Vec::new();
    let mut text = Zeroizing::new(String::new());
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) if open.len() < MAX_DEPTH => {
                open.push(tag.local_name().as_ref().to_owned());
            }
            Event::Start(_) | Event::Eof | Event::DocType(_) => return None,
            Event::Text(piece) if is_at(&open) => text.push_str(&piece),
            // No service sends a token with entities in it.
            Event::GeneralRef(_) if is_at(&open) => return None,
            Event::End(_) => {
                if is_at(&open) {
                    return Some(text);
                }
                open.pop();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;

    fn token(from: &str, optional: bool) -> Token {
        let text = format!(
            "name = \"x\"\nversion = \"1\"\ndescription = \"d\"\nlicense = \"MIT\"\ncontract = \"0.1.0\"\n\
             [[network]]\nname = \"n\"\nurl = \"http://h\"\n\
             [tokens.t]\nanswers = [{{ network = \"n\", method = \"GET\" }}]\nfrom = {from}\noptional = {optional}\n"
        );
        Manifest::parse(text.as_bytes())
            .unwrap()
            .tokens
            .remove("t")
            .unwrap()
    }

    fn taken(from: &str, headers: &[(&str, &str)], body: &str) -> Result<Option<String>, String> {
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()))
            .collect();
        let found = find("t", &token(from, false), &headers, Some(body.as_bytes()))?;
        Ok(found.map(|secret| secret.text().to_owned()))
    }

    #[test]
    fn tokens_are_found_where_the_manifest_says() {
        let ok = Ok(Some("token-of-16-bytes".to_owned()));
        let both = [
            ("x-auth-token", "token-of-16-bytes"),
            ("x-storage-token", "token-of-16-bytes"),
        ];
        assert_eq!(
            taken(
                r#"["header:X-Auth-Token", "header:X-Storage-Token"]"#,
                &both,
                ""
            ),
            ok
        );
        assert!(
            taken(
                r#"["header:X-Auth-Token", "header:X-Storage-Token"]"#,
                &both[..1],
                ""
            )
            .is_err()
        );
        assert_eq!(
            taken(
                r#"["json:/a/0/t"]"#,
                &[],
                r#"{"a":[{"t":"token-of-16-bytes"}]}"#
            ),
            ok
        );
        let xml =
            "<?xml version='1.0'?><R xmlns='u'><A><B>no</B></A><C><B>token-of-16-bytes</B></C></R>";
        assert_eq!(taken(r#"["xml:C/B"]"#, &[], xml), ok);
        assert_eq!(taken(r#"["text"]"#, &[], "token-of-16-bytes\n"), ok);
    }

    #[test]
    fn what_is_no_token_is_told_without_its_words() {
        for (from, body) in [
            (r#"["json:/t"]"#, r#"{"t":"short"}"#),
            (r#"["json:/t"]"#, "{}"),
            (r#"["json:/t"]"#, "<x/>"),
            (r#"["xml:C/B"]"#, "<R><C/></R>"),
        ] {
            let error = taken(from, &[], body).unwrap_err();
            assert!(!error.contains("short\""), "{error}");
        }
        assert!(
            find("t", &token(r#"["json:/t"]"#, true), &[], Some(b"{}"))
                .unwrap()
                .is_none()
        );
    }
}
