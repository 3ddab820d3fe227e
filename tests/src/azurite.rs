//! Azurite, Microsoft's emulator of Azure Blob Storage, on loopback: it checks signatures.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{certificates::Certificates, free_port};

/// The account's name, from Azurite's documentation.
pub const ACCOUNT: &str = "devstoreaccount1";
/// The account's key, which is not a secret.
pub const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running Azurite. Dropping it stops it.
#[derive(Debug)]
pub struct Azurite {
    /// The account's URL.
    pub url: String,
    /// The authority, in PEM, of the certificate for 127.0.0.1; `None` without TLS.
    pub ca: Option<Vec<u8>>,
    process: Child,
    _folder: tempfile::TempDir,
}

/// The program that `cargo xtask test` installs; `target_tmp` is the test's `CARGO_TARGET_TMPDIR`.
fn program(target_tmp: &str) -> PathBuf {
    Path::new(target_tmp)
        .with_file_name("clouds")
        .join("azurite/node_modules/.bin/azurite-blob")
}

impl Azurite {
    /// Starts Azurite, which takes a few seconds.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
    pub fn start(target_tmp: &str) -> Self {
        Self::start_with(target_tmp, None)
    }

    /// Starts Azurite with TLS, so that it also takes Entra's tokens. It checks their issuer,
    /// audience and times.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
    pub fn start_with_tokens(target_tmp: &str) -> Self {
        Self::start_with(target_tmp, Some(Certificates::new(&["127.0.0.1"])))
    }

    fn start_with(target_tmp: &str, tls: Option<Certificates>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("raic-azurite-")
            .tempdir()
            .expect("a folder");
        let (program, port) = (program(target_tmp), free_port());
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new(&program);
        let mut scheme = "http";
        if let Some(tls) = &tls {
            for (option, name, content) in [
                ("--cert", "cert.pem", &tls.certificate),
                ("--key", "key.pem", &tls.key),
            ] {
                let file = folder.path().join(name);
                fs::write(&file, content).expect("a certificate");
                command.arg(option).arg(file);
            }
            command.args(["--oauth", "basic"]);
            scheme = "https";
        }
        let process = command
            .args([
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
                &port.to_string(),
                "--inMemoryPersistence",
            ])
            .args(["--silent", "--disableTelemetry", "--disableProductStyleUrl"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{}: {e}; `cargo xtask test` installs it", program.display())
            });
        let mut azurite = Self {
            url: format!("{scheme}://127.0.0.1:{port}/{ACCOUNT}"),
            ca: tls.map(|tls| tls.ca),
            process,
            _folder: folder,
        };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = azurite.process.try_wait().expect("its state");
            let log = || fs::read_to_string(azurite._folder.path().join("log")).unwrap_or_default();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_secs(60),
                "Azurite: {}",
                log()
            );
            thread::sleep(Duration::from_millis(100));
        }
        azurite
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // Nothing to keep: what it holds is in memory.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A shared access signature for the container `container` ("Create a service SAS", version
/// 2020-12-06 and later).
///
/// # Panics
/// Never, since [`KEY`] is base64 and HMAC takes a key of any length.
pub fn shared_access_signature(permissions: &str, expiry: &str) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let version = "2023-11-03";
    let fields = [
        permissions,
        "",
        expiry,
        &format!("/blob/{ACCOUNT}/container"),
        "",
        "",
        "https,http",
        version,
        "c",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
    ];
    let key = data_encoding::BASE64.decode(KEY.as_bytes()).expect("a key");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).expect("a key");
    mac.update(fields.join("\n").as_bytes());
    let signature = data_encoding::BASE64.encode(&mac.finalize().into_bytes());
    let encode = |text: &str| {
        text.replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
            .replace(':', "%3A")
    };
    format!(
        "sv={version}&spr=https%2Chttp&se={}&sr=c&sp={permissions}&sig={}",
        encode(expiry),
        encode(&signature)
    )
}
