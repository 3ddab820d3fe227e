//! `raic connector`.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
};

use clap::Subcommand;
use raic_wasm::{ApprovalStore, Engine, Manifest, Package, Sending};
use serde_json::json;

use crate::{
    config::{CloudSection, Config},
    daemon::read_pins,
    error::{Failed, Outcome},
    home::Home,
    output::say,
};

#[derive(Subcommand)]
pub(crate) enum ConnectorCommand {
    /// Lists the approved connectors
    List,
    /// Shows what a connector is, takes and may reach: an approved one by name, or a file
    Inspect {
        /// Name, SHA-256 (8 digits or more) or file
        connector: String,
    },
    /// Approves a connector's file: its bytes and the permissions that `inspect` shows
    Approve {
        /// The component
        file: PathBuf,
        /// Do not ask, where a person could answer
        #[arg(long)]
        yes: bool,
    },
    /// Takes an approval back: no cloud can run that connector from the daemon's next start on
    Revoke {
        /// Name, or SHA-256 (8 digits or more)
        connector: String,
        /// Although a cloud runs it
        #[arg(long)]
        force: bool,
    },
}

pub(crate) fn run(home: &Home, json: bool, command: ConnectorCommand) -> Outcome {
    let store = || ApprovalStore::open(&home.connectors()).map_err(Failed::configuration);
    match command {
        ConnectorCommand::List => {
            let packages = store()?.list().map_err(Failed::configuration)?;
            if packages.is_empty() && !json {
                say!("no connector is approved yet; approve one with `raic connector approve FILE`");
            }
            let (good, bad): (Vec<_>, Vec<_>) = packages.into_iter().partition(Result::is_ok);
            good.iter().flatten().try_for_each(|package| list(package, json))?;
            bad.into_iter().try_for_each(|wrong| wrong.map(drop).map_err(Failed::configuration))
        }
        ConnectorCommand::Inspect { connector } => {
            let file = PathBuf::from(&connector);
            let package = if file.is_file() {
                read(&file)?
            } else {
                store()?.find(&connector).map_err(Failed::configuration)?
            };
            show(&package, json)
        }
        ConnectorCommand::Revoke { connector, force } => {
            let store = store()?;
            let package = store.find(&connector).map_err(Failed::configuration)?;
            let clouds = running(home, &package)?;
            if !clouds.is_empty() && !force {
                return Err(Failed::configuration(format!(
                    "{} {} is run by {}; give those clouds another connector first, or --force",
                    package.manifest.name,
                    package.manifest.version,
                    clouds.join(", ")
                )));
            }
            store.revoke(&package).map_err(Failed::configuration)?;
            if json {
                return crate::files::print_json(&json!({"revoked": package.sha256, "run_by": clouds}));
            }
            say!("revoked {} {}", package.manifest.name, package.sha256);
            Ok(())
        }
        ConnectorCommand::Approve { file, yes } => {
            let package = read(&file)?;
            let store = store()?;
            // Compiled now, so that what does not fit the contract is refused before it is approved.
            let engine = Engine::new().map_err(Failed::configuration)?;
            let wrong = |e| Failed::configuration(format!("{}: {e}", file.display()));
            engine.load(&package, Some(store.compiled())).map_err(wrong)?;
            show(&package, json)?;
            if !yes && io::stdin().is_terminal() && !confirmed()? {
                return Err(Failed::other("not approved"));
            }
            store.approve(&package).map_err(Failed::configuration)?;
            if !json {
                say!("approved");
            }
            Ok(())
        }
    }
}

