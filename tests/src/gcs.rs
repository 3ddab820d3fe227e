//! Google Cloud Storage on loopback, emulated: see `tests/clouds/gcs_server.py` for what checks
//! what.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::{free_port, python_server::PythonServer};

/// The HMAC key, as the connector takes it.
pub const HMAC_KEY: &str =
    r#"{"AccessId":"GOOG1EXAMPLEEXAMPLE","Secret":"bGoa+V7g/yqDXvKRqq+JTFn4uQZbPiQJo4pf9RzJ"}"#;

/// One that may only read.
pub const READERS_HMAC_KEY: &str =
    r#"{"AccessId":"GOOG1EXAMPLEREADER","Secret":"V7g/yqDXvKRqq+JTFn4uQZbPiQJo4pf9RzJbGoa+"}"#;

/// A running emulator. Dropping it stops it.
#[derive(Debug)]
pub struct GcsServer {
    /// Where it listens.
    pub url: String,
    /// The service account's key file.
    pub service_account: String,
    /// The key file of one that may only read.
    pub reader: String,
    _server: PythonServer,
}

impl GcsServer {
    /// Starts it, with tokens that last so long; takes two seconds.
    ///
    /// # Panics
    /// Where it is not installed or does not come up.
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

    /// Ends every token that was given.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn expire_tokens(&self) {
        let mut stream = TcpStream::connect(self.address()).expect("the server");
        let request = "POST /control/expire HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
