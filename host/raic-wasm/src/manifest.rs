//! The manifest: what a connector is, may be told, and may reach.
//!
//! `connector.toml`, embedded by the build as a custom section, so that it can be read and shown
//! without running the connector. Unknown fields are errors: a permission that is misspelt must not
//! vanish.

mod check;
mod settings;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use url::Url;

pub use settings::Settings;
pub(crate) use settings::{expand, holds, learned_in};

/// The linear memory of all calls of one cloud together, in MiB, and so the most of one.
pub const MEMORY_MIB: u32 = 64;

fn four() -> u32 {
    4
}

/// What a connector declares of itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What clouds name it by: lower-case letters, digits and `-`.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One line for a person.
    pub description: String,
    /// An SPDX expression.
    pub license: String,
    /// The version of the contract it was written for.
    pub contract: String,
    /// The linear memory of a call, in MiB, 1 to 64: what an interpreter carries counts too. All
    /// calls of a cloud share [`MEMORY_MIB`]; those that find no room wait.
    #[serde(default = "four")]
    pub memory_mib: u32,
    /// What a cloud may set.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
    /// The documents it signs in with.
    #[serde(default)]
    pub credentials: BTreeMap<String, Credential>,
    /// Where it may send requests.
    pub network: Vec<Network>,
    /// Which answers, besides errors, it may read.
    #[serde(default)]
    pub documents: Vec<Document>,
    /// Which answers to a POST are objects, whose bytes are handed on and never read.
    #[serde(default)]
    pub objects: Vec<Document>,
    /// The secrets that logins answer with.
    #[serde(default)]
    pub tokens: BTreeMap<String, Token>,
    /// What is kept of logins from call to call, by name. A login may need those that are listed
    /// before it.
    #[serde(default)]
    pub logins: Vec<String>,
    /// Places in the network that are known only after a login, such as from a catalogue:
    /// `{learned:NAME}` in a network's URL.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Endpoint>,
}

/// A setting of a cloud.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What values it takes.
    #[serde(rename = "type")]
    pub kind: SettingType,
    /// Whether a cloud must give it.
    #[serde(default)]
    pub required: bool,
    /// Its value where a cloud gives none; may name other settings, as `{region}`.
    pub default: Option<String>,
    /// The values of a choice.
    #[serde(default)]
    pub choices: Vec<String>,
    /// One line for a person.
    pub help: String,
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SettingType {
    /// Any text without control characters.
    Text,
    /// An `http` or `https` URL, without query; reaches the guest normalised and without trailing
    /// slash.
    Url,
    /// One of `choices`.
    Choice,
}

/// A document with secrets, from a file, the environment or a command.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// One line for a person.
    pub help: String,
    /// The settings that must have these values for it to be asked for.
    #[serde(default)]
    pub when: BTreeMap<String, Values>,
    /// What the document holds.
    pub parts: BTreeMap<String, Part>,
}

/// One value in a credential's document.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Where it is: `text` (the whole document, trimmed) or `json:/pointer` (RFC 6901).
    pub from: String,
    /// Whether the guest only gets a handle.
    #[serde(default)]
    pub secret: bool,
    /// Whether the document may lack it.
    #[serde(default)]
    pub optional: bool,
    /// How its bytes are written, where it is a key to sign with.
    pub encoding: Option<Encoding>,
    /// The signatures that may be made with it.
    #[serde(default)]
    pub sign: Vec<Signing>,
    /// Where it may be sent in clear.
    #[serde(default)]
    pub send: Vec<Sending>,
}

/// How a key's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// RFC 4648 section 4.
    Base64,
}

/// A secret that an answer holds: the guest gets a handle, and `***` in the answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The requests that are answered with it.
    pub answers: Vec<Document>,
    /// Where it is in the answer, every place: `header:NAME`, `json:/pointer` (RFC 6901), `xml:A/B`
    /// (below the root), `text`.
    pub from: Vec<String>,
    /// Whether a success may lack it.
    #[serde(default)]
    pub optional: bool,
    /// The signatures that may be made with it.
    #[serde(default)]
    pub sign: Vec<Signing>,
    /// Where it may be sent in clear.
    #[serde(default)]
    pub send: Vec<Sending>,
}

