//! Watches the folder that connectors are dropped into: what is new waits for the operator's
//! approval.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use raic_gateway::wire::WaitingConnector;
use raic_wasm::{ApprovalStore, Waiting};

/// How often the folder is looked at. Looking costs a listing of it; files are read when one has
/// changed.
const EVERY: Duration = Duration::from_secs(2);

/// The connectors that wait for the operator's approval, as they were seen last. Clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaitingConnectors(Arc<Mutex<Vec<WaitingConnector>>>);

impl WaitingConnectors {
    /// The connectors that wait now.
    pub(crate) fn now(&self) -> Vec<WaitingConnector> {
        self.0.lock().clone()
    }
}

/// Looks again and again, and records in `waiting` what it sees; never ends.
pub(crate) async fn watch(store: ApprovalStore, waiting: WaitingConnectors) {
    let mut seen = None;
    loop {
        let (looked, last) = (store.clone(), seen.clone());
        let look = move || {
            let now = looked.seen();
            let changed = last.as_ref() != Some(&now);
            (changed.then(|| looked.waiting()), now)
        };
        match tokio::task::spawn_blocking(look).await {
            Ok((Some(Ok(found)), now)) => {
                let found: Vec<WaitingConnector> = found.into_iter().map(described).collect();
                let before = std::mem::replace(&mut *waiting.0.lock(), found.clone());
                for new in found.iter().filter(|new| !before.contains(new)) {
                    match (&new.connector, &new.fault) {
                        (Some(connector), _) => tracing::info!(
                            "{connector} waits for approval; `raic connector approve {}` shows what it asks for",
                            new.file
                        ),
                        (None, fault) => {
                            tracing::warn!(
                                "{} is no connector: {}",
                                new.file,
                                fault.as_deref().unwrap_or_default()
                            );
                        }
                    }
                }
                seen = Some(now);
            }
            Ok((Some(Err(e)), now)) => {
                tracing::warn!("the connectors' folder cannot be looked at: {e}");
                seen = Some(now);
            }
            // Nothing new.
            Ok((None, _)) => {}
            Err(e) => tracing::warn!("the connectors' folder cannot be looked at: {e}"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn described(waiting: Waiting) -> WaitingConnector {
    // Whoever may drop files here may name them, too.
    let file = format!("{:?}", waiting.file);
    match waiting.package {
        Ok(package) => {
            let connector = format!("{} {}", package.name, package.version);
            WaitingConnector {
                file,
                connector: Some(connector),
                fault: None,
            }
        }
        Err(e) => WaitingConnector {
            file,
            connector: None,
            fault: Some(e.to_string()),
        },
    }
}
