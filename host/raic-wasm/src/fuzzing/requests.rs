//! Requests of guests: where they go, what is signed for them, and where secrets stand in them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};
use url::Url;

use super::{AZURE, S3, decoded, gate_of, parts, s3_credentials, text};
use crate::{
    Settings, Signing,
    address::{is_metadata, is_public},
    gate::Gate,
    json_body,
    secrets::{Credentials, Placeholders},
    signed_message,
};

/// A manifest whose connector may reach any host below a domain, and a login.
const BELOW: &str = r#"
name = "x"
version = "1"
description = "d"
license = "MIT"
contract = "0.1.0"
[[network]]
name = "pod"
url = "{learned:up}/api"
methods = ["POST"]
[[network]]
name = "login"
url = "https://login.example/token"
exact = true
[endpoints.up]
help = "h"
below = "backblazeb2.com"
"#;

/// The URL of the login.
const AUDIENCE: &str = "https://login.example/token";

/// The gates of a typed endpoint, of a bucket that is a host, and of any host below a domain.
static GATES: LazyLock<[Gate; 3]> = LazyLock::new(|| {
    let typed = [("bucket", "b"), ("endpoint", "http://127.0.0.1:9000")];
    let by_host = [("bucket", "b"), ("addressing", "virtual")];
    let below = gate_of(BELOW.as_bytes(), &[]);
    [gate_of(S3, &typed).0, gate_of(S3, &by_host).0, below.0]
});

/// Judges a request. The input is its URL and its method; the URL also follows each place that is
/// granted.
///
/// What passes is what is sent, byte for byte, is within the granted place, and is read by the HTTP
/// client as the gate read it.
pub fn gate(data: &[u8]) {
    let mut parts = parts(data);
    let (url, method) = (text(&mut parts), text(&mut parts));
    for url in [
        url.to_owned(),
        format!("http://127.0.0.1:9000{url}"),
        format!("https://b.s3.us-east-1.amazonaws.com{url}"),
        format!("https://pod.backblazeb2.com{url}"),
        format!("https://{url}.backblazeb2.com/api"),
        format!("{AUDIENCE}{url}"),
    ] {
        for gate in GATES.iter() {
            for method in [method, "GET", "POST"] {
                check_gate(gate, method, &url);
            }
        }
        if let Ok(parsed) = Url::parse(&url)
            && Gate::lies_below(&parsed, "backblazeb2.com", 443).is_ok()
        {
            let host = parsed.host_str().unwrap_or_default();
            assert!(host.ends_with(".backblazeb2.com"), "{url}");
            assert_eq!((parsed.scheme(), parsed.port()), ("https", None), "{url}");
        }
    }
    if let Some(bytes) = data.first_chunk::<16>() {
        check_address(Ipv6Addr::from(*bytes));
    }
}

fn check_gate(gate: &Gate, method: &str, url: &str) {
    let Ok(passed) = gate.check(method, url) else {
        return;
    };
    let (sent, grant) = (&passed.url, passed.grant);
    let is_as_given = sent.as_str() == url || sent.as_str().strip_suffix('/') == Some(url);
    assert!(is_as_given, "{url}");
    let is_word = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase());
    assert!(is_word && !matches!(method, "TRACE" | "CONNECT"));
    assert!(grant.methods.is_empty() || grant.methods.contains(method));

    let host = sent.host_str().unwrap_or_default();
    let is_host = match grant.below {
        true => host.ends_with(&format!(".{}", grant.host)),
        false => host == grant.host,
    };
    let port = sent.port_or_known_default();
    assert!(is_host && sent.scheme() == grant.scheme && port == Some(grant.port));
    assert!(grant.typed || !is_private(host), "{url}");
    // The client does not read the URL by the gate's parser.
    if let Ok(uri) = sent.as_str().parse::<http::Uri>() {
        assert_eq!((uri.host(), uri.port_u16()), (Some(host), sent.port()));
        assert_eq!((uri.path(), uri.query()), (sent.path(), sent.query()));
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        assert!(!authority.contains('@'), "{url}");
    }

    let mut segments = sent.path().split('/').skip(1);
    for granted in grant.path.split('/').skip(1) {
        let segment = segments.next().unwrap_or_default();
        assert_eq!(decoded(segment), decoded(granted), "{url}");
    }
    let rest: Vec<&str> = segments.collect();
    // No document of these manifests lies below its network.
    let is_place = matches!(rest[..], [] | [""]);
    assert!(is_place || !grant.exact && !passed.document, "{url}");
    let once = String::from_utf8_lossy(&decoded(sent.path())).into_owned();
    let twice = String::from_utf8_lossy(&decoded(&once)).into_owned();
    for path in [sent.path(), once.as_str(), twice.as_str()] {
        assert!(!path.split(['/', '\\']).any(|part| part == ".."), "{url}");
    }
}

