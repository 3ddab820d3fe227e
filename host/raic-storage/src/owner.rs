//! The owner of a container is the object `raic/owner.EPOCH.DBID`. It names the array, the cloud's
//! number in that array, and the database that may change the container.
//!
//! | offset | bytes | content |
//! | --- | --- | --- |
//! | 0 | 8 | `RAICOWN1` |
//! | 8 | 16 | array id |
//! | 24 | 4 | the cloud's number in the array |
//! | 28 | 4 | epoch |
//! | 32 | 16 | database id |
//! | 48 | 32 | BLAKE3 keyed by the array's key over all above |
//!
//! Beside it lies the **run** of the daemon that uses the container (decision 0010). It is the
//! object `raic/run.DBID.RUN.NONCE`, whose content is BLAKE3 over its name, with the same key. A
//! daemon writes it before anything else. RUN rises in the database first. So a daemon that starts
//! from a copy or an older state of the home finds a run that its database never issued.

use std::collections::BTreeMap;

use crate::{Backend, Identity, Result, Run, ServerId, StorageError, StorageIndex};

const MAGIC: &[u8; 8] = b"RAICOWN1";
const LEN: usize = 80;
const PREFIX: &str = "owner.";
const RUN_PREFIX: &str = "run.";
/// Most runs of a container that the database did not issue and that are still read.
const MOST_FOREIGN: usize = 64;

/// The owner that an array's containers should have, with the key that proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Owner {
    /// The array's id.
    pub array: [u8; 16],
    /// The key that authenticates owner objects and commits of mutable shares. It is derived from
    /// the array's key.
    pub key: [u8; 32],
    /// The database and its epoch.
    pub identity: Identity,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owner")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// The runs that a database issued: for each nonce the highest number.
#[derive(Clone, Debug)]
pub struct IssuedRuns {
    /// The run of this process.
    pub run: Run,
    /// The highest number of each nonce, including that of this process.
    pub all: BTreeMap<StorageIndex, u64>,
}

impl IssuedRuns {
    /// Returns whether the database issued a run.
    fn has(&self, run: Run) -> bool {
        self.all
            .get(&run.nonce)
            .is_some_and(|newest| run.number <= *newest)
    }

    /// Returns the highest number that the database issued.
    fn newest(&self) -> u64 {
        self.all.values().copied().max().unwrap_or_default()
    }
}

/// The ownership of a container, as its owner and run objects show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The container belongs to this database, as this cloud.
    Ours,
    /// The container belongs to this database, with an epoch from before it was raised.
    OursBefore,
    /// The container has no owner.
    Unowned,
    /// The container belongs to another database of this array.
    OtherDatabase {
        /// The highest epoch of another database that was found.
        epoch: u32,
    },
    /// The container belongs to this database, as another cloud.
    OtherCloud {
        /// Number of that cloud.
        number: u32,
    },
    /// The container belongs to this database, but another daemon uses it with a copy or a later
    /// state of this home.
    Copied {
        /// Number of that daemon's run.
        theirs: u64,
        /// Highest number that this database issued.
        ours: u64,
    },
    /// The container belongs to another array, or an owner object is not authentic.
    OtherArray,
}

/// An authentic owner object of this array, decoded.
struct Record {
    number: u32,
    epoch: u32,
    database: StorageIndex,
}

impl Owner {
    /// Returns the name of this database's owner object, below `raic/`.
    pub fn object(&self) -> String {
        format!("{PREFIX}{}.{}", self.identity.epoch, self.identity.database)
    }

    fn mac(&self, body: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(&self.key, body).into()
    }

    /// Makes the content of this database's owner object for a cloud.
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

