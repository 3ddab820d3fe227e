//! OpenStack Swift and Keystone on loopback, by the scripts in `tests/clouds/`.

use crate::{free_port, python_server::PythonServer};

/// The folder of the Python environment.
const ENVIRONMENT: &str = "openstack";

/// The TempAuth user's name and key.
pub const TEMPAUTH: (&str, &str) = ("test:tester", "testing");

/// Swift with TempAuth.
#[derive(Debug)]
pub struct TempAuthSwift {
    /// The URL that logins go to.
    pub auth_url: String,
    /// The endpoint of S3's API, with [`TEMPAUTH`] as access key and secret key.
    pub s3_url: String,
    _server: PythonServer,
}

impl TempAuthSwift {
    /// Starts Swift, which takes a few seconds.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
    pub fn start(target_tmp: &str) -> Self {
        let port = free_port();
        let arguments = [&*port.to_string()];
        let (server, _) = PythonServer::start(
            target_tmp,
            ENVIRONMENT,
            "swift_server.py",
            &arguments,
            &[],
            |line| line == "READY",
        );
        let url = format!("http://127.0.0.1:{port}");
        Self {
            auth_url: format!("{url}/auth/v1.0"),
            s3_url: url,
            _server: server,
        }
    }
}

/// Swift with Keystone. Its users are demo, reader and other, each with the password NAMEpassword.
#[derive(Debug)]
pub struct KeystoneSwift {
    /// The URL that logins by Keystone v3 go to.
    pub auth_url: String,
    /// The URL that logins by Keystone v2.0 go to, which is emulated before Keystone v3.
    pub v2_auth_url: String,
    /// The id of demo's project.
    pub project_id: String,
    /// An application credential of demo's: JSON as the connector takes it.
    pub application_credential: String,
    _swift: PythonServer,
    _keystone: PythonServer,
    _keystone_v2: PythonServer,
}

impl KeystoneSwift {
    /// Starts Swift and Keystone, which takes about 20 s. Keystone's tokens last `token_seconds`.
    ///
    /// # Panics
    /// If they are not installed or do not come up.
    pub fn start(target_tmp: &str, token_seconds: u32) -> Self {
        let (port, keystone) = (free_port(), free_port());
        let (swift_url, auth_url) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{keystone}/v3"),
        );
        let seconds = token_seconds.to_string();
        let (keystone, made) = PythonServer::start(
            target_tmp,
            ENVIRONMENT,
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
        let (swift, _) = PythonServer::start(
            target_tmp,
            ENVIRONMENT,
            "swift_server.py",
            &arguments,
            &[],
            |line| line == "READY",
        );
        let v2 = free_port();
        let arguments = [&*v2.to_string(), &auth_url];
        let (keystone_v2, _) = PythonServer::start(
            target_tmp,
            ENVIRONMENT,
            "keystone_v2_server.py",
            &arguments,
            &[],
            |line| line == "READY",
        );
        Self {
            auth_url,
            v2_auth_url: format!("http://127.0.0.1:{v2}/v2.0"),
            project_id: made["project"].as_str().expect("an id").to_owned(),
            application_credential: application_credential.to_string(),
            _swift: swift,
            _keystone: keystone,
            _keystone_v2: keystone_v2,
        }
    }
}
