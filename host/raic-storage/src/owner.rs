//! Every container has an owner: the object `raic/owner.EPOCH.DBID`, which says which array's which cloud it is, and which
//! database may change what is in it.
//!
//! | bytes | | |
//! | --- | --- | --- |
//! | 0 | 8 | `RAICOWN1` |
//! | 8 | 16 | array id |
//! | 24 | 4 | the cloud's number in the array |
//! | 28 | 4 | epoch |
//! | 32 | 16 | database id |
//! | 48 | 32 | BLAKE3 keyed by the array's key over all above |

use crate::{Backend, Identity, Result, ServerId, StorageError, StorageIndex};

const MAGIC: &[u8; 8] = b"RAICOWN1";
const LEN: usize = 80;
const PREFIX: &str = "owner.";

/// Who owns an array's containers.
#[derive(Clone)]
pub struct Owner {
    /// The array.
    pub array: [u8; 16],
    /// Under which owner objects, and the commits of mutable shares, are authenticated; derived from the array's key.
    pub key: [u8; 32],
    /// The database, and its epoch.
    pub identity: Identity,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owner").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What a container's owner objects say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is this database's, as this cloud.
    Ours,
    /// It is this database's, of before its epoch was raised.
    OursBefore,
    /// It has no owner.
    Unowned,
    /// An older host of this array had it, of this or a lower epoch, as this cloud; its database is another.
    OtherDatabase {
        /// The highest epoch that was seen.
        epoch: u32,
    },
    /// It is this array's as another cloud.
    OtherCloud {
        /// That cloud's number.
        number: u32,
    },
    /// It is another array's, or not to be told.
    OtherArray,
}

/// A record that was read.
struct Record {
    number: u32,
    epoch: u32,
    database: StorageIndex,
}

impl Owner {
    /// The name of this database's owner object, below `raic/`.
    pub fn object(&self) -> String {
        format!("{PREFIX}{}.{}", self.identity.epoch, self.identity.database)
    }

    fn mac(&self, body: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(&self.key, body).into()
    }

    /// The content of this database's owner object for a cloud.
    pub fn encode(&self, server: ServerId) -> Vec<u8> {
        let mut body = Vec::with_capacity(LEN);
        body.extend_from_slice(MAGIC);
        body.extend_from_slice(&self.array);
        body.extend_from_slice(&server.number().to_be_bytes());
        body.extend_from_slice(&self.identity.epoch.to_be_bytes());
        body.extend_from_slice(&self.identity.database.0);
        let mac = self.mac(&body);
        body.extend_from_slice(&mac);
        body
    }

    /// Reads an owner object; none where it is not of this array.
    fn decode(&self, bytes: &[u8]) -> Option<Record> {
        let (body, mac) = bytes.split_at_checked(LEN - 32).filter(|_| bytes.len() == LEN)?;
        if blake3::Hash::from(self.mac(body)) != blake3::Hash::from_slice(mac).ok()?
            || body[8..24] != self.array
        {
            return None;
        }
        let number = |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let database = StorageIndex(body[32..48].try_into().ok()?);
        body.starts_with(MAGIC).then_some(Record { number: number(24)?, epoch: number(28)?, database })
    }

    /// Reads what a container's owner objects say.
    ///
    /// # Errors
    /// Where they cannot be had: then nothing is known.
    pub async fn check(&self, backend: &dyn Backend, server: ServerId) -> Result<Ownership> {
        let mut names = backend.objects(PREFIX).await?;
        // By its exact name as well: a listing may be late.
        let own = self.object();
        if !names.contains(&own) {
            names.push(own.clone());
        }
        let (mut ours, mut before, mut highest) = (false, false, None);
        for name in names {
            let Some(bytes) = backend.load_object(&name).await? else { continue };
            let Some(record) = self.decode(&bytes) else { return Ok(Ownership::OtherArray) };
            // Numbers are given by each database anew: another one's say nothing of ours.
            if record.database == self.identity.database && record.number != server.number() {
                return Ok(Ownership::OtherCloud { number: record.number });
            }
            if record.database == self.identity.database && record.epoch == self.identity.epoch {
                ours = true;
            } else if record.database == self.identity.database {
                before = true;
            } else {
                highest = highest.max(Some(record.epoch));
            }
        }
        Ok(match highest {
            Some(epoch) if epoch >= self.identity.epoch => Ownership::OtherDatabase { epoch },
            _ if ours => Ownership::Ours,
            _ if before => Ownership::OursBefore,
            Some(epoch) => Ownership::OtherDatabase { epoch },
            None => Ownership::Unowned,
        })
    }

