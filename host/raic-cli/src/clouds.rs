//! `raic cloud` and `raic status`; the module `versions` has `raic reload`.

mod endpoints;
mod versions;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use clap::{Args, Subcommand};
use hyper::Method;
use raic_array::Keyring;
use raic_cloud::{Cloud, ErrorKind, ObjectKey, Payload, WriteMode, collect_body};
use raic_gateway::wire::{ClassStatus, Code, GoneCloud, Status, Traffic};
use raic_storage::{
    Backend, Identity, IssuedRuns, Owner, Ownership, Pins, Run, ServerId, StorageIndex,
};
use serde_json::json;
use toml_edit::{DocumentMut, InlineTable, Item, Table, value};

use crate::{
    client::{Client, nothing},
    config::{CloudSection, Config},
    error::{Failed, Outcome},
    files::{print_json, when},
    home::{self, Home},
    offline::{identity, pin, read_pins, set_gone, shares_on},
    opener::Opener,
    output::{say, tell},
    progress::{self, counted},
};

use endpoints::{pin_endpoints, pin_learned};
pub(crate) use versions::reload;
use versions::{reopen, upgrade};

/// How long `cloud add` waits for an answer of the cloud. It adds the cloud also without one.
const LONGEST_TRY: Duration = Duration::from_secs(15);
/// How long `cloud add` waits for a cloud before it prints that it waits.
const QUIET: Duration = Duration::from_secs(3);

#[derive(Subcommand)]
pub(crate) enum CloudCommand {
    /// Adds a cloud to config.toml, and makes a running daemon use it; keeps the comments there,
    /// except those within a cloud that it replaces
    Add(AddArguments),
    /// Lists the configured clouds
    List,
    /// Proves that a cloud works: stores, reads, lists and removes a small object
    Test {
        /// The name of the cloud
        name: String,
    },
    /// Gives a container that has lost its owner object a new one, so that the array uses it again
    Adopt {
        /// The name of the cloud
        name: String,
    },
    /// Makes a cloud's container (bucket) at the provider
    Create {
        /// The name of the cloud
        name: String,
    },
    /// Deletes a cloud's container (bucket) at the provider, if it is empty
    Delete {
        /// The name of the cloud
        name: String,
    },
    /// Shows the usage and the quota that the provider reports
    Usage {
        /// The name of the cloud
        name: String,
    },
    /// Moves a cloud to another approved version of its connector, newer or older; transfers under
    /// way end on the version that they began with
    Upgrade {
        /// The name of the cloud
        name: String,
        /// The SHA-256 of the version, 8 digits or more [default: the version approved last]
        sha256: Option<String>,
    },
    /// Lets a cloud get no new shares; it keeps those that it has, and files are read from it
    Drain {
        /// The name of the cloud
        name: String,
    },
    /// Lets a draining cloud get new shares again
    Undrain {
        /// The name of the cloud
        name: String,
    },
    /// Records that a cloud is lost for good with all its shares; it must not be in config.toml any
    /// more
    Gone {
        /// The name that the cloud had
        name: String,
    },
    /// Pins the endpoints that a cloud's login returns, such as a storage URL from a catalogue
    Pin {
        /// The name of the cloud
        name: String,
    },
}

#[derive(Args)]
pub(crate) struct AddArguments {
    /// The name of the new cloud: 1 to 64 of A-Z, a-z, 0-9, - and _
    name: String,
    /// A folder on this machine to use as the cloud, below the current one unless it begins with /
    #[arg(
        long,
        conflicts_with = "connector",
        required_unless_present = "connector"
    )]
    path: Option<PathBuf>,
    /// The name or SHA-256 (8 digits or more) of an approved connector
    #[arg(long)]
    connector: Option<String>,
    /// A setting of the connector; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", requires = "connector")]
    settings: Vec<String>,
    /// The file with a credential's document, since other users can see arguments; may be repeated
    #[arg(long = "credential", value_name = "NAME=FILE", requires = "connector")]
    credentials: Vec<String>,
    /// A folder of the container, if arrays share the container [default: the whole container]
    #[arg(long, requires = "connector")]
    prefix: Option<String>,
    /// The file of a certificate authority (PEM) to trust, in addition to the system's
    #[arg(long, requires = "connector")]
    ca: Option<PathBuf>,
    /// The name of a group of clouds that fail together, such as a provider or a building [default:
    /// the cloud by itself]
    #[arg(long)]
    domain: Option<String>,
    /// The name of the configured cloud that the new cloud replaces
    #[arg(long)]
    replace: Option<String>,
    /// Replace a cloud although files have shares there; the files lose these shares
    #[arg(long, requires = "replace")]
    force: bool,
}

