//! Logins: made once for all calls of a cloud, kept by the host, and made again if the service
//! refuses them.

use crate::{
    Error, ErrorKind, Response, Result, Secret,
    bindings::raic::connector::cloud::{self, Acquired, Ticket, Value},
    error, json,
};

/// How long the host is asked to keep the error of a login that would fail again, in milliseconds.
const FAILURE_MS: u64 = 30_000;
/// The most that is read of a token's answer, in bytes.
const MAX_TOKEN: u32 = 64 << 10;

/// The values that a login gave, under names of the connector's own choice.
#[derive(Debug, Default)]
pub struct Made {
    values: Vec<(String, Value)>,
    ttl_ms: u64,
}

impl Made {
    /// A login without values that the host keeps for `ttl_ms` milliseconds. That time should end a
    /// little before the service ends the login.
    pub fn lasting(ttl_ms: u64) -> Self {
        Self {
            values: Vec::new(),
            ttl_ms,
        }
    }

    /// How long the host keeps the login, in milliseconds.
    pub fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    /// Adds a secret that was taken out of an answer.
    #[must_use]
    pub fn secret(mut self, name: &str, secret: Secret) -> Self {
        self.values.push((name.to_owned(), Value::Secret(secret)));
        self
    }

    /// Adds a text, such as a storage URL.
    #[must_use]
    pub fn text(mut self, name: &str, text: String) -> Self {
        self.values.push((name.to_owned(), Value::Text(text)));
        self
    }
}

/// Makes a login of a token's answer in OAuth 2.0 (RFC 6749 section 5.1).
///
/// `token` is the manifest's name for the token; the login has it under the name `token`. The login
/// ends `margin_s` seconds before the token, or after three quarters of the token's life if that is
/// later.
///
/// # Errors
/// `protocol` if the answer does not say how long the token lasts, or has no token.
pub fn oauth(answer: &Response, token: &str, margin_s: u64) -> Result<Made> {
    let document = json::parse(&answer.read(MAX_TOKEN)?)?;
    let seconds = json::number(&document, "/expires_in");
    let seconds =
        seconds.ok_or_else(|| error(ErrorKind::Protocol, "the token's answer lacks expires_in"))?;
    let kept = seconds
        .saturating_sub(margin_s.min(seconds / 4))
        .saturating_mul(1000);
    Ok(Made::lasting(kept).secret("token", answer.take_secret(token)?))
}

/// A login, with handles for this call.
#[derive(Debug)]
pub struct Login {
    name: String,
    hit: cloud::Hit,
}

impl Login {
    fn value(&self, name: &str) -> Result<&Value> {
        let value = self
            .hit
            .values
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value);
        value.ok_or_else(|| {
            error(
                ErrorKind::Internal,
                format!("the login {:?} has no {name:?}", self.name),
            )
        })
    }

    /// Drops the login, so that the next call that needs it logs in again. For a service that
    /// refuses a login in another way than by 401, or if a text of the login is no longer true.
    /// Does nothing if another call has logged in again meanwhile.
    pub fn invalidate(self) {
        cloud::cache_invalidate(&self.name, self.hit.generation);
    }

    /// Returns a secret of the login.
    ///
    /// # Errors
    /// `internal` if the login has no secret of that name.
    pub fn secret(&self, name: &str) -> Result<&Secret> {
        match self.value(name)? {
            Value::Secret(secret) => Ok(secret),
            Value::Text(_) => Err(error(ErrorKind::Internal, format!("{name:?} is a text"))),
        }
    }

    /// Returns a text of the login.
    ///
    /// # Errors
    /// `internal` if the login has no text of that name.
    pub fn text(&self, name: &str) -> Result<&str> {
        match self.value(name)? {
            Value::Text(text) => Ok(text),
            Value::Secret(_) => Err(error(ErrorKind::Internal, format!("{name:?} is a secret"))),
        }
    }
}

/// Returns the login of that name, which the manifest lists under `logins`. If the host keeps none,
/// `make` logs in; one call at a time does so, while the others wait. `make` may itself ask for
/// logins that the manifest lists before this one.
///
/// # Errors
/// The error of `make`, which all waiting calls get. If another try would be refused again, new
/// calls get it for half a minute, too. What a login does not find is not an object of the call
/// that needed it: `not-found` and the like become `misconfigured`, and the message names the
/// login.
pub fn login(name: &str, make: impl FnOnce() -> Result<Made>) -> Result<Login> {
    let hit = match cloud::cache_acquire(name)? {
        Acquired::Hit(hit) => hit,
        Acquired::Refresh(ticket) => match make() {
            Ok(made) => Ticket::fill(ticket, made.values, made.ttl_ms),
            Err(e) => {
                let e = of_login(name, e);
                Ticket::fail(
                    ticket,
                    &e,
                    if is_transient(e.kind) { 0 } else { FAILURE_MS },
                );
                return Err(e);
            }
        },
    };
    Ok(Login {
        name: name.to_owned(),
        hit,
    })
}

