//! Opens the array that the configuration describes: clouds, their storage servers, and the
//! supervisor of the work beside the requests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use raic_array::{Array, ArrayConfig, ArrayError, MAX_STREAM, keep_keyring_copies};
use raic_gateway::Opened;
use raic_storage::{
    Backend, ChunkBudget, Clock, Database, Holds, LeaseDb, Open, Owner, Pin, Pins, Retired,
    ServerSettings, Spool, StorageServer, Supervisor, UnusableBackend,
};

use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::{CloudSection, Config},
    error::{Failed, Outcome},
    home::{self, Home},
    key,
    opener::{Credentials, OpenedCloud, Opener, Places},
    progress::counted,
};

/// The parts of a daemon that last as long as its process, across all reloads.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) home: Home,
    pub(super) opener: Opener,
    pub(super) database: Database,
    pub(super) holds: Holds,
    pub(super) spool: Spool,
    pub(super) budget: ChunkBudget,
    pub(super) read_budget: ChunkBudget,
}

/// Everything that a configuration opened, except the array.
pub(super) struct Wired {
    leasedb: LeaseDb,
    /// The clouds that are served, by name.
    served: BTreeMap<String, Served>,
    reconcile_every: Duration,
    supervisor: Option<Supervisor>,
    /// The sealed keyring and its generation, if there is no array that keeps copies of it.
    keyring: Option<(Bytes, u32)>,
    copies: Option<AbortOnDropHandle<()>>,
}

impl Wired {
    /// Starts the work beside the requests. This comes after the array was opened, which makes sure
    /// that the database is its own and lets the uploads of earlier runs rest; and after the work
    /// of the configuration before has ended.
    pub(super) fn start_work(&mut self, opened: &Opened) {
        let every = Some(self.reconcile_every);
        let supervisor = Supervisor::start(self.leasedb.clone(), &opened.servers, every);
        self.supervisor = Some(supervisor);
        self.copies = self.keyring.take().map(|(sealed, generation)| {
            let copies = keep_keyring_copies(opened.servers.clone(), generation, sealed);
            AbortOnDropHandle::new(tokio::spawn(copies))
        });
    }
}

/// A cloud that is served: its storage server, and what the server was made from.
#[derive(Clone)]
struct Served {
    basis: Basis,
    /// `None` if the cloud is opened again at every reload. That is a folder, because its disk may
    /// have been mounted since, or a cloud that could not be opened.
    credentials: Option<Credentials>,
    server: Arc<StorageServer>,
}

/// What a storage server is made from, except the credentials. A reload that changes neither keeps
/// the server, with its connections, its breaker and its knowledge of the container.
#[derive(Clone, PartialEq)]
struct Basis {
    section: CloudSection,
    /// Content of the file of certificates that `ca` names.
    ca: Option<Vec<u8>>,
    pin: Option<Pin>,
    settings: ServerSettings,
    owner: Owner,
    /// Number of clouds, which decides the size of chunks.
    clouds: usize,
}

/// When a connector is compiled that must be compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compiling {
    /// Before its cloud is opened.
    First,
    /// While the other clouds serve already. After an upgrade of this program every connector must
    /// be compiled, which takes minutes.
    WhileServing,
}