/// The configured clouds that run a connector's version.
fn running(home: &Home, package: &Package) -> Outcome<Vec<String>> {
    let (config, pins) = (Config::load(home)?, read_pins(home)?);
    let store = ApprovalStore::open(&home.connectors()).map_err(Failed::configuration)?;
    let runs = |name: &str, connector: &str| {
        let pinned = pins.get(name).and_then(|pin| pin.of(connector));
        let found = store.find(pinned.unwrap_or(connector));
        found.is_ok_and(|found| found.sha256 == package.sha256)
    };
    let clouds = config.clouds.iter().filter(|(name, section)| match section {
        CloudSection::Cloud { connector, .. } => runs(name, connector),
        CloudSection::Disk { .. } => false,
    });
    Ok(clouds.map(|(name, _)| name.clone()).collect())
}

fn read(file: &PathBuf) -> Outcome<Package> {
    let bytes =
        fs::read(file).map_err(|e| Failed::configuration(format!("cannot read {}: {e}", file.display())))?;
    Package::read(bytes).map_err(|e| Failed::configuration(format!("{}: {e}", file.display())))
}

fn list(package: &Package, json: bool) -> Outcome {
    let Manifest { name, version, description, license, .. } = &package.manifest;
    if json {
        let line = json!({"name": name, "version": version, "sha256": package.sha256, "license": license});
        return crate::files::print_json(&line);
    }
    say!("{name:<12} {version:<8} {}  {description}", &package.sha256[..12]);
    Ok(())
}

fn confirmed() -> Outcome<bool> {
    print!("approve it? [y/N] ");
    io::stdout().flush().map_err(Failed::other)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Failed::other)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Where a secret may be sent, in words.
fn sent(sending: &Sending) -> String {
    let place = match (&sending.header, sending.form.as_str()) {
        (Some(header), _) => header.as_str(),
        (None, "raw" | "query") => "a query",
        (None, _) => "a body",
    };
    format!(", sent in {place} to {:?}", sending.network)
}

fn show(package: &Package, json: bool) -> Outcome {
    let manifest = &package.manifest;
    if json {
        return crate::files::print_json(&json!({
            "sha256": package.sha256, "imports": package.imports, "manifest": manifest,
        }));
    }
    say!("{} {}: {}", manifest.name, manifest.version, manifest.description);
    say!("  sha-256   {}", package.sha256);
    say!("  licence   {}", manifest.license);
    say!("  contract  {}", manifest.contract);
    say!("  settings");
    for (name, setting) in &manifest.settings {
        let value = match (&setting.default, setting.required) {
            (Some(default), _) => format!(" [default: {default}]"),
            (None, true) => " [required]".to_owned(),
            (None, false) => String::new(),
        };
        say!("    {name:<14} {}{value}", setting.help);
    }
    say!("  credentials");
    for (name, credential) in &manifest.credentials {
        say!("    {name:<14} {}", credential.help);
        for (part, rule) in &credential.parts {
            let what = if rule.secret { "secret" } else { "readable by the connector" };
            let signs = rule.sign.iter().map(|s| format!(", signs by {s:?}"));
            let sends = rule.send.iter().map(sent);
            say!("      {part:<20} {what}{}", signs.chain(sends).collect::<String>());
        }
    }
    for (name, token) in &manifest.tokens {
        let signs = token.sign.iter().map(|s| format!(", signs by {s:?}"));
        let uses: String = signs.chain(token.send.iter().map(sent)).collect();
        say!("    {name:<14} a secret that logins answer with{uses}");
    }
    for (name, endpoint) in &manifest.endpoints {
        say!("    {name:<14} learned at login, pinned by you: {}", endpoint.help);
    }
    say!("  may send requests to");
    for network in &manifest.network {
        let when = network.when.iter().map(|(name, value)| format!(" where {name} is {value}"));
        say!("    {:<14} {}{}", network.name, network.url, when.collect::<String>());
    }
    say!("  may read, besides errors");
    let answers = manifest.tokens.values().flat_map(|token| &token.answers);
    for document in manifest.documents.iter().chain(answers) {
        say!("    {} {}{}?{}", document.method, document.network, document.path, document.query.join("&"));
    }
    Ok(())
}
