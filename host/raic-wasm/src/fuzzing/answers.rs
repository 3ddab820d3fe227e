//! Answers of services: what the guest reads of them, and the tokens in them.

use std::{collections::BTreeMap, sync::Arc};

use data_encoding::{BASE64, HEXLOWER};

use super::{contains, parts, secret, token_at};
use crate::{
    redaction::{Redactor, SHORTEST},
    secrets::Credentials,
    tokens,
};

/// Cuts secrets out of a document. The last part of the input is the document, and the parts before
/// it are secrets. In the document, the bytes 0 to 5 stand for the first secret, each in another
/// encoding.
///
/// No secret is in what the guest reads, and nothing else is cut if there is no secret.
pub fn redaction(data: &[u8]) {
    let parts: Vec<&[u8]> = parts(data).collect();
    let Some((template, before)) = parts.split_last() else {
        return;
    };
    // A secret with the mask's own character may come about by masking.
    let is_secret = |text: &&str| {
        let is_wrong = |c: char| c == '*' || c.is_control();
        (SHORTEST..=64).contains(&text.len()) && !text.chars().any(is_wrong)
    };
    let texts = before
        .iter()
        .filter_map(|part| std::str::from_utf8(part).ok());
    let mut secrets: Vec<&str> = texts.filter(is_secret).take(3).collect();
    if secrets.is_empty() {
        secrets.push("a-secret/of+some length");
    }
    let mut document = Vec::new();
    for byte in *template {
        match byte {
            0..=5 => document.extend(encoded(secrets[0], *byte)),
            other => document.push(*other),
        }
    }
    assert_eq!(Redactor::default().apply(&document), document);

    let redactor = if template.len().is_multiple_of(2) {
        let redactor = Redactor::default();
        let learn = |text: &&str| redactor.learn(&Arc::new(secret(text)));
        secrets.iter().for_each(learn);
        redactor
    } else {
        let named = secrets.iter().enumerate();
        let named = named.map(|(i, text)| (format!("c.{i}"), Arc::new(secret(text))));
        Redactor::new(&Credentials {
            plain: BTreeMap::new(),
            secret: named.collect(),
        })
    };
    let most = document.len() / 2;
    let read = redactor.apply(&document);
    let beginning = redactor.apply_up_to(&document, most);
    assert!(beginning.len() <= most);
    for secret in &secrets {
        assert!(!contains(&read, secret.as_bytes()), "{secret:?}");
        assert!(!contains(&beginning, secret.as_bytes()), "{secret:?}");
    }
    // Text beside an encoded secret may change what the encoding means, so here is none that does.
    let hidden = encoded(secrets[0], 1 + template.len() as u8 % 5);
    let read = redactor.apply(&[&b"before "[..], &hidden, b" AFTER"].concat());
    assert!(!contains(&read, &hidden), "{:?}", secrets[0]);
}

/// Returns a secret in one of the ways in which an answer may have it.
fn encoded(secret: &str, way: u8) -> Vec<u8> {
    let bytes = secret.as_bytes();
    let text: String = match way {
        1 => bytes.iter().map(|b| format!("%{b:02X}")).collect(),
        2 => secret
            .encode_utf16()
            .map(|u| format!("\\u{u:04x}"))
            .collect(),
        3 => secret
            .chars()
            .map(|c| format!("&#{};", u32::from(c)))
            .collect(),
        4 => HEXLOWER.encode(bytes),
        5 => BASE64.encode(bytes),
        _ => secret.to_owned(),
    };
    text.into_bytes()
}

/// Looks for a token in an answer, whose header and body are both the input.
///
/// A token is printable, neither short nor long, and is cut out of the answer. An error does not
/// quote the answer.
pub fn token(data: &[u8]) {
    let headers = [("x-token".to_owned(), data.to_vec())];
    for place in ["header:X-Token", "json:/a/0/t", "xml:A/B", "text"] {
        for optional in [true, false] {
            let rule = token_at(place, optional);
            let found = match tokens::find("t", &rule, &headers, Some(data)) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    assert!(optional, "{place}");
                    continue;
                }
                Err(why) => {
                    assert!(why.len() < 200 && !why.contains('\n'), "{why}");
                    continue;
                }
            };
            let text = found.text();
            assert!((SHORTEST..=16 << 10).contains(&text.len()));
            assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
            let redactor = Redactor::default();
            redactor.learn(&found);
            let read = redactor.apply(data);
            assert!(
                text.contains('*') || !contains(&read, text.as_bytes()),
                "{text:?}"
            );
        }
    }
    if let Some(found) = tokens::in_value(data, &token_at("text", true)) {
        assert!(contains(data, found.text().as_bytes()));
    }
}
