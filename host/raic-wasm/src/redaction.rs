//! Cuts the secrets that an answer repeats out of what the guest reads.
//!
//! Honest services repeat what they were sent: S3's SignatureDoesNotMatch shows the canonical
//! request, session token included, as text and in hex. So every secret of 8 bytes or more is
//! looked for. A document is searched in up to three readings: as it stands, and with the escapes
//! of URLs, JSON and XML undone once and twice. Each reading is searched for the secret's text, and
//! for its base64 without the white space that breaks lines. It is also searched for its hex,
//! without what separates the digits. An automaton finds the first [`WINDOW`] bytes of a secret, so
//! that its beginning alone is cut, too. The match goes on for as long as it equals the secret.
//!
//! **Invariant:** a search takes time linear in the document, whatever the document and the secrets
//! are, and holds no lock.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use aho_corasick::{AhoCorasick, Input, MatchKind};
use data_encoding::{BASE64, BASE64URL, HEXLOWER};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::secrets::{Credentials, SecretValue};

/// Shortest secret that is looked for, in bytes. Shorter ones would be found everywhere.
pub(crate) const SHORTEST: usize = 8;
/// Shortest item of a secret with several items that is looked for by itself, in bytes.
const SHORTEST_ITEM: usize = 24;
const MASK: &[u8] = b"***";
/// Leading bytes of a secret that are enough to cut it, since a service may repeat a part of it.
const WINDOW: usize = 16;

/// Tokens that are looked for, if no more are in use: those of one or two logins of each kind.
const TOKENS: usize = 8;
/// Most tokens that are looked for, even if more are in use.
const MOST_TOKENS: usize = 64;

/// The secrets to look for on behalf of one cloud: its credentials, and its latest tokens.
pub(crate) struct Redactor {
    credentials: Vec<Form>,
    // A blocking lock, because it is only held while a token is added, and never during a search.
    state: Mutex<State>,
}

struct State {
    tokens: VecDeque<Arc<SecretValue>>,
    searched: Arc<Searched>,
}

impl Default for Redactor {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl Redactor {
    pub(crate) fn new(credentials: &Credentials) -> Self {
        let mut forms = Vec::new();
        for secret in credentials.secret.values() {
            add_forms(&mut forms, secret.text());
            // A shared access signature has items, which a service may repeat one by one, as they
            // are or decoded.
            for item in secret
                .text()
                .split('&')
                .filter(|_| secret.text().contains('&'))
            {
                let value = item.split_once('=').map_or(item, |(_, value)| value);
                // Dates, versions and permissions are not secrets, and stand in every answer.
                if value.len() < SHORTEST_ITEM {
                    continue;
                }
                let decoded = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
                add_forms(&mut forms, value);
                if decoded != value {
                    add_forms(&mut forms, &decoded);
                }
            }
        }
        Self::of(forms)
    }

    fn of(credentials: Vec<Form>) -> Self {
        let searched = Arc::new(Searched::new(credentials.iter().cloned()));
        Self {
            credentials,
            state: Mutex::new(State {
                tokens: VecDeque::new(),
                searched,
            }),
        }
    }

    /// Adds a token to look for. If there are too many, the oldest one that is not in use is
    /// dropped.
    pub(crate) fn learn(&self, token: &Arc<SecretValue>) {
        let mut state = self.state.lock();
        let tokens = &mut state.tokens;
        if let Some(at) = tokens.iter().position(|known| known.text() == token.text()) {
            // The token is the latest again, and the newer handle is the one in use.
            tokens.remove(at);
            tokens.push_front(token.clone());
            return;
        }
        tokens.push_front(token.clone());
        // A token that a login or a call still holds may yet be sent, and repeated.
        while tokens.len() > TOKENS {
            let unused = tokens
                .iter()
                .rposition(|token| Arc::strong_count(token) == 1);
            let Some(at) = unused.or((tokens.len() > MOST_TOKENS).then(|| tokens.len() - 1)) else {
                break;
            };
            tokens.remove(at);
        }
        let mut forms = self.credentials.clone();
        tokens
            .iter()
            .for_each(|token| add_forms(&mut forms, token.text()));
        // A token has a few kilobytes at most, so an automaton of the beginnings is made in less
        // than a millisecond.
        state.searched = Arc::new(Searched::new(forms.into_iter()));
    }

