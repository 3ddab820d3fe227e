//! Credentials: taken from their documents once, used by handle, and never shown.

use std::{collections::BTreeMap, fmt, sync::Arc};

use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    ConnectorError, Manifest, json_body,
    manifest::{Encoding, Part, Sending, Settings, Signing, Token, holds},
};

/// The documents with credentials that an operator gave, by credential name.
pub type CredentialDocuments = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// All characters but RFC 3986's unreserved ones (section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Longest user name of basic authentication, in bytes.
const MAX_USER: usize = 256;
/// Most placeholders of one call.
const MAX_PLACEHOLDERS: usize = 64;
/// Longest URL after its placeholders were filled, in bytes.
const MAX_URL: usize = 32 << 10;
/// Longest content after its placeholders were filled, in bytes. A guest may hand over as much
/// unfilled.
const MAX_CONTENT: usize = 1 << 20;
/// Longest canonical request, before and after its placeholders were filled, in bytes.
const MAX_CANONICAL: usize = 64 << 10;

/// The uses of a secret that the manifest allows.
#[derive(Clone, Debug, Default)]
struct Rule {
    encoding: Option<Encoding>,
    sign: Vec<Signing>,
    send: Vec<Sending>,
}

impl From<&Part> for Rule {
    fn from(part: &Part) -> Self {
        Self {
            encoding: part.encoding,
            sign: part.sign.clone(),
            send: part.send.clone(),
        }
    }
}

impl From<&Token> for Rule {
    fn from(token: &Token) -> Self {
        Self {
            encoding: None,
            sign: token.sign.clone(),
            send: token.send.clone(),
        }
    }
}

/// A secret's value, and the uses of it that the manifest allows.
pub(crate) struct SecretValue {
    value: Zeroizing<String>,
    rule: Rule,
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(***)")
    }
}

/// One cloud's credentials.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    /// Values that the guest may read, by `CREDENTIAL.part`.
    pub(crate) plain: BTreeMap<String, String>,
    /// Values that the guest may not read, by `CREDENTIAL.part`.
    pub(crate) secret: BTreeMap<String, Arc<SecretValue>>,
}

impl Credentials {
    /// Takes the value of every part out of its document.
    pub(crate) fn new(
        manifest: &Manifest,
        settings: &Settings,
        documents: &CredentialDocuments,
    ) -> Result<Self, ConnectorError> {
        if let Some(name) = documents
            .keys()
            .find(|name| !manifest.credentials.contains_key(*name))
        {
            let known = manifest
                .credentials
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            let problem = format!(
                "{} has no credential of that name; it has {known}",
                manifest.name
            );
            return Err(ConnectorError::credential(name, problem));
        }
        let mut credentials = Self::default();
        for (name, credential) in &manifest.credentials {
            if !holds(&credential.when, &settings.values) {
                if documents.contains_key(name) {
                    let wanted: Vec<_> = credential
                        .when
                        .iter()
                        .map(|(n, v)| format!("{n} = {v}"))
                        .collect();
                    let problem = format!("is used only with the settings {}", wanted.join(", "));
                    return Err(ConnectorError::credential(name, problem));
                }
                continue;
            }
            let document = documents.get(name).ok_or_else(|| {
                ConnectorError::credential(name, format!("is missing: {}", credential.help))
            })?;
            for (part, rule) in &credential.parts {
                let path = format!("{name}.{part}");
                let with_help = |e: String| {
                    ConnectorError::credential(name, format!("{e}; it is: {}", credential.help))
                };
                match take(document, rule).map_err(with_help)? {
                    Some(value) if rule.secret => {
                        let value = SecretValue {
                            value,
                            rule: rule.into(),
                        };
                        value.check().map_err(with_help)?;
                        credentials.secret.insert(path, Arc::new(value));
                    }
                    Some(value) => {
                        credentials.plain.insert(path, value.to_string());
                    }
                    None if rule.optional => {}
                    None => {
                        let problem = format!(
                            "its document has nothing at {}: {}",
                            rule.from, credential.help
                        );
                        return Err(ConnectorError::credential(name, problem));
                    }
                }
            }
        }
        Ok(credentials)
    }
}

