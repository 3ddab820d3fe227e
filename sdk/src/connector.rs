//! What a connector implements.

use crate::{
    Body, ByteRange, Error, ErrorKind, Extra, ObjectInfo, Page, Payload, Result, Usage, WriteMode,
    error,
};

/// A provider's API, as the host calls it. Every call runs in a fresh instance: nothing in memory
/// outlives it.
///
/// The methods from `create_container` on are optional abilities: their defaults answer
/// `unsupported`, which means to the host that the connector does not have them.
pub trait Connector {
    /// Capabilities, such as `create-only` (`native`, `emulated` or `none`). Must be true: the host
    /// plans by it.
    fn describe() -> Result<Extra>;
    /// The cheapest call that proves credentials and container.
    fn probe() -> Result<()>;
    /// Stores an object whole.
    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo>;
    /// Opens an object, or a range of it.
    fn get(
        key: String,
        range: Option<ByteRange>,
        if_match: Option<String>,
    ) -> Result<(ObjectInfo, Body)>;
    /// What the provider says of an object.
    fn head(key: String) -> Result<ObjectInfo>;
    /// Removes an object; succeeds when it is already gone.
    fn delete(key: String, if_match: Option<String>) -> Result<()>;
    /// A page of objects whose key begins with `prefix`.
    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page>;

    /// Makes the container.
    fn create_container() -> Result<()> {
        Err(unsupported("a way to create containers"))
    }
    /// Removes the empty container.
    fn delete_container() -> Result<()> {
        Err(unsupported("removing containers"))
    }
    /// What the account holds and may hold.
    fn usage() -> Result<Usage> {
        Err(unsupported("usage reports"))
    }
    /// Removes several objects; returns those that could not be, each with its reason.
    fn delete_many(_keys: Vec<String>) -> Result<Vec<(String, Error)>> {
        Err(unsupported("deleting several objects at once"))
    }
}

fn unsupported(what: &str) -> Error {
    error(
        ErrorKind::Unsupported,
        format!("this connector does not have {what}"),
    )
}

/// What the component exports.
#[cfg(target_family = "wasm")]
mod guest {
    use super::*;
    use crate::bindings::exports::raic::connector as exports;

    impl<C: Connector> exports::object_store::Guest for C {
        fn describe() -> Result<Extra> {
            C::describe()
        }
        fn probe() -> Result<()> {
            C::probe()
        }
        fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
            C::put(key, content, mode)
        }
        fn get(
            key: String,
            range: Option<ByteRange>,
            if_match: Option<String>,
        ) -> Result<(ObjectInfo, Body)> {
            C::get(key, range, if_match)
        }
        fn head(key: String) -> Result<ObjectInfo> {
            C::head(key)
        }
        fn delete(key: String, if_match: Option<String>) -> Result<()> {
            C::delete(key, if_match)
        }
        fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
            C::list(prefix, cursor, limit)
        }
    }

    impl<C: Connector> exports::container::Guest for C {
        fn create() -> Result<()> {
            C::create_container()
        }
        fn delete() -> Result<()> {
            C::delete_container()
        }
    }

    impl<C: Connector> exports::account::Guest for C {
        fn report() -> Result<Usage> {
            C::usage()
        }
    }

    impl<C: Connector> exports::batch_delete::Guest for C {
        fn delete_many(keys: Vec<String>) -> Result<Vec<(String, Error)>> {
            C::delete_many(keys)
        }
    }
}
