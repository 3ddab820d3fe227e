//! `raic connector`: lists, shows, approves and revokes connectors. The modules serve authors.

mod build;
mod scaffold;
mod show;
mod trial;

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use raic_wasm::{
    ApprovalStore, CompilerProcess, ConnectorError, Dropped, Engine, Manifest, Package, Waiting,
    verify_signature,
};
use serde_json::json;

use crate::{
    config::{CloudSection, Config},
    error::{Failed, Outcome},
    home::Home,
    offline::read_pins,
    output::{say, tell},
    practice_service::{self, PracticeArguments},
    released::approvals,
};
use show::show;

#[derive(Subcommand)]
pub(crate) enum ConnectorCommand {
    /// Lists the approved connectors, and the files in the home's folder `connectors` that wait for
    /// approval
    List,
    /// Shows a connector's settings and credentials, and the hosts that it may reach
    Inspect {
        /// The connector: a file, or the name or SHA-256 (8 digits or more) of one that waits for
        /// approval or is approved
        connector: String,
    },
    /// Approves a connector: the bytes of its file, with the permissions that `inspect` shows
    Approve {
        /// The connector's file, or the name or SHA-256 (8 digits or more) of one that waits in the
        /// home's folder `connectors`
        file: PathBuf,
        /// Approve without asking
        #[arg(long)]
        yes: bool,
    },
    /// Takes an approval back; no cloud can run the connector after the daemon's next start or
    /// `raic reload`
    Revoke {
        /// The connector: its SHA-256 (8 digits or more), or its name for the version approved last
        connector: String,
        /// Revoke the approval although a cloud runs the connector
        #[arg(long)]
        force: bool,
    },
    /// Begins a connector: makes a crate that speaks to the practice service and passes its tests
    New(scaffold::NewArguments),
    /// Builds a connector from a crate, or, for any other language, from a component and a manifest
    Build(build::BuildArguments),
    /// Tests a connector's file on a real service, and reports what holds, what the service lacks,
    /// and what is wrong
    Test(trial::TestArguments),
    /// Runs a simple HTTP object service on 127.0.0.1, to try connectors on
    Practice(PracticeArguments),
}

pub(crate) async fn run(home: &Home, json: bool, command: ConnectorCommand) -> Outcome {
    let store = || approvals(home);
    match command {
        ConnectorCommand::List => {
            let packages = store()?.list().map_err(Failed::configuration)?;
            let waiting = store()?.waiting().map_err(Failed::configuration)?;
            if packages.is_empty() && waiting.is_empty() && !json {
                say!(
                    "no connector is approved yet; approve one with `raic connector approve FILE`"
                );
            }
            let (good, bad): (Vec<_>, Vec<_>) = packages.into_iter().partition(Result::is_ok);
            good.iter()
                .flatten()
                .try_for_each(|package| list(package, json))?;
            waiting
                .iter()
                .try_for_each(|waiting| list_waiting(waiting, json))?;
            bad.into_iter()
                .try_for_each(|unusable| unusable.map(drop).map_err(Failed::configuration))
        }
        ConnectorCommand::Inspect { connector } => {
            let file = PathBuf::from(&connector);
            let (package, state) = match dropped(&store()?, &file)? {
                Some((file, package)) => (package, format!("waits for approval: {file:?}")),
                None if file.is_file() => (read(&file)?, format!("the file {connector}")),
                None => (
                    store()?.find(&connector).map_err(Failed::configuration)?,
                    "approved".to_owned(),
                ),
            };
            if !json {
                say!("{state}");
            }
            show(&package, json)
        }
        ConnectorCommand::Revoke { connector, force } => {
            let store = store()?;
            let package = store.find(&connector).map_err(Failed::configuration)?;
            let clouds = running(home, &package)?;
            if !clouds.is_empty() && !force {
                return Err(Failed::configuration(format!(
                    "{} {} is run by {}; give those clouds another version first, or add --force",
                    package.manifest.name,
                    package.manifest.version,
                    clouds.join(", ")
                )));
            }
            store.revoke(&package).map_err(Failed::configuration)?;
            if json {
                return crate::files::print_json(
                    &json!({"revoked": package.sha256, "run_by": clouds}),
                );
            }
            say!("revoked {} {}", package.manifest.name, package.sha256);
            if !clouds.is_empty() {
                let clouds = clouds.join(", ");
                say!(
                    "a daemon runs it for {clouds} until `raic reload` or its next start; then \
                     they fail until they have another version"
                );
            }
            Ok(())
        }
        ConnectorCommand::New(arguments) => scaffold::new(json, &arguments),
        ConnectorCommand::Build(arguments) => build::build(json, &arguments),
        ConnectorCommand::Test(arguments) => trial::test(home, json, &arguments).await,
        ConnectorCommand::Practice(arguments) => practice_service::serve(arguments, json).await,
        ConnectorCommand::Approve { file, yes } => {
            let store = store()?;
            let (file, package) = match dropped(&store, &file)? {
                Some(dropped) => dropped,
                None => (file.clone(), read(&file)?),
            };
            let signed_by = match home.config().exists() {
                true => Config::load(home)?.connectors.signed_by,
                false => Vec::new(),
            };
            if !signed_by.is_empty() {
                let (key, comment) =
                    verify_signature(&package, &file, &signed_by).map_err(Failed::configuration)?;
                if !json {
                    say!("signed by {} ({comment})", signed_by[key]);
                }
            }
            show(&package, json)?;
            let same = store
                .list()
                .map_err(Failed::configuration)?
                .into_iter()
                .flatten();
            for other in same
                .filter(|p| p.manifest.name == package.manifest.name && p.sha256 != package.sha256)
            {
                if !json {
                    say!(
                        "approved already: {} {} ({})",
                        other.manifest.name,
                        other.manifest.version,
                        &other.sha256[..12]
                    );
                }
            }
            if !yes && !confirmed()? {
                return Err(Failed::other("not approved"));
            }
            // Compiled after the question, so that a connector that is refused costs nothing.
            // Compiled before it is kept, because a component that does not fit the contract is not
            // approved.
            if !json {
                tell!("compiling it");
            }
            let failed = |e| Failed::configuration(format!("{}: {e}", file.display()));
            tokio::task::block_in_place(|| {
                engine()?
                    .load(&package, Some(store.compiled()))
                    .map_err(failed)
            })?;
            store.approve(&package).map_err(Failed::configuration)?;
            if !json {
                say!("approved");
            }
            Ok(())
        }
    }
}

