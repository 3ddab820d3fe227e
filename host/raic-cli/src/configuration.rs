//! `config`: checks `config.toml`, and says what it gives.

use std::collections::BTreeMap;

use clap::Subcommand;
use raic_array::Geometry;
use serde_json::json;

use crate::{
    config::Config,
    error::Outcome,
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
    let n = u8::try_from(config.clouds.len()).unwrap_or(u8::MAX);
    let geometry = Geometry { k: array.k, n };
    let needed = geometry.least_clouds(array.survive);
    let (k, lost) = (geometry.k, n - geometry.k);
    let too_large = large_domains(&config, usize::from(lost));
    if json {
        return print_json(&json!({
            "sound": true, "k": k, "n": n, "survive": array.survive, "needed": needed,
            "domains_that_hold_too_much": too_large,
        }));
    }
    say!("config.toml is sound.");
    say!(
        "{k}-of-{n}: a file takes {:.2} times its size, and is read although any {} gone",
        f64::from(n) / f64::from(k),
        match lost {
            1 => "cloud is".to_owned(),
            lost => format!("{lost} clouds are"),
        }
    );
    say!(
        "{} must work to store a file, which then survives the loss of {} more",
        counted(needed as u64, "cloud"),
        counted(array.survive as u64, "failure domain")
    );
    for (domain, clouds) in too_large {
        tell!(
            "warning: {} are the failure domain {domain:?}: files do not survive its loss",
            clouds.join(", ")
        );
    }
    Ok(())
}

/// Returns the failure domains with more clouds than may be lost.
fn large_domains(config: &Config, lost: usize) -> BTreeMap<String, Vec<String>> {
    let mut domains: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, section) in &config.clouds {
        let domain = section.domain().unwrap_or(name);
        domains
            .entry(domain.clone())
            .or_default()
            .push(name.clone());
    }
    domains.retain(|_, clouds| clouds.len() > lost);
    domains
}
