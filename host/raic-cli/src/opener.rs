//! [`Opener`]: opens clouds as the configuration describes them. A cloud is a folder, or a
//! connector with the decorators that the daemon puts around it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use parking_lot::Mutex;
use raic_cloud::{Breaker, Cloud, Limit, Meter, Meters, Prefix, Retry, RetryPolicy};
use raic_storage::{
    Backend, ChunkBudget, CloudBackend, DiskBackend, LeaseDb, MUTABLE_CHUNK_SIZE, MemoryBackend,
    NullBackend, Pin, Pins, ServerId, Slots, Spool, chunk_size_for,
};
use raic_wasm::{
    ApprovalStore, Configuration, Connector, ConnectorCloud, CredentialDocuments, Engine, Package,
    RotatingCloud, TlsSettings,
};

use crate::{
    config::{CloudSection, Source},
    connectors::engine,
    error::{Failed, Outcome},
    home::{self, Home},
    output::tell,
    released::approvals,
};

/// What the backends of a daemon share: the database with the versions of mutable shares, the spool
/// for parts of uploads, and the memory budget.
#[derive(Clone)]
pub(crate) struct Places {
    pub(crate) leasedb: LeaseDb,
    pub(crate) servers: BTreeMap<String, ServerId>,
    pub(crate) owner_key: [u8; 32],
    pub(crate) spool: Spool,
    pub(crate) budget: ChunkBudget,
}

/// The process that opens clouds. It decides how people learn that a connector is compiled, which
/// takes up to a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// A daemon, whose log reports the compiling.
    Daemon,
    /// A command, which prints that it compiles.
    Command,
}

/// Opens clouds, and runs all of their connectors on one engine.
#[derive(Clone)]
pub(crate) struct Opener {
    home: Home,
    engine: Engine,
    approved: ApprovalStore,
    /// Counters of the requests to each cloud. They go on when a reload opens a cloud again.
    meters: Meters,
    caller: Caller,
}

/// An opened cloud, and its credentials.
pub(crate) struct OpenedCloud {
    pub(crate) backend: Arc<dyn Backend>,
    /// `None` for a folder, which has no credentials.
    pub(crate) credentials: Option<Credentials>,
}

/// A cloud's credential documents: their sources, and the documents that the cloud began with.
#[derive(Clone)]
pub(crate) struct Credentials {
    home: Home,
    sources: BTreeMap<String, Source>,
    first: Arc<Mutex<Option<CredentialDocuments>>>,
}

impl Credentials {
    fn new(home: &Home, sources: &BTreeMap<String, Source>) -> Self {
        Self {
            home: home.clone(),
            sources: sources.clone(),
            first: Arc::default(),
        }
    }

    /// Reads the documents from their sources, and keeps those that the cloud begins with. Blocks
    /// the thread, and may run commands.
    fn read(&self) -> Result<CredentialDocuments, String> {
        let documents = self.load()?;
        self.first.lock().get_or_insert_with(|| documents.clone());
        Ok(documents)
    }

    fn load(&self) -> Result<CredentialDocuments, String> {
        let load = |(name, source): (&String, &Source)| {
            let document = source
                .load(&self.home)
                .map_err(|e| format!("credential {name:?}: {e}"))?;
            Ok((name.clone(), document))
        };
        self.sources.iter().map(load).collect()
    }

    /// Reads the documents again, and returns whether they equal those that the cloud began
    /// with. A cloud that has rotated its credentials since is opened anew then.
    pub(crate) fn are_unchanged(&self) -> bool {
        let first = self.first.lock().clone();
        first.is_some() && self.load().ok() == first
    }
}

/// The parts of a cloud behind a connector, before its credentials are read.
struct Prepared {
    connector: Connector,
    configuration: Configuration,
    credentials: Credentials,
    pin: Pin,
}