    /// Returns `document` with every form of every secret replaced by `***`.
    pub(crate) fn apply(&self, document: &[u8]) -> Vec<u8> {
        let searched = self.state.lock().searched.clone();
        searched.cut(document)
    }

    /// Returns the first `most` bytes of `document` after secrets were replaced. No more of it is
    /// searched than these can depend on.
    pub(crate) fn apply_up_to(&self, document: &[u8], most: usize) -> Vec<u8> {
        // An escape has at most 12 bytes for one byte.
        let enough = most.saturating_mul(12).saturating_add(1 << 10);
        let mut kept = self.apply(&document[..document.len().min(enough)]);
        kept.truncate(most);
        kept
    }
}

/// The alphabets in which a secret is looked for, each in a view of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alphabet {
    /// The secret's own characters; `+` and a space count as the same.
    Text,
    /// Standard base64 or base64url.
    Base64,
    /// Hex digits in lower case.
    Hex,
}

/// One form of a secret that is looked for.
#[derive(Clone)]
struct Form {
    alphabet: Alphabet,
    bytes: Arc<Zeroizing<Vec<u8>>>,
}

fn add_forms(forms: &mut Vec<Form>, secret: &str) {
    if secret.len() < SHORTEST {
        return;
    }
    let mut add = |alphabet, bytes: Vec<u8>| {
        forms.push(Form {
            alphabet,
            bytes: Arc::new(Zeroizing::new(bytes)),
        });
    };
    let plain = |mut bytes: Vec<u8>| {
        bytes
            .iter_mut()
            .filter(|b| **b == b'+')
            .for_each(|b| *b = b' ');
        bytes
    };
    add(Alphabet::Text, plain(secret.as_bytes().to_vec()));
    // A secret may itself have characters that read as an escape, which the views undo.
    let once = unescaped(secret.as_bytes()).bytes;
    if once != secret.as_bytes() {
        let twice = unescaped(&once).bytes;
        add(Alphabet::Text, plain(once));
        add(Alphabet::Text, plain(twice));
    }
    add(
        Alphabet::Hex,
        HEXLOWER.encode(secret.as_bytes()).into_bytes(),
    );
    // A secret begins at one of three places in a group of base64. Characters that depend on its
    // neighbours are left out.
    for lead in 0..3_usize {
        let padded = Zeroizing::new([&[0; 2][..lead], secret.as_bytes()].concat());
        let whole = padded.len() / 3 * 4;
        let skip = [0, 2, 3][lead];
        for encoding in [&BASE64, &BASE64URL] {
            add(
                Alphabet::Base64,
                encoding.encode(&padded).as_bytes()[skip..whole].to_vec(),
            );
        }
    }
}

/// All forms that one search looks for.
struct Searched {
    texts: Automaton,
    base64: Automaton,
    hex: Automaton,
}

impl Searched {
    fn new(forms: impl Iterator<Item = Form> + Clone) -> Self {
        let automaton =
            |alphabet| Automaton::new(forms.clone().filter(|form| form.alphabet == alphabet));
        Self {
            texts: automaton(Alphabet::Text),
            base64: automaton(Alphabet::Base64),
            hex: automaton(Alphabet::Hex),
        }
    }

    fn cut(&self, document: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        let whole = View::whole(document);
        self.look(&whole, &mut found);
        if document.iter().any(|b| matches!(b, b'%' | b'\\' | b'&')) {
            let once = whole.then(unescaped(&whole.bytes));
            self.look(&once, &mut found);
            drop(whole);
            let twice = unescaped(&once.bytes);
            if twice.bytes != once.bytes {
                self.look(&once.then(twice), &mut found);
            }
        }
        masked(document, found)
    }

