//! Microsoft Entra's token endpoint on loopback, emulated. `tests/clouds/entra_server.py` says
//! which part checks what.

use crate::{free_port, python_server::PythonServer};

/// The one tenant.
pub const TENANT: &str = "tenant";
/// An application that may log in, as the connector takes it.
pub const APPLICATION: &str =
    r#"{"client_id":"raic-tests","client_secret":"entra+secret/of=tests"}"#;

/// A running emulator. Dropping it stops it.
#[derive(Debug)]
pub struct EntraServer {
    /// The URL that logins go to.
    pub url: String,
    _server: PythonServer,
}

impl EntraServer {
    /// Starts the emulator. Its tokens last `token_seconds`.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
    pub fn start(target_tmp: &str, token_seconds: u32) -> Self {
        let port = free_port();
        let (server, _) = PythonServer::start(
            target_tmp,
            "gcs",
            "entra_server.py",
            &[&port.to_string()],
            &[("TOKEN_SECONDS", &token_seconds.to_string())],
            |line| line == "READY",
        );
        server.wait_for(port);
        Self {
            url: format!("http://127.0.0.1:{port}"),
            _server: server,
        }
    }
}