/// Opens what the configuration describes. `versions` has the connector versions that
/// clouds are to run from now on. If `before` is given, what is opened takes the place
/// of that, and clouds that did not change are kept.
pub(super) async fn open(
    process: &Process,
    before: Option<(&Opened, &Wired)>,
    versions: Pins,
) -> Outcome<(Opened, Wired)> {
    let home = &process.home;
    let config = Config::load(home)?;
    let (keyring, sealed_keyring) = key::keyrings(home)?;
    let leasedb = match before {
        // This is the same run, so that uploads under way stay its own.
        Some((_, wired)) => wired.leasedb.clone(),
        None => {
            let grace = config.storage.grace_periods();
            LeaseDb::open(process.database.clone(), Clock::system(), grace)
                .await
                .map_err(Failed::storage)?
        }
    };
    let retired = retire_others(&config, &leasedb).await?;
    let stored = leasedb.pins().await.map_err(Failed::storage)?;
    let owner = Owner {
        array: keyring.array,
        key: keyring.owner_key(),
        identity: leasedb.identity().await.map_err(Failed::storage)?,
    };
    let kept = before.map_or_else(BTreeMap::new, |(_, wired)| wired.served.clone());
    let wiring = Wiring {
        process: process.clone(),
        places: places(process, &kept, &config, &leasedb, &owner).await?,
        compiling: match before {
            None => Compiling::WhileServing,
            Some(_) => Compiling::First,
        },
        owner,
        kept,
        stored: stored.clone(),
        config: config.clone(),
    };
    let pins: Pins = stored.clone().into_iter().chain(versions).collect();
    let opened = tokio::task::spawn_blocking(move || wiring.open_clouds(pins));
    let (clouds, pins) = opened.await.map_err(Failed::other)??;
    let mut served = BTreeMap::new();
    for (name, cloud) in clouds {
        let one = match cloud {
            Cloud::Kept(kept) => kept,
            Cloud::Opened {
                basis,
                credentials,
                backend,
            } => {
                let server = StorageServer::open(
                    backend,
                    leasedb.clone(),
                    basis.owner.clone(),
                    basis.settings.clone(),
                    process.holds.clone(),
                );
                let server = Arc::new(server.await.map_err(Failed::storage)?);
                Served {
                    basis,
                    credentials,
                    server,
                }
            }
        };
        served.insert(name, one);
    }
    let reconcile_every = Duration::from_secs(3600) * config.storage.reconcile_hours.max(1);
    let servers: Vec<_> = served
        .values()
        .map(|one: &Served| one.server.clone())
        .collect();
    let generation = keyring.generation();
    let array = match &config.array {
        None => None,
        Some(section) => {
            let array = ArrayConfig {
                classes: config.classes(section).map_err(Failed::configuration)?,
                extent_size: MAX_STREAM,
                patience: ArrayConfig::PATIENCE,
                keyring,
                sealed_keyring: sealed_keyring.clone(),
                servers: servers.clone(),
                leasedb: leasedb.clone(),
                holds: process.holds.clone(),
                budget: process.budget.clone(),
                read_budget: process.read_budget.clone(),
            };
            Some(Arc::new(open_array(home, before, array).await?))
        }
    };
    // Stored only now, so that a configuration that cannot be opened moves no cloud.
    let changed: Pins = pins
        .into_iter()
        .filter(|(cloud, pin)| stored.get(cloud) != Some(pin))
        .collect();
    let kept = config.clouds.into_keys().collect();
    leasedb
        .store_pins(changed, Some(kept))
        .await
        .map_err(Failed::storage)?;
    let ids = served
        .values()
        .map(|one: &Served| one.server.id())
        .collect();
    leasedb.came_back(ids).await.map_err(Failed::storage)?;
    retired.keep();
    let wired = Wired {
        leasedb: leasedb.clone(),
        served,
        reconcile_every,
        supervisor: None,
        keyring: match array {
            Some(_) => None,
            None => Some((sealed_keyring, generation)),
        },
        copies: None,
    };
    let opened = Opened {
        leasedb,
        servers,
        array,
    };
    Ok((opened, wired))
}

/// Opens an array, in the place of one that is open already.
async fn open_array(
    home: &Home,
    before: Option<(&Opened, &Wired)>,
    config: ArrayConfig,
) -> Outcome<Array> {
    let opened = match before.and_then(|(before, _)| before.array.as_ref()) {
        None => Array::open(config).await,
        Some(before) => before.reopen(config).await,
    };
    opened.map_err(|e| match e {
        ArrayError::OtherArray => Failed::configuration(format!(
            "{} is not the key of this home's database; put the right key file in its place",
            home.keyring().display()
        )),
        e => Failed::configuration(e),
    })
}

/// Gathers what the backends of all clouds share. A new cloud gets its number.
async fn places(
    process: &Process,
    kept: &BTreeMap<String, Served>,
    config: &Config,
    leasedb: &LeaseDb,
    owner: &Owner,
) -> Outcome<Places> {
    let mut servers = BTreeMap::new();
    for (name, section) in &config.clouds {
        let server = leasedb.server(name).await.map_err(Failed::storage)?;
        let goes_on = kept
            .get(name)
            .is_some_and(|kept| kept.basis.section == *section);
        if section.is_volatile() && !goes_on {
            leasedb.emptied(server).await.map_err(Failed::storage)?;
        }
        servers.insert(name.clone(), server);
    }
    Ok(Places {
        leasedb: leasedb.clone(),
        servers,
        owner_key: owner.key,
        spool: process.spool.clone(),
        budget: process.budget.clone(),
    })
}

/// Retires the clouds that the configuration does not have any longer. Refuses a configuration that
/// lacks a cloud with shares: otherwise a deleted line would cost each file there a share.
async fn retire_others(config: &Config, leasedb: &LeaseDb) -> Outcome<Retired> {
    let kept = config.clouds.keys().cloned().collect();
    let retired = leasedb.retire_others(kept).await;
    let dropped = match retired.map_err(Failed::storage)? {
        Ok(retired) => return Ok(retired),
        Err(used) => used,
    };
    let dropped: Vec<_> = dropped
        .into_iter()
        .map(|s| format!("{:?} ({})", s.name, counted(s.shares, "share")))
        .collect();
    Err(Failed::configuration(format!(
        "config.toml has no cloud {} any more, which holds shares of files; put it back under \
         that name or, if it is lost, run `raic cloud gone NAME`",
        dropped.join(", ")
    )))
}

/// A cloud of the configuration.
enum Cloud {
    /// The cloud is served already, and nothing about it has changed.
    Kept(Served),
    /// The cloud was opened now, or its place is held until it can be opened.
    Opened {
        basis: Basis,
        credentials: Option<Credentials>,
        backend: Arc<dyn Backend>,
    },
}

/// Everything that is needed to open the configuration's clouds.
struct Wiring {
    process: Process,
    config: Config,
    places: Places,
    owner: Owner,
    compiling: Compiling,
    /// The clouds that are served already.
    kept: BTreeMap<String, Served>,
    /// The pins that are stored.
    stored: Pins,
}