    /// Adds the ranges of the document in which a view has a secret.
    fn look(&self, view: &View, found: &mut Vec<Range<usize>>) {
        self.texts.find(
            &view.kept(|b| Some(if b == b'+' { b' ' } else { b })),
            found,
        );
        self.base64.find(
            &view.kept(|b| (!b.is_ascii_whitespace()).then_some(b)),
            found,
        );
        let digit = |b: u8| b.is_ascii_alphanumeric().then(|| b.to_ascii_lowercase());
        self.hex.find(&view.kept(digit), found);
    }
}

/// Finds forms by their first bytes.
struct Automaton {
    /// Finds the windows; `None` if there is nothing to look for.
    windows: Option<AhoCorasick>,
    /// The forms that begin with each window, by the window's number.
    forms: Vec<Vec<Form>>,
}

impl Automaton {
    fn new(forms: impl Iterator<Item = Form>) -> Self {
        let mut by_window: BTreeMap<Vec<u8>, Vec<Form>> = BTreeMap::new();
        for form in forms {
            let window = form.bytes[..form.bytes.len().min(WINDOW)].to_vec();
            by_window.entry(window).or_default().push(form);
        }
        let (windows, forms): (Vec<_>, Vec<_>) = by_window.into_iter().unzip();
        let built = (!windows.is_empty()).then(|| {
            // Leftmost-longest, since a window may begin with a shorter one.
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&windows)
        });
        // Building fails only for too many or too long patterns; there are a few hundred of 16
        // bytes.
        Self {
            windows: built.and_then(Result::ok),
            forms,
        }
    }

    fn find(&self, view: &Kept<'_>, found: &mut Vec<Range<usize>>) {
        let Some(windows) = &self.windows else { return };
        let mut at = 0;
        while let Some(hit) = windows.find(Input::new(&view.bytes).span(at..view.bytes.len())) {
            let rest = &view.bytes[hit.start()..];
            let same = |form: &Form| {
                rest.iter()
                    .zip(form.bytes.iter())
                    .take_while(|(a, b)| a == b)
                    .count()
            };
            let length = self.forms[hit.pattern()]
                .iter()
                .map(same)
                .max()
                .unwrap_or(0)
                .max(hit.len());
            let end = hit.start() + length;
            let place = view.place(hit.start(), end);
            // If a document repeats itself and has a hit at each byte, these are one place.
            match found.last_mut() {
                Some(last) if last.start <= place.start && place.start < last.end => {
                    last.end = last.end.max(place.end);
                }
                _ => found.push(place),
            }
            // Another secret may begin in the last bytes of a partial match. Each byte is compared
            // a bounded number of times: the search advances by at least one byte, and compares
            // fewer bytes than a window again.
            at = (hit.start() + 1).max(end.saturating_sub(WINDOW - 1));
        }
    }
}

/// A reading of a document, in which the origin of every byte is known.
struct View {
    bytes: Vec<u8>,
    /// Offset in the document of each byte's origin, and one offset past the last.
    places: Vec<u32>,
}

impl View {
    fn whole(document: &[u8]) -> Self {
        let places = (0..=u32::try_from(document.len()).unwrap_or(u32::MAX)).collect();
        Self {
            bytes: document.to_vec(),
            places,
        }
    }

    /// Returns `next`, a view of this view's bytes, with places in the document.
    fn then(&self, next: View) -> View {
        let places = next
            .places
            .iter()
            .map(|at| self.places[*at as usize])
            .collect();
        View {
            bytes: next.bytes,
            places,
        }
    }

    /// Returns the bytes that `keep` returns for this view's, without those for which it returns
    /// `None`.
    fn kept(&self, keep: impl Fn(u8) -> Option<u8>) -> Kept<'_> {
        let mut kept = Kept {
            bytes: Vec::with_capacity(self.bytes.len()),
            indices: Vec::new(),
            view: self,
        };
        kept.indices.reserve(self.bytes.len());
        for (byte, index) in self.bytes.iter().zip(0..) {
            if let Some(byte) = keep(*byte) {
                kept.bytes.push(byte);
                kept.indices.push(index);
            }
        }
        kept
    }
}

