//! Credentials that change while the daemon runs. If the service refuses the current ones, the
//! operator's documents are read again.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::RwLock;
use raic_cloud::{
    ByteRange, Cloud, CloudError, CloudUsage, ErrorKind, Object, ObjectInfo, ObjectKey, Page,
    Payload, Result, WriteMode,
};
use tokio::sync::Mutex;

use crate::{Configuration, Connector, ConnectorCloud, ConnectorError, CredentialDocuments};

/// Shortest time between two readings of the documents. A command may cost something, and every
/// call asks for a reading while a key stays wrong.
const BETWEEN: Duration = Duration::from_secs(10);

/// A function that reads a cloud's credential documents. It may block.
pub type ReadCredentials = dyn Fn() -> Result<CredentialDocuments, String> + Send + Sync;

/// A cloud behind a connector whose credentials can change. If the service refuses the current
/// ones, they are read again; if they have changed, the refused call is repeated once.
///
/// **Invariant:** a request of a call uses one generation of credentials throughout. Calls under
/// way end with the generation that they began with; only the repetition uses the new one.
pub struct RotatingCloud {
    name: String,
    connector: Connector,
    configuration: Configuration,
    read: Arc<ReadCredentials>,
    // A blocking lock, because it is only held while an `Arc` is copied or set.
    current: RwLock<Arc<ConnectorCloud>>,
    /// The documents of the current cloud, and when they were last read again. The lock is held
    /// while they are read, so that one call reads for all.
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
    /// Makes a cloud with the credentials that `read` returns now; `read` is called again if they
    /// are refused. Sends no request, but may block, because it reads.
    ///
    /// # Errors
    /// The errors of [`ConnectorCloud::new`]; [`ConnectorError::Credentials`] with the error of
    /// `read`.
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
        self.current.read().clone()
    }

    /// Returns the cloud with newer credentials than `refused` has. Returns `None` if there are
    /// none, or if `e` does not say that the credentials were refused.
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
            // Another refused call has changed them meanwhile.
            return Some(current);
        }
        if documents.1.is_some_and(|last| last.elapsed() < BETWEEN) {
            return None;
        }
        documents.1 = Some(Instant::now());
        let read = self.read.clone();
        let latest = match tokio::task::spawn_blocking(move || read()).await {
            Ok(Ok(latest)) => latest,
            Ok(Err(why)) => {
                tracing::warn!(
                    cloud = self.name,
                    "its credentials are refused, and cannot be read again: {why}"
                );
                return None;
            }
            Err(_) => return None,
        };
        if latest == documents.0 {
            return None;
        }
        let configuration = Configuration {
            credentials: latest.clone(),
            ..self.configuration.clone()
        };
        match ConnectorCloud::new(&self.name, &self.connector, &configuration) {
            Ok(cloud) => {
                tracing::info!(cloud = self.name, "its credentials have changed");
                let cloud = Arc::new(cloud);
                documents.0 = latest;
                *self.current.write() = cloud.clone();
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

/// Makes a call. If its credentials were refused and have changed since, it makes the call once
/// more.
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