/// Whether a host is an address in a private network or on this machine.
fn is_private(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local(),
        Err(_) => false,
    }
}

fn check_address(ip: Ipv6Addr) {
    let v4 = Ipv4Addr::from_bits(ip.to_bits() as u32);
    let mapped = v4.to_ipv6_mapped();
    assert_eq!(is_public(v4.into()), is_public(mapped.into()), "{v4}");
    assert_eq!(is_metadata(v4.into()), is_metadata(mapped.into()), "{v4}");
    assert!(
        !is_public(v4.into()) || !is_private(&v4.to_string()),
        "{v4}"
    );
    for ip in [IpAddr::V4(v4), IpAddr::V6(ip)] {
        assert!(!is_metadata(ip) || !is_public(ip), "{ip}");
    }
}

/// The moment of signing: 2015-06-26T23:39:12Z, in milliseconds since 1970.
const NOW: u64 = 1_435_361_952_000;

static CONTAINER: LazyLock<(Gate, Settings)> = LazyLock::new(|| {
    let given = [("account", "myaccount"), ("container", "mycontainer")];
    gate_of(AZURE, &given)
});

/// Judges what a guest wants to have signed: the input as it is, and parts of it within messages
/// that would be signed.
///
/// Whatever is signed is for the granted place alone, and does not last.
pub fn signing(data: &[u8]) {
    let mut parts = parts(data);
    let (one, two, three) = (text(&mut parts), text(&mut parts), text(&mut parts));
    check_shared_key(one);
    let head = "PUT\n\n\n11\n\n\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\n\
        x-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\n";
    check_shared_key(&format!("{head}{one}"));
    check_shared_key(&format!("{head}x-ms-{one}\n/myaccount/mycontainer{two}"));

    check_sigv4(one);
    let canonical =
        format!("GET\n/b{one}\n{two}\nhost:127.0.0.1:9000{three}\n\nhost\nUNSIGNED-PAYLOAD");
    check_sigv4(&canonical);

    check_jwt(one, two);
    let now = NOW / 1000;
    let claims =
        |end: u64| format!(r#"{{"iss":"a@p","aud":"{AUDIENCE}","iat":{now},"exp":{end}{one}}}"#);
    check_jwt(r#"{"alg":"RS256","typ":"JWT"}"#, &claims(now + 60));
    check_jwt(
        &format!(r#"{{"alg":"RS256"{two}}}"#),
        &claims(now + u64::from(three.len() as u16) * 60),
    );
}

fn check_shared_key(message: &str) {
    let (gate, settings) = &*CONTAINER;
    let signing = Signing::AzureSharedKey {
        account: "{account}".to_owned(),
        network: "container".to_owned(),
    };
    if signed_message::check(&signing, message.as_bytes(), gate, settings, NOW).is_err() {
        return;
    }
    let is_header = |line: &&str| line.starts_with("x-ms-") && line.contains(':');
    let mut lines = message.split('\n').skip(12).skip_while(is_header);
    let resource = lines.next().unwrap_or_default();
    let path = resource.strip_prefix("/myaccount/").unwrap_or_default();
    let container = path.split(['/', '?']).next().unwrap_or_default();
    assert_eq!(decoded(container), b"mycontainer", "{message:?}");
}

fn check_sigv4(canonical: &str) {
    let checked = signed_message::check_sigv4(canonical, "20150626T233912Z", &GATES[0], NOW);
    if checked.is_err() {
        return;
    }
    let mut lines = canonical.split('\n').skip(1);
    let (path, query) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let hosts: Vec<&str> = lines
        .filter_map(|line| line.strip_prefix("host:"))
        .collect();
    assert_eq!(hosts, ["127.0.0.1:9000"], "{canonical:?}");
    let bucket = path.split(['/', '?']).nth(1).unwrap_or_default();
    assert_eq!(decoded(bucket), b"b", "{canonical:?}");
    let query = query.to_ascii_lowercase();
    let is_presigned = |item: &str| item.starts_with("x-amz-") || item.starts_with("x-goog-");
    assert!(!query.split('&').any(is_presigned), "{canonical:?}");
}

fn check_jwt(header: &str, claims: &str) {
    let signing = Signing::Jwt {
        network: "login".to_owned(),
        scopes: BTreeSet::from(["s".to_owned()]),
        lifetime_s: 3600,
    };
    let message = [header, claims].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
    let message = message.join(".");
    let settings = Settings::default();
    if signed_message::check(&signing, message.as_bytes(), &GATES[2], &settings, NOW).is_err() {
        return;
    }
    let read = |text: &str| -> Map<String, Value> {
        serde_json::from_str(text).expect("an object that was signed")
    };
    let (header, claims) = (read(header), read(claims));
    let is_of_header = |key: &String| matches!(key.as_str(), "alg" | "typ" | "kid");
    assert!(header["alg"] == "RS256" && header.keys().all(is_of_header));
    assert_eq!(claims["aud"], AUDIENCE);
    let number = |name: &str| claims[name].as_u64().expect("a number that was signed");
    let (issued, expires) = (number("iat"), number("exp"));
    assert!(expires - issued <= 3600 && issued.abs_diff(NOW / 1000) <= 900);
    let scope = claims.get("scope").map_or(Some(""), Value::as_str);
    let is_granted = |scope: &str| matches!(scope, "" | "s");
    assert!(scope.is_some_and(|scope| scope.split(' ').all(is_granted)));
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    assert!(!claims.contains_key("sub") || text("sub") == text("iss"));
}

const SESSION: &str = "token-of-a-session-0123456789";

static CREDENTIALS: LazyLock<Credentials> = LazyLock::new(|| s3_credentials(SESSION));

/// Fills a secret into parts of a request. In the input, a NUL stands for the secret's placeholder.
///
/// The secret comes only into the header that the manifest names, and lengths are bounded.
pub fn placeholders(data: &[u8]) {
    let Ok(given) = std::str::from_utf8(data) else {
        return;
    };
    if given.contains(SESSION) {
        return;
    }
    let mut placeholders = Placeholders::default();
    let token = &CREDENTIALS.secret["keys.session-token"];
    let issued = placeholders.issue(token, "raw", None);
    let issued = issued.expect("the manifest allows it");
    let text = given.replace('\0', &issued);
    let most = 4096;
    if let Ok(filled) = placeholders.fill("bucket", "x-amz-security-token", &text, most) {
        assert!(filled.len() <= most);
        assert_eq!(*filled, given.replace('\0', SESSION));
    }
    let elsewhere = [
        placeholders.fill("bucket", "x-other", &text, most),
        placeholders.fill("elsewhere", "x-amz-security-token", &text, most),
        placeholders.fill_url("bucket", &text),
    ];
    for filled in elsewhere.into_iter().flatten() {
        assert_eq!(*filled, text);
        assert!(!text.contains(&issued));
    }
    if let Ok(filled) = placeholders.fill_content("bucket", text.clone().into_bytes()) {
        assert_eq!(*filled, text.as_bytes());
        assert!(!text.contains(&issued));
    }
    if let Ok(filled) = placeholders.fill_canonical(&text) {
        assert!(filled.len() <= 64 << 10);
        // Method and path.
        assert!(filled.split('\n').take(2).eq(text.split('\n').take(2)));
    }

    match json_body::check(given) {
        Ok(()) => {
            assert!(serde_json::from_str::<Value>(given).is_ok());
            let twice = format!(r#"{{"a":{given},"\u0061":0}}"#);
            assert!(json_body::check(&twice).is_err());
        }
        Err(why) => assert!(why.len() < 120, "{why}"),
    }
}
