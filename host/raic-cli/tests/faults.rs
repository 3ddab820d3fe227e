//! Faults: each is reported in one sentence and by an exit code, and nothing is lost.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::{
    fs, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path, process::Command, thread,
};

use rig::{Ended, Rig, component, content};

fn write(rig: &Rig, name: &str, bytes: &[u8]) -> String {
    fs::write(rig.path(name), bytes).unwrap();
    rig.path(name).display().to_string()
}

#[test]
fn files_that_are_no_connectors_are_refused() {
    let rig = Rig::new();
    let whole = fs::read(component()).unwrap();
    let approve = |name: &str, bytes: &[u8]| {
        rig.raic(&["connector", "approve", &write(&rig, name, bytes), "--yes"])
    };
    approve("cut.wasm", &whole[..whole.len() / 2])
        .fails(4, &["cut.wasm", "not a whole WebAssembly component"]);
    approve("core.wasm", b"\0asm\x01\0\0\0").fails(4, &["core WebAssembly module"]);
    approve("script.wasm", b"#!/bin/sh").fails(4, &["script.wasm"]);
    let wasi = r#"(component (import "wasi:http/outgoing-handler@0.2.0" (instance)))"#;
    approve("wasi.wasm", &wat::parse_str(wasi).unwrap())
        .fails(4, &["imports \"wasi:http", "wasm32-unknown-unknown"]);
    assert!(
        rig.raic(&["connector", "list"])
            .ok()
            .text
            .contains("no connector is approved")
    );
    assert!(
        rig.raic(&["connector", "approve", &component(), "--yes"])
            .ok()
            .text
            .contains("approved")
    );
    rig.raic(&["connector", "approve", &component(), "--yes"])
        .ok();
    assert_eq!(
        rig.raic(&["connector", "list"]).ok().text.lines().count(),
        1
    );
    let shown = rig.raic(&["connector", "inspect", "s3"]).ok().text;
    assert!(
        shown.contains("{endpoint}/{bucket}") && shown.contains("(SigV4)"),
        "{shown}"
    );

    // A connector whose approval is revoked is not approved any more.
    rig.raic(&["connector", "revoke", "s3"]).ok();
    rig.raic(&["connector", "revoke", "s3"])
        .fails(4, &["no connector \"s3\" is approved"]);
    assert!(
        rig.raic(&["connector", "list"])
            .ok()
            .text
            .contains("no connector is approved")
    );
    rig.raic(&["connector", "approve", &component(), "--yes"])
        .ok();

    // A connector that was changed after its approval is not run.
    let kept = Rig::files(&rig.home("connectors"))
        .into_iter()
        .find(|f| f.extension().is_some_and(|e| e == "wasm"));
    let mut bytes = whole.clone();
    let start = bytes.windows(9).position(|w| w == b"us-east-1").unwrap();
    bytes[start] = b'X';
    fs::write(kept.unwrap(), bytes).unwrap();
    rig.raic(&["connector", "list"]).fails(4, &["SHA-256"]);
}

fn add(rig: &Rig, endpoint: &str, bucket: &str, keys: &str) -> Ended {
    let (endpoint, bucket) = (format!("endpoint={endpoint}"), format!("bucket={bucket}"));
    let credential = format!("keys={keys}");
    rig.raic(&[
        "cloud",
        "add",
        "s3",
        "--connector",
        "s3",
        "--set",
        &endpoint,
        "--set",
        &bucket,
        "--credential",
        &credential,
        "--replace",
        "local-1",
    ])
}

