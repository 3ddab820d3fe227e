//! The Tahoe door as users of Tahoe-LAFS meet it: an unmodified client of version 1.20, the real
//! binary, real clouds, and the storage folders of Tahoe-LAFS.

mod rig;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hyper::Method;
use raic_tests::{
    azurite::{ACCOUNT, Azurite, KEY},
    free_port,
    openstack::{TEMPAUTH, TempAuthSwift},
    tahoe_client::{TahoeConnection, TahoeRequest, allocation},
};
use rig::{Rig, component, content};
use serde_json::Value;

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// Returns a program of the environment that has Tahoe-LAFS.
fn program(name: &str) -> PathBuf {
    let file = Path::new(TMP)
        .with_file_name("clouds")
        .join("tahoe/bin")
        .join(name);
    assert!(
        file.is_file(),
        "{} is not there; `cargo xtask test` installs it",
        file.display()
    );
    file
}

/// Returns a script of `tests/tahoe`, as a command.
fn script(name: &str) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/tahoe")
        .join(name);
    let mut command = Command::new(program("python"));
    command.arg(file).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Adds the section `[tahoe]` to a home's configuration, and takes `[array]` out if asked to.
/// Returns the port of the door.
fn add_door(rig: &Rig, keeps_array: bool) -> u16 {
    let port = free_port();
    let text = fs::read_to_string(rig.home("config.toml")).expect("the configuration");
    let (before, rest) = text.split_once("[array]").expect("a section");
    let (array, rest) = rest.split_once("[storage]").expect("a section");
    let array = match keeps_array {
        true => format!("[array]{array}"),
        false => String::new(),
    };
    let door = format!("[tahoe]\nlisten = \"127.0.0.1:{port}\"\n\n");
    let text = format!("{before}{door}{array}[storage]{rest}");
    fs::write(rig.home("config.toml"), text).expect("written");
    port
}

/// A running client of Tahoe-LAFS.
struct Client {
    folder: PathBuf,
    port: u16,
    node: Option<Child>,
}

impl Client {
    /// Makes a client of the home's storage servers that needs two shares of four.
    fn new(rig: &Rig, happy: u32) -> Self {
        let folder = rig.path("client");
        let port = free_port();
        let made = Command::new(program("tahoe"))
            .args(["create-client", "--shares-needed=2", "--shares-total=4"])
            .arg(format!("--shares-happy={happy}"))
            .arg(format!("--webport=tcp:{port}:interface=127.0.0.1"))
            .arg(&folder)
            .output()
            .expect("tahoe");
        assert!(made.status.success(), "{made:?}");
        let servers = rig.raic(&["tahoe", "servers-yaml"]).ok().text;
        fs::write(folder.join("private/servers.yaml"), servers).expect("the servers");
        let mut client = Self {
            folder,
            port,
            node: None,
        };
        client.start(4);
        client
    }

    fn start(&mut self, servers: usize) {
        let log = fs::File::create(self.folder.join("out.log")).expect("a log");
        let node = Command::new(program("tahoe"))
            .args(["run", "--allow-stdin-close"])
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("a node");
        self.node = Some(node);
        self.connected(servers);
    }

    /// Waits until the client is connected to so many storage servers.
    fn connected(&self, servers: usize) {
        Rig::until("the client connects", || {
            let Some((200, welcome)) = self.try_web("GET", "/?t=json", b"") else {
                return false;
            };
            let welcome: Value = serde_json::from_slice(&welcome).unwrap_or_default();
            let all = welcome["servers"].as_array().cloned().unwrap_or_default();
            let is_connected = |server: &&Value| server["connection_status"] == "connected";
            all.iter().filter(is_connected).count() == servers
        });
    }

    /// Starts the client again, with another number of servers that an upload needs.
    fn restart(&mut self, happy: u32, servers: usize) {
        self.stop();
        let file = self.folder.join("tahoe.cfg");
        let text = fs::read_to_string(&file).expect("its configuration");
        let lines = text
            .lines()
            .map(|line| match line.starts_with("shares.happy") {
                true => format!("shares.happy = {happy}\n"),
                false => format!("{line}\n"),
            });
        fs::write(&file, lines.collect::<String>()).expect("written");
        self.start(servers);
    }

