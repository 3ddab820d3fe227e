//! Makes connectors: it compiles a crate, makes a component of the core module, and appends the
//! manifest to the component.

mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

pub use toolchain::{TARGET, Toolchain, ToolchainError};
use wasm_encoder::{ComponentSection as _, CustomSection};

/// The name of the custom section that holds `connector.toml`.
pub const MANIFEST_SECTION: &str = "raic:connector.toml";

/// Why no connector was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no compiler for WebAssembly.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file that cannot be read.
        path: PathBuf,
        /// The error of the read.
        source: std::io::Error,
    },
    /// Cargo cannot be run.
    #[error("cannot run cargo: {0}")]
    Cargo(std::io::Error),
    /// The crate in this folder does not compile; cargo has printed why.
    #[error("{0} does not compile; cargo's output above says why")]
    Crate(PathBuf),
    /// The crate in this folder has no library that becomes WebAssembly.
    #[error("{0} has no library that could be a connector")]
    NoLibrary(PathBuf),
    /// No component can be made of the core module, for this reason.
    #[error("it cannot be made a component: {0}")]
    Componentize(String),
    /// The bytes are not WebAssembly.
    #[error("it is not WebAssembly")]
    NoWasm,
}

/// A crate that is a connector.
#[derive(Clone, Copy, Debug)]
pub struct ConnectorCrate<'a> {
    /// The folder with the crate's `Cargo.toml` and `connector.toml`.
    pub folder: &'a Path,
    /// Cargo's profile to build with.
    pub profile: &'a str,
    /// The target folder, apart from the crate's host builds, since the compiler may be another
    /// one.
    pub target_folder: &'a Path,
    /// Whether `Cargo.lock` must stay as it is.
    pub locked: bool,
}

impl ConnectorCrate<'_> {
    /// Compiles the crate and returns the connector with its manifest.
    ///
    /// # Errors
    /// [`BuildError`] says which step failed.
    pub fn build(&self, toolchain: Toolchain) -> Result<Vec<u8>, BuildError> {
        let mut cargo = toolchain.cargo_rustc();
        if self.locked {
            cargo.arg("--locked");
        }
        cargo
            .args(["--lib", "--profile", self.profile, "--crate-type", "cdylib"])
            .args(["--message-format", "json-render-diagnostics"])
            .arg("--target-dir")
            .arg(self.target_folder)
            // A stack of 64 KiB: Rust's default of 1 MiB would be reset for every call.
            .args(["--", "-C", "link-arg=-zstack-size=65536"])
            .env("CARGO_ENCODED_RUSTFLAGS", remapped().join("\u{1f}"))
            .current_dir(self.folder)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        let ended = cargo.output().map_err(BuildError::Cargo)?;
        if !ended.status.success() {
            return Err(BuildError::Crate(self.folder.to_owned()));
        }
        let core =
            artifact(&ended.stdout).ok_or_else(|| BuildError::NoLibrary(self.folder.to_owned()))?;
        connector(&read(&core)?, &read(&self.folder.join("connector.toml"))?)
    }
}

/// Compiler flags that keep this machine's paths out of the component, where messages of panics
/// would hold them. They are the same for every crate, so that shared dependencies compile once.
fn remapped() -> Vec<String> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let sources = cargo_home
        .map(|home| home.join("registry/src"))
        .and_then(|folder| fs::read_dir(folder).ok());
    let mut registries: Vec<PathBuf> = sources
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    registries.sort();
    let registries = registries
        .iter()
        .map(|path| format!("--remap-path-prefix={}=registry", path.display()));
    // The folder of the standard library's source in Debian.
    registries
        .chain(["--remap-path-prefix=/usr/lib/rustlib/src/rust=rust".to_owned()])
        .collect()
}

/// Makes a connector of `wasm` and a manifest. `wasm` is a component, or a core module that carries
/// the types of its world.
///
/// # Errors
/// [`BuildError::NoWasm`] and [`BuildError::Componentize`].
pub fn connector(wasm: &[u8], manifest: &[u8]) -> Result<Vec<u8>, BuildError> {
    // The magic number, then the version: 1 for modules; 0x0d, in layer 1, for components.
    let mut component = match wasm.get(..8) {
        Some(b"\0asm\x01\0\0\0") => wit_component::ComponentEncoder::default()
            .module(wasm)
            .and_then(|encoder| encoder.validate(true).encode())
            .map_err(|e| BuildError::Componentize(format!("{e:#}")))?,
        Some(b"\0asm\x0d\0\x01\0") => wasm.to_vec(),
        _ => return Err(BuildError::NoWasm),
    };
    CustomSection {
        name: MANIFEST_SECTION.into(),
        data: manifest.into(),
    }
    .append_to_component(&mut component);
    Ok(component)
}

/// The last WebAssembly file in cargo's messages, which is that of the crate itself.
fn artifact(messages: &[u8]) -> Option<PathBuf> {
    let lines = messages.split(|b| *b == b'\n').rev();
    let mut files = lines.filter_map(|line| {
        let message: serde_json::Value = serde_json::from_slice(line).ok()?;
        let files = message.get("filenames")?.as_array()?.clone();
        files
            .iter()
            .filter_map(|file| file.as_str())
            .find(|file| file.ends_with(".wasm"))
            .map(PathBuf::from)
    });
    files.next()
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    fs::read(path).map_err(|source| BuildError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_webassembly_is_told() {
        assert!(matches!(
            connector(b"#!/bin/sh", b""),
            Err(BuildError::NoWasm)
        ));
        assert!(matches!(connector(b"", b""), Err(BuildError::NoWasm)));
    }

    #[test]
    fn a_component_gets_its_manifest() {
        let built = connector(b"\0asm\x0d\0\x01\0", b"name = \"x\"").unwrap();
        assert!(
            built
                .windows(MANIFEST_SECTION.len())
                .any(|part| part == MANIFEST_SECTION.as_bytes())
        );
        assert!(built.ends_with(b"name = \"x\""));
    }

    #[test]
    fn cargos_last_artifact_is_the_crates() {
        let messages = br#"{"reason":"compiler-artifact","filenames":["/t/a.wasm"]}
{"reason":"compiler-artifact","filenames":["/t/b.rlib","/t/b.wasm"]}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(artifact(messages), Some(PathBuf::from("/t/b.wasm")));
    }
}
