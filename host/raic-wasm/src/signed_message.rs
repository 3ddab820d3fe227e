//! Checks messages before they are signed by a key that could sign any bytes. A message must have
//! the shape that the manifest declares, and be of the present time.
//!
//! A connector that is approved for one container holds a handle of a key that opens the whole
//! account. If the host signed any message, the connector could get a shared access signature that
//! lasts for years, or a token for every scope. So the host reads what it signs.

use std::{collections::BTreeSet, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use crate::{
    gate::Gate,
    manifest::{Settings, Signing, expand},
};

/// How far a message's date may differ from the host's clock. The services themselves allow as
/// much.
const SKEW: Duration = Duration::from_secs(15 * 60);

/// Checks a message against the shape that a secret's rule declares.
///
/// `now` is in milliseconds since 1970.
///
/// # Errors
/// One line that says which rule does not hold.
pub(crate) fn check(
    signing: &Signing,
    message: &[u8],
    gate: &Gate,
    settings: &Settings,
    now: u64,
) -> Result<(), String> {
    let text =
        std::str::from_utf8(message).map_err(|_| "what is signed is not UTF-8".to_owned())?;
    match signing {
        Signing::Sigv4 => Err("this secret signs by sigv4 only".to_owned()),
        Signing::AzureSharedKey { account, network } => {
            let account = expand(account, &settings.values)?;
            shared_key(text, &account, network, gate, now)
                .map_err(|why| format!("not a SharedKey request: {why}"))
        }
        Signing::Jwt {
            network,
            scopes,
            lifetime_s,
        } => {
            let audience = gate
                .url_of(network)
                .ok_or_else(|| format!("the network {network:?} does not have exactly one URL"))?;
            jwt(text, &audience, scopes, *lifetime_s, now)
                .map_err(|why| format!("not a token as the manifest says: {why}"))
        }
    }
}

/// Checks the string to sign of "Authorize with Shared Key": twelve lines, the `x-ms-` headers, and
/// the resource. A shared access signature of an account or a service begins with other lines and
/// names no path.
fn shared_key(
    text: &str,
    account: &str,
    network: &str,
    gate: &Gate,
    now: u64,
) -> Result<(), String> {
    let mut lines = text.split('\n');
    let method = lines.next().unwrap_or_default();
    if !(3..=7).contains(&method.len()) || !method.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err("it does not begin with a method".to_owned());
    }
    if lines.by_ref().take(11).count() != 11 {
        return Err("it has fewer than twelve lines".to_owned());
    }
    let mut date = None;
    let mut resource = None;
    for line in lines.by_ref() {
        match line.split_once(':') {
            Some((name, value)) if name.starts_with("x-ms-") => {
                if name == "x-ms-date" && date.replace(value).is_some() {
                    return Err("it has two dates".to_owned());
                }
            }
            _ => {
                resource = Some(line);
                break;
            }
        }
    }
    // The items of the query follow the resource.
    if lines.any(|line| !line.contains(':')) {
        return Err("a line after the resource is not an item of the query".to_owned());
    }
    let date = date.and_then(http_date).ok_or("it has no x-ms-date")?;
    if date.abs_diff(now) > SKEW.as_millis() as u64 {
        return Err("its x-ms-date is more than 15 minutes off".to_owned());
    }
    let path = resource
        .and_then(|r| r.strip_prefix('/'))
        .and_then(|r| r.strip_prefix(account));
    let path = path
        .filter(|path| path.starts_with('/'))
        .ok_or("its resource is not the account's")?;
    // The path is signed as it is sent, so the gate judges it as it would judge the request.
    let is_granted = gate.of_network(network).any(|grant| {
        let passed = gate.check(method, &format!("{}{path}", grant.origin()));
        passed.is_ok_and(|passed| passed.grant.name == network)
    });
    if is_granted {
        Ok(())
    } else {
        Err(format!("{method} {path} is not granted"))
    }
}

