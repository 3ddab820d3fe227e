//! Connectors as an operator and an author use them: dropped in, approved, moved to other versions,
//! signed, begun, built and tested.

mod rig;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use raic_tests::gcs::GcsServer;
use rig::{Rig, content};

/// Returns the path of a connector that `cargo xtask connectors --for-tests` built.
fn built(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("connectors")
        .join(format!("{name}.wasm"));
    assert!(
        file.is_file(),
        "{} is not there; `cargo xtask test` builds it",
        file.display()
    );
    file
}

/// Returns the practice connector as another version. Only the bytes of the version differ.
fn version(version: &str) -> Vec<u8> {
    let bytes = fs::read(built("practice")).expect("the connector");
    let (from, to) = (
        &b"version = \"0.1.0\""[..],
        format!("version = \"{version}\""),
    );
    assert_eq!(from.len(), to.len());
    let start = bytes
        .windows(from.len())
        .position(|part| part == from)
        .expect("its version");
    [&bytes[..start], to.as_bytes(), &bytes[start + from.len()..]].concat()
}

/// A running practice service. Dropping it ends the service.
struct Practice {
    process: Child,
    url: String,
}

impl Practice {
    fn start(rig: &Rig, port: &str, token_file: &Path) -> Self {
        let file = token_file.display().to_string();
        let mut command = rig.command(&[
            "--json",
            "connector",
            "practice",
            "--port",
            port,
            "--token-file",
            &file,
        ]);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the service");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("a line");
        let printed: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        Self {
            process,
            url: printed["url"].as_str().expect("its URL").to_owned(),
        }
    }
}

