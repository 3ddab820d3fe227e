//! The Tahoe door beside the reference's storage server, interleaved, each in a process of its own,
//! over one TLS connection. It prints medians of runs, and their ratios. `cargo xtask bench tahoe`
//! runs it.
//!
//! Arguments: the number of runs, the share's size in MiB, the binary `raic`, the Python that has
//! Tahoe-LAFS, and the folder below which homes and clouds lie.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that fails has nothing to say"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_encoding::{BASE32_NOPAD, BASE64};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bytes of a write or read. The client of Tahoe-LAFS sends about as much at once.
const PIECE: usize = 1 << 20;
/// Bytes of a small mutable share.
const SMALL: usize = 2_000;
/// Small mutable shares that a run makes.
const CREATES: u32 = 400;

/// Trusts every certificate: the servers are this program's own.
#[derive(Debug)]
struct TrustsAll;

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A storage server in a process of its own.
struct Server {
    process: Child,
    nurl: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts `raic serve` on a home whose one cloud is a folder.
    fn ours(raic: &Path, folder: &Path) -> Self {
        let home = folder.join("home");
        let run = |arguments: &[&str]| {
            let mut command = Command::new(raic);
            command.arg("--home").arg(&home).args(arguments);
            command
        };
        assert!(run(&["init"]).output().unwrap().status.success());
        let port = raic_tests::free_port();
        let config = format!(
            "[tahoe]\nlisten = \"127.0.0.1:{port}\"\n[clouds.one]\nbackend = \"disk\"\npath = \"clouds/1\"\n"
        );
        fs::write(home.join("config.toml"), config).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let process = run(&["serve"]).stderr(log).spawn().unwrap();
        let began = Instant::now();
        let nurl = loop {
            let printed = run(&["tahoe", "servers-yaml"]).output().unwrap();
            let text = String::from_utf8_lossy(&printed.stdout).into_owned();
            if let Some(start) = text.find("[\"pb://") {
                break text[start + 2..].split('"').next().unwrap().to_owned();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{printed:?}");
            std::thread::sleep(Duration::from_millis(50));
        };
        Self { process, nurl }
    }

    /// Starts the reference's storage server on a folder.
    fn reference(python: &Path, folder: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tahoe/serve_folder.py");
        let shares = folder.join("reference");
        fs::create_dir_all(&shares).unwrap();
        let mut process = Command::new(python)
            .arg(script)
            .arg(&shares)
            .arg("0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut nurl = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut nurl).unwrap();
        let nurl = nurl.trim().to_owned();
        Self { process, nurl }
    }

    /// Reads a number of the process's status in KiB, such as its peak memory.
    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }

    /// CPU seconds that the process has taken.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let after = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0
    }
}

/// One TLS connection to a storage server.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    authorization: String,
    counter: u64,
}

fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes a head of CBOR: a major type and a number.
fn head(bytes: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    match number {
        0..24 => bytes.push(major | number as u8),
        24..0x100 => bytes.extend([major | 24, number as u8]),
        0x100..0x1_0000 => {
            bytes.push(major | 25);
            bytes.extend((number as u16).to_be_bytes());
        }
        _ => {
            bytes.push(major | 26);
            bytes.extend(u32::try_from(number).unwrap().to_be_bytes());
        }
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    head(bytes, 3, text.len() as u64);
    bytes.extend(text.as_bytes());
}

impl Client {
    async fn connect(nurl: &str) -> Self {
        let rest = nurl.strip_prefix("pb://").unwrap();
        let (_, rest) = rest.split_once('@').unwrap();
        let (host, rest) = rest.split_once('/').unwrap();
        let swissnum = rest.split('#').next().unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAll))
            .with_no_client_auth();
        let stream = TcpStream::connect(host).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self {
            sender,
            host: host.to_owned(),
            authorization: format!("Tahoe-LAFS {}", BASE64.encode(swissnum.as_bytes())),
            counter: rand_seed(),
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        secrets: &[(&str, &[u8])],
        headers: &[(&str, String)],
        body: Bytes,
    ) -> (StatusCode, Bytes) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", &self.authorization)
            .header("accept", "application/cbor");
        for (kind, secret) in secrets {
            let value = format!("{kind} {}", BASE64.encode(secret));
            request = request.header("x-tahoe-authorization", value);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body)).unwrap();
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        let status = answer.status();
        (
            status,
            answer.into_body().collect().await.unwrap().to_bytes(),
        )
    }

    /// Makes a new storage index.
    fn index(&mut self) -> String {
        self.counter += 1;
        let bytes = random(self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15), 16);
        BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
    }

    /// Writes an immutable share in pieces. Returns its storage index.
    async fn write(&mut self, content: &Bytes) -> String {
        let index = self.index();
        let mut allocate = Vec::new();
        head(&mut allocate, 5, 2);
        text(&mut allocate, "share-numbers");
        allocate.extend([0xd9, 1, 2, 0x81, 0]);
        text(&mut allocate, "allocated-size");
        head(&mut allocate, 0, content.len() as u64);
        let secret = [7; 32];
        let secrets: [(&str, &[u8]); 3] = [
            ("lease-renew-secret", &secret),
            ("lease-cancel-secret", &secret),
            ("upload-secret", &secret[..20]),
        ];
        let cbor = [("content-type", "application/cbor".to_owned())];
        let path = format!("/storage/v1/immutable/{index}");
        let (status, _) = self
            .send(Method::POST, &path, &secrets, &cbor, allocate.into())
            .await;
        assert_eq!(status, StatusCode::OK);
        let path = format!("{path}/0");
        let mut last = StatusCode::OK;
        for start in (0..content.len()).step_by(PIECE) {
            let end = (start + PIECE).min(content.len());
            let range = [("content-range", format!("bytes {start}-{}/*", end - 1))];
            let piece = content.slice(start..end);
            let sent = self.send(Method::PATCH, &path, &secrets[2..], &range, piece);
            last = sent.await.0;
        }
        assert_eq!(last, StatusCode::CREATED);
        index
    }

    async fn read(&mut self, index: &str, content: &Bytes) {
        let path = format!("/storage/v1/immutable/{index}/0");
        for start in (0..content.len()).step_by(PIECE) {
            let end = (start + PIECE).min(content.len());
            let range = [("range", format!("bytes={start}-{}", end - 1))];
            let read = self.send(Method::GET, &path, &[], &range, Bytes::new());
            let (status, bytes) = read.await;
            assert_eq!(status, StatusCode::PARTIAL_CONTENT);
            assert!(bytes == content.slice(start..end));
        }
    }

    /// Makes a small mutable share.
    async fn create(&mut self, content: &[u8]) {
        let index = self.index();
        let mut request = Vec::new();
        head(&mut request, 5, 2);
        text(&mut request, "test-write-vectors");
        head(&mut request, 5, 1);
        head(&mut request, 0, 0);
        head(&mut request, 5, 3);
        text(&mut request, "test");
        head(&mut request, 4, 0);
        text(&mut request, "write");
        head(&mut request, 4, 1);
        head(&mut request, 5, 2);
        text(&mut request, "offset");
        head(&mut request, 0, 0);
        text(&mut request, "data");
        head(&mut request, 2, content.len() as u64);
        request.extend(content);
        text(&mut request, "new-length");
        request.push(0xf6);
        text(&mut request, "read-vector");
        head(&mut request, 4, 0);
        let secret = [7; 32];
        let secrets: [(&str, &[u8]); 3] = [
            ("lease-renew-secret", &secret),
            ("lease-cancel-secret", &secret),
            ("write-enabler", &secret),
        ];
        let cbor = [("content-type", "application/cbor".to_owned())];
        let path = format!("/storage/v1/mutable/{index}/read-test-write");
        let sent = self.send(Method::POST, &path, &secrets, &cbor, request.into());
        assert_eq!(sent.await.0, StatusCode::OK);
    }
}

fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_nanos() as u64
}

/// What a run measured: MiB or creates a second.
#[derive(Default)]
struct Rates {
    write: Vec<f64>,
    read: Vec<f64>,
    create: Vec<f64>,
    cpu: Vec<f64>,
}

async fn run(server: &Server, content: &Bytes, rates: &mut Rates) {
    let mut client = Client::connect(&server.nurl).await;
    let mebibytes = content.len() as f64 / f64::from(1 << 20);
    let cpu = server.cpu();
    let began = Instant::now();
    let index = client.write(content).await;
    rates.write.push(mebibytes / began.elapsed().as_secs_f64());
    let began = Instant::now();
    client.read(&index, content).await;
    rates.read.push(mebibytes / began.elapsed().as_secs_f64());
    rates.cpu.push(server.cpu() - cpu);
    let small = random(3, SMALL);
    let began = Instant::now();
    for _ in 0..CREATES {
        client.create(&small).await;
    }
    rates
        .create
        .push(f64::from(CREATES) / began.elapsed().as_secs_f64());
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let mut next = || arguments.next();
    // `cargo test` runs benches, too, and has nothing to say here.
    let (Some(runs), Some(size), Some(raic), Some(python), Some(parent)) =
        (next(), next(), next(), next(), next())
    else {
        return;
    };
    let (runs, size): (usize, usize) = (runs.parse().unwrap(), size.parse().unwrap());
    let folder = tempfile::Builder::new()
        .prefix("raic-bench-")
        .tempdir_in(&parent)
        .unwrap();
    let content = Bytes::from(random(2013, size << 20));
    let ours = Server::ours(&PathBuf::from(raic), folder.path());
    let reference = Server::reference(&PathBuf::from(python), folder.path());
    let floor = ours.memory("VmRSS:");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut own, mut peers) = (Rates::default(), Rates::default());
    runtime.block_on(async {
        for _ in 0..runs {
            run(&ours, &content, &mut own).await;
            run(&reference, &content, &mut peers).await;
        }
    });
    println!(
        "\n{:<28} {:>10} {:>10} {:>8}   ({size} MiB, {runs} runs, medians)",
        "", "raic", "reference", "ratio"
    );
    let mut rows = Vec::new();
    for (what, own, peer) in [
        ("write, MiB/s", &own.write, &peers.write),
        ("read, MiB/s", &own.read, &peers.read),
        ("2 kB mutable creates, 1/s", &own.create, &peers.create),
        ("CPU s of write and read", &own.cpu, &peers.cpu),
    ] {
        let (own, peer) = (median(own), median(peer));
        println!("{what:<28} {own:>10.2} {peer:>10.2} {:>8.2}", own / peer);
        rows.push(format!(
            r#"{{"what":"{what}","raic":{own:.3},"reference":{peer:.3}}}"#
        ));
    }
    let (peak, peers_peak) = (ours.memory("VmHWM:"), reference.memory("VmHWM:"));
    println!(
        "peak memory: raic {} MiB, {} MiB over its floor; reference {} MiB",
        peak >> 10,
        (peak - floor) >> 10,
        peers_peak >> 10
    );
    println!(
        r#"{{"mebibytes":{size},"runs":{runs},"raic_floor_kib":{floor},"raic_peak_kib":{peak},"reference_peak_kib":{peers_peak},"rows":[{}]}}"#,
        rows.join(",")
    );
}
