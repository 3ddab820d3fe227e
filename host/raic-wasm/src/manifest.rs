//! The manifest: what a connector is, which settings and secrets it gets, and what it may reach.
//!
//! The build embeds `connector.toml` in the component as a custom section. So it can be read and
//! shown without running the connector. Unknown fields are errors, because a misspelt permission
//! must not vanish.

mod check;
mod settings;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use url::Url;

pub use settings::Settings;
pub(crate) use settings::{expand, holds, learned_in};

/// Linear memory of all calls of one cloud together, in MiB, and so the most of one call.
pub const MEMORY_MIB: u32 = 64;

fn four() -> u32 {
    4
}

/// What a connector declares about itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name by which clouds name the connector: 1 to 64 lower-case letters, digits and `-`.
    pub name: String,
    /// The connector's own version.
    pub version: String,
    /// What the connector is, in one line for a person.
    pub description: String,
    /// The connector's licence, as an SPDX expression.
    pub license: String,
    /// The version of the contract for which the connector was written.
    pub contract: String,
    /// Linear memory of a call in MiB, 1 to 64. The memory of an interpreter in the connector
    /// counts, too. All calls of a cloud share [`MEMORY_MIB`]; a call that finds no room waits.
    #[serde(default = "four")]
    pub memory_mib: u32,
    /// The settings that a cloud may give.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
    /// The documents with which the connector signs in.
    #[serde(default)]
    pub credentials: BTreeMap<String, Credential>,
    /// The places to which the connector may send requests.
    pub network: Vec<Network>,
    /// The answers, besides errors, that the connector may read.
    #[serde(default)]
    pub documents: Vec<Document>,
    /// The answers to POST requests that are objects. The connector hands their bytes on and never
    /// reads them.
    #[serde(default)]
    pub objects: Vec<Document>,
    /// The secrets that answers to logins hold.
    #[serde(default)]
    pub tokens: BTreeMap<String, Token>,
    /// The names of logins, whose results are kept from call to call. A login may need the logins
    /// that stand before it.
    #[serde(default)]
    pub logins: Vec<String>,
    /// Places in the network that are known only after a login, for example from a catalogue. A
    /// network's URL names one as `{learned:NAME}`.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Endpoint>,
}

/// A setting that a cloud may give.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The values that the setting takes.
    #[serde(rename = "type")]
    pub kind: SettingType,
    /// Whether a cloud must give the setting.
    #[serde(default)]
    pub required: bool,
    /// The value if a cloud gives none. It may name other settings, as in `{region}`.
    pub default: Option<String>,
    /// The possible values, if the setting is a choice.
    #[serde(default)]
    pub choices: Vec<String>,
    /// What the setting means, in one line for a person.
    pub help: String,
}

/// The values that a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SettingType {
    /// Any text without control characters, of 1 to 4096 bytes.
    Text,
    /// An `http` or `https` URL without user, query and fragment. The connector gets it normalised
    /// and without a slash at its end.
    Url,
    /// One of the values in `choices`.
    Choice,
}

/// A document with secrets, from a file, the environment or a command.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// What the document is, in one line for a person.
    pub help: String,
    /// The document is used only if these settings have these values.
    #[serde(default)]
    pub when: BTreeMap<String, Values>,
    /// The values that the document holds, by name.
    pub parts: BTreeMap<String, Part>,
}

/// One value in a credential's document.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The value's place in the document: `text` (the whole document, trimmed) or `json:/pointer`
    /// (RFC 6901).
    pub from: String,
    /// Whether the value is a secret, of which the connector only gets a handle.
    #[serde(default)]
    pub secret: bool,
    /// Whether the document may lack the value.
    #[serde(default)]
    pub optional: bool,
    /// How the bytes of a key for signing are written. Without it the key is the text itself.
    pub encoding: Option<Encoding>,
    /// The signatures that may be made with the secret.
    #[serde(default)]
    pub sign: Vec<Signing>,
    /// The places to which the secret may be sent in clear.
    #[serde(default)]
    pub send: Vec<Sending>,
}

/// How a key's bytes are written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// Base64 of RFC 4648 section 4.
    Base64,
}

/// A secret that an answer holds. The guest gets a handle of it, and sees `***` in the answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The requests whose answers hold the token.
    pub answers: Vec<Document>,
    /// Every place of the token in the answer: `header:NAME`, `json:/pointer` (RFC 6901), `xml:A/B`
    /// (below the root) or `text`.
    pub from: Vec<String>,
    /// Whether a successful answer may lack the token.
    #[serde(default)]
    pub optional: bool,
    /// The signatures that may be made with the secret.
    #[serde(default)]
    pub sign: Vec<Signing>,
    /// The places to which the secret may be sent in clear.
    #[serde(default)]
    pub send: Vec<Sending>,
}

