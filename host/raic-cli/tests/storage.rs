//! Accounts, leases, owners and the database's loss, through the real daemon and command line.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::fs;

use rig::{Rig, content};

fn with_times(rig: &Rig, times: &str) {
    let config = fs::read_to_string(rig.home("config.toml")).unwrap();
    fs::write(
        rig.home("config.toml"),
        config.replace("[storage]\n", &format!("[storage]\n{times}\n")),
    )
    .unwrap();
}

fn shares(rig: &Rig) -> usize {
    Rig::files(&rig.home("clouds"))
        .iter()
        .filter(|file| file.display().to_string().contains("/shares/"))
        .count()
}

#[test]
fn accounts_pay_for_what_they_store_and_no_more_than_their_quota() {
    let mut rig = Rig::new();
    rig.raic(&["account", "list"]).fails(5, &["raic", "serve"]);
    rig.serve();
    rig.raic(&[
        "account", "create", "alice", "--hard", "1 MiB", "--soft", "512 KiB",
    ])
    .ok();
    rig.raic(&["account", "create", "alice"])
        .fails(4, &["there is an account \"alice\" already"]);
    rig.raic(&["account", "create", "a b"])
        .fails(4, &["cannot be an account's name"]);
    rig.raic(&["account", "create", "bob", "--hard", "lots"])
        .fails(4, &["not a size"]);
    let list = rig.raic(&["account", "list"]).ok().text;
    assert!(
        list.contains("anonymous") && list.contains("starter") && list.contains("1.00 MiB"),
        "{list}"
    );

    rig.raic_with(
        &["put", "-", "file", "--account", "alice"],
        &content(200_000, 1),
    )
    .ok();
    let usage = rig.raic(&["usage", "--json"]).ok().text;
    assert!(
        usage.contains(r#""account":"alice","shares":0,"files":1,"bytes":400000}"#),
        "{usage}"
    );
    rig.raic_with(
        &["put", "-", "other", "--account", "alice"],
        &content(600_000, 2),
    )
    .fails(
        7,
        &[
            "account \"alice\"",
            "1048576",
            "raic account set alice --hard",
        ],
    );
    rig.raic_with(&["put", "-", "other", "--account", "carol"], b"x")
        .fails(4, &["no account \"carol\""]);
    rig.raic(&["account", "disable", "alice"]).ok();
    rig.raic_with(&["put", "-", "other", "--account", "alice"], b"x")
        .fails(4, &["disabled", "raic account enable"]);
    rig.raic(&["account", "enable", "alice"]).ok();
    rig.raic(&["account", "set", "alice", "--hard", "none"])
        .ok();
    rig.raic_with(
        &["put", "-", "other", "--account", "alice"],
        &content(600_000, 2),
    )
    .ok();
    assert_eq!(
        rig.raic(&["get", "file", "-"]).ok().out,
        content(200_000, 1)
    );

    let by_cloud = rig.raic(&["usage", "--by", "cloud"]).ok().text;
    assert!(by_cloud.trim().starts_with("bytes "), "{by_cloud}");
    assert_eq!(
        by_cloud
            .lines()
            .filter(|line| line.contains("local-"))
            .count(),
        4,
        "{by_cloud}"
    );
    let leases = rig
        .raic(&["lease", "list", "--account", "system"])
        .ok()
        .text;
    assert!(
        leases.lines().count() == 8 && leases.contains("lasts"),
        "{leases}"
    );
    // A second lease, made by hand, keeps the shares after the file is removed.
    let stat = rig.raic(&["stat", "file", "--json"]).ok().text;
    let index = stat.split("\"storage_index\":\"").nth(1).unwrap()[..26].to_owned();
    rig.raic(&["lease", "renew", &index]).ok();
    rig.raic(&["lease", "renew", "nonsense"])
        .fails(2, &["26 characters"]);
    rig.raic(&["rm", "file", "other"]).ok();
    Rig::until("what has no lease goes", || shares(&rig) == 4);
    let usage = rig.raic(&["usage"]).ok().text;
    assert!(
        usage
            .lines()
            .any(|l| l.contains("alice") && l.trim().starts_with("0 ")),
        "{usage}"
    );
    assert!(
        rig.raic(&["lease", "collect", "--dry-run"])
            .ok()
            .text
            .contains("0 shares would go")
    );
    rig.raic(&["lease", "collect"]).ok();
    assert_eq!(shares(&rig), 4);
}

#[test]
fn leases_that_ended_are_shown_and_collected() {
    let mut rig = Rig::new();
    with_times(&rig, "lease_expiry = \"age\"");
    rig.serve();
    rig.raic(&["account", "create", "short", "--lease-days", "0"])
        .ok();
    rig.raic_with(&["put", "-", "file"], b"content").ok();
    let stat = rig.raic(&["stat", "file", "--json"]).ok().text;
    let index = stat.split("\"storage_index\":\"").nth(1).unwrap()[..26].to_owned();
    rig.raic(&["lease", "renew", &index, "--account", "short"])
        .ok();
    rig.raic(&["rm", "file"]).ok();
    rig.raic(&["lease", "collect"]).ok();
    Rig::until("a lease of no days has ended", || {
        rig.raic(&["lease", "collect"]).ok();
        shares(&rig) == 0
    });
}

#[test]
fn the_database_is_rebuilt_from_the_clouds() {
    let mut rig = Rig::new();
    rig.serve();
    for i in 0..5 {
        rig.raic_with(&["put", "-", &format!("file-{i}")], &content(50_000, i))
            .ok();
    }
    let before = shares(&rig);
    rig.kill();
    // The daemon refuses a damaged database, and its error has the remedy.
    fs::write(rig.home("raic.db"), b"this is no database").unwrap();
    let _ = fs::remove_file(rig.home("raic.db-wal"));
    rig.raic(&["serve"])
        .fails(4, &["damaged", "raic lease rebuild --replace-database"]);
    rig.raic(&["lease", "rebuild", "--replace-database"]).ok();
    rig.serve();
    // Another database writes and deletes nothing before it takes the containers over.
    let status = rig.raic(&["status"]);
    assert!(
        status.code == 6 && status.text.matches("raic lease rebuild").count() == 4,
        "{}",
        status.text
    );
    rig.raic_with(&["put", "-", "new"], b"x")
        .fails(6, &["not stored"]);
    let rebuilt = rig.raic(&["lease", "rebuild"]).ok().text;
    // The daemon's own walk may have found some of the shares first.
    assert_eq!(rebuilt.matches("5 shares listed").count(), 4, "{rebuilt}");
    assert_eq!(shares(&rig), before, "and none of them is collected");
    let leases = rig.raic(&["lease", "list"]).ok().text;
    assert!(
        leases.lines().count() == 20
            && leases
                .lines()
                .all(|l| l.contains("starter") && l.contains("lasts")),
        "{leases}"
    );
    rig.raic_with(&["put", "-", "new"], b"x").ok();
    assert_eq!(rig.raic(&["get", "new", "-"]).ok().out, b"x");
    assert!(
        rig.raic(&["lease", "reconcile"])
            .ok()
            .text
            .contains("6 shares listed, 0 discovered, 0 torn")
    );
    // A second rebuild has nothing to take over.
    assert!(
        rig.raic(&["lease", "rebuild"])
            .ok()
            .text
            .contains("0 discovered")
    );
}

#[test]
fn containers_that_are_emptied_swapped_or_anothers_are_told_and_left_alone() {
    let mut rig = Rig::new();
    rig.serve();
    rig.raic_with(&["put", "-", "file"], &content(50_000, 1))
        .ok();
    rig.kill();
    // A disk is not mounted, and its mount point is an empty folder.
    fs::rename(rig.home("clouds/1"), rig.path("unmounted")).unwrap();
    fs::create_dir(rig.home("clouds/1")).unwrap();
    rig.serve();
    let status = rig.raic(&["status"]).ok().text;
    assert!(status.contains("raic cloud adopt local-1"), "{status}");
    let stored = rig.raic_with(&["put", "-", "other"], b"x").ok();
    assert!(
        stored.errors.contains("is missing") && stored.errors.contains("local-1"),
        "{}",
        stored.errors
    );
    assert_eq!(Rig::files(&rig.home("clouds/1")).len(), 0);
    rig.raic(&["cloud", "adopt", "local-1"]).ok();
    let stored = rig.raic_with(&["put", "-", "other"], b"x").ok();
    assert!(!stored.errors.contains("missing"), "{}", stored.errors);
    let shares_of = |cloud: &str| Rig::files(&rig.home(&format!("clouds/{cloud}/shares"))).len();
    Rig::until("what was replaced goes", || shares_of("2") == 2);
    rig.kill();
    fs::remove_dir_all(rig.home("clouds/1")).unwrap();
    fs::rename(rig.path("unmounted"), rig.home("clouds/1")).unwrap();

    // Two clouds are swapped. The daemon writes and deletes nothing in either.
    let config = fs::read_to_string(rig.home("config.toml")).unwrap();
    let swapped = config
        .replace("clouds/1", "clouds/X")
        .replace("clouds/2", "clouds/1")
        .replace("clouds/X", "clouds/2");
    fs::write(rig.home("config.toml"), swapped).unwrap();
    rig.serve();
    let before = shares(&rig);
    let status = rig.raic(&["status"]);
    let shows = |words: &str| status.text.contains(words);
    assert!(
        shows("as cloud number 2") && shows("as cloud number 1"),
        "{}",
        status.text
    );
    rig.raic_with(&["put", "-", "new"], b"x").ok();
    let stat = rig.raic(&["stat", "new"]).ok().text;
    assert!(
        !stat.contains("local-1") && !stat.contains("local-2"),
        "{stat}"
    );
    rig.raic(&["rm", "new"]).ok();
    rig.raic(&["rm", "file"]).ok();
    rig.raic(&["lease", "collect"]).ok();
    assert!(shares(&rig) < before, "the other two clouds delete theirs");
    assert_eq!(
        Rig::files(&rig.home("clouds/1/shares")).len()
            + Rig::files(&rig.home("clouds/2/shares")).len(),
        3
    );
    rig.kill();
    fs::write(rig.home("config.toml"), &config).unwrap();

    // A second array does not take a container of the first one. No array takes a container of its
    // own twice.
    let other = Rig::new();
    let place = rig.home("clouds/3").display().to_string();
    other
        .raic(&[
            "cloud",
            "add",
            "theirs",
            "--path",
            &place,
            "--replace",
            "local-1",
        ])
        .fails(4, &["belongs to an array already"]);
    let link = rig.path("link");
    std::os::unix::fs::symlink(rig.home("clouds/3"), &link).unwrap();
    rig.raic(&[
        "cloud",
        "add",
        "again",
        "--path",
        &link.display().to_string(),
    ])
    .fails(4, &["one place"]);
}

#[test]
fn a_cloud_that_is_read_only_takes_and_deletes_nothing() {
    let mut rig = Rig::new();
    rig.serve();
    rig.raic_with(&["put", "-", "file"], &content(50_000, 1))
        .ok();
    rig.kill();
    let config = fs::read_to_string(rig.home("config.toml")).unwrap();
    let config = config.replace(
        "path = \"clouds/4\"",
        "path = \"clouds/4\"\nread_only = true\nreserved_space = \"1 GiB\"",
    );
    fs::write(rig.home("config.toml"), config).unwrap();
    rig.serve();
    assert!(
        rig.raic(&["status"])
            .ok()
            .text
            .contains("read-only: config.toml sets `read_only`")
    );
    let stored = rig.raic_with(&["put", "-", "other"], b"x").ok();
    assert!(
        stored.errors.contains("is missing") && stored.errors.contains("local-4"),
        "{}",
        stored.errors
    );
    rig.raic(&["rm", "file"]).ok();
    Rig::until("the others delete", || shares(&rig) == 4);
    rig.raic(&["lease", "collect"]).ok();
    assert_eq!(Rig::files(&rig.home("clouds/4/shares")).len(), 1);
}

/// A cloud stores nothing if the free space of its disk is reserved for other programs.
#[test]
fn reserved_space_is_left_alone() {
    let mut rig = Rig::new();
    let config = fs::read_to_string(rig.home("config.toml")).unwrap();
    let config = config.replace(
        "path = \"clouds/4\"",
        "path = \"clouds/4\"\nreserved_space = \"1000 TiB\"",
    );
    fs::write(rig.home("config.toml"), config).unwrap();
    rig.serve();
    let stored = rig.raic_with(&["put", "-", "file"], b"x").ok();
    assert!(
        stored.errors.contains("reserved_space"),
        "{}",
        stored.errors
    );
}
