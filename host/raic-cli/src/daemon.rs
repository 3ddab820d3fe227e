//! `raic serve`: the daemon, wired from the configuration.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    sync::Arc,
    time::Duration,
};

use hyper::Method;

use raic_array::{Array, ArrayConfig, Geometry, Keyring};
use raic_cloud::{Breaker, Cloud, Limit, Meter, Meters, Prefix, Retry, RetryPolicy};
use raic_gateway::admin::{Admin, Reload, WaitingConnectors};
use raic_storage::{
    Backend, ChunkBudget, Clock, CloudBackend, Database, DatabaseError, DiskBackend, Holds,
    LeaseDb, MUTABLE_CHUNK_SIZE, Open, Owner, ServerId, ServerSettings, ServerShares, Slots, Spool,
    StorageServer, UnusableBackend, chunk_size_for,
};
use raic_wasm::{
    ApprovalStore, Configuration, Connector, ConnectorCloud, Engine, ReadCredentials,
    RotatingCloud, TlsSettings,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    client::{Client, nothing},
    config::{CloudSection, Config, Source},
    connector_watch,
    connectors::engine,
    error::{Failed, Outcome},
    home::{self, Home},
    progress::counted,
    released::approvals,
};

/// How long requests under way may take to end when the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(30);

/// Which version of a connector a cloud runs: approving another moves no cloud by itself. It counts
/// for as long as the configuration names the connector the same; naming a SHA-256 there moves the
/// cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pin {
    pub(crate) connector: String,
    pub(crate) sha256: String,
}

impl Pin {
    /// The SHA-256, where the configuration still names the connector the same.
    pub(crate) fn of(&self, connector: &str) -> Option<&str> {
        (self.connector == connector).then_some(self.sha256.as_str())
    }
}

/// By cloud.
pub(crate) type Pins = BTreeMap<String, Pin>;

const TABLES: &[&str] = &["CREATE TABLE pins(
    cloud TEXT PRIMARY KEY, connector TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID"];

async fn load_pins(database: &Database) -> Result<Pins, DatabaseError> {
    database.read(|c| Ok(pins_in(c)?)).await
}

/// The pins as the daemon left them, for commands that open a cloud themselves; none where there is
/// no database yet.
pub(crate) fn read_pins(home: &Home) -> Outcome<Pins> {
    let pins = read_only(home, |c| {
        if c.table_exists(None, "pins")? {
            pins_in(c)
        } else {
            Ok(Pins::new())
        }
    });
    Ok(pins?.unwrap_or_default())
}

fn pins_in(c: &rusqlite::Connection) -> rusqlite::Result<Pins> {
    let mut statement = c.prepare("SELECT cloud, connector, sha256 FROM pins")?;
    let pin = |r: &rusqlite::Row<'_>| {
        Ok((
            r.get(0)?,
            Pin {
                connector: r.get(1)?,
                sha256: r.get(2)?,
            },
        ))
    };
    statement.query_map([], pin)?.collect()
}

/// Stores pins, and forgets those of clouds that are not among `kept`, where it is given.
async fn store_pins(
    database: &Database,
    pins: Pins,
    kept: Option<Vec<String>>,
) -> Result<(), DatabaseError> {
    let store = database.write(move |tx| {
        if let Some(kept) = kept {
            let stored = pins_in(tx)?;
            for gone in stored.keys().filter(|cloud| !kept.contains(cloud)) {
                tx.execute("DELETE FROM pins WHERE cloud = ?1", [gone])?;
            }
        }
        for (cloud, Pin { connector, sha256 }) in pins {
            tx.execute(
                "INSERT OR REPLACE INTO pins VALUES(?1, ?2, ?3)",
                (cloud, connector, sha256),
            )?;
        }
        Ok(())
    });
    store.await
}

/// What the backends of the daemon share: where versions of mutable shares are, and where parts of
/// uploads wait.
#[derive(Clone)]
pub(crate) struct Places {
    leasedb: LeaseDb,
    servers: BTreeMap<String, ServerId>,
    owner_key: [u8; 32],
    spool: Spool,
    budget: ChunkBudget,
}

