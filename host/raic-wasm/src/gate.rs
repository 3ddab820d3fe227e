//! The one gate to the network. It decides which requests may leave, and which answers are
//! documents.
//!
//! **Invariant:** the URL that is judged here is the URL that is sent, byte for byte, and redirects
//! are never followed. Host names are judged here; the addresses to which they resolve are judged
//! in [`crate::client`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use url::{Host, Url};

use crate::{
    ConnectorError, Manifest,
    address::is_public,
    manifest::{Document, SettingType, Settings, domain, expand, holds, is_plain, learned_in},
};

/// A place to which a connector may send requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The manifest's name of the network.
    pub name: String,
    /// The URL's scheme: `http` or `https`.
    pub scheme: String,
    /// Host name or address, as it stands in a URL.
    pub host: String,
    /// Whether any host below the domain `host` is granted. The host itself is not.
    pub below: bool,
    /// The port, also if it is the scheme's default.
    pub port: u16,
    /// The path with which every request's path begins, by whole segments. An empty path grants
    /// all.
    pub path: String,
    /// Whether only `path` itself is granted, and nothing below it.
    pub exact: bool,
    /// The HTTP methods that are granted; any method if the set is empty.
    pub methods: BTreeSet<String>,
    /// Whether the operator typed the host, so that it may have a private address.
    pub typed: bool,
}

/// All that one cloud's connector may reach.
pub(crate) struct Gate {
    grants: Vec<Grant>,
    documents: Vec<Document>,
    /// The answers to POST requests that are objects.
    objects: Vec<Document>,
    /// The answers that hold a token, with the token's name.
    tokens: Vec<(String, Document)>,
}

/// A request that the gate has permitted.
#[derive(Debug)]
pub(crate) struct Passed<'a> {
    pub(crate) url: Url,
    pub(crate) grant: &'a Grant,
    /// Whether the guest may read a 2xx answer.
    pub(crate) document: bool,
    /// Whether an answer of status 200 or 206 is an object or a part of one.
    pub(crate) object: bool,
    /// The tokens that a 2xx answer to this request holds.
    pub(crate) tokens: Vec<&'a str>,
    /// Every token that any answer from this network may hold. It is a wider list than `tokens`,
    /// because a service may accept requests for a login that the manifest does not list.
    pub(crate) network_tokens: Vec<&'a str>,
}

impl Gate {
    /// Makes the gate of a cloud: fills its settings into the manifest's networks.
    ///
    /// `plain` has the readable parts of credentials; a URL in them counts as typed. `learned` has
    /// the endpoints that the operator pinned. A network whose endpoint is not pinned is not
    /// granted yet. A network whose endpoint has several pins has a grant for each.
    pub(crate) fn new(
        manifest: &Manifest,
        settings: &Settings,
        plain: &BTreeMap<String, String>,
        learned: &Pins,
    ) -> Result<Self, ConnectorError> {
        let mut values = settings.values.clone();
        values.extend(plain.clone());
        let mut grants = Vec::new();
        for network in manifest
            .network
            .iter()
            .filter(|n| holds(&n.when, &settings.values))
        {
            let wrong =
                |why| ConnectorError::Manifest(format!("network {:?}: {why}", network.name));
            for (values, below) in
                with_learned(manifest, network, &values, learned).map_err(wrong)?
            {
                let text = expand(&network.url, &values).map_err(wrong)?;
                let url = Url::parse(&text).ok().filter(is_plain);
                let url = url.ok_or_else(|| {
                    wrong(format!("{text:?} is not a URL of scheme, host and path"))
                })?;
                let pinned = learned.values().flatten().chain(plain.values());
                let pinned = pinned.filter_map(|url| Url::parse(url).ok());
                let mut by_operator = settings.typed_urls(manifest).chain(pinned);
                let typed = match below {
                    // The operator has typed the domain and its port if the template is a setting
                    // that was typed.
                    Some(template) => settings.typed_in(template),
                    None => by_operator.any(|by_operator| is_host_of(&url, &by_operator)),
                };
                grants.push(Grant {
                    name: network.name.clone(),
                    scheme: url.scheme().to_owned(),
                    host: url.host_str().unwrap_or_default().to_owned(),
                    below: below.is_some(),
                    port: url.port_or_known_default().unwrap_or_default(),
                    path: url.path().trim_end_matches('/').to_owned(),
                    exact: network.exact,
                    methods: network.methods.clone(),
                    typed,
                });
            }
        }
        let tokens = manifest.tokens.iter();
        let tokens = tokens.flat_map(|(name, t)| {
            t.answers
                .iter()
                .map(move |answer| (name.clone(), answer.clone()))
        });
        let (documents, objects) = (manifest.documents.clone(), manifest.objects.clone());
        Ok(Self {
            grants,
            documents,
            objects,
            tokens: tokens.collect(),
        })
    }

