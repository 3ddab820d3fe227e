//! Installs the cloud servers that connectors are tested against, in pinned versions, below the
//! target folder.

use std::{fs, process::Command};

use crate::stage::{Outcome, stage, target_folder};

/// Azurite, from npm.
const AZURITE: &str = "azurite@3.37.0";

/// OpenStack Swift and Keystone, from PyPI, and what runs Keystone.
const OPENSTACK: [&str; 4] = [
    "swift==2.38.3",
    "keystone==30.0.0",
    "keystonemiddleware==13.0.1",
    "gunicorn==27.0.1",
];

/// An emulator of Google Cloud Storage, from PyPI, and the packages that
/// `tests/clouds/gcs_server.py` puts before it.
const GCS: [&str; 6] = [
    "gcp-storage-emulator==2026.7.19",
    "authlib==1.9.9",
    "cryptography==50.0.2",
    "flask==3.1.3",
    "urllib3==2.8.0",
    "waitress==3.0.2",
];

/// Backblaze's SDK, from PyPI. `tests/clouds/b2_server.py` uses its simulator.
const B2: [&str; 1] = ["b2sdk==2.13.2"];

/// Tahoe-LAFS, from PyPI, and what its tests of storage servers need.
const TAHOE: [&str; 5] = [
    "tahoe-lafs==1.20.0",
    "testtools==2.9.1",
    "fixtures==4.3.2",
    "hypothesis==6.170.17",
    "html5lib==1.1",
];

/// What `tests/share_format/read_share.py` needs, from PyPI.
const SHARE_FORMAT: [&str; 2] = ["blake3==1.0.11", "cryptography==50.0.2"];

/// Installs what the second reader of shares needs, unless it is there. Needs `python3`.
pub(crate) fn share_format() -> Outcome {
    python(
        "share_format",
        &SHARE_FORMAT,
        "the share format is tested with",
    )
}

/// Installs the client that the Tahoe door is tested with, unless that version is there. Needs
/// `python3`.
pub(crate) fn tahoe() -> Outcome {
    python("tahoe", &TAHOE, "the Tahoe door is tested with")
}

/// Installs OpenStack Swift and Keystone, unless these versions are there. Needs `python3`.
pub(crate) fn openstack() -> Outcome {
    python(
        "openstack",
        &OPENSTACK,
        "the Swift connector is tested against",
    )
}

/// Installs the emulator that the GCS connector is tested against, unless these versions are there.
/// Needs `python3`.
pub(crate) fn gcs() -> Outcome {
    python("gcs", &GCS, "the GCS connector is tested against")
}

/// Installs the simulator that the B2 example is tested against, unless that version is there.
/// Needs `python3`.
pub(crate) fn b2() -> Outcome {
    python("b2", &B2, "the B2 example is tested against")
}

/// Makes a Python environment with packages in exact versions, unless it is there.
fn python(name: &str, packages: &[&str], purpose: &str) -> Outcome {
    let folder = target_folder().join("clouds").join(name);
    let marker = folder.join(packages.join(" "));
    if marker.is_file() {
        return Ok(());
    }
    println!(
        "installing {} into {}, which {purpose}",
        packages.join(", "),
        folder.display()
    );
    let cannot = |e: std::io::Error| format!("cannot write below {}: {e}", folder.display());
    fs::create_dir_all(&folder).map_err(cannot)?;
    stage(
        "python environment",
        Command::new("python3").args(["-m", "venv"]).arg(&folder),
    )?;
    let mut pip = Command::new(folder.join("bin/pip"));
    stage(
        &format!("install {name}"),
        pip.args(["install", "--quiet"]).args(packages),
    )?;
    fs::write(&marker, "").map_err(cannot)
}

/// Installs Azurite, unless that version is there. Needs `npm`.
pub(crate) fn azurite() -> Outcome {
    let folder = target_folder().join("clouds/azurite");
    let marker = folder.join(AZURITE);
    if marker.is_file() {
        return Ok(());
    }
    println!(
        "installing {AZURITE} into {}, which the Azure connector is tested against",
        folder.display()
    );
    let cannot = |e: std::io::Error| format!("cannot write below {}: {e}", folder.display());
    fs::create_dir_all(&folder).map_err(cannot)?;
    let mut npm = Command::new("npm");
    npm.arg("install").arg("--prefix").arg(&folder);
    stage(
        "install azurite",
        npm.args([
            "--no-audit",
            "--no-fund",
            "--omit=optional",
            "--silent",
            AZURITE,
        ]),
    )?;
    fs::write(&marker, "").map_err(cannot)
}