pub(crate) async fn run(home: &Home, json: bool, command: CloudCommand) -> Outcome {
    match command {
        CloudCommand::Add(arguments) => add(home, json, arguments).await,
        CloudCommand::List => {
            let pins = read_pins(home)?;
            for (name, section) in &Config::load(home)?.clouds {
                let version = match section {
                    CloudSection::Cloud { connector, .. } => {
                        pins.get(name).and_then(|pin| pin.sha256_of(connector))
                    }
                    _ => None,
                };
                let (backend, place) = match section {
                    CloudSection::Disk { path, .. } => ("disk", path.display().to_string()),
                    CloudSection::Memory { .. } => ("memory", String::new()),
                    CloudSection::Null { .. } => ("null", String::new()),
                    CloudSection::Cloud {
                        connector,
                        settings,
                        ..
                    } => {
                        let place: Vec<_> =
                            settings.iter().map(|(n, v)| format!("{n}={v}")).collect();
                        (connector.as_str(), place.join(" "))
                    }
                };
                if json {
                    print_json(
                        &json!({"name": name, "backend": backend, "place": place, "sha256": version}),
                    )?;
                } else {
                    let version = version.map_or("", |sha256| &sha256[..12]);
                    say!("{name:<16} {backend:<8} {version:<12} {place}");
                }
            }
            Ok(())
        }
        CloudCommand::Test { name } => {
            let report = |line: &str| {
                if !json {
                    say!("{line}");
                }
            };
            test(home, &name, report).await?;
            if json {
                print_json(&json!({"cloud": name, "works": true}))
            } else {
                Ok(())
            }
        }
        CloudCommand::Adopt { name } => {
            section(&Config::load(home)?, &name)?;
            let path = format!("/v1/clouds/{}/adopt", crate::client::encode(&name));
            Client(home)
                .send(Method::POST, &path, &[], nothing())
                .await?;
            if json {
                return print_json(&json!({"cloud": name, "adopted": true}));
            }
            say!(
                "cloud {name:?} is this array's again; `raic lease reconcile` finds the shares \
                 that it lost"
            );
            Ok(())
        }
        CloudCommand::Create { name } => {
            let cloud = connect(home, &name)?;
            cloud.create_container().await.map_err(|e| match e.kind {
                ErrorKind::AlreadyExists => Failed::other(format!(
                    "{e}; if it is yours, `raic cloud test {name}` shows whether it can be used"
                )),
                _ => Failed::cloud(&e),
            })?;
            if !json {
                say!("cloud {name:?} has its container");
            }
            // A running daemon may still take the container for missing.
            let in_use = reopen(home, &Pins::new()).await.unwrap_or_else(|failed| {
                tell!(
                    "warning: the daemon does not use the container yet: {}",
                    failed.sentence
                );
                false
            });
            if json {
                return print_json(&json!({"cloud": name, "created": true, "in_use": in_use}));
            }
            Ok(())
        }
        CloudCommand::Delete { name } => {
            let shares = shares_on(home, &name)?;
            if shares > 0 {
                let shares = counted(shares, "share");
                return Err(Failed::configuration(format!(
                    "cloud {name:?} holds {shares} of files; its container is not deleted"
                )));
            }
            if let CloudSection::Cloud {
                prefix: Some(prefix),
                ..
            } = section(&Config::load(home)?, &name)?
            {
                return Err(Failed::configuration(format!(
                    "cloud {name:?} is the folder {prefix:?} of a container that other arrays may \
                     share; the container is not deleted"
                )));
            }
            connect(home, &name)?
                .delete_container()
                .await
                .map_err(|e| Failed::cloud(&e))?;
            if json {
                return print_json(&json!({"cloud": name, "deleted": true}));
            }
            say!("cloud {name:?} has no container any more");
            Ok(())
        }
        CloudCommand::Usage { name } => usage(home, json, &name).await,
        CloudCommand::Upgrade { name, sha256 } => {
            upgrade(home, json, &name, sha256.as_deref()).await
        }
        CloudCommand::Drain { name } => set_draining(home, json, &name, Method::PUT).await,
        CloudCommand::Undrain { name } => set_draining(home, json, &name, Method::DELETE).await,
        CloudCommand::Gone { name } => gone(home, json, &name).await,
        CloudCommand::Pin { name } => pin_endpoints(home, json, &name).await,
    }
}

