//! Keeps a copy of the keyring on every cloud, so that the clouds and the recovery key suffice to
//! rebuild everything.
//!
//! The database records which clouds have a copy. Every run of the array verifies each record once,
//! by reading the copy. The cloud may have been wiped, or its name may stand for another cloud now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use raic_storage::{StorageError, StorageServer};

use crate::{ArrayError, Result, array::Inner, format::KeyId};

/// Pause before the clouds whose copy is not verified are asked again.
const PAUSE: Duration = Duration::from_secs(20);
/// Longest time that one cloud may take to verify or store its copy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The state of the copies, as this run of the array has verified them.
#[derive(Debug, Default)]
pub(crate) struct KeyringCopies {
    verified: Mutex<BTreeSet<String>>,
    faults: Mutex<BTreeMap<String, String>>,
    /// Whether this run knows that the newest generation was once on enough clouds.
    is_active: AtomicBool,
}

impl KeyringCopies {
    /// Returns the reason why a cloud has no copy, if it is known.
    pub(crate) fn fault(&self, cloud: &str) -> Option<String> {
        self.faults.lock().get(cloud).cloned()
    }

    /// Records the fault of a cloud that has no copy; `None` removes it.
    fn failed(&self, cloud: &str, fault: Option<String>) {
        let Some(fault) = fault else {
            self.faults.lock().remove(cloud);
            return;
        };
        // The log has a fault once, not at every try.
        if self
            .faults
            .lock()
            .insert(cloud.to_owned(), fault.clone())
            .as_ref()
            != Some(&fault)
        {
            tracing::warn!("a copy of the keyring is missing: {fault}");
        }
    }
}

impl Inner {
    /// Returns the names of the configured clouds that have a copy of the keyring.
    pub(crate) async fn keyring_holders(&self) -> Result<Vec<String>> {
        let mut holders = self.catalog.keyring_copies(self.keyring.newest()).await?;
        holders.retain(|cloud| self.servers.iter().any(|server| server.name() == cloud));
        Ok(holders)
    }

    /// Returns the generation of the keyring that wraps the keys of new streams: the newest that
    /// may be used. One may once it was on n-k+1 clouds, because then any k clouds had it. A copy
    /// that is lost later is made anew and stops no write: writes must go on although some clouds
    /// were emptied or lie. Until enough clouds have a new generation, the one before is used.
    ///
    /// # Errors
    /// Fails with [`ArrayError::KeyringNotStored`] if too few clouds have a copy of the only
    /// generation, and with [`ArrayError::Database`] if the database fails.
    pub(crate) async fn wrapping_generation(&self) -> Result<KeyId> {
        let newest = self.keyring.newest();
        if self.keyring_copies.is_active.load(Ordering::Relaxed)
            || self.catalog.is_keyring_active(newest).await?
        {
            self.keyring_copies.is_active.store(true, Ordering::Relaxed);
            return Ok(newest);
        }
        let mut older = None;
        for id in self.keyring.ids().into_iter().skip(1) {
            if self.catalog.is_keyring_active(id).await? {
                older = Some(id);
                break;
            }
        }
        // A copy is left wherever a file of any class can be read.
        let needed = self.classes.most_lost(self.servers.len()) + 1;
        // With another generation to use, nobody waits: the copies are kept beside the requests.
        if older.is_none() && self.keyring_holders().await?.len() < needed {
            self.copy_keyring(Some(needed)).await?;
        }
        let stored = self.keyring_holders().await?.len();
        match older {
            _ if stored >= needed => {
                self.catalog.activate_keyring(newest).await?;
                Ok(newest)
            }
            Some(older) => Ok(older),
            None => Err(ArrayError::KeyringNotStored { stored, needed }),
        }
    }

    /// Keeps a copy of the keyring on every cloud, for as long as the array runs.
    pub(crate) async fn keep_keyring_copies(self: Arc<Self>) {
        loop {
            if let Err(e) = self.copy_keyring(None).await {
                tracing::warn!("the copies of the keyring cannot be kept: {e}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Verifies the copies that were not verified yet, and makes those that are missing. Returns
    /// when `enough` clouds have a copy, or every cloud was asked. It may run more than once at a
    /// time, because all copies are the same.
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
                        .keyring_stored(cloud.clone(), self.keyring.newest())
                        .await?;
                }
                Ok::<_, ArrayError>((cloud, copied))
            })
            .collect();
        // Nothing else is awaited in this loop: copies that wait for the database would hold its
        // readers and not be polled.
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

    /// Verifies a server's copy, or makes it if it is missing.
    ///
    /// # Errors
    /// Fails with the fault as a sentence, or with `None` if the storage server reports the fault
    /// itself.
    async fn copy_keyring_to(&self, server: &StorageServer) -> Result<(), Option<String>> {
        let generation = self.keyring.generation();
        let copy = copy_of(server, generation).await?;
        if copy.as_ref() == Some(&self.sealed_keyring) {
            return Ok(());
        }
        // The record of a copy, if there is one, is of another container or of another time.
        self.catalog
            .keyring_missing(server.name().to_owned())
            .await
            .map_err(|e| Some(e.to_string()))?;
        make_copy(server, generation, copy, self.sealed_keyring.clone()).await
    }
}

fn object_of(generation: u32) -> String {
    format!("keyring.{generation}")
}

/// Returns the sentence of a fault. For a container that may not be written to, the storage server
/// reports the reason until it is mended.
fn fault_of(e: StorageError) -> Option<String> {
    match e {
        StorageError::ReadOnly { .. } => None,
        e => Some(e.to_string()),
    }
}

async fn copy_of(server: &StorageServer, generation: u32) -> Result<Option<Bytes>, Option<String>> {
    let copy = server.load_object(&object_of(generation)).await;
    copy.map_err(fault_of)
}

/// Stores the sealed keyring on a server that has no copy.
async fn make_copy(
    server: &StorageServer,
    generation: u32,
    copy: Option<Bytes>,
    sealed: Bytes,
) -> Result<(), Option<String>> {
    match copy {
        None => server
            .store_object(&object_of(generation), sealed)
            .await
            .map_err(fault_of),
        // Another keyring is never replaced: without it, its array could not be recovered.
        Some(_) => Err(Some(format!(
            "cloud {:?}: its copy of the keyring is not this home's secrets/keyring.sealed. If the \
             other clouds report the same, that file is damaged or belongs to another home: put \
             the right one back. If only this cloud does, the copy was changed there",
            server.name()
        ))),
    }
}

/// Keeps a copy of the keyring on storage servers without an array, for ever. Doors derive their
/// keys and ids from the keyring, so that they are there again after a lost host.
pub async fn keep_keyring_copies(servers: Vec<Arc<StorageServer>>, generation: u32, sealed: Bytes) {
    let mut lacking: Vec<_> = servers.iter().collect();
    let mut told = BTreeSet::new();
    while !lacking.is_empty() {
        let mut still = Vec::new();
        for server in lacking {
            let copied = async {
                let copy = copy_of(server, generation).await?;
                match copy.as_ref() == Some(&sealed) {
                    true => Ok(()),
                    false => make_copy(server, generation, copy, sealed.clone()).await,
                }
            };
            let copied = tokio::time::timeout(PATIENCE, copied).await;
            let Err(fault) = copied.unwrap_or(Err(None)) else {
                continue;
            };
            // The log has a fault once, not at every try.
            if let Some(fault) = fault
                && told.insert(fault.clone())
            {
                tracing::warn!("a copy of the keyring is missing: {fault}");
            }
            still.push(server);
        }
        lacking = still;
        if !lacking.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    std::future::pending().await
}
