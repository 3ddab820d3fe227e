//! Deletes the shares that no file names any longer, as the catalog's durable table of deletions says.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use raic_storage::Backend;

use crate::{Result, array::Inner, catalog::Placed};

/// How often deletions that failed, or were too early, are looked for.
const PAUSE: Duration = Duration::from_secs(20);
/// Shares looked up at once.
const BATCH: u32 = 64;
/// Shares deleted at once on one cloud.
const AT_ONCE: usize = 4;

impl Inner {
    /// Deletes what is queued for one server, for as long as the array runs.
    pub(crate) async fn delete_for_ever(self: Arc<Self>, server: usize) {
        let mut queued = self.deletions_queued.subscribe();
        loop {
            match self.delete_some(&*self.servers[server]).await {
                Ok(0) => {
                    // Woken by a removal, or to try again what failed or was too early.
                    let _ = tokio::time::timeout(PAUSE, queued.changed()).await;
                }
                Ok(_) => {}
                Err(e) => {
                    tracing::warn!("deletions: {e}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// How many were tried.
    async fn delete_some(&self, server: &dyn Backend) -> Result<usize> {
        let due = self.catalog.due_deletions(server.name().to_owned(), BATCH).await?;
        let tried = stream::iter(due).map(|placed| self.delete_one(server, placed)).buffer_unordered(AT_ONCE);
        let tried: Vec<Result<bool>> = tried.collect().await;
        tried.into_iter().try_fold(0, |sum, tried| Ok(sum + usize::from(tried?)))
    }

    async fn delete_one(&self, server: &dyn Backend, placed: Placed) -> Result<bool> {
        if self.reading().contains_key(&placed.index) {
            return Ok(false);
        }
        let Placed { index, share, objects, .. } = &placed;
        let error = server.remove(*index, *share, *objects).await.err().map(|e| e.to_string());
        if let Some(error) = &error {
            tracing::warn!("deleting share {share} of {index}: {error}; tried again later");
        }
        self.catalog.deletion_tried(placed, error).await?;
        Ok(true)
    }
}
