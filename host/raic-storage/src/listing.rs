//! Listings of a cloud, page by page, to their end or to an error: what a cloud lists is not
//! believed without bounds.

use std::sync::Arc;

use raic_cloud::{Cloud, CloudError, ErrorKind, Listed, MAX_PAGE, Operation};

use crate::Result;

/// Pages of one listing that may be empty and go on, one after another: where much was deleted,
/// some services list what was there, and folders that are left are walked two dozen at a time.
const MAX_EMPTY: u32 = 4096;

/// A listing that is read page by page.
pub(crate) struct Pages {
    cloud: Arc<dyn Cloud>,
    prefix: String,
    cursor: Option<String>,
    is_at_end: bool,
    /// Entries that may still come.
    room: u64,
    empty: u32,
    /// The last key, where pages come in the order of their keys.
    last: Option<String>,
    is_ordered: bool,
}

impl Pages {
    /// Lists the objects below `prefix`, `most` of them and no more.
    pub(crate) async fn new(cloud: &Arc<dyn Cloud>, prefix: String, most: u64) -> Result<Self> {
        let described = cloud.describe().await.unwrap_or_default();
        let is_ordered = described
            .iter()
            .any(|(name, value)| name == "ordered-list" && value == "yes");
        let (cursor, last) = (None, None);
        Ok(Self {
            cloud: cloud.clone(),
            prefix,
            cursor,
            is_at_end: false,
            room: most,
            empty: 0,
            last,
            is_ordered,
        })
    }

    fn broken(&self, why: &str) -> crate::StorageError {
        let why = format!("the listing of {} {why}", self.prefix);
        CloudError::new(ErrorKind::Protocol, self.cloud.name(), Operation::List, why).into()
    }

    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// The cloud's; and if the listing has more entries than were allowed, goes on without any, or
    /// is out of order though the cloud says that it is ordered.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Listed>>> {
        if self.is_at_end {
            return Ok(None);
        }
        let page = self
            .cloud
            .list(&self.prefix, self.cursor.as_deref(), MAX_PAGE)
            .await?;
        self.empty = if page.entries.is_empty() {
            self.empty + 1
        } else {
            0
        };
        if page.next.is_some() && (page.next == self.cursor || self.empty > MAX_EMPTY) {
            return Err(self.broken("goes on without an end"));
        }
        self.room = match self.room.checked_sub(page.entries.len() as u64) {
            Some(room) => room,
            None => return Err(self.broken("has far more objects than were stored there")),
        };
        if self.is_ordered {
            for entry in &page.entries {
                if self
                    .last
                    .as_deref()
                    .is_some_and(|last| last >= entry.key.as_str())
                {
                    return Err(self.broken(
                        "is out of order, or names an object twice, though the cloud says that it is ordered",
                    ));
                }
                self.last = Some(entry.key.as_str().to_owned());
            }
        }
        self.is_at_end = page.next.is_none();
        self.cursor = page.next;
        Ok(Some(page.entries))
    }
}
