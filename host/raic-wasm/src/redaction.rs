//! Secrets that an answer repeats are cut out of what the guest reads.
//!
//! Honest services repeat what they were sent: S3's SignatureDoesNotMatch dumps the canonical request, session
//! token included, as text and in hex. So every secret of 8 bytes or more is looked for as it is, percent-encoded,
//! JSON and XML escaped, in hex (either case, with or without a separator), and in base64 at all three alignments.

use std::collections::BTreeSet;

use data_encoding::{BASE64, BASE64URL, HEXLOWER};
use zeroize::Zeroizing;

use crate::secrets::Credentials;

const SHORTEST: usize = 8;
const MASK: &[u8] = b"***";

/// What to look for on behalf of one cloud.
#[derive(Default)]
pub(crate) struct Redaction {
    /// Longest first, so that no longer form is cut in two by a shorter one.
    needles: Vec<Zeroizing<Vec<u8>>>,
    /// Lower-case hex without separators, matched whatever stands between the pairs.
    hex: Vec<Zeroizing<Vec<u8>>>,
}

impl Redaction {
    pub(crate) fn new(credentials: &Credentials) -> Self {
        let secrets = credentials.secret.values().map(|s| s.text());
        let mut needles = BTreeSet::new();
        let mut hex = Vec::new();
        for secret in secrets.filter(|s| s.len() >= SHORTEST) {
            needles.extend(forms(secret));
            hex.push(Zeroizing::new(HEXLOWER.encode(secret.as_bytes()).into_bytes()));
        }
        let mut needles: Vec<_> = needles.into_iter().map(Zeroizing::new).collect();
        needles.sort_by_key(|n| std::cmp::Reverse(n.len()));
        Self { needles, hex }
    }

    /// `document` with every form of every secret replaced by `***`.
    pub(crate) fn apply(&self, document: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(document.len());
        let mut rest = document;
        while let Some(first) = rest.first() {
            let plain = self.needles.iter().find(|n| rest.starts_with(n)).map(|n| n.len());
            match plain.or_else(|| self.hex.iter().find_map(|h| hex_match(rest, h))) {
                Some(length) => {
                    out.extend_from_slice(MASK);
                    rest = &rest[length..];
                }
                None => {
                    out.push(*first);
                    rest = &rest[1..];
                }
            }
        }
        out
    }
}

fn forms(secret: &str) -> BTreeSet<Vec<u8>> {
    let bytes = secret.as_bytes();
    let percent = |upper: bool| -> String {
        let encode = |b: &u8| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(*b).to_string(),
            b if upper => format!("%{b:02X}"),
            b => format!("%{b:02x}"),
        };
        bytes.iter().map(encode).collect()
    };
    let json = serde_json::Value::from(secret).to_string();
    let json = json.trim_matches('"').to_owned();
    let xml = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let texts = [
        secret.to_owned(),
        percent(true),
        percent(false),
        json.replace('/', "\\/"),
        json,
        xml.replace('"', "&quot;").replace('\'', "&apos;"),
        xml.replace('"', "&#34;").replace('\'', "&#39;"),
        xml,
    ];
    let mut forms: BTreeSet<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
    // In base64 a secret begins at one of three places in a group, and only the characters that depend on nothing
    // but its own bytes can be looked for.
    for lead in 0..3_usize {
        let padded = [vec![0; lead], bytes.to_vec()].concat();
        let whole = padded.len() / 3 * 4;
        let skip = [0, 2, 3][lead];
        for encoding in [&BASE64, &BASE64URL] {
            let text = encoding.encode(&padded);
            forms.insert(text.as_bytes()[skip..whole].to_vec());
        }
    }
    forms
}

/// The length of a match of `hex` (lower case) at the beginning of `text`, with at most one separator of one or two
/// characters between pairs.
fn hex_match(text: &[u8], hex: &[u8]) -> Option<usize> {
    let mut at = 0;
    for (i, pair) in hex.chunks(2).enumerate() {
        let here = |at: usize| text.get(at..at + 2).is_some_and(|t| t.eq_ignore_ascii_case(pair));
        let skip = (0..=if i == 0 { 0 } else { 2 })
            .find(|skip| here(at + skip) && text[at..at + skip].iter().all(|b| !b.is_ascii_alphanumeric()))?;
        at += skip + 2;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redaction(secret: &str) -> Redaction {
        let mut needles: Vec<_> = forms(secret).into_iter().map(Zeroizing::new).collect();
        needles.sort_by_key(|n| std::cmp::Reverse(n.len()));
        Redaction { needles, hex: vec![Zeroizing::new(HEXLOWER.encode(secret.as_bytes()).into_bytes())] }
    }

    proptest! {
        #[test]
        fn every_form_is_cut(secret in "[ -~]{8,40}", before in "[a-z]{0,5}", after in "[a-z]{0,5}") {
            let redaction = redaction(&secret);
            let whole = format!("{before}{secret}{after}");
            let spaced = secret.bytes().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(" ");
            for text in [whole.clone(), HEXLOWER.encode(whole.as_bytes()), spaced, BASE64.encode(whole.as_bytes())] {
                let read = redaction.apply(text.as_bytes());
                prop_assert!(read.windows(3).any(|w| w == MASK), "{}", text);
                let core = &secret.as_bytes()[2..];
                prop_assert!(!read.windows(core.len()).any(|w| w == core));
            }
        }

        #[test]
        fn what_holds_no_secret_stays(text in "[a-f0-9 ]{0,80}") {
            prop_assert_eq!(redaction("zzzzzzzzzz").apply(text.as_bytes()), text.as_bytes());
        }
    }
}
