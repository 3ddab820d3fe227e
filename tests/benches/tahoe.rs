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
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;
use hyper::{Method, StatusCode};
use raic_tests::tahoe_client::{TahoeConnection, TahoeRequest, allocation, slot_write};

/// Bytes of a write or read. The client of Tahoe-LAFS sends about as much at once.
const PIECE: usize = 1 << 20;
/// Bytes of a small mutable share.
const SMALL: usize = 2_000;
/// Small mutable shares that a run makes.
const CREATES: u32 = 400;

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

/// One TLS connection to a storage server, with new storage indexes for each run.
struct Client {
    connection: TahoeConnection,
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

impl Client {
    async fn connect(nurl: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            connection: TahoeConnection::open(nurl).await,
            counter: now.unwrap().as_nanos() as u64,
        }
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
        let path = format!("/storage/v1/immutable/{index}");
        let allocate = allocation(&[0], content.len() as u64);
        let request = TahoeRequest::new(Method::POST, &path).cbor(allocate);
        let (status, _) = self.connection.send(request.lease(7).upload(7)).await;
        assert_eq!(status, StatusCode::OK);
        let path = format!("{path}/0");
        let mut last = StatusCode::OK;
        for start in (0..content.len()).step_by(PIECE) {
            let end = (start + PIECE).min(content.len());
            let request = TahoeRequest::new(Method::PATCH, &path)
                .header("content-range", format!("bytes {start}-{}/*", end - 1))
                .body(content.slice(start..end));
            last = self.connection.send(request.upload(7)).await.0;
        }
        assert_eq!(last, StatusCode::CREATED);
        index
    }

    async fn read(&mut self, index: &str, content: &Bytes) {
        let path = format!("/storage/v1/immutable/{index}/0");
        for start in (0..content.len()).step_by(PIECE) {
            let end = (start + PIECE).min(content.len());
            let request = TahoeRequest::new(Method::GET, &path);
            let request = request.header("range", format!("bytes={start}-{}", end - 1));
            let (status, bytes) = self.connection.send(request).await;
            assert_eq!(status, StatusCode::PARTIAL_CONTENT);
            assert!(bytes == content.slice(start..end));
        }
    }

    /// Makes a small mutable share.
    async fn create(&mut self, content: &[u8]) {
        let path = format!("/storage/v1/mutable/{}/read-test-write", self.index());
        let request = TahoeRequest::new(Method::POST, &path).cbor(slot_write(0, content));
        let (status, _) = self.connection.send(request.lease(7).enabler(7)).await;
        assert_eq!(status, StatusCode::OK);
    }
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