    fn stop(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    fn try_web(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .ok()?;
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: client\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
        let status = String::from_utf8_lossy(&answer[..end]);
        let status = status.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_off(end + 4)))
    }

    /// Sends a request to the client's web API, and returns the answer's body.
    #[track_caller]
    fn web(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let (status, answer) = self.try_web(method, path, body).expect("an answer");
        let text = String::from_utf8_lossy(&answer);
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {text}"
        );
        answer
    }

    #[track_caller]
    fn put(&self, path: &str, body: &[u8]) -> String {
        String::from_utf8(self.web("PUT", path, body)).expect("a capability")
    }

    #[track_caller]
    fn get(&self, capability: &str) -> Vec<u8> {
        self.web("GET", &format!("/uri/{capability}"), b"")
    }

    /// Runs a command of the client.
    #[track_caller]
    fn tahoe(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program("tahoe"));
        command.arg("-d").arg(&self.folder).args(arguments);
        let ended = command.output().expect("tahoe");
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(ended.status.success(), "{arguments:?}: {text} {ended:?}");
        text
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Stores and changes mutable files of a format, and returns their capability and content.
fn mutable_file(client: &Client, format: &str) -> (String, Vec<u8>) {
    let mut whole = content(300_000, 5);
    let capability = client.put(&format!("/uri?format={format}"), &whole);
    assert_eq!(client.get(&capability), whole);
    whole = content(250_000, 6);
    client.put(&format!("/uri/{capability}"), &whole);
    assert_eq!(client.get(&capability), whole, "{format} replaced");
    let part = content(5_000, 7);
    client.put(&format!("/uri/{capability}?offset=130000"), &part);
    whole[130_000..135_000].copy_from_slice(&part);
    assert_eq!(client.get(&capability), whole, "{format} updated in part");
    (capability, whole)
}

#[test]
fn a_client_of_tahoe_lafs_stores_everything_it_has_and_a_kill_loses_nothing() {
    let mut rig = Rig::new();
    add_door(&rig, true);
    rig.serve();
    let mut client = Client::new(&rig, 4);
    let mut files = Vec::new();
    for (seed, length) in [1, 56, 1 << 20, 100 << 20].into_iter().enumerate() {
        let bytes = content(length, seed as u64 + 1);
        let capability = client.put("/uri", &bytes);
        assert_eq!(client.get(&capability), bytes, "{length}");
        files.push((capability, bytes));
    }
    files.push(mutable_file(&client, "SDMF"));
    files.push(mutable_file(&client, "MDMF"));
    // One request with a write for each of some eighty segments.
    let large = content(10 << 20, 31);
    let capability = client.put("/uri?format=MDMF", &large);
    assert_eq!(client.get(&capability), large, "a large mutable file");
    files.push((capability, large));
    client.tahoe(&["create-alias", "home"]);
    let source = rig.path("source");
    fs::create_dir_all(source.join("folder")).expect("a folder");
    fs::write(source.join("one"), content(5_000, 8)).expect("a file");
    fs::write(source.join("folder/two"), content(70_000, 9)).expect("a file");
    let source = source.display().to_string();
    client.tahoe(&["mkdir", "home:backups"]);
    let first = client.tahoe(&["backup", &source, "home:backups"]);
    assert!(first.contains("2 files uploaded"), "{first}");
    let second = client.tahoe(&["backup", &source, "home:backups"]);
    assert!(second.contains("(2 reused)"), "{second}");
    let listed = client.tahoe(&["ls", "home:backups/Latest"]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["folder", "one"]);

    // As after a power cut: the client goes on by itself.
    rig.kill();
    rig.serve();
    client.connected(4);
    for (capability, bytes) in &files {
        assert_eq!(&client.get(capability), bytes, "{capability}");
    }
    let checked = client.tahoe(&["check", "--verify", "--add-lease", &files[3].0]);
    assert!(checked.contains("Healthy"), "{checked}");
    let deep = client.tahoe(&["deep-check", "--verify", "--add-lease", "home:"]);
    assert!(deep.contains(", 0 unhealthy"), "{deep}");

    // What is stored is accounted for, and is not the array's.
    let usage = rig.raic(&["--json", "usage"]).ok().text;
    let first: Value = serde_json::from_str(usage.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["account"], "anonymous", "{usage}");
    assert!(first["bytes"].as_u64() > Some(2 * (100 << 20)), "{usage}");
    let events = rig.raic(&["events"]).ok().text;
    assert!(
        events.contains("leases") && events.contains("were added or renewed"),
        "{events}"
    );

    // A revoked client is out at once, and back with its new servers.yaml.
    rig.raic(&["tahoe", "revoke", "anonymous"]).ok();
    let refused = client.try_web("GET", &format!("/uri/{}", files[2].0), b"");
    assert_ne!(refused.expect("an answer").0, 200);
    let servers = rig.raic(&["tahoe", "servers-yaml"]).ok().text;
    client.stop();
    fs::write(client.folder.join("private/servers.yaml"), servers).expect("written");
    client.start(4);
    assert_eq!(client.get(&files[2].0), files[2].1);
}

