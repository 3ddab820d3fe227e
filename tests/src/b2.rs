//! Backblaze B2's native API on loopback, emulated. `tests/clouds/b2_server.py` says which part
//! checks what.

use raic_wasm::TlsSettings;

use crate::{certificates::Certificates, free_port, python_server::PythonServer};

/// A running emulator. Dropping it stops it.
#[derive(Debug)]
pub struct B2Server {
    /// The URL that keys log in at.
    pub url: String,
    /// The domain of all the emulator's hosts, with their port.
    pub domain: String,
    /// The account's key, as the connector takes it.
    pub key: String,
    /// A key that may only read, as the connector takes it.
    pub reader: String,
    /// Settings that trust the authority of the emulator's certificates.
    pub tls: TlsSettings,
    server: PythonServer,
}

impl B2Server {
    /// Starts the emulator.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
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

    /// Ends every token that the emulator has given.
    pub fn expire_tokens(&mut self) {
        self.server.tell("expire", |line| line == "EXPIRED");
    }
}