/// Opens clouds; keeps one engine for all of them.
#[derive(Clone)]
pub(crate) struct Clouds {
    home: Home,
    engine: Engine,
    approved: ApprovalStore,
    /// What is asked of clouds, whichever configuration they were opened by.
    meters: Meters,
}

impl Clouds {
    pub(crate) fn new(home: &Home) -> Outcome<Self> {
        Ok(Self {
            home: home.clone(),
            engine: engine()?,
            approved: approvals(home)?,
            meters: Meters::default(),
        })
    }

    /// The storage server of one of `n` clouds. Sends nothing yet; blocks while a connector
    /// compiles. `pins` says which version of its connector it runs, and learns it the first time.
    pub(crate) fn open(
        &self,
        n: usize,
        name: &str,
        section: &CloudSection,
        pins: &mut Pins,
        places: Option<&Places>,
    ) -> Outcome<Arc<dyn Backend>> {
        match section {
            CloudSection::Disk {
                path,
                reserved_space,
                ..
            } => {
                let path = self.home.path().join(path);
                let opened = DiskBackend::open(name, &path).map_err(Failed::configuration)?;
                Ok(Arc::new(opened.with_reserved(reserved_space.as_u64())))
            }
            CloudSection::Cloud { .. } => {
                let cloud = self.connect(name, section, pins)?;
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
                Ok(Arc::new(backend))
            }
        }
    }

    /// Whether opening a cloud takes as long as compiling its connector. One that runs no known
    /// version yet is opened at once: which it is must be stored.
    fn must_compile(&self, name: &str, section: &CloudSection, pins: &Pins) -> bool {
        let CloudSection::Cloud { connector, .. } = section else {
            return false;
        };
        let Some(version) = pins.get(name).and_then(|pin| pin.of(connector)) else {
            return false;
        };
        let found = self.approved.find(version);
        found.is_ok_and(|package| self.engine.must_compile(&package, self.approved.compiled()))
    }

    /// A cloud behind its connector, with what the daemon puts around every cloud.
    pub(crate) fn connect(
        &self,
        name: &str,
        section: &CloudSection,
        pins: &mut Pins,
    ) -> Outcome<Arc<dyn Cloud>> {
        let wrong = |why: String| Failed::configuration(format!("cloud {name:?}: {why}"));
        let Prepared {
            connector,
            configuration,
            read,
            pin,
        } = self.prepare(name, section, pins)?;
        let cloud = RotatingCloud::new(name, &connector, configuration, read)
            .map_err(|e| wrong(e.to_string()))?;
        pins.insert(name.to_owned(), pin);
        let CloudSection::Cloud {
            prefix, requests, ..
        } = section
        else {
            return Ok(Arc::new(cloud));
        };
        let limited = Limit::new(Meter::with(cloud, self.meters.of(name)), (*requests).max(1));
        let cloud = Breaker::new(Retry::new(limited, RetryPolicy::default()));
        match prefix {
            None => Ok(Arc::new(cloud)),
            Some(prefix) => {
                let below =
                    Prefix::new(cloud, prefix).map_err(|e| wrong(format!("its prefix: {e}")))?;
                Ok(Arc::new(below))
            }
        }
    }

    /// A cloud behind its connector, and nothing around it.
    pub(crate) fn connector_cloud(
        &self,
        name: &str,
        section: &CloudSection,
        pins: &mut Pins,
    ) -> Outcome<ConnectorCloud> {
        let wrong = |why: String| Failed::configuration(format!("cloud {name:?}: {why}"));
        let Prepared {
            connector,
            configuration,
            read,
            pin,
        } = self.prepare(name, section, pins)?;
        let configuration = Configuration {
            credentials: read().map_err(wrong)?,
            ..configuration
        };
        let cloud = ConnectorCloud::new(name, &connector, &configuration)
            .map_err(|e| wrong(e.to_string()))?;
        pins.insert(name.to_owned(), pin);
        Ok(cloud)
    }

