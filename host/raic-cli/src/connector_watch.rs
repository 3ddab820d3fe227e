//! Watches the folder that connectors are dropped into: what is new waits for the operator's
//! approval.

use std::{sync::PoisonError, time::Duration};

use raic_gateway::admin::{WaitingConnector, WaitingConnectors};
use raic_wasm::{ApprovalStore, Waiting};

/// How often the folder is looked at. Looking costs a listing of it; files are read when one has
/// changed.
const EVERY: Duration = Duration::from_secs(2);

/// Looks again and again, and tells `told`; never ends.
pub(crate) async fn watch(store: ApprovalStore, told: WaitingConnectors) {
    let mut seen = None;
    loop {
        let (looked, last) = (store.clone(), seen.clone());
        let look = move || {
            let now = looked.seen();
            let changed = last.as_ref() != Some(&now);
            (changed.then(|| looked.waiting()), now)
        };
        match tokio::task::spawn_blocking(look).await {
            Ok((Some(Ok(waiting)), now)) => {
                let waiting: Vec<WaitingConnector> = waiting.into_iter().map(described).collect();
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                for new in waiting.iter().filter(|new| !told.contains(new)) {
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
                *told = waiting;
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
