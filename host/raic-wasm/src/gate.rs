//! The one gate to the network: which requests may leave, and which answers are documents.
//!
//! **Invariant:** the URL that is judged here is the URL that is sent, byte for byte, and redirects are never
//! followed. Names are judged here; the addresses they resolve to, in [`crate::client`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use url::{Host, Url};

use crate::{
    ConnectorError, Manifest,
    address::is_public,
    manifest::{Document, SettingType, Settings, expand, holds, is_plain, learned_in},
};

/// A place the connector may send requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The manifest's name for it.
    pub name: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host name or address, as a URL has it.
    pub host: String,
    /// The port, also where it is the scheme's own.
    pub port: u16,
    /// The path every request's path begins with, by whole segments; empty for any.
    pub path: String,
    /// Whether it is that path alone.
    pub exact: bool,
    /// The methods of its requests; any where none is named.
    pub methods: BTreeSet<String>,
    /// Whether the operator typed the host: then it may be private.
    pub typed: bool,
}

/// What one cloud's connector may reach.
pub(crate) struct Gate {
    grants: Vec<Grant>,
    documents: Vec<Document>,
    /// The answers that hold a token, by its name.
    tokens: Vec<(String, Document)>,
}

/// A request that may go.
#[derive(Debug)]
pub(crate) struct Passed<'a> {
    pub(crate) url: Url,
    pub(crate) grant: &'a Grant,
    /// Whether a 2xx answer may be read.
    pub(crate) document: bool,
    /// The tokens that a 2xx answer holds.
    pub(crate) tokens: Vec<&'a str>,
    /// All tokens that answers from this place may hold: a service may take other requests for a login than the manifest thinks of.
    pub(crate) of_place: Vec<&'a str>,
}

impl Gate {
    /// Fills a cloud's settings into what the manifest asks for.
    ///
    /// `plain` are the readable parts of credentials: a URL there counts as typed. `learned` are the endpoints that the operator
    /// pinned; a network that needs another one is not granted yet.
    pub(crate) fn new(
        manifest: &Manifest,
        settings: &Settings,
        plain: &BTreeMap<String, String>,
        learned: &BTreeMap<String, String>,
    ) -> Result<Self, ConnectorError> {
        let mut values = settings.values.clone();
        values.extend(plain.clone());
        values.extend(learned.iter().map(|(name, url)| (format!("learned:{name}"), url.clone())));
        let mut grants = Vec::new();
        for network in &manifest.network {
            let is_learned = |name: &str| learned.contains_key(name);
            if !holds(&network.when, &settings.values) || !learned_in(&network.url).all(is_learned) {
                continue;
            }
            let wrong = |why| ConnectorError::Manifest(format!("network {:?}: {why}", network.name));
            let text = expand(&network.url, &values).map_err(wrong)?;
            let url = Url::parse(&text).ok().filter(is_plain);
            let url = url.ok_or_else(|| wrong(format!("{text:?} is no URL of scheme, host and path")))?;
            let pinned = learned.values().chain(plain.values()).filter_map(|url| Url::parse(url).ok());
            let mut by_operator = settings.typed_urls(manifest).chain(pinned);
            let typed = by_operator.any(|by_operator| is_host_of(&url, &by_operator));
            grants.push(Grant {
                name: network.name.clone(),
                scheme: url.scheme().to_owned(),
                host: url.host_str().unwrap_or_default().to_owned(),
                port: url.port_or_known_default().unwrap_or_default(),
                path: url.path().trim_end_matches('/').to_owned(),
                exact: network.exact,
                methods: network.methods.clone(),
                typed,
            });
        }
        let tokens = manifest.tokens.iter();
        let tokens =
            tokens.flat_map(|(name, t)| t.answers.iter().map(move |answer| (name.clone(), answer.clone())));
        Ok(Self { grants, documents: manifest.documents.clone(), tokens: tokens.collect() })
    }