    /// All that a cloud behind a connector is made of.
    fn prepare(&self, name: &str, section: &CloudSection, pins: &Pins) -> Outcome<Prepared> {
        let wrong = |why: String| Failed::configuration(format!("cloud {name:?}: {why}"));
        let CloudSection::Cloud {
            connector,
            settings,
            credentials,
            ca,
            endpoints,
            ..
        } = section
        else {
            return Err(wrong("it is a folder and has no connector".to_owned()));
        };
        let pinned = pins.get(name).and_then(|pin| pin.of(connector));
        let package = self
            .approved
            .find(pinned.unwrap_or(connector))
            .map_err(|e| wrong(e.to_string()))?;
        let compiled = self
            .engine
            .load(&package, Some(self.approved.compiled()))
            .map_err(|e| wrong(e.to_string()))?;
        let (home, sources) = (self.home.clone(), credentials.clone());
        let load = move || {
            let load = |(name, source): (&String, &Source)| {
                let document = source
                    .load(&home)
                    .map_err(|e| format!("credential {name:?}: {e}"))?;
                Ok((name.clone(), document))
            };
            sources.iter().map(load).collect()
        };
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
            read: Arc::new(load),
            pin: Pin {
                connector: connector.clone(),
                sha256: package.sha256,
            },
        })
    }
}

/// A cloud behind a connector, before it has its credentials.
struct Prepared {
    connector: Connector,
    configuration: Configuration,
    read: Arc<ReadCredentials>,
    pin: Pin,
}

/// What lasts as long as the process, whatever the configuration says meanwhile.
#[derive(Clone)]
struct Process {
    holds: Holds,
    spool: Spool,
    budget: ChunkBudget,
}

/// Removes the parts of uploads that no row knows any longer.
async fn tidy_spool(array: &Array, spool: &Spool) -> Outcome {
    let Some(server) = array.servers().first() else {
        return Ok(());
    };
    let uploads = server
        .leasedb()
        .uploads()
        .await
        .map_err(Failed::configuration)?;
    let lives = uploads
        .into_iter()
        .map(|(server, index, share)| Spool::name(&server, index, share));
    let lives: std::collections::BTreeSet<String> = lives.collect();
    let spool = spool.clone();
    let tidied = tokio::task::spawn_blocking(move || spool.tidy(|name| lives.contains(name)));
    tidied
        .await
        .map_err(Failed::other)?
        .map_err(|e| Failed::configuration(format!("the spool: {e}")))
}