async fn usage(home: &Home, json: bool, name: &str) -> Outcome {
    let usage = connect(home, name)?
        .usage()
        .await
        .map_err(|e| Failed::cloud(&e))?;
    if json {
        let extra: BTreeMap<_, _> = usage.extra.into_iter().collect();
        return print_json(&json!({
            "cloud": name, "bytes": usage.bytes, "objects": usage.objects, "quota": usage.quota, "extra": extra,
        }));
    }
    let bytes = |bytes: Option<u64>| {
        bytes.map_or("not reported".to_owned(), |bytes| {
            progress::bytes(bytes).to_string()
        })
    };
    say!("used     {}", bytes(usage.bytes));
    say!(
        "objects  {}",
        usage
            .objects
            .map_or("not reported".to_owned(), |objects| objects.to_string())
    );
    say!("quota    {}", bytes(usage.quota));
    for (name, value) in usage.extra {
        say!("{name:<8} {value}");
    }
    Ok(())
}

fn section<'a>(config: &'a Config, name: &str) -> Outcome<&'a CloudSection> {
    config.clouds.get(name).ok_or_else(|| {
        let known: Vec<_> = config.clouds.keys().map(String::as_str).collect();
        Failed::configuration(format!(
            "there is no cloud {name:?} in config.toml; there are {}",
            known.join(", ")
        ))
    })
}

fn connect(home: &Home, name: &str) -> Outcome<std::sync::Arc<dyn Cloud>> {
    let config = Config::load(home)?;
    tokio::task::block_in_place(|| {
        let pins = &mut read_pins(home)?;
        let (cloud, _) = Opener::for_command(home)?.connect(name, section(&config, name)?, pins)?;
        Ok(cloud)
    })
}

/// Tests a cloud. `report` gets a line for each thing that works.
async fn test(home: &Home, name: &str, report: impl Fn(&str)) -> Outcome {
    let config = Config::load(home)?;
    let section = section(&config, name)?;
    if section.is_volatile() {
        return Err(Failed::configuration(format!(
            "cloud {name:?} is in the daemon, and a command cannot test it"
        )));
    }
    if matches!(section, CloudSection::Disk { .. }) {
        let opener = Opener::for_command(home)?;
        let opened = opener.open(config.clouds.len(), name, section, &mut Pins::new(), None)?;
        let backend = opened.backend;
        if section.is_read_only() {
            backend.objects("").await.map_err(Failed::other)?;
            report(&format!(
                "cloud {name:?} can be read; config.toml forbids writing there (read_only)"
            ));
            return Ok(());
        }
        if let Some(0) = backend.available_space().await.map_err(Failed::other)? {
            return Err(Failed {
                code: Code::Full,
                sentence: format!(
                    "cloud {name:?} is full, except for the space that is reserved for others"
                ),
            });
        }
        backend.probe().await.map_err(Failed::other)?;
        report(&format!(
            "a file was written and removed: cloud {name:?} works"
        ));
        return Ok(());
    }
    let cloud = connect(home, name)?;
    let failed = |e: raic_cloud::CloudError| Failed::cloud(&e);
    cloud.probe().await.map_err(failed)?;
    report("credentials and container are good");
    let unique = raic_storage::StorageIndex::random().map_err(Failed::other)?;
    let key = ObjectKey::new(format!("raic/test.{unique}")).map_err(Failed::other)?;
    let content = &b"a small object of `raic cloud test`"[..];
    cloud
        .put(&key, Payload::from(content), WriteMode::CreateOnly)
        .await
        .map_err(failed)?;
    let read = async {
        let object = cloud.get(&key, None, None).await?;
        collect_body(name, object.body, 1024).await
    };
    let read = read.await;
    let listed = cloud.list(key.as_str(), None, 10).await;
    cloud.delete(&key, None).await.map_err(failed)?;
    if read.map_err(failed)? != content {
        return Err(Failed::configuration(format!(
            "cloud {name:?} returned other bytes than were stored"
        )));
    }
    if !listed
        .map_err(failed)?
        .entries
        .iter()
        .any(|entry| entry.key == key)
    {
        return Err(Failed::configuration(format!(
            "cloud {name:?} does not list the object that was stored"
        )));
    }
    report(&format!(
        "an object was stored, read back, listed and removed: cloud {name:?} works"
    ));
    Ok(())
}

