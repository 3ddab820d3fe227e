//! Files through the real daemon, on four local folders.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use rig::{Rig, content};

#[test]
fn a_newcomer_stores_a_file_in_a_minute() {
    let mut rig = Rig::new();
    rig.raic(&["ls"]).fails(5, &["raic", "serve"]);
    rig.serve();
    let original = content(3_000_000, 1);
    fs::write(rig.path("photo.jpg"), &original).unwrap();
    let photo = rig.path("photo.jpg").display().to_string();
    assert!(
        rig.raic(&["put", &photo])
            .ok()
            .text
            .contains("stored photo.jpg")
    );
    rig.raic_with(&["put", "-", "notes/today é.txt"], b"from standard input")
        .ok();
    rig.raic_with(&["put", "-", "empty"], b"").ok();
    assert_eq!(rig.raic(&["get", "photo.jpg", "-"]).ok().out, original);
    assert_eq!(
        rig.raic(&["get", "notes/today é.txt", "-"]).ok().out,
        b"from standard input"
    );
    assert_eq!(rig.raic(&["get", "empty", "-"]).ok().out, b"");

    let copy = rig.path("copy").display().to_string();
    rig.raic(&["get", "photo.jpg", &copy]).ok();
    assert_eq!(fs::read(&copy).unwrap(), original);
    let listed = rig.raic(&["ls", "-r"]).ok().text;
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        ["empty", "notes/today é.txt", "photo.jpg"]
    );
    let stat = rig.raic(&["--json", "stat", "photo.jpg"]).ok().text;
    assert!(
        stat.contains("\"size\":3000000") && stat.contains(r#","cloud":"local-4"}"#),
        "{stat}"
    );
    assert!(rig.raic(&["status"]).ok().text.contains("2-of-4"));
    rig.raic(&["rm", "photo.jpg", "empty"]).ok();
    rig.raic(&["get", "photo.jpg", "-"])
        .fails(3, &["photo.jpg"]);
    rig.raic(&["rm", "photo.jpg"]).fails(3, &["photo.jpg"]);
    rig.raic(&["init"]).fails(4, &["home already"]);
    rig.raic(&["serve"]).fails(8, &["a daemon runs in"]);
}

#[test]
fn nothing_readable_lies_in_the_clouds() {
    let mut rig = Rig::new();
    rig.serve();
    rig.raic_with(
        &["put", "-", "a-telling-name"],
        &b"a telling content, ".repeat(1000),
    )
    .ok();
    // Each cloud holds a share, a keyring, an owner and a run. The last keyring may come after the
    // file was acknowledged.
    Rig::until("the clouds hold 16 files", || {
        Rig::files(&rig.home("clouds")).len() == 16
    });
    let files = Rig::files(&rig.home("clouds"));
    for file in files {
        let bytes = fs::read(&file).unwrap();
        for word in ["telling", "generations"] {
            assert!(
                !bytes.windows(word.len()).any(|w| w == word.as_bytes()),
                "{word} in {}",
                file.display()
            );
        }
        assert!(!file.display().to_string().contains("telling"));
    }
}

