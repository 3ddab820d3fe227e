//! Requests of the JSON API, which a token authorises.

use raic_sdk::{Payload, Request, Response, Result, required_setting, setting, uri};

use crate::login;

/// What a request is about.
#[derive(Debug)]
enum Place {
    Object(String),
    /// The objects of the bucket, which are listed.
    Objects,
    /// The place that takes a new object.
    Upload,
    Container,
    /// The buckets of a project.
    Containers,
}

/// A request that has no token yet.
#[derive(Debug)]
pub(crate) struct Unauthorised {
    method: &'static str,
    place: Place,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    /// A small body, such as a JSON document.
    content: Vec<u8>,
}

impl Unauthorised {
    pub(crate) fn object(method: &'static str, key: &str) -> Self {
        Self::new(method, Place::Object(key.to_owned()))
    }

    pub(crate) fn objects(method: &'static str) -> Self {
        Self::new(method, Place::Objects)
    }

    pub(crate) fn upload(method: &'static str) -> Self {
        Self::new(method, Place::Upload)
    }

    pub(crate) fn container(method: &'static str) -> Self {
        Self::new(method, Place::Container)
    }

    pub(crate) fn containers(method: &'static str) -> Self {
        Self::new(method, Place::Containers)
    }

    fn new(method: &'static str, place: Place) -> Self {
        Self {
            method,
            place,
            query: Vec::new(),
            headers: Vec::new(),
            content: Vec::new(),
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

    /// Adds a token to the request and sends it.
    pub(crate) fn send(self, upload: Option<&Payload>) -> Result<Response> {
        let url = self.url()?;
        let build = || {
            let request = Request::new(self.method, url.clone());
            let request = self.headers.iter().fold(request, |request, (name, value)| {
                request.header(name, value)
            });
            request.content(self.content.clone())
        };
        login::send(build, upload)
    }

    fn url(&self) -> Result<String> {
        let bucket = required_setting("bucket")?;
        let bucket = format!("/storage/v1/b/{}", uri::encode(&bucket));
        let path = match &self.place {
            Place::Object(key) => format!("{bucket}/o/{}", uri::encode(key)),
            Place::Objects => format!("{bucket}/o"),
            Place::Upload => format!("/upload{bucket}/o"),
            Place::Container => bucket,
            Place::Containers => "/storage/v1/b".to_owned(),
        };
        // A bucket's own project pays for the calls that make and remove it.
        let payer = match &self.place {
            Place::Container | Place::Containers => None,
            _ => setting("user-project").map(|project| ("userProject", project)),
        };
        let items: Vec<_> = self
            .query
            .iter()
            .chain(&payer)
            .map(|(name, value)| format!("{name}={}", uri::encode(value)))
            .collect();
        let query = items.join("&");
        let separator = if query.is_empty() { "" } else { "?" };
        let endpoint = required_setting("endpoint")?;
        Ok(format!("{endpoint}{path}{separator}{query}"))
    }
}