/// Sends a request with a login. If the service answers 401, it drops the login, logs in again and
/// sends the request once more.
///
/// ```
/// use raic_sdk::{Login, Made, Request, Response, Result, oauth, secrets, with_login};
/// use raic_sdk::testing::{Answer, Host};
///
/// fn log_in() -> Result<Made> {
///     let secret = secrets::required("application.client-secret")?.placeholder("form")?;
///     let request = Request::new("POST", "https://login.example.com/token".to_owned());
///     let answer = request.content(format!("client_secret={secret}").into_bytes()).send(None)?;
///     // The host takes the token out of the answer; the manifest calls it `access-token`.
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
/// Those of [`login`] and of `send`. A 401 to the fresh login is `Ok`, as every answer is.
pub fn with_login(
    name: &str,
    make: impl Fn() -> Result<Made>,
    send: impl Fn(&Login) -> Result<Response>,
) -> Result<Response> {
    with_login_judging(name, make, send, |answer| answer.status() == 401)
}

/// Sends a request with a login, as [`with_login`] does, but `is_ended` decides whether an answer
/// means that the login has ended. Some services answer 401 also to a request that the login does
/// not permit. To drop the login then would make every call log in again, and the host keeps logins
/// two seconds apart.
///
/// ```
/// use raic_sdk::{Login, Made, Request, Response, Result, json, with_login_judging};
/// use raic_sdk::testing::{Answer, Host};
///
/// fn ended(answer: &Response) -> bool {
///     let document = answer.read(64 << 10).ok().and_then(|d| json::parse(&d).ok());
///     let code = document.as_ref().and_then(|d| json::text(d, "/code"));
///     answer.status() == 401 && code == Some("expired_auth_token")
/// }
///
/// let make = || Ok(Made::lasting(60_000));
/// let send = |_: &Login| Request::new("GET", "https://store.example.com/k".to_owned()).send(None);
/// let (answer, sent) = Host::new()
///     .answer(Answer::new(401).body(r#"{"code": "unauthorized"}"#))
///     .run(|| with_login_judging("token", make, send, ended).unwrap().status());
/// assert_eq!((answer, sent.len()), (401, 1));
/// ```
///
/// # Errors
/// Those of [`with_login`].
pub fn with_login_judging(
    name: &str,
    make: impl Fn() -> Result<Made>,
    send: impl Fn(&Login) -> Result<Response>,
    is_ended: impl Fn(&Response) -> bool,
) -> Result<Response> {
    let first = login(name, &make)?;
    let answer = send(&first)?;
    if !is_ended(&answer) {
        return Ok(answer);
    }
    first.invalidate();
    send(&login(name, make)?)
}

/// The error of a login as the call gets it that needed the login. Errors about an object become
/// `misconfigured`: a delete whose login is not found has deleted nothing.
fn of_login(name: &str, e: Error) -> Error {
    let kind = match e.kind {
        ErrorKind::NotFound
        | ErrorKind::ContainerNotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::PreconditionFailed
        | ErrorKind::RangeNotSatisfiable => ErrorKind::Misconfigured,
        kind => kind,
    };
    if kind == e.kind {
        e
    } else {
        Error {
            kind,
            message: format!("login {name:?}: {}", e.message),
            ..e
        }
    }
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
            // The operator may pin the endpoint at any moment.
            | ErrorKind::RefusedByHost
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Request, answer, conditions,
        testing::{Answer, Host},
    };

    fn not_there() -> Result<Made> {
        let answer = Request::new("GET", "http://metadata/token".to_owned()).send(None)?;
        answer::expect(&answer, &[200], "x-id", |_, text| {
            answer::Described::text(text)
        })?;
        Ok(Made::lasting(1000))
    }

    /// The metadata server answers 404 if no account is attached. A delete once took that for an
    /// object that is gone.
    #[test]
    fn a_login_that_is_not_found_deletes_nothing() {
        let delete = || {
            let answer = with_login("token", not_there, |_| {
                Request::new("DELETE", "http://h/k".to_owned()).send(None)
            })?;
            answer::expect(&answer, &[204], "x-id", |_, text| {
                answer::Described::text(text)
            })
        };
        let (deleted, _) = Host::new()
            .answer(Answer::new(404))
            .run(|| conditions::or_gone(delete(), ErrorKind::NotFound));
        let e = deleted.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Misconfigured);
        assert!(e.message.contains("login \"token\""), "{}", e.message);
    }
}
