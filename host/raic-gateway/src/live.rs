//! [`Live`]: what is open now, for every door.

use std::sync::Arc;

use parking_lot::RwLock;
use raic_array::{Array, ArrayError};
use raic_storage::{LeaseDb, StorageServer};

/// What a configuration opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The database of the leases.
    pub leasedb: LeaseDb,
    /// The storage servers, in the order of their clouds' names.
    pub servers: Vec<Arc<StorageServer>>,
    /// The array over these servers; `None` if the configuration has none.
    pub array: Option<Arc<Array>>,
}

/// Holds what is open now. Clones share it, so that every door sees what a reload opened. A request
/// goes on with what it began with.
#[derive(Clone, Debug)]
pub struct Live(Arc<RwLock<Arc<Opened>>>);

impl Live {
    /// Makes a holder of `opened`.
    pub fn new(opened: Opened) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(opened))))
    }

    /// Returns what is open now.
    pub fn now(&self) -> Arc<Opened> {
        self.0.read().clone()
    }

    /// Returns the array that is open now.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoArray`] if the configuration has none.
    pub fn array(&self) -> Result<Arc<Array>, ArrayError> {
        self.now().array.clone().ok_or(ArrayError::NoArray)
    }

    /// Replaces what is open by `opened`. What was open is dropped when the requests that use it
    /// have ended.
    pub fn replace(&self, opened: Opened) {
        *self.0.write() = Arc::new(opened);
    }
}