    /// Whether a URL's scheme, host and port are those of a grant that the operator typed. The
    /// scheme counts: if a service moved its https endpoint to http, tokens would be sent in clear.
    pub(crate) fn names_host_of(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| {
            self.grants.iter().any(|g| {
                g.typed
                    && !g.below
                    && g.scheme == url.scheme()
                    && Some(g.host.as_str()) == url.host_str()
                    && Some(g.port) == url.port_or_known_default()
            })
        })
    }

    /// Returns all grants, also for people to see.
    pub(crate) fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Returns the URL of a network, or `None` if it does not have exactly one.
    pub(crate) fn url_of(&self, network: &str) -> Option<String> {
        let mut grants = self.of_network(network);
        let (grant, other) = (grants.next()?, grants.next());
        (other.is_none() && !grant.below).then(|| format!("{}{}", grant.origin(), grant.path))
    }

    /// Returns the grants of a network.
    pub(crate) fn of_network(&self, network: &str) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(move |g| g.name == network)
    }

    /// Checks that an endpoint's URL lies below its domain, so that it may be used without being
    /// pinned.
    ///
    /// # Errors
    /// One line that says what does not hold.
    pub(crate) fn lies_below(url: &Url, domain: &str, port: u16) -> Result<(), String> {
        let is_below = url.host_str().is_some_and(|host| is_below(host, domain));
        if url.scheme() == "https" && is_below && url.port_or_known_default() == Some(port) {
            return Ok(());
        }
        Err(format!("{url} is not an https host below {domain}"))
    }

    /// Judges a request.
    ///
    /// # Errors
    /// One line that says what was refused and what is granted.
    pub(crate) fn check(&self, method: &str, url: &str) -> Result<Passed<'_>, String> {
        let is_word =
            (1..=32).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_uppercase());
        // TRACE returns what was sent to the server, and CONNECT reaches hosts behind it.
        if !is_word || matches!(method, "TRACE" | "CONNECT") {
            return Err(format!("the method {method:?} is not allowed"));
        }
        let parsed = Url::parse(url).map_err(|e| format!("{url:?} is not a URL: {e}"))?;
        // An empty path is always sent as `/` (RFC 9112 section 3.2.1).
        if parsed.as_str() != url && parsed.as_str().strip_suffix('/') != Some(url) {
            return Err(format!(
                "{url:?} is not written as a URL parser writes it ({parsed})"
            ));
        }
        if !parsed.username().is_empty()
            || parsed.password().is_some()
            || parsed.fragment().is_some()
        {
            return Err(format!(
                "a URL with user, password or fragment is not sent: {url:?}"
            ));
        }
        if has_dot_segments(parsed.path()) {
            return Err(format!("{url:?} has dot segments"));
        }
        let path_length = |g: &Grant| g.rest(&parsed, method).map(|_| g.path.len());
        // Of several grants the one with the longest path counts, and of these the first.
        let matching = self
            .grants
            .iter()
            .filter_map(|g| Some((path_length(g)?, g)));
        let best = matching.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let (_, grant) = best.ok_or_else(|| {
            let granted: Vec<_> = self.grants.iter().map(ToString::to_string).collect();
            format!(
                "{method} {url} is not granted; granted: {}",
                granted.join(", ")
            )
        })?;
        let rest = grant.rest(&parsed, method).unwrap_or_default();
        if !grant.typed && literal_address(&parsed).is_some_and(|ip| !is_public(ip)) {
            return Err(format!(
                "{url} is a private address that the operator did not type"
            ));
        }
        let is_answer_to = |d: &Document| {
            d.network == grant.name
                && d.method == method
                // `/bucket/` is the bucket, but `/bucket//` is an object.
                && (rest == d.path || (d.path.is_empty() && rest == "/") || d.path == "/*")
                && d.query.iter().all(|item| has_item(parsed.query().unwrap_or_default(), item))
        };
        let document = self.documents.iter().any(is_answer_to);
        let object = method == "GET" || self.objects.iter().any(is_answer_to);
        let tokens = self
            .tokens
            .iter()
            .filter(|(_, answer)| is_answer_to(answer));
        let tokens = tokens.map(|(name, _)| name.as_str()).collect();
        let network_tokens = self
            .tokens
            .iter()
            .filter(|(_, answer)| answer.network == grant.name);
        let network_tokens = network_tokens.map(|(name, _)| name.as_str()).collect();
        Ok(Passed {
            url: parsed.clone(),
            grant,
            document,
            object,
            tokens,
            network_tokens,
        })
    }
}

