//! The host's side of the contract's imports, except `http`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use raic_cloud::{Digests as _, Payload};
use wasmtime::component::Resource;

use crate::{
    bindings::raic::connector::{
        cloud, log, payloads, secrets,
        types::{self, Error, ErrorKind},
    },
    call::{Call, EndpointRule, GuestBody, MAX_LOG_LINES, SecretHandle},
    gate::Gate,
    logins::{Acquired, Login, LoginTicket, LoginValue},
    manifest::{Signing, is_plain},
    secrets::SecretValue,
    signed_message,
};

mod http;

type Outcome<T> = wasmtime::Result<Result<T, Error>>;

/// Returns an error that the host reports to the guest.
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error {
        kind,
        message: message.into(),
        provider_code: None,
        http_status: None,
        request_id: None,
        retry_after_ms: None,
        extra: Vec::new(),
    }
}

fn refused(message: impl Into<String>) -> Error {
    error(ErrorKind::RefusedByHost, message)
}

/// Most characters that are kept of a line of the log.
const MAX_LOG_LINE: usize = 1024;
/// Longest name of a login's value, in bytes.
const MAX_LOGIN_NAME: usize = 64;
/// Most bytes of all texts of a login together; they are kept for days. With 8 logins that is 64
/// KiB for each cloud.
const MAX_LOGIN_TEXT: usize = 8 << 10;
/// Most characters that are kept of each text of a login's error.
const MAX_LOGIN_ERROR: usize = 512;
/// Longest URL of an endpoint, in bytes.
const MAX_ENDPOINT: usize = 2 << 10;

/// Most signatures by RSA of one call; a login needs one.
const MAX_SIGNATURES: u32 = 4;

/// Largest payload whose digest is computed on the async runtime, in bytes. Larger ones are left to
/// the blocking pool.
const SMALL: u64 = 64 << 10;

async fn digest<T: Send + 'static>(
    payload: &Payload,
    compute: fn(&Payload) -> T,
) -> wasmtime::Result<T> {
    if payload.size() <= SMALL {
        return Ok(compute(payload));
    }
    let payload = payload.clone();
    Ok(tokio::task::spawn_blocking(move || compute(&payload)).await?)
}

impl types::Host for Call {}

impl payloads::Host for Call {}

impl payloads::HostPayload for Call {
    async fn size(&mut self, payload: Resource<Payload>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&payload)?.size())
    }

    async fn digest(
        &mut self,
        payload: Resource<Payload>,
        name: String,
    ) -> wasmtime::Result<Option<Vec<u8>>> {
        let compute: fn(&Payload) -> Vec<u8> = match name.as_str() {
            "sha256" => |p| p.sha256().to_vec(),
            "sha1" => |p| p.sha1().to_vec(),
            "md5" => |p| p.md5().to_vec(),
            "crc32c" => |p| p.crc32c().to_be_bytes().to_vec(),
            _ => return Ok(None),
        };
        digest(self.table.get(&payload)?, compute).await.map(Some)
    }

    async fn drop(&mut self, payload: Resource<Payload>) -> wasmtime::Result<()> {
        self.table.delete(payload)?;
        Ok(())
    }
}

impl payloads::HostBody for Call {
    async fn size(&mut self, body: Resource<GuestBody>) -> wasmtime::Result<Option<u64>> {
        Ok(Some(self.table.get(&body)?.length))
    }

    async fn drop(&mut self, body: Resource<GuestBody>) -> wasmtime::Result<()> {
        self.table.delete(body)?;
        Ok(())
    }
}

impl secrets::Host for Call {
    async fn open(&mut self, name: String) -> Outcome<Option<Resource<SecretHandle>>> {
        let secret = self.context.credentials.secret.get(&name).cloned();
        Ok(Ok(secret
            .map(|s| self.table.push(SecretHandle(s)))
            .transpose()?))
    }
}

impl secrets::HostSecret for Call {
    async fn hmac(
        &mut self,
        secret: Resource<SecretHandle>,
        hash: String,
        message: Vec<u8>,
    ) -> Outcome<Vec<u8>> {
        let secret = self.table.get(&secret)?.0.clone();
        let checked = secret
            .hmac_shape()
            .and_then(|shape| self.check_signed(shape, &message));
        Ok(checked
            .and_then(|()| secret.hmac(&hash, &message))
            .map_err(refused))
    }

    async fn sigv4(
        &mut self,
        secret: Resource<SecretHandle>,
        scheme: String,
        timestamp: String,
        region: String,
        service: String,
        canonical_request: Vec<u8>,
    ) -> Outcome<Vec<u8>> {
        let secret = &self.table.get(&secret)?.0;
        let Ok(canonical) = String::from_utf8(canonical_request) else {
            return Ok(Err(refused("the canonical request is not UTF-8")));
        };
        if let Err(why) =
            signed_message::check_sigv4(&canonical, &timestamp, &self.context.gate, self.now())
        {
            return Ok(Err(refused(why)));
        }
        let canonical = match self.placeholders.fill_canonical(&canonical) {
            Ok(canonical) => canonical,
            Err(why) => return Ok(Err(refused(why))),
        };
        Ok(secret
            .sigv4(&scheme, &timestamp, &region, &service, canonical.as_bytes())
            .map_err(refused))
    }