#[test]
fn with_one_folder_gone_three_shares_are_stored_and_with_two_second_shares() {
    let mut rig = Rig::new();
    rig.serve();
    let original = content(500_000, 2);
    rig.raic_with(&["put", "-", "before"], &original).ok();
    let gone = |rig: &Rig, n: u8| {
        fs::rename(
            rig.home(&format!("clouds/{n}")),
            rig.path(&format!("gone-{n}")),
        )
        .unwrap()
    };
    // A disk is not mounted. The daemon serves without it.
    gone(&rig, 2);
    rig.kill();
    rig.serve();
    let stored = rig.raic_with(&["put", "-", "with three"], &original).ok();
    assert!(
        stored.text.contains("3 shares")
            && stored.errors.contains("is missing")
            && stored.errors.contains("local-2"),
        "{}",
        stored.errors
    );
    assert!(
        rig.raic(&["status"])
            .ok()
            .text
            .contains("lacking    1 share\n")
    );
    // The disk is mounted again, and the daemon uses it again.
    fs::rename(rig.path("gone-2"), rig.home("clouds/2")).unwrap();
    Rig::until("the cloud works again", || {
        rig.raic(&["status"])
            .ok()
            .text
            .lines()
            .any(|l| l.contains("local-2") && l.contains("works"))
    });
    let stored = rig.raic_with(&["put", "-", "with four"], &original).ok();
    assert!(stored.text.contains("4 shares"), "{}", stored.errors);
    rig.raic(&["rm", "with four"]).ok();
    gone(&rig, 2);
    rig.kill();
    // The folder is emptied while no daemon runs, because a daemon would go on writing into it.
    fs::remove_dir_all(rig.home("clouds/4")).unwrap();
    fs::create_dir(rig.home("clouds/4")).unwrap();
    fs::write(rig.home("clouds/4/incoming"), b"in the way").unwrap();
    rig.serve();
    // The two that are left take the shares of the others, too.
    let stored = rig.raic_with(&["put", "-", "with two"], &original).ok();
    assert!(stored.text.contains("4 shares"), "{}", stored.text);
    let shares = rig.raic(&["stat", "with two"]).ok().text;
    assert_eq!(shares.matches("local-1").count(), 2, "{shares}");
    assert_eq!(shares.matches("local-3").count(), 2, "{shares}");
    assert_eq!(rig.raic(&["get", "with two", "-"]).ok().out, original);
    rig.raic(&["rm", "with two"]).ok();
    assert_eq!(
        rig.raic(&["get", "before", "-"]).ok().out,
        original,
        "two folders are empty"
    );
    assert_eq!(
        rig.raic(&["get", "with three", "-"]).ok().out,
        original,
        "two shares are left"
    );

    // If three clouds cannot be opened, the daemon does not start.
    let away = [1, 3].map(|n| {
        (
            rig.home(&format!("clouds/{n}")),
            rig.path(&format!("away-{n}")),
        )
    });
    away.iter()
        .for_each(|(from, to)| fs::rename(from, to).unwrap());
    rig.kill();
    rig.raic(&["serve"])
        .fails(4, &["local-1", "local-2", "local-3"]);
    away.iter()
        .for_each(|(from, to)| fs::rename(to, from).unwrap());
    rig.serve();

    for share in Rig::files(&rig.home("clouds/1/shares")) {
        // The daemon may be deleting shares of removed files.
        let _ = fs::remove_file(share);
    }
    rig.raic(&["get", "before", "-"])
        .fails(6, &["local-1", "local-2", "local-4"]);
}

