//! Secrets that an answer repeats are cut out of what the guest reads.
//!
//! Honest services repeat what they were sent: S3's SignatureDoesNotMatch dumps the canonical request, session
//! token included, as text and in hex. So every secret of 8 bytes or more is looked for as text, each of its characters
//! as it is or escaped in the ways of URLs, JSON and XML; in hex, either case, with or without a separator; and in
//! base64, in lines or not, at all three alignments.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use data_encoding::{BASE64, BASE64URL, HEXLOWER};
use zeroize::Zeroizing;

use crate::secrets::{Credentials, SecretValue};

/// Shorter ones are not looked for: they would be found everywhere.
pub(crate) const SHORTEST: usize = 8;
/// Of a secret in items, those that are looked for by themselves.
const SHORTEST_ITEM: usize = 24;
const MASK: &[u8] = b"***";

/// Tokens that are looked for, beside those still in use: those of a login or two of each kind.
const TOKENS: usize = 8;
/// Tokens that are looked for in any case.
const MOST_TOKENS: usize = 64;

/// Comparisons of one search, for every byte of the document and form of a secret, and once: more than honest documents need. A service
/// and a guest together could make a search last for hours.
const WORK: (u64, u64) = (2, 1 << 20);

/// What to look for on behalf of one cloud: its credentials, and the tokens that it was given last.
#[derive(Default)]
pub(crate) struct Redactor {
    credentials: Forms,
    // A std lock: held while a document is searched.
    tokens: RwLock<VecDeque<(Arc<SecretValue>, Forms)>>,
}

impl Redactor {
    pub(crate) fn new(credentials: &Credentials) -> Self {
        let mut forms = Forms::default();
        for secret in credentials.secret.values() {
            forms.add(secret.text());
            // A shared access signature: a service may repeat its items one by one, as they are or decoded.
            for item in secret.text().split('&').filter(|_| secret.text().contains('&')) {
                let value = item.split_once('=').map_or(item, |(_, value)| value);
                // Dates, versions and permissions are no secrets, and stand in every answer.
                if value.len() < SHORTEST_ITEM {
                    continue;
                }
                let decoded = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
                forms.add(value);
                if decoded != value {
                    forms.add(&decoded);
                }
            }
        }
        Self { credentials: forms, tokens: RwLock::default() }
    }

    /// Looks for a token from now on, in the place of the oldest.
    pub(crate) fn learn(&self, token: &Arc<SecretValue>) {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = tokens.iter().position(|(known, _)| known.text() == token.text()) {
            // The latest again: the newer handle is the one in use.
            if let Some((_, forms)) = tokens.remove(at) {
                tokens.push_front((token.clone(), forms));
            }
            return;
        }
        let mut forms = Forms::default();
        forms.add(token.text());
        tokens.push_front((token.clone(), forms));
        // One that a login or a call still holds may be sent yet, and repeated.
        while tokens.len() > TOKENS {
            let unused = tokens.iter().rposition(|(token, _)| Arc::strong_count(token) == 1);
            let Some(at) = unused.or((tokens.len() > MOST_TOKENS).then(|| tokens.len() - 1)) else { break };
            tokens.remove(at);
        }
    }

    /// `document` with every form of every secret replaced by `***`.
    pub(crate) fn apply(&self, document: &[u8]) -> Vec<u8> {
        self.apply_up_to(document, usize::MAX)
    }

    /// The same, given up where so many bytes have come out: for texts of which only a beginning is kept.
    pub(crate) fn apply_up_to(&self, document: &[u8], most: usize) -> Vec<u8> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<&Forms> =
            std::iter::once(&self.credentials).chain(tokens.iter().map(|(_, forms)| forms)).collect();
        apply(&all, document, most)
    }
}

/// What any text may begin with in one of its escaped forms.
const ESCAPES: [u8; 4] = [b'%', b'\\', b'&', b'+'];

/// The forms in which secrets are looked for.
struct Forms {
    /// The bytes that a form may begin with: most places of a document are none, and nothing is compared there.
    begin: [bool; 256],
    texts: Vec<Zeroizing<String>>,
    /// In base64, the characters that depend on nothing but the secret's own bytes.
    base64: Vec<Zeroizing<String>>,
    /// Lower-case hex without separators, matched whatever stands between the pairs.
    hex: Vec<Zeroizing<String>>,
}