impl Drop for Practice {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Puts the cloud "mine" in the place of local-1: the practice service, which knows this token.
fn add_practice(rig: &Rig, service: &Practice, token: &Path) {
    let (endpoint, credential) = (
        format!("endpoint={}", service.url),
        format!("account={}", token.display()),
    );
    let add = [
        "cloud",
        "add",
        "mine",
        "--connector",
        "practice",
        "--replace",
        "local-1",
    ];
    rig.raic(&[&add[..], &["--set", &endpoint, "--credential", &credential]].concat())
        .ok();
}

fn approve_practice(rig: &Rig) {
    let file = built("practice").display().to_string();
    rig.raic(&["connector", "approve", &file, "--yes"]).ok();
}

/// Returns the SHA-256 of the connector version that a cloud runs.
fn runs(rig: &Rig, cloud: &str) -> String {
    let listed = rig.raic(&["--json", "cloud", "list"]).ok().text;
    let rows = serde_json::Deserializer::from_str(&listed).into_iter::<serde_json::Value>();
    let row = rows
        .map(|row| row.expect("JSON"))
        .find(|row| row["name"] == cloud)
        .expect("the cloud");
    row["sha256"].as_str().expect("its version").to_owned()
}

#[test]
fn a_connector_that_is_dropped_in_waits_and_is_used_without_a_restart() {
    let mut rig = Rig::new();
    let token = rig.path("token");
    let service = Practice::start(&rig, "0", &token);
    rig.serve();
    fs::create_dir_all(rig.home("connectors")).expect("the folder");
    fs::write(rig.home("connectors/strangers.wasm"), version("0.1.0")).expect("dropped in");
    fs::write(
        rig.home("connectors/broken.wasm"),
        &version("0.1.0")[..5000],
    )
    .expect("dropped in");
    Rig::until("the daemon sees it", || {
        let status = rig.raic(&["status"]).ok().text;
        status.contains("practice 0.1.0 waits for approval")
            && status.contains("broken.wasm\" is not a connector")
    });
    let listed = rig.raic(&["connector", "list"]).ok().text;
    assert!(listed.contains("waits for approval"), "{listed}");
    let add = |name: &str, replaced: &str| {
        let (endpoint, credential) = (
            format!("endpoint={}", service.url),
            format!("account={}", token.display()),
        );
        rig.raic(&[
            "cloud",
            "add",
            name,
            "--connector",
            "practice",
            "--set",
            &endpoint,
            "--credential",
            &credential,
            "--replace",
            replaced,
            "--prefix",
            name,
        ])
    };
    add("mine", "local-1").fails(4, &["practice", "approve"]);
    // Only a person at a terminal can approve; piped input does not count.
    rig.raic_with(&["connector", "approve", "practice"], b"y\n")
        .fails(1, &["no terminal", "--yes"]);
    rig.raic(&["connector", "approve", "practice", "--yes"])
        .ok();
    assert!(
        !rig.raic(&["status"])
            .ok()
            .text
            .contains("practice 0.1.0 waits")
            || {
                Rig::until("it waits no longer", || {
                    !rig.raic(&["status"])
                        .ok()
                        .text
                        .contains("practice 0.1.0 waits")
                });
                true
            }
    );
    add("mine", "local-1").ok();
    let file = rig.path("file");
    fs::write(&file, content(300_000, 7)).expect("a file");
    rig.raic(&["put", &file.display().to_string(), "--as", "file"])
        .ok();
    let first = runs(&rig, "mine");

    // Another version moves no cloud by itself.
    fs::write(rig.home("connectors/newer.wasm"), version("0.2.0")).expect("dropped in");
    let newer = rig
        .raic(&["--json", "connector", "approve", "newer.wasm", "--yes"])
        .ok()
        .text;
    let newer: serde_json::Value = serde_json::from_str(&newer).expect("JSON");
    let newer = newer["sha256"].as_str().expect("its hash").to_owned();
    rig.raic(&["reload"]).ok();
    assert_eq!(runs(&rig, "mine"), first);
    let moved = rig.raic(&["cloud", "upgrade", "mine"]).ok().text;
    assert!(
        moved.contains("runs practice 0.2.0") && moved.contains("ran 0.1.0"),
        "{moved}"
    );
    assert_eq!(runs(&rig, "mine"), newer);
    assert_eq!(
        rig.raic(&["get", "file", "-"]).ok().out,
        content(300_000, 7)
    );
    // The cloud is moved back, also while no daemon runs. It cannot be moved to a version that does
    // not exist, and a folder has no version.
    rig.kill();
    rig.raic(&["cloud", "upgrade", "mine", &first[..12]]).ok();
    rig.serve();
    assert_eq!(runs(&rig, "mine"), first);
    assert_eq!(
        rig.raic(&["get", "file", "-"]).ok().out,
        content(300_000, 7)
    );
    rig.raic(&["cloud", "upgrade", "mine", "0123456789"])
        .fails(4, &["0123456789"]);
    rig.raic(&["cloud", "upgrade", "local-2"])
        .fails(4, &["folder"]);
    rig.raic(&["connector", "revoke", &first])
        .fails(4, &["mine"]);
}

#[test]
fn an_upload_under_way_ends_on_the_version_that_it_began_with() {
    let mut rig = Rig::new();
    let token = rig.path("token");
    let service = Practice::start(&rig, "0", &token);
    rig.serve();
    for number in ["0.1.0", "0.2.0"] {
        let file = rig.path("practice.wasm");
        fs::write(&file, version(number)).expect("a file");
        rig.raic(&["connector", "approve", &file.display().to_string(), "--yes"])
            .ok();
        if number == "0.1.0" {
            let (endpoint, credential) = (
                format!("endpoint={}", service.url),
                format!("account={}", token.display()),
            );
            let add = [
                "cloud",
                "add",
                "mine",
                "--connector",
                "practice",
                "--replace",
                "local-1",
            ];
            rig.raic(&[&add[..], &["--set", &endpoint, "--credential", &credential]].concat())
                .ok();
        }
    }
    let mut put = rig.command(&["put", "-", "slow"]);
    let mut put = put.stdin(Stdio::piped()).spawn().expect("raic put");
    let whole = content(12 << 20, 3);
    {
        use std::io::Write as _;
        let mut input = put.stdin.take().expect("its input");
        input.write_all(&whole[..6 << 20]).expect("the first half");
        rig.raic(&["cloud", "upgrade", "mine"]).ok();
        input.write_all(&whole[6 << 20..]).expect("the other half");
    }
    assert!(put.wait().expect("it ends").success());
    assert_eq!(rig.raic(&["get", "slow", "-"]).ok().out, whole);
}

#[test]
fn credentials_that_change_are_read_again_when_they_are_refused() {
    let mut rig = Rig::new();
    let token = rig.path("token");
    let service = Practice::start(&rig, "0", &token);
    let port = service.url.rsplit(':').next().expect("its port").to_owned();
    approve_practice(&rig);
    let first = fs::read_to_string(&token).expect("the token");
    rig.serve_logging("trace");
    add_practice(&rig, &service, &token);
    // The service comes back empty, and with another token. The operator puts that token into the
    // place of the old one.
    drop(service);
    fs::remove_file(&token).expect("the old token");
    let _service = Practice::start(&rig, &port, &token);
    Rig::until("the cloud works again", || {
        let status: serde_json::Value =
            serde_json::from_str(&rig.raic(&["--json", "status"]).ok().text).expect("JSON");
        let clouds = status["clouds"].as_array().expect("clouds").clone();
        let mine = clouds
            .iter()
            .find(|cloud| cloud["name"] == "mine")
            .expect("mine")
            .clone();
        let fault = mine["fault"].as_str().unwrap_or_default().to_owned();
        // The cloud reports that its container has lost its owner object.
        mine["fault"].is_null() || fault.contains("adopt")
    });
    let log = fs::read_to_string(rig.path("log")).expect("the log");
    assert!(log.contains("its credentials have changed"), "{log}");
    let second = fs::read_to_string(&token).expect("the token");
    assert!(
        first != second && !log.contains(first.trim()) && !log.contains(second.trim()),
        "no secret is logged"
    );
}

#[test]
fn a_reload_keeps_a_cloud_that_did_not_change_and_opens_one_that_did() {
    let mut rig = Rig::new();
    approve_practice(&rig);
    let token = rig.path("token");
    let service = Practice::start(&rig, "0", &token);
    rig.serve_logging("raic_wasm=debug,info");
    add_practice(&rig, &service, &token);
    let works = |rig: &Rig| {
        let status = rig.raic(&["--json", "status"]).ok().text;
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let clouds = status["clouds"].as_array().expect("clouds").clone();
        let mine = clouds.into_iter().find(|cloud| cloud["name"] == "mine");
        mine.expect("mine")["fault"].is_null()
    };
    Rig::until("the cloud works", || works(&rig));
    let file = content(300_000, 11);
    rig.raic_with(&["put", "-", "file"], &file).ok();
    for _ in 0..3 {
        let reloaded = rig.raic(&["reload"]).ok();
        assert_eq!(reloaded.errors, "", "no cloud is named");
    }
    assert_eq!(rig.raic(&["get", "file", "-"]).ok().out, file);

    // A token that does not count any more is read by a reload that is refused for another reason,
    // and by the next one: the cloud must not go on with the old token as if nothing had changed.
    let config = fs::read_to_string(rig.home("config.toml")).expect("the configuration");
    let good = fs::read_to_string(&token).expect("the token");
    fs::write(&token, "another-token").expect("a file");
    let bad = config.replace("path = \"clouds/", "path = \"none/");
    fs::write(rig.home("config.toml"), bad).expect("written");
    rig.raic(&["reload"]).fails(4, &["local-2"]);
    fs::write(rig.home("config.toml"), &config).expect("written");
    let reloaded = rig.raic(&["reload"]).ok();
    assert!(reloaded.errors.contains("\"mine\""), "{}", reloaded.errors);
    fs::write(&token, good).expect("a file");
    rig.raic(&["reload"]).ok();
    assert!(works(&rig));

    // A connector that is revoked runs until the next reload, and no longer.
    rig.raic(&["connector", "revoke", "practice", "--force"])
        .ok();
    assert!(works(&rig));
    let reloaded = rig.raic(&["reload"]).ok();
    assert!(reloaded.errors.contains("\"mine\""), "{}", reloaded.errors);
    assert_eq!(
        rig.raic(&["get", "file", "-"]).ok().out,
        file,
        "the other clouds have shares enough"
    );
}

#[test]
fn a_hangup_while_a_daemon_starts_reloads_it_and_does_not_end_it() {
    let mut rig = Rig::new();
    approve_practice(&rig);
    let token = rig.path("token");
    let service = Practice::start(&rig, "0", &token);
    add_practice(&rig, &service, &token);
    // The credential's command runs before the clouds are open, and hangs up once.
    let config = fs::read_to_string(rig.home("config.toml")).expect("the configuration");
    let (token, hung) = (token.display(), rig.path("hung").display().to_string());
    let script = format!("test -e {hung} || {{ touch {hung}; kill -HUP $PPID; }}; cat {token}");
    let file = format!("{{ file = \"{token}\" }}");
    let command = format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}");
    assert!(config.contains(&file), "{config}");
    fs::write(rig.home("config.toml"), config.replace(&file, &command)).expect("written");
    rig.serve();
    Rig::until("the daemon reads its configuration again", || {
        let log = fs::read_to_string(rig.path("log")).unwrap_or_default();
        log.contains("read again at SIGHUP")
    });
    assert!(Path::new(&hung).exists() && rig.runs());
}