#[test]
fn where_a_file_is_read_to_stays_what_it_is() {
    let mut rig = Rig::new();
    rig.serve();
    rig.raic_with(&["put", "-", "file"], b"content").ok();
    let path = |name: &str| rig.path(name).display().to_string();
    let mode = |name: &str| fs::metadata(rig.path(name)).unwrap().permissions().mode() & 0o777;

    fs::write(rig.path("private"), b"before").unwrap();
    fs::set_permissions(rig.path("private"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(rig.path("private"), rig.path("link")).unwrap();
    let printed = rig
        .raic(&["--json", "get", "file", &path("link")])
        .ok()
        .text;
    assert!(printed.contains("\"size\":7"), "{printed}");
    assert_eq!(
        (fs::read(rig.path("private")).unwrap(), mode("private")),
        (b"content".to_vec(), 0o600)
    );
    assert!(fs::symlink_metadata(rig.path("link")).unwrap().is_symlink());

    Command::new("mkfifo")
        .arg(rig.path("pipe"))
        .status()
        .unwrap();
    let reader = Command::new("cat")
        .arg(rig.path("pipe"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    rig.raic(&["get", "file", &path("pipe")]).ok();
    assert_eq!(reader.wait_with_output().unwrap().stdout, b"content");
    assert!(
        !fs::metadata(rig.path("pipe")).unwrap().is_file(),
        "still a pipe"
    );
    // A file is read into a folder, as by cp, but not into a folder that does not exist.
    fs::create_dir(rig.path("folder")).unwrap();
    rig.raic(&["get", "file", &path("folder")]).ok();
    assert_eq!(fs::read(rig.path("folder/file")).unwrap(), b"content");
    rig.raic(&["get", "file", &path("none/")])
        .fails(1, &["there is no folder"]);
    // A link to a file that does not exist yet is followed. A path of the system is written to.
    std::os::unix::fs::symlink(rig.path("later"), rig.path("dangling")).unwrap();
    rig.raic(&["get", "file", &path("dangling")]).ok();
    assert_eq!(fs::read(rig.path("later")).unwrap(), b"content");
    assert!(
        fs::symlink_metadata(rig.path("dangling"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(
        rig.raic(&["get", "file", "/dev/stdout"]).ok().out,
        b"content"
    );
    fs::write(rig.path("log"), b"before, ").unwrap();
    let log = fs::OpenOptions::new()
        .append(true)
        .open(rig.path("log"))
        .unwrap();
    assert!(
        rig.command(&["get", "file", "/dev/stdout"])
            .stdout(log)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        fs::read(rig.path("log")).unwrap(),
        b"before, content",
        "what stood there stays"
    );
    // Standard output gets the content and nothing else.
    assert_eq!(
        rig.raic(&["--json", "get", "file", "-"]).ok().out,
        b"content"
    );
}

#[test]
fn a_cloud_with_shares_is_not_replaced_unless_forced() {
    let mut rig = Rig::new();
    rig.serve();
    rig.raic_with(&["put", "-", "file"], b"content").ok();
    let folder = rig.path("new-disk");
    fs::create_dir(&folder).unwrap();
    let folder = folder.display().to_string();
    let add = |rig: &Rig, more: &[&str]| {
        rig.raic(
            &[
                &[
                    "cloud",
                    "add",
                    "new",
                    "--path",
                    &folder,
                    "--replace",
                    "local-1",
                ],
                more,
            ]
            .concat(),
        )
    };
    add(&rig, &[]).fails(4, &["local-1", "1 share", "--force"]);
    // The cloud cannot be dropped with an editor either.
    let config = fs::read_to_string(rig.home("config.toml")).unwrap();
    let start = config.find("[clouds.local-1]").unwrap();
    let end = start + config[start..].find("[clouds.local-2]").unwrap();
    fs::write(
        rig.home("config.toml"),
        [&config[..start], &config[end..]].concat(),
    )
    .unwrap();
    rig.raic(&["reload"])
        .fails(4, &["local-1", "1 share", "raic cloud gone"]);
    rig.kill();
    rig.raic(&["serve"])
        .fails(4, &["local-1", "1 share", "raic cloud gone"]);
    assert!(
        rig.raic(&["cloud", "gone", "local-1"])
            .ok()
            .text
            .contains("and 1 share with it")
    );
    rig.raic(&["cloud", "gone", "local-2"])
        .fails(4, &["local-2", "is in config.toml"]);
    rig.raic(&["cloud", "gone", "nosuch"]).fails(4, &["nosuch"]);
    rig.serve();
    let status = rig.raic(&["status"]).ok().text;
    assert!(
        status.contains("lost       1 share\n") && status.contains("gone       local-1"),
        "{status}"
    );
    assert!(
        rig.raic(&["stat", "file"])
            .ok()
            .errors
            .contains("is missing")
    );
    // The cloud is put back, and has its shares again.
    fs::write(rig.home("config.toml"), &config).unwrap();
    rig.raic(&["reload"]).ok();
    assert!(
        rig.raic(&["status"])
            .ok()
            .text
            .contains("lost       0 shares")
    );
    assert!(add(&rig, &["--force"]).ok().text.contains("uses it now"));
    assert!(
        rig.raic(&["status"])
            .ok()
            .text
            .contains("lost       1 share\n")
    );
    let config = fs::read_to_string(rig.home("config.toml")).unwrap();
    for comment in [
        "# lease_expiry",
        "# signed_by",
        "# The clouds: as many as a class has shares",
        "# reserved_space",
    ] {
        assert!(
            config.contains(comment),
            "comments stay, {comment}: {config}"
        );
    }
    assert_eq!(
        rig.raic(&["get", "file", "-"]).ok().out,
        b"content",
        "three shares are left"
    );
    rig.raic(&["rm", "file"]).ok();
    let again = rig.home("clouds/3").display().to_string();
    rig.raic(&["cloud", "add", "twice", "--path", &again])
        .fails(4, &["local-3", "twice", "one place"]);
}

#[test]
fn told_twice_to_stop_the_daemon_ends_though_somebody_still_reads() {
    let mut rig = Rig::new();
    rig.serve();
    let original = content(20_000_000, 4);
    rig.raic_with(&["put", "-", "file"], &original).ok();
    let mut reader = rig
        .command(&["get", "file", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    rig.signal("-TERM");
    std::thread::sleep(Duration::from_millis(500));
    assert!(rig.runs(), "it waits for the reader");
    rig.signal("-TERM");
    Rig::until("the daemon ends", || !rig.runs());
    reader.kill().unwrap();
    reader.wait().unwrap();
    rig.kill();
    rig.serve();
    assert_eq!(rig.raic(&["get", "file", "-"]).ok().out, original);
}

/// A file that the daemon acknowledged exists after kill -9 at any moment. Any other file is whole
/// or absent.
#[test]
fn kill_9_at_any_moment_of_a_put_loses_nothing_acknowledged() {
    let mut rig = Rig::new();
    rig.serve();
    let kept = content(300_000, 3);
    rig.raic_with(&["put", "-", "kept"], &kept).ok();
    let mut whole = 0;
    for moment in 0..12_u64 {
        let new = content(6_000_000 + moment as usize, 100 + moment);
        fs::write(rig.path("new"), &new).unwrap();
        let path = rig.path("new").display().to_string();
        let name = format!("new-{moment}");
        let mut put = rig.command(&["put", &path, "--as", &name]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(moment * 15));
        rig.kill();
        let acknowledged = put.wait().unwrap().success();
        rig.serve();
        assert_eq!(rig.raic(&["get", "kept", "-"]).ok().out, kept, "{moment}");
        let read = rig.raic(&["get", &name, "-"]);
        assert!(
            read.code == 3 && !acknowledged || read.out == new,
            "{moment}: {}",
            read.errors
        );
        whole += usize::from(read.code == 0);
    }
    // The shares of the other uploads belong to no file, and rest. This home might be a copy, and
    // the daemon of the other home might go on with them.
    let shares = Rig::files(&rig.home("clouds/1/shares")).len();
    assert!(
        (1 + whole..=13).contains(&shares),
        "{shares} shares of {whole} files and the kept one"
    );
    assert_eq!(rig.raic(&["ls"]).ok().text.lines().count(), 1 + whole);
}

#[test]
fn an_error_is_json_where_json_is_asked_for() {
    let mut rig = Rig::new();
    let error = |ended: rig::Ended| -> (i32, String) {
        let error: serde_json::Value = serde_json::from_str(&ended.errors).expect("JSON");
        assert!(error["error"].is_string(), "{error}");
        (
            ended.code,
            error["code"].as_str().expect("a code").to_owned(),
        )
    };
    assert_eq!(
        error(rig.raic(&["--json", "ls"])),
        (5, "no-daemon".to_owned())
    );
    rig.serve();
    assert_eq!(
        error(rig.raic(&["--json", "get", "nosuch", "-"])),
        (3, "no-such-file".to_owned())
    );
    assert_eq!(
        error(rig.raic(&["--json", "cloud", "test", "nosuch"])),
        (4, "configuration".to_owned())
    );
    assert_eq!(
        error(rig.raic(&["--json", "get"])),
        (2, "usage".to_owned()),
        "a command line that is wrong"
    );
    let removed = rig.raic(&["--json", "rm", "one", "two"]);
    for line in removed.errors.lines() {
        let error: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(error["code"], "no-such-file", "{line}");
    }
    assert_eq!(
        removed.errors.lines().count(),
        3,
        "each name, and the command"
    );
}

#[test]
fn output_that_nothing_takes_is_a_full_disk() {
    let mut rig = Rig::new();
    rig.serve();
    rig.raic_with(&["put", "-", "file"], b"content").ok();
    for command in [&["ls"][..], &["stat", "file"], &["status"]] {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("a device");
        let ended = rig.command(command).stdout(full).output().expect("it ends");
        assert_eq!(
            ended.status.code(),
            Some(7),
            "{command:?}: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
    }
}

#[test]
fn a_configuration_is_checked_without_a_daemon_and_says_what_it_gives() {
    let rig = Rig::new();
    let told = rig.raic(&["config", "check"]).ok().text;
    assert!(
        told.contains("2-of-4")
            && told.contains("2.00 times")
            && told.contains("2 clouds must work"),
        "{told}"
    );
    let file = rig.home("config.toml");
    let text = fs::read_to_string(&file).unwrap();
    let one_place = text.replace(
        "backend = \"disk\"",
        "backend = \"disk\"\ndomain = \"here\"",
    );
    fs::write(&file, one_place).unwrap();
    let told = rig.raic(&["config", "check"]).ok();
    assert!(
        told.errors.contains("do not survive its loss"),
        "{}",
        told.errors
    );
    fs::write(&file, text.replace("\nk = 2", "\nk = 4")).unwrap();
    rig.raic(&["config", "check"])
        .fails(4, &["classes.standard", "k = 4 of n = 4"]);
}

#[test]
fn a_bucket_keeps_old_versions_and_gives_them_back() {
    let mut rig = Rig::new();
    rig.serve();
    rig.raic(&["bucket", "create", "notes"]).ok();
    rig.raic(&["bucket", "versioning", "notes", "on"]).ok();
    let list = rig.raic(&["bucket", "list"]).ok().text;
    assert!(list.contains("notes  (keeps versions)"), "{list}");
    let in_notes = |arguments: &[&str]| {
        let all = [arguments, &["--bucket", "notes"]].concat();
        rig.raic_with(&all, b"first").ok().text
    };
    in_notes(&[
        "put",
        "-",
        "a",
        "--type",
        "text/plain",
        "--metadata",
        "by=ana",
        "--tag",
        "x=y",
    ]);
    let second = ["put", "-", "a", "--bucket", "notes"];
    rig.raic_with(&second, b"the second").ok();
    in_notes(&["rm", "a"]);
    rig.raic(&["cat", "a", "--bucket", "notes"])
        .fails(3, &["no file"]);
    assert_eq!(in_notes(&["ls"]), "");

    let listed = in_notes(&["ls", "--versions"]);
    let ids: Vec<&str> = listed
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(
        ids.len() == 3 && listed.lines().next().unwrap().ends_with("a (removed)"),
        "{listed}"
    );
    let long = in_notes(&["ls", "-l", "--versions"]);
    assert!(
        long.contains("removed") && long.contains("15 B  in 3 versions"),
        "{long}"
    );
    assert_eq!(in_notes(&["cat", "a", "--version-id", ids[2]]), "first");
    let stat = in_notes(&["stat", "a", "--version-id", ids[2]]);
    for shown in [
        "(an old one)",
        "text/plain",
        "by=ana",
        "x=y",
        "standard (2 of 4 shares suffice)",
    ] {
        assert!(stat.contains(shown), "{shown}: {stat}");
    }
    rig.raic(&["cat", "a", "--bucket", "notes", "--version-id", ids[0]])
        .fails(3, &["only marks that the file was removed"]);
    rig.raic(&["cat", "a", "--bucket", "notes", "--version-id", "nonsense"])
        .fails(2, &["26 characters"]);
    in_notes(&["cp", "a", "a", "--version-id", ids[2]]);
    assert_eq!(in_notes(&["cat", "a"]), "first");
    // What was paid: the first twice, as it was copied, and the second; each times 4/2.
    let usage = rig.raic(&["--json", "usage"]).ok().text;
    let usage = usage
        .lines()
        .find(|line| line.contains("anonymous"))
        .unwrap();
    assert!(
        usage.contains(r#""shares":0,"files":3,"bytes":40"#),
        "{usage}"
    );
    rig.raic(&["bucket", "remove", "notes"])
        .fails(9, &["ls --versions --bucket notes"]);
    let left = in_notes(&["--json", "ls", "--versions"]);
    for line in left.lines() {
        let file: serde_json::Value = serde_json::from_str(line).unwrap();
        in_notes(&["rm", "a", "--version-id", file["version"].as_str().unwrap()]);
    }
    rig.raic(&["bucket", "remove", "notes"]).ok();
}

#[test]
fn a_cloud_is_drained_and_used_again() {
    let mut rig = Rig::new();
    rig.raic(&["cloud", "drain", "local-1"])
        .fails(5, &["no daemon answers"]);
    rig.serve();
    rig.raic_with(&["put", "-", "a"], b"content").ok();
    let said = rig.raic(&["cloud", "drain", "local-1"]).ok().text;
    assert!(said.contains("it has 1 share"), "{said}");
    let stored = rig.raic_with(&["put", "-", "b"], b"content").ok();
    assert!(stored.errors.contains("is draining"), "{}", stored.errors);
    let status = rig.raic(&["status"]).ok().text;
    assert!(status.contains("local-1          drains: "), "{status}");
    rig.raic(&["cloud", "drain", "nobody"])
        .fails(4, &["nobody"]);
    rig.raic(&["cloud", "undrain", "local-1"]).ok();
    let stored = rig.raic_with(&["put", "-", "c"], b"content").ok();
    assert_eq!(stored.errors, "");
}
