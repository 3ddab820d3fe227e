//! The connectors that this release contains. Every home approves each of them once.

use raic_wasm::{ApprovalStore, ConnectorError, Package};

use crate::{
    error::{Failed, Outcome},
    home::Home,
};

/// SHA-256 and component of each connector. Empty in a binary that was built without connectors
/// (`build.rs`).
const RELEASED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/released.rs"));

/// Opens the store of a home's approved connectors, and approves those of this release. A connector
/// that the operator has revoked stays revoked.
pub(crate) fn approvals(home: &Home) -> Outcome<ApprovalStore> {
    let store = ApprovalStore::open(&home.connectors()).map_err(Failed::configuration)?;
    if let Err(e) = take_in(&store, RELEASED) {
        // Connectors that were approved before go on serving.
        tracing::warn!("the connectors of this release are not approved: {e}");
    }
    Ok(store)
}

/// Approves the connectors that the store does not know yet.
fn take_in(store: &ApprovalStore, released: &[(&str, &[u8])]) -> Result<(), ConnectorError> {
    for (sha256, component) in released {
        if !store.is_known(sha256) {
            store.approve(&Package::read(component.to_vec())?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_release_approves_its_connectors_and_not_again_what_was_revoked() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/0.1.0/s3.wasm");
        let component = std::fs::read(file).expect("a connector");
        let package = Package::read(component.clone()).expect("a connector");
        let store = ApprovalStore::open(&folder.path().join("connectors")).expect("a store");
        let released = [(package.sha256.as_str(), component.as_slice())];
        let is_approved = || {
            store
                .find("s3")
                .is_ok_and(|found| found.sha256 == package.sha256)
        };
        take_in(&store, &released).expect("it is taken in");
        assert!(is_approved());
        store.revoke(&package).expect("it is revoked");
        take_in(&store, &released).expect("nothing to do");
        assert!(!is_approved());
        store
            .approve(&package)
            .expect("the operator wants it again");
        assert!(is_approved());
    }
}
