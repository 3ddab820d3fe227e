//! A host for unit tests. It runs a connector's calls natively, with settings, secrets and a clock
//! that the test gives, and with answers instead of a service. It returns the requests that the
//! connector sent, with the secrets filled in.
//!
//! It checks no manifest: `raic connector test` finds what a connector may reach and read.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use hmac::{Hmac, KeyInit as _, Mac as _};

use crate::{
    Error, ErrorKind, Payload, Result,
    bindings::raic::connector::{
        cloud::{Acquired, Hit, Ticket, Value},
        http::Request,
    },
    error, hex, uri,
};

thread_local! {
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// An answer of the service.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// An answer with that status, without headers or body.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }
}

/// A request that a connector sent, as the service would get it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// The names and values of the headers, in the connector's order.
    pub headers: Vec<(String, String)>,
    /// The content of the request, or the payload if one went up.
    pub body: Vec<u8>,
}

impl Sent {
    /// The value of the first header of that name, which may be in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }
}

/// Makes a payload of bytes, for a put.
pub fn payload(content: impl AsRef<[u8]>) -> Payload {
    Payload(content.as_ref().to_vec())
}

/// The host that calls meet while a test runs them.
#[derive(Debug, Default)]
pub struct Host {
    settings: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    tokens: BTreeMap<String, String>,
    answers: VecDeque<Result<Answer>>,
    now_unix_ms: u64,
    sent: Vec<Sent>,
    /// Each placeholder's text, and the value that it stands for.
    placeholders: BTreeMap<String, String>,
    /// The generation and the values of each login, by its name.
    logins: BTreeMap<String, (u64, Vec<(String, Kept)>)>,
    /// The generation of the last login.
    generation: u64,
}

/// A value of a login, as the host keeps it.
#[derive(Clone, Debug)]
enum Kept {
    Text(String),
    Secret(crate::Secret),
}

