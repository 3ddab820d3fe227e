//! A cloud in memory, for tests.

use std::{collections::BTreeMap, ops::Bound, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::{
    ByteRange, Cloud, CloudError, Digests as _, ErrorKind, Listed, Object, ObjectInfo, ObjectKey,
    Operation, Page, Payload, Result, WriteMode, body_of,
};

/// A cloud that keeps its objects in memory and loses them when the process ends. It keeps every
/// promise of [`Cloud`] strictly.
#[derive(Debug)]
pub struct MemoryCloud {
    name: String,
    // A blocking lock, because it is held for one map operation and never across an await.
    objects: RwLock<BTreeMap<ObjectKey, Stored>>,
}

#[derive(Clone, Debug)]
struct Stored {
    content: Bytes,
    info: ObjectInfo,
}

impl MemoryCloud {
    /// Makes an empty cloud.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            objects: RwLock::default(),
        }
    }

    /// Returns every key in order, for tests to look at.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().keys().cloned().collect()
    }

    /// Returns the size of all objects together, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.read().values().map(|o| o.info.size).sum()
    }

    /// Removes every object, as a wiped cloud would.
    pub fn wipe(&self) {
        self.write().clear();
    }

    /// Flips one bit of the byte at `offset` of an object, as a lying cloud would. Returns false if
    /// the object or the byte does not exist.
    pub fn corrupt(&self, key: &ObjectKey, offset: usize) -> bool {
        let mut objects = self.write();
        let Some(stored) = objects.get_mut(key).filter(|o| offset < o.content.len()) else {
            return false;
        };
        let mut content = stored.content.to_vec();
        content[offset] ^= 1;
        stored.content = content.into();
        true
    }

    fn read(&self) -> parking_lot::RwLockReadGuard<'_, BTreeMap<ObjectKey, Stored>> {
        self.objects.read()
    }

    fn write(&self) -> parking_lot::RwLockWriteGuard<'_, BTreeMap<ObjectKey, Stored>> {
        self.objects.write()
    }

    fn fail(&self, kind: ErrorKind, operation: Operation, key: &ObjectKey) -> CloudError {
        CloudError::new(kind, &self.name, operation, kind.as_str()).at(key)
    }

    fn find(
        &self,
        operation: Operation,
        key: &ObjectKey,
        if_match: Option<&str>,
    ) -> Result<Stored> {
        let stored = self
            .read()
            .get(key)
            .cloned()
            .ok_or_else(|| self.fail(ErrorKind::NotFound, operation, key))?;
        match if_match {
            Some(etag) if stored.info.etag.as_deref() != Some(etag) => {
                Err(self.fail(ErrorKind::PreconditionFailed, operation, key))
            }
            _ => Ok(stored),
        }
    }
}

#[async_trait]
impl Cloud for MemoryCloud {
    fn name(&self) -> &str {
        &self.name
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        let pairs = [
            ("create-only", "native"),
            ("if-match", "native"),
            ("ordered-list", "yes"),
            ("consistency", "strong"),
        ];
        Ok(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec())
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let digest = content.sha256();
        let info = ObjectInfo {
            size: content.size(),
            etag: Some(digest[..8].iter().map(|b| format!("{b:02x}")).collect()),
            last_modified: Some(SystemTime::now()),
        };
        let stored = Stored {
            content: content.to_bytes(),
            info: info.clone(),
        };
        let mut objects = self.write();
        let present = objects.get(key).map(|o| o.info.etag.clone());
        match (mode, present) {
            (WriteMode::CreateOnly, Some(_)) => {
                return Err(self.fail(ErrorKind::AlreadyExists, Operation::Put, key));
            }
            (WriteMode::IfMatch(wanted), present)
                if present.clone().flatten().as_ref() != Some(&wanted) =>
            {
                return Err(self.fail(ErrorKind::PreconditionFailed, Operation::Put, key));
            }
            _ => objects.insert(key.clone(), stored),
        };
        Ok(info)
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        let Stored { content, info } = self.find(Operation::Get, key, if_match)?;
        let content = match range {
            None => content,
            Some(range) => {
                let range = range.within(info.size).ok_or_else(|| {
                    self.fail(ErrorKind::RangeNotSatisfiable, Operation::Get, key)
                })?;
                content.slice(range.start as usize..range.end as usize)
            }
        };
        Ok(Object {
            info,
            body: body_of(content),
        })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        Ok(self.find(Operation::Head, key, None)?.info)
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        // One lock for the condition and the deletion: a put in between would be deleted unseen.
        let mut objects = self.write();
        if let (Some(etag), Some(stored)) = (if_match, objects.get(key))
            && stored.info.etag.as_deref() != Some(etag)
        {
            return Err(self.fail(ErrorKind::PreconditionFailed, Operation::Delete, key));
        }
        objects.remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        let objects = self.read();
        // The cursor is the last key of the page before.
        let from = match cursor {
            Some(last) => match ObjectKey::new(last) {
                Ok(key) => Bound::Excluded(key),
                Err(e) => {
                    let kind = ErrorKind::Protocol;
                    return Err(CloudError::new(
                        kind,
                        &self.name,
                        Operation::List,
                        e.to_string(),
                    ));
                }
            },
            None => Bound::Unbounded,
        };
        let mut matching = objects
            .range((from, Bound::Unbounded))
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, o)| Listed {
                key: key.clone(),
                info: o.info.clone(),
            });
        let entries: Vec<_> = matching.by_ref().take(limit as usize).collect();
        let next = matching
            .next()
            .and(entries.last())
            .map(|last| last.key.to_string());
        Ok(Page { entries, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn conforms() {
        crate::conformance::all(&MemoryCloud::new("memory"), "t/").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_of_many_creators_wins() {
        crate::conformance::create_only_race(&MemoryCloud::new("memory"), "t/", 16)
            .await
            .expect("conforms");
    }
}
