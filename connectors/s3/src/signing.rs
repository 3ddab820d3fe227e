//! Signature Version 4, up to the canonical request. The host, which has the secret key, does the
//! rest.

use raic_sdk::{
    ErrorKind, Request, Result, error, hex, now_unix_ms, required_setting, secrets, time, uri,
};

/// The place that a request goes to: the bucket or an object.
pub(crate) struct Target {
    scheme: String,
    authority: String,
    /// The path, encoded as it is signed and sent.
    path: String,
}

impl Target {
    pub(crate) fn object(key: &str) -> Result<Self> {
        let bucket = Self::bucket()?;
        let path = format!(
            "{}/{}",
            bucket.path.trim_end_matches('/'),
            uri::encode_path(key)
        );
        Ok(Self { path, ..bucket })
    }

    pub(crate) fn bucket() -> Result<Self> {
        let endpoint = required_setting("endpoint")?;
        let addressing = required_setting("addressing")?;
        Self::of(
            &endpoint,
            &required_setting("bucket")?,
            addressing == "virtual",
        )
        .ok_or_else(|| {
            error(
                ErrorKind::Misconfigured,
                format!("the endpoint {endpoint:?} is not a URL"),
            )
        })
    }

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

    /// Makes a signed request. `query` is in the order of its names. `digest` returns the content's
    /// SHA-256, if the signature covers the content. That of a PUT over TLS is not covered, since
    /// TLS already protects it.
    pub(crate) fn request(
        &self,
        method: &str,
        query: &[(&str, &str)],
        headers: Vec<(&str, String)>,
        digest: impl FnOnce() -> Vec<u8>,
    ) -> Result<Request> {
        let access_key = required_setting("keys.access-key-id")?;
        let secret_key = secrets::required("keys.secret-access-key")?;
        let region = required_setting("region")?;
        let timestamp = time::basic(now_unix_ms());
        let content_digest = match (self.scheme.as_str(), method) {
            ("https", "PUT") => "UNSIGNED-PAYLOAD".to_owned(),
            (_, "PUT" | "POST") => hex(&digest()),
            _ => hex(&raic_sdk::sha256(b"")),
        };

        let mut headers = headers;
        headers.push(("x-amz-content-sha256", content_digest.clone()));
        headers.push(("x-amz-date", timestamp.clone()));
        if let Some(token) = secrets::open("keys.session-token")? {
            headers.push(("x-amz-security-token", token.placeholder("raw")?));
        }
        let (canonical, signed) = self.canonical_request(method, query, &headers, &content_digest);
        let signature =
            secret_key.sigv4("AWS4", &timestamp, &region, "s3", canonical.as_bytes())?;
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/{}/{region}/s3/aws4_request, \
             SignedHeaders={signed}, Signature={}",
            &timestamp[..8],
            hex(&signature)
        );

        let request = headers.iter().fold(
            Request::new(method, self.url(query)),
            |request, (name, value)| request.header(name, value),
        );
        Ok(request.header("authorization", &authorization))
    }

    fn url(&self, query: &[(&str, &str)]) -> String {
        let separator = if query.is_empty() { "" } else { "?" };
        format!(
            "{}://{}{}{separator}{}",
            self.scheme,
            self.authority,
            self.path,
            canonical_query(query)
        )
    }

    /// The canonical request, and the names of the headers that it signs: all of them.
    fn canonical_request(
        &self,
        method: &str,
        query: &[(&str, &str)],
        headers: &[(&str, String)],
        content_digest: &str,
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
        let query = canonical_query(query);
        (
            format!(
                "{method}\n{}\n{query}\n{lines}\n{names}\n{content_digest}",
                self.path
            ),
            names,
        )
    }
}

fn canonical_query(query: &[(&str, &str)]) -> String {
    query
        .iter()
        .map(|(n, v)| format!("{}={}", uri::encode(n), uri::encode(v)))
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
        let query = [("max-keys", "2"), ("prefix", "J")];
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
        assert_eq!(path.url(&[]), "http://127.0.0.1:9000/b");
        let host = Target::of("https://s3.eu.x/", "b", true).unwrap();
        assert_eq!(
            host.url(&[("prefix", "a/b")]),
            "https://b.s3.eu.x/?prefix=a%2Fb"
        );
    }
}