#[test]
fn what_is_wrong_with_a_cloud_is_told() {
    let mut rig = Rig::new();
    let url = rig.service("service");
    let good = write(
        &rig,
        "good.json",
        br#"{"AccessKeyId":"ACCESS","SecretAccessKey":"SECRET"}"#,
    );
    let wrong = write(
        &rig,
        "wrong.json",
        br#"{"AccessKeyId":"ACCESS","SecretAccessKey":"a-wrong-secret"}"#,
    );
    let before = fs::read(rig.home("config.toml")).unwrap();
    add(&rig, &url, "bucket", &good).fails(4, &["no connector \"s3\" is approved"]);
    rig.raic(&["connector", "approve", &component(), "--yes"])
        .ok();
    add(&rig, "not a url", "bucket", &good).fails(4, &["endpoint", "http://127.0.0.1:9000"]);
    add(&rig, &url, "bucket", "/nowhere.json").fails(4, &["/nowhere.json"]);
    add(&rig, &url, "bucket", &write(&rig, "empty.json", b"{}")).fails(4, &["AccessKeyId"]);
    assert_eq!(
        fs::read(rig.home("config.toml")).unwrap(),
        before,
        "what cannot be configured is not added"
    );

    let test = |rig: &Rig| rig.raic(&["cloud", "test", "s3"]);
    let again = |rig: &Rig, endpoint: &str, bucket: &str, keys: &str| {
        fs::write(rig.home("config.toml"), &before).unwrap();
        add(rig, endpoint, bucket, keys).ok();
    };
    again(&rig, &url, "bucket", &wrong);
    let tested = test(&rig);
    assert!(
        !tested.errors.contains("a-wrong-secret"),
        "{}",
        tested.errors
    );
    tested.fails(4, &["cloud \"s3\"", "SignatureDoesNotMatch", "credentials"]);
    again(&rig, &url, "missing", &good);
    test(&rig).fails(4, &["cloud \"s3\"", "NoSuchBucket", "container"]);
    rig.raic(&["cloud", "create", "s3"]).ok();
    assert!(test(&rig).ok().text.contains("works"));
    again(&rig, "http://127.0.0.1:1", "bucket", &good);
    test(&rig).fails(6, &["cloud \"s3\"", "127.0.0.1:1 cannot be reached"]);
    again(&rig, &url, "bucket", &good);
    assert!(test(&rig).ok().text.contains("works"));

    let config = fs::read_to_string(rig.home("config.toml")).unwrap();
    assert!(
        config.contains("# RAIC's configuration") && config.contains("[clouds.s3]"),
        "comments stay: {config}"
    );
    rig.raic(&["cloud", "test", "other"])
        .fails(4, &["no cloud \"other\"", "local-2"]);
    rig.serve();
    rig.raic_with(&["put", "-", "file"], b"content").ok();
    assert_eq!(rig.raic(&["get", "file", "-"]).ok().out, b"content");

    rig.raic(&["connector", "revoke", "s3"])
        .fails(4, &["is run by s3", "--force"]);

    // Another version of the same name is approved, with a grant that leads nowhere. The cloud
    // stays with its own version.
    rig.kill();
    let mut other = fs::read(component()).unwrap();
    let text = b"url = \"{endpoint}/{bucket}\"";
    let start = other.windows(text.len()).position(|w| w == text).unwrap();
    other[start + 7..start + text.len() - 1].copy_from_slice(b"http://127.0.0.1:1/");
    rig.raic(&[
        "connector",
        "approve",
        &write(&rig, "other.wasm", &other),
        "--yes",
    ])
    .ok();
    assert_eq!(
        rig.raic(&["connector", "list"]).ok().text.lines().count(),
        2
    );
    rig.serve();
    assert!(
        rig.raic(&["status"])
            .ok()
            .text
            .lines()
            .any(|l| l.contains("s3") && l.contains("works"))
    );
    assert!(test(&rig).ok().text.contains("works"));
    // Without a pin the newest version is taken, and that one reaches nothing.
    rig.kill();
    fs::remove_file(rig.home("raic.db")).unwrap();
    assert_ne!(
        test(&rig).code,
        0,
        "the other version is the one a new cloud gets"
    );
}

