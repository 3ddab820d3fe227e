//! The daemon is killed at any moment of each operation that changes files or keys. After the
//! restart each file is the old one or the new one, whole, and no cloud keeps what belongs to none.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::{collections::BTreeSet, fs, thread, time::Duration};

use rig::{Rig, content};

/// Moments at which each operation is cut off, in milliseconds after its command began.
const MOMENTS: [u64; 7] = [0, 4, 8, 13, 20, 35, 60];

/// The content of a file; `None` if there is none.
fn read(rig: &Rig, name: &str) -> Option<Vec<u8>> {
    let read = rig.raic(&["get", name, "-"]);
    match read.code {
        0 => Some(read.out),
        3 => None,
        code => panic!("{name}: exit code {code}: {}", read.errors),
    }
}

/// Begins a command, kills the daemon some time later, and starts it again. Returns whether the
/// command succeeded.
fn cut_off(rig: &mut Rig, command: &[&str], moment: u64, done: &mut Vec<bool>) -> bool {
    let mut begun = rig.command(command).spawn().unwrap();
    thread::sleep(Duration::from_millis(moment));
    rig.kill();
    let is_acknowledged = begun.wait().unwrap().success();
    rig.serve();
    done.push(is_acknowledged);
    is_acknowledged
}

/// The storage indexes of all files.
fn live(rig: &Rig) -> BTreeSet<String> {
    let names = rig.raic(&["ls", "-r"]).ok().text;
    let stat = |name: &str| -> String {
        let stat = rig.raic(&["--json", "stat", name]).ok().text;
        let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
        stat["storage_index"].as_str().unwrap().to_owned()
    };
    names.lines().map(stat).collect()
}

#[test]
fn kill_9_at_any_moment_leaves_the_old_or_the_new_and_nothing_else() {
    let mut rig = Rig::new();
    let config = fs::read_to_string(rig.home("config.toml")).unwrap();
    // Uploads that were cut off rest for seconds. What is whole and belongs to no file waits for as
    // long, and not for a day: another daemon might run with a copy of the home.
    let soon = "[storage]\nupload_seconds = 1\nlate_seconds = 1\nsuspicion_seconds = 2\n";
    fs::write(rig.home("config.toml"), config.replace("[storage]\n", soon)).unwrap();
    rig.serve();
    let (old, new) = (content(700_000, 1), content(900_000, 2));
    fs::write(rig.path("new"), &new).unwrap();
    let path = rig.path("new").display().to_string();
    let store = |rig: &Rig, name: &str| {
        rig.raic_with(&["put", "-", name], &old).ok();
    };

    let mut ends = Vec::new();
    for moment in MOMENTS {
        rig.raic(&["rm", "copy"]);
        store(&rig, "replaced");
        let done = cut_off(
            &mut rig,
            &["put", &path, "--as", "replaced"],
            moment,
            &mut ends,
        );
        let is = read(&rig, "replaced").expect("the old or the new one");
        assert!(is == new || is == old && !done, "replaced at {moment} ms");

        store(&rig, "from");
        store(&rig, "onto");
        let done = cut_off(&mut rig, &["cp", "from", "copy"], moment, &mut ends);
        let copy = read(&rig, "copy");
        assert!(
            copy.as_ref() == Some(&old) || copy.is_none() && !done,
            "copied at {moment} ms"
        );
        assert_eq!(read(&rig, "from").as_ref(), Some(&old));

        rig.raic_with(&["put", "-", "from"], &new).ok();
        let done = cut_off(&mut rig, &["mv", "from", "onto"], moment, &mut ends);
        let (from, onto) = (read(&rig, "from"), read(&rig, "onto").expect("a file"));
        let is_moved = from.is_none() && onto == new;
        let is_not = from.as_ref() == Some(&new) && onto == old;
        assert!(is_moved || is_not && !done, "moved at {moment} ms");

        let done = cut_off(&mut rig, &["rm", "copy", "onto"], moment, &mut ends);
        for (name, content) in [("copy", copy), ("onto", Some(onto))] {
            let left = read(&rig, name);
            assert!(
                left.is_none() || left == content && !done,
                "{name} removed at {moment} ms"
            );
        }

        let key = rig.home("secrets/recovery-key.txt").display().to_string();
        cut_off(
            &mut rig,
            &["key", "rotate", "--recovery-key", &key],
            moment,
            &mut ends,
        );
        rig.raic(&["key", "check", "--recovery-key", &key]).ok();
        store(&rig, "under the key of now");
        assert!(read(&rig, "replaced").is_some_and(|is| is == new || is == old));
    }

    assert!(
        ends.contains(&true) && ends.contains(&false),
        "some operations ended, and some were cut off: {ends:?}"
    );

    // Each object in each cloud is that of a file.
    let live = live(&rig);
    for cloud in 1..=4 {
        let folder = rig.home(&format!("clouds/{cloud}/shares"));
        let held = || -> Vec<String> {
            let files = Rig::files(&folder).into_iter();
            let index = |file: std::path::PathBuf| {
                let parent = file.parent().unwrap().file_name().unwrap();
                parent.to_str().unwrap().to_owned()
            };
            files.map(index).collect()
        };
        Rig::until("only the shares of files are left", || {
            // What rested is collected when the next deletion wakes the collector, or here.
            rig.raic(&["lease", "collect"]);
            held().len() == live.len()
        });
        assert_eq!(
            held().into_iter().collect::<BTreeSet<_>>(),
            live,
            "cloud {cloud}"
        );
    }
}
