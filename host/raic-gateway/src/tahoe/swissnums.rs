//! [`Swissnums`]: which account and storage server a swissnum stands for.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use raic_storage::{AccountId, LeaseDb, Result, ServerId, StorageServer};
use ring::{
    digest::{SHA256, digest},
    hmac,
    rand::SystemRandom,
};

use super::TahoeIdentity;

/// How often the accounts are read again at most, because a swissnum is unknown.
const AGAIN: Duration = Duration::from_secs(1);

/// What a swissnum stands for: one storage server, in the name of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client {
    pub(crate) server: ServerId,
    pub(crate) account: AccountId,
}

type Tag = [u8; 32];

/// The swissnums of all accounts and storage servers. They are looked up by a keyed hash, whose
/// time tells nothing about how much of a guess is right.
#[derive(Debug)]
pub(crate) struct Swissnums {
    identity: TahoeIdentity,
    /// `None` if the system gives no random numbers. Then nobody is let in.
    key: Option<hmac::Key>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<Tag, Client>,
    read: Option<Instant>,
    /// Rises when the table is forgotten. A table that was read before does not count after.
    generation: u64,
}

impl Swissnums {
    pub(crate) fn new(identity: TahoeIdentity) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self {
            identity,
            key: key.ok(),
            table: Mutex::default(),
        }
    }

    fn tag(&self, presented: &[u8]) -> Option<Tag> {
        let tag = hmac::sign(self.key.as_ref()?, digest(&SHA256, presented).as_ref());
        tag.as_ref().try_into().ok()
    }

    /// Forgets the table, because accounts or storage servers changed.
    pub(crate) fn forget(&self) {
        let mut table = self.table.lock();
        *table = Table {
            generation: table.generation + 1,
            ..Table::default()
        };
    }

    /// Returns what a swissnum stands for; `None` if it is not known. Accounts that were made since
    /// are found.
    pub(crate) async fn find(
        &self,
        presented: &[u8],
        leasedb: &LeaseDb,
        servers: &[Arc<StorageServer>],
    ) -> Result<Option<Client>> {
        let Some(tag) = self.tag(presented) else {
            return Ok(None);
        };
        loop {
            if let Some(found) = self.look(tag, leasedb, servers).await? {
                return Ok(found);
            }
        }
    }

    /// Looks a swissnum up. Returns `None` if the accounts changed while they were read: then they
    /// must be read anew.
    async fn look(
        &self,
        tag: Tag,
        leasedb: &LeaseDb,
        servers: &[Arc<StorageServer>],
    ) -> Result<Option<Option<Client>>> {
        let (known, is_fresh, generation) = {
            let table = self.table.lock();
            let is_fresh = table.read.is_some_and(|read| read.elapsed() < AGAIN);
            (table.clients.get(&tag).copied(), is_fresh, table.generation)
        };
        if known.is_some() || is_fresh {
            return Ok(Some(known));
        }
        let mut clients = HashMap::new();
        for account in leasedb.accounts().await? {
            if account.id.is_own() {
                continue;
            }
            for server in servers {
                let swissnum = self.identity.swissnum(server.id(), &account);
                if let Some(tag) = self.tag(swissnum.text().as_bytes()) {
                    let client = Client {
                        server: server.id(),
                        account: account.id,
                    };
                    clients.insert(tag, client);
                }
            }
        }
        let found = clients.get(&tag).copied();
        let mut table = self.table.lock();
        if table.generation != generation {
            return Ok(None);
        }
        *table = Table {
            clients,
            read: Some(Instant::now()),
            generation,
        };
        Ok(Some(found))
    }
}
