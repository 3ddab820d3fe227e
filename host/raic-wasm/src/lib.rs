//! Runs connectors: sandboxed WebAssembly components that each speak one provider's API.
//!
//! A [`Package`] is a connector's file, read without running it; the [`ApprovalStore`] keeps those the operator
//! approved; the [`Engine`] compiles them; a [`ConnectorCloud`] is a `Cloud` whose every call runs in a fresh
//! instance. What a guest may do is the contract's imports, and each has its file here:
//!
//! - `gate` judges every request by the manifest and the cloud's settings, `client` sends it;
//! - `secrets` signs with credentials and sends them where the manifest says, `redaction` cuts them out of
//!   answers;
//! - `imports` is the host's side of each import; `call` the state and the limits of one call.
//!
//! **Invariant:** a guest sees neither plaintext nor ciphertext, no raw secret, and no host that was not granted.
//! **Invariant:** nothing of a guest outlives its call.

mod address;
mod approval;
mod bindings;
mod call;
mod client;
mod cloud;
mod cpu;
mod engine;
mod error;
mod gate;
mod imports;
mod json_body;
mod logins;
mod manifest;
mod package;
mod redaction;
mod rehearsal;
mod rotation;
mod secrets;
mod signature;
mod tokens;

pub use approval::{ApprovalStore, Dropped, Waiting, is_hash};
pub use client::TlsSettings;
pub use cloud::{Configuration, ConnectorCloud};
pub use engine::{Connector, Engine};
pub use error::ConnectorError;
pub use gate::Grant;
pub use manifest::{
    Credential, Document, Encoding, Endpoint, MEMORY_MIB, Manifest, Network, Part, Sending, Setting,
    SettingType, Settings, Signing, Token, Values,
};
pub use package::{MAX_CONNECTOR, Package};
pub use rehearsal::{Rehearsal, RehearsedAnswer};
pub use rotation::{ReadCredentials, RotatingCloud};
pub use secrets::CredentialDocuments;
pub use signature::{signature_file, verify_signature};

/// The version of the contract this host speaks.
pub const CONTRACT: &str = "0.1.0";

/// The custom section of a component that holds its manifest, the text of `connector.toml`.
pub const MANIFEST_SECTION: &str = "raic:connector.toml";
