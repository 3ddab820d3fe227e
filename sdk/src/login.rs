//! Logins: made once for all calls of a cloud, kept by the host, made anew when the service refuses them.

use crate::{
    ErrorKind, Response, Result, Secret,
    bindings::raic::connector::cloud::{self, Acquired, Ticket, Value},
    error, json,
};

/// The longest a failure is kept by the host, in milliseconds.
const FAILURE_MS: u64 = 30_000;
/// The most that is read of a token's answer.
const MAX_TOKEN: u32 = 64 << 10;

/// What a login gives, by names of the connector's own choice.
#[derive(Debug, Default)]
pub struct Made {
    values: Vec<(String, Value)>,
    ttl_ms: u64,
}

impl Made {
    /// A login that lasts so long, in milliseconds. It should end a little before the service ends it.
    pub fn lasting(ttl_ms: u64) -> Self {
        Self { values: Vec::new(), ttl_ms }
    }

    /// With a secret that was taken out of an answer.
    #[must_use]
    pub fn secret(mut self, name: &str, secret: Secret) -> Self {
        self.values.push((name.to_owned(), Value::Secret(secret)));
        self
    }

    /// With a text, such as a storage URL.
    #[must_use]
    pub fn text(mut self, name: &str, text: String) -> Self {
        self.values.push((name.to_owned(), Value::Text(text)));
        self
    }
}

/// What a token's answer gives in OAuth 2.0 (RFC 6749 section 5.1): the token that the manifest has as `token`, under the name `token`,
/// until `margin_s` seconds before its end, or for most of a short life.
///
/// # Errors
/// `protocol` where it does not say how long the token lasts, or has none.
pub fn oauth(answer: &Response, token: &str, margin_s: u64) -> Result<Made> {
    let document = json::parse(&answer.read(MAX_TOKEN)?)?;
    let seconds = json::number(&document, "/expires_in");
    let seconds = seconds.ok_or_else(|| error(ErrorKind::Protocol, "the token's answer lacks expires_in"))?;
    let kept = seconds.saturating_sub(margin_s.min(seconds / 4)).saturating_mul(1000);
    Ok(Made::lasting(kept).secret("token", answer.take_secret(token)?))
}

/// A login, as this call has it.
#[derive(Debug)]
pub struct Login {
    name: String,
    hit: cloud::Hit,
}

impl Login {
    fn value(&self, name: &str) -> Result<&Value> {
        let found = self.hit.values.iter().find(|(n, _)| n == name).map(|(_, value)| value);
        found.ok_or_else(|| error(ErrorKind::Internal, format!("the login {:?} has no {name:?}", self.name)))
    }

    /// A secret of it.
    ///
    /// # Errors
    /// `internal` where it has none of that name.
    pub fn secret(&self, name: &str) -> Result<&Secret> {
        match self.value(name)? {
            Value::Secret(secret) => Ok(secret),
            Value::Text(_) => Err(error(ErrorKind::Internal, format!("{name:?} is a text"))),
        }
    }

    /// A text of it.
    ///
    /// # Errors
    /// `internal` where it has none of that name.
    pub fn text(&self, name: &str) -> Result<&str> {
        match self.value(name)? {
            Value::Text(text) => Ok(text),
            Value::Secret(_) => Err(error(ErrorKind::Internal, format!("{name:?} is a secret"))),
        }
    }
}

/// The login of that name, which the manifest lists under `logins`: what the host keeps, or what `make` gives, which is
/// called by one call at a time.
///
/// # Errors
/// `make`'s, to all calls that wait, and to others for half a minute where asking again would be refused again.
pub fn login(name: &str, make: impl FnOnce() -> Result<Made>) -> Result<Login> {
    let hit = match cloud::cache_acquire(name)? {
        Acquired::Hit(hit) => hit,
        Acquired::Refresh(ticket) => match make() {
            Ok(made) => Ticket::fill(ticket, made.values, made.ttl_ms),
            Err(e) => {
                Ticket::fail(ticket, &e, if is_transient(e.kind) { 0 } else { FAILURE_MS });
                return Err(e);
            }
        },
    };
    Ok(Login { name: name.to_owned(), hit })
}

/// Sends a request with a login. Where the service answers 401, the login is dropped and made anew, once.
///
/// ```
/// use raic_sdk::{Login, Made, Request, Response, Result, oauth, secrets, testing::{Answer, Host}, with_login};
///
/// fn log_in() -> Result<Made> {
///     let secret = secrets::required("application.client-secret")?.placeholder("form")?;
///     let request = Request::new("POST", "https://login.example.com/token".to_owned());
///     let answer = request.content(format!("client_secret={secret}").into_bytes()).send(None)?;
///     // The token is taken out by the host; `access-token` is the manifest's name for it.
///     oauth(&answer, "access-token", 60)
/// }
///
/// fn head() -> Result<Response> {
///     with_login("token", log_in, |login: &Login| {
///         let token = login.secret("token")?.placeholder("raw")?;
///         let request = Request::new("HEAD", "https://store.example.com/k".to_owned());
///         request.header("authorization", &format!("Bearer {token}")).send(None)
///     })
/// }
///
/// let (answer, sent) = Host::new()
///     .secret("application.client-secret", "s3cret")
///     .token("access-token", "t0ken")
///     .answer(Answer::new(200).body(r#"{"expires_in": 3600}"#))
///     .answer(Answer::new(200))
///     .run(|| head().unwrap().status());
/// assert_eq!(answer, 200);
/// assert_eq!(sent[1].header("authorization"), Some("Bearer t0ken"));
/// ```
///
/// # Errors
/// As [`login`] and `send`. An answer of 401 to the fresh login is `Ok`, as every answer is.
pub fn with_login(
    name: &str,
    make: impl Fn() -> Result<Made>,
    send: impl Fn(&Login) -> Result<Response>,
) -> Result<Response> {
    let first = login(name, &make)?;
    let answer = send(&first)?;
    if answer.status() != 401 {
        return Ok(answer);
    }
    cloud::cache_invalidate(name, first.hit.generation);
    drop(first);
    send(&login(name, make)?)
}

fn is_transient(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::Throttled
            | ErrorKind::Conflict
            | ErrorKind::Integrity
            | ErrorKind::Protocol
            // Pinned by the operator at any moment.
            | ErrorKind::RefusedByHost
    )
}