impl Opener {
    /// Makes the opener of a command. It prints a line before it compiles a connector.
    pub(crate) fn for_command(home: &Home) -> Outcome<Self> {
        Self::new(home, Caller::Command)
    }

    /// Makes the opener of a daemon.
    pub(crate) fn for_daemon(home: &Home) -> Outcome<Self> {
        Self::new(home, Caller::Daemon)
    }

    fn new(home: &Home, caller: Caller) -> Outcome<Self> {
        Ok(Self {
            home: home.clone(),
            engine: engine()?,
            approved: approvals(home)?,
            meters: Meters::default(),
            caller,
        })
    }

    /// The counters of the requests to the clouds that this opener opens.
    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The store of the approved connectors.
    pub(crate) fn approved(&self) -> &ApprovalStore {
        &self.approved
    }

    /// Opens the backend of a cloud, one of `n`. Sends no request, but blocks while a connector is
    /// compiled. `pins` has the connector version that each cloud runs; a cloud without a pin gets
    /// one. Without `places`, the backend takes only whole shares.
    pub(crate) fn open(
        &self,
        n: usize,
        name: &str,
        section: &CloudSection,
        pins: &mut Pins,
        places: Option<&Places>,
    ) -> Outcome<OpenedCloud> {
        match section {
            CloudSection::Disk {
                path,
                reserved_space,
                ..
            } => {
                let path = self.home.path().join(path);
                let opened = DiskBackend::open(name, &path).map_err(Failed::configuration)?;
                Ok(OpenedCloud {
                    backend: Arc::new(opened.with_reserved(reserved_space.as_u64())),
                    credentials: None,
                })
            }
            CloudSection::Memory { .. } => Ok(OpenedCloud {
                backend: Arc::new(MemoryBackend::new(name)),
                credentials: None,
            }),
            CloudSection::Null { .. } => Ok(OpenedCloud {
                backend: Arc::new(NullBackend::new(name)),
                credentials: None,
            }),
            CloudSection::Cloud { .. } => {
                let (cloud, credentials) = self.connect(name, section, pins)?;
                let budget = places
                    .map(|places| places.budget.clone())
                    .unwrap_or_default();
                let mut backend = CloudBackend::new(cloud, chunk_size_for(n), budget);
                if let Some(places) = places
                    && let Some(server) = places.servers.get(name)
                {
                    let slots = Slots::new(places.leasedb.clone(), *server, places.owner_key);
                    backend = backend
                        .with_slots(slots, MUTABLE_CHUNK_SIZE)
                        .with_spool(places.spool.clone());
                }
                Ok(OpenedCloud {
                    backend: Arc::new(backend),
                    credentials: Some(credentials),
                })
            }
        }
    }

    /// Returns whether the cloud's connector must be compiled before the cloud can be opened. For a
    /// cloud without a pin it returns `false`: such a cloud is opened at once, so that its version
    /// is stored.
    pub(crate) fn must_compile(&self, name: &str, section: &CloudSection, pins: &Pins) -> bool {
        let CloudSection::Cloud { connector, .. } = section else {
            return false;
        };
        let Some(version) = pins.get(name).and_then(|pin| pin.sha256_of(connector)) else {
            return false;
        };
        let package = self.approved.find(version);
        package.is_ok_and(|package| self.engine.must_compile(&package, self.approved.compiled()))
    }

    /// Returns whether the version of its connector that a cloud runs is still approved, and its
    /// file unchanged.
    pub(crate) fn is_approved(&self, name: &str, section: &CloudSection, pins: &Pins) -> bool {
        let CloudSection::Cloud { connector, .. } = section else {
            return true;
        };
        let pinned = pins.get(name).and_then(|pin| pin.sha256_of(connector));
        self.approved.find(pinned.unwrap_or(connector)).is_ok()
    }