/// Opens the array that the configuration describes, in the place of the one before.
async fn open_array(
    home: Home,
    clouds: Clouds,
    database: Database,
    process: Process,
    before: Option<Arc<Array>>,
    moved: Pins,
) -> Outcome<Array> {
    let Process {
        holds,
        spool,
        budget,
    } = process;
    database
        .migrate("daemon", TABLES)
        .await
        .map_err(Failed::storage)?;
    let known = load_pins(&database).await.map_err(Failed::storage)?;
    let config = Config::load(&home)?;
    let keyring = Keyring::from_json(&home::read(&home.keyring())?)
        .map_err(|e| Failed::configuration(format!("{}: {e}", home.keyring().display())))?;
    let leasedb = match &before {
        // Of one run: uploads under way stay its own.
        Some(before) if !before.servers().is_empty() => before.servers()[0].leasedb().clone(),
        _ => {
            let opened =
                LeaseDb::open(database.clone(), Clock::system(), config.storage.patience()).await;
            opened.map_err(Failed::storage)?
        }
    };
    let mut servers = BTreeMap::new();
    for name in config.clouds.keys() {
        servers.insert(
            name.clone(),
            leasedb.server(name).await.map_err(Failed::storage)?,
        );
    }
    refuse_if_dropped(&config, leasedb.servers().await.map_err(Failed::storage)?)?;
    let (owner_key, memory) = (keyring.owner_key(), budget.clone());
    let places = Places {
        leasedb: leasedb.clone(),
        servers,
        owner_key,
        spool,
        budget: memory,
    };
    let before_pins = known.clone();
    // The versions that clouds are told to run from now on.
    let known: Pins = known.into_iter().chain(moved).collect();
    let compiling = if before.is_none() {
        Compiling::WhileServing
    } else {
        Compiling::First
    };
    let opened = tokio::task::spawn_blocking(move || {
        open_backends(&clouds, config, known, &places, compiling)
    });
    let Opened {
        config,
        backends,
        pins,
    } = opened.await.map_err(Failed::other)??;
    let kept = config.clouds.keys().cloned().collect();
    let identity = leasedb.identity().await.map_err(Failed::storage)?;
    let owner = Owner {
        array: keyring.array,
        key: keyring.owner_key(),
        identity,
    };
    let mut servers = Vec::new();
    for (backend, section) in backends.into_iter().zip(config.clouds.values()) {
        let settings = ServerSettings {
            domain: section.domain().cloned(),
            is_read_only: section.is_read_only(),
            expiry: config.storage.expiry().map_err(Failed::configuration)?,
            deletions_per_second: config.storage.deletions_per_second,
        };
        let server = StorageServer::open(
            backend,
            leasedb.clone(),
            owner.clone(),
            settings,
            holds.clone(),
        )
        .await;
        servers.push(Arc::new(server.map_err(Failed::storage)?));
    }
    let n = u8::try_from(servers.len()).unwrap_or(u8::MAX);
    let array = ArrayConfig {
        geometry: Geometry {
            k: config.array.k,
            n,
        },
        segment_size: ArrayConfig::SEGMENT_SIZE,
        survive: config.array.survive,
        patience: ArrayConfig::PATIENCE,
        keyring,
        sealed_keyring: home::read(&home.sealed_keyring())?.into(),
        servers,
        leasedb,
        reconcile_every: Some(Duration::from_secs(3600) * config.storage.reconcile_hours.max(1)),
        holds,
        budget,
    };
    let opened = match before {
        None => Array::open(array).await,
        Some(before) => before.reopen(array).await,
    };
    let opened = opened.map_err(|e| match e {
        raic_array::ArrayError::Keyring => Failed::configuration(format!(
            "{} is not the key of this home's database; put the right key file in its place",
            home.keyring().display()
        )),
        e => Failed::configuration(e),
    })?;
    // What failed to open moves no cloud.
    let changed: Pins = pins
        .into_iter()
        .filter(|(cloud, pin)| before_pins.get(cloud) != Some(pin))
        .collect();
    store_pins(&database, changed, Some(kept))
        .await
        .map_err(Failed::storage)?;
    Ok(opened)
}

/// A cloud with shares that is not in the configuration any more is a share less of every file
/// there: that is said, and never done by a line that was deleted.
fn refuse_if_dropped(config: &Config, servers: Vec<ServerShares>) -> Outcome {
    let dropped = servers.into_iter().filter(|server| {
        server.shares > 0 && !server.is_gone && !config.clouds.contains_key(&server.name)
    });
    let dropped: Vec<_> = dropped
        .map(|s| format!("{:?} ({})", s.name, counted(s.shares, "share")))
        .collect();
    if dropped.is_empty() {
        return Ok(());
    }
    Err(Failed::configuration(format!(
        "config.toml has no cloud {} any more, which holds shares of files: put it back under that name; or, where it is lost, say so with \
         `raic cloud gone NAME`",
        dropped.join(", ")
    )))
}

/// The configuration's clouds, opened.
struct Opened {
    config: Config,
    /// In the configuration's order.
    backends: Vec<Arc<dyn Backend>>,
    pins: Pins,
}

/// When connectors are compiled that have to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compiling {
    /// Before the clouds count as opened.
    First,
    /// While the other clouds serve already: after an upgrade of this program, when all have to be,
    /// that takes minutes.
    WhileServing,
}

