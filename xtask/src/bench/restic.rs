//! The peer for small files: restic, with a repository on the first of the services.

use std::{path::Path, process::Command};

use super::rig::{PEERS, Rig, SERVICES, access_key, secret_key};
use crate::stage::Outcome;

pub(crate) struct Restic {
    repository: String,
}

impl Restic {
    /// Makes a repository; `None` if restic is not installed.
    pub(crate) fn find(rig: &Rig) -> Outcome<Option<Self>> {
        if Command::new("restic").arg("version").output().is_err() {
            println!("restic is not installed: measured without it");
            return Ok(None);
        }
        let [_, bucket] = PEERS;
        let restic = Self {
            repository: format!("s3:http://127.0.0.1:{}/{bucket}", rig.first_port()),
        };
        rig.run(restic.command().arg("init"))?;
        Ok(Some(restic))
    }

    fn command(&self) -> Command {
        let mut restic = Command::new("restic");
        restic
            .args(["--repo", &self.repository, "--no-cache", "--quiet"])
            .args([
                "--option",
                "s3.region=us-east-1",
                "--option",
                "s3.connections=64",
            ])
            .env("RESTIC_PASSWORD", "a password")
            .env("AWS_ACCESS_KEY_ID", access_key(SERVICES[0]))
            .env("AWS_SECRET_ACCESS_KEY", secret_key(SERVICES[0]))
            .env_remove("AWS_CA_BUNDLE");
        restic
    }

    pub(crate) fn put(&self, folder: &Path) -> Command {
        let mut restic = self.command();
        restic.arg("backup").arg(".").current_dir(folder);
        restic
    }

    pub(crate) fn get(&self, folder: &Path) -> Command {
        let mut restic = self.command();
        restic.args(["restore", "latest", "--target"]).arg(folder);
        restic
    }

    /// Removes everything that was stored, so that the next run finds nothing there.
    pub(crate) fn forget(&self) -> Command {
        let mut restic = self.command();
        restic.args(["forget", "--keep-last", "1", "--prune"]);
        restic
    }
}