    /// Decodes an owner object; `None` if it is not an authentic one of this array.
    fn decode(&self, bytes: &[u8]) -> Option<Record> {
        let (body, mac) = bytes
            .split_at_checked(LEN - 32)
            .filter(|_| bytes.len() == LEN)?;
        if blake3::Hash::from(self.mac(body)) != blake3::Hash::from_slice(mac).ok()?
            || body[8..24] != self.array
        {
            return None;
        }
        let number = |offset: usize| {
            Some(u32::from_be_bytes(
                body.get(offset..offset + 4)?.try_into().ok()?,
            ))
        };
        let database = StorageIndex(body[32..48].try_into().ok()?);
        body.starts_with(MAGIC).then_some(Record {
            number: number(24)?,
            epoch: number(28)?,
            database,
        })
    }

    /// Reads a container's owner objects and runs, and returns the ownership that follows from
    /// them.
    ///
    /// # Errors
    /// Fails if the objects cannot be read, or if there are too many unknown runs. Then nothing is
    /// known.
    pub async fn check(
        &self,
        backend: &dyn Backend,
        server: ServerId,
        issued: &IssuedRuns,
    ) -> Result<Ownership> {
        Ok(self.look(backend, server, issued).await?.0)
    }

    /// Returns the container's ownership, and the names of the runs that this database issued.
    async fn look(
        &self,
        backend: &dyn Backend,
        server: ServerId,
        issued: &IssuedRuns,
    ) -> Result<(Ownership, Vec<String>)> {
        let mut names = backend.objects("").await?;
        let runs: Vec<_> = names
            .iter()
            .filter_map(|name| Some((name.clone(), self.run_of(name)?)))
            .collect();
        let (own_runs, foreign): (Vec<_>, Vec<_>) =
            runs.into_iter().partition(|(_, run)| issued.has(*run));
        let own_runs = own_runs.into_iter().map(|(name, _)| name).collect();
        names.retain(|name| name.starts_with(PREFIX));
        // The own object is also read by its exact name: a listing may be late.
        let own = self.object();
        if !names.contains(&own) {
            names.push(own.clone());
        }
        let (mut ours, mut before, mut highest) = (false, false, None);
        for name in names {
            let Some(bytes) = backend.load_object(&name).await? else {
                continue;
            };
            let Some(record) = self.decode(&bytes) else {
                return Ok((Ownership::OtherArray, Vec::new()));
            };
            // Each database numbers its clouds anew. So the numbers of another database say nothing
            // about ours.
            if record.database == self.identity.database && record.number != server.number() {
                return Ok((
                    Ownership::OtherCloud {
                        number: record.number,
                    },
                    Vec::new(),
                ));
            }
            if record.database == self.identity.database && record.epoch == self.identity.epoch {
                ours = true;
            } else if record.database == self.identity.database {
                before = true;
            } else {
                highest = highest.max(Some(record.epoch));
            }
        }
        let found = match highest {
            Some(epoch) if epoch >= self.identity.epoch => Ownership::OtherDatabase { epoch },
            _ if ours => Ownership::Ours,
            _ if before => Ownership::OursBefore,
            Some(epoch) => Ownership::OtherDatabase { epoch },
            None => Ownership::Unowned,
        };
        // A larger number does not win: the daemon that starts more often is not the one that is up
        // to date. A run that this database never issued is a run of another database, which went
        // on without this one. Each such run is read. A few remain after daemons came and went. If
        // a cloud makes up many, the true one could not be found among them.
        if foreign.len() > MOST_FOREIGN {
            return Err(StorageError::ForeignRuns {
                backend: backend.name().to_owned(),
                found: foreign.len(),
            });
        }
        let is_ours = matches!(
            found,
            Ownership::Ours | Ownership::OursBefore | Ownership::Unowned
        );
        for (name, run) in foreign.iter().filter(|_| is_ours) {
            // Only this array's daemons can write a run that counts.
            let bytes = backend.load_object(name).await?;
            if bytes.is_some_and(|bytes| bytes[..] == self.mac(name.as_bytes())) {
                return Ok((
                    Ownership::Copied {
                        theirs: run.number,
                        ours: issued.newest(),
                    },
                    Vec::new(),
                ));
            }
        }
        Ok((found, own_runs))
    }

    fn run_object(&self, run: Run) -> String {
        format!(
            "{RUN_PREFIX}{}.{}.{}",
            self.identity.database, run.number, run.nonce
        )
    }