/// Checks that a canonical request of SigV4 could be sent now (AWS, "Create a signed request", step
/// 1). Its method, host and path must be granted, and its time the present. It must not be a
/// presigned URL, which carries its own signature and would let others in for a week.
///
/// # Errors
/// One line that says what is wrong.
pub(crate) fn check_sigv4(
    canonical: &str,
    timestamp: &str,
    gate: &Gate,
    now: u64,
) -> Result<(), String> {
    let time = basic_time(timestamp).ok_or("its time is not YYYYMMDD'T'HHMMSS'Z'")?;
    if time.abs_diff(now) > SKEW.as_millis() as u64 {
        return Err("its time is more than 15 minutes off".to_owned());
    }
    let mut lines = canonical.split('\n');
    let mut line = || lines.next().ok_or("it has too few lines");
    let (method, path, query) = (line()?, line()?, line()?);
    let signs_itself = |item: &str| {
        let name = percent_encoding::percent_decode_str(item.split('=').next().unwrap_or_default());
        let name = name.decode_utf8_lossy().to_ascii_lowercase();
        name.starts_with("x-amz-") || name.starts_with("x-goog-")
    };
    if query.split('&').any(signs_itself) {
        return Err("its query has parameters of a presigned URL".to_owned());
    }
    let mut hosts = lines.filter_map(|line| line.strip_prefix("host:"));
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err("it has no host, or two".to_owned());
    };
    // A host that goes on with a path or a query would be judged with a longer path than the one
    // that is signed.
    if !host
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
    {
        return Err(format!("its host {host:?} is not a host"));
    }
    let is_granted = gate.grants().iter().any(|grant| {
        gate.check(method, &format!("{}://{host}{path}", grant.scheme))
            .is_ok()
    });
    if is_granted {
        Ok(())
    } else {
        Err(format!("{method} {path} at {host} is not granted"))
    }
}

/// Reads a time in ISO 8601's basic form, to the second. Returns milliseconds since 1970.
fn basic_time(text: &str) -> Option<u64> {
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    u64::try_from(time.timestamp().as_millisecond()).ok()
}

/// Reads a date in HTTP's form. Returns milliseconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    u64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// The claims that a token for a login may have (RFC 7519 section 4.1, RFC 7523 section 3).
const CLAIMS: [&str; 8] = ["iss", "sub", "aud", "scope", "iat", "exp", "nbf", "jti"];

