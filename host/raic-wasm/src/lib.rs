//! Runs connectors: sandboxed WebAssembly components that each speak one provider's API.
//!
//! A [`Package`] is a connector's file, read without running it. The [`ApprovalStore`] keeps the
//! connectors that the operator approved. The [`Engine`] compiles them. A [`ConnectorCloud`] is a
//! `Cloud` whose every call runs in a fresh instance. A guest can do only what the contract's
//! imports offer; these modules stand behind them:
//!
//! - `gate` judges every request by the manifest and the cloud's settings, and `client` sends it;
//! - `secrets` signs with credentials and sends them where the manifest says, and `redaction` cuts
//!   them out of answers;
//! - `imports` is the host's side of each import, and `call` has the state and the limits of one
//!   call.
//!
//! **Invariant:** a guest sees neither plaintext nor ciphertext, no raw secret, and no host that
//! was not granted.
//!
//! **Invariant:** no instance of a guest outlives its call. The host keeps the logins that it made
//! and the endpoints that it learned. The body of a get streams on without it.

mod address;
mod approval;
mod bindings;
mod call;
mod client;
mod cloud;
mod compilation;
mod cpu;
mod engine;
mod error;
mod gate;
mod imports;
mod json_body;
mod logins;
mod manifest;
mod names;
mod package;
mod redaction;
mod rehearsal;
mod rotation;
mod secrets;
mod signature;
mod signed_message;
mod tokens;
mod trust;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use approval::{ApprovalStore, Dropped, Waiting, is_hash};
pub use client::TlsSettings;
pub use cloud::{Configuration, ConnectorCloud};
pub use compilation::{CompilerProcess, compile_file};
pub use engine::{Connector, Engine};
pub use error::ConnectorError;
pub use gate::{Grant, Pins};
pub use manifest::{
    Credential, Document, Encoding, Endpoint, MEMORY_MIB, Manifest, Network, Part, Sending,
    Setting, SettingType, Settings, Signing, Token, Values,
};
pub use package::{MAX_CONNECTOR, Package};
pub use rehearsal::{Rehearsal, RehearsedAnswer};
pub use rotation::{ReadCredentials, RotatingCloud};
pub use secrets::CredentialDocuments;
pub use signature::{signature_file, verify_signature};

/// Version of the contract that this host speaks.
pub const CONTRACT: &str = "0.1.0";

/// Name of a component's custom section that holds its manifest, the text of `connector.toml`.
pub const MANIFEST_SECTION: &str = "raic:connector.toml";

/// Whether a character hides itself or its neighbours where it is shown: control characters, marks
/// of direction, and characters without width.
///
/// Text from a file, a connector or a service is never shown with these characters. [`shown`]
/// escapes them.
pub fn hides(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            // Default-ignorable code points (Unicode's DerivedCoreProperties), separators of lines,
            // and interlinear marks.
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
                | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Returns a text from outside in a form that is safe for a terminal or a log. Characters for which
/// [`hides`] holds are escaped; line feeds stay.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hides(c) && c != '\n' {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}