#[test]
fn tahoe_lafs_stores_over_s3_swift_azure_and_a_folder_with_two_of_them_down() {
    let (azurite, swift) = (Azurite::start(TMP), TempAuthSwift::start(TMP));
    let mut rig = Rig::new();
    let s3 = rig.service("s3");
    let account = serde_json::json!({"User": TEMPAUTH.0, "Password": TEMPAUTH.1}).to_string();
    let secret = |name: &str, text: &str| {
        let file = rig.path(name);
        fs::write(&file, text).expect("a secret");
        file.display().to_string()
    };
    let keys = r#"{"AccessKeyId": "ACCESS", "SecretAccessKey": "SECRET"}"#;
    let (keys, key, account) = (
        format!("keys={}", secret("keys", keys)),
        format!("key={}", secret("key", KEY)),
        format!("account={}", secret("account", &account)),
    );
    add_door(&rig, false);
    rig.raic(&["connector", "approve", &component(), "--yes"])
        .ok();
    for name in ["swift", "azure"] {
        let built = Path::new(TMP)
            .with_file_name("connectors")
            .join(format!("{name}.wasm"));
        let built = built.display().to_string();
        rig.raic(&["connector", "approve", &built, "--yes"]).ok();
    }
    let add = |name: &str, replaced: &str, settings: &[String], credential: &str| {
        let mut words = vec![
            "cloud",
            "add",
            name,
            "--connector",
            name,
            "--replace",
            replaced,
        ];
        words.extend(
            settings
                .iter()
                .flat_map(|setting| ["--set", setting.as_str()]),
        );
        words.extend(["--credential", credential]);
        rig.raic(&words).ok();
    };
    let of_s3 = [
        format!("endpoint={s3}"),
        "bucket=bucket".to_owned(),
        "region=us-east-1".to_owned(),
    ];
    add("s3", "local-1", &of_s3, &keys);
    let of_azure = [
        format!("account={ACCOUNT}"),
        format!("endpoint={}", azurite.url),
        "container=container".to_owned(),
    ];
    add("azure", "local-2", &of_azure, &key);
    rig.raic(&["cloud", "create", "azure"]).ok();
    let of_swift = [
        "auth=v1".to_owned(),
        format!("auth-url={}", swift.auth_url),
        "container=container".to_owned(),
    ];
    add("swift", "local-3", &of_swift, &account);
    rig.raic(&["cloud", "pin", "swift"]).ok();
    rig.raic(&["cloud", "create", "swift"]).ok();
    rig.serve();
    // Files of an array are not there, and the error says why.
    rig.raic(&["put", "/dev/null", "--as", "file"])
        .fails(4, &["[array]"]);

    let mut client = Client::new(&rig, 4);
    let bytes = content(3_000_000, 21);
    let first = client.put("/uri", &bytes);
    assert_eq!(client.get(&first), bytes);
    let (slot, _) = mutable_file(&client, "MDMF");

    drop(swift);
    client.restart(3, 4);
    assert_eq!(client.get(&first), bytes, "with one cloud down");
    let written = content(260_000, 24);
    client.put(&format!("/uri/{slot}"), &written);
    assert_eq!(client.get(&slot), written, "changed with one cloud down");
    let with_three = content(2_000_000, 22);
    // The door finds out within half a minute that the cloud takes nothing.
    let began = Instant::now();
    let second = loop {
        match client.try_web("PUT", "/uri", &with_three) {
            Some((200 | 201, capability)) => break String::from_utf8(capability).expect("text"),
            other => assert!(began.elapsed() < Duration::from_secs(90), "{other:?}"),
        }
    };
    assert_eq!(client.get(&second), with_three);

    drop(azurite);
    client.restart(2, 4);
    assert_eq!(client.get(&first), bytes, "with two clouds down");
    assert_eq!(client.get(&slot), written, "with two clouds down");
    let with_two = content(1_000_000, 23);
    let began = Instant::now();
    let third = loop {
        match client.try_web("PUT", "/uri", &with_two) {
            Some((200 | 201, capability)) => break String::from_utf8(capability).expect("text"),
            other => assert!(began.elapsed() < Duration::from_secs(90), "{other:?}"),
        }
    };
    assert_eq!(client.get(&third), with_two);
}