impl Default for Forms {
    fn default() -> Self {
        Self { begin: [false; 256], texts: Vec::new(), base64: Vec::new(), hex: Vec::new() }
    }
}

impl Forms {
    fn add(&mut self, secret: &str) {
        if secret.len() < SHORTEST {
            return;
        }
        self.texts.push(Zeroizing::new(secret.to_owned()));
        self.hex.push(Zeroizing::new(HEXLOWER.encode(secret.as_bytes())));
        // A secret begins at one of three places in a group of base64.
        for lead in 0..3_usize {
            let padded = Zeroizing::new([&[0; 2][..lead], secret.as_bytes()].concat());
            let whole = padded.len() / 3 * 4;
            let skip = [0, 2, 3][lead];
            for encoding in [&BASE64, &BASE64URL] {
                let text = Zeroizing::new(encoding.encode(&padded));
                self.base64.push(Zeroizing::new(text[skip..whole].to_owned()));
            }
        }
        let firsts = [&self.texts, &self.base64, &self.hex].into_iter().flatten();
        for first in firsts.filter_map(|form| form.bytes().next()).chain(ESCAPES) {
            // Hex is in either case.
            for first in [first, first.to_ascii_uppercase()] {
                self.begin[usize::from(first)] = true;
            }
        }
    }

    fn len(&self) -> usize {
        self.texts.len() + self.base64.len() + self.hex.len()
    }

    fn may_begin_with(&self, byte: u8) -> bool {
        self.begin[usize::from(byte)]
    }

    /// The longest form of a secret at the beginning of `text`: a shorter one would leave a rest of a longer.
    fn longest_match(&self, text: &[u8], work: &Work) -> Option<usize> {
        let texts = self.texts.iter().filter_map(|secret| text_match(text, secret, work));
        let base64 = self.base64.iter().filter_map(|secret| base64_match(text, secret, work));
        let hex = self.hex.iter().filter_map(|secret| hex_match(text, secret, work));
        texts.chain(base64).chain(hex).max()
    }
}

fn apply(forms: &[&Forms], document: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(document.len().min(most));
    let mut rest = document;
    let all: usize = forms.iter().map(|forms| forms.len()).sum();
    let work = Work::of(document.len().min(most.saturating_mul(8)), all);
    let may_begin = |byte: &u8| forms.iter().any(|forms| forms.may_begin_with(*byte));
    while let Some(at) = rest.iter().position(may_begin) {
        if out.len() + at >= most {
            // No secret begins before that place.
            out.extend_from_slice(&rest[..at]);
            return out;
        }
        if work.is_done() {
            // What was not searched is not shown.
            return MASK.to_vec();
        }
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let here = forms.iter().filter(|forms| forms.may_begin_with(rest[0]));
        match here.filter_map(|forms| forms.longest_match(rest, &work)).max() {
            Some(length) => {
                out.extend_from_slice(MASK);
                rest = &rest[length..];
            }
            None => {
                out.push(rest[0]);
                rest = &rest[1..];
            }
        }
    }
    out.extend_from_slice(rest);
    out
}

/// What a search may still compare.
struct Work(Cell<u64>);

impl Work {
    fn of(bytes: usize, forms: usize) -> Self {
        let each = (bytes as u64).saturating_mul(forms as u64).saturating_mul(WORK.0);
        Self(Cell::new(each.saturating_add(WORK.1)))
    }

    /// Counts a comparison; none once there were too many.
    fn step(&self) -> Option<()> {
        self.0.set(self.0.get().checked_sub(1)?);
        Some(())
    }

    fn is_done(&self) -> bool {
        self.0.get() == 0
    }
}

/// The length of a match of `secret`, each character as it is or escaped.
fn text_match(text: &[u8], secret: &str, work: &Work) -> Option<usize> {
    // Most places do not even begin like it: nothing is allocated for them.
    character_matches(text, secret.chars().next()?).next()?;
    // All places where the characters so far may end: `%` may stand for itself or begin an escape.
    let mut ends = vec![0];
    for character in secret.chars() {
        let mut next = Vec::new();
        for end in ends {
            work.step()?;
            next.extend(character_matches(&text[end..], character).map(|length| end + length));
        }
        next.sort_unstable();
        next.dedup();
        if next.is_empty() {
            return None;
        }
        ends = next;
    }
    ends.into_iter().max()
}