    /// Writes this database's owner object into a container, and looks whether another did at the same time.
    ///
    /// # Errors
    /// The backend's.
    pub async fn claim(&self, backend: &dyn Backend, server: ServerId) -> Result<Ownership> {
        backend.store_object(&self.object(), self.encode(server).into()).await?;
        self.check(backend, server).await
    }
}

impl Ownership {
    /// Why nothing may be written or deleted, and what to do; none where it may.
    pub fn refusal(&self, cloud: &str) -> Option<String> {
        match self {
            Self::Ours | Self::OursBefore => None,
            Self::Unowned => Some(format!(
                "its container has lost its owner object, as where a disk is not mounted or a bucket was emptied; if \
                 it is the right one, `raic cloud adopt {cloud}` takes it"
            )),
            Self::OtherDatabase { epoch } => Some(format!(
                "its container belongs to another database of this array (epoch {epoch}): a host that took it over, or \
                 the one whose database was lost; if that host is gone, `raic lease rebuild` takes the containers over"
            )),
            Self::OtherCloud { number } => Some(format!(
                "its container is this array's as cloud number {number}: it is configured twice, or two clouds were \
                 swapped; correct config.toml"
            )),
            Self::OtherArray => Some(
                "its container belongs to another array, or to another key; give this array a container of its own, \
                 or a `prefix`"
                    .to_owned(),
            ),
        }
    }

    /// As an error of a write.
    pub(crate) fn writable(&self, cloud: &str) -> Result<()> {
        self.refusal(cloud)
            .map_or(Ok(()), |reason| Err(StorageError::ReadOnly { backend: cloud.to_owned(), reason }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryBackend;

    fn owner(array: u8, database: u8, epoch: u32) -> Owner {
        let identity = Identity { database: StorageIndex([database; 16]), epoch };
        Owner { array: [array; 16], key: [array; 32], identity }
    }

    #[tokio::test]
    async fn a_container_tells_whose_it_is() {
        let (first, second) = (ServerId(1), ServerId(2));
        let ours = owner(1, 1, 1);
        let backend = MemoryBackend::new("m");
        assert_eq!(ours.check(&backend, first).await.unwrap(), Ownership::Unowned);
        assert_eq!(ours.claim(&backend, first).await.unwrap(), Ownership::Ours);
        // The same container under another name; another array; a database that knows nothing of it.
        assert_eq!(ours.check(&backend, second).await.unwrap(), Ownership::OtherCloud { number: 1 });
        assert_eq!(owner(2, 2, 1).check(&backend, first).await.unwrap(), Ownership::OtherArray);
        assert_eq!(
            owner(1, 2, 1).check(&backend, first).await.unwrap(),
            Ownership::OtherDatabase { epoch: 1 }
        );
        // Taken over by a higher epoch: the old host sees it, the new one is not disturbed by the old object.
        let newer = owner(1, 2, 2);
        assert_eq!(newer.claim(&backend, first).await.unwrap(), Ownership::Ours);
        assert_eq!(ours.check(&backend, first).await.unwrap(), Ownership::OtherDatabase { epoch: 2 });
        assert!(ours.check(&backend, first).await.unwrap().writable("m").is_err());
        // Two of one epoch: neither may write.
        assert_eq!(
            owner(1, 3, 2).claim(&backend, first).await.unwrap(),
            Ownership::OtherDatabase { epoch: 2 }
        );
        assert_eq!(newer.check(&backend, first).await.unwrap(), Ownership::OtherDatabase { epoch: 2 });
    }

    #[test]
    fn an_owner_object_cannot_be_made_or_changed_without_the_key() {
        let bytes = owner(1, 1, 1).encode(ServerId(7));
        assert_eq!(owner(1, 9, 3).decode(&bytes).unwrap().number, 7);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(owner(1, 1, 1).decode(&changed).is_none(), "{at}");
        }
        assert!(owner(1, 1, 1).decode(&bytes[..79]).is_none());
    }
}