async fn add(home: &Home, json: bool, arguments: AddArguments) -> Outcome {
    let path = home.config();
    let failed = |why: String| Failed::configuration(format!("{}: {why}", path.display()));
    let text = String::from_utf8(home::read(&path)?).map_err(|e| failed(e.to_string()))?;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e: toml_edit::TomlError| failed(e.to_string()))?;
    let name = arguments.name.clone();
    let root = document.as_table_mut();
    let clouds = root.entry("clouds").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let clouds = clouds
        .as_table_mut()
        .ok_or_else(|| failed("`clouds` is not a table".to_owned()))?;
    if let Some(old) = arguments.replace.as_ref().filter(|_| !arguments.force) {
        let shares = shares_on(home, old)?;
        if shares > 0 {
            return Err(failed(format!(
                "cloud {old:?} holds {} of files, which would lose them; remove the files first, or \
                 add --force if the cloud is lost anyway",
                counted(shares, "share")
            )));
        }
    }
    let replaced = match &arguments.replace {
        None => None,
        Some(old) => {
            let removed = clouds.remove(old);
            Some(removed.ok_or_else(|| failed(format!("there is no cloud {old:?} to replace")))?)
        }
    };
    if clouds.contains_key(&name) {
        return Err(failed(format!("there is a cloud {name:?} already")));
    }
    let mut table = table_of(&arguments)?;
    // The new section takes the place of the old one, and the comments that stand above it.
    if let Some(old) = replaced.as_ref().and_then(Item::as_table) {
        *table.decor_mut() = old.decor().clone();
        table.set_position(old.position());
    }
    clouds.insert(&name, Item::Table(table));
    let open = |document: &DocumentMut, pins: &mut Pins| {
        let config = Config::parse(&document.to_string(), home.path()).map_err(failed)?;
        config.require_geometry().map_err(failed)?;
        let opened = tokio::task::block_in_place(|| {
            let section = section(&config, &name)?;
            Opener::for_command(home)?.open(config.clouds.len(), &name, section, pins, None)
        })?;
        Ok::<_, Failed>((config, opened))
    };
    // The cloud is opened before any request, and before the file is written: a cloud that cannot
    // be configured is not added.
    open(&document, &mut Pins::new())?;
    let mut waiting = Waiting::new(json, &name);
    // Endpoints are pinned in a copy, which counts only if the pinning comes to its end.
    let mut pinned = document.clone();
    if let Some(learned) = waiting
        .on(pin_learned(home, &mut pinned, &name, false))
        .await
    {
        for (endpoint, url) in learned? {
            if !json {
                say!("pinned: its login returned {url} as its {endpoint}");
            }
        }
        document = pinned;
    }
    let mut pins = Pins::new();
    let (config, opened) = open(&document, &mut pins)?;
    let changed = document.to_string();
    match waiting
        .on(refuse_if_owned(home, &name, &*opened.backend))
        .await
    {
        Some(may_be_added) => may_be_added?,
        None => tell!(
            "warning: the owner of the container is not known yet; the daemon checks it before it \
             writes there"
        ),
    }
    warn_of_shared_domains(&config, home, &name);
    if let Some(old) = &arguments.replace
        && shares_on(home, old)? > 0
    {
        // Forced. The loss is recorded before the configuration loses the cloud, because a start
        // refuses a configuration that lacks a cloud with shares.
        say_gone(home, old).await?;
    }
    replace(&path, &text, &changed)?;
    if !json {
        say!("cloud {name:?} is in {}", path.display());
        if let Some(array) = &config.array
            && arguments.replace.is_none()
        {
            let classes = config.classes(array).map_err(failed)?;
            let (name, class) = classes.default();
            say!(
                "the array has {} now. The {} shares of each new file are spread over them; the \
                 class {name:?} in config.toml says how many there are",
                counted(config.clouds.len() as u64, "cloud"),
                class.geometry.n
            );
        }
    }
    let fault = match waiting.on(opened.backend.probe()).await {
        Some(probed) => probed.err().map(|e| e.to_string()),
        None => Some(format!(
            "cloud {name:?}: no answer within {} s",
            LONGEST_TRY.as_secs()
        )),
    };
    if let Some(fault) = &fault {
        tell!("warning: the cloud does not work yet: {fault}");
    }
    // The cloud runs the version that was opened just now, whatever has been approved since.
    let reloaded = reopen(home, &pins).await?;
    if !reloaded {
        pin(home, pins).await?;
    }
    if json {
        return print_json(&json!({"cloud": name, "fault": fault, "in_use": reloaded}));
    }
    if reloaded {
        say!("the daemon uses it now");
    }
    Ok(())
}

