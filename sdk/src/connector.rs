//! The trait that a connector implements.

use crate::{
    Body, ByteRange, Error, ErrorKind, Extra, ObjectInfo, Page, Payload, Result, Usage, WriteMode,
    error,
};

/// A provider's API, as the host calls it. Every call runs in a fresh instance: nothing in memory
/// outlives it.
///
/// The methods from `create_container` on are optional abilities. Their defaults return
/// `unsupported`, which means to the host that the connector does not have them.
pub trait Connector {
    /// Returns what the service can do, best made by [`Capabilities`](crate::Capabilities). Each
    /// pair must be true: the host chooses the size of chunks by `max-object-size` and checks
    /// listings by `ordered-list`. `raic connector test` tries what is stated.
    fn describe() -> Result<Extra>;
    /// Makes the cheapest call that proves credentials and container.
    fn probe() -> Result<()>;
    /// Stores an object whole: a reader sees all of it or none of it.
    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo>;
    /// Opens an object, or a range of it.
    fn get(
        key: String,
        range: Option<ByteRange>,
        if_match: Option<String>,
    ) -> Result<(ObjectInfo, Body)>;
    /// Returns what the provider says of an object, without its bytes.
    fn head(key: String) -> Result<ObjectInfo>;
    /// Removes an object; succeeds if it is already gone.
    fn delete(key: String, if_match: Option<String>) -> Result<()>;
    /// Returns a page of at most `limit` objects whose key begins with `prefix`. `cursor` is the
    /// `next` of the previous page.
    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page>;

    /// Creates the container that the settings name; succeeds if this account already owns it.
    fn create_container() -> Result<()> {
        Err(unsupported("create containers"))
    }
    /// Removes the container, only if it is empty; succeeds if it is already gone.
    fn delete_container() -> Result<()> {
        Err(unsupported("remove containers"))
    }
    /// Returns what the account uses and may use.
    fn usage() -> Result<Usage> {
        Err(unsupported("report what is used"))
    }
    /// Removes several objects in one request. Returns those that could not be removed, each with
    /// its reason.
    fn delete_many(_keys: Vec<String>) -> Result<Vec<(String, Error)>> {
        Err(unsupported("remove several objects at once"))
    }
}

fn unsupported(ability: &str) -> Error {
    error(
        ErrorKind::Unsupported,
        format!("this connector cannot {ability}"),
    )
}

/// The component's exports, which call the connector.
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