    /// Reads a run of this database from the name of its object; `None` for any other name.
    fn run_of(&self, name: &str) -> Option<Run> {
        let mut parts = name.strip_prefix(RUN_PREFIX)?.split('.');
        let (database, number, nonce) = (parts.next()?, parts.next()?, parts.next()?);
        let is_own = database.parse::<StorageIndex>().ok()? == self.identity.database;
        let run = Run {
            nonce: nonce.parse().ok()?,
            number: number.parse().ok()?,
        };
        (is_own && parts.next().is_none()).then_some(run)
    }

    /// Writes this run into a container that has its owner, unless the run of another daemon is
    /// there. Nothing else may be sent to the container before. Objects of this database's older
    /// runs are removed. `written` is the number that this process wrote before. Returns the
    /// number that the container has now.
    ///
    /// If listings are late, another daemon that starts at the same time is seen only at the next
    /// look.
    ///
    /// # Errors
    /// Fails if the container cannot be read, or has no run of this process. Then nothing may be
    /// written to it.
    pub(crate) async fn begin_run(
        &self,
        backend: &dyn Backend,
        server: ServerId,
        issued: &IssuedRuns,
        written: Option<u64>,
    ) -> Result<(Ownership, Option<u64>)> {
        let (found, mut runs) = self.look(backend, server, issued).await?;
        // A container without its owner gets no run: it may be a disk that is not mounted.
        if !matches!(found, Ownership::Ours | Ownership::OursBefore) {
            return Ok((found, None));
        }
        let run = issued.run;
        let own = self.run_object(run);
        let is_there = written == Some(run.number)
            && (runs.contains(&own) || backend.load_object(&own).await?.is_some());
        if !is_there {
            if let Err(e) = self.store_run(backend, &own, &runs).await {
                // The number written before is a run of this process too. It only shows fewer of
                // the changes.
                let before = written.filter(|number| {
                    runs.contains(&self.run_object(Run {
                        number: *number,
                        nonce: run.nonce,
                    }))
                });
                let Some(before) = before else { return Err(e) };
                tracing::debug!("run {} goes on as {before}: {e}", run.number);
                return Ok((found, Some(before)));
            }
            // Of two daemons that began at once, at least one sees the other now, and both do at
            // their next look.
            let (found, seen) = self.look(backend, server, issued).await?;
            if let Ownership::Copied { .. } = found {
                return Ok((found, None));
            }
            runs.extend(seen);
        }
        runs.sort();
        runs.dedup();
        for older in runs.iter().filter(|name| **name != own) {
            // An older run that stays does not count against this database.
            if let Err(e) = backend.remove_object(older).await {
                tracing::debug!("{older} stays: {e}");
            }
        }
        Ok((found, Some(run.number)))
    }

    /// Stores the object of a run. In a full container it takes the place of older runs.
    async fn store_run(&self, backend: &dyn Backend, own: &str, older: &[String]) -> Result<()> {
        let content = || self.mac(own.as_bytes()).to_vec().into();
        match backend.store_object(own, content()).await {
            Err(e) if e.is_full() && !older.is_empty() => {
                for name in older {
                    backend.remove_object(name).await?;
                }
                backend.store_object(own, content()).await
            }
            stored => stored,
        }
    }

    /// Writes this database's owner object into a container, and then checks whether another
    /// database did the same meanwhile.
    ///
    /// # Errors
    /// Fails if the object cannot be stored, and as [`Owner::check`] does.
    pub async fn claim(
        &self,
        backend: &dyn Backend,
        server: ServerId,
        issued: &IssuedRuns,
    ) -> Result<Ownership> {
        backend
            .store_object(&self.object(), self.encode(server).into())
            .await?;
        self.check(backend, server, issued).await
    }
}