/// Waits for the answers of a cloud, and prints after a moment that it waits. A cloud that leaves
/// one question unanswered is asked no other.
struct Waiting<'a> {
    json: bool,
    name: &'a str,
    /// Whether it was printed that the command waits.
    is_announced: bool,
    /// Whether the cloud has left a question unanswered.
    is_silent: bool,
}

impl<'a> Waiting<'a> {
    fn new(json: bool, name: &'a str) -> Self {
        Self {
            json,
            name,
            is_announced: false,
            is_silent: false,
        }
    }

    /// Returns the answer, or `None` if it takes too long.
    async fn on<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        if self.is_silent {
            return None;
        }
        let mut answer = pin!(answer);
        let quiet = if self.is_announced {
            LONGEST_TRY
        } else {
            QUIET
        };
        if let Ok(answered) = tokio::time::timeout(quiet, &mut answer).await {
            return Some(answered);
        }
        if !self.is_announced {
            self.is_announced = true;
            if !self.json {
                tell!(
                    "waiting for cloud {:?}, for {} s at most",
                    self.name,
                    LONGEST_TRY.as_secs()
                );
            }
            if let Ok(answered) = tokio::time::timeout(LONGEST_TRY - QUIET, answer).await {
                return Some(answered);
            }
        }
        self.is_silent = true;
        None
    }
}

/// Makes a cloud drain (PUT), or not (DELETE).
async fn set_draining(home: &Home, json: bool, name: &str, method: Method) -> Outcome {
    section(&Config::load(home)?, name)?;
    let drains = method == Method::PUT;
    let path = format!("/v1/clouds/{}/draining", crate::client::encode(name));
    Client(home).send(method, &path, &[], nothing()).await?;
    if json {
        return print_json(&json!({"cloud": name, "draining": drains}));
    }
    if drains {
        let shares = counted(shares_on(home, name)?, "share");
        say!("cloud {name:?} gets no new shares; it has {shares}, which are read as before");
        let status: Status = Client(home)
            .ask(Method::GET, "/v1/status", nothing())
            .await?;
        if let Err(failed) = require_enough(&status) {
            tell!("warning: {}", failed.sentence);
        }
    } else {
        say!("cloud {name:?} gets new shares again");
    }
    Ok(())
}

async fn gone(home: &Home, json: bool, name: &str) -> Outcome {
    if Config::load(home)?.clouds.contains_key(name) {
        return Err(Failed::configuration(format!(
            "cloud {name:?} is in config.toml; if it is lost, take it out there first"
        )));
    }
    let shares = shares_on(home, name)?;
    say_gone(home, name).await?;
    if json {
        return print_json(&json!({"cloud": name, "lost": shares}));
    }
    say!(
        "cloud {name:?} is gone, and {} with it; `raic get X FILE && raic put FILE --as X` stores a file anew with all its shares",
        counted(shares, "share")
    );
    Ok(())
}

/// Records that a cloud is gone: by the daemon, or in the database if no daemon runs.
async fn say_gone(home: &Home, name: &str) -> Outcome {
    let path = format!("/v1/clouds/{}/gone", crate::client::encode(name));
    match Client(home).send(Method::POST, &path, &[], nothing()).await {
        Ok(_) => Ok(()),
        Err(failed) if failed.code == Code::NoDaemon => set_gone(home, name).await,
        Err(failed) => Err(failed),
    }
}

