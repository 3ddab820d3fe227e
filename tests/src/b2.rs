//! Backblaze B2's native API on loopback, emulated: see `tests/clouds/b2_server.py` for what checks
//! what.

use raic_wasm::TlsSettings;

use crate::{certificates::Certificates, free_port, python_server::PythonServer};

/// A running emulator. Dropping it stops it.
#[derive(Debug)]
pub struct B2Server {
    /// Where keys log in.
    pub url: String,
    /// The domain of all its hosts, with their port.
    pub domain: String,
    /// The account's key, as the connector takes it.
    pub key: String,
    /// A key that may only read.
    pub reader: String,
    /// The authority of its certificates.
    pub tls: TlsSettings,
    server: PythonServer,
}

impl B2Server {
    /// Starts it.
    ///
    /// # Panics
    /// Where it is not installed or does not come up.
    pub fn start(target_tmp: &str) -> Self {
        let port = free_port();
        let certificates = Certificates::new(&["*.b2.localhost"]);
        let (server, _) = PythonServer::start(
            target_tmp,
            "b2",
            "b2_server.py",
            &[&port.to_string()],
            &[
                ("CERTIFICATE", &certificates.certificate),
                ("KEY", &certificates.key),
            ],
            |line| line == "READY",
        );
        server.wait_for(port);
        let key = |name| std::fs::read_to_string(server.folder.path().join(name)).expect("the key");
        Self {
            url: format!("https://api.b2.localhost:{port}"),
            domain: format!("b2.localhost:{port}"),
            key: key("key.json"),
            reader: key("reader.json"),
            tls: TlsSettings {
                extra_ca: Some(certificates.ca),
            },
            server,
        }
    }

    /// Ends every token that was given.
    pub fn expire_tokens(&mut self) {
        self.server.tell("expire", |line| line == "EXPIRED");
    }
}
