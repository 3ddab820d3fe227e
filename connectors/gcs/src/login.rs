//! Tokens: those of a service account, by an assertion that is signed with its key (RFC 7523;
//! "Using OAuth 2.0 for server to server applications"), or those of the metadata server.

use raic_sdk::{
    BASE64URL_NOPAD, Login, Made, Payload, Request, Response, Result,
    json::{self, json},
    now_unix_ms, required_setting, secrets, setting, uri,
};

use crate::answer::{expect, expect_signed};

/// The scope of the token: objects and buckets, but not the permissions of others.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// How long before its end a token is renewed, in seconds. In the last 5 minutes of a token, the
/// metadata server already gives another one.
const MARGIN_S: u64 = 270;
/// How long an assertion lasts, in seconds.
const ASSERTION_S: u64 = 3600;

/// Sends a request with a token. If the service refuses the token, the connector logs in again and
/// sends the request once more.
pub(crate) fn send(build: impl Fn() -> Request, upload: Option<&Payload>) -> Result<Response> {
    raic_sdk::with_login("token", log_in, |login: &Login| {
        let token = login.secret("token")?.placeholder("raw")?;
        build()
            .header("authorization", &format!("Bearer {token}"))
            .send(upload)
    })
}

fn log_in() -> Result<Made> {
    let answer = if required_setting("auth")? == "metadata" {
        let url = format!(
            "{}/computeMetadata/v1/instance/service-accounts/default/token",
            required_setting("metadata")?
        );
        let answer = Request::new("GET", url)
            .header("metadata-flavor", "Google")
            .send(None)?;
        expect(&answer, &[200])?;
        answer
    } else {
        let content = format!(
            "grant_type={}&assertion={}",
            uri::encode("urn:ietf:params:oauth:grant-type:jwt-bearer"),
            assertion()?
        );
        let answer = Request::new("POST", required_setting("service-account.token-uri")?)
            .header("content-type", "application/x-www-form-urlencoded")
            .content(content.into_bytes())
            .send(None)?;
        expect_signed(&answer, &[200])?;
        answer
    };
    raic_sdk::oauth(&answer, "access-token", MARGIN_S)
}

fn assertion() -> Result<String> {
    let mut header = json!({ "alg": "RS256", "typ": "JWT" });
    if let Some(id) = setting("service-account.private-key-id") {
        header["kid"] = id.into();
    }
    let now = now_unix_ms() / 1000;
    let claims = json!({
        "iss": required_setting("service-account.client-email")?,
        "scope": SCOPE,
        "aud": required_setting("service-account.token-uri")?,
        "iat": now,
        "exp": now + ASSERTION_S,
    });
    let encode = |part: &json::Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature =
        secrets::required("service-account.private-key")?.rsa_sha256(signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

#[cfg(test)]
mod tests {
    use raic_sdk::{
        ErrorKind,
        testing::{Answer, Host},
    };

    use super::*;

    fn by_account() -> Host {
        Host::new()
            .setting("auth", "service-account")
            .setting(
                "service-account.client-email",
                "a@p.iam.gserviceaccount.com",
            )
            .setting(
                "service-account.token-uri",
                "https://oauth2.googleapis.com/token",
            )
            .setting("service-account.private-key-id", "k1")
            .secret("service-account.private-key", "key")
            .now(1_700_000_000_000)
    }

    #[test]
    fn an_assertion_names_account_scope_audience_and_an_hour() {
        let (assertion, _) = by_account().run(assertion);
        let assertion = assertion.unwrap();
        let part = |i: usize| {
            let part = assertion.split('.').nth(i).unwrap();
            json::parse(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
        };
        assert_eq!(json::text(&part(0), "/kid"), Some("k1"));
        assert_eq!(
            json::text(&part(1), "/aud"),
            Some("https://oauth2.googleapis.com/token")
        );
        assert_eq!(json::number(&part(1), "/exp"), Some(1_700_003_600));
    }

    #[test]
    fn a_token_that_ended_is_made_anew_once() {
        let host = Host::new()
            .setting("auth", "metadata")
            .setting("metadata", "http://169.254.169.254")
            .token("access-token", "t0ken")
            .answer(Answer::new(200).body(r#"{"access_token":"***","expires_in":3599}"#))
            .answer(Answer::new(401))
            .answer(Answer::new(200).body(r#"{"access_token":"***","expires_in":3599}"#))
            .answer(Answer::new(200));
        let (answer, sent) =
            host.run(|| send(|| Request::new("GET", "https://h/b".to_owned()), None));
        assert_eq!(answer.unwrap().status(), 200);
        assert_eq!(sent[0].header("metadata-flavor"), Some("Google"));
        assert_eq!(sent[3].header("authorization"), Some("Bearer t0ken"));
    }

    /// An assertion is signed with this host's clock; the metadata server is asked without one.
    #[test]
    fn a_wrong_clock_is_named_only_of_an_assertion() {
        let denied = || Answer::new(403).header("date", "Tue, 14 Nov 2023 23:13:00 GMT");
        let (e, _) = by_account().answer(denied()).run(log_in);
        assert_eq!(e.unwrap_err().kind, ErrorKind::ClockSkew);
        let by_machine = by_account()
            .setting("auth", "metadata")
            .setting("metadata", "http://169.254.169.254");
        let (e, _) = by_machine.answer(denied()).run(log_in);
        assert_eq!(e.unwrap_err().kind, ErrorKind::PermissionDenied);
    }
}
