//! The keyring's copies: one on every cloud, so that the clouds and the recovery key suffice to
//! rebuild everything.
//!
//! What a row says of a cloud is verified once in every run of the array, by reading the copy: the
//! cloud may have been wiped, or another one may stand under its name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use raic_storage::{StorageError, StorageServer};

use crate::{ArrayError, Result, array::Inner};

/// How often the clouds that were not verified are asked again.
const PAUSE: Duration = Duration::from_secs(20);
/// How long one cloud may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What this run of the array learned of the copies.
#[derive(Debug, Default)]
pub(crate) struct KeyringCopies {
    verified: Mutex<BTreeSet<String>>,
    faults: Mutex<BTreeMap<String, String>>,
    /// Whether this generation is known to have been on enough clouds.
    is_active: AtomicBool,
}

impl KeyringCopies {
    /// Why a cloud has no copy.
    pub(crate) fn fault(&self, cloud: &str) -> Option<String> {
        self.faults.lock().get(cloud).cloned()
    }

    fn failed(&self, cloud: &str, fault: Option<String>) {
        let Some(fault) = fault else {
            self.faults.lock().remove(cloud);
            return;
        };
        // Told once, not at every try.
        if self
            .faults
            .lock()
            .insert(cloud.to_owned(), fault.clone())
            .as_ref()
            != Some(&fault)
        {
            tracing::warn!("the keyring's copy: {fault}");
        }
    }
}

impl Inner {
    /// The configured clouds that have the keyring.
    pub(crate) async fn keyring_holders(&self) -> Result<Vec<String>> {
        let mut holders = self
            .catalog
            .keyring_copies(self.keyring.generation())
            .await?;
        holders.retain(|cloud| self.servers.iter().any(|server| server.name() == cloud));
        Ok(holders)
    }

    /// Makes sure that the keyring may be used: a generation may ever after it was on n-k+1 clouds,
    /// since then any k clouds had it. A copy that is lost later is made anew, as a share is, and
    /// refuses no write: of two clouds that were emptied or lie all must go on.
    ///
    /// # Errors
    /// [`ArrayError::KeyringNotStored`].
    pub(crate) async fn keyring_is_stored(&self) -> Result<()> {
        let generation = self.keyring.generation();
        if self.keyring_copies.is_active.load(Ordering::Relaxed)
            || self.catalog.is_keyring_active(generation).await?
        {
            self.keyring_copies.is_active.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let needed = usize::from(self.geometry.n - self.geometry.k) + 1;
        if self.keyring_holders().await?.len() < needed {
            self.copy_keyring(Some(needed)).await?;
        }
        let stored = self.keyring_holders().await?.len();
        if stored < needed {
            return Err(ArrayError::KeyringNotStored { stored, needed });
        }
        self.catalog.activate_keyring(generation).await
    }

    /// Keeps a copy on every cloud, for as long as the array runs.
    pub(crate) async fn keep_keyring_copies(self: Arc<Self>) {
        loop {
            if let Err(e) = self.copy_keyring(None).await {
                tracing::warn!("the keyring's copies: {e}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Verifies the copies that were not yet, and makes those that are missing; returns when
    /// `enough` clouds have one, or each has had its chance. May run more than once at a time: the
    /// copies are all the same.
    async fn copy_keyring(&self, enough: Option<usize>) -> Result<()> {
        let mut holders: BTreeSet<String> = self.keyring_holders().await?.into_iter().collect();
        let verified = self.keyring_copies.verified.lock().clone();
        let others = self
            .servers
            .iter()
            .filter(|server| !verified.contains(server.name()));
        let mut copies: FuturesUnordered<_> = others
            .map(|server| async move {
                let copied = tokio::time::timeout(PATIENCE, self.copy_keyring_to(server)).await;
                let copied = copied.unwrap_or_else(|_| {
                    Err(Some(format!(
                        "cloud {:?}: no answer within {} s",
                        server.name(),
                        PATIENCE.as_secs()
                    )))
                });
                let cloud = server.name().to_owned();
                if copied.is_ok() {
                    self.catalog
                        .keyring_stored(cloud.clone(), self.keyring.generation())
                        .await?;
                }
                Ok::<_, ArrayError>((cloud, copied))
            })
            .collect();
        // Nothing else is awaited in between: copies that wait for the database would hold its
        // readers, and not be polled.
        while let Some(copied) = copies.next().await {
            let (cloud, copied) = copied?;
            match copied {
                Ok(()) => {
                    self.keyring_copies.faults.lock().remove(&cloud);
                    self.keyring_copies.verified.lock().insert(cloud.clone());
                    holders.insert(cloud);
                }
                Err(fault) => {
                    holders.remove(&cloud);
                    self.keyring_copies.failed(&cloud, fault);
                }
            }
            if enough.is_some_and(|enough| holders.len() >= enough) {
                break;
            }
        }
        Ok(())
    }

    /// Fails with what is wrong; with none where the storage server tells that itself.
    async fn copy_keyring_to(&self, server: &StorageServer) -> Result<(), Option<String>> {
        let name = format!("keyring.{}", self.keyring.generation());
        // Of a container that may not be written to there is another word, and it is told until
        // that is mended.
        let told = |e: StorageError| match e {
            StorageError::ReadOnly { .. } => None,
            e => Some(e.to_string()),
        };
        let there = server.load_object(&name).await.map_err(told)?;
        if there.as_ref() == Some(&self.sealed_keyring) {
            return Ok(());
        }
        // Whatever the row said of it was of another place, or of another time.
        self.catalog
            .keyring_missing(server.name().to_owned())
            .await
            .map_err(|e| Some(e.to_string()))?;
        match there {
            None => server
                .store_object(&name, self.sealed_keyring.clone())
                .await
                .map_err(told),
            // Never replaced: without it the other array could not be recovered.
            Some(_) => Err(Some(format!(
                "cloud {:?}: its copy of the keyring is not this home's secrets/keyring.sealed. If the other clouds say the same, that file is \
                 damaged or another home's: put the right one back. If only this one does, it was changed there",
                server.name()
            ))),
        }
    }
}