/// Refuses a container that belongs to another array, or to this array under another name.
async fn refuse_if_owned(home: &Home, name: &str, backend: &dyn Backend) -> Outcome {
    let keyring =
        Keyring::from_json(&home::read(&home.keyring())?).map_err(Failed::configuration)?;
    let known = identity(home, name)?;
    let number = known.and_then(|known| known.server);
    let identity = known.map_or_else(
        || Identity {
            database: StorageIndex([0; 16]),
            epoch: 0,
        },
        |known| known.identity,
    );
    let owner = Owner {
        array: keyring.array,
        key: keyring.owner_key(),
        identity,
    };
    // It does not matter here whether a daemon uses the container.
    let run = Run {
        number: 0,
        nonce: StorageIndex([0; 16]),
    };
    let issued = IssuedRuns {
        run,
        all: BTreeMap::new(),
    };
    // A cloud that has no number yet is checked with a number that no cloud has.
    match owner
        .check(
            backend,
            number.unwrap_or_else(|| ServerId::of(u32::MAX)),
            &issued,
        )
        .await
    {
        Ok(Ownership::OtherArray | Ownership::OtherCloud { .. }) if number.is_none() => {
            Err(Failed::configuration(format!(
                "cloud {name:?}: its container belongs to an array already: another one, or this one under another name; \
                 give it a folder or a container of its own"
            )))
        }
        Ok(ownership @ (Ownership::OtherArray | Ownership::OtherCloud { .. })) => {
            let reason = ownership.refusal(name).unwrap_or_default();
            Err(Failed::configuration(format!("cloud {name:?}: {reason}")))
        }
        // An owner that cannot be found out now is reported when the cloud is used.
        _ => Ok(()),
    }
}

/// Warns if the cloud `name` may fail together with another, and neither has a domain.
fn warn_of_shared_domains(config: &Config, home: &Home, name: &str) {
    let Some(new) = config
        .clouds
        .get(name)
        .filter(|section| section.domain().is_none())
    else {
        return;
    };
    for (other, section) in config
        .clouds
        .iter()
        .filter(|(other, s)| *other != name && s.domain().is_none())
    {
        if let Some(what) = new.shares_with(section, home.path()) {
            tell!(
                "warning: clouds {name:?} and {other:?} share {what} and may fail together; give both the same `domain` in \
                 config.toml if they do"
            );
        }
    }
}

/// Splits arguments of the form NAME=VALUE.
pub(crate) fn pairs(list: &[String]) -> Outcome<BTreeMap<String, String>> {
    let split = |pair: &String| match pair.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Failed::configuration(format!("{pair:?} is not NAME=VALUE"))),
    };
    list.iter().map(split).collect()
}

/// Makes the section of config.toml that the arguments describe.
fn table_of(arguments: &AddArguments) -> Outcome<Table> {
    let mut table = Table::new();
    if let Some(domain) = &arguments.domain {
        table["domain"] = value(domain);
    }
    if let Some(path) = &arguments.path {
        table["backend"] = value("disk");
        let path = std::path::absolute(path).map_err(Failed::other)?;
        table["path"] = value(path.display().to_string());
    }
    if let Some(connector) = &arguments.connector {
        table["backend"] = value("cloud");
        table["connector"] = value(connector);
        table["settings"] = value(InlineTable::from_iter(pairs(&arguments.settings)?));
        let mut credentials = InlineTable::new();
        for (name, file) in pairs(&arguments.credentials)? {
            let file = std::path::absolute(&file).map_err(Failed::other)?;
            credentials.insert(
                name,
                InlineTable::from_iter([("file", file.display().to_string())]).into(),
            );
        }
        table["credentials"] = value(credentials);
        if let Some(prefix) = &arguments.prefix {
            table["prefix"] = value(prefix);
        }
        if let Some(ca) = &arguments.ca {
            let ca = std::path::absolute(ca).map_err(Failed::other)?;
            table["ca"] = value(ca.display().to_string());
        }
    }
    Ok(table)
}

/// Replaces a file whole or not at all, and keeps its mode. Refuses if the file is not as it was
/// when it was read: someone may have changed it while the cloud was asked.
fn replace(path: &Path, before: &str, after: &str) -> Outcome {
    if home::read(path)? != before.as_bytes() {
        return Err(Failed::configuration(format!(
            "{} was changed meanwhile; nothing was written, run the command again",
            path.display()
        )));
    }
    let written = || -> std::io::Result<()> {
        let mode = fs::metadata(path)?.permissions().mode();
        let mut new = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path))?;
        new.write_all(after.as_bytes())?;
        new.as_file()
            .set_permissions(fs::Permissions::from_mode(mode))?;
        new.as_file().sync_all()?;
        new.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    written().map_err(|e| Failed::io(format!("cannot write {}", path.display()), &e))
}