impl Ownership {
    /// Returns the reason why nothing may be written or deleted, with advice for the operator;
    /// `None` if both are permitted.
    pub fn refusal(&self, cloud: &str) -> Option<String> {
        match self {
            Self::Ours | Self::OursBefore => None,
            Self::Unowned => Some(format!(
                "its container has lost its owner object: perhaps a disk is not mounted, or a \
                 bucket was emptied; if it is the right container, run `raic cloud adopt {cloud}`"
            )),
            Self::OtherDatabase { epoch } => Some(format!(
                "its container belongs to another database of this array (epoch {epoch}): that of \
                 a host that took it over, or a database that was lost. If raic.db is the wrong \
                 database, put the right one back. If that host is gone, `raic lease rebuild` \
                 takes the containers over (`--restored-backup`, if raic.db is a backup)"
            )),
            Self::OtherCloud { number } => Some(format!(
                "its container is this array's as cloud number {number}: it is configured twice, \
                 two clouds were swapped, or the cloud was renamed; a cloud must keep its name: \
                 correct config.toml"
            )),
            Self::Copied { theirs, ours } => Some(format!(
                "another daemon uses its container with a copy of this home, or this home is an \
                 older state of that one (the other's run is {theirs}, this one's {ours}). Only \
                 one of them may run: stop the other and delete its home, or stop this one. If \
                 this home was restored from a backup and no other is left, `raic lease rebuild \
                 --restored-backup` takes the containers over"
            )),
            Self::OtherArray => Some(
                "its container belongs to another array, or to another key; give this array a \
                 container of its own, or a `prefix`"
                    .to_owned(),
            ),
        }
    }