    async fn rsa_sha256(
        &mut self,
        secret: Resource<SecretHandle>,
        message: Vec<u8>,
    ) -> Outcome<Vec<u8>> {
        let secret = self.table.get(&secret)?.0.clone();
        self.signatures += 1;
        if self.signatures > MAX_SIGNATURES {
            return Ok(Err(refused("too many signatures by RSA in one call")));
        }
        let checked = secret
            .rsa_shape()
            .and_then(|shape| self.check_signed(shape, &message));
        if let Err(why) = checked {
            return Ok(Err(refused(why)));
        }
        // Signing with a private key takes a millisecond or more.
        let signed = tokio::task::spawn_blocking(move || secret.rsa_sha256(&message)).await?;
        Ok(signed.map_err(refused))
    }

    async fn placeholder(
        &mut self,
        secret: Resource<SecretHandle>,
        form: String,
    ) -> Outcome<String> {
        let secret = self.table.get(&secret)?.0.clone();
        if form == "basic" {
            return Ok(Err(refused(
                "the form \"basic\" has a call of its own, basic-auth",
            )));
        }
        Ok(self.issue(&secret, &form, None))
    }

    async fn basic_auth(
        &mut self,
        secret: Resource<SecretHandle>,
        user: String,
    ) -> Outcome<String> {
        let secret = self.table.get(&secret)?.0.clone();
        Ok(self.issue(&secret, "basic", Some(&user)))
    }

    async fn drop(&mut self, secret: Resource<SecretHandle>) -> wasmtime::Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}

impl cloud::Host for Call {
    async fn setting(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        let context = &self.context;
        Ok(context
            .settings
            .values
            .get(&name)
            .or_else(|| context.credentials.plain.get(&name))
            .cloned())
    }

    async fn endpoint(&mut self, name: String, url: String) -> Outcome<String> {
        let Some(rule) = self.context.endpoints.get(&name) else {
            return Ok(Err(refused(format!(
                "the manifest has no learned endpoint {name:?}"
            ))));
        };
        let parsed = url::Url::parse(&url)
            .ok()
            .filter(|url| is_plain(url) && url.as_str().len() <= MAX_ENDPOINT);
        let Some(parsed) = parsed else {
            return Ok(Err(refused(format!(
                "the endpoint {name:?} that was learned is not a URL of scheme, host and path \
                 with at most {MAX_ENDPOINT} bytes"
            ))));
        };
        let url = parsed.as_str().trim_end_matches('/').to_owned();
        let pinned = match rule {
            EndpointRule::Below(domain, port) => {
                return Ok(Gate::lies_below(&parsed, domain, *port)
                    .map(|()| url)
                    .map_err(refused));
            }
            EndpointRule::Pinned(pinned) => pinned,
        };
        if pinned.contains(&url) {
            return Ok(Ok(url));
        }
        self.context
            .learned
            .lock()
            .insert(name.clone(), url.clone());
        let cloud = &self.context.cloud;
        Ok(Err(refused(match pinned[..] {
            [] => format!(
                "the service says that its {name} is at {url}, which is not pinned yet; \
                 `raic cloud pin {cloud}` pins it"
            ),
            _ => format!(
                "the service says that its {name} is at {url} now, but {} is pinned; \
                 if the new one is right, `raic cloud pin {cloud}` pins it",
                pinned.join(", ")
            ),
        })))
    }

    async fn now_unix_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.now())
    }

    async fn random_bytes(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
        let mut bytes = vec![0; len.min(64 << 10) as usize];
        getrandom::fill(&mut bytes)?;
        Ok(bytes)
    }

    async fn cache_acquire(&mut self, name: String) -> Outcome<cloud::Acquired> {
        let Some(place) = self
            .context
            .login_names
            .iter()
            .position(|login| *login == name)
        else {
            return Ok(Err(refused(format!("the manifest has no login {name:?}"))));
        };
        // Calls that hold a ticket wait for further tickets in one order, so that no two wait for
        // each other.
        if self.tickets.iter().any(|held| *held <= place) {
            return Ok(Err(refused(format!(
                "a call that is logging in may only ask for logins that the manifest lists \
                 before that one, and {name:?} is not"
            ))));
        }
        let logins = self.logins.clone();
        Ok(match logins.acquire(&name, self.is_probe).await {
            Ok(Acquired::Hit(login)) => Ok(cloud::Acquired::Hit(self.hit(&login)?)),
            Ok(Acquired::Refresh(ticket)) => {
                self.tickets.push(place);
                Ok(cloud::Acquired::Refresh(self.table.push(ticket)?))
            }
            Err(failure) => Err(failure),
        })
    }

    async fn cache_invalidate(&mut self, name: String, generation: u64) -> wasmtime::Result<()> {
        self.logins.invalidate(&name, generation);
        Ok(())
    }
}

impl Call {
    /// Checks that a message has the shape that the manifest declares for its secret.
    fn check_signed(&self, shape: &Signing, message: &[u8]) -> Result<(), String> {
        let context = &self.context;
        signed_message::check(shape, message, &context.gate, &context.settings, self.now())
    }

