//! Files through the real daemon, on four local folders.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod rig;

use std::fs;

use rig::{Rig, content};

#[test]
fn a_newcomer_stores_a_file_in_a_minute() {
    let mut rig = Rig::new();
    rig.raic(&["ls"]).fails(5, &["raic", "serve"]);
    rig.serve();
    let original = content(3_000_000, 1);
    fs::write(rig.path("photo.jpg"), &original).unwrap();
    let photo = rig.path("photo.jpg").display().to_string();
    assert!(rig.raic(&["put", &photo]).ok().text.contains("stored photo.jpg"));
    rig.raic_with(&["put", "-", "notes/today é.txt"], b"from standard input").ok();
    rig.raic_with(&["put", "-", "empty"], b"").ok();
    assert_eq!(rig.raic(&["get", "photo.jpg", "-"]).ok().out, original);
    assert_eq!(rig.raic(&["get", "notes/today é.txt", "-"]).ok().out, b"from standard input");
    assert_eq!(rig.raic(&["get", "empty", "-"]).ok().out, b"");

    let copy = rig.path("copy").display().to_string();
    rig.raic(&["get", "photo.jpg", &copy]).ok();
    assert_eq!(fs::read(&copy).unwrap(), original);
    let listed = rig.raic(&["ls"]).ok().text;
    assert_eq!(
        listed.lines().map(|l| l.split("Z  ").nth(1).unwrap()).collect::<Vec<_>>(),
        ["empty", "notes/today é.txt", "photo.jpg"]
    );
    let stat = rig.raic(&["--json", "stat", "photo.jpg"]).ok().text;
    assert!(stat.contains("\"size\":3000000") && stat.contains("[3,\"local-4\"]"), "{stat}");
    assert!(rig.raic(&["status"]).ok().text.contains("2-of-4"));
    rig.raic(&["rm", "photo.jpg", "empty"]).ok();
    rig.raic(&["get", "photo.jpg", "-"]).fails(3, &["photo.jpg"]);
    rig.raic(&["rm", "photo.jpg"]).fails(3, &["photo.jpg"]);
    rig.raic(&["init"]).fails(4, &["home already"]);
    rig.raic(&["serve"]).fails(1, &["already runs"]);
}

#[test]
fn nothing_readable_lies_in_the_clouds() {
    let mut rig = Rig::new();
    rig.serve();
    rig.raic_with(&["put", "-", "a-telling-name"], &b"a telling content, ".repeat(1000)).ok();
    let files = Rig::files(&rig.home("clouds"));
    assert_eq!(files.len(), 8, "a share and a keyring in each: {files:?}");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        for word in ["telling", "generations"] {
            assert!(!bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{word} in {}", file.display());
        }
        assert!(!file.display().to_string().contains("telling"));
    }
}

#[test]
fn with_one_folder_gone_three_shares_are_stored_and_with_two_none() {
    let mut rig = Rig::new();
    rig.serve();
    let original = content(500_000, 2);
    rig.raic_with(&["put", "-", "before"], &original).ok();
    let gone = |n: u8| fs::rename(rig.home(&format!("clouds/{n}")), rig.path(&format!("gone-{n}"))).unwrap();
    // A disk that is not mounted: the daemon serves without it.
    gone(2);
    rig.kill();
    rig.serve();
    let stored = rig.raic_with(&["put", "-", "with three"], &original).ok();
    assert!(
        stored.text.contains("3 shares") && stored.errors.contains("share 1 is missing"),
        "{}",
        stored.errors
    );
    assert!(rig.raic(&["status"]).ok().text.contains("lacking    1 shares"));

    fs::remove_dir_all(rig.home("clouds/4")).unwrap();
    fs::create_dir(rig.home("clouds/4")).unwrap();
    fs::write(rig.home("clouds/4/incoming"), b"in the way").unwrap();
    rig.kill();
    rig.serve();
    rig.raic_with(&["put", "-", "with two"], &original).fails(6, &["2 of 4", "local-2", "local-4"]);
    rig.raic(&["get", "with two", "-"]).fails(3, &[]);
    assert_eq!(rig.raic(&["get", "before", "-"]).ok().out, original, "two folders are empty");
    assert_eq!(rig.raic(&["get", "with three", "-"]).ok().out, original, "two shares are left");

    // With three that cannot even be opened there is nothing to serve.
    let away = [1, 3].map(|n| (rig.home(&format!("clouds/{n}")), rig.path(&format!("away-{n}"))));
    away.iter().for_each(|(from, to)| fs::rename(from, to).unwrap());
    rig.kill();
    rig.raic(&["serve"]).fails(4, &["local-1", "local-2", "local-3"]);
    away.iter().for_each(|(from, to)| fs::rename(to, from).unwrap());
    rig.serve();

    let share = &Rig::files(&rig.home("clouds/1/shares"))[0];
    fs::remove_file(share).unwrap();
    fs::remove_file(&Rig::files(&rig.home("clouds/1/shares"))[0]).unwrap();
    rig.raic(&["get", "before", "-"]).fails(6, &["local-1", "local-2", "local-4"]);
}

/// What the daemon acknowledged is there after kill -9 at any moment; what it did not is whole or absent.
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
        let mut put = rig.command(&["put", &path, &name]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(moment * 15));
        rig.kill();
        let acknowledged = put.wait().unwrap().success();
        rig.serve();
        assert_eq!(rig.raic(&["get", "kept", "-"]).ok().out, kept, "{moment}");
        let read = rig.raic(&["get", &name, "-"]);
        assert!(read.code == 3 && !acknowledged || read.out == new, "{moment}: {}", read.errors);
        whole += usize::from(read.code == 0);
    }
    // The rest left nothing but what is on its way out.
    let shares = Rig::files(&rig.home("clouds/1/shares")).len();
    assert!(shares <= 1 + whole, "{shares} shares of {whole} files and the kept one");
}
