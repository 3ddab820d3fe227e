//! Connectors that were compiled when the contract was frozen keep running.

use std::{collections::BTreeMap, path::Path};

use raic_cloud::{Cloud, ErrorKind, conformance};
use raic_tests::{components::s3_keys, s3s_fs::S3sFs};
use raic_wasm::{Configuration, ConnectorCloud, Engine, Package};
use zeroize::Zeroizing;

/// Opens a cloud behind a connector as it was compiled at the freeze.
fn frozen(name: &str, settings: &[(&str, &str)], credential: (&str, &[u8])) -> ConnectorCloud {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/0.1.0")
        .join(format!("{name}.wasm"));
    let package = Package::read(std::fs::read(file).expect("the fixture")).expect("a connector");
    let connector = Engine::new()
        .expect("an engine")
        .load(&package, None)
        .expect("it still fits the contract");
    let configuration = Configuration {
        settings: settings
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        credentials: BTreeMap::from([(
            credential.0.to_owned(),
            Zeroizing::new(credential.1.to_vec()),
        )]),
        ..Configuration::default()
    };
    ConnectorCloud::new(name, &connector, &configuration).expect("a cloud")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_of_0_1_0_stores_and_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = S3sFs::start(folder.path(), "ACCESS", "SECRET").await;
    let settings = [
        ("bucket", "bucket"),
        ("endpoint", service.url.as_str()),
        ("create-only", "none"),
    ];
    let cloud = frozen("s3", &settings, ("keys", &s3_keys("ACCESS", "SECRET")));
    cloud.create_container().await.expect("a bucket");
    let held = [
        conformance::put_get_head_delete(&cloud, "basic/").await,
        conformance::ranges(&cloud, "ranges/").await,
        conformance::delete_many(&cloud, "many/").await,
        conformance::listing_pages(&cloud, "pages/", 12, 5).await,
    ];
    for verdict in held {
        verdict.expect("conforms");
    }
}

/// Together these connectors use every import: logins, tokens taken from answers, learned
/// endpoints, placeholders, signatures and payloads.
#[tokio::test(flavor = "multi_thread")]
async fn every_connector_of_0_1_0_loads_and_is_called() {
    let nowhere = ("endpoint", "http://127.0.0.1:1");
    let clouds = [
        frozen("practice", &[nowhere], ("account", b"token")),
        frozen(
            "s3",
            &[nowhere, ("bucket", "b")],
            ("keys", &s3_keys("ACCESS", "SECRET")),
        ),
        frozen(
            "swift",
            &[
                ("auth-url", "http://127.0.0.1:1/v3"),
                ("container", "c"),
                ("project", "p"),
            ],
            ("account", br#"{"User": "u", "Password": "p"}"#),
        ),
    ];
    for cloud in clouds {
        assert!(
            !cloud
                .describe()
                .await
                .expect("it describes itself")
                .is_empty()
        );
        assert_eq!(
            cloud.probe().await.expect_err("nobody is there").kind,
            ErrorKind::Unavailable
        );
    }
}