impl Grant {
    /// Returns scheme, host and port, as a URL parser writes them.
    pub(crate) fn origin(&self) -> String {
        let default = if self.scheme == "https" { 443 } else { 80 };
        let port = if self.port == default {
            String::new()
        } else {
            format!(":{}", self.port)
        };
        format!("{}://{}{port}", self.scheme, self.host)
    }

    fn is_host(&self, host: &str) -> bool {
        match self.below {
            true => is_below(host, &self.host),
            false => host == self.host,
        }
    }

    /// Returns the part of a URL's path that follows this grant's path. Returns `None` if the grant
    /// does not permit a request by `method` to the URL.
    fn rest<'u>(&self, url: &'u Url, method: &str) -> Option<&'u str> {
        let here = self.scheme == url.scheme()
            && url.host_str().is_some_and(|host| self.is_host(host))
            && Some(self.port) == url.port_or_known_default()
            && (self.methods.is_empty() || self.methods.contains(method));
        let rest = if here {
            below(&self.path, url.path())
        } else {
            None
        };
        rest.filter(|rest| !self.exact || matches!(*rest, "" | "/"))
    }
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = if self.below { "*." } else { "" };
        let methods: Vec<_> = self.methods.iter().map(String::as_str).collect();
        let methods = if methods.is_empty() {
            String::new()
        } else {
            format!("{} ", methods.join("|"))
        };
        write!(
            f,
            "{methods}{}://{host}{}:{}{}",
            self.scheme, self.host, self.port, self.path
        )
    }
}

/// The URLs of endpoints that the operator pinned, by the manifest's names.
pub type Pins = BTreeMap<String, Vec<String>>;

/// Returns a network's values once for each combination of its endpoints' pins, with the template
/// of an endpoint that has `below`. The list is empty if an endpoint is not pinned.
#[allow(
    clippy::type_complexity,
    reason = "a list of pairs, taken apart at once"
)]
fn with_learned<'m>(
    manifest: &'m Manifest,
    network: &crate::Network,
    values: &BTreeMap<String, String>,
    learned: &Pins,
) -> Result<Vec<(BTreeMap<String, String>, Option<&'m str>)>, String> {
    let mut ways = vec![(values.clone(), None)];
    for name in learned_in(&network.url) {
        let template = manifest
            .endpoints
            .get(name)
            .and_then(|e| e.below.as_deref());
        let urls = match template {
            Some(template) => {
                let text = expand(template, values)?;
                domain(&text)?;
                vec![format!("https://{text}")]
            }
            None => learned.get(name).cloned().unwrap_or_default(),
        };
        ways = ways
            .iter()
            .flat_map(|(values, below)| {
                urls.iter().map(move |url| {
                    let mut values = values.clone();
                    values.insert(format!("learned:{name}"), url.clone());
                    (values, template.or(*below))
                })
            })
            .collect();
    }
    Ok(ways)
}

impl Settings {
    /// Whether a template is exactly one setting that the operator typed.
    fn typed_in(&self, template: &str) -> bool {
        let name = template
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        name.is_some_and(|name| {
            self.typed
                .contains(name.strip_suffix(".authority").unwrap_or(name))
        })
    }

    /// Returns the URLs that the operator typed.
    fn typed_urls(&self, manifest: &Manifest) -> impl Iterator<Item = Url> {
        let urls = manifest
            .settings
            .iter()
            .filter(|(_, setting)| setting.kind == SettingType::Url);
        let typed = urls.filter(|(name, _)| self.typed.contains(*name));
        typed.filter_map(|(name, _)| Url::parse(self.values.get(name)?).ok())
    }
}

/// Whether a host lies below a domain and has the same owner. Below `amazonaws.com`, which has one
/// owner, lie names that anybody can have: `s3.amazonaws.com` is in the private section of the list
/// of public suffixes.
fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        && psl::domain_str(host) == psl::domain_str(domain)
}

/// Whether a URL has the scheme and port that the operator typed, and the host or a name below it.
fn is_host_of(url: &Url, typed: &Url) -> bool {
    let below = || match (url.host(), typed.host()) {
        (Some(Host::Domain(host)), Some(Host::Domain(typed))) => host
            .strip_suffix(typed)
            .is_some_and(|rest| rest.ends_with('.')),
        _ => false,
    };
    url.scheme() == typed.scheme()
        && url.port_or_known_default() == typed.port_or_known_default()
        && (url.host() == typed.host() || below())
}

