//! Requests, built step by step.

use crate::{
    Payload, Response, Result,
    bindings::raic::connector::http::{self, Request as Raw},
};

/// An HTTP request. The host adds `host`, `content-length`, `user-agent` and
/// `accept-encoding: identity`.
///
/// ```
/// use raic_sdk::{Request, testing::{Answer, Host, payload}};
///
/// let (status, sent) = Host::new().answer(Answer::new(201)).run(|| {
///     let request = Request::new("PUT", "https://store.example.com/c/k".to_owned());
///     // The object's bytes go up without the connector seeing them.
///     request.header("content-type", "text/plain").send(Some(&payload("hello"))).unwrap().status()
/// });
/// assert_eq!(status, 201);
/// assert_eq!(sent[0].method, "PUT");
/// assert_eq!(sent[0].header("Content-Type"), Some("text/plain"));
/// ```
#[derive(Debug)]
pub struct Request {
    raw: Raw,
}

impl Request {
    /// A request without headers or content. The host refuses a `url` that is not spelled as a URL
    /// parser would write it.
    pub fn new(method: &str, url: String) -> Self {
        Self {
            raw: Raw {
                method: method.to_owned(),
                url,
                headers: Vec::new(),
                content: Vec::new(),
                timeout_ms: None,
            },
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.raw
            .headers
            .push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// Sets a small body, such as an XML document.
    #[must_use]
    pub fn content(mut self, content: Vec<u8>) -> Self {
        self.raw.content = content;
        self
    }

    /// Sends the request. If `upload` is given, the object's bytes are its body.
    ///
    /// # Errors
    /// Whatever kept an answer from coming. Every answer is `Ok`, also 4xx and 5xx.
    pub fn send(self, upload: Option<&Payload>) -> Result<Response> {
        http::send(&self.raw, upload)
    }
}