#[test]
fn a_home_that_is_damaged_is_told_and_left_as_it_is() {
    let mut rig = Rig::new();
    rig.serve();
    let original = content(100_000, 5);
    rig.raic_with(&["put", "-", "file"], &original).ok();
    rig.kill();
    let spoil = |rig: &Rig, name: &str, bytes: &[u8], words: &[&str]| {
        let good = fs::read(rig.home(name)).unwrap();
        fs::write(rig.home(name), bytes).unwrap();
        rig.raic(&["serve"]).fails(4, words);
        assert_eq!(
            fs::read(rig.home(name)).unwrap(),
            bytes,
            "{name} is left as it is"
        );
        fs::write(rig.home(name), good).unwrap();
    };
    spoil(
        &rig,
        "config.toml",
        b"[array\nk = 2",
        &["config.toml", "line 1"],
    );
    spoil(
        &rig,
        "config.toml",
        b"[array]\nk = 5",
        &["config.toml", "[classes.standard]", "k = 5"],
    );
    spoil(&rig, "config.toml", b"\xff\xfe", &["config.toml", "UTF-8"]);
    spoil(&rig, "secrets/keyring.json", b"{}", &["keyring.json"]);
    let other = fs::read(Rig::new().home("secrets/keyring.json")).unwrap();
    spoil(
        &rig,
        "secrets/keyring.json",
        &other,
        &["keyring.json", "not the key"],
    );
    // kill -9 left a write-ahead log. A start folds it in, so that the database is one file.
    rig.serve();
    rig.kill();
    let log = rig.home("raic.db-wal");
    let (database, kept_log) = (
        fs::read(rig.home("raic.db")).unwrap(),
        fs::read(&log).unwrap_or_default(),
    );
    let _ = fs::remove_file(&log);
    let _ = fs::remove_file(rig.home("raic.db-shm"));
    let mut damaged = database.clone();
    damaged
        .iter_mut()
        .skip(50)
        .step_by(7)
        .for_each(|b| *b ^= 0x55);
    fs::write(rig.home("raic.db"), &damaged).unwrap();
    rig.raic(&["serve"]).fails(4, &["raic.db", "damaged"]);
    fs::write(rig.home("raic.db"), database).unwrap();
    fs::write(&log, kept_log).unwrap();
    rig.serve();
    assert_eq!(
        rig.raic(&["get", "file", "-"]).ok().out,
        original,
        "nothing was lost"
    );
}

#[test]
fn secrets_are_their_owners_alone() {
    let mut rig = Rig::new();
    rig.serve();
    let mode = |name: &str| fs::metadata(rig.home(name)).unwrap().permissions().mode() & 0o777;
    for name in [
        "secrets/keyring.json",
        "secrets/recovery-key.txt",
        "secrets/keyring.sealed",
        "raic.sock",
    ] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for name in ["", "secrets", "connectors"] {
        assert_eq!(mode(name), 0o700, "{name:?}");
    }
}

/// If a disk is full, a write is refused with the reason, and older content stays. A smaller file
/// can still be stored.
#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let mut rig = Rig::new();
    let mounts: Vec<_> = (1..=3).map(|n| rig.home(&format!("clouds/{n}"))).collect();
    let mount = |folder: &Path| {
        std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "raic-test"])
            .arg(folder)
            .status()
    };
    if !mounts
        .iter()
        .all(|folder| mount(folder).is_ok_and(|status| status.success()))
    {
        eprintln!("not run: only root can mount a small disk");
        return;
    }
    struct Unmount(Vec<std::path::PathBuf>);
    impl Drop for Unmount {
        fn drop(&mut self) {
            for folder in &self.0 {
                let _ = std::process::Command::new("umount")
                    .arg("-l")
                    .arg(folder)
                    .status();
            }
        }
    }
    let _unmount = Unmount(mounts);
    rig.serve();
    let small = content(400_000, 6);
    rig.raic_with(&["put", "-", "small"], &small).ok();
    let large = content(4_000_000, 7);
    rig.raic_with(&["put", "-", "small"], &large)
        .fails(7, &["local-1", "local-3", "No space left", "free space"]);
    assert_eq!(
        rig.raic(&["get", "small", "-"]).ok().out,
        small,
        "what was there stays"
    );
    rig.raic_with(&["put", "-", "other"], &content(300_000, 8))
        .ok();
}