/// Whether a query has that item, and no other item of the same name in any escaping.
fn has_item(query: &str, item: &str) -> bool {
    let decoded = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced)
            .decode_utf8_lossy()
            .into_owned()
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

/// Returns the part of `path` below `prefix`. Whole segments are compared, in any escaping, since a
/// container `tenant:a` may be sent as `tenant%3Aa`. A segment with an escaped slash equals none of
/// the prefix.
fn below<'p>(prefix: &str, path: &'p str) -> Option<&'p str> {
    let decoded = |segment: &str| {
        let bytes: Vec<u8> = percent_encoding::percent_decode_str(segment).collect();
        (!bytes.contains(&b'/') && !bytes.contains(&b'\\')).then_some(bytes)
    };
    let mut rest = path;
    for wanted in prefix.split('/').skip(1) {
        let after = rest.strip_prefix('/')?;
        let end = after.find('/').unwrap_or(after.len());
        if decoded(&after[..end])? != decoded(wanted)? {
            return None;
        }
        rest = &after[end..];
    }
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Whether a server could leave the path's folder. Some servers decode slashes or dots early, or
/// twice; those in Java take `..;x` for `..`.
fn has_dot_segments(path: &str) -> bool {
    let once = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let twice = percent_encoding::percent_decode_str(&once).decode_utf8_lossy();
    let climbs = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    [path, &*once, &*twice]
        .iter()
        .any(|text| text.split(['/', '\\']).any(climbs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(endpoint: Option<&str>, addressing: &str) -> Gate {
        let manifest = Manifest::parse(include_bytes!("../../../connectors/s3/connector.toml"))
            .expect("the manifest");
        let mut given = BTreeMap::from([
            ("bucket".to_owned(), "b".to_owned()),
            ("addressing".to_owned(), addressing.to_owned()),
        ]);
        given.extend(endpoint.map(|e| ("endpoint".to_owned(), e.to_owned())));
        Gate::new(
            &manifest,
            &manifest.resolve(&given).expect("settings"),
            &BTreeMap::new(),
            &BTreeMap::new(),
        )
        .expect("a gate")
    }

    #[test]
    fn only_the_granted_host_port_and_path_pass() {
        let gate = gate(Some("http://127.0.0.1:9000"), "path");
        for good in [
            "http://127.0.0.1:9000/b",
            "http://127.0.0.1:9000/b/k",
            "http://127.0.0.1:9000/b/a%2Fb",
        ] {
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
            "http://127.0.0.1:9000/b/..;/other/k",
            "http://127.0.0.1:9000/b/..;x=1/other/k",
            "http://127.0.0.1:9000/b/%252e%252e/k",
            "http://127.0.0.1:9000/b%2Fk",
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
            assert!(
                gate.check(method, "http://127.0.0.1:9000/b/k").is_err(),
                "{method:?}"
            );
        }
    }

    /// The endpoint was typed, but the manifest names another host, which so gets no private
    /// address.
    #[test]
    fn a_typed_setting_opens_its_own_host_and_no_other() {
        let text =
            std::str::from_utf8(include_bytes!("../../../connectors/s3/connector.toml")).unwrap();
        let typed = |url: &str| {
            let manifest =
                Manifest::parse(text.replace("{endpoint}/{bucket}", url).as_bytes()).unwrap();
            let given = [("bucket", "b"), ("endpoint", "http://store.example:9000")];
            let given = given.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
            let gate = Gate::new(
                &manifest,
                &manifest.resolve(&given).unwrap(),
                &BTreeMap::new(),
                &BTreeMap::new(),
            )
            .unwrap();
            gate.grants()[0].typed
        };
        for own in [
            "{endpoint}/x",
            "{endpoint.scheme}://b.{endpoint.authority}",
            "http://store.example:9000",
        ] {
            assert!(typed(own), "{own}");
        }
        for other in [
            "{endpoint.scheme}://169.254.169.254",
            "{endpoint.scheme}://x.evil.example:9000",
            "{endpoint.scheme}://evil{endpoint.authority}",
            "{endpoint.scheme}://store.example:9001",
            "https://store.example:9000",
        ] {
            assert!(!typed(other), "{other}");
        }
    }

    #[test]
    fn a_container_is_itself_however_it_is_escaped() {
        for (bucket, sent) in [
            ("t:b", ["t%3Ab", "t:b"]),
            ("$web", ["%24web", "$web"]),
            ("a+b@c", ["a%2Bb%40c", "a+b@c"]),
            ("ü b", ["%C3%BC%20b", "%c3%bc%20b"]),
        ] {
            let manifest =
                Manifest::parse(include_bytes!("../../../connectors/s3/connector.toml")).unwrap();
            let given = [
                ("bucket", bucket),
                ("endpoint", "https://h"),
                ("addressing", "path"),
            ];
            let given = given.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
            let settings = manifest.resolve(&given).unwrap();
            let gate = Gate::new(&manifest, &settings, &BTreeMap::new(), &BTreeMap::new()).unwrap();
            for segment in sent {
                assert!(
                    gate.check("GET", &format!("https://h/{segment}/k")).is_ok(),
                    "{segment}"
                );
                assert!(
                    gate.check("GET", &format!("https://h/{segment}")).is_ok(),
                    "{segment}"
                );
            }
            assert!(gate.check("GET", "https://h/other/k").is_err());
        }
    }

    #[test]
    fn only_https_hosts_below_a_domain_pass_for_an_endpoint_that_is_any() {
        let text = "name = \"x\"\nversion = \"1\"\ndescription = \"d\"\nlicense = \"MIT\"\ncontract = \"0.1.0\"\n\
            [[network]]\nname = \"pod\"\nurl = \"{learned:up}/b2api\"\nmethods = [\"POST\"]\n\
            [endpoints.up]\nhelp = \"h\"\nbelow = \"backblazeb2.com\"\n";
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        let settings = manifest.resolve(&BTreeMap::new()).unwrap();
        let gate = Gate::new(&manifest, &settings, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        assert!(
            gate.check("POST", "https://pod-1.backblazeb2.com/b2api/x")
                .is_ok()
        );
        for bad in [
            "https://backblazeb2.com/b2api/x",
            "https://evilbackblazeb2.com/b2api/x",
            "http://pod-1.backblazeb2.com/b2api/x",
            "https://pod-1.backblazeb2.com:8443/b2api/x",
            "https://pod-1.backblazeb2.com.evil.example/b2api/x",
            "https://pod-1.backblazeb2.com/other",
        ] {
            assert!(gate.check("POST", bad).is_err(), "{bad}");
        }
        assert!(gate.grants()[0].below && !gate.grants()[0].typed);
    }

    #[test]
    fn only_what_the_manifest_calls_a_document_is_one() {
        let gate = gate(Some("http://h:9000"), "path");
        let document = |method: &str, url: &str| gate.check(method, url).unwrap().document;
        assert!(document("GET", "http://h:9000/b?list-type=2&prefix=x"));
        assert!(document("GET", "http://h:9000/b/?list-type=2"));
        assert!(!document("GET", "http://h:9000/b/k?list-type=2"));
        assert!(
            !document("GET", "http://h:9000/b//?list-type=2"),
            "the object /"
        );
        assert!(!document("GET", "http://h:9000/b?prefix=list-type=2"));
        assert!(!document("POST", "http://h:9000/b?list-type=2"));
    }

    /// Most small WebDAV servers share the root of the server.
    #[test]
    fn a_server_of_which_the_root_is_granted_has_its_root() {
        let text = "name = \"x\"\nversion = \"1\"\ndescription = \"d\"\nlicense = \"MIT\"\ncontract = \"0.1.0\"\n\
            [settings.url]\ntype = \"url\"\nhelp = \"h\"\n[[network]]\nname = \"n\"\nurl = \"{url}\"\n";
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        for typed in ["http://127.0.0.1:9302", "http://127.0.0.1:9302/"] {
            let given = BTreeMap::from([("url".to_owned(), typed.to_owned())]);
            let settings = manifest.resolve(&given).unwrap();
            let gate = Gate::new(&manifest, &settings, &BTreeMap::new(), &BTreeMap::new()).unwrap();
            for url in [
                "http://127.0.0.1:9302",
                "http://127.0.0.1:9302/",
                "http://127.0.0.1:9302/a/b",
            ] {
                assert!(gate.check("PROPFIND", url).is_ok(), "{typed} {url}");
            }
        }
    }

    #[test]
    fn the_bucket_is_the_host_with_virtual_addressing() {
        let gate = gate(None, "virtual");
        assert!(
            gate.check("PUT", "https://b.s3.us-east-1.amazonaws.com/k")
                .is_ok()
        );
        assert!(
            gate.check("PUT", "https://other.s3.us-east-1.amazonaws.com/k")
                .is_err()
        );
        assert!(
            gate.check("PUT", "https://s3.us-east-1.amazonaws.com/k")
                .is_err()
        );
        assert!(!gate.grants()[0].typed);
    }
}