    /// Returns the time that the guest sees, in milliseconds since 1970.
    fn now(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        now.saturating_add_signed(self.rehearsal.clock_ahead_ms)
    }

    fn issue(
        &mut self,
        secret: &Arc<SecretValue>,
        form: &str,
        user: Option<&str>,
    ) -> Result<String, Error> {
        let placeholder = self
            .placeholders
            .issue(secret, form, user)
            .map_err(refused)?;
        if !self.limits.hold(self.placeholders.held_by_last()) {
            return Err(error(
                ErrorKind::TooLarge,
                "no memory is left for another placeholder",
            ));
        }
        Ok(placeholder)
    }

    /// Records that the call no longer holds a ticket.
    fn gave_back(&mut self, ticket: &LoginTicket) {
        let place = self
            .context
            .login_names
            .iter()
            .position(|login| login == ticket.name());
        self.tickets.retain(|held| Some(*held) != place);
    }

    /// Returns a login for the guest, with its secrets as handles of this call.
    fn hit(&mut self, login: &Login) -> wasmtime::Result<cloud::Hit> {
        let mut values = Vec::new();
        for (name, value) in login.values.iter() {
            let value = match value {
                LoginValue::Text(text) => cloud::Value::Text(text.clone()),
                LoginValue::Secret(secret) => {
                    cloud::Value::Secret(self.table.push(SecretHandle(secret.clone()))?)
                }
            };
            values.push((name.clone(), value));
        }
        Ok(cloud::Hit {
            values,
            generation: login.generation,
        })
    }
}

impl cloud::HostTicket for Call {
    async fn fill(
        &mut self,
        ticket: Resource<LoginTicket>,
        values: Vec<(String, cloud::Value)>,
        ttl_ms: u64,
    ) -> wasmtime::Result<cloud::Hit> {
        let ticket = self.table.delete(ticket)?;
        self.gave_back(&ticket);
        let mut kept = Vec::new();
        let mut room = MAX_LOGIN_TEXT;
        for (name, value) in values {
            let length = if let cloud::Value::Text(text) = &value {
                text.len()
            } else {
                0
            };
            // If this fails, the ticket is dropped with the call, and wakes the next call that
            // waits.
            room = room
                .checked_sub(length)
                .filter(|_| name.len() <= MAX_LOGIN_NAME)
                .ok_or_else(|| {
                    wasmtime::Error::msg(format!(
                        "a login keeps names of {MAX_LOGIN_NAME} bytes and {MAX_LOGIN_TEXT} bytes \
                         of texts at most"
                    ))
                })?;
            let value = match value {
                cloud::Value::Text(text) => LoginValue::Text(text),
                cloud::Value::Secret(secret) => LoginValue::Secret(self.table.delete(secret)?.0),
            };
            kept.push((name, value));
        }
        let login = ticket.fill(kept, Duration::from_millis(ttl_ms));
        self.hit(&login)
    }

    async fn fail(
        &mut self,
        ticket: Resource<LoginTicket>,
        error: Error,
        ttl_ms: u64,
    ) -> wasmtime::Result<()> {
        let ticket = self.table.delete(ticket)?;
        self.gave_back(&ticket);
        let short = |text: String| text.chars().take(MAX_LOGIN_ERROR).collect::<String>();
        let error = Error {
            message: short(error.message),
            provider_code: error.provider_code.map(short),
            request_id: error.request_id.map(short),
            extra: Vec::new(),
            ..error
        };
        ticket.fail(error, Duration::from_millis(ttl_ms));
        Ok(())
    }

    async fn drop(&mut self, ticket: Resource<LoginTicket>) -> wasmtime::Result<()> {
        let ticket = self.table.delete(ticket)?;
        self.gave_back(&ticket);
        Ok(())
    }
}

impl log::Host for Call {
    async fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.log_lines += 1;
        if self.log_lines > MAX_LOG_LINES {
            return Ok(());
        }
        let Some(left_out) = self.context.log_room.lock().take() else {
            return Ok(());
        };
        if left_out > 0 {
            tracing::warn!(
                cloud = self.context.cloud,
                "the connector wrote {left_out} lines more than it may"
            );
        }
        // A guest's text may hold characters that forge a line of the log, or a secret that an
        // answer repeated.
        let message = self
            .context
            .redaction
            .apply_up_to(message.as_bytes(), 4 * MAX_LOG_LINE);
        let message: String = String::from_utf8_lossy(&message)
            .chars()
            .filter(|c| !crate::hides(*c))
            .take(MAX_LOG_LINE)
            .collect();
        let cloud = &self.context.cloud;
        match level {
            log::Level::Trace => tracing::trace!(cloud, "connector: {message}"),
            log::Level::Debug => tracing::debug!(cloud, "connector: {message}"),
            log::Level::Info => tracing::info!(cloud, "connector: {message}"),
            log::Level::Warn => tracing::warn!(cloud, "connector: {message}"),
            log::Level::Error => tracing::error!(cloud, "connector: {message}"),
        }
        Ok(())
    }
}
