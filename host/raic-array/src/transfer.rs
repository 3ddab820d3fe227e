//! Counts how far a put or get has come, for the people who wait for it.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
/// Counts the bytes of shares that each cloud has taken or returned. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Transfer(Arc<Mutex<BTreeMap<String, u64>>>);

impl Transfer {
    pub(crate) fn add(&self, cloud: &str, bytes: usize) {
        let mut clouds = self.0.lock();
        match clouds.get_mut(cloud) {
            Some(sum) => *sum += bytes as u64,
            None => drop(clouds.insert(cloud.to_owned(), bytes as u64)),
        }
    }

    /// Returns the bytes of all clouds so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.lock().values().sum()
    }

    /// Returns the bytes of each cloud that took part so far, by the cloud's name.
    pub fn clouds(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }
}
