//! Makes connectors: a crate is compiled, a core module becomes a component, a component gets its
//! manifest.

mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

pub use toolchain::{TARGET, Toolchain, ToolchainError};
use wasm_encoder::{ComponentSection as _, CustomSection};

/// The custom section that holds `connector.toml`.
pub const MANIFEST_SECTION: &str = "raic:connector.toml";

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no compiler for WebAssembly.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Cargo cannot be run.
    #[error("cannot run cargo: {0}")]
    Cargo(std::io::Error),
    /// The crate does not compile; cargo has said why.
    #[error("{0} does not compile; cargo's output above says why")]
    Crate(PathBuf),
    /// The crate gives no WebAssembly.
    #[error("{0} has no library that could be a connector")]
    NoLibrary(PathBuf),
    /// A core module that no component can be made of.
    #[error("it cannot be made a component: {0}")]
    Componentize(String),
    /// No WebAssembly at all.
    #[error("it is no WebAssembly")]
    NoWasm,
}

/// A crate that is a connector.
#[derive(Clone, Copy, Debug)]
pub struct ConnectorCrate<'a> {
    /// The folder with its `Cargo.toml` and `connector.toml`.
    pub folder: &'a Path,
    /// The profile of cargo.
    pub profile: &'a str,
    /// Where cargo builds; beside the crate's host builds, since the compiler may be another one.
    pub target_folder: &'a Path,
    /// Whether its `Cargo.lock` must stay as it is.
    pub locked: bool,
}

impl ConnectorCrate<'_> {
    /// Compiles it; gives the connector with its manifest.
    ///
    /// # Errors
    /// [`BuildError`].
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
            // Rust's default stack of 1 MiB would be reset for every call.
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

/// Flags that keep the machine's paths out of the component, in which panics would name them; the
/// same for every crate, so that what they depend on is compiled once.
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
    // Where Debian has the standard library's.
    registries
        .chain(["--remap-path-prefix=/usr/lib/rustlib/src/rust=rust".to_owned()])
        .collect()
}

/// Makes a connector of a component, or of a core module that carries the types of its world, and a
/// manifest.
///
/// # Errors
/// [`BuildError::NoWasm`] and [`BuildError::Componentize`].
pub fn connector(wasm: &[u8], manifest: &[u8]) -> Result<Vec<u8>, BuildError> {
    // The magic, then the version: 1 of modules, 0x0d in layer 1 of components.
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

/// The WebAssembly that cargo made last: the crate's own.
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
