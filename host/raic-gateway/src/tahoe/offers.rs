//! [`Offers`]: what each storage server offers its clients. They ask every second, and no question
//! goes to a cloud: a worker looks at the clouds that clients ask for.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use parking_lot::Mutex;
use raic_storage::{AccountId, LeaseDb, MAX_MUTABLE, MAX_SHARE, Result, ServerId, StorageServer};

use super::messages::Offer;
use crate::Live;

/// Bytes that are offered where a cloud tells no space.
const PLENTY: u64 = 1 << 60;
/// How often a cloud is looked at while clients ask.
const LOOK: Duration = Duration::from_secs(30);
/// Longest time that a look may take. A cloud that takes longer counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(10);
/// A cloud is not looked at any longer if no client has asked for so long.
const WANTED: Duration = Duration::from_secs(120);

/// What the worker saw of a cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// Whether the cloud answers and may be written to.
    stores: bool,
    /// Bytes that it can still take; `None` if it does not tell.
    available: Option<u64>,
}

#[derive(Debug, Default)]
struct Known {
    asked: Option<Instant>,
    seen: Option<(Seen, Instant)>,
}

/// What each storage server offers.
#[derive(Debug, Default)]
pub(crate) struct Offers(Mutex<HashMap<ServerId, Known>>);

impl Offers {
    /// Returns what a storage server offers an account now. A server that is read-only, full or
    /// unreachable offers no room for shares; clients read from it all the same.
    pub(crate) async fn to(
        &self,
        account: AccountId,
        server: &StorageServer,
        leasedb: &LeaseDb,
    ) -> Result<Offer> {
        let seen = {
            let mut known = self.0.lock();
            let known = known.entry(server.id()).or_default();
            known.asked = Some(Instant::now());
            known.seen.map(|(seen, _)| seen)
        };
        // Before the first look nothing is known to be wrong.
        let seen = seen.unwrap_or(Seen {
            stores: true,
            available: None,
        });
        let stores = seen.stores && server.refusal().is_none();
        let room = leasedb.room_of(account).await?;
        let available = match stores {
            true => seen.available.unwrap_or(PLENTY).min(room.unwrap_or(PLENTY)),
            false => 0,
        };
        Ok(Offer {
            // Less than the largest share by what its header may take.
            immutable: available.min(MAX_SHARE - 64),
            mutable: MAX_MUTABLE,
            available,
        })
    }

    /// Returns whether a server takes shares, and the bytes that it can still take, by the last
    /// look.
    pub(crate) fn seen(&self, server: &StorageServer) -> (bool, Option<u64>) {
        let known = self.0.lock();
        let seen = known.get(&server.id()).and_then(|known| known.seen);
        let (stores, available) = seen.map_or((true, None), |(s, _)| (s.stores, s.available));
        (stores && server.refusal().is_none(), available)
    }

    /// Looks at the clouds that clients ask for, for ever.
    pub(crate) async fn look_for_ever(&self, live: Live) {
        loop {
            let now = live.now();
            let due = now.servers.iter().filter(|server| self.is_due(server.id()));
            let looks = due.map(|server| self.look(server));
            join_all(looks).await;
            // So a reload's servers do not wait for the next look.
            drop(now);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Looks at servers that were not looked at lately.
    pub(crate) async fn look_at(&self, servers: &[Arc<StorageServer>]) {
        let is_old = |server: &&Arc<StorageServer>| {
            let known = self.0.lock();
            let seen = known.get(&server.id()).and_then(|known| known.seen);
            seen.is_none_or(|(_, at)| at.elapsed() > LOOK)
        };
        let looks = servers
            .iter()
            .filter(is_old)
            .map(|server| self.look(server));
        join_all(looks).await;
    }

    fn is_due(&self, server: ServerId) -> bool {
        let known = self.0.lock();
        known.get(&server).is_some_and(|known| {
            known.asked.is_some_and(|asked| asked.elapsed() < WANTED)
                && known.seen.is_none_or(|(_, at)| at.elapsed() > LOOK)
        })
    }

    async fn look(&self, server: &Arc<StorageServer>) {
        let looked = async {
            // A container whose owner is not known yet takes nothing.
            server.require_writable().await?;
            server.condition().await
        };
        let seen = match tokio::time::timeout(PATIENCE, looked).await {
            Ok(Ok(condition)) => Seen {
                stores: condition.stores,
                available: condition.available,
            },
            _ => Seen {
                stores: false,
                available: None,
            },
        };
        let mut known = self.0.lock();
        let before = &mut known.entry(server.id()).or_default().seen;
        if before.is_some_and(|(before, _)| before.stores != seen.stores) || before.is_none() {
            let name = server.name();
            match seen.stores {
                true => tracing::info!("cloud {name:?} takes shares of Tahoe clients"),
                false => tracing::warn!("cloud {name:?} takes no shares of Tahoe clients now"),
            }
        }
        *before = Some((seen, Instant::now()));
    }
}
