//! The Swift connector, sandboxed, against services that check its tokens.

use std::collections::BTreeMap;

use raic_cloud::{Cloud, CloudError, ErrorKind, ObjectKey, Payload, WriteMode, conformance};
use raic_tests::{
    components::connected,
    radosgw::{Radosgw, SWIFT_KEY, SWIFT_USER},
};
use raic_wasm::{ConnectorCloud, ConnectorError};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

fn account(user: &str, password: &str) -> String {
    format!(r#"{{"User":"{user}","Password":"{password}"}}"#)
}

/// A cloud as it is before and after the operator pinned what its login told.
async fn pinned(
    settings: &[(&str, &str)],
    credential: &str,
) -> Result<(ConnectorCloud, BTreeMap<String, String>), ConnectorError> {
    let before = connected(TMP, "swift", settings, &[("account", credential)], &[])?;
    let e = before.probe().await.expect_err("nothing is pinned yet");
    assert_eq!(e.kind, ErrorKind::RefusedByHost, "{e}");
    assert!(e.message.contains("raic cloud pin swift"), "{e}");
    let learned = before.learned();
    let pins: Vec<(&str, &str)> = learned.iter().map(|(n, url)| (n.as_str(), url.as_str())).collect();
    Ok((connected(TMP, "swift", settings, &[("account", credential)], &pins)?, learned))
}

async fn refused(cloud: &ConnectorCloud) -> CloudError {
    let key = ObjectKey::new("some/key").expect("a key");
    cloud.put(&key, Payload::from(&b"content"[..]), WriteMode::Overwrite).await.expect_err("refused")
}

async fn conforms(cloud: &ConnectorCloud) {
    assert_eq!(cloud.probe().await.expect_err("no container yet").kind, ErrorKind::ContainerNotFound);
    let e = refused(cloud).await;
    assert!(matches!(e.kind, ErrorKind::NotFound | ErrorKind::ContainerNotFound), "{e}");
    cloud.create_container().await.expect("the container is made");
    cloud.create_container().await.expect("made again is made");
    cloud.probe().await.expect("the container is there");
    conformance::all(cloud, "all/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_swift_connector_conforms_on_radosgw_by_v1() {
    let service = tokio::task::spawn_blocking(Radosgw::start).await.expect("RADOSGW");
    let login = format!("{}/auth/1.0", service.url);
    let settings =
        [("auth", "v1"), ("auth-url", login.as_str()), ("container", "container"), ("create-only", "head")];
    let (cloud, learned) = pinned(&settings, &account(SWIFT_USER, SWIFT_KEY)).await.expect("a cloud");
    assert!(learned["storage"].starts_with(&service.url), "{learned:?}");
    conforms(&cloud).await;
    let pins = [("storage", learned["storage"].as_str())];
    let wrong = account(SWIFT_USER, "not-the-key");
    let wrong = connected(TMP, "swift", &settings, &[("account", &wrong)], &pins).expect("a cloud");
    let e = wrong.probe().await.expect_err("a wrong key");
    assert!(matches!(e.kind, ErrorKind::Unauthenticated | ErrorKind::PermissionDenied), "{e}");
    // A service that moves the account elsewhere is not followed.
    let elsewhere = [("storage", "http://127.0.0.1:1/swift/v1")];
    let credential = account(SWIFT_USER, SWIFT_KEY);
    let moved = connected(TMP, "swift", &settings, &[("account", &credential)], &elsewhere).expect("a cloud");
    let e = moved.probe().await.expect_err("it is pinned elsewhere");
    assert_eq!(e.kind, ErrorKind::RefusedByHost, "{e}");
}
