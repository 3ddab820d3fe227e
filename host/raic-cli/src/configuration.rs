//! `config`: checks `config.toml`, and says what it gives.

use std::collections::BTreeMap;

use clap::Subcommand;
use raic_array::{Class, Geometry};
use serde_json::json;

use crate::{
    config::Config,
    error::{Failed, Outcome},
    files::print_json,
    home::Home,
    output::{say, tell},
    progress::counted,
};

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Checks config.toml without a daemon, and says what its array survives
    Check,
}

pub(crate) fn run(home: &Home, json: bool, command: &ConfigCommand) -> Outcome {
    let ConfigCommand::Check = command;
    let config = Config::load(home)?;
    let Some(array) = &config.array else {
        if json {
            return print_json(&json!({"sound": true}));
        }
        say!("config.toml is sound. It has no [array]: Tahoe-LAFS clients alone are served.");
        return Ok(());
    };
    let classes = config.classes(array).map_err(Failed::configuration)?;
    let (default, _) = classes.default();
    if json {
        let described = classes.all().map(|(name, class)| {
            let Geometry { k, n } = class.geometry;
            json!({
                "name": name, "is_default": name == default, "k": k, "n": n,
                "survive": class.survive, "needed": class.needed(),
                "domains_that_hold_too_much": large_domains(&config, class),
            })
        });
        let described: Vec<_> = described.collect();
        return print_json(&json!({"sound": true, "classes": described}));
    }
    say!("config.toml is sound.");
    let writable = config.clouds.values().filter(|cloud| !cloud.is_read_only());
    let (writable, all) = (writable.count(), config.clouds.len());
    for (name, class) in classes.all() {
        if writable < class.needed() {
            tell!(
                "warning: {} of {all} clouds are read-only, so no file of class {name} can be stored",
                all - writable
            );
        }
    }
    for (name, class) in classes.all() {
        let note = match name == default {
            true => ", the default",
            false => "",
        };
        say!("class {name}{note}:");
        let too_large = large_domains(&config, class);
        tell_class(class, config.clouds.len(), too_large.is_empty());
        for (domain, clouds) in too_large {
            tell!(
                "warning: {} are the failure domain {domain:?}: files of class {name} do not \
                 survive its loss",
                clouds.join(", ")
            );
        }
    }
    Ok(())
}

/// Says what a class gives on a number of clouds. If `survives` is false, their failure domains are
/// too large for what it should survive.
pub(crate) fn tell_class(class: Class, clouds: usize, survives: bool) {
    let Geometry { k, n } = class.geometry;
    let lost = class.lost(clouds);
    say!(
        "  {k}-of-{n}: a file takes up to {:.2} times its size, and is read although any {} gone",
        f64::from(n) / f64::from(k),
        match lost {
            1 => "cloud is".to_owned(),
            lost => format!("{lost} clouds are"),
        }
    );
    let needed = counted(class.needed() as u64, "cloud");
    match survives {
        true => say!(
            "  {needed} must work to store a file, which then survives the loss of {} more",
            counted(class.survive as u64, "failure domain")
        ),
        false => say!("  {needed} must work to store a file, or more of a large failure domain"),
    }
    if clouds < usize::from(n) {
        say!(
            "  there {} only {}, as if the others were down: files have no more shares than they \
             need for this",
            if clouds == 1 { "is" } else { "are" },
            counted(clouds as u64, "cloud")
        );
    }
}

/// Returns the failure domains of which a file may have more shares than can be lost.
fn large_domains(config: &Config, class: Class) -> BTreeMap<String, Vec<String>> {
    let domain_of = |name: &String| {
        let section = config.clouds.get(name);
        section
            .and_then(|section| section.domain())
            .unwrap_or(name)
            .clone()
    };
    let domains: Vec<String> = config.clouds.keys().map(domain_of).collect();
    let too_large = class.domains_too_large(domains.iter().map(String::as_str));
    let mut clouds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, domain) in config.clouds.keys().zip(&domains) {
        if too_large.contains(domain.as_str()) {
            clouds.entry(domain.clone()).or_default().push(name.clone());
        }
    }
    clouds
}