/// The configuration's clouds, in its order.
fn open_backends(
    clouds: &Clouds,
    config: Config,
    mut pins: Pins,
    places: &Places,
    compiling: Compiling,
) -> Outcome<Opened> {
    let (mut faults, n) = (Vec::new(), config.clouds.len());
    let open_later = |name: &str, section: &CloudSection, pins: &Pins| -> Open {
        let (clouds, pins, places) = (clouds.clone(), pins.clone(), places.clone());
        let place = (name.to_owned(), section.clone());
        Box::new(move || {
            let opened = clouds.open(n, &place.0, &place.1, &mut pins.clone(), Some(&places));
            opened.map_err(|failed| failed.sentence)
        })
    };
    let mut open = |name: &str, section: &CloudSection| -> Arc<dyn Backend> {
        if compiling == Compiling::WhileServing && clouds.must_compile(name, section, &pins) {
            let reason = format!(
                "cloud {name:?}: its connector is being compiled, as after an upgrade of raic"
            );
            return Arc::new(UnusableBackend::opening(
                name,
                reason,
                open_later(name, section, &pins),
            ));
        }
        clouds
            .open(n, name, section, &mut pins, Some(places))
            .unwrap_or_else(|failed| {
                // Any n-k clouds may fail in any way; that one cannot be opened must not keep the
                // others from serving.
                tracing::error!("{}", failed.sentence);
                faults.push(failed.sentence.clone());
                Arc::new(UnusableBackend::new(
                    name,
                    failed.sentence,
                    open_later(name, section, &pins),
                ))
            })
    };
    let backends: Vec<_> = config
        .clouds
        .iter()
        .map(|(name, section)| open(name, section))
        .collect();
    if !faults.is_empty() && backends.len() - faults.len() < usize::from(config.array.k) {
        return Err(Failed::configuration(faults.join("; ")));
    }
    Ok(Opened {
        config,
        backends,
        pins,
    })
}

/// The right to change a home's database, for as long as the file is open; none while a daemon has
/// it.
pub(crate) fn lock(home: &Home) -> Outcome<Option<fs::File>> {
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(home.lock());
    let lock = lock.map_err(|e| {
        let hint = if e.kind() == std::io::ErrorKind::NotFound {
            "; `raic init` makes a home"
        } else {
            ""
        };
        Failed::configuration(format!("cannot open {}: {e}{hint}", home.lock().display()))
    })?;
    let locked = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    Ok(locked.is_ok().then_some(lock))
}

/// Pins what a cloud was added with, where no daemon runs that would do it when it reads the
/// configuration.
pub(crate) async fn pin(home: &Home, pins: Pins) -> Outcome {
    if pins.is_empty() {
        return Ok(());
    }
    let _lock = lock(home)?.ok_or_else(|| Failed::busy(home.path()))?;
    let database = open_database(home).await?;
    database
        .migrate("daemon", TABLES)
        .await
        .map_err(Failed::storage)?;
    store_pins(&database, pins, None)
        .await
        .map_err(Failed::storage)
}

async fn open_database(home: &Home) -> Outcome<Database> {
    let path = home.database();
    let opened = tokio::task::spawn_blocking(move || Database::open(&path))
        .await
        .map_err(Failed::other)?;
    opened.map_err(Failed::storage)
}

/// Says that a cloud is gone, where no daemon runs that would be told.
pub(crate) async fn set_gone(home: &Home, cloud: &str) -> Outcome {
    let _lock = lock(home)?.ok_or_else(|| Failed::busy(home.path()))?;
    let database = open_database(home).await?;
    let patience = Config::load(home)?.storage.patience();
    let leasedb = LeaseDb::open(database, Clock::system(), patience)
        .await
        .map_err(Failed::storage)?;
    leasedb.set_gone(cloud).await.map_err(Failed::storage)
}

/// How many shares of files a cloud holds, as the catalog has it.
pub(crate) fn shares_on(home: &Home, cloud: &str) -> Outcome<u64> {
    let count = read_only(home, |c| {
        if !c.table_exists(None, "shares")? {
            return Ok(0);
        }
        let sql = "SELECT count(*) FROM shares JOIN servers ON servers.id = server WHERE name = ?1 AND state IN (0, 1)";
        c.query_row(sql, [cloud], |row| row.get::<_, i64>(0))
    });
    Ok(count?.unwrap_or_default().unsigned_abs())
}

/// Looks into the database, whether a daemon runs or not; none where there is no database yet.
pub(crate) fn read_only<T>(
    home: &Home,
    look: impl Fn(&rusqlite::Connection) -> rusqlite::Result<T>,
) -> Outcome<Option<T>> {
    let path = home.database();
    if !path.exists() {
        return Ok(None);
    }
    let connection =
        rusqlite::Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
    let found = connection.and_then(|c| look(&c));
    found
        .map(Some)
        .map_err(|e| Failed::configuration(format!("{}: {e}", path.display())))
}