/// A cloud in memory is empty after each start, and goes on through reloads.
#[test]
fn a_cloud_in_memory_serves_until_the_daemon_ends() {
    let mut rig = Rig::new();
    add_door(&rig, false);
    let file = rig.home("config.toml");
    let folders = fs::read_to_string(&file).expect("the configuration");
    let memory = folders.replacen(
        "backend = \"disk\"\npath = \"clouds/1\"",
        "backend = \"memory\"",
        1,
    );
    assert_ne!(memory, folders);
    fs::write(&file, &memory).expect("written");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let index = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
    let nurl = |rig: &Rig, cloud: &str| {
        let text = rig.raic(&["--json", "tahoe", "servers-yaml"]).ok().text;
        let servers: Value = serde_json::from_str(&text).expect("JSON");
        let all = servers["storage"].as_object().expect("servers").values();
        let mut own = all.filter(|server| server["ann"]["nickname"] == format!("raic-{cloud}"));
        let nurls = &own.next().expect("the cloud")["ann"]["anonymous-storage-NURLs"];
        nurls[0].as_str().expect("a NURL").to_owned()
    };
    let stores = |nurl: &str| {
        runtime.block_on(async {
            let mut client = TahoeConnection::open(nurl).await;
            let path = format!("/storage/v1/immutable/{index}");
            let allocate = TahoeRequest::new(Method::POST, &path).lease(1).upload(1);
            let allocated = client.send(allocate.cbor(allocation(&[0], 7))).await;
            assert_eq!(allocated.0, 200, "{allocated:?}");
            let write = TahoeRequest::new(Method::PATCH, &format!("{path}/0")).upload(1);
            let write = write
                .header("content-range", "bytes 0-6/*")
                .body(&b"content"[..]);
            client.send(write).await.0.as_u16()
        })
    };
    let reads = |nurl: &str| {
        let path = format!("/storage/v1/immutable/{index}/0");
        let read = TahoeRequest::new(Method::GET, &path);
        runtime.block_on(async {
            TahoeConnection::open(nurl)
                .await
                .send(read)
                .await
                .0
                .as_u16()
        })
    };
    rig.serve();
    let own = nurl(&rig, "local-1");
    assert_eq!((reads(&own), stores(&own), reads(&own)), (404, 201, 200));
    // One folder less: the other clouds are opened anew, and the memory stays.
    let fewer = memory
        .split("[clouds.local-4]")
        .next()
        .expect("a beginning");
    fs::write(&file, fewer).expect("written");
    rig.raic(&["reload"]).ok();
    assert_eq!(reads(&own), 200);
    rig.kill();
    rig.serve();
    assert_eq!((reads(&own), stores(&own), reads(&own)), (404, 201, 200));
    assert_eq!(stores(&nurl(&rig, "local-2")), 201);
    // A cloud whose shares stay does not become one that forgets them.
    let forgets = fewer.replacen(
        "backend = \"disk\"\npath = \"clouds/2\"",
        "backend = \"null\"",
        1,
    );
    fs::write(&file, &forgets).expect("written");
    rig.raic(&["reload"]).fails(4, &["local-2", "has shares"]);
    assert_eq!(reads(&nurl(&rig, "local-2")), 200);
    // An array does not take clouds that forget, unless it is told to.
    let array = fewer.replacen(
        "[storage]",
        "[array]\n[classes.standard]\nk = 2\nn = 4\n\n[storage]",
        1,
    );
    fs::write(&file, &array).expect("written");
    rig.raic(&["reload"])
        .fails(4, &["local-1", "volatile = true"]);
    let told = array.replacen(
        "backend = \"memory\"",
        "backend = \"memory\"\nvolatile = true",
        1,
    );
    fs::write(&file, &told).expect("written");
    rig.raic(&["reload"]).ok();
    rig.raic_with(&["put", "-", "file"], b"content").ok();
}

