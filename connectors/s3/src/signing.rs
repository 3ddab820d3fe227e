//! Signature Version 4, up to the canonical request. The host, which has the secret key, does the
//! rest.

use raic_sdk::{
    Digests as _, ErrorKind, Payload, Request, Response, Result, error, hex, now_unix_ms,
    required_setting, secrets, time, uri,
};

/// A request that is not signed yet.
#[derive(Debug, Default)]
pub(crate) struct Unsigned {
    method: &'static str,
    /// The object's key; `None` for the bucket.
    key: Option<String>,
    query: Vec<(&'static str, String)>,
    /// The headers, their names in lower case.
    headers: Vec<(&'static str, String)>,
    /// A small body, such as an XML document.
    content: Vec<u8>,
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

    pub(crate) fn content(mut self, content: Vec<u8>) -> Self {
        self.content = content;
        self
    }

    /// Signs the request and sends it.
    pub(crate) fn send(self, upload: Option<&Payload>) -> Result<Response> {
        let target = Target::new(self.key.as_deref())?;
        let access_key = required_setting("keys.access-key-id")?;
        let secret_key = secrets::required("keys.secret-access-key")?;
        let region = required_setting("region")?;
        let timestamp = time::basic(now_unix_ms());
        let digest = self.digest(&target.scheme, upload);
        let query = canonical_query(&self.query);

        let mut headers = self.headers;
        headers.push(("x-amz-content-sha256", digest.clone()));
        headers.push(("x-amz-date", timestamp.clone()));
        if let Some(token) = secrets::open("keys.session-token")? {
            headers.push(("x-amz-security-token", token.placeholder("raw")?));
        }
        let (canonical, signed) = target.canonical_request(self.method, &query, &headers, &digest);
        let signature =
            secret_key.sigv4("AWS4", &timestamp, &region, "s3", canonical.as_bytes())?;
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/{}/{region}/s3/aws4_request, \
             SignedHeaders={signed}, Signature={}",
            &timestamp[..8],
            hex(&signature)
        );

        let request = headers.iter().fold(
            Request::new(self.method, target.url(&query)),
            |request, (name, value)| request.header(name, value),
        );
        request
            .header("authorization", &authorization)
            .content(self.content)
            .send(upload)
    }

    /// The body's SHA-256 in hexadecimal. That of a PUT over TLS is not signed, since TLS already
    /// protects the body.
    fn digest(&self, scheme: &str, upload: Option<&Payload>) -> String {
        match upload {
            _ if scheme == "https" && self.method == "PUT" => "UNSIGNED-PAYLOAD".to_owned(),
            Some(payload) => hex(&payload.sha256()),
            None => hex(&raic_sdk::sha256(&self.content)),
        }
    }
}

/// The place that a request goes to: the bucket or an object.
struct Target {
    scheme: String,
    authority: String,
    /// The path, encoded as it is signed and sent.
    path: String,
}

impl Target {
    /// The object that has the key; the bucket if there is no key.
    fn new(key: Option<&str>) -> Result<Self> {
        let endpoint = required_setting("endpoint")?;
        let addressing = required_setting("addressing")?;
        let bucket = Self::of(
            &endpoint,
            &required_setting("bucket")?,
            addressing == "virtual",
        )
        .ok_or_else(|| {
            error(
                ErrorKind::Misconfigured,
                format!("the endpoint {endpoint:?} is not a URL"),
            )
        })?;
        let Some(key) = key else {
            return Ok(bucket);
        };
        let path = format!(
            "{}/{}",
            bucket.path.trim_end_matches('/'),
            uri::encode_path(key)
        );
        Ok(Self { path, ..bucket })
    }

    /// The bucket below an endpoint; `None` if the endpoint is not a URL.
    fn of(endpoint: &str, bucket: &str, virtual_host: bool) -> Option<Self> {
        let (scheme, authority, base) = uri::split(endpoint)?;
        let base = base.trim_end_matches('/');
        let (authority, path) = if virtual_host {
            (format!("{bucket}.{authority}"), format!("{base}/"))
        } else {
            (
                authority.to_owned(),
                format!("{base}/{}", uri::encode(bucket)),
            )
        };
        Some(Self {
            scheme: scheme.to_owned(),
            authority,
            path,
        })
    }

    fn url(&self, query: &str) -> String {
        let separator = if query.is_empty() { "" } else { "?" };
        format!(
            "{}://{}{}{separator}{query}",
            self.scheme, self.authority, self.path
        )
    }

    /// The canonical request, and the names of the headers that it signs: all of them.
    fn canonical_request(
        &self,
        method: &str,
        query: &str,
        headers: &[(&str, String)],
        digest: &str,
    ) -> (String, String) {
        let mut signed: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.trim()))
            .collect();
        signed.push(("host", &self.authority));
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
            format!(
                "{method}\n{}\n{query}\n{lines}\n{names}\n{digest}",
                self.path
            ),
            names,
        )
    }
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
    use super::*;

    /// "GET Bucket (List Objects)" of the S3 API reference's signature examples.
    #[test]
    fn amazons_example_gives_amazons_canonical_request() {
        let target = Target::of("https://s3.amazonaws.com", "examplebucket", true).unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let headers = [
            ("x-amz-content-sha256", empty.to_owned()),
            ("x-amz-date", "20130524T000000Z".to_owned()),
        ];
        let query = canonical_query(&[("prefix", "J".to_owned()), ("max-keys", "2".to_owned())]);
        let (canonical, _) = target.canonical_request("GET", &query, &headers, empty);
        let digest = hex(&raic_sdk::sha256(canonical.as_bytes()));
        assert_eq!(
            digest,
            "df57d21db20da04d7fa30298dd4488ba3a2b47ca3a489c74750e0f1e7df1b9b7"
        );
    }

    #[test]
    fn both_ways_of_addressing() {
        let path = Target::of("http://127.0.0.1:9000", "b", false).unwrap();
        assert_eq!(path.url(""), "http://127.0.0.1:9000/b");
        let host = Target::of("https://s3.eu.x/", "b", true).unwrap();
        let query = canonical_query(&[("prefix", "a/b".to_owned())]);
        assert_eq!(host.url(&query), "https://b.s3.eu.x/?prefix=a%2Fb");
    }
}
