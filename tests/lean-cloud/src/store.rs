//! Buckets and objects, in memory.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use bytes::Bytes;
use hyper::{HeaderMap, header::HeaderValue};

/// An object, in the pieces that came.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    /// The content type, and the headers `x-amz-meta-`.
    pub(crate) headers: Vec<(hyper::header::HeaderName, HeaderValue)>,
    /// Whether it was written since the cloud began to misbehave.
    pub(crate) is_recent: bool,
}

/// An upload in parts.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) headers: HeaderMap,
    pub(crate) parts: BTreeMap<u32, Vec<Bytes>>,
}

/// The requests and bytes that a cloud has had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests by their method.
    pub requests: BTreeMap<String, u64>,
    /// Bytes of bodies that came.
    pub taken: u64,
    /// Bytes of bodies that were sent.
    pub given: u64,
}

/// All that a cloud holds.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) buckets: BTreeMap<String, BTreeMap<String, Object>>,
    pub(crate) uploads: HashMap<String, Parts>,
    pub(crate) counts: Counts,
    /// Objects that were removed since the cloud began to misbehave, by bucket and key.
    pub(crate) removed: BTreeMap<(String, String), Object>,
    next: u64,
}

impl Store {
    /// Returns a name that was not given before: for an etag, or for an upload.
    pub(crate) fn fresh(&mut self) -> String {
        self.next += 1;
        // Not as long as an MD5, so no client takes it for one.
        format!("{:024x}", self.next)
    }

    /// Makes an object of pieces.
    pub(crate) fn object(&mut self, pieces: Vec<Bytes>, headers: &HeaderMap) -> Object {
        let kept = |name: &str| name == "content-type" || name.starts_with("x-amz-meta-");
        let headers = headers.iter().filter(|(name, _)| kept(name.as_str()));
        Object {
            size: pieces.iter().map(|piece| piece.len() as u64).sum(),
            pieces,
            etag: self.fresh(),
            modified: SystemTime::now(),
            headers: headers.map(|(n, v)| (n.clone(), v.clone())).collect(),
            is_recent: true,
        }
    }
}