/// Some of a view's bytes, and where they stand in it.
struct Kept<'a> {
    bytes: Vec<u8>,
    /// Index in the view of each byte.
    indices: Vec<u32>,
    view: &'a View,
}

impl Kept<'_> {
    /// Returns the range of the document in which the bytes from `start` to `end` stand.
    fn place(&self, start: usize, end: usize) -> Range<usize> {
        let places = &self.view.places;
        let (first, last) = (self.indices[start] as usize, self.indices[end - 1] as usize);
        places[first] as usize..places[last + 1] as usize
    }
}

/// Returns the document with the found ranges replaced by the mask.
fn masked(document: &[u8], mut found: Vec<Range<usize>>) -> Vec<u8> {
    found.sort_unstable_by_key(|range| (range.start, range.end));
    let mut out = Vec::with_capacity(document.len());
    let mut copied = 0;
    let mut ranges = found.into_iter().peekable();
    while let Some(mut range) = ranges.next() {
        while let Some(next) = ranges.next_if(|next| next.start < range.end) {
            range.end = range.end.max(next.end);
        }
        out.extend_from_slice(&document[copied..range.start]);
        out.extend_from_slice(MASK);
        copied = range.end;
    }
    out.extend_from_slice(&document[copied..]);
    out
}

/// Returns a view of a text with its escapes undone once: `%41` (RFC 3986 section 2.1), `\u0041`
/// and `\n` (RFC 8259 section 7), `&#65;`, `&#x41;` and `&amp;` (XML 1.0 sections 4.1 and 4.6).
/// Places in the view are offsets in `text`.
fn unescaped(text: &[u8]) -> View {
    let mut view = View {
        bytes: Vec::with_capacity(text.len()),
        places: Vec::with_capacity(text.len() + 1),
    };
    let mut offset = 0;
    while offset < text.len() {
        let rest = &text[offset..];
        let (character, length) = match rest[0] {
            b'%' => percent(rest),
            b'\\' => json(rest),
            b'&' => xml(rest),
            _ => None,
        }
        .unwrap_or((Unescaped::Byte(rest[0]), 1));
        let mut utf8 = [0; 4];
        let bytes: &[u8] = match character {
            Unescaped::Byte(byte) => {
                utf8[0] = byte;
                &utf8[..1]
            }
            Unescaped::Char(character) => character.encode_utf8(&mut utf8).as_bytes(),
        };
        for byte in bytes {
            view.bytes.push(*byte);
            view.places.push(u32::try_from(offset).unwrap_or(u32::MAX));
        }
        offset += length;
    }
    view.places.push(u32::try_from(offset).unwrap_or(u32::MAX));
    view
}

enum Unescaped {
    Byte(u8),
    Char(char),
}

