//! Reads the test vectors of the share format with a second reader, in Python, which was written
//! from docs/share-format.md alone.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/raic-array/tests/vectors")
}

fn read(shares: &[PathBuf]) -> Output {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("clouds")
        .join("share_format/bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("share_format/read_share.py");
    Command::new(&python)
        .arg(script)
        .arg(vectors().join("keyring.json"))
        .args(shares)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}; `cargo xtask test` installs it", python.display()))
}

/// The shares of each vector, by number, with the vector's k.
fn all() -> Vec<(String, usize, Vec<PathBuf>)> {
    let folders = fs::read_dir(vectors()).unwrap().map(|entry| entry.unwrap());
    let folders = folders.filter(|entry| entry.file_type().unwrap().is_dir());
    let vectors = folders.map(|folder| {
        let count = fs::read_dir(folder.path()).unwrap().count();
        let share = |number| folder.path().join(format!("share-{number}.bin"));
        let shares: Vec<_> = (0..count).map(share).collect();
        let k = fs::read(&shares[0]).unwrap()[41];
        let name = folder.file_name().into_string().unwrap();
        (name, usize::from(k), shares)
    });
    vectors.collect()
}

#[test]
fn a_reader_in_python_reads_every_vector() {
    let vectors = all();
    assert!(vectors.len() >= 7, "{vectors:?}");
    for (name, k, shares) in vectors {
        // The first k shares are the data, and the last k are mostly parity.
        for chosen in [&shares[..k], &shares[shares.len() - k..]] {
            let out = read(chosen);
            let error = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{name}: {error}");
            let line = out.stdout.iter().position(|b| *b == b'\n').unwrap();
            let manifest: serde_json::Value = serde_json::from_slice(&out.stdout[..line]).unwrap();
            let length = manifest["extents"][0]["length"].as_u64().unwrap();
            let content: Vec<u8> = (0..length).map(|i| ((i * 131 + 7) % 251) as u8).collect();
            assert!(out.stdout[line + 1..] == content, "{name}");
        }
    }
}

/// The second reader is worth something only if it refuses what is wrong.
#[test]
fn a_reader_in_python_refuses_changed_shares() {
    let (_, k, shares) = all()
        .into_iter()
        .find(|(name, ..)| name == "plain")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let share = fs::read(&shares[0]).unwrap();
    let changed = folder.path().join("changed.bin");
    for at in (0..share.len()).step_by(37) {
        let mut bytes = share.clone();
        bytes[at] ^= 1;
        fs::write(&changed, bytes).unwrap();
        let chosen: Vec<_> = std::iter::once(changed.clone())
            .chain(shares[1..k].iter().cloned())
            .collect();
        assert!(!read(&chosen).status.success(), "byte {at}");
    }
}