/// The reference's HTTP storage server on a folder. It ends when it is dropped.
struct Reference {
    process: Child,
    nurl: String,
}

impl Reference {
    fn start(folder: &Path) -> Self {
        let mut process = script("serve_folder.py")
            .arg(folder)
            .arg("0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the reference");
        let mut nurl = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output)
            .read_line(&mut nurl)
            .expect("its NURL");
        Self {
            process,
            nurl: nurl.trim().to_owned(),
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Lets the reference's client read every share of a manifest at a server, renew its leases with
/// their secrets, and write with its write enabler.
#[track_caller]
fn is_whole(nurl: &str, manifest: &Path) {
    let mut check = script("check_served.py");
    let checked = check
        .arg(nurl)
        .arg(manifest)
        .arg("--write")
        .output()
        .expect("a client");
    let text = String::from_utf8_lossy(&checked.stdout);
    assert!(text.contains(" 0 faults"), "{text} {checked:?}");
}

#[test]
fn a_folder_of_tahoe_lafs_is_taken_over_and_given_out_whole() {
    let mut rig = Rig::new();
    add_door(&rig, false);
    rig.serve();
    // Without an array, too, the clouds get what the identities are derived from.
    let sealed = fs::read(rig.home("secrets/keyring.sealed")).expect("the sealed keyring");
    Rig::until("the keyring is on the clouds", || {
        let copy = |cloud| fs::read(rig.home(&format!("clouds/{cloud}/raic/keyring.1")));
        (1..=4).all(|cloud| copy(cloud).is_ok_and(|copy| copy == sealed))
    });
    let (folder, manifest) = (rig.path("folder"), rig.path("manifest.json"));
    let made = script("make_folder.py")
        .arg(&folder)
        .output()
        .expect("a folder");
    assert!(made.status.success(), "{made:?}");
    fs::write(&manifest, &made.stdout).expect("the manifest");
    let shown = folder.display().to_string();
    let import = ["tahoe", "import", &shown, "--cloud", "local-1"];
    let imported = rig.raic(&import).ok().text;
    assert!(imported.starts_with("35 shares moved"), "{imported}");
    let again = rig.raic(&import).ok().text;
    assert!(
        again.contains("0 shares moved") && again.contains("35 there already"),
        "{again}"
    );

    // The ids that clients know stay, and are printed from then on.
    let (furl_id, server_id) = ("a".repeat(32), format!("v0-{}", "b".repeat(51) + "a"));
    let ids = ["--furl-id", &furl_id, "--server-id", &server_id];
    rig.raic(&[&import[..], &ids].concat()).ok();
    let servers = rig.raic(&["--json", "tahoe", "servers-yaml"]).ok().text;
    let servers: Value = serde_json::from_str(&servers).expect("JSON");
    let announced = &servers["storage"][&server_id]["ann"];
    assert_eq!(
        announced["anonymous-storage-FURL"],
        format!("pb://{furl_id}@tcp:127.0.0.1:1/unused")
    );
    let nurl = announced["anonymous-storage-NURLs"][0]
        .as_str()
        .expect("a NURL");

    // Given out before the client changes anything.
    let out = rig.path("out");
    let shown = out.display().to_string();
    let export = ["tahoe", "export", &shown, "--cloud", "local-1"];
    let exported = rig.raic(&export).ok().text;
    assert!(exported.starts_with("35 shares moved"), "{exported}");
    is_whole(nurl, &manifest);
    is_whole(&Reference::start(&out).nurl, &manifest);

    // What is no share is named, and the rest is taken over all the same.
    let torn = out.join("shares/aa/aaaaaaaaaaaaaaaaaaaaaaaaaa");
    fs::create_dir_all(&torn).expect("a folder");
    fs::write(torn.join("3"), [0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 1]).expect("a torn share");
    rig.raic(&["tahoe", "import", &shown, "--cloud", "local-2"])
        .fails(1, &["1 file could not be moved", "not moved: shares/aa/"]);
    rig.raic(&["tahoe", "import", "/nowhere", "--cloud", "local-2"])
        .fails(4, &["/nowhere"]);
    let events = rig.raic(&["events"]).ok().text;
    assert!(events.contains("35 shares were taken over"), "{events}");
}

/// A change of the door's address waits for a restart, and is told; certificates are passed
/// through; `events --follow` shows what happens while it runs.
#[test]
fn what_an_operator_changes_and_sees_of_the_door() {
    let mut rig = Rig::new();
    let port = add_door(&rig, true);
    let file = rig.home("config.toml");
    let text = fs::read_to_string(&file).expect("the configuration");
    let certified = text.replacen(
        "[tahoe]\n",
        "[tahoe]\ncertificates.local-2 = [\"grid.json\"]\n",
        1,
    );
    fs::write(&file, &certified).expect("written");
    rig.serve();
    rig.raic(&["tahoe", "servers-yaml"])
        .fails(4, &["grid.json"]);
    fs::write(rig.home("grid.json"), r#"{"certificate":"x"}"#).expect("written");
    rig.raic(&["tahoe", "servers-yaml"])
        .fails(4, &["signature"]);
    let certificate = r#"{"certificate":"x","signature":"y"}"#;
    fs::write(rig.home("grid.json"), certificate).expect("written");
    let servers = rig.raic(&["--json", "tahoe", "servers-yaml"]).ok().text;
    let servers: Value = serde_json::from_str(&servers).expect("JSON");
    for server in servers["storage"].as_object().expect("servers").values() {
        let of_the_second = server["ann"]["nickname"] == "raic-local-2";
        let passed = &server["ann"]["grid-manager-certificates"];
        assert_eq!(passed.is_array(), of_the_second, "{server}");
        assert!(!of_the_second || passed[0]["signature"] == "y", "{server}");
    }

    let moved = certified.replace(&format!(":{port}\""), &format!(":{}\"", free_port()));
    fs::write(&file, moved).expect("written");
    let reloaded = rig.raic(&["reload"]).ok();
    assert!(
        reloaded.errors.contains("restart the daemon"),
        "{}",
        reloaded.errors
    );
    rig.raic(&["tahoe", "servers-yaml"])
        .fails(4, &["restart the daemon"]);
    rig.kill();
    rig.serve();
    rig.raic(&["tahoe", "servers-yaml"]).ok();
    assert_eq!(rig.raic(&["reload"]).ok().errors, "");

    let mut follow = rig
        .command(&["events", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("raic starts");
    let output = follow.stdout.take().expect("its output");
    let (told, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = told.send(line);
        }
    });
    rig.raic(&["tahoe", "revoke", "anonymous"]).ok();
    let line = lines
        .recv_timeout(Duration::from_secs(30))
        .expect("an event");
    assert!(line.contains("anonymous"), "{line}");
    follow.kill().expect("it is ended");
    follow.wait().expect("it ends");
}