#[test]
fn a_hostile_connector_is_named_in_the_status_and_the_others_go_on() {
    let mut rig = Rig::new();
    rig.raic(&[
        "connector",
        "approve",
        &built("hostile").display().to_string(),
        "--yes",
    ])
    .ok();
    let secret = rig.path("secret");
    fs::write(&secret, "a-secret-of-the-operator").expect("a file");
    let credential = format!("token={}", secret.display());
    rig.serve();
    let add = [
        "cloud",
        "add",
        "bad",
        "--connector",
        "hostile",
        "--replace",
        "local-1",
    ];
    let settings = [
        "--set",
        "endpoint=http://127.0.0.1:1",
        "--set",
        "forbidden=probe:loops",
    ];
    rig.raic(&[&add[..], &settings, &["--credential", &credential]].concat())
        .ok();
    Rig::until("the status names it", || {
        rig.raic(&["status"])
            .ok()
            .text
            .lines()
            .any(|line| line.contains("bad") && line.contains("connector \"hostile\""))
    });
    let whole = content(3 << 20, 5);
    rig.raic_with(&["put", "-", "file"], &whole).ok();
    assert_eq!(rig.raic(&["get", "file", "-"]).ok().out, whole);

    // The status reports each thing that the connector does, by its name and the cause.
    let mut replaced = "bad".to_owned();
    for (way, cause) in [
        ("eats-memory", "4 MiB of memory"),
        ("recurses", "call stack exhausted"),
        ("traps", "unreachable"),
        ("leaks-handles", "failed"),
    ] {
        let forbidden = format!("forbidden=probe:{way}");
        let settings = [
            "--set",
            "endpoint=http://127.0.0.1:1",
            "--set",
            &forbidden,
            "--force",
        ];
        let add = [
            "cloud",
            "add",
            way,
            "--connector",
            "hostile",
            "--replace",
            &replaced,
        ];
        rig.raic(&[&add[..], &settings, &["--credential", &credential]].concat())
            .ok();
        Rig::until(way, || {
            let status = rig.raic(&["status"]).ok().text;
            status
                .lines()
                .any(|line| line.contains(way) && line.contains(cause))
        });
        replaced = way.to_owned();
    }
    assert_eq!(rig.raic(&["get", "file", "-"]).ok().out, whole);
}