/// The file passes through the daemon and is never held whole. The daemon's memory stays far below
/// the file's size.
#[test]
fn a_file_larger_than_the_daemons_memory_goes_through_four_s3_services() {
    const MEBIBYTES: usize = 384;
    let mut rig = Rig::new();
    rig.raic(&["connector", "approve", &component(), "--yes"])
        .ok();
    let keys = write(
        &rig,
        "keys.json",
        br#"{"AccessKeyId":"ACCESS","SecretAccessKey":"SECRET"}"#,
    );
    let before = fs::read_to_string(rig.home("config.toml")).unwrap();
    let array = before.split("[clouds.local-1]").next().unwrap();
    let mut config = array.to_owned();
    for name in ["one", "two", "three", "four"] {
        let url = rig.service(name);
        config += &format!(
            "[clouds.{name}]\nbackend = \"cloud\"\nconnector = \"s3\"\n\
             settings = {{ endpoint = \"{url}\", bucket = \"bucket\" }}\ncredentials.keys = {{ file = \"{keys}\" }}\n"
        );
    }
    fs::write(rig.home("config.toml"), config).unwrap();
    rig.serve();
    let piece = content(1 << 20, 9);
    let file = rig.path("file");
    let mut original = fs::File::create(&file).unwrap();
    (0..MEBIBYTES).for_each(|_| original.write_all(&piece).unwrap());
    rig.raic(&["put", &file.display().to_string(), "--as", "file"])
        .ok();
    rig.raic(&["get", "file", &rig.path("copy").display().to_string()])
        .ok();
    let same = std::process::Command::new("cmp")
        .arg(&file)
        .arg(rig.path("copy"))
        .status()
        .unwrap();
    assert!(same.success(), "other bytes came back");
    let peak = rig.peak_memory() >> 10;
    assert!(peak < 256, "the daemon had {peak} MiB");
}

/// What the writers of folders gathered was once held beside the budget: about 2 MiB a share.
#[test]
fn many_uploads_at_once_share_the_memory_for_uploads() {
    let mut rig = Rig::new();
    rig.serve();
    let file = write(&rig, "file", &content(8 << 20, 3));
    thread::scope(|scope| {
        for number in 0..64 {
            let (rig, file) = (&rig, &file);
            scope.spawn(move || {
                let name = format!("file {number}");
                rig.raic(&["put", file, "--as", &name]).ok();
            });
        }
    });
    let peak = rig.peak_memory() >> 10;
    assert!(peak < 320, "the daemon had {peak} MiB");
}

/// Closed to everybody else, a folder such as /tmp would be lost to all who work in it.
#[test]
fn a_folder_for_everybody_is_not_made_a_home() {
    let rig = Rig::new();
    let shared = rig.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let init = Command::new(env!("CARGO_BIN_EXE_raic"))
        .arg("--home")
        .arg(&shared)
        .arg("init")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&init.stderr).into_owned();
    assert!(
        init.status.code() == Some(4) && errors.contains("for everybody"),
        "{errors}"
    );
    let mode = fs::metadata(&shared).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
}

/// Readers that take nothing hold little, and give that back.
#[test]
fn two_hundred_readers_that_take_nothing_hold_little_and_stop_no_upload() {
    use std::{io::Read as _, os::unix::net::UnixStream};
    const READERS: usize = 200;
    let mut rig = Rig::new();
    rig.serve();
    let file = write(&rig, "file", &content(48 << 20, 5));
    rig.raic(&["put", &file, "--as", "file"]).ok();
    let before = rig.memory();
    let open = |_| {
        let mut stream = UnixStream::connect(rig.home("raic.sock")).unwrap();
        let request = "GET /v1/files/file HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        // The head of the answer: the read has begun.
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        stream
    };
    let readers: Vec<UnixStream> = (0..READERS).map(open).collect();
    let held = rig.memory().saturating_sub(before) >> 20;
    assert!(held < 64, "{READERS} readers hold {held} MiB");
    rig.raic(&["put", &file, "--as", "other"]).ok();
    // One of them goes on, after what was read ahead for it was given back.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let mut readers = readers.into_iter();
    let mut one = readers.next().unwrap();
    let mut rest = vec![0; 8 << 20];
    one.read_exact(&mut rest).unwrap();
    let end = rest
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    assert_eq!(rest[end..], content(48 << 20, 5)[..rest.len() - end]);
    drop(readers);
}