/// The lengths of what may stand for `character` at the beginning of `text`.
fn character_matches(text: &[u8], character: char) -> impl Iterator<Item = usize> {
    let mut utf8 = [0; 4];
    let utf8 = character.encode_utf8(&mut utf8).as_bytes();
    let mut lengths = [None; 5];
    lengths[0] = text.starts_with(utf8).then_some(utf8.len());
    match text.first() {
        Some(b'%') => {
            lengths[1] = percent_match(text, utf8, b"%");
            // Escaped twice, as S3's canonical paths are.
            lengths[2] = percent_match(text, utf8, b"%25");
        }
        Some(b'\\') => lengths[1] = json_match(text, character),
        Some(b'&') => lengths[1] = xml_match(text, character),
        Some(b'+') if character == ' ' => lengths[1] = Some(1),
        _ => {}
    }
    lengths.into_iter().flatten()
}

fn percent_match(text: &[u8], utf8: &[u8], sign: &[u8]) -> Option<usize> {
    let mut at = 0;
    for byte in utf8 {
        let rest = text.get(at..)?.strip_prefix(sign)?;
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        if digits.starts_with('+') || u8::from_str_radix(digits, 16).ok()? != *byte {
            return None;
        }
        at += sign.len() + 2;
    }
    Some(at)
}

/// `\"`, `\/`, `\n` and the like, or `\u0041`, in two halves beyond U+FFFF (RFC 8259 section 7).
fn json_match(text: &[u8], character: char) -> Option<usize> {
    let named = match text.get(1)? {
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => {
            let mut units = [0; 2];
            let mut at = 0;
            for unit in character.encode_utf16(&mut units) {
                let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
                let digits = std::str::from_utf8(digits).ok()?;
                if digits.starts_with('+') || u16::from_str_radix(digits, 16).ok()? != *unit {
                    return None;
                }
                at += 6;
            }
            return Some(at);
        }
        other => char::from(*other),
    };
    (named == character).then_some(2)
}

/// `&amp;`, `&#65;`, `&#x41;` (XML 1.0 sections 4.1 and 4.6).
fn xml_match(text: &[u8], character: char) -> Option<usize> {
    let end = text.iter().take(12).position(|b| *b == b';')?;
    let name = std::str::from_utf8(&text[1..end]).ok()?;
    let meant = match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let hex = number.strip_prefix(['x', 'X']).map(|digits| u32::from_str_radix(digits, 16));
            char::from_u32(hex.unwrap_or_else(|| number.parse()).ok()?)
        }
    };
    (meant == Some(character)).then_some(end + 1)
}

/// The length of a match of `base64`, broken into lines anywhere, with the ends of lines escaped or not.
fn base64_match(text: &[u8], base64: &str, work: &Work) -> Option<usize> {
    let mut at = 0;
    for (i, wanted) in base64.bytes().enumerate() {
        work.step()?;
        while i > 0 && text.get(at)?.is_ascii_whitespace() {
            work.step()?;
            at += 1;
        }
        if i > 0 && matches!(text.get(at..at + 2), Some(b"\\n" | b"\\r")) {
            at += 2;
            if text.get(at..at + 2) == Some(b"\\n") {
                at += 2;
            }
        }
        // What base64 has beside letters and digits may be escaped, too.
        at += character_matches(text.get(at..)?, char::from(wanted)).max()?;
    }
    Some(at)
}