    /// Requires that the container may be written to.
    ///
    /// # Errors
    /// Fails with [`StorageError::ReadOnly`] and the reason if it may not.
    pub(crate) fn writable(&self, cloud: &str) -> Result<()> {
        self.refusal(cloud).map_or(Ok(()), |reason| {
            Err(StorageError::ReadOnly {
                backend: cloud.to_owned(),
                reason,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Container as _;
    use crate::MemoryBackend;

    /// The runs of a daemon that was started once.
    fn only(number: u64, nonce: u8) -> IssuedRuns {
        started(&[(number, nonce)])
    }

    /// The runs of a daemon that was started several times. The last run is the one that goes on.
    fn started(runs: &[(u64, u8)]) -> IssuedRuns {
        let all: BTreeMap<_, _> = runs
            .iter()
            .map(|(number, nonce)| (StorageIndex([*nonce; 16]), *number))
            .collect();
        let (number, nonce) = runs[runs.len() - 1];
        IssuedRuns {
            run: Run {
                number,
                nonce: StorageIndex([nonce; 16]),
            },
            all,
        }
    }

    fn owner(array: u8, database: u8, epoch: u32) -> Owner {
        let identity = Identity {
            database: StorageIndex([database; 16]),
            epoch,
        };
        Owner {
            array: [array; 16],
            key: [array; 32],
            identity,
        }
    }

    #[tokio::test]
    async fn a_container_shows_whose_it_is() {
        let (first, second) = (ServerId(1), ServerId(2));
        let ours = owner(1, 1, 1);
        let backend = MemoryBackend::new("m");
        assert_eq!(
            ours.check(&backend, first, &only(1, 1)).await.unwrap(),
            Ownership::Unowned
        );
        assert_eq!(
            ours.claim(&backend, first, &only(1, 1)).await.unwrap(),
            Ownership::Ours
        );
        // The same container under another name, then another array, then a database that does not
        // know the container.
        assert_eq!(
            ours.check(&backend, second, &only(1, 1)).await.unwrap(),
            Ownership::OtherCloud { number: 1 }
        );
        assert_eq!(
            owner(2, 2, 1)
                .check(&backend, first, &only(1, 1))
                .await
                .unwrap(),
            Ownership::OtherArray
        );
        assert_eq!(
            owner(1, 2, 1)
                .check(&backend, first, &only(1, 1))
                .await
                .unwrap(),
            Ownership::OtherDatabase { epoch: 1 }
        );
        // A database with a higher epoch takes the container over. The old host sees it, and the
        // old object does not disturb the new one.
        let newer = owner(1, 2, 2);
        assert_eq!(
            newer.claim(&backend, first, &only(1, 1)).await.unwrap(),
            Ownership::Ours
        );
        assert_eq!(
            ours.check(&backend, first, &only(1, 1)).await.unwrap(),
            Ownership::OtherDatabase { epoch: 2 }
        );
        assert!(
            ours.check(&backend, first, &only(1, 1))
                .await
                .unwrap()
                .writable("m")
                .is_err()
        );
        // Of two databases with one epoch, neither may write.
        assert_eq!(
            owner(1, 3, 2)
                .claim(&backend, first, &only(1, 1))
                .await
                .unwrap(),
            Ownership::OtherDatabase { epoch: 2 }
        );
        assert_eq!(
            newer.check(&backend, first, &only(1, 1)).await.unwrap(),
            Ownership::OtherDatabase { epoch: 2 }
        );
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

    #[tokio::test]
    async fn of_two_daemons_on_copies_of_one_home_never_both_write() {
        let (server, ours) = (ServerId(1), owner(1, 1, 1));
        let backend = MemoryBackend::new("m");
        ours.claim(&backend, server, &only(1, 1)).await.unwrap();
        let begin = async |runs: &[(u64, u8)], written| {
            ours.begin_run(&backend, server, &started(runs), written)
                .await
                .unwrap()
                .0
        };
        assert_eq!(begin(&[(5, 1)], None).await, Ownership::Ours);
        // The next start removes the run of the start before.
        assert_eq!(begin(&[(5, 1), (6, 2)], None).await, Ownership::Ours);
        let runs = backend.objects("run.").await.unwrap();
        assert_eq!(runs.len(), 1, "{runs:?}");
        // A copy of the home from its fifth start refuses, however often it is started.
        for number in [6, 7, 99] {
            let copy = begin(&[(5, 1), (number, 3)], None).await;
            assert_eq!(
                copy,
                Ownership::Copied {
                    theirs: 6,
                    ours: number
                }
            );
        }
        assert_eq!(
            begin(&[(5, 1), (8, 2)], Some(6)).await,
            Ownership::Ours,
            "it has changed things since"
        );
        assert_eq!(
            begin(&[(5, 1), (6, 2), (9, 4)], None).await,
            Ownership::Copied { theirs: 8, ours: 9 }
        );
        // If a copy of the newest state starts first, the copy goes on.
        assert_eq!(
            begin(&[(5, 1), (8, 2), (9, 5)], None).await,
            Ownership::Ours
        );
        for written in [None, Some(8)] {
            let before = begin(&[(5, 1), (8, 2)], written).await;
            assert_eq!(before, Ownership::Copied { theirs: 9, ours: 8 });
        }
        let restarted = begin(&[(5, 1), (8, 2), (9, 6)], None).await;
        assert!(
            matches!(restarted, Ownership::Copied { .. }),
            "and a restart takes nothing back"
        );
        assert_eq!(
            begin(&[(5, 1), (8, 2), (9, 5)], Some(9)).await,
            Ownership::Ours,
            "which is undisturbed"
        );
    }

    /// A container can be without its owner at first because its disk is not mounted.
    #[tokio::test]
    async fn a_container_that_forgot_a_run_gets_it_again_and_one_without_owner_gets_none() {
        let (server, ours) = (ServerId(1), owner(1, 1, 1));
        let backend = MemoryBackend::new("m");
        let begun = ours
            .begin_run(&backend, server, &only(1, 1), None)
            .await
            .unwrap();
        assert_eq!(begun, (Ownership::Unowned, None));
        assert!(backend.objects("").await.unwrap().is_empty());
        ours.claim(&backend, server, &only(1, 1)).await.unwrap();
        for written in [None, Some(1)] {
            let begun = ours
                .begin_run(&backend, server, &only(1, 1), written)
                .await
                .unwrap();
            assert_eq!(begun, (Ownership::Ours, Some(1)));
            let runs = backend.objects("run.").await.unwrap();
            assert_eq!(runs.len(), 1);
            backend.remove_object(&runs[0]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_run_that_a_cloud_makes_up_says_nothing() {
        let (server, ours) = (ServerId(1), owner(1, 1, 1));
        let backend = MemoryBackend::new("m");
        ours.claim(&backend, server, &only(1, 1)).await.unwrap();
        let name = ours.run_object(only(99, 9).run);
        backend
            .store_object(&name, vec![0; 32].into())
            .await
            .unwrap();
        assert_eq!(
            ours.begin_run(&backend, server, &only(1, 1), None)
                .await
                .unwrap()
                .0,
            Ownership::Ours
        );
        // A cloud that makes up thousands of runs does not get them read.
        for number in 0..MOST_FOREIGN as u64 {
            let name = ours.run_object(only(number, 8).run);
            backend
                .store_object(&name, vec![0; 32].into())
                .await
                .unwrap();
        }
        let refused = ours
            .begin_run(&backend, server, &only(1, 1), None)
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("65 objects below raic/run."), "{refused}");
    }

    /// The contract permits an empty page in the middle of a listing, and Azure returns such pages.
    /// Then the only fence between two hosts was open once.
    #[tokio::test]
    async fn an_owner_is_found_behind_empty_pages() {
        let (server, ours, newer) = (ServerId(1), owner(1, 1, 1), owner(1, 2, 2));
        let cloud = std::sync::Arc::new(EmptyFirst(raic_cloud::MemoryCloud::new("m")));
        let backend = crate::CloudBackend::new(cloud, 1000, crate::ChunkBudget::default());
        ours.claim(&backend, server, &only(1, 1)).await.unwrap();
        newer.claim(&backend, server, &only(1, 1)).await.unwrap();
        assert_eq!(
            ours.check(&backend, server, &only(1, 1)).await.unwrap(),
            Ownership::OtherDatabase { epoch: 2 }
        );
    }

    /// A cloud whose first page of every listing is empty.
    #[derive(Debug)]
    struct EmptyFirst(raic_cloud::MemoryCloud);

    #[async_trait::async_trait]
    impl raic_cloud::Cloud for EmptyFirst {
        fn name(&self) -> &str {
            self.0.name()
        }
        async fn describe(&self) -> raic_cloud::Result<Vec<(String, String)>> {
            self.0.describe().await
        }
        async fn probe(&self) -> raic_cloud::Result<()> {
            self.0.probe().await
        }
        async fn put(
            &self,
            key: &raic_cloud::ObjectKey,
            content: raic_cloud::Payload,
            mode: raic_cloud::WriteMode,
        ) -> raic_cloud::Result<raic_cloud::ObjectInfo> {
            self.0.put(key, content, mode).await
        }
        async fn get(
            &self,
            key: &raic_cloud::ObjectKey,
            range: Option<raic_cloud::ByteRange>,
            if_match: Option<&str>,
        ) -> raic_cloud::Result<raic_cloud::Object> {
            self.0.get(key, range, if_match).await
        }
        async fn head(
            &self,
            key: &raic_cloud::ObjectKey,
        ) -> raic_cloud::Result<raic_cloud::ObjectInfo> {
            self.0.head(key).await
        }
        async fn delete(
            &self,
            key: &raic_cloud::ObjectKey,
            if_match: Option<&str>,
        ) -> raic_cloud::Result<()> {
            self.0.delete(key, if_match).await
        }
        async fn list(
            &self,
            prefix: &str,
            cursor: Option<&str>,
            limit: u32,
        ) -> raic_cloud::Result<raic_cloud::Page> {
            match cursor {
                None => Ok(raic_cloud::Page {
                    entries: Vec::new(),
                    next: Some("on".to_owned()),
                }),
                Some("on") => self.0.list(prefix, None, limit).await,
                cursor => self.0.list(prefix, cursor, limit).await,
            }
        }
        async fn create_container(&self) -> raic_cloud::Result<()> {
            self.0.create_container().await
        }
    }
}
