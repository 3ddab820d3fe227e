//! Installs what the machine needs: a toolchain that compiles for WebAssembly, and Debian's
//! packages.

use std::{fs, path::Path, process::Command};

use raic_sdk_build::Toolchain;

use crate::stage::{Outcome, stage};

/// Debian's packages of a compiler, of the source of its standard library, and of a linker. They
/// are installed beside rustup's.
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "lld"];

/// Finds a toolchain and installs what it lacks. `RAIC_WASM_TOOLCHAIN` names the toolchain; if it
/// is not set, rustup is tried first, then Debian's packages.
pub(crate) fn find() -> Outcome<Toolchain> {
    let ready = |toolchain: Toolchain| {
        if toolchain == Toolchain::Debian {
            install_debian(
                &PACKAGES,
                "a compiler for WebAssembly beside rustup's (as /usr/bin/rustc), for the connectors",
            )?;
        }
        toolchain
            .make_ready()
            .map(|()| toolchain)
            .map_err(|e| e.to_string())
    };
    match Toolchain::named().map_err(|e| e.to_string())? {
        Some(toolchain) => ready(toolchain),
        None => ready(Toolchain::Rustup).or_else(|first| {
            println!("{first}; trying Debian's packages");
            ready(Toolchain::Debian)
                .map_err(|second| format!("no way to compile WebAssembly: {first}; and {second}"))
        }),
    }
}

/// Installs those of Debian's packages that are not there yet, and prints that first.
pub(crate) fn install_debian(packages: &[&str], purpose: &str) -> Outcome {
    let lacking: Vec<_> = packages
        .iter()
        .filter(|package| !installed(package))
        .collect();
    let Some(names) = lacking
        .iter()
        .map(|p| (**p).to_owned())
        .reduce(|a, b| format!("{a} {b}"))
    else {
        return Ok(());
    };
    if !is_debian() {
        return Err(format!(
            "{names} ({purpose}) can be installed on Debian only; install them by hand elsewhere"
        ));
    }
    println!("installing Debian's {names}: {purpose}");
    // A stale index offers a compiler too old for the connectors.
    stage(
        "apt-get update",
        as_root().args(["apt-get", "update", "-q"]),
    )?;
    let install = ["apt-get", "install", "-q", "-y", "--no-install-recommends"];
    stage("apt-get install", as_root().args(install).args(lacking))
}

/// Whether this system is Debian, so that its packages can be installed.
pub(crate) fn is_debian() -> bool {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    system.lines().any(|line| line == "ID=debian")
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .output()
        .is_ok_and(|out| out.stdout == b"install ok installed")
}

/// A command that runs the rest of its line as root: `env` if root runs this or `sudo` is missing,
/// else `sudo`.
fn as_root() -> Command {
    let owner = fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
    let program = if owner.is_ok_and(|uid| uid == 0) || !Path::new("/usr/bin/sudo").exists() {
        "env"
    } else {
        "sudo"
    };
    let mut command = Command::new(program);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
