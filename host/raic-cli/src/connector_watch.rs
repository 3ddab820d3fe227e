//! Watches the folder that connectors are dropped into. A connector in it waits for the operator's
//! approval.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use raic_gateway::wire::WaitingConnector;
use raic_wasm::{ApprovalStore, Waiting};

/// How often the folder is checked. A check lists the folder, and reads the files only if one has
/// changed.
const EVERY: Duration = Duration::from_secs(2);

/// The files of the folder that are not approved, as the last check found them. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaitingConnectors(Arc<Mutex<Vec<WaitingConnector>>>);

impl WaitingConnectors {
    /// Returns the files that are not approved now.
    pub(crate) fn now(&self) -> Vec<WaitingConnector> {
        self.0.lock().clone()
    }
}

/// Checks the folder again and again, and records the files that are not approved in `waiting`.
/// Never returns.
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
            Ok((Some(Ok(files)), now)) => {
                let files: Vec<WaitingConnector> = files.into_iter().map(described).collect();
                let before = std::mem::replace(&mut *waiting.0.lock(), files.clone());
                for new in files.iter().filter(|new| !before.contains(new)) {
                    match (&new.connector, &new.fault) {
                        (Some(connector), _) => tracing::info!(
                            "{connector} waits for approval; `raic connector approve {}` shows what it asks for",
                            new.file
                        ),
                        (None, fault) => {
                            tracing::warn!(
                                "{} is not a connector: {}",
                                new.file,
                                fault.as_deref().unwrap_or_default()
                            );
                        }
                    }
                }
                seen = Some(now);
            }
            Ok((Some(Err(e)), now)) => {
                tracing::warn!("cannot check the folder of dropped connectors: {e}");
                seen = Some(now);
            }
            // No file has changed.
            Ok((None, _)) => {}
            Err(e) => tracing::warn!("cannot check the folder of dropped connectors: {e}"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Makes the document of a file that is not approved.
fn described(waiting: Waiting) -> WaitingConnector {
    // A dropped file is not trusted, and neither is its name: it is quoted and escaped.
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
