//! Rotation of keys, with the real binary.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::fs;

use rig::{Rig, content};

#[test]
fn a_rotated_key_seals_new_files_and_old_ones_stay_readable() {
    let mut rig = Rig::new();
    rig.serve();
    let old = content(200_000, 1);
    rig.raic_with(&["put", "-", "old"], &old).ok();
    let path = rig.home("secrets/recovery-key.txt").display().to_string();
    let key = ["--recovery-key", &*path];
    rig.raic(&[&["key", "check"][..], &key].concat()).ok();
    let told = rig
        .raic(&[&["--json", "key", "rotate"][..], &key].concat())
        .ok();
    assert_eq!(told.text.trim(), r#"{"generation":2,"reloaded":true}"#);
    rig.raic_with(&["put", "-", "new"], &content(200_000, 2))
        .ok();
    let copy = rig.path("keyring.copy").display().to_string();
    let export = [&["key", "export", &*copy][..], &key].concat();
    rig.raic(&export).ok();
    let sealed = fs::read(rig.home("clouds/1/raic/keyring.2")).unwrap();
    assert_eq!(fs::read(&copy).unwrap(), sealed, "what the clouds have");
    rig.raic(&export).fails(1, &["exists"]);
    // The new keyring was on enough clouds before its key was used.
    let copies =
        (1..=4).filter(|cloud| rig.home(&format!("clouds/{cloud}/raic/keyring.2")).exists());
    assert!(copies.count() >= 3);
    for restart in [false, true] {
        if restart {
            rig.kill();
            rig.serve();
        }
        assert_eq!(rig.raic(&["get", "old", "-"]).ok().out, old);
        assert_eq!(rig.raic(&["get", "new", "-"]).ok().out, content(200_000, 2));
    }
}

#[test]
fn only_the_recovery_key_rotates_and_changes_keys() {
    let mut rig = Rig::new();
    let first = rig.home("secrets/recovery-key.txt");
    let text = fs::read(&first).unwrap();
    let wrong = rig.path("wrong");
    // A key of another home, and one with a slip.
    let another = {
        let other_rig = Rig::new();
        fs::read(other_rig.home("secrets/recovery-key.txt")).unwrap()
    };
    for bad in [another, b"AAAAAAA-AAAAAAA".to_vec(), Vec::new()] {
        fs::write(&wrong, bad).unwrap();
        let wrong = wrong.display().to_string();
        for command in ["check", "rotate"] {
            rig.raic(&["key", command, "--recovery-key", &wrong])
                .fails(4, &["key"]);
        }
    }
    rig.raic(&["key", "rotate"]).fails(2, &["--recovery-key"]);
    rig.raic_with(&["key", "check", "--recovery-key", "-"], &text)
        .ok();

    // The words are the key, too.
    let words = rig
        .raic_with(&["key", "words", "--recovery-key", "-"], &text)
        .ok();
    assert_eq!(words.text.split_whitespace().count(), 24);
    rig.raic_with(&["key", "check", "--recovery-key", "-"], &words.out)
        .ok();
    let slip = words
        .text
        .replacen(words.text.split(' ').next().unwrap(), "nobody", 1);
    rig.raic_with(&["key", "check", "--recovery-key", "-"], slip.as_bytes())
        .fails(4, &["not a recovery key"]);

    // Without a daemon, a change waits for its start.
    let new = rig.path("new-key").display().to_string();
    let old = first.display().to_string();
    let changed = rig
        .raic(&["key", "change", "--recovery-key", &old, "--new", &new])
        .ok();
    assert!(
        changed.text.contains("when it is started"),
        "{}",
        changed.text
    );
    rig.raic(&["key", "check", "--recovery-key", &new]).ok();
    rig.raic(&["key", "check", "--recovery-key", &old])
        .fails(4, &["keyring"]);
    let again = rig.raic(&["key", "change", "--recovery-key", &new, "--new", &new]);
    again.fails(1, &["new-key"]);
    rig.serve();
    rig.raic_with(&["put", "-", "file"], b"content").ok();
    assert_eq!(rig.raic(&["cat", "file"]).ok().text, "content");
}
