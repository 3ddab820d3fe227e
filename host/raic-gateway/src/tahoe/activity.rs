//! [`Activity`]: the leases that clients add and renew, gathered into one event a minute.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use raic_storage::{EventKind, LeaseDb, NewEvent};

use super::swissnums::Client;

/// How often activity is recorded.
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Count {
    requests: u64,
    shares: u64,
}

/// The lease activity that is not recorded yet.
#[derive(Debug, Default)]
pub(crate) struct Activity(Mutex<BTreeMap<Client, Count>>);

impl Activity {
    /// Counts a request that put the client's leases on so many shares.
    pub(crate) fn leased(&self, client: Client, shares: usize) {
        let mut counts = self.0.lock();
        let count = counts.entry(client).or_default();
        count.requests += 1;
        count.shares += shares as u64;
    }

    /// Records what was counted.
    pub(crate) async fn record(&self, leasedb: &LeaseDb) {
        let counts = std::mem::take(&mut *self.0.lock());
        let events = counts.into_iter().map(|(client, count)| NewEvent {
            kind: EventKind::Leases,
            server: Some(client.server),
            account: Some(client.account),
            text: format!(
                "leases on {} shares were added or renewed, by {} requests",
                count.shares, count.requests
            ),
        });
        if let Err(e) = leasedb.record_events(events.collect()).await {
            tracing::warn!("the activity of leases is not recorded: {e}");
        }
    }

    /// Records each minute what was counted, for ever.
    pub(crate) async fn record_for_ever(&self, leasedb: LeaseDb) {
        loop {
            tokio::time::sleep(MINUTE).await;
            self.record(&leasedb).await;
        }
    }
}