/// The length of a match of `hex` (lower case), with at most one separator of one or two characters between pairs.
fn hex_match(text: &[u8], hex: &str, work: &Work) -> Option<usize> {
    let mut at = 0;
    for (i, pair) in hex.as_bytes().chunks(2).enumerate() {
        work.step()?;
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

    fn redaction(secret: &str) -> Redactor {
        let mut redactor = Redactor::default();
        redactor.credentials.add(secret);
        redactor
    }

    /// A character in one of the ways an answer may have it.
    fn escaped(character: char, way: u8) -> String {
        let code = u32::from(character);
        let mut utf16 = [0; 2];
        match way % 8 {
            0 => character.to_string().bytes().map(|b| format!("%{b:02X}")).collect(),
            1 => character.to_string().bytes().map(|b| format!("%25{b:02x}")).collect(),
            2 => character.encode_utf16(&mut utf16).iter().map(|u| format!("\\u{u:04x}")).collect(),
            3 => format!("&#{code};"),
            4 => format!("&#x{code:X};"),
            5 if character == '&' => "&amp;".to_owned(),
            5 | 6 if matches!(character, '"' | '\\' | '/') => format!("\\{character}"),
            _ => character.to_string(),
        }
    }

    /// S3 answers a wrong signature with what it signed, as text and in hex, the session token in it.
    #[test]
    fn what_s3_says_of_a_wrong_signature_holds_no_token() {
        let token = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJHMEUCIQ==";
        let canonical = format!(
            "GET\n/b/k\n\nhost:s3.example.com\nx-amz-security-token:{token}\n\nhost;x-amz-security-token\nUNSIGNED-PAYLOAD"
        );
        let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
        let document = format!(
            "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>{canonical}</CanonicalRequest>\
             <CanonicalRequestBytes>{}</CanonicalRequestBytes></Error>",
            hex(&canonical)
        );
        let read = redaction(token).apply(document.as_bytes());
        let read = String::from_utf8_lossy(&read);
        assert!(!read.contains(token) && !read.contains(&hex(token)), "{read}");
        assert!(
            read.contains("<Code>SignatureDoesNotMatch</Code>") && read.contains("host:s3.example.com"),
            "{read}"
        );
    }

    /// A token like that, and a service that helps, would keep a search busy for hours.
    #[test]
    fn a_search_that_would_not_end_shows_nothing() {
        let token = "a".repeat(16_000) + "b";
        let began = std::time::Instant::now();
        let read = redaction(&token).apply("a".repeat(1 << 20).as_bytes());
        assert_eq!(read, MASK);
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }

    #[test]
    fn a_text_of_which_the_beginning_is_kept_is_searched_so_far() {
        let redaction = redaction("secret-of-a-kind");
        let text = "secret-of-a-kind".repeat(1000) + " and more";
        let read = redaction.apply_up_to(text.as_bytes(), 10);
        assert!(read.len() < 20 && read.iter().all(|b| *b == b'*'), "{}", String::from_utf8_lossy(&read));
    }

    #[test]
    fn a_token_in_use_is_looked_for_however_many_come_after() {
        let redactor = Redactor::default();
        let token = |text: &str| Arc::new(SecretValue::for_tests(text));
        let kept = token("the-token-in-use");
        redactor.learn(&kept);
        (0..100).for_each(|i| redactor.learn(&token(&format!("another-token-{i}"))));
        assert_eq!(redactor.apply(b"the-token-in-use, another-token-3"), b"***, another-token-3");
    }

    proptest! {
        #[test]
        fn every_mix_of_escapes_is_cut(
            secret in "[ -~äß]{8,40}", ways in proptest::collection::vec(any::<u8>(), 40),
            before in "[a-z ]{0,5}", after in "[a-z ]{0,5}",
        ) {
            let mixed: String = secret.chars().zip(&ways).map(|(c, way)| escaped(c, *way)).collect();
            let read = redaction(&secret).apply(format!("{before}{mixed}{after}").as_bytes());
            prop_assert_eq!(String::from_utf8_lossy(&read), format!("{before}***{after}"), "{}", mixed);
        }

        #[test]
        fn every_encoding_is_cut(secret in "[ -~]{8,40}", before in "[a-z]{0,5}", after in "[a-z]{0,5}", width in 4..20_usize) {
            let redaction = redaction(&secret);
            let whole = format!("{before}{secret}{after}");
            let spaced = secret.bytes().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(" ");
            let base64 = BASE64.encode(whole.as_bytes());
            let lines: Vec<_> = base64.as_bytes().chunks(width).map(|l| String::from_utf8_lossy(l)).collect();
            let texts = [
                HEXLOWER.encode(whole.as_bytes()), spaced, base64.clone(), BASE64URL.encode(whole.as_bytes()),
                base64.replace('+', "%2B").replace('/', "\\/"), lines.join("\r\n"), lines.join("\\n"),
            ];
            for text in texts {
                let read = redaction.apply(text.as_bytes());
                prop_assert!(read.windows(3).any(|w| w == MASK), "{}", text);
                prop_assert!(read.len() < text.len() / 2 + 30, "{}", text);
            }
        }

        #[test]
        fn what_holds_no_secret_stays(text in "[a-f0-9 %&\\\\;#+]{0,80}") {
            prop_assert_eq!(redaction("zzzzzzzzzz").apply(text.as_bytes()), text.as_bytes());
        }
    }
}
