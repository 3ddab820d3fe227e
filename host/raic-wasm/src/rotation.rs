//! Credentials that change while the daemon runs: when the service refuses those at hand, the
//! operator's documents are read again.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use raic_cloud::{
    ByteRange, Cloud, CloudError, CloudUsage, ErrorKind, Object, ObjectInfo, ObjectKey, Page,
    Payload, Result, WriteMode,
};
use tokio::sync::Mutex;

use crate::{Configuration, Connector, ConnectorCloud, ConnectorError, CredentialDocuments};

/// The least time between two readings of the documents: a command may cost something, and a key
/// that stays wrong is asked for by every call.
const BETWEEN: Duration = Duration::from_secs(10);

/// Reads a cloud's credential documents; may block.
pub type ReadCredentials = dyn Fn() -> Result<CredentialDocuments, String> + Send + Sync;

/// A cloud behind a connector, whose credentials are read again where the service refuses them; a
/// call that was refused is then made once more.
///
/// **Invariant:** a call has one generation of credentials throughout. Those under way end with the
/// one that they began with.
pub struct RotatingCloud {
    name: String,
    connector: Connector,
    configuration: Configuration,
    read: Arc<ReadCredentials>,
    // A std lock: held while an Arc is copied.
    current: RwLock<Arc<ConnectorCloud>>,
    /// What the current one has, and when the documents were read last. Held while they are read:
    /// one reads for all.
    documents: Mutex<(CredentialDocuments, Option<Instant>)>,
}

impl fmt::Debug for RotatingCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotatingCloud")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl RotatingCloud {
    /// A cloud with the credentials that `read` gives now, and gives anew when they are refused.
    /// Sends nothing; reads, so it may block.
    ///
    /// # Errors
    /// As [`ConnectorCloud::new`], and [`ConnectorError::Credentials`] with what `read` says.
    pub fn new(
        name: &str,
        connector: &Connector,
        configuration: Configuration,
        read: Arc<ReadCredentials>,
    ) -> Result<Self, ConnectorError> {
        let documents = read().map_err(ConnectorError::Credentials)?;
        let configuration = Configuration {
            credentials: documents.clone(),
            ..configuration
        };
        let first = ConnectorCloud::new(name, connector, &configuration)?;
        Ok(Self {
            name: name.to_owned(),
            connector: connector.clone(),
            configuration,
            read,
            current: RwLock::new(Arc::new(first)),
            documents: Mutex::new((documents, None)),
        })
    }

    fn current(&self) -> Arc<ConnectorCloud> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The cloud with other credentials than `refused` has, where there are others.
    async fn after(
        &self,
        refused: &Arc<ConnectorCloud>,
        e: &CloudError,
    ) -> Option<Arc<ConnectorCloud>> {
        if e.kind != ErrorKind::Unauthenticated {
            return None;
        }
        let mut documents = self.documents.lock().await;
        let current = self.current();
        if !Arc::ptr_eq(&current, refused) {
            // Another call's refusal has changed them meanwhile.
            return Some(current);
        }
        if documents.1.is_some_and(|last| last.elapsed() < BETWEEN) {
            return None;
        }
        documents.1 = Some(Instant::now());
        let read = self.read.clone();
        let found = match tokio::task::spawn_blocking(move || read()).await {
            Ok(Ok(found)) => found,
            Ok(Err(why)) => {
                tracing::warn!(
                    cloud = self.name,
                    "its credentials are refused, and cannot be read again: {why}"
                );
                return None;
            }
            Err(_) => return None,
        };
        if found == documents.0 {
            return None;
        }
        let configuration = Configuration {
            credentials: found.clone(),
            ..self.configuration.clone()
        };
        match ConnectorCloud::new(&self.name, &self.connector, &configuration) {
            Ok(cloud) => {
                tracing::info!(cloud = self.name, "its credentials are others now");
                let cloud = Arc::new(cloud);
                documents.0 = found;
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = cloud.clone();
                Some(cloud)
            }
            Err(why) => {
                tracing::warn!(
                    cloud = self.name,
                    "its credentials are refused, and the new ones are wrong: {why}"
                );
                None
            }
        }
    }
}

/// Makes a call, and once more where its credentials were refused and are others now.
macro_rules! rotating {
    ($self:ident, $cloud:ident => $call:expr) => {{
        let $cloud = $self.current();
        match $call.await {
            Err(e) => match $self.after(&$cloud, &e).await {
                Some($cloud) => $call.await,
                None => Err(e),
            },
            done => done,
        }
    }};
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Cloud for RotatingCloud {
    fn name(&self) -> &str {
        &self.name
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        self.current().describe().await
    }

    async fn probe(&self) -> Result<()> {
        rotating!(self, cloud => cloud.probe())
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        rotating!(self, cloud => cloud.put(key, content.clone(), mode.clone()))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        rotating!(self, cloud => cloud.get(key, range, if_match))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        rotating!(self, cloud => cloud.head(key))
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&str>) -> Result<()> {
        rotating!(self, cloud => cloud.delete(key, if_match))
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        rotating!(self, cloud => cloud.list(prefix, cursor, limit))
    }

    async fn create_container(&self) -> Result<()> {
        rotating!(self, cloud => cloud.create_container())
    }

    async fn delete_container(&self) -> Result<()> {
        rotating!(self, cloud => cloud.delete_container())
    }

    async fn usage(&self) -> Result<CloudUsage> {
        rotating!(self, cloud => cloud.usage())
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, CloudError)>> {
        rotating!(self, cloud => cloud.delete_many(keys))
    }
}
