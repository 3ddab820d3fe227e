//! Logins: by Keystone v3 and v2, and by v1, Swift's first login.

use raic_sdk::{
    Error, ErrorKind, Login, Made, Payload, Request, Response, Result, endpoint, error,
    json::{self, json},
    lacks, now_unix_ms, required_setting,
    secrets::{self, Secret},
    setting, time,
};

use crate::answer::expect;

/// The most that is read of a catalogue, in bytes.
const MAX_CATALOGUE: u32 = 1 << 20;
/// How long a token is kept if the service does not say how long it lasts, in milliseconds.
const UNKNOWN_MS: u64 = 10 * 60 * 1000;
/// How long before its end a token is renewed, in milliseconds.
const MARGIN_MS: u64 = 60 * 1000;

/// The names of a login's values: the token, and the account's storage URL.
const TOKEN: &str = "token";
const STORAGE: &str = "storage";

/// Sends a request with a token; `build` gets the account's URL. If the service refuses the token,
/// the connector logs in again and sends the request once more.
pub(crate) fn send(build: impl Fn(&str) -> Request, upload: Option<&Payload>) -> Result<Response> {
    raic_sdk::with_login("token", log_in, |login: &Login| {
        let token = login.secret(TOKEN)?.placeholder("raw")?;
        build(login.text(STORAGE)?)
            .header("x-auth-token", &token)
            .send(upload)
    })
}

fn log_in() -> Result<Made> {
    match required_setting("auth")?.as_str() {
        "v1" => v1(),
        "v2" => v2(),
        _ => v3(),
    }
}

/// Logs in, and returns how long the login would be kept, in milliseconds.
#[cfg(test)]
pub(crate) fn log_in_for_tests() -> Result<u64> {
    Ok(log_in()?.ttl_ms())
}

fn open(part: &str) -> Result<Secret> {
    secrets::required(&format!("account.{part}"))
}

fn user() -> Result<String> {
    setting("account.user").ok_or_else(|| lacks("User"))
}

fn made(token: Secret, storage: &str, ttl_ms: u64) -> Result<Made> {
    Ok(Made::lasting(ttl_ms)
        .secret(TOKEN, token)
        .text(STORAGE, endpoint(STORAGE, storage)?))
}

/// How long a token is kept, in milliseconds: until [`MARGIN_MS`] before its end, or for three
/// quarters of a short life. Both moments are by the service's clock, so their distance is right,
/// however wrong this host's clock is. If `issued_ms` is `None`, this host's clock stands in.
fn ttl(ends_ms: Option<u64>, issued_ms: Option<u64>) -> u64 {
    let since = issued_ms.unwrap_or_else(now_unix_ms);
    let left = ends_ms.map_or(UNKNOWN_MS, |ends| ends.saturating_sub(since));
    left.saturating_sub(MARGIN_MS.min(left / 4))
}

fn v1() -> Result<Made> {
    let key = open("password")?.placeholder("raw")?;
    let request = Request::new("GET", required_setting("auth-url")?);
    let answer = request
        .header("x-auth-user", &user()?)
        .header("x-auth-key", &key)
        .send(None)?;
    expect_login(&answer, &[200, 204])?;
    let storage = answer
        .header("x-storage-url")
        .ok_or_else(|| protocol("the login's answer has no X-Storage-Url"))?;
    let seconds = answer
        .header("x-auth-token-expires")
        .and_then(|s| s.trim().parse::<u64>().ok());
    let ends = seconds
        .and_then(|s| s.checked_mul(1000))
        .map(|ms| now_unix_ms().saturating_add(ms));
    made(answer.take_secret("token-v1")?, &storage, ttl(ends, None))
}

fn v2() -> Result<Made> {
    let content = json!({ "auth": {
        "tenantName": required_setting("project")?,
        "passwordCredentials": {
            "username": user()?,
            "password": open("password")?.placeholder("json")?,
        },
    }});
    let answer = post("/tokens", &content)?;
    expect_login(&answer, &[200, 203])?;
    let document = json::parse(&answer.read(MAX_CATALOGUE)?)?;
    let moment = |place: &str| json::text(&document, place).and_then(time::parse_rfc3339);
    let lasts = ttl(
        moment("/access/token/expires"),
        moment("/access/token/issued_at"),
    );
    let (kind, region) = (required_setting("interface")?, setting("region"));
    let endpoint = endpoint_of(document.pointer("/access/serviceCatalog"), |e| {
        region.is_none() || json::text(e, "/region") == region.as_deref()
    });
    let storage = endpoint.and_then(|e| json::text(e, &format!("/{kind}URL")));
    made(
        answer.take_secret("token-v2")?,
        storage.ok_or_else(no_endpoint)?,
        lasts,
    )
}

fn v3() -> Result<Made> {
    let answer = post("/auth/tokens", &json!({ "auth": credentials()? }))?;
    expect_login(&answer, &[200, 201])?;
    let document = json::parse(&answer.read(MAX_CATALOGUE)?)?;
    let moment = |place: &str| json::text(&document, place).and_then(time::parse_rfc3339);
    let lasts = ttl(moment("/token/expires_at"), moment("/token/issued_at"));
    let (kind, region) = (required_setting("interface")?, setting("region"));
    let endpoint = endpoint_of(document.pointer("/token/catalog"), |e| {
        let its = json::text(e, "/region_id").or(json::text(e, "/region"));
        json::text(e, "/interface") == Some(&kind) && (region.is_none() || its == region.as_deref())
    });
    let storage = endpoint.and_then(|e| json::text(e, "/url"));
    made(
        answer.take_secret("token-v3")?,
        storage.ok_or_else(no_endpoint)?,
        lasts,
    )
}

