//! The connectors of `connectors/examples`, sandboxed, each against a real server.

use raic_cloud::{Cloud, ErrorKind, conformance};
use raic_tests::{
    azurite::{ACCOUNT, Azurite, KEY, shared_access_signature},
    b2::B2Server,
    components::{connected, connected_by},
    openstack::{TEMPAUTH, TempAuthSwift},
    refusals, rehearsals,
    webdav::{PASSWORD, READER, USER, WebDavServer},
};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

#[tokio::test(flavor = "multi_thread")]
async fn the_webdav_example_conforms_on_apache() {
    let service = WebDavServer::start();
    let url = format!("{}/raic", service.url);
    let settings = [("url", url.as_str()), ("user", USER)];
    let cloud =
        connected(TMP, "webdav", &settings, &[("account", PASSWORD)], &[]).expect("a cloud");
    assert_eq!(
        cloud.probe().await.expect_err("no folder yet").kind,
        ErrorKind::ContainerNotFound
    );
    cloud.create_container().await.expect("the folder is made");
    cloud.create_container().await.expect("made again is made");
    raic_tests::conforms(&cloud, "all/").await;
    let wrong =
        connected(TMP, "webdav", &settings, &[("account", "another")], &[]).expect("a cloud");
    assert_eq!(
        wrong.probe().await.expect_err("a wrong password").kind,
        ErrorKind::Unauthenticated
    );
    conformance::unauthenticated(&wrong, "wrong/")
        .await
        .expect("conforms");
    let with = |settings: &[(&str, &str)]| {
        connected(TMP, "webdav", settings, &[("account", PASSWORD)], &[]).expect("a cloud")
    };
    let reader = with(&[settings[0], ("user", READER)]);
    conformance::read_only(&reader, &cloud, "read-only/")
        .await
        .expect("conforms");
    let nowhere = format!("{}/nowhere", service.url);
    refusals(&cloud, &with(&[("url", &nowhere), settings[1]])).await;
    cloud.delete_container().await.expect("the folder goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_conforms_on_openstack_by_v1() {
    let service = tokio::task::spawn_blocking(|| TempAuthSwift::start(TMP))
        .await
        .expect("Swift");
    let account = |key: &str| serde_json::json!({"User": TEMPAUTH.0, "Password": key}).to_string();
    let settings = [
        ("auth-url", service.auth_url.as_str()),
        ("container", "container"),
    ];
    let open = |connector: &str, more: &[(&str, &str)], key: &str, pins: &[(&str, &str)]| {
        let settings = [&settings[..], more].concat();
        connected(
            TMP,
            connector,
            &settings,
            &[("account", &account(key))],
            pins,
        )
        .expect("a cloud")
    };
    let first = open("swift-v1-python", &[], TEMPAUTH.1, &[]);
    assert_eq!(
        first.probe().await.expect_err("nothing is pinned yet").kind,
        ErrorKind::RefusedByHost
    );
    let learned = first.learned();
    let pins = [("storage", learned["storage"].as_str())];
    let cloud = open("swift-v1-python", &[], TEMPAUTH.1, &pins);
    assert_eq!(
        cloud.probe().await.expect_err("no container").kind,
        ErrorKind::ContainerNotFound
    );
    assert_eq!(
        cloud
            .create_container()
            .await
            .expect_err("it makes none")
            .kind,
        ErrorKind::Unsupported
    );
    open("swift", &[("auth", "v1")], TEMPAUTH.1, &pins)
        .create_container()
        .await
        .expect("a container");
    raic_tests::conforms(&cloud, "all/").await;
    let wrong = open("swift-v1-python", &[], "not-the-key", &pins);
    assert_eq!(
        wrong.probe().await.expect_err("a wrong key").kind,
        ErrorKind::Unauthenticated
    );
    conformance::unauthenticated(&wrong, "wrong/")
        .await
        .expect("conforms");
    refusals(
        &cloud,
        &open(
            "swift-v1-python",
            &[("container", "nowhere")],
            TEMPAUTH.1,
            &pins,
        ),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_example_conforms_on_azurite_by_sas() {
    let service = tokio::task::spawn_blocking(|| Azurite::start(TMP))
        .await
        .expect("Azurite");
    let settings = [
        ("endpoint", service.url.as_str()),
        ("container", "container"),
    ];
    let by_key = [&settings[..], &[("account", ACCOUNT)]].concat();
    let by_key = connected(TMP, "azure", &by_key, &[("key", KEY)], &[]).expect("a cloud");
    by_key.create_container().await.expect("a container");
    let open = |signature: &str| {
        connected(TMP, "azure-sas-js", &settings, &[("sas", signature)], &[]).expect("a cloud")
    };
    let cloud = open(&shared_access_signature("racwdl", "2099-01-01T00:00:00Z"));
    raic_tests::conforms(&cloud, "all/").await;
    let reader = open(&shared_access_signature("rl", "2099-01-01T00:00:00Z"));
    conformance::read_only(&reader, &cloud, "read-only/")
        .await
        .expect("conforms");
    let expired = open(&shared_access_signature("racwdl", "2001-01-01T00:00:00Z"));
    conformance::unauthenticated(&expired, "expired/")
        .await
        .expect("conforms");
    // The signature is for this container alone, so the container itself must go.
    rehearsals(&cloud).await;
    by_key.delete_container().await.expect("the container goes");
    conformance::missing_container(&cloud, "missing/")
        .await
        .expect("conforms");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_b2_example_conforms_on_the_b2_simulator() {
    let mut service = tokio::task::spawn_blocking(|| B2Server::start(TMP))
        .await
        .expect("B2");
    let open = |bucket: &str, key: &str| {
        let (url, domain) = (service.url.as_str(), service.domain.as_str());
        let settings = [
            ("bucket", bucket),
            ("endpoint", url),
            ("domain", domain),
            ("upload-domain", domain),
        ];
        let tls = service.tls.clone();
        connected_by(TMP, "b2", &settings, &[("key", key)], &[], tls).expect("a cloud")
    };
    let cloud = open("container", &service.key);
    assert_eq!(
        cloud.probe().await.expect_err("no bucket yet").kind,
        ErrorKind::ContainerNotFound
    );
    cloud.create_container().await.expect("the bucket is made");
    cloud.create_container().await.expect("made again is made");
    raic_tests::conforms(&cloud, "all/").await;
    let wrong = open("container", &service.key.replace("masterKey", "another"));
    assert_eq!(
        wrong.probe().await.expect_err("a wrong key").kind,
        ErrorKind::Unauthenticated
    );
    conformance::unauthenticated(&wrong, "wrong/")
        .await
        .expect("conforms");
    let reader = open("container", &service.reader);
    conformance::read_only(&reader, &cloud, "read-only/")
        .await
        .expect("conforms");
    refusals(&cloud, &open("nowhere", &service.key)).await;
    service.expire_tokens();
    cloud.probe().await.expect("the login is made anew");
    cloud.delete_container().await.expect("the bucket goes");
}
