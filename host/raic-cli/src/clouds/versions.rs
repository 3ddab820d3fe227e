//! The connector versions that clouds run: upgrades, and reloads that make a running daemon take
//! other versions up.

use std::collections::BTreeMap;

use hyper::Method;
use raic_cloud::Cloud as _;
use raic_gateway::wire::{Code, ConnectorVersion, ConnectorVersions, Status};
use raic_storage::{Pin, Pins};
use raic_wasm::is_hash;
use serde_json::json;

use super::section;
use crate::{
    client::{Client, document, nothing},
    config::{CloudSection, Config},
    error::{Failed, Outcome},
    files::print_json,
    home::Home,
    offline::{pin, read_pins},
    opener::Opener,
    output::{say, tell},
    released::approvals,
};

/// Makes a running daemon read the configuration again, and move clouds to the connector versions
/// in `pins`. Returns `false` if no daemon runs.
pub(super) async fn reopen(home: &Home, pins: &Pins) -> Outcome<bool> {
    let versions: ConnectorVersions = pins
        .iter()
        .map(|(cloud, pin)| {
            let version = ConnectorVersion {
                connector: pin.connector.clone(),
                sha256: pin.sha256.clone(),
            };
            (cloud.clone(), version)
        })
        .collect();
    let body = document(&versions)?;
    let headers = [("content-type", "application/json".to_owned())];
    match Client(home)
        .send(Method::POST, "/v1/reload", &headers, body)
        .await
    {
        Ok(_) => Ok(true),
        Err(failed) if failed.code == Code::NoDaemon => Ok(false),
        Err(failed) => Err(failed),
    }
}

pub(crate) async fn reload(home: &Home, json: bool) -> Outcome {
    let config = Config::load(home)?;
    if !reopen(home, &Pins::new()).await? {
        return Err(Failed {
            code: Code::NoDaemon,
            sentence: "no daemon runs; `raic serve` reads config.toml at its start".to_owned(),
        });
    }
    if !json {
        say!("the daemon has read the configuration and the credentials again");
    }
    let status: Outcome<Status> = Client(home).ask(Method::GET, "/v1/status", nothing()).await;
    let clouds = match status {
        Ok(status) => status.clouds,
        // The reload is done all the same.
        Err(failed) => {
            tell!(
                "warning: how the clouds are was not found out: {}",
                failed.sentence
            );
            Vec::new()
        }
    };
    let is_wanted = |name: &str| {
        let section = config.clouds.get(name);
        section.is_some_and(|section| !section.is_read_only())
    };
    let faults: BTreeMap<_, _> = clouds
        .into_iter()
        .filter(|cloud| is_wanted(&cloud.name))
        .filter_map(|cloud| Some((cloud.name, cloud.fault?)))
        .collect();
    let stale = crate::tahoe::stale(home, &config).await;
    if json {
        return print_json(&json!({
            "reloaded": true, "faults": faults, "restart_needed": stale.is_some(),
        }));
    }
    if let Some(stale) = stale {
        tell!("warning: {stale}; restart the daemon");
    }
    for (name, fault) in faults {
        tell!("warning: cloud {name:?} does not work: {fault}");
    }
    Ok(())
}

pub(super) async fn upgrade(home: &Home, json: bool, name: &str, sha256: Option<&str>) -> Outcome {
    let config = Config::load(home)?;
    let section = section(&config, name)?;
    let CloudSection::Cloud { connector, .. } = section else {
        return Err(Failed::configuration(format!(
            "cloud {name:?} is a folder and has no connector"
        )));
    };
    if is_hash(connector) {
        return Err(Failed::configuration(format!(
            "config.toml names the connector of cloud {name:?} by its SHA-256; write the \
             connector's name there, and `raic cloud upgrade {name}` can move the cloud"
        )));
    }
    let store = approvals(home)?;
    let pins = read_pins(home)?;
    let before = pins
        .get(name)
        .and_then(|pin| pin.sha256_of(connector))
        .unwrap_or(connector)
        .to_owned();
    let wanted = store
        .find(sha256.unwrap_or(connector))
        .map_err(Failed::configuration)?;
    if wanted.manifest.name != *connector {
        return Err(Failed::configuration(format!(
            "cloud {name:?} runs {connector:?}, and {} is {:?}; to use another connector, name it \
             in config.toml",
            &wanted.sha256[..12],
            wanted.manifest.name
        )));
    }
    let to = Pin {
        connector: connector.clone(),
        sha256: wanted.sha256.clone(),
    };
    let moved = Pins::from([(name.to_owned(), to)]);
    // The version is opened before the cloud is moved. A version that does not take the cloud's
    // settings moves nothing.
    let opened = tokio::task::block_in_place(|| {
        Opener::for_command(home)?.connect(name, section, &mut moved.clone())
    })?;
    let (opened, _) = opened;
    let fault = opened.probe().await.err().map(|e| e.to_string());
    let in_use = reopen(home, &moved).await?;
    if !in_use {
        pin(home, moved).await?;
    }
    let version = &wanted.manifest.version;
    if json {
        return print_json(&json!({
            "cloud": name, "version": version, "sha256": wanted.sha256, "before": before, "fault": fault,
            "in_use": in_use,
        }));
    }
    let old = store
        .find(&before)
        .map(|p| format!("{} ({})", p.manifest.version, &p.sha256[..12]));
    let old = old.unwrap_or_else(|_| before.chars().take(12).collect());
    if before == wanted.sha256 {
        say!(
            "cloud {name:?} runs {connector} {version} ({}) already",
            &wanted.sha256[..12]
        );
    } else {
        say!(
            "cloud {name:?} runs {connector} {version} ({}), and ran {old}",
            &wanted.sha256[..12]
        );
    }
    if let Some(fault) = fault {
        tell!(
            "warning: the cloud does not work with it: {fault}; `raic cloud upgrade {name} SHA` goes \
             back"
        );
    }
    Ok(())
}
