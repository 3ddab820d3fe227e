//! The tests of Tahoe-LAFS 1.20 for storage clients and servers hold for the door
//! (`tests/tahoe/reference_tests.py`).

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use raic_cloud::MemoryCloud;
use raic_storage::DiskBackend;

use crate::rig::{Rig, over};

/// Tests that pass: all but two, which need sets of secrets that no request has.
const PASSING: &str = "successes=88";

impl Rig {
    /// Runs the reference's tests, and requires that they pass.
    async fn passes_the_references_tests(&self) {
        let python = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .with_file_name("clouds")
            .join("tahoe/bin/python");
        assert!(
            python.is_file(),
            "{} is not there; `cargo xtask test` installs it",
            python.display()
        );
        let mut tests = Command::new(python);
        tests
            .args(["-m", "twisted.trial", "reference_tests"])
            .current_dir(self.folder.path())
            .env(
                "PYTHONPATH",
                PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tahoe"),
            )
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("RAIC_NURL", &self.nurl)
            .env("RAIC_CONTROL", &self.control);
        let run = tokio::task::spawn_blocking(move || tests.output().unwrap());
        let run = run.await.unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && text.contains(PASSING), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_of_tahoe_lafs_hold_on_a_folder() {
    let rig = Rig::new(|folder, _, _| Arc::new(DiskBackend::open("cloud", folder).unwrap())).await;
    rig.passes_the_references_tests().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_of_tahoe_lafs_hold_on_a_cloud() {
    let rig = Rig::new(|folder, _, slots| {
        over(Arc::new(MemoryCloud::new("cloud")), folder, slots, 1 << 20)
    })
    .await;
    rig.passes_the_references_tests().await;
}