    /// Whether a URL's host and port are those of a grant that the operator typed.
    pub(crate) fn names_host_of(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| {
            self.grants.iter().any(|g| {
                g.typed
                    && Some(g.host.as_str()) == url.host_str()
                    && Some(g.port) == url.port_or_known_default()
            })
        })
    }

    /// What was granted, for people to see.
    pub(crate) fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Whether `authority` (`host` or `host:port`) is one that requests may be signed for.
    pub(crate) fn grants_authority(&self, authority: &str) -> bool {
        self.grants.iter().any(|g| {
            let default = if g.scheme == "https" { 443 } else { 80 };
            authority == format!("{}:{}", g.host, g.port) || (g.port == default && authority == g.host)
        })
    }

    /// Judges a request.
    ///
    /// # Errors
    /// One line that says what was refused and what is granted.
    pub(crate) fn check(&self, method: &str, url: &str) -> Result<Passed<'_>, String> {
        let is_word = (1..=32).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_uppercase());
        // These two reach behind the server, or repeat what was sent to it.
        if !is_word || matches!(method, "TRACE" | "CONNECT") {
            return Err(format!("the method {method:?} is not allowed"));
        }
        let parsed = Url::parse(url).map_err(|e| format!("{url:?} is no URL: {e}"))?;
        if parsed.as_str() != url {
            return Err(format!("{url:?} does not stand as a URL parser would write it ({parsed})"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.fragment().is_some() {
            return Err(format!("a URL with user, password or fragment is not sent: {url:?}"));
        }
        if has_dot_segments(parsed.path()) {
            return Err(format!("{url:?} has dot segments"));
        }
        let at = |g: &&Grant| {
            g.scheme == parsed.scheme()
                && Some(g.host.as_str()) == parsed.host_str()
                && Some(g.port) == parsed.port_or_known_default()
                && (g.methods.is_empty() || g.methods.contains(method))
                && if g.exact { is_at(&g.path, parsed.path()) } else { below(&g.path, parsed.path()) }
        };
        let grant = self.grants.iter().find(at).ok_or_else(|| {
            let granted: Vec<_> = self
                .grants
                .iter()
                .map(|g| format!("{}://{}:{}{}", g.scheme, g.host, g.port, g.path))
                .collect();
            format!("{method} {url} is not granted; granted: {}", granted.join(", "))
        })?;
        if !grant.typed && literal_address(&parsed).is_some_and(|ip| !is_public(ip)) {
            return Err(format!("{url} is a private address that the operator did not type"));
        }
        let is_answer_to = |d: &Document| {
            d.network == grant.name
                && d.method == method
                && parsed.path().strip_prefix(&grant.path).is_some_and(|path| {
                    // `/bucket/` is the bucket, `/bucket//` is an object.
                    path == d.path || (d.path.is_empty() && path == "/") || d.path == "/*"
                })
                && d.query.iter().all(|item| has_item(parsed.query().unwrap_or_default(), item))
        };
        let document = self.documents.iter().any(is_answer_to);
        let tokens = self.tokens.iter().filter(|(_, answer)| is_answer_to(answer));
        let tokens = tokens.map(|(name, _)| name.as_str()).collect();
        let of_place = self.tokens.iter().filter(|(_, answer)| answer.network == grant.name);
        let of_place = of_place.map(|(name, _)| name.as_str()).collect();
        Ok(Passed { url: parsed, grant, document, tokens, of_place })
    }
}

impl Settings {
    /// The URLs that the operator typed.
    fn typed_urls(&self, manifest: &Manifest) -> impl Iterator<Item = Url> {
        let urls = manifest.settings.iter().filter(|(_, setting)| setting.kind == SettingType::Url);
        let typed = urls.filter(|(name, _)| self.typed.contains(*name));
        typed.filter_map(|(name, _)| Url::parse(self.values.get(name)?).ok())
    }
}

/// Whether a URL leads to the host and port that the operator typed, or to a name below that host.
fn is_host_of(url: &Url, typed: &Url) -> bool {
    let below = || match (url.host(), typed.host()) {
        (Some(Host::Domain(host)), Some(Host::Domain(typed))) => {
            host.strip_suffix(typed).is_some_and(|rest| rest.ends_with('.'))
        }
        _ => false,
    };
    url.port_or_known_default() == typed.port_or_known_default() && (url.host() == typed.host() || below())
}

/// Whether a query has that item and no other of its name, however it is written.
fn has_item(query: &str, item: &str) -> bool {
    let decoded = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    let name = |item: &str| decoded(item.split('=').next().unwrap_or_default());
    let mut same = query.split('&').filter(|other| name(other) == name(item));
    same.next() == Some(item) && same.next().is_none()
}

fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(ip.into()),
        Host::Domain(_) => None,
    }
}

/// Whether `path` is `place`, with or without a slash at its end.
fn is_at(place: &str, path: &str) -> bool {
    path.strip_suffix('/').unwrap_or(path) == place || path == place
}

