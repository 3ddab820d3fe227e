//! The array that is open now, for every door.

use std::sync::Arc;

use parking_lot::RwLock;
use raic_array::Array;

/// The array that is open now. Clones share it, so that every door sees the array that a reload
/// opened; a request goes on with the array that it began with.
#[derive(Clone, Debug)]
pub struct Live(Arc<RwLock<Arc<Array>>>);

impl Live {
    /// Serves `array` from now on.
    pub fn new(array: Array) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(array))))
    }

    /// The array that is open now.
    pub fn array(&self) -> Arc<Array> {
        self.0.read().clone()
    }

    /// Puts another array in the place of the one that was open. That one ends when the requests
    /// that use it have.
    pub fn replace(&self, array: Array) {
        *self.0.write() = Arc::new(array);
    }
}
