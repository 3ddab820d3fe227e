//! What the machine needs: a toolchain that compiles for WebAssembly, and Debian's packages.

use std::{fs, path::Path, process::Command};

use raic_sdk_build::Toolchain;

use crate::stage::{Outcome, stage};

/// A compiler, the source of its standard library, and a linker. They stand beside rustup's.
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "lld"];

/// Finds a toolchain, installing what it lacks. `RAIC_WASM_TOOLCHAIN` picks the way; unset tries
/// rustup first.
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

/// Installs those of Debian's packages that are not there yet, after saying so.
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

/// Whether Debian's packages can be had here.
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

/// `env`, or `sudo` where this is not run by root.
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
