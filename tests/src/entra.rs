//! Microsoft Entra's token endpoint on loopback, emulated: see `tests/clouds/entra_server.py` for
//! what checks what.

use crate::{free_port, python_server::PythonServer};

/// The tenant.
pub const TENANT: &str = "tenant";
/// An application that may log in, as the connector takes it.
pub const APPLICATION: &str =
    r#"{"client_id":"raic-tests","client_secret":"entra+secret/of=tests"}"#;

/// A running emulator. Dropping it stops it.
#[derive(Debug)]
pub struct EntraServer {
    /// Where logins go.
    pub url: String,
    _server: PythonServer,
}

impl EntraServer {
    /// Starts it, with tokens that last so long.
    ///
    /// # Panics
    /// Where it is not installed or does not come up.
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
