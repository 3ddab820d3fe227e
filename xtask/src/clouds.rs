//! The cloud servers that connectors are tested against, in pinned versions, below the target folder.

use std::{fs, process::Command};

use crate::stage::{Outcome, stage, target_folder};

/// Azurite, of npm.
const AZURITE: &str = "azurite@3.37.0";

/// Installs Azurite, unless that version is there. Needs `npm`.
pub(crate) fn azurite() -> Outcome {
    let folder = target_folder().join("clouds/azurite");
    let marker = folder.join(AZURITE);
    if marker.is_file() {
        return Ok(());
    }
    println!("installing {AZURITE} into {}, which the Azure connector is tested against", folder.display());
    let cannot = |e: std::io::Error| format!("cannot write below {}: {e}", folder.display());
    fs::create_dir_all(&folder).map_err(cannot)?;
    let mut npm = Command::new("npm");
    npm.arg("install").arg("--prefix").arg(&folder);
    stage("install azurite", npm.args(["--no-audit", "--no-fund", "--omit=optional", "--silent", AZURITE]))?;
    fs::write(&marker, "").map_err(cannot)
}