/// Makes an engine that compiles in a process of its own: this program, with the hidden command
/// `compile-connector`.
pub(crate) fn engine() -> Outcome<Engine> {
    // This path means the running program, also after an upgrade has replaced its file.
    let program = PathBuf::from("/proc/self/exe");
    let program = if program.exists() {
        program
    } else {
        std::env::current_exe()
            .map_err(|e| Failed::other(format!("cannot find this program: {e}")))?
    };
    let compiler = CompilerProcess {
        program,
        arguments: vec!["compile-connector".into()],
    };
    Engine::new()
        .map(|engine| engine.compiling_by(compiler))
        .map_err(Failed::configuration)
}

/// Finds the waiting connector with this name, SHA-256 or file name; `None` if there is none, or if
/// the word is the path of a file.
fn dropped(store: &ApprovalStore, word: &Path) -> Outcome<Option<(PathBuf, Package)>> {
    let name = word.to_string_lossy();
    if word.is_file() || name.contains('/') {
        return Ok(None);
    }
    let waiting = store.waiting().map_err(Failed::configuration)?.into_iter();
    let mut same = waiting
        .filter_map(|w| Some((w.file, w.package.ok()?)))
        .filter(|(file, package)| {
            package.name == name
                || (name.len() >= 8 && package.sha256.starts_with(&*name))
                || file.file_name().is_some_and(|file| *file == *name)
        });
    match (same.next(), same.next()) {
        (Some(_), Some(_)) => Err(Failed::configuration(format!(
            "several files wait as {name:?}; name one by its SHA-256"
        ))),
        (None, _) => Ok(None),
        (Some((file, seen)), None) => {
            // Read again: exactly these bytes are shown, checked and approved.
            let package = read(&file)?;
            if package.sha256 != seen.sha256 {
                return Err(Failed::configuration(format!(
                    "{file:?} was changed while it was read; try again"
                )));
            }
            Ok(Some((file, package)))
        }
    }
}

/// Prints the line of a file that waits for approval.
fn list_waiting(waiting: &Waiting, json: bool) -> Outcome {
    let file = &waiting.file;
    match &waiting.package {
        Ok(package) => {
            let Dropped {
                name,
                version,
                sha256,
            } = package;
            if json {
                return crate::files::print_json(&json!({
                    "name": name, "version": version, "sha256": sha256, "waiting": waiting.file,
                }));
            }
            say!(
                "{name:<12} {version:<8} {}  waits for approval: {file:?}",
                &sha256[..12]
            );
        }
        Err(e) if json => {
            return crate::files::print_json(
                &json!({"fault": e.to_string(), "waiting": waiting.file}),
            );
        }
        Err(e) => say!("{file:?} is not a connector: {e}"),
    }
    Ok(())
}

/// Returns the names of the configured clouds that run this version of a connector.
fn running(home: &Home, package: &Package) -> Outcome<Vec<String>> {
    let (config, pins) = (Config::load(home)?, read_pins(home)?);
    let store = approvals(home)?;
    let runs = |name: &str, connector: &str| {
        let pinned = pins.get(name).and_then(|pin| pin.sha256_of(connector));
        let version = store.find(pinned.unwrap_or(connector));
        version.is_ok_and(|version| version.sha256 == package.sha256)
    };
    let clouds = config
        .clouds
        .iter()
        .filter(|(name, section)| match section {
            CloudSection::Cloud { connector, .. } => runs(name, connector),
            _ => false,
        });
    Ok(clouds.map(|(name, _)| name.clone()).collect())
}

fn read(file: &Path) -> Outcome<Package> {
    // A link that a person names is followed, unlike a link that was dropped in.
    let path = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    Package::open(&path).map_err(|e| match e {
        ConnectorError::Io { source, .. } => {
            Failed::configuration(format!("cannot read {}: {source}", file.display()))
        }
        e => Failed::configuration(format!("{}: {e}", file.display())),
    })
}

/// Prints the line of an approved connector.
fn list(package: &Package, json: bool) -> Outcome {
    let Manifest {
        name,
        version,
        description,
        license,
        ..
    } = &package.manifest;
    if json {
        let line =
            json!({"name": name, "version": version, "sha256": package.sha256, "license": license});
        return crate::files::print_json(&line);
    }
    say!(
        "{name:<12} {version:<8} {}  {description}",
        &package.sha256[..12]
    );
    Ok(())
}

/// Asks the person at the terminal for an approval.
fn confirmed() -> Outcome<bool> {
    // Only a person at a terminal can approve; piped input does not count.
    if !io::stdin().is_terminal() {
        return Err(Failed::other(
            "not approved: there is no terminal to ask on; --yes approves without being asked",
        ));
    }
    // The question goes to standard error, because `--json` writes to standard output.
    let _ = io::Write::write_all(&mut io::stderr(), b"approve it? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Failed::other)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
