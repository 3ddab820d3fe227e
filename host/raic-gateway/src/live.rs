//! [`Live`]: the array that is open now, for every door.

use std::sync::Arc;

use parking_lot::RwLock;
use raic_array::Array;

/// Holds the array that is open now. Clones share it, so that every door sees the array that a
/// reload opened. A request goes on with the array that it began with.
#[derive(Clone, Debug)]
pub struct Live(Arc<RwLock<Arc<Array>>>);

impl Live {
    /// Makes a holder of `array`.
    pub fn new(array: Array) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(array))))
    }

    /// Returns the array that is open now.
    pub fn array(&self) -> Arc<Array> {
        self.0.read().clone()
    }

    /// Replaces the open array by `array`. The replaced array is dropped when the requests that use
    /// it have ended.
    pub fn replace(&self, array: Array) {
        *self.0.write() = Arc::new(array);
    }
}
