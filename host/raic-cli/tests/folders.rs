//! Folders and several files: put, get, sync, lists, copies and buckets, with the real binary.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use rig::{Rig, content};

/// Reads all files below a folder, with the seconds at which they were modified.
fn tree(folder: &Path) -> BTreeMap<String, (Vec<u8>, u64)> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let modified = path.metadata().unwrap().modified().unwrap();
            let modified = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            files.insert(name, (fs::read(&path).unwrap(), modified.as_secs()));
        }
    }
    files
}

fn write(path: &Path, bytes: &[u8], modified: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(modified);
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

#[test]
fn a_folder_comes_back_whole_with_its_times_though_two_clouds_are_gone() {
    let mut rig = Rig::new();
    rig.serve();
    let folder = rig.path("photos");
    for i in 0..200_usize {
        let name = format!("year {}/ä{}/{i}.jpg", 2000 + i % 7, i % 3);
        write(
            &folder.join(name),
            &content(i * 97, i as u64),
            1_600_000_000 + i as u64,
        );
    }
    let path = folder.display().to_string();
    let stored = rig
        .raic(&["put", "-r", &path, "--into", "backup"])
        .ok()
        .text;
    assert!(stored.starts_with("stored 200 files ("), "{stored}");
    let listed = rig.raic(&["ls", "-l", "backup/photos/"]).ok().text;
    assert_eq!(listed.lines().count(), 8, "{listed}");
    assert!(listed.contains("backup/photos/year 2003/"), "{listed}");
    let listed = rig.raic(&["ls", "-lr"]).ok().text;
    assert!(
        listed.lines().last().unwrap().contains("in 200 files"),
        "{listed}"
    );

    for cloud in ["clouds/1", "clouds/3"] {
        fs::remove_dir_all(rig.home(cloud)).unwrap();
    }
    let (copy, name) = (rig.path("copy"), "backup/photos");
    let read = rig.raic(&["get", "-r", name, &copy.display().to_string(), "-j", "8"]);
    assert!(read.ok().text.starts_with("read 200 files ("));
    assert_eq!(tree(&copy), tree(&folder));
}

#[test]
fn sync_stores_what_differs_and_removes_only_when_told() {
    let mut rig = Rig::new();
    rig.serve();
    let folder = rig.path("folder");
    for (name, bytes) in [
        ("a", "one"),
        ("b/c", "two"),
        ("b/d", "three"),
        ("e.tmp", "four"),
    ] {
        write(&folder.join(name), bytes.as_bytes(), 1_700_000_000);
    }
    let path = folder.display().to_string();
    let sync = |more: &[&str]| {
        let begin = ["sync", &*path, "mirror"];
        rig.raic(&[&begin[..], more].concat()).ok().text
    };
    assert!(sync(&["--exclude", "*.tmp"]).contains("stored 3 files"));
    let again = sync(&["--exclude", "*.tmp"]);
    assert!(
        again.contains("stored 0 files") && again.contains("3 files as before"),
        "{again}"
    );

    write(&folder.join("a"), b"uno", 1_700_000_001);
    write(&folder.join("b/c"), b"two", 1_700_000_001);
    fs::remove_file(folder.join("b/d")).unwrap();
    let would = sync(&["--exclude", "*.tmp", "--delete", "--dry-run"]);
    assert_eq!(
        would.lines().collect::<Vec<_>>(),
        [
            "would store mirror/a",
            "would store mirror/b/c",
            "would remove mirror/b/d",
            "0 files as before"
        ]
    );
    // By content, only one differs.
    assert!(sync(&["--exclude", "*.tmp", "--checksum"]).contains("stored 1 file ("));
    assert!(
        sync(&["--exclude", "*.tmp"]).contains("stored 1 file ("),
        "the time of b/c"
    );
    rig.raic_with(&["put", "-", "mirror/kept.tmp"], b"x").ok();
    let deleted = sync(&["--exclude", "*.tmp", "--delete"]);
    assert!(
        deleted.contains("stored 0 files") && deleted.contains("1 file removed"),
        "{deleted}"
    );
    let left = rig.raic(&["ls", "-r", "mirror/"]).ok().text;
    assert_eq!(
        left.lines().collect::<Vec<_>>(),
        ["mirror/a", "mirror/b/c", "mirror/kept.tmp"],
        "what is excluded is neither stored nor removed"
    );
    assert_eq!(
        rig.raic(&["cat", "mirror/a", "mirror/b/c"]).ok().text,
        "unotwo"
    );
    // What a link leads to may be what is stored under its name.
    fs::remove_dir_all(folder.join("b")).unwrap();
    symlink("elsewhere", folder.join("b")).unwrap();
    sync(&["--exclude", "*.tmp", "--delete"]);
    assert_eq!(rig.raic(&["ls", "-r", "mirror/"]).ok().text, left);
    let gone = rig.path("nothing").display().to_string();
    rig.raic(&["sync", &gone, "mirror", "--delete"])
        .fails(1, &["nothing"]);
    assert_eq!(rig.raic(&["ls", "-r", "mirror/"]).ok().text, left);
}

/// Names in the array may be anything. What is no path below the folder is told, and the rest read.
#[test]
fn names_that_lead_out_of_the_folder_are_refused_and_listed() {
    let mut rig = Rig::new();
    rig.serve();
    for name in ["in/good", "in/../../up", "in//empty", "in/.", "in/deep/er"] {
        rig.raic_with(&["put", "-", name], b"content").ok();
    }
    let copy = rig.path("outer/copy");
    fs::create_dir_all(&copy).unwrap();
    symlink(rig.path("outer"), copy.join("deep")).unwrap();
    let read = rig.raic(&["get", "-r", "in", &copy.display().to_string()]);
    let read = read.fails(2, &["1 of 5 files were read"]);
    for name in ["in/../../up", "in//empty", "in/."] {
        assert!(
            read.errors
                .contains(&format!("{name:?}: its name is no path")),
            "{}",
            read.errors
        );
    }
    assert!(read.errors.contains("in/deep/er"), "{}", read.errors);
    assert_eq!(fs::read(copy.join("good")).unwrap(), b"content");
    let outer: Vec<_> = fs::read_dir(rig.path("outer")).unwrap().collect();
    assert_eq!(outer.len(), 1, "{outer:?}");
    let none = rig.path("none").display().to_string();
    rig.raic(&["get", "-r", "nobody", &none])
        .fails(3, &["nobody/"]);
}

#[test]
fn several_files_go_on_though_one_fails_and_links_wait_to_be_asked_for() {
    let mut rig = Rig::new();
    rig.serve();
    let folder = rig.path("folder");
    write(&folder.join("a"), b"1", 1);
    write(&folder.join("b"), b"22", 2);
    symlink("b", folder.join("link")).unwrap();
    symlink("nothing", folder.join("dangling")).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let (a, b, missing) = (path("a"), path("b"), path("missing"));
    let stored = rig.raic(&["put", &a, &missing, &b]);
    let stored = stored.fails(1, &["2 of 3 files were stored", "missing"]);
    assert!(stored.text.contains("stored a (1 B)"), "{}", stored.text);
    rig.raic(&["put", &path("")]).fails(1, &["put -r"]);
    rig.raic(&["put", &a, &b, "--as", "x"]).fails(2, &["--as"]);
    write(&folder.join("deep/a"), b"3", 3);
    rig.raic(&["put", &a, &path("deep/a")])
        .fails(2, &["would both"]);
    fs::remove_dir_all(folder.join("deep")).unwrap();
    let replaced = rig.raic(&["put", &a]).ok().text;
    assert!(replaced.starts_with("replaced a"), "{replaced}");
    rig.raic(&["put", &a, "--no-replace"])
        .fails(9, &["\"a\" already"]);

    let whole = path("");
    let stored = rig.raic(&["put", "-r", &whole]).ok();
    assert!(stored.text.contains("stored 2 files"), "{}", stored.text);
    assert!(
        stored.errors.contains("2 links left out"),
        "{}",
        stored.errors
    );
    let stored = rig.raic(&["put", "-r", "--links", &whole, "--into", "linked"]);
    let stored = stored.fails(1, &["3 of 4 files were stored", "dangling"]);
    assert!(stored.text.contains("stored 3 files"), "{}", stored.text);
    assert_eq!(rig.raic(&["cat", "linked/folder/link"]).ok().text, "22");

    let json = rig.raic(&["--json", "put", &a, &b]).ok().text;
    assert_eq!(json.lines().count(), 2, "{json}");
    write(&folder.join("large"), &content(1 << 20, 3), 3);
    let began = Instant::now();
    rig.raic(&["put", &path("large"), "--bwlimit", "2 MiB"])
        .ok();
    assert!(began.elapsed() > Duration::from_millis(350));
    rig.raic(&["put", &a, "--bwlimit", "fast"])
        .fails(2, &["fast"]);
}

#[test]
fn files_are_copied_moved_and_removed_by_folders_and_buckets() {
    let mut rig = Rig::new();
    rig.serve();
    rig.raic(&["bucket", "create", "photos"]).ok();
    rig.raic(&["bucket", "create", "photos"])
        .fails(9, &["photos"]);
    rig.raic(&["bucket", "create", "No"]).fails(2, &["3 to 63"]);
    for name in ["x/1", "x/2", "x/y/3", "z"] {
        rig.raic_with(&["put", "-", name], name.as_bytes()).ok();
    }
    rig.raic_with(&["put", "-", "z", "--bucket", "photos"], b"other")
        .ok();
    assert_eq!(rig.raic(&["cat", "z"]).ok().text, "z");
    assert_eq!(
        rig.raic(&["cat", "z", "--bucket", "photos"]).ok().text,
        "other"
    );
    rig.raic(&["put", "/dev/null", "--as", "n", "--bucket", "nobody"])
        .fails(3, &["nobody"]);

    rig.raic(&["cp", "x/1", "copies/"]).ok();
    assert_eq!(rig.raic(&["cat", "copies/1"]).ok().text, "x/1");
    rig.raic(&["mv", "x/2", "z", "--no-replace"])
        .fails(9, &["\"z\""]);
    let moved = rig.raic(&["mv", "x/2", "z"]).ok().text;
    assert_eq!(moved.trim(), "moved x/2 to z, which replaced a file");
    rig.raic(&["mv", "z", "moved", "--to-bucket", "photos"])
        .ok();
    let listed = rig.raic(&["ls", "--bucket", "photos"]).ok().text;
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["moved", "z"]);
    rig.raic(&["cp", "nobody", "x"]).fails(3, &["nobody"]);

    assert_eq!(
        rig.raic(&["ls"]).ok().text.lines().collect::<Vec<_>>(),
        ["copies/", "x/"]
    );
    let json = rig.raic(&["--json", "ls"]).ok().text;
    assert_eq!(json.lines().next().unwrap(), r#"{"folder":"copies/"}"#);
    rig.raic(&["bucket", "remove", "photos"])
        .fails(9, &["holds files"]);
    rig.raic(&["bucket", "remove", "files"])
        .fails(9, &["files"]);
    let would = rig
        .raic(&["rm", "-r", "x", "--dry-run", "--include", "3"])
        .ok()
        .text;
    assert_eq!(would.trim(), "would remove x/y/3");
    let removed = rig.raic(&["rm", "-r", "x", "copies"]).ok().text;
    assert_eq!(removed.trim(), "removed 3 files");
    rig.raic(&["rm", "-r", "x"]).fails(3, &["ls"]);
    rig.raic(&["ls", "x/"]).fails(3, &["x/", "raic ls"]);
    rig.raic(&["rm", "-r", "", "--bucket", "photos"])
        .fails(2, &["--all"]);
    rig.raic(&["rm", "a", "--include", "a"])
        .fails(2, &["--recursive"]);
    rig.raic(&["rm", "-r", "--all", "--bucket", "photos"]).ok();
    rig.raic(&["bucket", "remove", "photos"]).ok();
    let buckets = rig.raic(&["--json", "bucket", "list"]).ok().text;
    assert!(buckets.starts_with(r#"{"name":"files","#), "{buckets}");
    assert!(buckets.contains(r#""files":0,"bytes":0"#), "{buckets}");
}
