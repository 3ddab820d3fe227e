//! Signatures by HMAC keys ("V4 signing process", "Canonical requests"), up to the canonical
//! request. The host, which has the secret, does the rest.

use raic_sdk::{
    Digests as _, Payload, Request, Response, Result, hex, now_unix_ms, required_setting, secrets,
    setting, time, uri,
};

/// A request of the XML API that is not signed yet.
#[derive(Debug, Default)]
pub(crate) struct Unsigned {
    method: &'static str,
    /// The object's key; `None` for the bucket.
    key: Option<String>,
    query: Vec<(&'static str, String)>,
    /// The headers, their names in lower case.
    headers: Vec<(&'static str, String)>,
}

impl Unsigned {
    pub(crate) fn object(method: &'static str, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..Self::container(method)
        }
    }

    pub(crate) fn container(method: &'static str) -> Self {
        Self {
            method,
            ..Self::default()
        }
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Signs the request and sends it.
    pub(crate) fn send(self, upload: Option<&Payload>) -> Result<Response> {
        let endpoint = required_setting("endpoint")?;
        let (scheme, authority, base) = uri::split(&endpoint).unwrap_or_default();
        let mut path = format!("{base}/{}", uri::encode(&required_setting("bucket")?));
        if let Some(key) = &self.key {
            path += &format!("/{}", uri::encode_path(key));
        }
        let query = canonical_query(&self.query);
        let timestamp = time::basic(now_unix_ms());
        let digest = match upload {
            // TLS protects the bytes; without it their digest does.
            Some(payload) if scheme == "http" => hex(&payload.sha256()),
            Some(_) => "UNSIGNED-PAYLOAD".to_owned(),
            None => hex(&raic_sdk::sha256(b"")),
        };
        let mut headers = self.headers;
        if let Some(project) = setting("user-project") {
            headers.push(("x-goog-user-project", project));
        }
        headers.push(("x-goog-content-sha256", digest.clone()));
        headers.push(("x-goog-date", timestamp.clone()));
        let (canonical, names) =
            canonical_request(self.method, &path, &query, authority, &headers, &digest);
        let secret = secrets::required("hmac-key.secret")?;
        let signature =
            secret.sigv4("GOOG4", &timestamp, "auto", "storage", canonical.as_bytes())?;
        let authorization = format!(
            "GOOG4-HMAC-SHA256 Credential={}/{}/auto/storage/goog4_request, \
             SignedHeaders={names}, Signature={}",
            required_setting("hmac-key.access-id")?,
            &timestamp[..8],
            hex(&signature)
        );
        let origin = endpoint.strip_suffix(base).unwrap_or(&endpoint);
        let separator = if query.is_empty() { "" } else { "?" };
        let request = Request::new(self.method, format!("{origin}{path}{separator}{query}"));
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        request.header("authorization", &authorization).send(upload)
    }
}

/// The canonical request, and the names of the headers that it signs: all of them.
fn canonical_request(
    method: &str,
    path: &str,
    query: &str,
    authority: &str,
    headers: &[(&str, String)],
    digest: &str,
) -> (String, String) {
    let mut signed: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.trim()))
        .collect();
    signed.push(("host", authority));
    signed.sort_unstable();
    let names = signed
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(";");
    let lines: String = signed
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    (
        format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"),
        names,
    )
}

/// The query as it is signed and sent: encoded, and in the order of its names.
fn canonical_query(items: &[(&str, String)]) -> String {
    let mut items: Vec<_> = items
        .iter()
        .map(|(name, value)| (uri::encode(name), uri::encode(value)))
        .collect();
    items.sort_unstable();
    items
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("&")
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host, payload};

    use super::*;

    fn signature(
        keys: (&str, &str),
        date: &str,
        bucket: &str,
        request: Unsigned,
        upload: Option<&Payload>,
    ) -> String {
        let host = Host::new()
            .setting("endpoint", "https://storage.googleapis.com")
            .setting("bucket", bucket)
            .setting("hmac-key.access-id", keys.0)
            .secret("hmac-key.secret", keys.1)
            .now(time::parse_rfc3339(date).unwrap())
            .answer(Answer::new(200));
        let (answer, sent) = host.run(|| request.send(upload));
        answer.unwrap();
        sent[0]
            .header("authorization")
            .unwrap()
            .rsplit('=')
            .next()
            .unwrap()
            .to_owned()
    }

    /// Google publishes no vectors for HMAC keys. These are from the tests of ClickHouse and gusto.
    #[test]
    fn published_signatures_are_ours() {
        let put = Unsigned::object("PUT", "dir/obj.txt").header("x-goog-if-generation-match", "0");
        assert_eq!(
            signature(
                ("GOOGTESTACCESSKEY", "testsecretkey"),
                "2026-07-03T00:00:00Z",
                "test-bucket",
                put,
                Some(&payload("hello"))
            ),
            "4f82e49c69753329afd4768ccf1db6b472dbbd86d082a08b5b9f9fe368fb6ef6"
        );
        let get = Unsigned::object("GET", "cat.jpeg");
        assert_eq!(
            signature(
                ("GOOG_EXAMPLE_ID", "EXAMPLE_SECRET"),
                "2025-01-01T00:00:00Z",
                "example-bucket",
                get,
                None
            ),
            "ba07407abb494c7fb619c47fb3ce91aa2993a258a0fc958f20532eab523c8348"
        );
    }
}
