//! Files in the array: their paths at the admin door, and lists of them.

use hyper::Method;
use raic_gateway::wire::Files;

use super::Bucket;
use crate::{
    client::{Client, encode, nothing, path_of, query},
    error::Outcome,
    home::Home,
};

/// The name of a file in the array.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote<'a> {
    bucket: &'a str,
    pub(super) name: &'a str,
}

impl<'a> Remote<'a> {
    pub(super) fn new(bucket: &'a Bucket, name: &'a str) -> Self {
        Self {
            bucket: &bucket.bucket,
            name,
        }
    }

    /// Returns the path of a resource of the file, with a query.
    pub(super) fn path(&self, kind: &str, more: &[(&str, String)]) -> String {
        let bucket = ("bucket", self.bucket.to_owned());
        let pairs: Vec<_> = std::iter::once(bucket)
            .chain(more.iter().cloned())
            .collect();
        path_of(kind, self.name) + &query(&pairs)
    }
}

/// A list of files that is read page by page.
pub(super) struct Pages<'a> {
    home: &'a Home,
    path: String,
    after: Option<String>,
}

impl<'a> Pages<'a> {
    /// Lists the files whose names begin with `prefix`; those with `delimiter` behind it by their
    /// common prefixes.
    pub(super) fn new(home: &'a Home, bucket: &Bucket, prefix: &str, delimiter: &str) -> Self {
        let pairs = [
            ("bucket", bucket.bucket.clone()),
            ("prefix", prefix.to_owned()),
            ("delimiter", delimiter.to_owned()),
        ];
        Self {
            home,
            path: format!("/v1/files{}", query(&pairs)),
            after: Some(String::new()),
        }
    }

    /// Reads the next page; `None` behind the last one.
    pub(super) async fn next(&mut self) -> Outcome<Option<Files>> {
        let Some(after) = self.after.take() else {
            return Ok(None);
        };
        let path = format!("{}&after={}", self.path, encode(&after));
        let page: Files = Client(self.home).ask(Method::GET, &path, nothing()).await?;
        self.after.clone_from(&page.next);
        Ok(Some(page))
    }
}