/// An endpoint that the service names. The operator pins it when the cloud is added, or approves a
/// domain below which it lies.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// What the endpoint is, in one line for a person.
    pub help: String,
    /// A domain, optionally with a port; settings stand in it as `{x}`. Any https host below the
    /// domain is permitted, and none is pinned.
    pub below: Option<String>,
    /// Whether the service may name several endpoints. The operator pins each of them.
    #[serde(default)]
    pub several: bool,
}

/// A kind of signature, and the messages that may be signed by it.
///
/// If a key signed any message of a connector, the connector could make credentials that outlive
/// its approval. An example is a shared access signature for a whole account. So only SigV4 signs
/// any request, because its signatures are bound to a granted host. The other kinds name the shape
/// of the message, which the host checks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "form", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Signing {
    /// Signature Version 4 of a canonical request, for a granted host.
    Sigv4,
    /// Azure's SharedKey, by HMAC. It signs a request to `network`, made now, on behalf of
    /// `account`.
    AzureSharedKey {
        /// The account's name. Settings stand in it as `{x}`.
        account: String,
        /// The network to which the request goes.
        network: String,
    },
    /// A JSON Web Token as in RFC 7523, signed by RSASSA-PKCS1-v1_5 with SHA-256 and a private key
    /// in PEM (PKCS #8). Its audience is the URL of `network`, and it is issued now.
    Jwt {
        /// The network whose URL is the audience.
        network: String,
        /// The scopes that may stand in the claim `scope`.
        #[serde(default)]
        scopes: BTreeSet<String>,
        /// Longest lifetime of the token in seconds, 1 to 3600.
        lifetime_s: u64,
    },
}

impl Signing {
    /// Returns in words what may be signed.
    pub fn in_words(&self) -> String {
        match self {
            Self::Sigv4 => "signs requests to granted hosts (SigV4)".to_owned(),
            Self::AzureSharedKey { account, network } => {
                format!("signs requests of account {account} to {network:?} (SharedKey)")
            }
            Self::Jwt {
                network,
                scopes,
                lifetime_s,
            } => {
                let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
                format!(
                    "signs tokens of {lifetime_s} s for {network:?}, with the scopes {}",
                    scopes.join(" ")
                )
            }
        }
    }

    /// Returns the network that the signature names.
    fn network(&self) -> Option<&String> {
        match self {
            Self::Sigv4 => None,
            Self::AzureSharedKey { network, .. } | Self::Jwt { network, .. } => Some(network),
        }
    }
}

/// A place to which a secret may be sent in clear.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sending {
    /// The name of the network to which the secret may be sent.
    pub network: String,
    /// The header that holds the secret, in lower case. Without it the secret goes into the query
    /// or the content.
    pub header: Option<String>,
    /// The form in which the secret is sent. In a header: `raw`, or `basic` for base64(user:value).
    /// In the query: `raw`, as a whole item between `&`, or `query`, percent-encoded. In the
    /// content: `json`, inside the quotes of a text, or `form`, percent-encoded.
    pub form: String,
}

/// A place in the network: a scheme, host, port and optionally a path prefix.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The name by which documents, sendings and signatures name the network.
    pub name: String,
    /// The network is granted only if these settings have these values.
    #[serde(default)]
    pub when: BTreeMap<String, Values>,
    /// The URL. In it `{x}` is a setting, and `{x.scheme}` and `{x.authority}` are parts of a
    /// setting that is a URL.
    pub url: String,
    /// Whether only that path is granted, and nothing below it.
    #[serde(default)]
    pub exact: bool,
    /// The HTTP methods of requests. If none is named, all are granted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub methods: BTreeSet<String>,
}

/// The value that a setting must have, or a list of several possible values.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Values {
    /// This value.
    One(String),
    /// Any of these values.
    AnyOf(Vec<String>),
}

impl Values {
    fn all(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::One(one) => std::slice::from_ref(one).iter(),
            Self::AnyOf(values) => values.iter(),
        }
    }

    fn has(&self, value: &str) -> bool {
        self.all().any(|one| one == value)
    }
}

impl std::fmt::Display for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(one) => f.write_str(one),
            Self::AnyOf(values) => f.write_str(&values.join(" or ")),
        }
    }
}

