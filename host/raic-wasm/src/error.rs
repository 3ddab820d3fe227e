//! Why a connector cannot be used at all. A failure of a single call is a `CloudError`.

use std::path::PathBuf;

/// Why a file is not a connector, or why a connector cannot serve a cloud.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The file is not WebAssembly, or it is cut short or damaged.
    #[error("it is not a whole WebAssembly component: {0}; get or build the file again")]
    Malformed(String),
    /// The file is a core WebAssembly module.
    #[error(
        "it is a core WebAssembly module, not a component; \
         `raic connector build --component FILE --manifest FILE` makes a connector of it"
    )]
    CoreModule,
    /// The component imports WASI.
    #[error(
        "it imports {0:?}: a connector gets no WASI; build it for wasm32-unknown-unknown \
         (componentize-py: --stub-wasi, componentize-js: disableFeatures)"
    )]
    ImportsWasi(String),
    /// The component imports an interface that is not in the contract.
    #[error(
        "it imports {0:?}, which the contract raic:connector@{host} does not have",
        host = crate::CONTRACT
    )]
    UnknownImport(String),
    /// The component was built for another version of the contract.
    #[error(
        "it was built for {found:?}, but this host speaks raic:connector@{host}; \
         build it against this version of wit/",
        host = crate::CONTRACT
    )]
    ContractVersion {
        /// The versioned interface that the component names.
        found: String,
    },
    /// The component lacks a required export.
    #[error("it does not export {0}, as every connector must")]
    MissingExport(String),
    /// The component has no manifest.
    #[error(
        "it carries no manifest (custom section {section}); build it with its connector.toml",
        section = crate::MANIFEST_SECTION
    )]
    NoManifest,
    /// The manifest is wrong.
    #[error("its manifest is wrong: {0}")]
    Manifest(String),
    /// The engine cannot compile or run it.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// No approved connector has this name or SHA-256.
    #[error("no connector {0:?} is approved; approve one with `raic connector approve FILE`")]
    NotApproved(String),
    /// An approved connector's file was changed.
    #[error("{path}: its SHA-256 is not the one approved; approve the connector again")]
    Tampered {
        /// The file in the store.
        path: PathBuf,
    },
    /// A setting of the cloud is missing or wrong.
    #[error("setting {name:?}: {problem}")]
    Setting {
        /// The setting's name.
        name: String,
        /// The problem, and what would be right.
        problem: String,
    },
    /// A credential of the cloud is missing or wrong.
    #[error("credential {name:?}: {problem}")]
    Credential {
        /// The credential's name.
        name: String,
        /// The problem. It never quotes the value.
        problem: String,
    },
    /// The documents with the credentials cannot be read.
    #[error("{0}")]
    Credentials(String),
    /// A connector's signature, which the operator requires, is missing or not valid.
    #[error("{path}: {problem}")]
    Signature {
        /// The signature's file.
        path: PathBuf,
        /// The problem with the signature.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
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