/// After an upgrade of raic every connector is compiled anew: once nobody was served until all
/// were.
#[test]
fn a_daemon_serves_while_it_compiles_its_connectors() {
    let mut rig = Rig::new();
    let token = rig.path("token");
    let service = Practice::start(&rig, "0", &token);
    approve_practice(&rig);
    rig.serve();
    let (endpoint, credential) = (
        format!("endpoint={}", service.url),
        format!("account={}", token.display()),
    );
    let add = [
        "cloud",
        "add",
        "mine",
        "--connector",
        "practice",
        "--replace",
        "local-1",
    ];
    rig.raic(
        &[
            &add[..],
            &[
                "--set",
                &endpoint,
                "--credential",
                &credential,
                "--prefix",
                "a",
            ],
        ]
        .concat(),
    )
    .ok();
    let add = [
        "cloud",
        "add",
        "other",
        "--connector",
        "practice",
        "--replace",
        "local-2",
    ];
    rig.raic(
        &[
            &add[..],
            &[
                "--set",
                &endpoint,
                "--credential",
                &credential,
                "--prefix",
                "b",
            ],
        ]
        .concat(),
    )
    .ok();
    rig.raic_with(&["put", "-", "file"], b"content").ok();
    let status = rig.raic(&["status", "--verbose"]).ok().text;
    assert!(
        status.contains("put: ") && status.contains(" sent, "),
        "{status}"
    );
    assert!(!rig.raic(&["status"]).ok().text.contains("put: "));
    rig.kill();
    for compiled in Rig::files(&rig.home("connectors/compiled")) {
        fs::remove_file(compiled).expect("it goes");
    }
    fs::remove_file(rig.path("log")).expect("the log begins anew");
    rig.serve();
    assert_eq!(rig.raic(&["get", "file", "-"]).ok().out, b"content");
    Rig::until("both clouds work", || {
        let status = rig.raic(&["status"]).text;
        let works = |name| {
            status
                .lines()
                .any(|l| l.contains(name) && l.contains("works"))
        };
        works("mine") && works("other")
    });
    let log = fs::read_to_string(rig.path("log")).expect("the log");
    let place = |what| {
        log.find(what)
            .unwrap_or_else(|| panic!("no {what:?}: {log}"))
    };
    assert!(place("serving ") < place("can be used now"), "{log}");
    assert_eq!(
        log.matches("compiling connector").count(),
        1,
        "once, whoever asks: {log}"
    );
}