/// Reads the configuration again at each hang-up, as daemons do. Never ends.
async fn reload_on_hangup(home: Home, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let path = "/v1/reload";
        match Client(&home).send(Method::POST, path, &[], nothing()).await {
            Ok(_) => tracing::info!("told to by SIGHUP, the configuration was read again"),
            Err(failed) => {
                tracing::error!("told to by SIGHUP, not read again: {}", failed.sentence)
            }
        }
    }
    std::future::pending().await
}

/// Runs the daemon until it is told to stop.
pub(crate) async fn serve(home: Home) -> Outcome {
    home.require_short()?;
    // Before the database: two daemons on one home would delete each other's uploads.
    let _lock = lock(&home)?.ok_or_else(|| Failed::busy(home.path()))?;
    home.close_to_others()?;

    let database = open_database(&home).await?;
    let clouds = Clouds::new(&home)?;
    let storage = Config::load(&home)?.storage;
    let spool = Spool::open(&home.spool(), storage.spool.as_u64())
        .map_err(|e| Failed::configuration(format!("{}: {e}", home.spool().display())))?;
    let budget = ChunkBudget::new(storage.memory.as_u64());
    let process = Process {
        holds: Holds::default(),
        spool,
        budget,
    };
    let array = open_array(
        home.clone(),
        clouds.clone(),
        database.clone(),
        process.clone(),
        None,
        Pins::new(),
    )
    .await?;
    tidy_spool(&array, &process.spool).await?;

    let socket = home.socket();
    // Left by a daemon that was killed; the lock says that none runs.
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)
        .and_then(|listener| {
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map(|()| listener)
        })
        .map_err(|e| Failed::other(format!("cannot listen at {}: {e}", socket.display())))?;

    let checked_database = database.clone();
    let reload_home = home.clone();
    let (waiting, meters) = (WaitingConnectors::default(), clouds.meters.clone());
    let watch = connector_watch::watch(clouds.approved.clone(), waiting.clone());
    let reload = Box::new(
        move |before: Arc<Array>, with: Option<serde_json::Value>| -> Reload {
            let (home, clouds, database, process) = (
                reload_home.clone(),
                clouds.clone(),
                database.clone(),
                process.clone(),
            );
            Box::pin(async move {
                let moved = with
                    .map(serde_json::from_value)
                    .transpose()
                    .map_err(|e| e.to_string())?;
                let opened = open_array(
                    home,
                    clouds,
                    database,
                    process,
                    Some(before),
                    moved.unwrap_or_default(),
                );
                opened.await.map_err(|failed| failed.sentence)
            })
        },
    );
    let hangups = reload_on_hangup(
        home.clone(),
        signal(SignalKind::hangup()).map_err(Failed::other)?,
    );
    let mut terminate = signal(SignalKind::terminate()).map_err(Failed::other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failed::other)?;
    let mut told = async move || {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let out_of_patience = async move {
        told().await;
        tracing::info!(
            "stopping when the requests under way have ended, in {} s, or when told again",
            GRACE.as_secs()
        );
        stopping.cancel();
        tokio::select! { () = told() => {}, () = tokio::time::sleep(GRACE) => {} }
    };
    tracing::info!("serving {}", home.path().display());
    // Beside the work: of a large file it takes minutes.
    let checked = checked_database.clone();
    let check = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(e) = checked.check().await {
            tracing::error!("{e}");
        }
    }));
    let admin = Admin::new(array, reload, waiting, meters).serve(listener, stop.cancelled_owned());
    let served = tokio::select! {
        served = admin => served.map_err(Failed::other),
        // What is cut off here is tidied up at the next start, as after a crash.
        () = out_of_patience => Ok(()),
        () = watch => Ok(()),
        () = hangups => Ok(()),
        // Alive, it would refuse every write until somebody looked.
        () = checked_database.closed() => {
            Err(Failed::other("the database's writer has ended: nothing can be stored any more; its log says why"))
        }
    };
    drop(check);
    let _ = fs::remove_file(&socket);
    served
}
