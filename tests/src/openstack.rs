//! OpenStack Swift and Keystone on loopback, by the scripts in `tests/clouds/`.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::free_port;

/// The TempAuth user's name and key.
pub const TEMPAUTH: (&str, &str) = ("test:tester", "testing");

/// A server that runs until it is dropped.
#[derive(Debug)]
struct Server {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts a script of `tests/clouds` and waits for a line that `is_ready`; returns it too.
    fn start(
        target_tmp: &str,
        script: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        is_ready: impl Fn(&str) -> bool,
    ) -> (Self, String) {
        let folder = tempfile::Builder::new().prefix("raic-openstack-").tempdir().expect("a folder");
        let python = Path::new(target_tmp).with_file_name("clouds").join("openstack/bin/python");
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clouds").join(script);
        let log = folder.path().join("errors.log");
        let mut process = Command::new(&python)
            .args(["-W", "ignore"])
            .arg(&script)
            .arg(folder.path())
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}; `cargo xtask test` installs it", python.display()));
        let output = process.stdout.take().expect("its output");
        let ready = BufReader::new(output).lines().map_while(Result::ok).find(|line| is_ready(line));
        let server = Self { process, _folder: folder };
        let ready = ready.unwrap_or_else(|| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("{} ended: {log}", script.display())
        });
        (server, ready)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Keystone's ends with its input, and ends its workers then.
        drop(self.process.stdin.take());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Swift with TempAuth.
#[derive(Debug)]
pub struct TempAuthSwift {
    /// Where logins go.
    pub auth_url: String,
    _server: Server,
}

impl TempAuthSwift {
    /// Starts it; takes a few seconds.
    ///
    /// # Panics
    /// Where it is not installed or does not come up.
    pub fn start(target_tmp: &str) -> Self {
        let port = free_port();
        let arguments = [&*port.to_string()];
        let (server, _) =
            Server::start(target_tmp, "swift_server.py", &arguments, &[], |line| line == "READY");
        Self { auth_url: format!("http://127.0.0.1:{port}/auth/v1.0"), _server: server }
    }
}

/// Swift behind Keystone: users demo, reader and other, each with the password NAMEpassword.
#[derive(Debug)]
pub struct KeystoneSwift {
    /// Keystone v3.
    pub auth_url: String,
    /// An application credential of demo's: JSON as the connector takes it.
    pub application_credential: String,
    _swift: Server,
    _keystone: Server,
}

impl KeystoneSwift {
    /// Starts both, with tokens that last so long; takes about 20 s.
    ///
    /// # Panics
    /// Where they are not installed or do not come up.
    pub fn start(target_tmp: &str, token_seconds: u32) -> Self {
        let (port, keystone) = (free_port(), free_port());
        let (swift_url, auth_url) =
            (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{keystone}/v3"));
        let seconds = token_seconds.to_string();
        let (keystone, made) = Server::start(
            target_tmp,
            "keystone_server.py",
            &[&keystone.to_string(), &swift_url],
            &[("TOKEN_SECONDS", &seconds)],
            |line| line.starts_with('{'),
        );
        let made: serde_json::Value = serde_json::from_str(&made).expect("a credential");
        let application_credential = serde_json::json!({
            "ApplicationCredentialId": made["id"], "ApplicationCredentialSecret": made["secret"],
        });
        let arguments = [&*port.to_string(), &auth_url];
        let (swift, _) =
            Server::start(target_tmp, "swift_server.py", &arguments, &[], |line| line == "READY");
        Self {
            auth_url,
            application_credential: application_credential.to_string(),
            _swift: swift,
            _keystone: keystone,
        }
    }
}