/// A service that accepts connections and never answers once kept `cloud add` silent for three
/// minutes.
#[test]
fn a_cloud_that_never_answers_is_added_after_a_while_and_said_to_be_waited_for() {
    let mut rig = Rig::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!(
        "endpoint=http://{}",
        listener.local_addr().expect("its address")
    );
    let token = rig.path("token");
    fs::write(&token, "token").expect("a file");
    let credential = format!("account={}", token.display());
    approve_practice(&rig);
    rig.serve();
    let began = std::time::Instant::now();
    let add = [
        "cloud",
        "add",
        "mine",
        "--connector",
        "practice",
        "--replace",
        "local-1",
    ];
    let added = rig
        .raic(&[&add[..], &["--set", &endpoint, "--credential", &credential]].concat())
        .ok();
    assert!(began.elapsed().as_secs() < 40, "{:?}", began.elapsed());
    for line in ["waiting for cloud \"mine\"", "no answer within"] {
        assert!(added.errors.contains(line), "{}", added.errors);
    }
}

#[test]
fn where_keys_are_listed_only_what_they_signed_is_approved() {
    let rig = Rig::new();
    let minisign::KeyPair { pk, sk } =
        minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
    let config = fs::read_to_string(rig.home("config.toml")).expect("the configuration");
    let listed = format!(
        "[connectors]\nsigned_by = [\"{}\"]\n{config}",
        pk.to_base64()
    );
    fs::write(rig.home("config.toml"), listed).expect("a key is listed");
    let file = rig.path("practice.wasm");
    fs::copy(built("practice"), &file).expect("a connector");
    let (name, signature) = (
        file.display().to_string(),
        rig.path("practice.wasm.minisig"),
    );
    rig.raic(&["connector", "approve", &name, "--yes"])
        .fails(4, &["minisig", "signed_by"]);
    let sign = |key: &minisign::SecretKey| {
        let bytes = fs::File::open(&file).expect("the file");
        let signed =
            minisign::sign(None, key, bytes, Some("practice 0.1.0"), None).expect("a signature");
        fs::write(&signature, signed.into_string()).expect("it is written");
    };
    let other = minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
    sign(&other.sk);
    rig.raic(&["connector", "approve", &name, "--yes"])
        .fails(4, &["not by any key"]);
    fs::write(&signature, "untrusted comment: x\nnonsense\n").expect("nonsense");
    rig.raic(&["connector", "approve", &name, "--yes"])
        .fails(4, &["not a minisign signature"]);
    sign(&sk);
    let approved = rig
        .raic(&["connector", "approve", &name, "--yes"])
        .ok()
        .text;
    assert!(
        approved.contains("signed by") && approved.contains("practice 0.1.0"),
        "{approved}"
    );
}

