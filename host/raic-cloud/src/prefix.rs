//! A folder of a container as a cloud, so that several arrays or customers can share a bucket.

use async_trait::async_trait;

use crate::{
    ByteRange, Cloud, CloudError, CloudUsage, ErrorKind, InvalidKey, Listed, Object, ObjectInfo,
    ObjectKey, Operation, Page, Payload, Result, WriteMode,
};

/// Longest prefix in bytes, its final slash included. It leaves enough of a key's length for the
/// names that an array gives to its objects.
pub const MAX_PREFIX: usize = 256;

/// A decorator that shows only the objects whose keys begin with a prefix. It cuts the prefix off
/// their keys.
#[derive(Debug)]
pub struct Prefix<C> {
    inner: C,
    /// The prefix, with a slash at its end.
    prefix: String,
}

impl<C: Cloud> Prefix<C> {
    /// Shows the objects of `inner` below the folder `prefix`, such as `arrays/home`.
    ///
    /// # Errors
    /// [`InvalidKey`] if the prefix is longer than [`MAX_PREFIX`] or cannot begin an object's key.
    pub fn new(inner: C, prefix: &str) -> Result<Self, InvalidKey> {
        let folder = ObjectKey::new(prefix.strip_suffix('/').unwrap_or(prefix))?;
        if folder.as_str().len() >= MAX_PREFIX {
            return Err(InvalidKey(prefix.to_owned()));
        }
        Ok(Self {
            inner,
            prefix: format!("{folder}/"),
        })
    }

    fn key(&self, operation: Operation, key: &ObjectKey) -> Result<ObjectKey> {
        ObjectKey::new(format!("{}{key}", self.prefix)).map_err(|e| {
            CloudError::new(
                ErrorKind::Misconfigured,
                self.inner.name(),
                operation,
                e.to_string(),
            )
            .at(key)
        })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<C: Cloud> Cloud for Prefix<C> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        self.inner.describe().await
    }

    async fn probe(&self) -> Result<()> {
        self.inner.probe().await
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        self.inner
            .put(&self.key(Operation::Put, key)?, content, mode)
            .await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        self.inner
            .get(&self.key(Operation::Get, key)?, range, if_match)
            .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.inner.head(&self.key(Operation::Head, key)?).await
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        self.inner
            .delete(&self.key(Operation::Delete, key)?, if_match)
            .await
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        let page = self
            .inner
            .list(&format!("{}{prefix}", self.prefix), cursor, limit)
            .await?;
        let below = |listed: Listed| {
            let key = listed.key.as_str().strip_prefix(&self.prefix)?;
            Some(Listed {
                key: ObjectKey::new(key).ok()?,
                info: listed.info,
            })
        };
        Ok(Page {
            entries: page.entries.into_iter().filter_map(below).collect(),
            next: page.next,
        })
    }

    async fn create_container(&self) -> Result<()> {
        self.inner.create_container().await
    }

    async fn delete_container(&self) -> Result<()> {
        // A container that still has objects of others is not empty, so the provider keeps it.
        self.inner.delete_container().await
    }

    async fn usage(&self) -> Result<CloudUsage> {
        self.inner.usage().await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        let below = keys
            .iter()
            .map(|key| self.key(Operation::DeleteMany, key))
            .collect::<Result<Vec<_>>>()?;
        let failed = self.inner.delete_many(&below).await?;
        let ours = |(key, e): (ObjectKey, CloudError)| {
            let below = key.as_str().strip_prefix(&self.prefix);
            match below.map(ObjectKey::new) {
                Some(Ok(below)) => Ok((below, e)),
                // Left out, the failure would count as a deletion that was done.
                _ => Err(CloudError::new(
                    ErrorKind::Protocol,
                    self.inner.name(),
                    Operation::DeleteMany,
                    format!("it reports {key} as not deleted, which was not to be deleted"),
                )),
            }
        };
        failed.into_iter().map(ours).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::MemoryCloud;

    /// A cloud that reports a failure of an object that it was not asked for.
    #[derive(Debug)]
    struct Confused(MemoryCloud);

    #[async_trait]
    impl Cloud for Confused {
        fn name(&self) -> &str {
            "confused"
        }

        async fn describe(&self) -> Result<Vec<(String, String)>> {
            self.0.describe().await
        }

        async fn probe(&self) -> Result<()> {
            self.0.probe().await
        }

        async fn put(
            &self,
            key: &ObjectKey,
            content: Payload,
            mode: WriteMode,
        ) -> Result<ObjectInfo> {
            self.0.put(key, content, mode).await
        }

        async fn get(
            &self,
            key: &ObjectKey,
            range: Option<ByteRange>,
            if_match: Option<&str>,
        ) -> Result<Object> {
            self.0.get(key, range, if_match).await
        }

        async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
            self.0.head(key).await
        }

        async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
            self.0.delete(key, if_match).await
        }

        async fn list(&self, prefix: &str, cursor: Option<&str>, max: u32) -> Result<Page> {
            self.0.list(prefix, cursor, max).await
        }

        async fn delete_many(&self, _: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
            let e = CloudError::new(
                ErrorKind::PermissionDenied,
                self.name(),
                Operation::DeleteMany,
                "no",
            );
            Ok(vec![(ObjectKey::new("elsewhere").unwrap(), e)])
        }
    }

    #[tokio::test]
    async fn a_failure_of_an_object_that_was_not_named_is_no_deletion() {
        let cloud = Prefix::new(Confused(MemoryCloud::new("m")), "home/").unwrap();
        let keys = [ObjectKey::new("a").unwrap()];
        let e = cloud.delete_many(&keys).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Protocol, "{e}");
    }

    #[tokio::test]
    async fn conforms() {
        let whole = Arc::new(MemoryCloud::new("m"));
        let cloud = Prefix::new(whole.clone(), "arrays/home/").unwrap();
        crate::conformance::all(&cloud, "t/").await;
        assert_eq!(whole.keys(), []);
        let long =
            ObjectKey::new(["x".repeat(200), "x".repeat(200), "x".repeat(110)].join("/")).unwrap();
        assert_eq!(
            cloud.head(&long).await.unwrap_err().kind,
            ErrorKind::Misconfigured
        );
    }

    #[tokio::test]
    async fn two_prefixes_see_nothing_of_each_other() {
        let whole = Arc::new(MemoryCloud::new("m"));
        let clouds = ["a", "a/b", "ab"].map(|prefix| Prefix::new(whole.clone(), prefix).unwrap());
        let key = ObjectKey::new("x").unwrap();
        for (i, cloud) in clouds.iter().enumerate() {
            cloud
                .put(&key, vec![i as u8].into(), WriteMode::CreateOnly)
                .await
                .unwrap();
        }
        assert_eq!(
            whole
                .keys()
                .iter()
                .map(ObjectKey::as_str)
                .collect::<Vec<_>>(),
            ["a/b/x", "a/x", "ab/x"]
        );
        clouds[0].delete(&key, None).await.unwrap();
        assert_eq!(clouds[2].list("", None, 10).await.unwrap().entries.len(), 1);
        assert_eq!(
            clouds[1].list("", None, 10).await.unwrap().entries[0].key,
            key
        );
    }

    #[test]
    fn a_prefix_is_a_folder() {
        for bad in ["", "/", "a//b", "../a", "a b", &"x".repeat(256)] {
            assert!(Prefix::new(MemoryCloud::new("m"), bad).is_err(), "{bad:?}");
        }
    }
}
