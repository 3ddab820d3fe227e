//! How requests are authorised: SharedKey ("Authorize with Shared Key"), a shared access signature,
//! or a token of a login.

use raic_sdk::{
    BASE64, Payload, Request, Response, Result, now_unix_ms, required_setting, secrets, time, uri,
};

use crate::login;

/// The version of the service's API, by whose rules requests are made.
const VERSION: &str = "2023-11-03";

/// A request that is not signed yet.
#[derive(Debug, Default)]
pub(crate) struct Unsigned {
    method: &'static str,
    /// The object's key; `None` for the container.
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
        let url = self.url()?;
        let query = self.encoded_query();
        let request = |query: &str| {
            let separator = if query.is_empty() { "" } else { "?" };
            let request = Request::new(self.method, format!("{url}{separator}{query}"))
                .header("x-ms-version", VERSION);
            self.headers.iter().fold(request, |request, (name, value)| {
                request.header(name, value)
            })
        };
        let date = || time::http(now_unix_ms());
        match required_setting("auth")?.as_str() {
            "sas" => {
                let signature = secrets::required("sas.signature")?.placeholder("raw")?;
                let separator = if query.is_empty() { "" } else { "&" };
                request(&format!("{query}{separator}{signature}")).send(upload)
            }
            "oauth" => login::send(|| request(&query).header("x-ms-date", &date()), upload),
            _ => {
                let account = required_setting("account")?;
                let date = date();
                let (_, _, path) = uri::split(&url).unwrap_or_default();
                let length = upload.map_or(0, Payload::size);
                let text = self.string_to_sign(&account, path, &date, length);
                let signature =
                    secrets::required("key.account-key")?.hmac("sha256", text.as_bytes())?;
                let authorization = format!("SharedKey {account}:{}", BASE64.encode(&signature));
                request(&query)
                    .header("x-ms-date", &date)
                    .header("authorization", &authorization)
                    .send(upload)
            }
        }
    }

    fn url(&self) -> Result<String> {
        let mut url = format!(
            "{}/{}",
            required_setting("endpoint")?,
            uri::encode(&required_setting("container")?)
        );
        if let Some(key) = &self.key {
            url += &format!("/{}", uri::encode_path(key));
        }
        Ok(url)
    }

    fn encoded_query(&self) -> String {
        let items = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={}", uri::encode(value)));
        items.collect::<Vec<_>>().join("&")
    }

    /// The text that SharedKey signs: twelve lines, the `x-ms-` headers, and the resource with the
    /// query's items.
    fn string_to_sign(&self, account: &str, path: &str, date: &str, length: u64) -> String {
        let header = |name: &str| {
            let header = self.headers.iter().find(|(n, _)| *n == name);
            header.map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        // A length of zero is signed as an empty line (since version 2015-02-21).
        let length = if length == 0 {
            String::new()
        } else {
            length.to_string()
        };
        let plain = [
            self.method.to_owned(),
            header("content-encoding"),
            header("content-language"),
            length,
            header("content-md5"),
            header("content-type"),
            String::new(),
            header("if-modified-since"),
            header("if-match"),
            header("if-none-match"),
            header("if-unmodified-since"),
            header("range"),
        ];
        let own = self
            .headers
            .iter()
            .filter(|(name, _)| name.starts_with("x-ms-"));
        let mut own: Vec<(&str, &str)> = own.map(|(name, value)| (*name, value.trim())).collect();
        own.extend([("x-ms-date", date), ("x-ms-version", VERSION)]);
        own.sort_unstable();
        let own: String = own
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let mut query = self.query.clone();
        query.sort();
        let query: String = query
            .iter()
            .map(|(name, value)| format!("\n{name}:{value}"))
            .collect();
        format!("{}\n{own}/{account}{path}{query}", plain.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form of the example "Get Container Metadata" of "Authorize with Shared Key", with this
    /// version.
    #[test]
    fn the_text_that_is_signed_has_every_line() {
        let request = Unsigned::container("GET")
            .query("restype", "container")
            .query("comp", "metadata");
        let date = "Fri, 26 Jun 2015 23:39:12 GMT";
        assert_eq!(
            request.string_to_sign("myaccount", "/mycontainer", date, 0),
            format!(
                "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{VERSION}\n\
                 /myaccount/mycontainer\ncomp:metadata\nrestype:container"
            )
        );
        let put = Unsigned::object("PUT", "k")
            .header("if-none-match", "*")
            .header("x-ms-blob-type", "BlockBlob")
            .header("content-md5", "abc==");
        assert_eq!(
            put.string_to_sign("a", "/a/c/k", date, 11),
            format!(
                "PUT\n\n\n11\nabc==\n\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\nx-ms-date:{date}\n\
                 x-ms-version:{VERSION}\n/a/a/c/k"
            )
        );
    }
}
