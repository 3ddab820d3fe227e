//! The toolchain that compiles for `wasm32-unknown-unknown`: rustup's target, or Debian's packages.

use std::{env, path::Path, process::Command};

/// The target of connectors: its standard library imports nothing of WASI.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// Why there is no toolchain.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    /// The variable `RAIC_WASM_TOOLCHAIN` does not name a toolchain.
    #[error("RAIC_WASM_TOOLCHAIN={0:?} is not a toolchain; set it to rustup or debian")]
    Unknown(String),
    /// Rustup cannot be started.
    #[error("rustup cannot be started ({0}); it adds the target {TARGET} to a Rust compiler")]
    NoRustup(std::io::Error),
    /// Rustup cannot add the target.
    #[error("rustup cannot add the target {TARGET}; `rustup target add {TARGET}` says why")]
    NoTarget,
    /// This program of Debian's packages is missing.
    #[error("{0} is missing; Debian's packages rustc-web, rust-web-src and lld have it")]
    NoDebian(&'static str),
}

/// A toolchain that compiles connectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The target that rustup adds to the toolchain in use.
    Rustup,
    /// Debian's `rustc-web`, which builds the standard library from `rust-web-src`.
    Debian,
}

impl Toolchain {
    /// Returns the toolchain that `RAIC_WASM_TOOLCHAIN` names, `rustup` or `debian`; `None` if the
    /// variable is not set.
    ///
    /// # Errors
    /// [`ToolchainError::Unknown`] for any other name.
    pub fn named() -> Result<Option<Self>, ToolchainError> {
        match env::var("RAIC_WASM_TOOLCHAIN").as_deref() {
            Ok("rustup") => Ok(Some(Self::Rustup)),
            Ok("debian") => Ok(Some(Self::Debian)),
            Ok(other) => Err(ToolchainError::Unknown(other.to_owned())),
            Err(_) => Ok(None),
        }
    }

    /// Returns the named toolchain, or rustup's, and makes it ready. Rustup adds its target; of
    /// Debian's packages nothing is installed.
    ///
    /// # Errors
    /// [`ToolchainError`] says what is missing.
    pub fn find() -> Result<Self, ToolchainError> {
        let toolchain = Self::named()?.unwrap_or(Self::Rustup);
        toolchain.make_ready().map(|()| toolchain)
    }

    /// Makes the toolchain ready: adds the target if rustup lacks it, or checks that Debian's
    /// programs are there.
    ///
    /// # Errors
    /// [`ToolchainError`] says what is missing.
    pub fn make_ready(self) -> Result<(), ToolchainError> {
        match self {
            Self::Debian => {
                let programs = ["/usr/bin/rustc", "/usr/bin/wasm-ld"];
                let lacking = programs
                    .into_iter()
                    .find(|program| !Path::new(program).exists());
                lacking.map_or(Ok(()), |program| Err(ToolchainError::NoDebian(program)))
            }
            Self::Rustup => {
                let listed = Command::new("rustup")
                    .args(["target", "list", "--installed"])
                    .output();
                let listed = listed.map_err(ToolchainError::NoRustup)?;
                if String::from_utf8_lossy(&listed.stdout)
                    .lines()
                    .any(|target| target == TARGET)
                {
                    return Ok(());
                }
                eprintln!("adding rustup's target {TARGET}, to compile connectors");
                let added = Command::new("rustup")
                    .args(["target", "add", TARGET])
                    .status();
                match added.map_err(ToolchainError::NoRustup)?.success() {
                    true => Ok(()),
                    false => Err(ToolchainError::NoTarget),
                }
            }
        }
    }

    /// Returns a `cargo rustc` for the target; the caller adds profile and crate.
    pub fn cargo_rustc(self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["rustc", "--target", TARGET]);
        // These variables are meant for the host's compiler.
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ] {
            command.env_remove(name);
        }
        if self == Self::Debian {
            command
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1")
                .env(
                    "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER",
                    "/usr/bin/wasm-ld",
                )
                .arg("-Zbuild-std=std,panic_abort");
        }
        command
    }
}
