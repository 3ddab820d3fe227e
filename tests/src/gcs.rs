//! Google Cloud Storage on loopback, emulated. `tests/clouds/gcs_server.py` says which part checks
//! what.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::{free_port, python_server::PythonServer};

/// The HMAC key, as the connector takes it.
pub const HMAC_KEY: &str =
    r#"{"AccessId":"GOOG1EXAMPLEEXAMPLE","Secret":"bGoa+V7g/yqDXvKRqq+JTFn4uQZbPiQJo4pf9RzJ"}"#;

/// An HMAC key that may only read, as the connector takes it.
pub const READERS_HMAC_KEY: &str =
    r#"{"AccessId":"GOOG1EXAMPLEREADER","Secret":"V7g/yqDXvKRqq+JTFn4uQZbPiQJo4pf9RzJbGoa+"}"#;

/// A running emulator. Dropping it stops it.
#[derive(Debug)]
pub struct GcsServer {
    /// The emulator's URL.
    pub url: String,
    /// The key file of the service account.
    pub service_account: String,
    /// The key file of a service account that may only read.
    pub reader: String,
    _server: PythonServer,
}

impl GcsServer {
    /// Starts the emulator, which takes two seconds. Its tokens last `token_seconds`.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
    pub fn start(target_tmp: &str, token_seconds: u32) -> Self {
        let port = free_port();
        let (server, _) = PythonServer::start(
            target_tmp,
            "gcs",
            "gcs_server.py",
            &[&port.to_string()],
            &[("TOKEN_SECONDS", &token_seconds.to_string())],
            |line| line == "READY",
        );
        let key =
            |name| std::fs::read_to_string(server.folder.path().join(name)).expect("the key file");
        let started = Self {
            url: format!("http://127.0.0.1:{port}"),
            service_account: key("service-account.json"),
            reader: key("reader.json"),
            _server: server,
        };
        started._server.wait_for(port);
        started
    }

    fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Ends every token that the emulator has given.
    ///
    /// # Panics
    /// If the emulator does not answer.
    pub fn expire_tokens(&self) {
        let mut stream = TcpStream::connect(self.address()).expect("the server");
        let request = "POST /control/expire HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
