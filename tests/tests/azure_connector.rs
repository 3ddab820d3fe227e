//! The Azure connector, sandboxed, against Azurite, which checks signatures.

use std::sync::Arc;

use raic_cloud::{Cloud, ErrorKind, ObjectKey, Payload, WriteMode, conformance};
use raic_tests::{
    azurite::{ACCOUNT, Azurite, KEY, shared_access_signature},
    components::{connected, connected_by},
    entra::{APPLICATION, EntraServer, TENANT},
    listing::twelve_thousand_objects_are_listed_to_the_last,
    refusals,
};
use raic_wasm::{ConnectorCloud, TlsSettings};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

fn by_key(service: &Azurite, container: &str, key: &str) -> ConnectorCloud {
    let settings = [
        ("account", ACCOUNT),
        ("endpoint", &service.url),
        ("container", container),
    ];
    connected(TMP, "azure", &settings, &[("key", key)], &[]).expect("a cloud")
}

async fn kind_of_put(cloud: &dyn Cloud) -> ErrorKind {
    let key = ObjectKey::new("some/key").expect("a key");
    cloud
        .put(&key, Payload::from(&b"content"[..]), WriteMode::Overwrite)
        .await
        .expect_err("refused")
        .kind
}

/// One test, since the service takes long to start.
#[tokio::test(flavor = "multi_thread")]
async fn the_azure_connector_conforms_on_azurite() {
    let service = tokio::task::spawn_blocking(|| Azurite::start(TMP))
        .await
        .expect("Azurite");
    let plain = by_key(&service, "container", KEY);
    assert_eq!(
        plain.probe().await.expect_err("no container yet").kind,
        ErrorKind::ContainerNotFound
    );
    assert_eq!(kind_of_put(&plain).await, ErrorKind::ContainerNotFound);
    plain
        .create_container()
        .await
        .expect("the container is made");
    plain.create_container().await.expect("made again is made");
    plain.probe().await.expect("the container is there");
    raic_tests::conforms(&plain, "all/").await;
    conformance::create_only_race(&plain, "race/", 16)
        .await
        .expect("conforms");

    let wrong = by_key(
        &service,
        "container",
        &data_encoding::BASE64.encode(&[7; 64]),
    );
    let e = wrong.probe().await.expect_err("a wrong key");
    assert_eq!(e.kind, ErrorKind::Unauthenticated, "{e}");
    assert!(e.request_id.is_some() && e.provider_code.is_some(), "{e:?}");
    assert_eq!(kind_of_put(&wrong).await, ErrorKind::Unauthenticated);
    let settings = [
        ("account", ACCOUNT),
        ("endpoint", service.url.as_str()),
        ("container", "container"),
    ];
    let message = connected(TMP, "azure", &settings, &[("key", "no base64!")], &[])
        .expect_err("no key")
        .to_string();
    assert!(
        message.contains("base64") && !message.contains("no base64!"),
        "{message}"
    );

    let sas = |permissions: &str, expiry: &str| shared_access_signature(permissions, expiry);
    let by_sas = |signature: String| {
        let settings = [&settings[..], &[("auth", "sas")]].concat();
        connected(TMP, "azure", &settings, &[("sas", &signature)], &[]).expect("a cloud")
    };
    let all = by_sas(sas("racwdl", "2099-01-01T00:00:00Z"));
    conformance::put_get_head_delete(&all, "sas/")
        .await
        .expect("conforms");
    conformance::listing_pages(&all, "sas-list/", 12, 5)
        .await
        .expect("conforms");
    // With a `?` before it, as a portal shows it.
    let read_only = by_sas(format!("?{}", sas("rl", "2099-01-01T00:00:00Z")));
    read_only.probe().await.expect("it may list");
    conformance::read_only(&read_only, &plain, "read-only/")
        .await
        .expect("conforms");
    let expired = by_sas(sas("racwdl", "2001-01-01T00:00:00Z"));
    conformance::unauthenticated(&expired, "expired/")
        .await
        .expect("conforms");
    refusals(&plain, &by_key(&service, "nowhere", KEY)).await;
    // Only in `cargo xtask test slow`: in CI, RADOSGW has these objects.
    if std::env::var_os("RAIC_SLOW").is_some() {
        twelve_thousand_objects_are_listed_to_the_last(Arc::new(plain)).await;
    }
}

/// Azurite checks the tokens' times, issuer and audience. The emulator of Entra checks the
/// application's secret.
#[tokio::test(flavor = "multi_thread")]
async fn the_azure_connector_conforms_on_azurite_by_entra() {
    // Tokens expire while the test runs. Azurite answers an expired token by 403, as if it were
    // wrong, while Azure answers 401. So a token must live longer than a request waits at a busy
    // server.
    let seconds = if std::env::var_os("RAIC_FULL").is_some() {
        40
    } else {
        8
    };
    let start = move || {
        (
            Azurite::start_with_tokens(TMP),
            EntraServer::start(TMP, seconds),
        )
    };
    let (service, entra) = tokio::task::spawn_blocking(start)
        .await
        .expect("Azurite and Entra");
    let cloud = |container: &str, tenant: &str, application: &str| {
        let settings = [
            ("account", ACCOUNT),
            ("endpoint", &service.url),
            ("container", container),
            ("auth", "oauth"),
            ("auth-url", &entra.url),
            ("tenant", tenant),
        ];
        let tls = TlsSettings {
            extra_ca: service.ca.clone(),
        };
        connected_by(
            TMP,
            "azure",
            &settings,
            &[("application", application)],
            &[],
            tls,
        )
        .expect("a cloud")
    };
    let plain = cloud("container", TENANT, APPLICATION);
    plain
        .create_container()
        .await
        .expect("the container is made");
    raic_tests::conforms(&plain, "all/").await;
    refusals(&plain, &cloud("nowhere", TENANT, APPLICATION)).await;

    let wrong = cloud(
        "container",
        TENANT,
        &APPLICATION.replace("tests\"}", "others\"}"),
    );
    conformance::unauthenticated(&wrong, "wrong/")
        .await
        .expect("conforms");
    let e = wrong.probe().await.expect_err("a wrong secret");
    assert_eq!(e.provider_code.as_deref(), Some("invalid_client"), "{e}");
    assert!(e.message.contains("AADSTS7000215"), "{e}");
    let elsewhere = cloud("container", "another", APPLICATION)
        .probe()
        .await
        .expect_err("no such tenant");
    assert!(elsewhere.message.contains("AADSTS90002"), "{elsewhere}");
}
