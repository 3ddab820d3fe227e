//! The trait [`Control`]: what the doors ask of the daemon that runs them.

use std::{future::Future, pin::Pin};

use crate::wire::{ConnectorVersions, Failure, Traffic, WaitingConnector};

/// A reload under way. An error is a sentence for the operator, with its code.
pub type Reload<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// The daemon, as its doors know it.
pub trait Control: Send + Sync {
    /// Reads the configuration and the credentials again, and moves clouds to the connector
    /// versions in `versions`. The array that is opened then replaces the open one. A second reload
    /// waits for the first. If a reload fails, the open array stays.
    fn reload(&self, versions: ConnectorVersions) -> Reload<'_>;

    /// Returns the files in the drop-in folder that are not approved: connectors that wait for the
    /// operator's approval, and files that are not connectors.
    fn waiting_connectors(&self) -> Vec<WaitingConnector>;

    /// Returns the counts of the requests to a cloud since the daemon started; `None` if the cloud
    /// is a folder, or was never opened.
    fn traffic(&self, cloud: &str) -> Option<Traffic>;
}