impl Wiring {
    /// Opens the configuration's clouds, in the order of their names. Blocks the thread. Any n-k
    /// clouds may fail in any way. So a cloud that cannot be opened keeps its place, and does not
    /// keep the others from serving.
    ///
    /// # Errors
    /// Fails with the sentences of all clouds that failed, if fewer than k could be opened.
    fn open_clouds(self, mut pins: Pins) -> Outcome<(Vec<(String, Cloud)>, Pins)> {
        let (mut faults, mut clouds) = (Vec::new(), Vec::new());
        for (name, section) in &self.config.clouds {
            let cloud = self.open_cloud(name, section, &mut pins, &mut faults)?;
            clouds.push((name.clone(), cloud));
        }
        if !faults.is_empty() && clouds.len() - faults.len() < self.needed() {
            return Err(Failed::configuration(faults.join("; ")));
        }
        Ok((clouds, pins))
    }

    /// The number of clouds without which nothing can be served.
    fn needed(&self) -> usize {
        let classes = self.config.classes.values();
        let least = classes.map(|class| usize::from(class.k)).min();
        match &self.config.array {
            None => 1,
            Some(_) => least.unwrap_or(1),
        }
    }

    fn open_cloud(
        &self,
        name: &str,
        section: &CloudSection,
        pins: &mut Pins,
        faults: &mut Vec<String>,
    ) -> Outcome<Cloud> {
        let basis = self.basis(name, section, pins)?;
        let opener = &self.process.opener;
        let kept = self.kept.get(name).filter(|kept| {
            let credentials = kept.credentials.as_ref();
            kept.basis == basis
                && opener.is_approved(name, section, pins)
                && (section.is_volatile() || credentials.is_some_and(Credentials::are_unchanged))
        });
        if let Some(kept) = kept {
            // Its container may have been made, or taken by another, since it was looked at.
            kept.server.forget_owner();
            return Ok(Cloud::Kept(kept.clone()));
        }
        if let Some(kept) = self.kept.get(name)
            && section.is_volatile()
            && kept.basis.section == *section
        {
            // What is in memory stays there, whatever else has changed.
            return Ok(Cloud::Opened {
                basis,
                credentials: None,
                backend: kept.server.backend().clone(),
            });
        }
        let unusable = |backend: UnusableBackend, basis| Cloud::Opened {
            basis,
            credentials: None,
            backend: Arc::new(backend),
        };
        if self.compiling == Compiling::WhileServing && opener.must_compile(name, section, pins) {
            let reason = format!(
                "cloud {name:?}: its connector is being compiled, as after an upgrade of raic"
            );
            let open = self.open_later(name, section, pins);
            return Ok(unusable(
                UnusableBackend::opening(name, reason, open),
                basis,
            ));
        }
        let places = Some(&self.places);
        match opener.open(self.config.clouds.len(), name, section, pins, places) {
            Ok(OpenedCloud {
                backend,
                credentials,
            }) => Ok(Cloud::Opened {
                basis: Basis {
                    pin: pins.get(name).cloned(),
                    ..basis
                },
                credentials,
                backend,
            }),
            Err(failed) => {
                tracing::error!("{}", failed.sentence);
                faults.push(failed.sentence.clone());
                // A version that cannot be opened moves no cloud.
                match self.stored.get(name) {
                    Some(stored) => drop(pins.insert(name.to_owned(), stored.clone())),
                    None => drop(pins.remove(name)),
                }
                let open = self.open_later(name, section, pins);
                Ok(unusable(
                    UnusableBackend::new(name, failed.sentence, open),
                    basis,
                ))
            }
        }
    }

    /// Returns what the storage server of a cloud is made from.
    fn basis(&self, name: &str, section: &CloudSection, pins: &Pins) -> Outcome<Basis> {
        let storage = &self.config.storage;
        let settings = ServerSettings {
            domain: section.domain().cloned(),
            weight: section.weight().unwrap_or_default(),
            cost: section.cost(),
            is_read_only: section.is_read_only(),
            expiry: storage.expiry().map_err(Failed::configuration)?,
            deletions_per_second: storage.deletions_per_second,
        };
        // A file that cannot be read is reported when the cloud is opened.
        let ca = section
            .ca()
            .and_then(|ca| home::read(&self.process.home.path().join(ca)).ok());
        Ok(Basis {
            section: section.clone(),
            ca,
            pin: pins.get(name).cloned(),
            settings,
            owner: self.owner.clone(),
            clouds: self.config.clouds.len(),
        })
    }

    /// Returns a function that opens a cloud later, because it could not be opened now.
    fn open_later(&self, name: &str, section: &CloudSection, pins: &Pins) -> Open {
        let (opener, places, n) = (
            self.process.opener.clone(),
            self.places.clone(),
            self.config.clouds.len(),
        );
        let (name, section, pins) = (name.to_owned(), section.clone(), pins.clone());
        Box::new(move || {
            let opened = opener.open(n, &name, &section, &mut pins.clone(), Some(&places));
            opened
                .map(|opened| opened.backend)
                .map_err(|failed| failed.sentence)
        })
    }
}