/// An endpoint that is told by the service. The operator pins it when the cloud is added, or
/// approves a domain that it lies below.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// One line for a person.
    pub help: String,
    /// A domain, optionally with a port, and settings as `{x}`: any https host below it will do,
    /// and none is pinned.
    pub below: Option<String>,
    /// Whether the service may name several, all of which are pinned.
    #[serde(default)]
    pub several: bool,
}

/// A kind of signature, and what may be signed by it.
///
/// A key that signed whatever a connector handed to the host could make credentials that outlive
/// the connector's approval, such as a shared access signature for a whole account. So only SigV4,
/// which is bound to a granted host, takes any request; the other kinds name the shape of the
/// message, which the host checks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "form", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Signing {
    /// Signature Version 4, from the canonical request on, for a granted host.
    Sigv4,
    /// Azure's SharedKey, by HMAC: a request of now to `network`, on behalf of `account`.
    AzureSharedKey {
        /// The account's name; settings as `{x}`.
        account: String,
        /// The network grant that the request goes to.
        network: String,
    },
    /// A JSON Web Token as RFC 7523 has it, by RSASSA-PKCS1-v1_5 with SHA-256 and a private key in
    /// PEM (PKCS #8): the audience is the URL of `network`, and the token is of now.
    Jwt {
        /// The network grant whose URL is the audience.
        network: String,
        /// What may stand in the claim `scope`.
        #[serde(default)]
        scopes: BTreeSet<String>,
        /// The longest lifetime, in seconds, to 3600.
        lifetime_s: u64,
    },
}

impl Signing {
    /// What may be signed, in words.
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

    /// The network grant that it names.
    fn network(&self) -> Option<&String> {
        match self {
            Self::Sigv4 => None,
            Self::AzureSharedKey { network, .. } | Self::Jwt { network, .. } => Some(network),
        }
    }
}

/// A place where a secret may be sent in clear.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sending {
    /// The name of a network grant.
    pub network: String,
    /// The header, in lower case; none where it goes into the query or the content.
    pub header: Option<String>,
    /// In a header: `raw`, or `basic` for base64(user:value). In the query: `raw`, as whole items
    /// between `&`, or `query`, percent-encoded. In the content: `json`, inside the quotes of a
    /// text, or `form`, percent-encoded.
    pub form: String,
}

/// A place in the network: a scheme, host, port and optionally a path prefix.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// What documents and sendings name it by.
    pub name: String,
    /// The settings that must have these values for it to count.
    #[serde(default)]
    pub when: BTreeMap<String, Values>,
    /// A URL; `{x}` is a setting, `{x.scheme}` and `{x.authority}` parts of one that is a URL.
    pub url: String,
    /// Whether it is that path alone, and none below it.
    #[serde(default)]
    pub exact: bool,
    /// The HTTP methods of its requests; any where none is named.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub methods: BTreeSet<String>,
}

/// The value that a setting must have, or one of several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Values {
    /// This one.
    One(String),
    /// Any of these.
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

/// A request whose answer the guest may read, bounded, because it is no object's content.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The name of a network grant.
    pub network: String,
    /// The HTTP method.
    pub method: String,
    /// The path, exactly, after the grant's: what is below a container are objects, and no
    /// documents. `/*`, all that is below, only where no object can come by it: of PROPFIND, which
    /// answers with properties (RFC 4918 section 9.1), and of POST to a network whose only method
    /// it is.
    #[serde(default)]
    pub path: String,
    /// Items the query must have, such as `list-type=2`, each name once.
    #[serde(default)]
    pub query: Vec<String>,
}

/// An `http` or `https` URL of scheme, host, port and path, and no more.
pub(crate) fn is_plain(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

/// A domain below which any https host is granted: in lower case, not an address, and one owner's,
/// so no public suffix, the suffixes of private registries (`github.io`) included. A port may
/// follow.
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