    /// Opens a cloud behind its connector, with the decorators that the daemon puts around it.
    pub(crate) fn connect(
        &self,
        name: &str,
        section: &CloudSection,
        pins: &mut Pins,
    ) -> Outcome<(Arc<dyn Cloud>, Credentials)> {
        let failed = |why: String| Failed::configuration(format!("cloud {name:?}: {why}"));
        let Prepared {
            connector,
            configuration,
            credentials,
            pin,
        } = self.prepare(name, section, pins)?;
        let read = credentials.clone();
        let read = Arc::new(move || read.read());
        let cloud = RotatingCloud::new(name, &connector, configuration, read)
            .map_err(|e| failed(e.to_string()))?;
        pins.insert(name.to_owned(), pin);
        let CloudSection::Cloud {
            prefix, requests, ..
        } = section
        else {
            return Ok((Arc::new(cloud), credentials));
        };
        let limited = Limit::new(Meter::with(cloud, self.meters.of(name)), (*requests).max(1));
        let cloud = Breaker::new(Retry::new(limited, RetryPolicy::default()));
        match prefix {
            None => Ok((Arc::new(cloud), credentials)),
            Some(prefix) => {
                let below =
                    Prefix::new(cloud, prefix).map_err(|e| failed(format!("its prefix: {e}")))?;
                Ok((Arc::new(below), credentials))
            }
        }
    }

    /// Opens a cloud behind its connector, without decorators.
    pub(crate) fn connector_cloud(
        &self,
        name: &str,
        section: &CloudSection,
        pins: &mut Pins,
    ) -> Outcome<ConnectorCloud> {
        let failed = |why: String| Failed::configuration(format!("cloud {name:?}: {why}"));
        let Prepared {
            connector,
            configuration,
            credentials,
            pin,
        } = self.prepare(name, section, pins)?;
        let configuration = Configuration {
            credentials: credentials.read().map_err(failed)?,
            ..configuration
        };
        let cloud = ConnectorCloud::new(name, &connector, &configuration)
            .map_err(|e| failed(e.to_string()))?;
        pins.insert(name.to_owned(), pin);
        Ok(cloud)
    }

    /// Gathers the parts of a cloud behind a connector. Compiles the connector if it must.
    fn prepare(&self, name: &str, section: &CloudSection, pins: &Pins) -> Outcome<Prepared> {
        let failed = |why: String| Failed::configuration(format!("cloud {name:?}: {why}"));
        let CloudSection::Cloud {
            connector,
            settings,
            credentials,
            ca,
            endpoints,
            ..
        } = section
        else {
            return Err(failed("it has no connector".to_owned()));
        };
        let pinned = pins.get(name).and_then(|pin| pin.sha256_of(connector));
        let package = self
            .approved
            .find(pinned.unwrap_or(connector))
            .map_err(|e| failed(e.to_string()))?;
        let compiled = self.load(name, &package)?;
        let extra_ca = ca
            .as_ref()
            .map(|path| home::read(&self.home.path().join(path)))
            .transpose()?;
        let configuration = Configuration {
            settings: settings.clone(),
            tls: TlsSettings { extra_ca },
            endpoints: endpoints
                .iter()
                .map(|(name, urls)| (name.clone(), urls.all()))
                .collect(),
            ..Configuration::default()
        };
        Ok(Prepared {
            connector: compiled,
            configuration,
            credentials: Credentials::new(&self.home, credentials),
            pin: Pin {
                connector: connector.clone(),
                sha256: package.sha256,
            },
        })
    }

    /// Loads a compiled connector, or compiles it now.
    fn load(&self, name: &str, package: &Package) -> Outcome<Connector> {
        let compiled: &Path = self.approved.compiled();
        // A daemon reports it in its log.
        if self.caller == Caller::Command && self.engine.must_compile(package, compiled) {
            let connector = &package.manifest.name;
            tell!("compiling connector {connector:?}, once for this version of raic");
        }
        self.engine
            .load(package, Some(compiled))
            .map_err(|e| Failed::configuration(format!("cloud {name:?}: {e}")))
    }
}