/// A request whose answer the guest may read, up to a limit, because it is not the content of an
/// object.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The name of the network to which the request goes.
    pub network: String,
    /// The request's HTTP method.
    pub method: String,
    /// The exact path that follows the network's. What lies below a container are objects, and not
    /// documents. `/*` stands for all paths below. It is permitted only if no object can come by
    /// it. That is so for PROPFIND, which answers with properties (RFC 4918 section 9.1), and for
    /// POST to a network without `objects` whose only method it is.
    #[serde(default)]
    pub path: String,
    /// Items that the query must have, such as `list-type=2`. An item counts only if its name is in
    /// the query once.
    #[serde(default)]
    pub query: Vec<String>,
}

/// Whether a URL is an `http` or `https` URL of scheme, host, port and path, and nothing else.
pub(crate) fn is_plain(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

/// Checks a domain below which any https host is granted. Returns the domain and the port.
///
/// The domain is in lower case and is not an address. It belongs to one owner, so it is not a
/// public suffix, nor the suffix of a private registry such as `github.io`. A port may follow it.
pub(crate) fn domain(text: &str) -> Result<(String, u16), String> {
    let wrong = |why: &str| {
        Err(format!(
            "{text:?} is not a domain that hosts may lie below: {why}"
        ))
    };
    let Some(url) = Url::parse(&format!("https://{text}")).ok().filter(is_plain) else {
        return wrong("it is a name such as example.com");
    };
    let Some(url::Host::Domain(host)) = url.host() else {
        return wrong("it is an address");
    };
    let port = url.port_or_known_default().unwrap_or(443);
    let canonical = if port == 443 {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    };
    if canonical != text || host.ends_with('.') {
        return wrong("it is not written as a URL parser writes it");
    }
    match psl::domain_str(host) {
        Some(_) => Ok((host.to_owned(), port)),
        None => wrong("names below it belong to many owners (it is a public suffix)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S3: &[u8] = include_bytes!("../../../connectors/s3/connector.toml");

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn defaults_may_name_other_settings() {
        let manifest = Manifest::parse(S3).unwrap();
        let settings = manifest
            .resolve(&given(&[("bucket", "b"), ("region", "eu-central-1")]))
            .unwrap();
        assert_eq!(
            settings.values["endpoint"],
            "https://s3.eu-central-1.amazonaws.com"
        );
        assert!(!settings.typed.contains("endpoint"));
    }

    #[test]
    fn urls_are_normalised_as_they_will_be_signed() {
        let manifest = Manifest::parse(S3).unwrap();
        let settings = manifest
            .resolve(&given(&[
                ("bucket", "b"),
                ("endpoint", "HTTPS://S3.Example.com:443/"),
            ]))
            .unwrap();
        assert_eq!(settings.values["endpoint"], "https://s3.example.com");
    }

    #[test]
    fn wrong_settings_are_named() {
        let manifest = Manifest::parse(S3).unwrap();
        for (wrong, pairs) in [
            ("bucket", vec![]),
            ("buckett", vec![("bucket", "b"), ("buckett", "b")]),
            (
                "endpoint",
                vec![("bucket", "b"), ("endpoint", "file:///etc/passwd")],
            ),
            (
                "endpoint",
                vec![("bucket", "b"), ("endpoint", "http://user:pw@h")],
            ),
            ("addressing", vec![("bucket", "b"), ("addressing", "dns")]),
        ] {
            let e = manifest.resolve(&given(&pairs)).unwrap_err();
            assert!(
                matches!(&e, crate::ConnectorError::Setting { name, .. } if name == wrong),
                "{e}"
            );
        }
    }

    #[test]
    fn misspelt_permissions_are_errors() {
        let text = String::from_utf8(S3.to_vec()).unwrap();
        for (from, to) in [
            (
                "sign = [{ form = \"sigv4\" }]",
                "signs = [{ form = \"sigv4\" }]",
            ),
            ("network = \"bucket\"", "network = \"other\""),
            ("name = \"s3\"", "name = \"../s3\""),
            ("name = \"s3\"", "name = \"0123abcdef\""),
            (
                "name = \"s3\"",
                "name = \"s3\"\ndescription = \"clears \\u001b[2J\"",
            ),
            (
                "name = \"s3\"",
                "name = \"s3\"\ndescription = \"turns \\u202e\"",
            ),
            (
                "from = \"json:/AccessKeyId\"",
                "from = \"yaml:/AccessKeyId\"",
            ),
        ] {
            assert!(
                Manifest::parse(text.replace(from, to).as_bytes()).is_err(),
                "{to}"
            );
        }
    }
}
