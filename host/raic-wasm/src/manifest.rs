//! The manifest: what a connector is, may be told, and may reach.
//!
//! `connector.toml`, embedded by the build as a custom section, so that it can be read and shown without
//! running the connector. Unknown fields are errors: a permission that is misspelt must not vanish.

mod settings;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{ConnectorError, approval::is_hash};

pub use settings::Settings;
pub(crate) use settings::{expand, holds, learned_in};

/// The longest text of a manifest, in bytes.
const MAX_TEXT: usize = 1024;

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
    /// The linear memory of a call, in MiB, 1 to 64: what an interpreter carries counts too. All calls of a cloud share
    /// [`MEMORY_MIB`]; those that find no room wait.
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
    /// The secrets that logins answer with.
    #[serde(default)]
    pub tokens: BTreeMap<String, Token>,
    /// What is kept of logins from call to call, by name.
    #[serde(default)]
    pub logins: BTreeSet<String>,
    /// Places in the network that are known only after a login, such as from a catalogue: `{learned:NAME}` in a
    /// network's URL.
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
    /// An `http` or `https` URL, without query; reaches the guest normalised and without trailing slash.
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
    pub sign: BTreeSet<Signing>,
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
    /// Where it is in the answer, every place: `header:NAME`, `json:/pointer` (RFC 6901), `xml:A/B` (below the root), `text`.
    pub from: Vec<String>,
    /// Whether a success may lack it.
    #[serde(default)]
    pub optional: bool,
    /// The signatures that may be made with it.
    #[serde(default)]
    pub sign: BTreeSet<Signing>,
    /// Where it may be sent in clear.
    #[serde(default)]
    pub send: Vec<Sending>,
}

/// An endpoint that is learned at login. The operator pins it when the cloud is added.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// One line for a person.
    pub help: String,
}

/// A way to sign with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signing {
    /// Signature Version 4, from the canonical request on.
    Sigv4,
    /// HMAC over any message.
    Hmac,
    /// RSASSA-PKCS1-v1_5 with SHA-256, by a private key in PEM (PKCS #8).
    RsaSha256,
}

/// A place where a secret may be sent in clear.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sending {
    /// The name of a network grant.
    pub network: String,
    /// The header, in lower case; none where it goes into the query or the content.
    pub header: Option<String>,
    /// In a header: `raw`, or `basic` for base64(user:value). In the query: `raw`, as whole items between `&`, or `query`,
    /// percent-encoded. In the content: `json`, inside the quotes of a text, or `form`, percent-encoded.
    pub form: String,
}

