//! Requests for the account and its container, which a token authorises.

use raic_sdk::{Payload, Request, Response, Result, required_setting, uri};

use crate::login;

/// What a request is about.
#[derive(Debug)]
enum Place {
    Object(String),
    Container,
    Account,
}

/// A request that has no token yet.
#[derive(Debug)]
pub(crate) struct Unauthorised {
    method: &'static str,
    place: Place,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
}

impl Unauthorised {
    pub(crate) fn object(method: &'static str, key: &str) -> Self {
        Self::new(method, Place::Object(key.to_owned()))
    }

    pub(crate) fn container(method: &'static str) -> Self {
        Self::new(method, Place::Container)
    }

    pub(crate) fn account(method: &'static str) -> Self {
        Self::new(method, Place::Account)
    }

    fn new(method: &'static str, place: Place) -> Self {
        Self {
            method,
            place,
            query: Vec::new(),
            headers: Vec::new(),
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

    /// Adds a token to the request and sends it.
    pub(crate) fn send(self, upload: Option<&Payload>) -> Result<Response> {
        let below = self.below_account()?;
        let build = |account: &str| {
            let request = Request::new(self.method, format!("{account}{below}"));
            self.headers.iter().fold(request, |request, (name, value)| {
                request.header(name, value)
            })
        };
        login::send(build, upload)
    }

    /// What follows the account's URL, which only the login knows: path and query.
    fn below_account(&self) -> Result<String> {
        let path = match &self.place {
            Place::Account => String::new(),
            Place::Container => format!("/{}", container()?),
            Place::Object(key) => format!("/{}/{}", container()?, uri::encode_path(key)),
        };
        let items = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={}", uri::encode(value)));
        let query = items.collect::<Vec<_>>().join("&");
        let separator = if query.is_empty() { "" } else { "?" };
        Ok(format!("{path}{separator}{query}"))
    }
}

fn container() -> Result<String> {
    Ok(uri::encode(&required_setting("container")?))
}
