//! All that the author of a RAIC connector depends on.
//!
//! A connector speaks one provider's API: it builds a request, sends it, and says what the answer
//! means. The host retries, holds the secrets and moves the bytes, so a connector is straight-line
//! code. Implement [`Connector`] for a type without fields and export it by [`connector!`];
//! `raic connector build` makes the component. `docs/connector-guide.md` leads from nothing to a
//! connector that runs, and `wit/connector.wit` has every rule of the contract.
//!
//! ```
//! use raic_sdk::{
//!     Body, ByteRange, Connector, ErrorKind, Extra, ObjectInfo, Page, Payload, Request, Response,
//!     Result, WriteMode,
//!     answer, error, required_setting, secrets, uri,
//! };
//!
//! struct Notes;
//! raic_sdk::connector!(Notes);
//!
//! fn request(method: &str, key: &str) -> Result<Request> {
//!     let url = format!("{}/{}", required_setting("endpoint")?, uri::encode_path(key));
//!     // Not the secret itself: as the host sends, it replaces this text with the secret.
//!     let token = secrets::required("account.token")?.placeholder("raw")?;
//!     Ok(Request::new(method, url).header("authorization", &format!("Bearer {token}")))
//! }
//!
//! fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
//!     answer::expect(answer, wanted, "x-request-id", |_, text| answer::Described::text(text))
//! }
//!
//! impl Connector for Notes {
//!     fn describe() -> Result<Extra> {
//!         Ok(vec![("create-only".to_owned(), "none".to_owned())])
//!     }
//!     fn head(key: String) -> Result<ObjectInfo> {
//!         let answer = request("HEAD", &key)?.send(None)?;
//!         expect(&answer, &[200])?;
//!         answer::info(&answer)
//!     }
//!     // and so on
//! #   fn probe() -> Result<()> { Ok(()) }
//! #   fn put(_: String, _: &Payload, _: WriteMode) -> Result<ObjectInfo> {
//! #       Err(error(ErrorKind::Unsupported, ""))
//! #   }
//! #   fn get(_: String, _: Option<ByteRange>, _: Option<String>) -> Result<(ObjectInfo, Body)> {
//! #       Err(error(ErrorKind::Unsupported, ""))
//! #   }
//! #   fn delete(_: String, _: Option<String>) -> Result<()> { Ok(()) }
//! #   fn list(_: String, _: Option<String>, _: u32) -> Result<Page> {
//! #       Ok(Page { entries: vec![], next: None })
//! #   }
//! }
//!
//! // Unit tests run it natively, with answers that the test gives.
//! use raic_sdk::testing::{Answer, Host};
//! let (info, sent) = Host::new()
//!     .setting("endpoint", "https://notes.example.com")
//!     .secret("account.token", "s3cret")
//!     .answer(Answer::new(200).header("content-length", "5").header("etag", "\"v1\""))
//!     .run(|| Notes::head("a b".to_owned()));
//! assert_eq!(info.unwrap().size, 5);
//! assert_eq!(sent[0].url, "https://notes.example.com/a%20b");
//! assert_eq!(sent[0].header("authorization"), Some("Bearer s3cret"));
//! ```
//!
//! Connectors are built for `wasm32-unknown-unknown`, on stable Rust. There the standard library's
//! clock and randomness panic: use [`now_unix_ms`] and [`random_bytes`], and `BTreeMap` rather than
//! `HashMap`, whose seed would be constant.

#[cfg(all(target_family = "wasm", not(target_os = "unknown")))]
compile_error!(
    "RAIC connectors are built for wasm32-unknown-unknown. wasm32-wasip1 and wasm32-wasip2 link \
     the standard library to WASI, and the host gives a connector no WASI: its imports are all \
     that it may do"
);

pub mod answer;
mod capabilities;
pub mod conditions;
mod connector;
mod digest;
mod error;
pub mod json;
mod login;
mod request;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
pub mod time;
pub mod uri;
pub mod xml;

/// The contract's types and calls, as `wit-bindgen` generates them.
#[cfg(target_family = "wasm")]
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "connector-full",
        path: "../wit",
        pub_export_macro: true,
        default_bindings_module: "raic_sdk::bindings",
    });
}

#[cfg(not(target_family = "wasm"))]
#[path = "native.rs"]
pub mod bindings;

pub use bindings::{
    exports::raic::connector::{
        account::Usage,
        object_store::{Listed, Page, WriteMode},
    },
    raic::connector::{
        cloud::{endpoint, now_unix_ms, random_bytes, setting},
        http::Response,
        log,
        payloads::{Body, Payload},
        secrets::Secret,
        types::{ByteRange, Error, ErrorKind, Extra, ObjectInfo},
    },
};
pub use capabilities::{Capabilities, CreateOnly};
pub use connector::Connector;
pub use data_encoding::{BASE64, BASE64URL_NOPAD};
pub use digest::{Digests, hex, md5, sha1, sha256};
pub use error::{error, lacks, required_setting};
pub use login::{Login, Made, login, oauth, with_login, with_login_judging};
pub use request::Request;

/// The parts of credentials that only the host can read.
///
/// ```
/// use raic_sdk::{secrets, testing::Host};
///
/// let (signature, _) = Host::new().secret("keys.secret-key", "key").run(|| {
///     // The key stays in the host.
///     secrets::required("keys.secret-key")?.hmac("sha256", b"what is signed")
/// });
/// assert_eq!(signature.unwrap().len(), 32);
/// ```
pub mod secrets {
    use crate::Result;
    pub use crate::bindings::raic::connector::secrets::{Secret, open};

    /// Returns the secret of that name, `CREDENTIAL.PART` of the manifest.
    ///
    /// # Errors
    /// `misconfigured` if the operator's credential has no such part.
    pub fn required(name: &str) -> Result<Secret> {
        open(name)?.ok_or_else(|| crate::lacks(name))
    }
}

/// Shorthand for results of connector calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Exports a type that implements [`Connector`] as the component's one connector. In a native
/// build, which is for tests, it exports nothing.
#[macro_export]
macro_rules! connector {
    ($connector:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::bindings::export!($connector with_types_in $crate::bindings);
    };
}