/// Returns a part's value out of a document, or `None` if it is missing or empty.
fn take(document: &[u8], rule: &Part) -> Result<Option<Zeroizing<String>>, String> {
    let from = &rule.from;
    // A private key has several lines. Other values may be sent, and so have no control characters.
    let is_key = rule.sign.iter().any(|s| matches!(s, Signing::Jwt { .. }));
    let is_wrong = |c: char| c.is_control() && !(is_key && matches!(c, '\n' | '\r'));
    let text = std::str::from_utf8(document).map_err(|_| "its document is not UTF-8".to_owned())?;
    // Some editors put a byte order mark before a document; RFC 8259 section 8.1 lets readers skip
    // it.
    let text = text.trim_start_matches('\u{feff}');
    let Some(pointer) = from.strip_prefix("json:") else {
        let text = text.trim();
        return Ok((!text.is_empty()).then(|| Zeroizing::new(text.to_owned())));
    };
    // serde_json's messages may quote the document, so they are not passed on.
    let json: serde_json::Value = serde_json::from_str(text).map_err(|e| {
        format!(
            "its document is not JSON (line {}, column {})",
            e.line(),
            e.column()
        )
    })?;
    match json.pointer(pointer) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(value)) if value.chars().any(is_wrong) => {
            Err(format!("the value at {pointer} has control characters"))
        }
        Some(serde_json::Value::String(value)) => {
            let value = Zeroizing::new(value.clone());
            // Newlines of a key may have been escaped twice on their way through an environment. A
            // key in PEM has no backslash of its own.
            let value = if is_key {
                Zeroizing::new(value.replace("\\n", "\n").replace('\r', ""))
            } else {
                value
            };
            Ok((!value.is_empty()).then_some(value))
        }
        Some(_) => Err(format!("the value at {pointer} is not a text")),
    }
}

impl SecretValue {
    /// Makes a secret with which the manifest allows nothing, for tests.
    #[cfg(test)]
    pub(crate) fn for_tests(text: &str) -> Self {
        Self {
            value: Zeroizing::new(text.to_owned()),
            rule: Rule::default(),
        }
    }

    /// Makes a secret of a token that was taken out of an answer.
    pub(crate) fn taken(value: Zeroizing<String>, token: &Token) -> Self {
        Self {
            value,
            rule: token.into(),
        }
    }

    /// Checks that the value is of the kind that its uses need, so that a wrong key is reported
    /// when the cloud is opened.
    fn check(&self) -> Result<(), String> {
        if self.rule.encoding == Some(Encoding::Base64) {
            self.key()?;
        }
        if self
            .rule
            .sign
            .iter()
            .any(|s| matches!(s, Signing::Jwt { .. }))
        {
            self.rsa_key()?;
        }
        Ok(())
    }

    /// Returns the bytes to sign with.
    fn key(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        match self.rule.encoding {
            None => Ok(Zeroizing::new(self.value.as_bytes().to_vec())),
            Some(Encoding::Base64) => {
                let key = BASE64
                    .decode(self.value.as_bytes())
                    .map_err(|_| "the key is not base64".to_owned());
                key.map(Zeroizing::new)
            }
        }
    }

