//! A toolchain that compiles for `wasm32-unknown-unknown`: rustup's target, or Debian's packages.

use std::{env, fs, path::Path, process::Command};

use crate::stage::{Outcome, cargo, stage};

const TARGET: &str = "wasm32-unknown-unknown";
/// A compiler, the source of its standard library, and a linker. They stand beside rustup's.
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "lld"];

/// A way to compile guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WasmToolchain {
    /// The target that rustup adds to the toolchain in use.
    Rustup,
    /// Debian's `rustc-web`, which builds the standard library from `rust-web-src`.
    Debian,
}

impl WasmToolchain {
    /// Finds a toolchain, installing what it lacks. `RAIC_WASM_TOOLCHAIN` picks the way; unset tries rustup
    /// first.
    pub(crate) fn find() -> Outcome<Self> {
        match env::var("RAIC_WASM_TOOLCHAIN").as_deref() {
            Ok("rustup") => rustup().map(|()| Self::Rustup),
            Ok("debian") => debian().map(|()| Self::Debian),
            Ok(other) => Err(format!("RAIC_WASM_TOOLCHAIN={other:?}: it is rustup or debian")),
            Err(_) => match rustup() {
                Ok(()) => Ok(Self::Rustup),
                Err(first) => {
                    println!("{first}; trying Debian's packages");
                    debian()
                        .map(|()| Self::Debian)
                        .map_err(|second| format!("no way to compile WebAssembly: {first}; and {second}"))
                }
            },
        }
    }

    /// A `cargo rustc` for the target, to which package and profile are added.
    pub(crate) fn cargo_rustc(self) -> Command {
        let mut command = cargo();
        command.args(["rustc", "--locked", "--target", TARGET]);
        // Flags and wrappers meant for the host's own build would reach the guests too.
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(name);
        }
        if self == Self::Debian {
            command
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "/usr/bin/wasm-ld")
                .arg("-Zbuild-std=std,panic_abort");
        }
        command
    }
}

fn rustup() -> Outcome {
    let listed = Command::new("rustup").args(["target", "list", "--installed"]).output();
    let listed = listed.map_err(|e| format!("rustup cannot be started ({e})"))?;
    if String::from_utf8_lossy(&listed.stdout).lines().any(|target| target == TARGET) {
        return Ok(());
    }
    println!("adding rustup's target {TARGET}, to compile the connectors");
    stage("rustup target add", Command::new("rustup").args(["target", "add", TARGET]))
        .map_err(|_| format!("rustup cannot add the target {TARGET}"))
}

fn debian() -> Outcome {
    install_debian(
        &PACKAGES,
        "a compiler for WebAssembly beside rustup's (as /usr/bin/rustc), for the connectors",
    )
}

/// Installs those of Debian's packages that are not there yet, after saying so.
pub(crate) fn install_debian(packages: &[&str], purpose: &str) -> Outcome {
    let lacking: Vec<_> = packages.iter().filter(|package| !installed(package)).collect();
    let Some(names) = lacking.iter().map(|p| (**p).to_owned()).reduce(|a, b| format!("{a} {b}")) else {
        return Ok(());
    };
    if !is_debian() {
        return Err(format!(
            "{names} ({purpose}) can be installed on Debian only; install them by hand elsewhere"
        ));
    }
    println!("installing Debian's {names}: {purpose}");
    // A stale index offers a compiler too old for the connectors.
    stage("apt-get update", as_root().args(["apt-get", "update", "-q"]))?;
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
    let program =
        if owner.is_ok_and(|uid| uid == 0) || !Path::new("/usr/bin/sudo").exists() { "env" } else { "sudo" };
    let mut command = Command::new(program);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