pub(crate) async fn status(home: &Home, json: bool, verbose: bool) -> Outcome {
    let status: Status = Client(home)
        .ask(Method::GET, "/v1/status", nothing())
        .await?;
    if json {
        print_json(&status)?;
        return require_enough(&status);
    }
    if status.n == 0 {
        say!("array      none: storage servers for Tahoe-LAFS alone");
    } else {
        for class in &status.classes {
            let ClassStatus {
                name,
                is_default,
                k,
                n,
                ..
            } = class;
            match (status.classes.len(), is_default) {
                (1, _) => say!("array      {k}-of-{n}"),
                (_, true) => say!("class      {name}: {k}-of-{n} (the default)"),
                (_, false) => say!("class      {name}: {k}-of-{n}"),
            }
        }
        say!(
            "files      {} ({})",
            status.files,
            progress::bytes(status.bytes)
        );
        say!("lacking    {}", counted(status.lacking, "share"));
    }
    say!("deletions  {} to go", counted(status.deletions, "share"));
    say!("lost       {}", counted(status.lost, "share"));
    for GoneCloud {
        name: cloud,
        shares,
    } in &status.gone
    {
        say!("gone       {cloud:<16} held {}", counted(*shares, "share"));
    }
    if let Some(clock) = &status.clock {
        say!("clock      {clock}");
    }
    for waiting in &status.waiting {
        match (&waiting.connector, &waiting.fault) {
            (Some(connector), _) => say!(
                "connector  {connector} waits for approval ({})",
                waiting.file
            ),
            (None, fault) => {
                say!(
                    "connector  {} is not a connector: {}",
                    waiting.file,
                    fault.as_deref().unwrap_or_default()
                );
            }
        }
    }
    for cloud in &status.clouds {
        // The line has the cloud's name before its fault.
        let works = match cloud.draining {
            true => "drains: it is read, and gets no new shares",
            false => "works",
        };
        let fault = cloud.fault.as_deref().unwrap_or(works);
        let fault = fault
            .strip_prefix(&format!("cloud {:?}: ", cloud.name))
            .unwrap_or(fault);
        let keyring = if cloud.keyring {
            ""
        } else {
            " (has no copy of the keyring yet)"
        };
        let lacking = if cloud.lacking == 0 {
            String::new()
        } else {
            format!(", lacks {}", counted(cloud.lacking, "share"))
        };
        let free = cloud
            .available
            .map(|free| format!(", {} free", progress::bytes(free)))
            .unwrap_or_default();
        say!(
            "cloud      {:<16} {fault}{lacking}{free}{keyring}{}",
            cloud.name,
            match (cloud.draining, &cloud.fault) {
                (true, Some(_)) => " (draining)",
                _ => "",
            }
        );
        if let Some(traffic) = cloud.traffic.as_ref().filter(|_| verbose) {
            show(traffic);
        }
        for last in &cloud.last {
            let moment = when(i64::try_from(last.at_ms).unwrap_or(i64::MAX));
            say!(
                "           {:<16} last failed {} at {moment}: {}",
                "",
                last.work,
                last.text
            );
        }
    }
    require_enough(&status)
}

/// Prints the counts of the requests to a cloud since the daemon started.
fn show(traffic: &Traffic) {
    for operation in &traffic.operations {
        say!(
            "           {:<16} {}: {}, {} failed, half within {} ms, 95% within {} ms",
            "",
            operation.operation,
            counted(operation.requests, "request"),
            operation.errors,
            operation.p50_ms,
            operation.p95_ms
        );
    }
    say!(
        "           {:<16} {} sent, {} received",
        "",
        progress::bytes(traffic.bytes_up),
        progress::bytes(traffic.bytes_down)
    );
}

/// Requires that enough clouds can take a share for a file to be stored.
fn require_enough(status: &Status) -> Outcome {
    let working = status.clouds.iter().filter(|cloud| cloud.stores).count();
    if working < usize::from(status.needed) {
        return Err(Failed {
            code: Code::TooFewClouds,
            sentence: format!(
                "{} can take a share, and {} must, for a file to be stored",
                counted(working as u64, "cloud"),
                status.needed
            ),
        });
    }
    Ok(())
}