impl Host {
    /// A host without settings or secrets, whose clock stands at the beginning of 1970.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a setting, or a plain part of a credential (`CREDENTIAL.PART`).
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds a secret part of a credential (`CREDENTIAL.PART`).
    #[must_use]
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds a token that `take_secret` finds in any answer.
    #[must_use]
    pub fn token(mut self, name: &str, value: &str) -> Self {
        self.tokens.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the clock, in milliseconds since 1970.
    #[must_use]
    pub fn now(mut self, unix_ms: u64) -> Self {
        self.now_unix_ms = unix_ms;
        self
    }

    /// Answers the next request that has no answer yet.
    #[must_use]
    pub fn answer(mut self, answer: Answer) -> Self {
        self.answers.push_back(Ok(answer));
        self
    }

    /// Fails the next request that has no answer yet, as if the service could not be reached.
    #[must_use]
    pub fn failure(mut self, error: Error) -> Self {
        self.answers.push_back(Err(error));
        self
    }

    /// Runs a connector's calls. Returns what they returned, and every request that they sent.
    ///
    /// # Panics
    /// If a request is sent that has no answer, or if answers are left over.
    pub fn run<T>(self, call: impl FnOnce() -> T) -> (T, Vec<Sent>) {
        HOST.with_borrow_mut(|host| {
            assert!(host.replace(self).is_none(), "a test host runs another")
        });
        let _left = Left;
        let returned = call();
        let host = HOST.take().unwrap_or_default();
        assert!(
            host.answers.is_empty(),
            "{} answers were not asked for",
            host.answers.len()
        );
        (returned, host.sent)
    }
}

/// Takes the thread's host away when it is dropped, also if the call panics.
struct Left;

impl Drop for Left {
    fn drop(&mut self) {
        HOST.take();
    }
}

fn with<T>(ask: impl FnOnce(&mut Host) -> T) -> T {
    HOST.with_borrow_mut(|host| {
        let host = host.as_mut();
        ask(host.expect("natively a connector's calls run within raic_sdk::testing::Host::run"))
    })
}

fn refused<T>(why: String) -> Result<T> {
    Err(error(ErrorKind::RefusedByHost, why))
}

pub(crate) fn setting(name: &str) -> Option<String> {
    with(|host| host.settings.get(name).cloned())
}

pub(crate) fn secret(name: &str) -> Option<String> {
    with(|host| host.secrets.get(name).cloned())
}

pub(crate) fn token(name: &str) -> Result<String> {
    let token = with(|host| host.tokens.get(name).cloned());
    token.ok_or_else(|| error(ErrorKind::Protocol, format!("the answer has no {name}")))
}

pub(crate) fn now_unix_ms() -> u64 {
    with(|host| host.now_unix_ms)
}

pub(crate) fn bounded(body: &[u8], limit: u32) -> Result<Vec<u8>> {
    match body.len() <= limit as usize {
        true => Ok(body.to_vec()),
        false => Err(error(
            ErrorKind::TooLarge,
            format!("the answer is longer than {limit} bytes"),
        )),
    }
}

/// Issues a placeholder: a text that stands for `value` in requests.
pub(crate) fn issue(value: String) -> String {
    with(|host| {
        let text = format!("RAIC{:032x}", host.placeholders.len());
        host.placeholders.insert(text.clone(), value);
        text
    })
}

pub(crate) fn placeholder(value: &str, form: &str) -> Result<String> {
    match form {
        "raw" => Ok(issue(value.to_owned())),
        "query" | "form" => Ok(issue(uri::encode(value))),
        "json" => {
            let quoted = crate::json::quote(value);
            Ok(issue(quoted[1..quoted.len() - 1].to_owned()))
        }
        other => refused(format!("{other:?} is not raw, query, form or json")),
    }
}

fn filled(text: &str) -> String {
    with(|host| {
        host.placeholders
            .iter()
            .fold(text.to_owned(), |text, (placeholder, value)| {
                text.replace(placeholder, value)
            })
    })
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac =
        Hmac::<sha2::Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

pub(crate) fn hmac(key: &str, hash: &str, message: &[u8]) -> Result<Vec<u8>> {
    match hash {
        "sha256" => Ok(mac(key.as_bytes(), message)),
        other => refused(format!("no HMAC with {other:?}; there is sha256")),
    }
}

pub(crate) fn sigv4(
    key: &str,
    scheme: &str,
    timestamp: &str,
    region: &str,
    service: &str,
    canonical_request: &[u8],
) -> Result<Vec<u8>> {
    let terminator = match scheme {
        "AWS4" => "aws4_request",
        "GOOG4" => "goog4_request",
        other => {
            return refused(format!(
                "no signing scheme {other:?}; there are AWS4 and GOOG4"
            ));
        }
    };
    let canonical = filled(&String::from_utf8_lossy(canonical_request));
    let date = timestamp.get(..8).unwrap_or_default();
    let scope = [date, region, service, terminator];
    let digest = hex(&crate::sha256(canonical.as_bytes()));
    let text = format!(
        "{scheme}-HMAC-SHA256\n{timestamp}\n{}\n{digest}",
        scope.join("/")
    );
    let first = format!("{scheme}{key}").into_bytes();
    let key = scope
        .iter()
        .fold(first, |key, part| mac(&key, part.as_bytes()));
    Ok(mac(&key, text.as_bytes()))
}

pub(crate) fn send(request: &Request, upload: Option<&Payload>) -> Result<Answer> {
    let headers = request.headers.iter();
    let headers =
        headers.map(|(name, value)| (name.clone(), filled(&String::from_utf8_lossy(value))));
    let body = match upload {
        Some(payload) => payload.0.clone(),
        None => filled(&String::from_utf8_lossy(&request.content)).into_bytes(),
    };
    let sent = Sent {
        method: request.method.clone(),
        url: filled(&request.url),
        headers: headers.collect(),
        body,
    };
    with(|host| {
        let answer = host.answers.pop_front();
        let answer =
            answer.unwrap_or_else(|| panic!("no answer is left for {} {}", sent.method, sent.url));
        host.sent.push(sent);
        answer
    })
}

fn hit(generation: u64, values: &[(String, Kept)]) -> Hit {
    let values = values.iter().map(|(name, value)| {
        let value = match value {
            Kept::Text(text) => Value::Text(text.clone()),
            Kept::Secret(secret) => Value::Secret(secret.clone()),
        };
        (name.clone(), value)
    });
    Hit {
        values: values.collect(),
        generation,
    }
}

pub(crate) fn acquire_login(name: &str) -> Acquired {
    with(|host| match host.logins.get(name) {
        Some((generation, values)) => Acquired::Hit(hit(*generation, values)),
        None => Acquired::Refresh(Ticket(name.to_owned())),
    })
}

pub(crate) fn fill_login(name: &str, values: Vec<(String, Value)>) -> Hit {
    let kept = values.into_iter().map(|(name, value)| match value {
        Value::Text(text) => (name, Kept::Text(text)),
        Value::Secret(secret) => (name, Kept::Secret(secret)),
    });
    let kept: Vec<_> = kept.collect();
    with(|host| {
        host.generation += 1;
        let filled = hit(host.generation, &kept);
        host.logins.insert(name.to_owned(), (host.generation, kept));
        filled
    })
}

pub(crate) fn drop_login(name: &str, generation: u64) {
    with(|host| {
        host.logins
            .retain(|known, (kept, _)| known != name || *kept != generation)
    });
}
