//! Files in the array: their paths at the admin door, and lists of them.

use hyper::Method;
use raic_gateway::wire::Files;

use super::{Bucket, Version};
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
    version: Option<&'a str>,
}

impl<'a> Remote<'a> {
    pub(super) fn new(bucket: &'a Bucket, name: &'a str) -> Self {
        Self {
            bucket: &bucket.bucket,
            name,
            version: None,
        }
    }

    /// Names one version of the file.
    pub(super) fn at(self, version: &'a Version) -> Self {
        Self {
            version: version.version_id.as_deref(),
            ..self
        }
    }

    /// Returns the path of a resource of the file, with a query.
    pub(super) fn path(&self, kind: &str, more: &[(&str, String)]) -> String {
        let bucket = ("bucket", self.bucket.to_owned());
        let version = self.version.map(|id| ("version", id.to_owned()));
        let pairs: Vec<_> = std::iter::once(bucket)
            .chain(version)
            .chain(more.iter().cloned())
            .collect();
        path_of(kind, self.name) + &query(&pairs)
    }
}

/// A list of files that is read page by page.
pub(super) struct Pages<'a> {
    home: &'a Home,
    path: String,
    /// The entry that the next page comes after, and its version; `None` behind the last page.
    after: Option<(String, Option<String>)>,
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
            after: Some((String::new(), None)),
        }
    }

    /// Lists each version of each file, and delete marks.
    pub(super) fn with_versions(self) -> Self {
        Self {
            path: self.path + "&versions=true",
            ..self
        }
    }

    /// Reads the next page; `None` behind the last one.
    pub(super) async fn next(&mut self) -> Outcome<Option<Files>> {
        let Some((after, version)) = self.after.take() else {
            return Ok(None);
        };
        let version = version.map(|version| format!("&after_version={}", encode(&version)));
        let version = version.unwrap_or_default();
        let path = format!("{}&after={}{version}", self.path, encode(&after));
        let mut page: Files = Client(self.home).ask(Method::GET, &path, nothing()).await?;
        let version = page.next_version.take();
        self.after = page.next.take().map(|after| (after, version));
        Ok(Some(page))
    }
}
