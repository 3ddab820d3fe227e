//! Why a connector cannot be used at all. What goes wrong in a call is a `CloudError`.

use std::path::PathBuf;

/// Why a file is no connector, or a connector cannot serve a cloud.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// Not WebAssembly, or cut short.
    #[error("it is no whole WebAssembly component: {0}; get or build the file again")]
    Malformed(String),
    /// A core module.
    #[error(
        "it is a core WebAssembly module, not a component; `raic connector build --component FILE --manifest FILE` makes it one"
    )]
    CoreModule,
    /// It imports WASI.
    #[error(
        "it imports {0:?}: a connector gets no WASI; build it for wasm32-unknown-unknown (componentize-py: --stub-wasi, componentize-js: disableFeatures)"
    )]
    ImportsWasi(String),
    /// It imports what is not in the contract.
    #[error("it imports {0:?}, which the contract raic:connector@{host} does not have", host = crate::CONTRACT)]
    UnknownImport(String),
    /// It was built for another version of the contract.
    #[error(
        "it was built for {found:?}, this host speaks raic:connector@{host}; build it against this version of wit/", host = crate::CONTRACT
    )]
    ContractVersion {
        /// The package version it names.
        found: String,
    },
    /// It lacks a required export.
    #[error("it does not export {0}")]
    MissingExport(String),
    /// It has no manifest.
    #[error("it carries no manifest (custom section {section}); build it with its connector.toml", section = crate::MANIFEST_SECTION)]
    NoManifest,
    /// The manifest makes no sense.
    #[error("its manifest is wrong: {0}")]
    Manifest(String),
    /// The engine refused it.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// No approval.
    #[error("no connector {0:?} is approved; approve one with `raic connector approve FILE`")]
    NotApproved(String),
    /// A kept file is not what was approved.
    #[error("{path}: its SHA-256 is not the one approved; approve the connector again")]
    Tampered {
        /// The file in the store.
        path: PathBuf,
    },
    /// A setting of the cloud.
    #[error("setting {name:?}: {problem}")]
    Setting {
        /// Which one.
        name: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A credential of the cloud.
    #[error("credential {name:?}: {problem}")]
    Credential {
        /// Which one.
        name: String,
        /// What is wrong; never the value.
        problem: String,
    },
    /// The credentials' documents cannot be had.
    #[error("{0}")]
    Credentials(String),
    /// A signature that the operator asks for is not there, or not good.
    #[error("{path}: {problem}")]
    Signature {
        /// The signature's file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl ConnectorError {
    pub(crate) fn setting(name: &str, problem: impl Into<String>) -> Self {
        Self::Setting {
            name: name.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn credential(name: &str, problem: impl Into<String>) -> Self {
        Self::Credential {
            name: name.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