#[test]
fn a_connector_is_begun_built_tried_and_used() {
    let mut rig = Rig::new();
    let folder = rig.path("my-store").display().to_string();
    rig.raic(&["connector", "new", "My_Store"])
        .fails(4, &["My_Store", "a-z"]);
    rig.raic(&["connector", "new", "my-store", "--folder", &folder])
        .ok();
    rig.raic(&["connector", "new", "my-store", "--folder", &folder])
        .fails(1, &["already"]);
    // The versions are those of this tree, so that later releases of crates change nothing.
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
    fs::copy(lock, rig.path("my-store/Cargo.lock")).expect("a lock file");
    let built = rig.raic(&["connector", "build", &folder]).ok().text;
    assert!(
        built.contains("my-store 0.1.0") && built.contains("sha-256"),
        "{built}"
    );
    let file = rig.path("my-store/my-store.wasm").display().to_string();
    let token = rig.path("token");
    let service = Practice::start(&rig, "0", &token);
    let (endpoint, credential) = (
        format!("endpoint={}", service.url),
        format!("account={}", token.display()),
    );
    let given = ["--set", &endpoint, "--credential", &credential];
    let report = rig
        .raic(&[&["connector", "test", &file][..], &given].concat())
        .ok()
        .text;
    assert!(
        report.contains(" ok credentials") && report.contains("0 are wrong"),
        "{report}"
    );
    for line in [
        " ok throttling",
        " ok failures",
        "  - clock",
        "  ? container",
        "  ? read-only",
        "3 were not tried",
    ] {
        assert!(report.contains(line), "lacks {line:?}: {report}");
    }
    rig.raic(&["connector", "approve", &file, "--yes"]).ok();
    rig.serve();
    let add = [
        "cloud",
        "add",
        "mine",
        "--connector",
        "my-store",
        "--replace",
        "local-1",
    ];
    rig.raic(&[&add[..], &given].concat()).ok();
    rig.raic_with(&["put", "-", "file"], b"content").ok();
    assert_eq!(rig.raic(&["get", "file", "-"]).ok().out, b"content");
}

