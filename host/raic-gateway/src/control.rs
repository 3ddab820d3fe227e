//! What doors ask of the daemon that runs them.

use std::{future::Future, pin::Pin};

use crate::wire::{ConnectorVersions, Traffic, WaitingConnector};

/// A reload under way.
pub type Reload<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// The daemon, as a door knows it.
pub trait Control: Send + Sync {
    /// Reads configuration and credentials again, moves clouds to the versions of connectors that
    /// are given, and puts an array opened by them in the place of the one before. Of two reloads
    /// the second waits for the first. An error is a sentence, and leaves everything as it was.
    fn reload(&self, versions: ConnectorVersions) -> Reload<'_>;

    /// The connectors that were dropped in and wait for the operator's approval.
    fn waiting_connectors(&self) -> Vec<WaitingConnector>;

    /// What was asked of a cloud since the daemon started; `None` for a folder.
    fn traffic(&self, cloud: &str) -> Option<Traffic>;
}