/// What a v3 login sends: an application credential, which has its scope, or a password and the
/// scope of the token.
fn credentials() -> Result<json::Value> {
    if let Some(id) = setting("account.application-credential-id") {
        let secret = open("application-credential-secret")?.placeholder("json")?;
        return Ok(json!({ "identity": {
            "methods": ["application_credential"],
            "application_credential": { "id": id, "secret": secret },
        }}));
    }
    let user = json!({
        "name": user()?,
        "domain": { "name": required_setting("user-domain")? },
        "password": open("password")?.placeholder("json")?,
    });
    Ok(json!({
        "identity": { "methods": ["password"], "password": { "user": user } },
        "scope": scope()?,
    }))
}

/// The scope of a v3 token: a project or a domain ("Password authentication with scoped
/// authorization").
fn scope() -> Result<json::Value> {
    if let Some(id) = setting("project-id") {
        return Ok(json!({ "project": { "id": id } }));
    }
    match (setting("project"), setting("domain")) {
        (None, Some(domain)) => Ok(json!({ "domain": { "name": domain } })),
        _ => Ok(json!({ "project": {
            "name": required_setting("project")?,
            "domain": { "name": required_setting("project-domain")? },
        }})),
    }
}

/// The first endpoint of the catalogue's object stores that `matches`.
fn endpoint_of(
    catalogue: Option<&json::Value>,
    matches: impl Fn(&json::Value) -> bool,
) -> Option<&json::Value> {
    catalogue?
        .as_array()?
        .iter()
        .filter(|service| json::text(service, "/type") == Some("object-store"))
        .filter_map(|service| service.pointer("/endpoints")?.as_array())
        .flatten()
        .find(|&endpoint| matches(endpoint))
}

fn post(path: &str, content: &json::Value) -> Result<Response> {
    let url = format!("{}{path}", required_setting("auth-url")?);
    Request::new("POST", url)
        .header("content-type", "application/json")
        .content(content.to_string().into_bytes())
        .send(None)
}

/// Returns `Ok` if a login's answer has one of those statuses. If there is nothing to log in at
/// (404 or 405), `auth-url` is probably wrong, and the error says so.
fn expect_login(answer: &Response, wanted: &[u16]) -> Result<()> {
    expect(answer, wanted).map_err(|e| match e.http_status {
        Some(404 | 405) => {
            let message = format!(
                "{}; is auth-url right (it ends with /v3, /v2.0 or /auth/v1.0)?",
                e.message
            );
            Error {
                kind: ErrorKind::Misconfigured,
                message: format!("login: {message}"),
                ..e
            }
        }
        _ => e,
    })
}

fn protocol(why: &str) -> Error {
    error(ErrorKind::Protocol, why)
}

fn no_endpoint() -> Error {
    let why = "the catalogue has no object-store endpoint of that region and interface; \
               set `region`, or give the user a role in the project";
    error(ErrorKind::Misconfigured, why)
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host};

    use super::*;

    const V2: &str = r#"{"access":{"serviceCatalog":[
        {"type":"identity","endpoints":[{"region":"two","internalURL":"https://k/v2.0"}]},
        {"type":"object-store","endpoints":[
            {"region":"one","publicURL":"https://s/1","internalURL":"https://s/2"},
            {"region":"two","publicURL":"https://s/3","internalURL":"https://s/4"}]}]}}"#;
    const V3: &str = r#"{"token":{"catalog":[
        {"type":"identity","endpoints":[
            {"region_id":"two","interface":"internal","url":"https://k/v3"}]},
        {"type":"object-store","endpoints":[
            {"region_id":"one","interface":"internal","url":"https://s/2"},
            {"region_id":"two","interface":"public","url":"https://s/3"},
            {"region_id":"two","interface":"internal","url":"https://s/4"}]}]}}"#;

    #[test]
    fn a_login_sends_the_password_and_finds_the_storage_of_its_region() {
        for (auth, catalogue, password) in [
            ("v2", V2, "/auth/passwordCredentials/password"),
            ("v3", V3, "/auth/identity/password/user/password"),
        ] {
            let (answer, sent) = Host::new()
                .setting("auth", auth)
                .setting("auth-url", "https://k")
                .setting("interface", "internal")
                .setting("region", "two")
                .setting("project", "p")
                .setting("project-domain", "Default")
                .setting("user-domain", "Default")
                .setting("account.user", "u")
                .secret("account.password", "\"p4ssword\"")
                .token("token-v2", "t0ken")
                .token("token-v3", "t0ken")
                .answer(Answer::new(200).body(catalogue))
                .answer(Answer::new(204))
                .run(|| send(|account| Request::new("HEAD", account.to_owned()), None));
            assert_eq!(answer.unwrap().status(), 204, "{auth}");
            let body = json::parse(&sent[0].body).unwrap();
            assert_eq!(json::text(&body, password), Some("\"p4ssword\""), "{auth}");
            assert_eq!(sent[1].url, "https://s/4", "{auth}");
            assert_eq!(sent[1].header("x-auth-token"), Some("t0ken"), "{auth}");
        }
    }

    #[test]
    fn an_application_credential_has_a_scope_of_its_own() {
        let (sent, _) = Host::new()
            .setting("account.application-credential-id", "id")
            .secret("account.application-credential-secret", "s3cret")
            .run(credentials);
        let sent = sent.unwrap();
        assert_eq!(
            json::text(&sent, "/identity/application_credential/id"),
            Some("id")
        );
        assert_eq!(sent.pointer("/scope"), None);
    }
}