#[test]
fn what_a_connector_does_wrong_is_told_with_its_place() {
    let rig = Rig::new();
    // The practice service has one token; any other is refused.
    let token = rig.path("token");
    let service = Practice::start(&rig, "0", &token);
    let (endpoint, credential) = (
        format!("endpoint={}", service.url),
        format!("account={}", token.display()),
    );
    let file = built("practice").display().to_string();
    let wrong_token = rig.path("wrong-token");
    fs::write(&wrong_token, "another").expect("a file");
    let wrong = format!("account={}", wrong_token.display());
    let test = |credential: &str| {
        rig.raic(&[
            "connector",
            "test",
            &file,
            "--set",
            &endpoint,
            "--credential",
            credential,
            "--only",
            "basic",
        ])
    };
    test(&credential).ok();
    test(&wrong).fails(4, &["the token is missing", "nothing was tried"]);
    // The tests that need a set-up: a bucket that does not exist, and keys that have expired.
    let mut rig = rig;
    let endpoint = format!("endpoint={}", rig.service("s3"));
    let keys = |name: &str, secret: &str| {
        let file = rig.path(name);
        let keys = serde_json::json!({"AccessKeyId": "ACCESS", "SecretAccessKey": secret});
        fs::write(&file, keys.to_string()).expect("keys");
        format!("keys={}", file.display())
    };
    let (good, ended) = (keys("good", "SECRET"), keys("ended", "NO-SECRET"));
    let s3 = built("s3").display().to_string();
    let words = [
        "--json",
        "connector",
        "test",
        &s3,
        "--set",
        &endpoint,
        "--set",
        "bucket=bucket",
        "--credential",
        &good,
    ];
    let more = [
        "--missing",
        "bucket=nowhere",
        "--expired",
        &ended,
        "--read-only",
        &good,
    ];
    let only = [
        "--only",
        "container",
        "--only",
        "expired",
        "--only",
        "read-only",
    ];
    let report = rig.raic(&[&words[..], &more, &only].concat());
    assert_eq!(report.code, 1, "{}", report.errors);
    let rows = serde_json::Deserializer::from_str(&report.text).into_iter::<serde_json::Value>();
    let rows: Vec<_> = rows.map(|row| row.expect("JSON")).collect();
    let outcome = |name: &str| {
        let row = rows
            .iter()
            .find(|row| row["behaviour"] == name)
            .expect("it is reported");
        (
            row["outcome"].as_str().expect("a word").to_owned(),
            row["detail"].to_string(),
        )
    };
    assert_eq!(outcome("expired").0, "holds", "{}", outcome("expired").1);
    assert!(
        outcome("read-only")
            .1
            .contains("a put by a key that may only read must fail as permission-denied")
    );
    // This service makes a bucket when something is put into one that does not exist.
    assert!(
        outcome("container")
            .1
            .contains("a put without a container must fail as container-not-found")
    );

    rig.raic(&["connector", "test", &file, "--only", "nothing"])
        .fails(4, &["listing"]);
    rig.raic(&["connector", "test", &file])
        .fails(4, &["endpoint", "Where the service listens"]);
}

/// Runs all tests of refusals, on a service that is set up for each of them.
#[test]
fn what_a_connector_says_where_its_service_refuses_is_tried_on_the_gcs_server() {
    let service = GcsServer::start(env!("CARGO_TARGET_TMPDIR"), 3600);
    let rig = Rig::new();
    let document = |name: &str, text: &str| {
        fs::write(rig.path(name), text).expect("a file");
        format!("service-account={}", rig.path(name).display())
    };
    let (good, reader) = (
        document("good", &service.service_account),
        document("reader", &service.reader),
    );
    let mut other: serde_json::Value = serde_json::from_str(&service.reader).expect("JSON");
    other["client_email"] = "deleted@project.iam.gserviceaccount.com".into();
    let ended = document("ended", &other.to_string());
    let file = built("gcs").display().to_string();
    let endpoint = format!("endpoint={}", service.url);
    let mut words = vec![
        "connector",
        "test",
        &file,
        "--create",
        "--set",
        &endpoint,
        "--credential",
        &good,
    ];
    words.extend([
        "--set",
        "bucket=bucket",
        "--set",
        "project=project",
        "--missing",
        "bucket=nowhere",
    ]);
    words.extend(["--read-only", &reader, "--expired", &ended]);
    let names = [
        "credentials",
        "clock",
        "throttling",
        "failures",
        "container",
        "read-only",
        "expired",
    ];
    words.extend(names.iter().flat_map(|name| ["--only", *name]));
    let report = rig.raic(&words).ok().text;
    for name in names {
        assert!(report.contains(&format!(" ok {name}")), "{name}: {report}");
    }
    assert!(
        report.contains("7 hold, 0 are lacking, 0 are wrong, 0 were not tried"),
        "{report}"
    );
}
