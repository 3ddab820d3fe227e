//! All that the author of a RAIC connector depends on.
//!
//! Implement [`Connector`] for a type without fields and export it; `cargo xtask connectors` builds the
//! component. The contract, with every type's meaning, is `wit/connector.wit`; the types here are
//! generated from it.
//!
//! ```ignore
//! struct Example;
//! impl raic_sdk::Connector for Example { /* probe, put, get, head, delete, list, describe */ }
//! raic_sdk::export!(Example with_types_in raic_sdk::bindings);
//! ```
//!
//! A connector is straight-line code: build a request, send it, map the answer. The host retries, holds the
//! secrets and moves the bytes. On `wasm32-unknown-unknown` the standard library's clock and randomness
//! panic: use [`now_unix_ms`] and [`random_bytes`], and `BTreeMap` rather than `HashMap`.

pub mod answer;
mod connector;
mod error;
pub mod json;
mod login;
mod request;
mod sha256;
pub mod time;
pub mod uri;
pub mod xml;

/// The contract's types and calls, as `wit-bindgen` generates them.
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "connector-full",
        path: "../wit",
        pub_export_macro: true,
        default_bindings_module: "raic_sdk::bindings",
    });
}

pub use bindings::{
    export,
    exports::raic::connector::{
        account::Usage,
        object_store::{Listed, Page, WriteMode},
    },
    raic::connector::{
        bytes::{Body, Payload},
        cloud::{endpoint, now_unix_ms, random_bytes, setting},
        http::Response,
        log,
        secrets::{self, Secret},
        types::{ByteRange, Error, ErrorKind, Extra, ObjectInfo},
    },
};
pub use connector::Connector;
pub use data_encoding::{BASE64, BASE64URL_NOPAD};
pub use error::{error, required_setting};
pub use login::{Login, Made, lacks, login, with_login};
pub use request::Request;
pub use sha256::{hex, sha256};

/// Shorthand for results of connector calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
