//! Tokens of Microsoft Entra, by an application's client credentials (OAuth 2.0, RFC 6749 section
//! 4.4).

use raic_sdk::{Login, Made, Payload, Request, Response, Result, required_setting, secrets, uri};

use crate::answer::expect;

/// The scope of the token: whatever the application may do in Azure Storage.
const SCOPE: &str = "https://storage.azure.com/.default";
/// How long before its end a token is renewed, in seconds.
const MARGIN_S: u64 = 120;

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
    let id = required_setting("application.client-id")?;
    let secret = secrets::required("application.client-secret")?.placeholder("form")?;
    let content = format!(
        "grant_type=client_credentials&client_id={}&client_secret={secret}&scope={}",
        uri::encode(&id),
        uri::encode(SCOPE)
    );
    let url = format!(
        "{}/{}/oauth2/v2.0/token",
        required_setting("auth-url")?,
        uri::encode(&required_setting("tenant")?)
    );
    let answer = Request::new("POST", url)
        .header("content-type", "application/x-www-form-urlencoded")
        .content(content.into_bytes())
        .send(None)?;
    expect(&answer, &[200])?;
    raic_sdk::oauth(&answer, "access-token", MARGIN_S)
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host};

    use super::*;

    #[test]
    fn a_token_that_ended_is_made_anew_once() {
        let token = || Answer::new(200).body(r#"{"access_token":"***","expires_in":3599}"#);
        let host = Host::new()
            .setting("auth-url", "https://login.microsoftonline.com")
            .setting("tenant", "a.onmicrosoft.com")
            .setting("application.client-id", "id")
            .secret("application.client-secret", "s+/")
            .token("access-token", "t0ken")
            .answer(token())
            .answer(Answer::new(401))
            .answer(token())
            .answer(Answer::new(200));
        let (answer, sent) = host.run(|| {
            let build = || Request::new("GET", "https://h/c".to_owned());
            send(build, None)
        });
        assert_eq!(answer.unwrap().status(), 200);
        assert_eq!(
            sent[0].url,
            "https://login.microsoftonline.com/a.onmicrosoft.com/oauth2/v2.0/token"
        );
        assert_eq!(
            String::from_utf8_lossy(&sent[0].body),
            "grant_type=client_credentials&client_id=id&client_secret=s%2B%2F\
             &scope=https%3A%2F%2Fstorage.azure.com%2F.default"
        );
        assert_eq!(sent[3].header("authorization"), Some("Bearer t0ken"));
    }
}
