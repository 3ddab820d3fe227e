//! Reads listings of a cloud page by page, to their end or to an error.
//!
//! **Invariant:** a listing has bounds: a cloud that lists too much, or without an end, gives an
//! error.

use std::sync::Arc;

use raic_cloud::{Cloud, CloudError, ErrorKind, Listed, MAX_PAGE, Operation};

use crate::Result;

/// Most pages in a row that may be empty in a listing that goes on. After many deletions, some
/// services still page over the deleted objects. Empty folders are walked two dozen at a time.
const MAX_EMPTY: u32 = 4096;

/// A listing that is read page by page.
pub(crate) struct Pages {
    cloud: Arc<dyn Cloud>,
    prefix: String,
    cursor: Option<String>,
    is_at_end: bool,
    /// Number of entries that may still come.
    room: u64,
    /// Number of empty pages in a row so far.
    empty: u32,
    /// The last key so far, if the cloud lists in the order of keys.
    last: Option<String>,
    is_ordered: bool,
}

impl Pages {
    /// Begins a listing of the objects below `prefix`, which may be at most `most`.
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

    /// Reads the next page; `None` after the last one.
    ///
    /// # Errors
    /// Fails if the cloud does. Also fails if the listing has more entries than were allowed, goes
    /// on without any, or is out of order although the cloud says that its listings are ordered.
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
                        "is out of order, or names an object twice, although the cloud says that \
                         its listings are ordered",
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
