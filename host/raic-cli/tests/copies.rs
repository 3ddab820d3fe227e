//! Of two daemons on copies of one home, at most one writes (decision 0010).

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::{fs, io::Write as _, process::Command, process::Stdio};

use rig::{Rig, content};

/// Makes a home with clouds outside of it, so that a copy of the home has the same clouds.
fn with_clouds_outside() -> Rig {
    let rig = Rig::new();
    fs::rename(rig.home("clouds"), rig.path("clouds")).unwrap();
    let config = fs::read_to_string(rig.home("config.toml")).unwrap();
    let outside = format!("path = \"{}/", rig.path("clouds").display());
    let changed = config.replace("path = \"clouds/", &outside);
    assert_ne!(config, changed);
    fs::write(rig.home("config.toml"), changed).unwrap();
    rig
}

/// Copies a home as it is now, as if to another machine.
fn copied(from: &Rig) -> Rig {
    let copy = Rig::new();
    fs::remove_dir_all(copy.home("")).unwrap();
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(from.home(""))
            .arg(copy.home(""))
            .status()
            .unwrap()
            .success()
    );
    let _ = fs::remove_file(copy.home("raic.sock"));
    copy
}

/// Makes a home and an older copy: the home stored a file after it was copied. No daemon runs.
fn with_an_older_copy() -> (Rig, Rig) {
    let mut rig = with_clouds_outside();
    rig.serve();
    rig.raic_with(&["put", "-", "first"], &content(50_000, 1))
        .ok();
    rig.kill();
    let copy = copied(&rig);
    rig.serve();
    rig.raic_with(&["put", "-", "second"], &content(50_000, 2))
        .ok();
    rig.kill();
    (rig, copy)
}

fn shares(rig: &Rig) -> usize {
    Rig::files(&rig.path("clouds"))
        .iter()
        .filter(|file| file.display().to_string().contains("/shares/"))
        .count()
}

/// Asserts that a daemon stores and deletes nothing, and reports the reason.
fn refuses(rig: &Rig, clouds_of: &Rig) {
    // The daemon checks the owner before it deletes.
    let before = shares(clouds_of);
    rig.raic(&["rm", "first"]).ok();
    Rig::until("it sees the other one", || {
        rig.raic(&["status"])
            .text
            .matches("with a copy of this home")
            .count()
            == 4
    });
    rig.raic_with(&["put", "-", "of the copy"], b"x")
        .fails(6, &["a copy of this home"]);
    rig.raic(&["lease", "collect"]);
    assert_eq!(shares(clouds_of), before, "and deletes nothing");
}

#[test]
fn an_older_state_of_a_home_is_refused_however_often_it_is_started() {
    let (mut rig, mut copy) = with_an_older_copy();
    for _ in 0..3 {
        copy.serve();
        Rig::until("it sees the other one", || {
            copy.raic(&["status"])
                .text
                .matches("with a copy of this home")
                .count()
                == 4
        });
        copy.kill();
    }
    copy.serve();
    refuses(&copy, &rig);
    // The daemon of the newer home is not disturbed.
    rig.serve();
    assert_eq!(
        rig.raic(&["get", "first", "-"]).ok().out,
        content(50_000, 1)
    );
    rig.raic_with(&["put", "-", "fourth"], &content(50_000, 4))
        .ok();
    rig.raic(&["status"]).ok();
}

#[test]
fn a_home_that_was_copied_during_an_upload_takes_nothing_of_it() {
    let mut rig = with_clouds_outside();
    rig.serve();
    rig.raic_with(&["put", "-", "first"], &content(50_000, 1))
        .ok();
    let original = content(12_000_000, 2);
    let mut put = rig
        .command(&["put", "-", "large"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = put.stdin.take().unwrap();
    input.write_all(&original[..9_000_000]).unwrap();
    // The copy knows everything that the home did until then, so its daemon is the one that goes
    // on. The home's daemon stands still while it is copied, so that the copy is a snapshot.
    rig.signal("-STOP");
    let mut copy = copied(&rig);
    rig.signal("-CONT");
    copy.serve();
    copy.raic_with(&["put", "-", "of the copy"], b"x").ok();
    let before = shares(&rig);
    copy.raic(&["lease", "collect"]).ok();
    assert_eq!(shares(&rig), before, "what the other one sends rests");
    input.write_all(&original[9_000_000..]).unwrap();
    drop(input);
    assert!(put.wait().unwrap().success());
    copy.raic(&["lease", "collect"]).ok();
    assert_eq!(rig.raic(&["get", "large", "-"]).ok().out, original);
    // The home's daemon sees the copy before it deletes anything.
    refuses(&rig, &rig);
    assert_eq!(copy.raic(&["get", "of the copy", "-"]).ok().out, b"x");
}

#[test]
fn of_two_copies_that_are_started_together_one_stores_at_most() {
    let mut rig = with_clouds_outside();
    rig.serve();
    rig.raic_with(&["put", "-", "first"], &content(50_000, 1))
        .ok();
    rig.kill();
    let mut copies = [copied(&rig), copied(&rig)];
    std::thread::scope(|scope| {
        for copy in &mut copies {
            scope.spawn(|| copy.serve());
        }
    });
    let stores = |copy: &Rig| copy.raic_with(&["put", "-", "of a copy"], b"x").code == 0;
    let stored = copies.iter().filter(|copy| stores(copy)).count();
    assert!(stored <= 1, "{stored} of two stored");
    for copy in &copies {
        assert_eq!(
            copy.raic(&["get", "first", "-"]).ok().out,
            content(50_000, 1)
        );
    }
}

/// A daemon does not write to a cloud that it could not ask for another daemon.
#[test]
fn clouds_that_are_away_when_a_copy_starts_get_nothing_from_it_when_they_are_back() {
    let (rig, mut copy) = with_an_older_copy();
    let away = |n: u8| {
        (
            rig.path(&format!("clouds/{n}")),
            rig.path(&format!("away-{n}")),
        )
    };
    for n in [1, 2] {
        let (from, to) = away(n);
        fs::rename(from, to).unwrap();
    }
    copy.serve();
    copy.raic_with(&["put", "-", "of the copy"], b"x")
        .fails(6, &["not stored"]);
    for n in [1, 2] {
        let (from, to) = away(n);
        fs::rename(to, from).unwrap();
    }
    refuses(&copy, &rig);
}
