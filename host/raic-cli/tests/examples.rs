//! The example connectors in three languages, as an operator uses them: dropped in, approved and
//! added. One file is stored over all three and a folder.

mod rig;

use std::{fs, path::Path};

use raic_cloud::Cloud as _;
use raic_tests::{
    azurite::{ACCOUNT, Azurite, KEY, shared_access_signature},
    components::connected,
    openstack::{TEMPAUTH, TempAuthSwift},
    webdav::{PASSWORD, USER, WebDavServer},
};
use rig::{Rig, content};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// Makes the containers for connectors that cannot make one themselves.
async fn made(azurite: &Azurite, swift: &TempAuthSwift) {
    let settings = [
        ("account", ACCOUNT),
        ("endpoint", &azurite.url),
        ("container", "container"),
    ];
    let azure = connected(TMP, "azure", &settings, &[("key", KEY)], &[]).expect("a cloud");
    azure.create_container().await.expect("a container");
    let account = serde_json::json!({"User": TEMPAUTH.0, "Password": TEMPAUTH.1}).to_string();
    let settings = [
        ("auth", "v1"),
        ("auth-url", &swift.auth_url),
        ("container", "container"),
    ];
    let open = |pins: &[(&str, &str)]| {
        connected(TMP, "swift", &settings, &[("account", &account)], pins).expect("a cloud")
    };
    let first = open(&[]);
    first.probe().await.expect_err("nothing is pinned yet");
    let learned = first.learned();
    open(&[("storage", &learned["storage"])])
        .create_container()
        .await
        .expect("a container");
}

#[test]
fn a_file_is_stored_by_the_three_examples_on_apache_openstack_and_azurite() {
    let (azurite, swift) = (Azurite::start(TMP), TempAuthSwift::start(TMP));
    let webdav = WebDavServer::start();
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(made(&azurite, &swift));
    let mut rig = Rig::new();
    rig.serve();
    let dropped = rig.home("connectors");
    fs::create_dir_all(&dropped).expect("the folder");
    for name in ["webdav", "swift-v1-python", "azure-sas-js"] {
        let built = Path::new(TMP)
            .with_file_name("connectors")
            .join(format!("{name}.wasm"));
        fs::copy(built, dropped.join(format!("{name}.wasm")))
            .expect("`cargo xtask test` builds it");
    }
    Rig::until("the daemon sees them", || {
        let status = rig.raic(&["status"]).ok().text;
        status.matches("waits for approval").count() == 3
    });
    for name in ["webdav", "swift-v1", "azure-sas"] {
        rig.raic(&["connector", "approve", name, "--yes"]).ok();
    }
    let secret = |name: &str, text: &str| {
        let file = rig.path(name);
        fs::write(&file, text).expect("a secret");
        file.display().to_string()
    };
    let password = secret("password", PASSWORD);
    let account = secret(
        "account",
        &serde_json::json!({"User": TEMPAUTH.0, "Password": TEMPAUTH.1}).to_string(),
    );
    let sas = secret(
        "sas",
        &shared_access_signature("racwdl", "2099-01-01T00:00:00Z"),
    );
    let add = |name: &str,
               connector: &str,
               replaced: &str,
               settings: &[(&str, &str)],
               credential: &str| {
        let settings: Vec<_> = settings
            .iter()
            .flat_map(|(name, value)| ["--set".to_owned(), format!("{name}={value}")])
            .collect();
        let mut words = vec![
            "cloud",
            "add",
            name,
            "--connector",
            connector,
            "--replace",
            replaced,
        ];
        words.extend(settings.iter().map(String::as_str));
        words.extend(["--credential", credential]);
        rig.raic(&words).ok();
    };
    let folder = format!("{}/raic", webdav.url);
    let test = |name: &str, settings: &[String], credential: &str, more: &[&str]| {
        let file = dropped.join(format!("{name}.wasm")).display().to_string();
        let mut words = vec!["connector", "test", &file, "--credential", credential];
        words.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        words.extend(more);
        let report = rig.raic(&words).ok().text;
        assert!(report.contains(" 0 are wrong"), "{report}");
    };
    let of_dav = [format!("url={folder}-tested"), format!("user={USER}")];
    let missing = format!("url={folder}-missing");
    test(
        "webdav",
        &of_dav,
        &format!("account={password}"),
        &["--create", "--missing", &missing],
    );
    let few = ["basic", "listing", "credentials", "throttling"]
        .map(|name| ["--only", name])
        .concat();
    let of_swift = [
        format!("auth-url={}", swift.auth_url),
        "container=container".to_owned(),
    ];
    test(
        "swift-v1-python",
        &of_swift,
        &format!("account={account}"),
        &few,
    );
    let of_azure = [
        format!("endpoint={}", azurite.url),
        "container=container".to_owned(),
    ];
    test("azure-sas-js", &of_azure, &format!("sas={sas}"), &few);
    add(
        "dav",
        "webdav",
        "local-1",
        &[("url", &folder), ("user", USER)],
        &format!("account={password}"),
    );
    rig.raic(&["cloud", "create", "dav"]).ok();
    let settings = [
        ("auth-url", swift.auth_url.as_str()),
        ("container", "container"),
    ];
    add(
        "swift",
        "swift-v1",
        "local-2",
        &settings,
        &format!("account={account}"),
    );
    let settings = [
        ("endpoint", azurite.url.as_str()),
        ("container", "container"),
    ];
    add(
        "azure",
        "azure-sas",
        "local-3",
        &settings,
        &format!("sas={sas}"),
    );

    let bytes = content(3_000_000, 11);
    rig.raic_with(&["put", "-", "file"], &bytes).ok();
    assert_eq!(rig.raic(&["get", "file", "-"]).ok().out, bytes);
    // Any two of four clouds may fail; here two are stopped.
    drop((webdav, azurite));
    assert_eq!(rig.raic(&["get", "file", "-"]).ok().out, bytes);
}