fn jwt(
    text: &str,
    audience: &str,
    scopes: &BTreeSet<String>,
    lifetime_s: u64,
    now: u64,
) -> Result<(), String> {
    let (header, claims) = text.split_once('.').ok_or("it is not two parts")?;
    let part = |part: &str| -> Option<serde_json::Map<String, Value>> {
        let bytes = BASE64URL_NOPAD.decode(part.as_bytes()).ok()?;
        // Of a claim that stands twice, one reader takes the first and another the last.
        crate::json_body::check(std::str::from_utf8(&bytes).ok()?).ok()?;
        match serde_json::from_slice(&bytes).ok()? {
            Value::Object(map) => Some(map),
            _ => None,
        }
    };
    let header = part(header).ok_or("its header is not a JSON object in base64url")?;
    let claims = part(claims).ok_or("its claims are not a JSON object in base64url")?;
    if header.get("alg").and_then(Value::as_str) != Some("RS256")
        || header
            .keys()
            .any(|key| !matches!(key.as_str(), "alg" | "typ" | "kid"))
    {
        return Err("its header is not one of RS256 with typ and kid".to_owned());
    }
    if let Some(other) = claims.keys().find(|key| !CLAIMS.contains(&key.as_str())) {
        return Err(format!("it has the claim {other:?}"));
    }
    let claim = |name: &str| claims.get(name).and_then(Value::as_str);
    if claim("aud") != Some(audience) {
        return Err(format!("its audience is not {audience}"));
    }
    // A service account may act for others if its administrator allows it, but not by way of a
    // connector.
    if claims.contains_key("sub") && claim("sub") != claim("iss") {
        return Err("it acts for another subject".to_owned());
    }
    if claims.contains_key("scope") && claim("scope").is_none() {
        return Err("its scope is not a text".to_owned());
    }
    if let Some(other) = claim("scope")
        .unwrap_or_default()
        .split(' ')
        .find(|s| !s.is_empty() && !scopes.contains(*s))
    {
        return Err(format!("the scope {other:?} is not one of the manifest's"));
    }
    let seconds = |name: &str| claims.get(name).and_then(Value::as_u64);
    let (Some(issued), Some(expires)) = (seconds("iat"), seconds("exp")) else {
        return Err("it lacks iat or exp in seconds".to_owned());
    };
    if issued.abs_diff(now / 1000) > SKEW.as_secs() {
        return Err("its iat is more than 15 minutes off".to_owned());
    }
    match expires.checked_sub(issued) {
        Some(lasts) if lasts <= lifetime_s => Ok(()),
        _ => Err(format!("it lasts longer than {lifetime_s} s")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Manifest;

    /// 2015-06-26T23:39:12Z, the date of the examples in "Authorize with Shared Key".
    const NOW: u64 = 1_435_361_952_000;
    const DATE: &str = "Fri, 26 Jun 2015 23:39:12 GMT";

    fn azure(account: &str, container: &str) -> (Gate, Settings) {
        let manifest =
            Manifest::parse(include_bytes!("../../../connectors/azure/connector.toml")).unwrap();
        let given = [("account", account), ("container", container)]
            .map(|(n, v)| (n.to_owned(), v.to_owned()));
        let settings = manifest.resolve(&given.into()).unwrap();
        (
            Gate::new(&manifest, &settings, &BTreeMap::new(), &BTreeMap::new()).unwrap(),
            settings,
        )
    }

    fn shared_key_of(message: &str) -> Result<(), String> {
        let (gate, settings) = azure("myaccount", "mycontainer");
        let signing = Signing::AzureSharedKey {
            account: "{account}".to_owned(),
            network: "container".to_owned(),
        };
        check(&signing, message.as_bytes(), &gate, &settings, NOW)
    }

    #[test]
    fn a_path_that_hides_in_the_host_is_not_signed() {
        let manifest =
            Manifest::parse(include_bytes!("../../../connectors/s3/connector.toml")).unwrap();
        let given = [
            ("bucket", "mine"),
            ("endpoint", "http://127.0.0.1:9000"),
            ("addressing", "path"),
        ]
        .map(|(n, v)| (n.to_owned(), v.to_owned()));
        let settings = manifest.resolve(&given.into()).unwrap();
        let gate = Gate::new(&manifest, &settings, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        let signed = |host: &str, path: &str| {
            let canonical = format!("GET\n{path}\n\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
            check_sigv4(&canonical, "20150626T233912Z", &gate, NOW)
        };
        signed("127.0.0.1:9000", "/mine/key").unwrap();
        for (host, path) in [
            ("127.0.0.1:9000", "/others/key"),
            // The service would see the path alone.
            ("127.0.0.1:9000/mine", "/others/key"),
            ("127.0.0.1:9000/mine/x?", "/others/key"),
            ("me@127.0.0.1:9000", "/mine/key"),
        ] {
            signed(host, path).expect_err(host);
        }
    }

    #[test]
    fn microsofts_example_of_a_shared_key_is_signed() {
        let listing = format!(
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{DATE}\nx-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
        shared_key_of(&listing).unwrap();
        let put = format!(
            "PUT\n\n\n11\n\n\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\nx-ms-date:{DATE}\nx-ms-version:2015-02-21\n/myaccount/mycontainer/hello.txt"
        );
        shared_key_of(&put).unwrap();
        for (why, bad) in [
            (
                "another container",
                put.replace("/mycontainer/", "/others/"),
            ),
            (
                "a name that begins alike",
                put.replace("/mycontainer/", "/mycontainers/"),
            ),
            (
                "another account",
                put.replace("/myaccount/", "/youraccount/"),
            ),
            ("a year later", put.replace("2015 23", "2016 23")),
            ("no date", put.replace(&format!("x-ms-date:{DATE}\n"), "")),
            ("the whole account", listing.replace("/mycontainer", "/")),
        ] {
            assert!(shared_key_of(&bad).is_err(), "{why}");
        }
    }

    /// If the host signed such a text, a connector would have the account for as long as it likes
    /// ("Create an account SAS").
    #[test]
    fn shared_access_signatures_are_not_signed() {
        for sas in [
            "myaccount\nrwdl\nb\nsco\n2015-06-26\n2035-06-26\n\nhttps\n2015-04-05\n\n",
            "rwdl\n2015-06-26\n2035-06-26\n/blob/myaccount/mycontainer\n\n\nhttps\n2018-11-09\nc\n\n\n\n\n\n",
            "PUT\n\n",
            "",
        ] {
            assert!(shared_key_of(sas).is_err(), "{sas:?}");
        }
    }

    fn jwt_of(header: &str, claims: &str) -> Result<(), String> {
        let text = [header, claims]
            .map(|part| BASE64URL_NOPAD.encode(part.as_bytes()))
            .join(".");
        let scopes =
            BTreeSet::from(["https://www.googleapis.com/auth/devstorage.read_write".to_owned()]);
        jwt(
            &text,
            "https://oauth2.googleapis.com/token",
            &scopes,
            3600,
            NOW,
        )
    }

    #[test]
    fn only_a_token_for_the_login_and_its_scopes_is_signed() {
        let issued = NOW / 1000;
        let header = r#"{"alg":"RS256","typ":"JWT","kid":"k1"}"#;
        let claims = format!(
            r#"{{"iss":"a@p","scope":"https://www.googleapis.com/auth/devstorage.read_write","aud":"https://oauth2.googleapis.com/token","iat":{issued},"exp":{}}}"#,
            issued + 3600
        );
        jwt_of(header, &claims).unwrap();
        for (why, bad) in [
            (
                "every scope",
                claims.replace("devstorage.read_write", "cloud-platform"),
            ),
            (
                "a scope more",
                claims.replace(
                    "read_write\"",
                    "read_write https://www.googleapis.com/auth/cloud-platform\"",
                ),
            ),
            (
                "for the API itself",
                claims.replace("oauth2.googleapis.com/token", "storage.googleapis.com/"),
            ),
            (
                "for a person",
                claims.replace(
                    "\"iss\":\"a@p\"",
                    "\"iss\":\"a@p\",\"sub\":\"boss@example.com\"",
                ),
            ),
            (
                "an identity token",
                claims.replace(
                    "\"iss\":\"a@p\"",
                    "\"iss\":\"a@p\",\"target_audience\":\"x\"",
                ),
            ),
            (
                "for a day",
                claims.replace(&(issued + 3600).to_string(), &(issued + 86_400).to_string()),
            ),
            (
                "next year",
                claims.replace(&issued.to_string(), &(issued + 31_536_000).to_string()),
            ),
            (
                "no end",
                claims.replace(&format!(",\"exp\":{}", issued + 3600), ""),
            ),
            (
                "the scope twice",
                claims.replace("\"iss\":\"a@p\"", "\"scope\":\"x\",\"iss\":\"a@p\""),
            ),
        ] {
            assert!(jwt_of(header, &bad).is_err(), "{why}");
        }
        assert!(jwt_of(r#"{"alg":"none"}"#, &claims).is_err());
        assert!(jwt_of(r#"{"alg":"RS256","crit":["x"]}"#, &claims).is_err());
    }
}