fn digits<const N: usize>(text: &[u8]) -> Option<u32> {
    let digits = text.get(..N)?;
    let all_hex = digits.iter().all(u8::is_ascii_hexdigit);
    all_hex
        .then(|| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
        .flatten()
}

fn percent(text: &[u8]) -> Option<(Unescaped, usize)> {
    let byte = digits::<2>(&text[1..])?;
    Some((Unescaped::Byte(u8::try_from(byte).ok()?), 3))
}

fn json(text: &[u8]) -> Option<(Unescaped, usize)> {
    let plain = |byte| Some((Unescaped::Byte(byte), 2));
    match text.get(1)? {
        b'n' => plain(b'\n'),
        b't' => plain(b'\t'),
        b'r' => plain(b'\r'),
        b'b' => plain(8),
        b'f' => plain(12),
        b'u' => {
            let unit = digits::<4>(&text[2..])?;
            if let Some(character) = char::from_u32(unit) {
                return Some((Unescaped::Char(character), 6));
            }
            let low = digits::<4>(text.get(6..)?.strip_prefix(b"\\u")?)?;
            let units = [u16::try_from(unit).ok()?, u16::try_from(low).ok()?];
            let character = char::decode_utf16(units).next()?.ok()?;
            Some((Unescaped::Char(character), 12))
        }
        other @ (b'"' | b'/' | b'\\') => plain(*other),
        _ => None,
    }
}

fn xml(text: &[u8]) -> Option<(Unescaped, usize)> {
    let end = text.iter().take(12).position(|b| *b == b';')?;
    let name = std::str::from_utf8(&text[1..end]).ok()?;
    let character = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = name.strip_prefix('#')?;
            let hex = number
                .strip_prefix(['x', 'X'])
                .map(|digits| u32::from_str_radix(digits, 16));
            char::from_u32(hex.unwrap_or_else(|| number.parse()).ok()?)?
        }
    };
    Some((Unescaped::Char(character), end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redaction(secret: &str) -> Redactor {
        let mut forms = Vec::new();
        add_forms(&mut forms, secret);
        Redactor::of(forms)
    }

    /// Returns a character in one of the ways in which an answer may have it.
    fn escaped(character: char, way: u8) -> String {
        let code = u32::from(character);
        let mut utf16 = [0; 2];
        match way % 8 {
            0 => character
                .to_string()
                .bytes()
                .map(|b| format!("%{b:02X}"))
                .collect(),
            1 => character
                .to_string()
                .bytes()
                .map(|b| format!("%25{b:02x}"))
                .collect(),
            2 => character
                .encode_utf16(&mut utf16)
                .iter()
                .map(|u| format!("\\u{u:04x}"))
                .collect(),
            3 => format!("&#{code};"),
            4 => format!("&#x{code:X};"),
            5 if character == '&' => "&amp;".to_owned(),
            5 | 6 if matches!(character, '"' | '\\' | '/') => format!("\\{character}"),
            _ => character.to_string(),
        }
    }

    /// S3 answers a wrong signature with the text that it signed, as text and in hex, with the
    /// session token in it.
    #[test]
    fn what_s3_says_of_a_wrong_signature_holds_no_token() {
        let token = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJHMEUCIQ==";
        let canonical = format!(
            "GET\n/b/k\n\nhost:s3.example.com\nx-amz-security-token:{token}\n\nhost;x-amz-security-token\nUNSIGNED-PAYLOAD"
        );
        let hex = |text: &str| {
            text.bytes()
                .map(|b| format!("{b:02x}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let document = format!(
            "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>{canonical}</CanonicalRequest>\
             <CanonicalRequestBytes>{}</CanonicalRequestBytes></Error>",
            hex(&canonical)
        );
        let read = redaction(token).apply(document.as_bytes());
        let read = String::from_utf8_lossy(&read);
        assert!(
            !read.contains(token) && !read.contains(&hex(token)),
            "{read}"
        );
        assert!(
            read.contains("<Code>SignatureDoesNotMatch</Code>")
                && read.contains("host:s3.example.com"),
            "{read}"
        );
    }

    /// Once such tokens, and a service that helped, kept a search busy for seconds.
    #[test]
    fn a_search_costs_no_more_where_the_service_and_the_tokens_are_made_for_it() {
        let redactor = Redactor::default();
        let token = |i: usize| {
            Arc::new(SecretValue::for_tests(&format!(
                "{}{i}",
                "a".repeat(16_000)
            )))
        };
        let tokens: Vec<_> = (0..8).map(token).collect();
        tokens.iter().for_each(|token| redactor.learn(token));
        let began = std::time::Instant::now();
        for _ in 0..127 {
            let read = redactor.apply(&[b'a'; 500]);
            assert!(
                !read.windows(WINDOW).any(|w| w == [b'a'; WINDOW]),
                "{}",
                String::from_utf8_lossy(&read)
            );
        }
        redactor.apply("a".repeat(1 << 20).as_bytes());
        // The bound is for a debug build on a busy machine. Once it took seconds in a release
        // build.
        assert!(began.elapsed().as_millis() < 2000, "{:?}", began.elapsed());
    }

    /// Once a login during a long search stopped every worker that handled an answer of that cloud.
    #[test]
    fn a_search_keeps_nobody_from_learning_a_token() {
        let redactor = Arc::new(redaction("a-secret-of-some-length"));
        let document = "%41a-secret-of".repeat(1 << 17);
        let searching = {
            let redactor = redactor.clone();
            std::thread::spawn(move || redactor.apply(document.as_bytes()).len())
        };
        let mut longest = std::time::Duration::ZERO;
        for i in 0.. {
            let began = std::time::Instant::now();
            redactor.learn(&Arc::new(SecretValue::for_tests(&format!(
                "another-token-{i}"
            ))));
            longest = longest.max(began.elapsed());
            if searching.is_finished() {
                break;
            }
        }
        searching.join().unwrap();
        assert!(longest.as_millis() < 200, "{longest:?}");
    }

    #[test]
    fn a_part_of_a_secret_is_cut_too() {
        let read = redaction("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
            .apply(b"key wJalrXUtnFEMI/K7MDEN is wrong");
        assert_eq!(String::from_utf8_lossy(&read), "key *** is wrong");
    }

    #[test]
    fn a_text_of_which_the_beginning_is_kept_is_searched_so_far() {
        let redaction = redaction("secret-of-a-kind");
        let text = "secret-of-a-kind".repeat(1000) + " and more";
        let read = redaction.apply_up_to(text.as_bytes(), 10);
        assert!(
            read.len() < 20 && read.iter().all(|b| *b == b'*'),
            "{}",
            String::from_utf8_lossy(&read)
        );
    }

    #[test]
    fn a_token_in_use_is_looked_for_however_many_come_after() {
        let redactor = Redactor::default();
        let token = |text: &str| Arc::new(SecretValue::for_tests(text));
        let kept = token("the-token-in-use");
        redactor.learn(&kept);
        (0..100).for_each(|i| redactor.learn(&token(&format!("another-token-{i}"))));
        assert_eq!(
            redactor.apply(b"the-token-in-use, another-token-3"),
            b"***, another-token-3"
        );
    }

    proptest! {
        #[test]
        fn every_mix_of_escapes_is_cut(
            // A secret with characters that begin an escape is in the next test.
            secret in "[ -$'-Z^-~\\[\\]äß]{8,40}", ways in proptest::collection::vec(any::<u8>(), 40),
            before in "[a-z ]{0,5}", after in "[a-z ]{0,5}",
        ) {
            let mixed: String = secret.chars().zip(&ways).map(|(c, way)| escaped(c, *way)).collect();
            let read = redaction(&secret).apply(format!("{before}{mixed}{after}").as_bytes());
            prop_assert_eq!(String::from_utf8_lossy(&read), format!("{before}***{after}"), "{}", mixed);
        }

        #[test]
        fn every_secret_is_cut_in_every_kind_of_escape(
            secret in "[ -~äß]{8,40}", way in any::<u8>(), before in "[a-z ]{0,5}", after in "[A-Z ]{0,5}",
        ) {
            let text = match way % 6 {
                0 => secret.clone(),
                1 => percent_encoding::utf8_percent_encode(&secret, percent_encoding::NON_ALPHANUMERIC).to_string(),
                2 => {
                    let once = percent_encoding::utf8_percent_encode(&secret, percent_encoding::NON_ALPHANUMERIC);
                    once.to_string().replace('%', "%25")
                }
                3 => {
                    let quoted = serde_json::to_string(&secret).unwrap();
                    quoted[1..quoted.len() - 1].to_owned()
                }
                4 => secret.chars().map(|c| escaped(c, 2)).collect(),
                _ => secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;"),
            };
            let read = redaction(&secret).apply(format!("{before}{text}{after}").as_bytes());
            prop_assert!(String::from_utf8_lossy(&read).starts_with(&format!("{before}***")), "{}", text);
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