/// Whether `path` is `prefix` or below it, by whole segments.
fn below(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a server that decodes slashes or dots early would climb.
fn has_dot_segments(path: &str) -> bool {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    decoded.split(['/', '\\']).any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(endpoint: Option<&str>, addressing: &str) -> Gate {
        let manifest =
            Manifest::parse(include_bytes!("../../../connectors/s3/connector.toml")).expect("the manifest");
        let mut given = BTreeMap::from([
            ("bucket".to_owned(), "b".to_owned()),
            ("addressing".to_owned(), addressing.to_owned()),
        ]);
        given.extend(endpoint.map(|e| ("endpoint".to_owned(), e.to_owned())));
        Gate::new(&manifest, &manifest.resolve(&given).expect("settings"), &BTreeMap::new(), &BTreeMap::new())
            .expect("a gate")
    }

    #[test]
    fn only_the_granted_host_port_and_path_pass() {
        let gate = gate(Some("http://127.0.0.1:9000"), "path");
        for good in ["http://127.0.0.1:9000/b", "http://127.0.0.1:9000/b/k", "http://127.0.0.1:9000/b/a%2Fb"]
        {
            assert!(gate.check("GET", good).is_ok(), "{good}");
        }
        for bad in [
            "http://127.0.0.1:9001/b/k",
            "https://127.0.0.1:9000/b/k",
            "http://127.0.0.2:9000/b/k",
            "http://127.0.0.1:9000/bb/k",
            "http://127.0.0.1:9000/",
            "http://127.0.0.1:9000/b/../other/k",
            "http://127.0.0.1:9000/b/%2e%2e/k",
            "http://127.0.0.1:9000/b/..%2Fk",
            "http://127.0.0.1:9000/b/%2E%2E%5Ck",
            "http://user@127.0.0.1:9000/b/k",
            "http://127.0.0.1:9000@evil.example/b/k",
            "http://127.0.0.1:9000/b/k#f",
            "HTTP://127.0.0.1:9000/b/k",
            "http://0x7f.1:9000/b/k",
            "file:///etc/passwd",
            "b/k",
        ] {
            assert!(gate.check("GET", bad).is_err(), "{bad}");
        }
        for method in ["TRACE", "CONNECT", "get", "GET / HTTP/1.1\r\nx:"] {
            assert!(gate.check(method, "http://127.0.0.1:9000/b/k").is_err(), "{method:?}");
        }
    }

    /// The endpoint was typed, but it is the manifest that gives the host: no private address by that.
    #[test]
    fn a_typed_setting_opens_its_own_host_and_no_other() {
        let text = std::str::from_utf8(include_bytes!("../../../connectors/s3/connector.toml")).unwrap();
        let typed = |url: &str| {
            let manifest = Manifest::parse(text.replace("{endpoint}/{bucket}", url).as_bytes()).unwrap();
            let given = [("bucket", "b"), ("endpoint", "http://store.example:9000")];
            let given = given.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
            let gate =
                Gate::new(&manifest, &manifest.resolve(&given).unwrap(), &BTreeMap::new(), &BTreeMap::new())
                    .unwrap();
            gate.grants()[0].typed
        };
        for own in ["{endpoint}/x", "{endpoint.scheme}://b.{endpoint.authority}", "http://store.example:9000"]
        {
            assert!(typed(own), "{own}");
        }
        for other in [
            "{endpoint.scheme}://169.254.169.254",
            "{endpoint.scheme}://x.evil.example:9000",
            "{endpoint.scheme}://evil{endpoint.authority}",
            "{endpoint.scheme}://store.example:9001",
        ] {
            assert!(!typed(other), "{other}");
        }
    }

    #[test]
    fn only_what_the_manifest_calls_a_document_is_one() {
        let gate = gate(Some("http://h:9000"), "path");
        let document = |method: &str, url: &str| gate.check(method, url).unwrap().document;
        assert!(document("GET", "http://h:9000/b?list-type=2&prefix=x"));
        assert!(document("GET", "http://h:9000/b/?list-type=2"));
        assert!(!document("GET", "http://h:9000/b/k?list-type=2"));
        assert!(!document("GET", "http://h:9000/b//?list-type=2"), "the object /");
        assert!(!document("GET", "http://h:9000/b?prefix=list-type=2"));
        assert!(!document("POST", "http://h:9000/b?list-type=2"));
    }

    #[test]
    fn the_bucket_is_the_host_with_virtual_addressing() {
        let gate = gate(None, "virtual");
        assert!(gate.check("PUT", "https://b.s3.us-east-1.amazonaws.com/k").is_ok());
        assert!(gate.check("PUT", "https://other.s3.us-east-1.amazonaws.com/k").is_err());
        assert!(gate.grants_authority("b.s3.us-east-1.amazonaws.com"));
        assert!(!gate.grants_authority("s3.us-east-1.amazonaws.com"));
        assert!(!gate.grants()[0].typed);
    }
}