impl Sending {
    fn check(&self) -> Result<(), String> {
        if self.header.as_deref() == Some("destination") {
            return Err("a secret is sent in no header that says where something goes".to_owned());
        }
        match (&self.header, self.form.as_str()) {
            (Some(header), "raw" | "basic") if *header == header.to_ascii_lowercase() => Ok(()),
            (Some(header), "raw" | "basic") => Err(format!("the header {header:?} is not in lower case")),
            (Some(_), other) => Err(format!("form {other:?} in a header is neither raw nor basic")),
            (None, "raw" | "query" | "json" | "form") => Ok(()),
            (None, other) => {
                Err(format!("form {other:?} is none of raw, query, json and form, or lacks its header"))
            }
        }
    }
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
    fn has(&self, value: &str) -> bool {
        match self {
            Self::One(one) => one == value,
            Self::AnyOf(values) => values.iter().any(|one| one == value),
        }
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
    /// The path, exactly, after the grant's: what is below a container are objects, and no documents. `/*`, all that is below,
    /// only of PROPFIND, which answers with properties (RFC 4918 section 9.1).
    #[serde(default)]
    pub path: String,
    /// Items the query must have, such as `list-type=2`, each name once.
    #[serde(default)]
    pub query: Vec<String>,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ConnectorError::Manifest`] with the field that is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, ConnectorError> {
        let text = std::str::from_utf8(text).map_err(|e| ConnectorError::Manifest(e.to_string()))?;
        let table: toml::Table =
            toml::from_str(text).map_err(|e| ConnectorError::Manifest(e.to_string().trim().to_owned()))?;
        check_texts(&toml::Value::Table(table)).map_err(ConnectorError::Manifest)?;
        let manifest: Self =
            toml::from_str(text).map_err(|e| ConnectorError::Manifest(e.to_string().trim().to_owned()))?;
        manifest.check().map_err(ConnectorError::Manifest)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let named = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let names = std::iter::once(&self.name)
            .chain(self.settings.keys())
            .chain(self.credentials.keys())
            .chain(self.credentials.values().flat_map(|c| c.parts.keys()))
            .chain(self.tokens.keys())
            .chain(&self.logins)
            .chain(self.endpoints.keys())
            .chain(self.network.iter().map(|n| &n.name));
        if let Some(bad) = names.into_iter().find(|n| !named(n)) {
            return Err(format!("{bad:?} is no name: 1 to 64 of a-z, 0-9 and -"));
        }
        if is_hash(&self.name) {
            return Err(format!("{:?} is no connector's name: it could be taken for a SHA-256", self.name));
        }
        if !(1..=MEMORY_MIB).contains(&self.memory_mib) {
            return Err(format!("memory_mib = {}: it is 1 to {MEMORY_MIB}", self.memory_mib));
        }
        for (name, setting) in &self.settings {
            let choice = setting.kind == SettingType::Choice;
            if choice == setting.choices.is_empty() {
                return Err(format!("setting {name:?}: `choices` belong to a choice, and only there"));
            }
            if choice && setting.default.as_ref().is_some_and(|d| !setting.choices.contains(d)) {
                return Err(format!("setting {name:?}: its default is none of its choices"));
            }
        }
        for method in self.network.iter().flat_map(|network| &network.methods) {
            if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) {
                return Err(format!("{method:?} is no HTTP method: they are words such as GET"));
            }
        }
        for (name, part) in self.credentials.values().flat_map(|c| &c.parts) {
            if part.from != "text" && !part.from.starts_with("json:/") {
                return Err(format!(
                    "part {name:?}: from = {:?} is neither text nor json:/pointer",
                    part.from
                ));
            }
            let used = !part.sign.is_empty() || !part.send.is_empty();
            if used && !part.secret {
                return Err(format!("part {name:?}: only a secret has `sign` or `send`"));
            }
            if part.encoding.is_some() && !part.send.is_empty() {
                return Err(format!("part {name:?}: a key that is encoded is to sign with, not to send"));
            }
        }
        for (name, token) in &self.tokens {
            let is_place = |from: &String| {
                from == "text"
                    || ["header:", "json:/", "xml:"]
                        .iter()
                        .any(|kind| from.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()))
            };
            if token.from.is_empty() || token.answers.is_empty() {
                return Err(format!("token {name:?} has no `from` or no `answers`"));
            }
            if let Some(bad) = token.from.iter().find(|from| !is_place(from)) {
                return Err(format!(
                    "token {name:?}: {bad:?} is none of header:NAME, json:/pointer, xml:A/B and text"
                ));
            }
        }
        let parts = self.credentials.values().flat_map(|c| c.parts.values());
        let sendings: Vec<&Sending> =
            parts.flat_map(|p| &p.send).chain(self.tokens.values().flat_map(|t| &t.send)).collect();
        sendings.iter().try_for_each(|sending| sending.check())?;
        let references = self.documents.iter().map(|d| &d.network);
        let references = references.chain(sendings.iter().map(|s| &s.network));
        let references =
            references.chain(self.tokens.values().flat_map(|t| &t.answers).map(|answer| &answer.network));
        for reference in references {
            if !self.network.iter().any(|n| n.name == *reference) {
                return Err(format!("there is no network named {reference:?}"));
            }
        }
        let documents = self.documents.iter().chain(self.tokens.values().flat_map(|t| &t.answers));
        for document in documents {
            let is_wide = document.path.contains('*') && document.method != "PROPFIND";
            if is_wide || (document.path.contains('*') && document.path != "/*") {
                return Err(format!(
                    "document {:?} {:?}: paths are exact; `/*` is for PROPFIND",
                    document.method, document.path
                ));
            }
        }
        for endpoint in self.network.iter().flat_map(|n| learned_in(&n.url)) {
            if !self.endpoints.contains_key(endpoint) {
                return Err(format!("there is no endpoint {endpoint:?} that could be learned"));
            }
        }
        let conditions =
            self.network.iter().map(|n| &n.when).chain(self.credentials.values().map(|c| &c.when));
        for setting in conditions.flat_map(BTreeMap::keys) {
            if !self.settings.contains_key(setting) {
                return Err(format!("`when` names {setting:?}, which is no setting"));
            }
        }
        Ok(())
    }
}

/// Every text of a manifest is shown to the operator who approves it: none may hide another, or lie about its order.
fn check_texts(value: &toml::Value) -> Result<(), String> {
    let check = |text: &str| {
        let hides = |c: char| {
            c.is_control()
                || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        };
        if text.len() > MAX_TEXT || text.chars().any(hides) {
            let shown: String = text.chars().take(40).collect();
            return Err(format!(
                "{shown:?} is longer than {MAX_TEXT} bytes, or has characters that cannot be seen"
            ));
        }
        Ok(())
    };
    match value {
        toml::Value::String(text) => check(text),
        toml::Value::Array(values) => values.iter().try_for_each(check_texts),
        toml::Value::Table(table) => {
            table.iter().try_for_each(|(key, value)| check(key).and_then(|()| check_texts(value)))
        }
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const S3: &[u8] = include_bytes!("../../../connectors/s3/connector.toml");

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn defaults_may_name_other_settings() {
        let manifest = Manifest::parse(S3).unwrap();
        let settings = manifest.resolve(&given(&[("bucket", "b"), ("region", "eu-central-1")])).unwrap();
        assert_eq!(settings.values["endpoint"], "https://s3.eu-central-1.amazonaws.com");
        assert!(!settings.typed.contains("endpoint"));
    }

    #[test]
    fn urls_are_normalised_as_they_will_be_signed() {
        let manifest = Manifest::parse(S3).unwrap();
        let settings = manifest
            .resolve(&given(&[("bucket", "b"), ("endpoint", "HTTPS://S3.Example.com:443/")]))
            .unwrap();
        assert_eq!(settings.values["endpoint"], "https://s3.example.com");
    }

    #[test]
    fn wrong_settings_are_named() {
        let manifest = Manifest::parse(S3).unwrap();
        for (wrong, pairs) in [
            ("bucket", vec![]),
            ("buckett", vec![("bucket", "b"), ("buckett", "b")]),
            ("endpoint", vec![("bucket", "b"), ("endpoint", "file:///etc/passwd")]),
            ("endpoint", vec![("bucket", "b"), ("endpoint", "http://user:pw@h")]),
            ("addressing", vec![("bucket", "b"), ("addressing", "dns")]),
        ] {
            let e = manifest.resolve(&given(&pairs)).unwrap_err();
            assert!(matches!(&e, ConnectorError::Setting { name, .. } if name == wrong), "{e}");
        }
    }

    #[test]
    fn misspelt_permissions_are_errors() {
        let text = String::from_utf8(S3.to_vec()).unwrap();
        for (from, to) in [
            ("sign = [\"sigv4\"]", "signs = [\"sigv4\"]"),
            ("network = \"bucket\"", "network = \"other\""),
            ("name = \"s3\"", "name = \"../s3\""),
            ("name = \"s3\"", "name = \"0123abcdef\""),
            ("name = \"s3\"", "name = \"s3\"\ndescription = \"clears \\u001b[2J\""),
            ("name = \"s3\"", "name = \"s3\"\ndescription = \"turns \\u202e\""),
            ("from = \"json:/AccessKeyId\"", "from = \"yaml:/AccessKeyId\""),
        ] {
            assert!(Manifest::parse(text.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }
}
