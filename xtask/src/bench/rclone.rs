//! The peer: rclone, with crypt over a union of the same four services.

use std::{path::Path, process::Command};

use super::rig::{Rig, SERVICES, access_key, secret_key};
use crate::stage::Outcome;

/// The bucket that rclone has to itself on every service.
const BUCKET: &str = super::rig::PEERS[0];

pub(crate) struct Rclone {
    environment: Vec<(String, String)>,
}

impl Rclone {
    /// Configures rclone for the rig; `None` if rclone is not installed.
    pub(crate) fn find(rig: &Rig) -> Outcome<Option<Self>> {
        if Command::new("rclone").arg("version").output().is_err() {
            println!("rclone is not installed: measured without a peer");
            return Ok(None);
        }
        let mut environment = Vec::new();
        let mut set = |remote: &str, name: &str, value: String| {
            environment.push((
                format!("RCLONE_CONFIG_{}_{name}", remote.to_uppercase()),
                value,
            ));
        };
        for (service, port) in SERVICES.iter().zip(rig.ports()) {
            set(service, "TYPE", "s3".to_owned());
            set(service, "PROVIDER", "Other".to_owned());
            set(service, "ENDPOINT", format!("http://127.0.0.1:{port}"));
            set(service, "ACCESS_KEY_ID", access_key(service));
            set(service, "SECRET_ACCESS_KEY", secret_key(service));
            // The lean cloud's etags are no MD5s.
            set(service, "USE_MULTIPART_ETAG", "false".to_owned());
        }
        let upstreams: Vec<_> = SERVICES.iter().map(|s| format!("{s}:{BUCKET}")).collect();
        set("all", "TYPE", "union".to_owned());
        set("all", "UPSTREAMS", upstreams.join(" "));
        // Every file goes to every service: so it survives the loss of any two, as RAIC's files do.
        set("all", "CREATE_POLICY", "all".to_owned());
        set("all", "ACTION_POLICY", "all".to_owned());
        let obscured = Command::new("rclone")
            .args(["obscure", "a password"])
            .output();
        let obscured = obscured.map_err(|e| format!("rclone: {e}"))?.stdout;
        set("sealed", "TYPE", "crypt".to_owned());
        set("sealed", "REMOTE", "all:".to_owned());
        set(
            "sealed",
            "PASSWORD",
            String::from_utf8_lossy(&obscured).trim().to_owned(),
        );
        environment.push(("RCLONE_CONFIG".to_owned(), "/dev/null".to_owned()));
        Ok(Some(Self { environment }))
    }

    fn command(&self) -> Command {
        let mut rclone = Command::new("rclone");
        // rclone's S3 does not start if the environment names a file of authorities.
        rclone
            .envs(self.environment.iter().map(|(n, v)| (n, v)))
            .env_remove("AWS_CA_BUNDLE");
        rclone
    }

    pub(crate) fn put(&self, file: &Path, name: &str) -> Command {
        let mut rclone = self.command();
        rclone.arg("copyto").arg(file).arg(format!("sealed:{name}"));
        rclone
    }

    pub(crate) fn get(&self, name: &str, copy: &Path) -> Command {
        let mut rclone = self.command();
        rclone
            .args(["copyto", "--ignore-times"])
            .arg(format!("sealed:{name}"))
            .arg(copy);
        rclone
    }

    /// Copies a folder into the union, or back, with as many transfers at once as ours.
    pub(crate) fn put_folder(&self, folder: &Path, name: &str) -> Command {
        let mut rclone = self.command();
        rclone.args(["copy", "--transfers", "64", "--checkers", "64"]);
        rclone.arg(folder).arg(format!("sealed:{name}"));
        rclone
    }

    pub(crate) fn get_folder(&self, name: &str, folder: &Path) -> Command {
        let mut rclone = self.command();
        rclone.args(["copy", "--transfers", "64", "--checkers", "64"]);
        rclone.arg(format!("sealed:{name}")).arg(folder);
        rclone
    }

    /// Removes everything that rclone stored.
    pub(crate) fn empty(&self, rig: &Rig) -> Outcome {
        for service in SERVICES {
            let mut delete = self.command();
            rig.run(delete.arg("delete").arg(format!("{service}:{BUCKET}")))?;
        }
        Ok(())
    }
}
