//! Checks a manifest: its names, its references, and everything that could mislead the operator who
//! approves it.

use std::collections::BTreeMap;

use super::{
    Document, Endpoint, Manifest, Network, Sending, SettingType, Signing, Values, learned_in,
};
use crate::{ConnectorError, MEMORY_MIB, approval::is_hash};

/// Longest text of a manifest, in bytes.
const MAX_TEXT: usize = 1024;
/// Most entries of `[[network]]`, since an operator must be able to read a whole manifest.
const MAX_NETWORKS: usize = 16;
/// Most entries of `[[documents]]` and `[[objects]]` together.
const MAX_DOCUMENTS: usize = 32;
/// Most settings.
const MAX_SETTINGS: usize = 32;
/// Most credentials.
const MAX_CREDENTIALS: usize = 8;
/// Most tokens.
const MAX_TOKENS: usize = 8;
/// Most logins.
const MAX_LOGINS: usize = 8;
/// Most endpoints.
const MAX_ENDPOINTS: usize = 8;
/// Longest lifetime of a signed token, in seconds.
const MAX_LIFETIME_S: u64 = 3600;

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ConnectorError::Manifest`] with what is wrong, and with its line if the parser reports
    /// one. No part of the text is quoted raw, because the operator sees the error before anything
    /// was approved.
    pub fn parse(text: &[u8]) -> Result<Self, ConnectorError> {
        let wrong = |why: String| ConnectorError::Manifest(crate::shown(&why));
        let text = std::str::from_utf8(text).map_err(|e| wrong(e.to_string()))?;
        let with_line = |e: toml::de::Error| {
            let line = e
                .span()
                .map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            wrong(match line {
                Some(line) => format!("line {line}: {}", e.message()),
                None => e.message().to_owned(),
            })
        };
        let table: toml::Table = toml::from_str(text).map_err(with_line)?;
        check_texts(&toml::Value::Table(table)).map_err(wrong)?;
        let manifest: Self = toml::from_str(text).map_err(with_line)?;
        manifest.check().map_err(wrong)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        self.check_lengths()?;
        self.check_names()?;
        if !(1..=MEMORY_MIB).contains(&self.memory_mib) {
            return Err(format!(
                "memory_mib = {}: it must be 1 to {MEMORY_MIB}",
                self.memory_mib
            ));
        }
        self.check_settings()?;
        self.check_secrets()?;
        self.check_networks()?;
        self.check_documents()?;
        self.check_references()
    }

    fn check_lengths(&self) -> Result<(), String> {
        for (what, length, most) in [
            ("[[network]]", self.network.len(), MAX_NETWORKS),
            (
                "[[documents]]",
                self.documents.len() + self.objects.len(),
                MAX_DOCUMENTS,
            ),
            ("[settings]", self.settings.len(), MAX_SETTINGS),
            ("[credentials]", self.credentials.len(), MAX_CREDENTIALS),
            ("[tokens]", self.tokens.len(), MAX_TOKENS),
            ("logins", self.logins.len(), MAX_LOGINS),
            ("[endpoints]", self.endpoints.len(), MAX_ENDPOINTS),
        ] {
            if length > most {
                return Err(format!(
                    "{what} has {length} entries; a manifest has at most {most}"
                ));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), String> {
        let named = |text: &str| {
            (1..=64).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
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
            return Err(format!("{bad:?} is not a name: 1 to 64 of a-z, 0-9 and -"));
        }
        if is_hash(&self.name) {
            return Err(format!(
                "{:?} cannot be a connector's name: it could be taken for a SHA-256",
                self.name
            ));
        }
        if let Some(twice) = self
            .logins
            .iter()
            .find(|login| self.logins.iter().filter(|l| l == login).count() > 1)
        {
            return Err(format!("the login {twice:?} is listed twice"));
        }
        Ok(())
    }

    fn check_settings(&self) -> Result<(), String> {
        for (name, setting) in &self.settings {
            let choice = setting.kind == SettingType::Choice;
            if choice == setting.choices.is_empty() {
                return Err(format!(
                    "setting {name:?}: `choices` are required for a choice, and only there"
                ));
            }
            if choice
                && setting
                    .default
                    .as_ref()
                    .is_some_and(|d| !setting.choices.contains(d))
            {
                return Err(format!(
                    "setting {name:?}: its default is not one of its choices"
                ));
            }
            if setting.kind == SettingType::Url {
                setting
                    .default
                    .iter()
                    .try_for_each(|url| is_ascii("a default URL", url))?;
            }
        }
        Ok(())
    }

    fn check_secrets(&self) -> Result<(), String> {
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
                return Err(format!(
                    "part {name:?}: a key with an `encoding` is for signing, not for sending"
                ));
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
                    "token {name:?}: {bad:?} is not header:NAME, json:/pointer, xml:A/B or text"
                ));
            }
        }
        for signing in self.signings() {
            if let Signing::Jwt { lifetime_s, .. } = signing
                && !(1..=MAX_LIFETIME_S).contains(lifetime_s)
            {
                return Err(format!(
                    "lifetime_s = {lifetime_s}: it must be 1 to {MAX_LIFETIME_S}"
                ));
            }
        }
        self.sendings().try_for_each(Sending::check)
    }

    fn check_networks(&self) -> Result<(), String> {
        for network in &self.network {
            is_ascii("a network's URL", &network.url)?;
            if network.url.contains('*') {
                return Err(format!(
                    "network {:?}: a URL is not a pattern; \
                     use an endpoint with `below` for any host below a domain",
                    network.name
                ));
            }
            for method in &network.methods {
                if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) {
                    return Err(format!(
                        "{method:?} is not an HTTP method: they are words such as GET"
                    ));
                }
            }
            // It must be certain what is granted to a network, and which secrets go there.
            let same =
                |other: &&Network| other.name == network.name && !std::ptr::eq(*other, network);
            if let Some(other) = self.network.iter().find(same)
                && !exclude(&network.when, &other.when)
            {
                return Err(format!(
                    "there are two networks {:?}, whose `when` do not exclude each other",
                    network.name
                ));
            }
        }
        self.endpoints
            .iter()
            .try_for_each(|(name, endpoint)| endpoint.check(name))
    }

    fn check_documents(&self) -> Result<(), String> {
        let answers = self.tokens.values().flat_map(|t| &t.answers);
        for document in self.documents.iter().chain(answers).chain(&self.objects) {
            is_ascii("a path", &document.path)?;
            document
                .query
                .iter()
                .try_for_each(|item| is_ascii("a query", item))?;
        }
        for document in self
            .documents
            .iter()
            .chain(self.tokens.values().flat_map(|t| &t.answers))
        {
            if !document.path.contains('*') {
                continue;
            }
            if document.path != "/*" || !self.has_no_objects(document) {
                return Err(format!(
                    "document {:?} {:?}: paths are exact; `/*` is for PROPFIND, \
                     and for POST to a network without objects whose only method it is",
                    document.method, document.path
                ));
            }
        }
        for object in &self.objects {
            if object.method != "POST" || object.path.contains('*') {
                return Err(format!(
                    "objects {:?} {:?}: they are answers to POST, at an exact path; \
                     answers to GET need not be listed",
                    object.method, object.path
                ));
            }
            if self
                .documents
                .iter()
                .any(|d| d.network == object.network && d.method == "POST" && d.path == object.path)
            {
                return Err(format!(
                    "objects {:?}: it is listed as a document, too; an answer is one or the other",
                    object.path
                ));
            }
        }
        Ok(())
    }

    /// Whether no object can come by any path of a document's network and method.
    fn has_no_objects(&self, document: &Document) -> bool {
        let only_posts = |n: &Network| n.methods.len() == 1 && n.methods.contains("POST");
        match document.method.as_str() {
            "PROPFIND" => true,
            "POST" => {
                self.network
                    .iter()
                    .filter(|n| n.name == document.network)
                    .all(only_posts)
                    && !self
                        .objects
                        .iter()
                        .any(|object| object.network == document.network)
            }
            _ => false,
        }
    }

    fn check_references(&self) -> Result<(), String> {
        let references = self
            .documents
            .iter()
            .chain(&self.objects)
            .map(|d| &d.network);
        let references = references
            .chain(self.sendings().map(|s| &s.network))
            .chain(self.signings().filter_map(Signing::network))
            .chain(
                self.tokens
                    .values()
                    .flat_map(|t| &t.answers)
                    .map(|answer| &answer.network),
            );
        for reference in references {
            if !self.network.iter().any(|n| n.name == *reference) {
                return Err(format!("there is no network named {reference:?}"));
            }
        }
        for network in &self.network {
            let learned: Vec<_> = learned_in(&network.url).collect();
            if let Some(unknown) = learned
                .iter()
                .find(|name| !self.endpoints.contains_key(**name))
            {
                return Err(format!(
                    "there is no endpoint {unknown:?} that could be learned"
                ));
            }
            let is_below =
                |name: &&str| self.endpoints.get(*name).is_some_and(|e| e.below.is_some());
            // The endpoint must be the whole host: `{learned:up}.example.com` would be another's.
            let head = |name: &str| {
                let rest = network.url.strip_prefix(&format!("{{learned:{name}}}"));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if learned.iter().any(is_below) && (learned.len() > 1 || !head(learned[0])) {
                return Err(format!(
                    "network {:?}: an endpoint with `below` must be the whole host of its URL",
                    network.name
                ));
            }
        }
        let conditions = self
            .network
            .iter()
            .map(|n| &n.when)
            .chain(self.credentials.values().map(|c| &c.when));
        for setting in conditions.flat_map(BTreeMap::keys) {
            if !self.settings.contains_key(setting) {
                return Err(format!("`when` names {setting:?}, which is not a setting"));
            }
        }
        Ok(())
    }

    fn sendings(&self) -> impl Iterator<Item = &Sending> {
        let parts = self.credentials.values().flat_map(|c| c.parts.values());
        parts
            .flat_map(|p| &p.send)
            .chain(self.tokens.values().flat_map(|t| &t.send))
    }

    fn signings(&self) -> impl Iterator<Item = &Signing> {
        let parts = self.credentials.values().flat_map(|c| c.parts.values());
        parts
            .flat_map(|p| &p.sign)
            .chain(self.tokens.values().flat_map(|t| &t.sign))
    }
}

impl Endpoint {
    fn check(&self, name: &str) -> Result<(), String> {
        let Some(below) = &self.below else {
            return Ok(());
        };
        is_ascii("a domain", below)?;
        if self.several {
            return Err(format!(
                "endpoint {name:?}: with `below` nothing is pinned, so `several` has no meaning"
            ));
        }
        // A domain with settings in it is checked when a cloud is opened.
        if below.contains('{') {
            Ok(())
        } else {
            super::domain(below).map(drop)
        }
    }
}

impl Sending {
    fn check(&self) -> Result<(), String> {
        if self.header.as_deref() == Some("destination") {
            return Err(
                "a secret must not be sent in the header destination, which names a place"
                    .to_owned(),
            );
        }
        match (&self.header, self.form.as_str()) {
            (Some(header), "raw" | "basic") if *header == header.to_ascii_lowercase() => Ok(()),
            (Some(header), "raw" | "basic") => {
                Err(format!("the header {header:?} is not in lower case"))
            }
            (Some(_), "basic-auth") => Err(
                "form \"basic-auth\" is the name of the call; in the manifest it is \"basic\""
                    .to_owned(),
            ),
            (Some(_), other) => Err(format!(
                "form {other:?} in a header is neither raw nor basic"
            )),
            (None, "raw" | "query" | "json" | "form") => Ok(()),
            (None, other) => Err(format!(
                "form {other:?} is not raw, query, json or form, or it lacks its header"
            )),
        }
    }
}

/// Whether two conditions cannot hold at once, since a setting would need two different values.
fn exclude(one: &BTreeMap<String, Values>, other: &BTreeMap<String, Values>) -> bool {
    one.iter().any(|(name, values)| {
        other
            .get(name)
            .is_some_and(|others| !values.all().any(|value| others.has(value)))
    })
}

/// Checks that a text is ASCII. A host name in another script can look like one of Google's and be
/// another, so names are written as they are resolved (punycode).
fn is_ascii(what: &str, text: &str) -> Result<(), String> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!(
        "{text:?}: {what} has ASCII characters only, no spaces; write other scripts as punycode"
    ))
}

/// Checks every text of a manifest. The operator who approves it sees them, so no text may hide
/// another, or mislead about its order.
fn check_texts(value: &toml::Value) -> Result<(), String> {
    let check = |text: &str| {
        if text.len() > MAX_TEXT || text.chars().any(crate::hides) {
            let shown: String = text.chars().take(40).collect();
            return Err(format!(
                "{shown:?} is longer than {MAX_TEXT} bytes, or has characters that are not visible"
            ));
        }
        Ok(())
    };
    match value {
        toml::Value::String(text) => check(text),
        toml::Value::Array(values) => values.iter().try_for_each(check_texts),
        toml::Value::Table(table) => table
            .iter()
            .try_for_each(|(key, value)| check(key).and_then(|()| check_texts(value))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "name = \"x\"\nversion = \"1\"\ndescription = \"d\"\nlicense = \"MIT\"\ncontract = \"0.1.0\"\n";

    fn parse(rest: &str) -> Result<Manifest, ConnectorError> {
        Manifest::parse(format!("{BASE}{rest}").as_bytes())
    }

    fn network(name: &str, more: &str) -> String {
        format!("[[network]]\nname = \"{name}\"\nurl = \"https://h.example\"\n{more}\n")
    }

    /// The errors of a dropped file must not reach the terminal raw, since nothing was approved
    /// yet.
    #[test]
    fn errors_quote_no_control_characters() {
        for text in [
            "name = \"x\"\n# \u{1b}[2J\n",
            "\u{1b}]0;owned\u{7} = 1",
            "name = \"\u{202e}\"",
            "x = \"\u{9b}2J",
        ] {
            let error = Manifest::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(
                !error.chars().any(|c| crate::hides(c) && c != '\n'),
                "{error:?}"
            );
        }
        assert!(
            Manifest::parse(b"name = \"x\"\n\n  y = = 1\n")
                .unwrap_err()
                .to_string()
                .contains("line 3")
        );
    }

    #[test]
    fn hosts_in_other_scripts_are_refused() {
        // The second a is Cyrillic.
        let error = parse(&network("n", "").replace("h.example", "storage.google\u{430}pis.com"))
            .unwrap_err();
        assert!(error.to_string().contains("ASCII"), "{error}");
        assert!(parse(&network("n", "").replace("h.example", "*.example.com")).is_err());
    }

    #[test]
    fn lists_are_as_long_as_an_operator_can_read() {
        let documents = "[[documents]]\nnetwork = \"n\"\nmethod = \"GET\"\n".repeat(33);
        assert!(parse(&(network("n", "") + &documents)).is_err());
        let networks: String = (0..17).map(|i| network(&format!("n{i}"), "")).collect();
        assert!(parse(&networks).is_err());
        let logins: Vec<_> = (0..9).map(|i| format!("\"l{i}\"")).collect();
        assert!(
            parse(&format!(
                "logins = [{}]\n{}",
                logins.join(", "),
                network("n", "")
            ))
            .is_err()
        );
        assert!(parse(&(format!("description2 = \"{}\"", "\u{ad}") + &network("n", ""))).is_err());
    }

    #[test]
    fn one_name_has_one_network_at_a_time() {
        let settings =
            "[settings.how]\ntype = \"choice\"\nchoices = [\"a\", \"b\"]\nhelp = \"h\"\n";
        let when = |value: &str| network("api", &format!("when = {{ how = \"{value}\" }}"));
        assert!(parse(&(network("api", "") + &network("api", ""))).is_err());
        assert!(parse(&(when("a") + &when("a") + settings)).is_err());
        assert!(parse(&(when("a") + &when("b") + settings)).is_ok());
    }

    #[test]
    fn a_wide_document_is_one_by_which_no_object_can_come() {
        let document = |method: &str| {
            format!("[[documents]]\nnetwork = \"n\"\nmethod = \"{method}\"\npath = \"/*\"\n")
        };
        assert!(parse(&(network("n", "") + &document("PROPFIND"))).is_ok());
        assert!(parse(&(network("n", "") + &document("GET"))).is_err());
        assert!(parse(&(network("n", "") + &document("POST"))).is_err());
        let posts = network("n", "methods = [\"POST\"]");
        assert!(parse(&(posts.clone() + &document("POST"))).is_ok());
        let objects = "[[objects]]\nnetwork = \"n\"\nmethod = \"POST\"\npath = \"/download\"\n";
        assert!(parse(&(posts.clone() + objects)).is_ok());
        assert!(parse(&(posts + &document("POST") + objects)).is_err());
    }

    #[test]
    fn a_domain_of_many_owners_is_no_domain_to_lie_below() {
        let endpoint = |below: &str| {
            let network = network("n", "").replace("https://h.example", "{learned:up}/x");
            parse(&format!(
                "{network}[endpoints.up]\nhelp = \"h\"\nbelow = \"{below}\"\n"
            ))
        };
        assert!(endpoint("backblazeb2.com").is_ok());
        for bad in [
            "com",
            "co.uk",
            "github.io",
            "s3.amazonaws.com",
            "127.0.0.1",
            "[::1]",
            "a/b.com",
            "B.com",
            "x.com.",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_that_is_signed_lives_an_hour_at_most() {
        let part = |sign: &str| {
            let head = network("login", "");
            parse(&format!(
                "{head}[credentials.c]\nhelp = \"h\"\n[credentials.c.parts.key]\nfrom = \"text\"\nsecret = true\nsign = [{sign}]\n"
            ))
        };
        assert!(
            part("{ form = \"jwt\", network = \"login\", scopes = [\"s\"], lifetime_s = 3600 }")
                .is_ok()
        );
        assert!(
            part("{ form = \"jwt\", network = \"login\", scopes = [\"s\"], lifetime_s = 3601 }")
                .is_err()
        );
        assert!(
            part("{ form = \"jwt\", network = \"other\", scopes = [\"s\"], lifetime_s = 60 }")
                .is_err()
        );
        assert!(part("{ form = \"hmac\" }").is_err(), "any message");
    }
}
