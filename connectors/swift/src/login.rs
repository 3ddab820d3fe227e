//! Logins: by Keystone v3 and v2, and by v1, Swift's first login.

use raic_sdk::{
    ErrorKind, Login, Made, Request, Response, Result, endpoint, error,
    json::{self, quote},
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

/// Sends a request for the container with a token; `build` gets the container's URL. If the service
/// refuses the token, the connector logs in again and sends the request once more.
pub(crate) fn send(
    build: impl Fn(&str) -> Request,
    upload: Option<&raic_sdk::Payload>,
) -> Result<Response> {
    let container = raic_sdk::uri::encode(&required_setting("container")?);
    send_to_account(|storage| build(&format!("{storage}/{container}")), upload)
}

/// Sends a request for the account with a token, as [`send`] does for the container; `build` gets
/// the account's URL.
pub(crate) fn send_to_account(
    build: impl Fn(&str) -> Request,
    upload: Option<&raic_sdk::Payload>,
) -> Result<Response> {
    raic_sdk::with_login("token", log_in, |login: &Login| {
        let request = build(login.text(STORAGE)?);
        let token = login.secret(TOKEN)?.placeholder("raw")?;
        request.header("x-auth-token", &token).send(upload)
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
    let password = open("password")?.placeholder("json")?;
    let content = format!(
        r#"{{"auth":{{"tenantName":{},"passwordCredentials":{{"username":{},"password":"{password}"}}}}}}"#,
        quote(&required_setting("project")?),
        quote(&user()?)
    );
    let answer = post("/tokens", content)?;
    expect_login(&answer, &[200, 203])?;
    let document = json::parse(&answer.read(MAX_CATALOGUE)?)?;
    let moment = |place: &str| json::text(&document, place).and_then(time::parse_rfc3339);
    let lasts = ttl(
        moment("/access/token/expires"),
        moment("/access/token/issued_at"),
    );
    let kind = required_setting("interface")?;
    let region = setting("region");
    let services = document
        .pointer("/access/serviceCatalog")
        .and_then(|s| s.as_array());
    let stores = services
        .into_iter()
        .flatten()
        .filter(|s| json::text(s, "/type") == Some("object-store"));
    let mut endpoints = stores
        .filter_map(|s| s.pointer("/endpoints")?.as_array())
        .flatten();
    let endpoint =
        endpoints.find(|e| region.is_none() || json::text(e, "/region") == region.as_deref());
    let storage = endpoint.and_then(|e| json::text(e, &format!("/{kind}URL")));
    made(
        answer.take_secret("token-v2")?,
        storage.ok_or_else(no_endpoint)?,
        lasts,
    )
}

/// The scope of a v3 token, in JSON: a project or a domain ("Password authentication with scoped
/// authorization").
fn scope() -> Result<String> {
    if let Some(id) = setting("project-id") {
        return Ok(format!(r#"{{"project":{{"id":{}}}}}"#, quote(&id)));
    }
    match (setting("project"), setting("domain")) {
        (None, Some(domain)) => Ok(format!(r#"{{"domain":{{"name":{}}}}}"#, quote(&domain))),
        _ => Ok(format!(
            r#"{{"project":{{"name":{},"domain":{{"name":{}}}}}}}"#,
            quote(&required_setting("project")?),
            quote(&required_setting("project-domain")?)
        )),
    }
}

fn v3() -> Result<Made> {
    let content = match setting("account.application-credential-id") {
        Some(id) => {
            let secret = open("application-credential-secret")?.placeholder("json")?;
            format!(
                r#"{{"auth":{{"identity":{{"methods":["application_credential"],"application_credential":{{"id":{},"secret":"{secret}"}}}}}}}}"#,
                quote(&id)
            )
        }
        None => {
            let password = open("password")?.placeholder("json")?;
            let domain = |name: &str| Ok(quote(&required_setting(name)?));
            format!(
                r#"{{"auth":{{"identity":{{"methods":["password"],"password":{{"user":{{"name":{},"domain":{{"name":{}}},"password":"{password}"}}}}}},"scope":{}}}}}"#,
                quote(&user()?),
                domain("user-domain")?,
                scope()?
            )
        }
    };
    let answer = post("/auth/tokens", content)?;
    expect_login(&answer, &[200, 201])?;
    let document = json::parse(&answer.read(MAX_CATALOGUE)?)?;
    let moment = |place: &str| json::text(&document, place).and_then(time::parse_rfc3339);
    let lasts = ttl(moment("/token/expires_at"), moment("/token/issued_at"));
    let (kind, region) = (required_setting("interface")?, setting("region"));
    let services = document
        .pointer("/token/catalog")
        .and_then(|s| s.as_array());
    let stores = services
        .into_iter()
        .flatten()
        .filter(|s| json::text(s, "/type") == Some("object-store"));
    let mut endpoints = stores
        .filter_map(|s| s.pointer("/endpoints")?.as_array())
        .flatten();
    let endpoint = endpoints.find(|e| {
        let its = json::text(e, "/region_id").or(json::text(e, "/region"));
        json::text(e, "/interface") == Some(&kind) && (region.is_none() || its == region.as_deref())
    });
    let storage = endpoint
        .and_then(|e| json::text(e, "/url"))
        .ok_or_else(no_endpoint)?
        .to_owned();
    made(answer.take_secret("token-v3")?, &storage, lasts)
}

fn post(path: &str, content: String) -> Result<Response> {
    let url = format!("{}{path}", required_setting("auth-url")?);
    Request::new("POST", url)
        .header("content-type", "application/json")
        .content(content.into_bytes())
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
            raic_sdk::Error {
                kind: ErrorKind::Misconfigured,
                message: format!("login: {message}"),
                ..e
            }
        }
        _ => e,
    })
}

fn protocol(why: &str) -> raic_sdk::Error {
    error(ErrorKind::Protocol, why)
}

fn no_endpoint() -> raic_sdk::Error {
    let why = "the catalogue has no object-store endpoint of that region and interface; \
               set `region`, or give the user a role in the project";
    error(ErrorKind::Misconfigured, why)
}