    fn rsa_key(&self) -> Result<ring::signature::RsaKeyPair, String> {
        let wrong =
            || "the private key is not an RSA key in PEM (PKCS #8) of 2048 bits or more".to_owned();
        let der = PrivatePkcs8KeyDer::from_pem_slice(self.value.as_bytes()).map_err(|_| wrong())?;
        ring::signature::RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| wrong())
    }

    /// Returns the shape of the messages that may be signed with the secret by RSASSA-PKCS1-v1_5.
    ///
    /// # Errors
    /// One line, if the manifest allows no such message.
    pub(crate) fn rsa_shape(&self) -> Result<&Signing, String> {
        self.may("rsa-sha256", |s| matches!(s, Signing::Jwt { .. }))
    }

    /// Signs `message`, whose shape was checked, by RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017
    /// section 8.2).
    pub(crate) fn rsa_sha256(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        self.rsa_shape()?;
        let key = self.rsa_key()?;
        let mut signature = vec![0; key.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        key.sign(
            &ring::signature::RSA_PKCS1_SHA256,
            &random,
            message,
            &mut signature,
        )
        .map_err(|_| "the private key cannot sign".to_owned())?;
        Ok(signature)
    }

    /// Returns the value, to look for it in answers.
    pub(crate) fn text(&self) -> &str {
        &self.value
    }

    fn may(&self, how: &str, is: impl Fn(&Signing) -> bool) -> Result<&Signing, String> {
        let allowed = self.rule.sign.iter().find(|signing| is(signing));
        allowed
            .ok_or_else(|| format!("the manifest does not allow signing with this secret by {how}"))
    }

    /// Returns the shape of the messages that may be signed with the secret by HMAC.
    ///
    /// # Errors
    /// One line, if the manifest allows no such message.
    pub(crate) fn hmac_shape(&self) -> Result<&Signing, String> {
        self.may("hmac", |s| matches!(s, Signing::AzureSharedKey { .. }))
    }

    /// Returns the HMAC of `message`, whose shape was checked. `hash` can only be `sha256`.
    pub(crate) fn hmac(&self, hash: &str, message: &[u8]) -> Result<Vec<u8>, String> {
        self.hmac_shape()?;
        match hash {
            "sha256" => Ok(hmac_sha256(&self.key()?, message).to_vec()),
            other => Err(format!("{other:?} is not a hash for HMAC; there is sha256")),
        }
    }

    /// Signs a canonical request (AWS general reference, "Create a signed AWS API request", steps 2
    /// to 4; Google's V4 signing differs in its words).
    pub(crate) fn sigv4(
        &self,
        scheme: &str,
        timestamp: &str,
        region: &str,
        service: &str,
        canonical_request: &[u8],
    ) -> Result<Vec<u8>, String> {
        self.may("sigv4", |s| *s == Signing::Sigv4)?;
        if region.len().max(service.len()) > 64 {
            return Err("a region and a service have at most 64 bytes".to_owned());
        }
        let (algorithm, terminator) = match scheme {
            "AWS4" => ("AWS4-HMAC-SHA256", "aws4_request"),
            "GOOG4" => ("GOOG4-HMAC-SHA256", "goog4_request"),
            other => {
                return Err(format!(
                    "{other:?} is not a signing scheme; there are AWS4 and GOOG4"
                ));
            }
        };
        let date = timestamp
            .get(..8)
            .filter(|_| timestamp.len() == 16 && timestamp.ends_with('Z'));
        let date =
            date.ok_or_else(|| format!("{timestamp:?} is not a timestamp YYYYMMDDTHHMMSSZ"))?;
        let scope = format!("{date}/{region}/{service}/{terminator}");
        let digest = HEXLOWER.encode(&Sha256::digest(canonical_request));
        let string_to_sign = format!("{algorithm}\n{timestamp}\n{scope}\n{digest}");
        let key = Zeroizing::new(format!("{scheme}{}", &*self.value));
        let key = [date, region, service, terminator]
            .iter()
            .fold(Zeroizing::new(key.as_bytes().to_vec()), |key, text| {
                Zeroizing::new(hmac_sha256(&key, text.as_bytes()).to_vec())
            });
        Ok(hmac_sha256(&key, string_to_sign.as_bytes()).to_vec())
    }
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    #[allow(clippy::unwrap_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The placeholders that were handed out in one call.
#[derive(Default)]
pub(crate) struct Placeholders(Vec<Placeholder>);

struct Placeholder {
    text: String,
    value: Zeroizing<String>,
    form: String,
    secret: Arc<SecretValue>,
}

/// The part of a request in which a placeholder stands.
#[derive(Clone, Copy)]
enum Place<'a> {
    Header(&'a str),
    Query,
    Content,
}

impl Placeholders {
    /// Returns how much memory the host holds for the placeholder issued last, in bytes.
    pub(crate) fn held_by_last(&self) -> usize {
        self.0.last().map_or(0, |p| {
            size_of::<Placeholder>() + p.text.len() + p.value.len() + p.form.len()
        })
    }

    /// Returns a text that stands for the secret in one of the contract's forms. With `user` it
    /// stands for base64(user:value).
    pub(crate) fn issue(
        &mut self,
        secret: &Arc<SecretValue>,
        form: &str,
        user: Option<&str>,
    ) -> Result<String, String> {
        let form = if user.is_some() { "basic" } else { form };
        if !secret.rule.send.iter().any(|s| s.form == form) {
            return Err(format!(
                "the manifest does not allow sending this secret as {form}"
            ));
        }
        if self.0.len() >= MAX_PLACEHOLDERS {
            return Err("too many placeholders in one call".to_owned());
        }
        if user.is_some_and(|user| user.len() > MAX_USER) {
            return Err(format!("a user name has at most {MAX_USER} bytes"));
        }
        let value = match (form, user) {
            (_, Some(user)) if user.contains(':') => {
                return Err("a user name cannot hold a colon".to_owned());
            }
            (_, Some(user)) => {
                Zeroizing::new(BASE64.encode(format!("{user}:{}", &*secret.value).as_bytes()))
            }
            ("query" | "form", None) => {
                Zeroizing::new(utf8_percent_encode(&secret.value, RESERVED).to_string())
            }
            ("json", None) => {
                let quoted = serde_json::to_string(&*secret.value).map_err(|e| e.to_string())?;
                Zeroizing::new(quoted[1..quoted.len() - 1].to_owned())
            }
            _ => secret.value.clone(),
        };
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random).map_err(|e| e.to_string())?;
        let text = format!("RAIC{}", HEXLOWER.encode(&random));
        self.0.push(Placeholder {
            text: text.clone(),
            value,
            form: form.to_owned(),
            secret: secret.clone(),
        });
        Ok(text)
    }

    /// Returns a header's value with its placeholders filled in, at most `most` bytes. Every
    /// placeholder must be allowed in that header of that grant.
    pub(crate) fn fill(
        &self,
        grant: &str,
        header: &str,
        value: &str,
        most: usize,
    ) -> Result<Zeroizing<String>, String> {
        self.fill_place(grant, Place::Header(header), value, most)
    }

    /// Returns a URL with the placeholders of its query filled in. No other part of the URL may
    /// have placeholders.
    pub(crate) fn fill_url(&self, grant: &str, url: &str) -> Result<Zeroizing<String>, String> {
        let Some((base, query)) = url.split_once('?') else {
            return self
                .outside_of_all(url)
                .map(|()| Zeroizing::new(url.to_owned()));
        };
        self.outside_of_all(base)?;
        let items = query.split('&').map(|item| {
            let whole = self.0.iter().find(|p| p.form == "raw" && p.text == item);
            if let Some(placeholder) = whole {
                self.require(grant, Place::Query, placeholder)?;
                // A shared access signature may begin with `?`, as portals show it.
                let value = placeholder
                    .value
                    .strip_prefix('?')
                    .unwrap_or(&placeholder.value);
                if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
                    return Err(
                        "a secret in a query must not be empty or have spaces, # or the like"
                            .to_owned(),
                    );
                }
                return Ok(Zeroizing::new(value.to_owned()));
            }
            if self
                .0
                .iter()
                .any(|p| p.form == "raw" && item.contains(&p.text))
            {
                return Err("a raw secret must be a whole item of the query".to_owned());
            }
            self.fill_place(grant, Place::Query, item, MAX_URL)
        });
        let mut filled = Zeroizing::new(format!("{base}?"));
        for (i, item) in items.enumerate() {
            if i > 0 {
                filled.push('&');
            }
            filled.push_str(&item?);
            if filled.len() > MAX_URL {
                return Err(format!("the URL passes {MAX_URL} bytes"));
            }
        }
        Ok(filled)
    }

    /// Returns a small body with its placeholders filled in.
    pub(crate) fn fill_content(
        &self,
        grant: &str,
        content: Vec<u8>,
    ) -> Result<Zeroizing<Vec<u8>>, String> {
        if self.0.is_empty() {
            return Ok(Zeroizing::new(content));
        }
        match String::from_utf8(content) {
            Ok(text) => {
                if self
                    .0
                    .iter()
                    .any(|p| p.form == "json" && text.contains(&p.text))
                {
                    json_body::check(&text)?;
                }
                let filled = self.fill_place(grant, Place::Content, &text, MAX_CONTENT)?;
                Ok(Zeroizing::new(filled.as_bytes().to_vec()))
            }
            Err(binary) => Ok(Zeroizing::new(binary.into_bytes())),
        }
    }

    fn outside_of_all(&self, text: &str) -> Result<(), String> {
        match self.0.iter().any(|p| text.contains(&p.text)) {
            true => Err("a secret must not stand in a URL's host or path".to_owned()),
            false => Ok(()),
        }
    }

    fn require(
        &self,
        grant: &str,
        place: Place<'_>,
        placeholder: &Placeholder,
    ) -> Result<(), String> {
        let in_place = |s: &Sending| match place {
            Place::Header(header) => s.header.as_deref() == Some(header),
            Place::Query => s.header.is_none() && matches!(s.form.as_str(), "raw" | "query"),
            Place::Content => s.header.is_none() && matches!(s.form.as_str(), "json" | "form"),
        };
        let rule = |s: &Sending| s.network == grant && s.form == placeholder.form && in_place(s);
        if placeholder.secret.rule.send.iter().any(rule) {
            return Ok(());
        }
        let place = match place {
            Place::Header(header) => format!("the header {header}"),
            Place::Query => "a query".to_owned(),
            Place::Content => "a body".to_owned(),
        };
        Err(format!(
            "the manifest does not allow a secret in {place} toward {grant:?}"
        ))
    }

    fn fill_place(
        &self,
        grant: &str,
        place: Place<'_>,
        value: &str,
        most: usize,
    ) -> Result<Zeroizing<String>, String> {
        for placeholder in self.0.iter().filter(|p| value.contains(&p.text)) {
            self.require(grant, place, placeholder)?;
        }
        self.replaced(value, most)
    }

    /// Returns a text with every placeholder filled in. The length is computed first, because one
    /// placeholder stands for kilobytes and may be repeated thousands of times.
    fn replaced(&self, text: &str, most: usize) -> Result<Zeroizing<String>, String> {
        let mut length = text.len();
        for placeholder in &self.0 {
            let times = text.matches(placeholder.text.as_str()).count();
            length = (length - times * placeholder.text.len())
                .saturating_add(times.saturating_mul(placeholder.value.len()));
        }
        if length > most {
            return Err(format!(
                "what is sent passes {most} bytes with its secrets filled in"
            ));
        }
        let mut filled = Zeroizing::new(text.to_owned());
        for placeholder in self.0.iter().filter(|p| text.contains(&p.text)) {
            filled = Zeroizing::new(filled.replace(&placeholder.text, &placeholder.value));
        }
        Ok(filled)
    }

    /// Returns a canonical request with the placeholders of its query and its header lines filled
    /// in.
    pub(crate) fn fill_canonical(&self, canonical: &str) -> Result<Zeroizing<String>, String> {
        if canonical.len() > MAX_CANONICAL {
            return Err(format!(
                "a canonical request has at most {MAX_CANONICAL} bytes"
            ));
        }
        // The lines are method, path, query, headers, an empty line, and the rest.
        let head: usize = canonical.split_inclusive('\n').take(2).map(str::len).sum();
        let end = canonical[head..]
            .find("\n\n")
            .map_or(canonical.len(), |offset| head + offset);
        let filled = self.replaced(&canonical[head..end], MAX_CANONICAL)?;
        Ok(Zeroizing::new(
            [&canonical[..head], filled.as_str(), &canonical[end..]].concat(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = r#"{"Version":1,"AccessKeyId":"AKIAIOSFODNN7EXAMPLE",
        "SecretAccessKey":"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY","SessionToken":"token-of-a-session"}"#;

    fn credentials(document: &str) -> Result<Credentials, ConnectorError> {
        let manifest =
            Manifest::parse(include_bytes!("../../../connectors/s3/connector.toml")).unwrap();
        let document = Zeroizing::new(document.as_bytes().to_vec());
        Credentials::new(
            &manifest,
            &Settings::default(),
            &BTreeMap::from([("keys".to_owned(), document)]),
        )
    }

    #[test]
    fn a_byte_order_mark_before_a_document_is_skipped() {
        for document in [KEYS.to_owned(), format!("\u{feff}{KEYS}")] {
            let keys = credentials(&document).unwrap();
            assert!(keys.secret.contains_key("keys.secret-access-key"));
        }
    }

    /// "GET Object" in the signature examples of the S3 API reference.
    #[test]
    fn amazons_example_gives_amazons_signature() {
        let key = &credentials(KEYS).unwrap().secret["keys.secret-access-key"];
        let canonical = "GET\n/test.txt\n\nhost:examplebucket.s3.amazonaws.com\nrange:bytes=0-9\n\
            x-amz-content-sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\
            x-amz-date:20130524T000000Z\n\nhost;range;x-amz-content-sha256;x-amz-date\n\
            e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let signature = key
            .sigv4(
                "AWS4",
                "20130524T000000Z",
                "us-east-1",
                "s3",
                canonical.as_bytes(),
            )
            .unwrap();
        assert_eq!(
            HEXLOWER.encode(&signature),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert!(
            key.hmac("sha256", b"x").is_err(),
            "only what the manifest names"
        );
    }

    #[test]
    fn a_placeholder_is_replaced_only_where_the_manifest_says() {
        let credentials = credentials(KEYS).unwrap();
        let mut placeholders = Placeholders::default();
        let token = placeholders
            .issue(&credentials.secret["keys.session-token"], "raw", None)
            .unwrap();
        let filled = placeholders
            .fill("bucket", "x-amz-security-token", &token, 1000)
            .unwrap();
        assert_eq!(*filled, "token-of-a-session");
        assert!(
            placeholders
                .fill("bucket", "x-other", &token, 1000)
                .is_err()
        );
        assert!(
            placeholders
                .fill("elsewhere", "x-amz-security-token", &token, 1000)
                .is_err()
        );
        assert!(
            placeholders
                .issue(&credentials.secret["keys.secret-access-key"], "raw", None)
                .is_err()
        );
    }

    /// Once the placeholders of one header stood for gigabytes, three times over.
    #[test]
    fn what_placeholders_stand_for_is_bounded_before_they_are_filled() {
        let credentials =
            credentials(&KEYS.replace("token-of-a-session", &"t".repeat(16 << 10))).unwrap();
        let mut placeholders = Placeholders::default();
        let secret = &credentials.secret["keys.session-token"];
        let token = placeholders.issue(secret, "raw", None).unwrap();
        assert!(placeholders.held_by_last() > 16 << 10);
        assert!(
            placeholders
                .fill(
                    "bucket",
                    "x-amz-security-token",
                    &token.repeat(900),
                    32 << 10
                )
                .is_err()
        );
        let canonical = format!(
            "GET\n/\n\nx-amz-security-token:{}\nhost:h\n\nx\ny",
            token.repeat(1000)
        );
        assert!(placeholders.fill_canonical(&canonical).is_err());
        let canonical =
            format!("GET\n/{token}\n\nx-amz-security-token:{token}\n\n{token}\n{token}");
        let filled = placeholders.fill_canonical(&canonical).unwrap();
        assert_eq!(
            filled.matches(token.as_str()).count(),
            3,
            "the query and the header lines alone"
        );
        let e = placeholders
            .issue(secret, "basic", Some(&"u".repeat(1_000_000)))
            .unwrap_err();
        assert!(e.contains("does not allow"), "{e}");
    }

    #[test]
    fn wrong_documents_are_told_without_showing_them() {
        for document in [
            "",
            "AKIA:secretsecret",
            r#"{"AccessKeyId":"secretsecret"}"#,
            r#"{"AccessKeyId":7}"#,
        ] {
            let text = credentials(document).unwrap_err().to_string();
            assert!(
                text.starts_with("credential \"keys\": ") && !text.contains("secretsecret"),
                "{text}"
            );
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?}", credentials(KEYS).unwrap());
        assert!(
            !text.contains("wJalr") && !text.contains("token-of"),
            "{text}"
        );
    }
}
