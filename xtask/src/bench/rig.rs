//! The rig: four lean loopback clouds, a home and a daemon, in one temporary folder in memory. It
//! measures what a command costs there.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::stage::Outcome;

pub(crate) const SERVICES: [&str; 4] = ["one", "two", "three", "four"];
/// The bucket of the array, and those of the peers, on every service.
const BUCKET: &str = "raic";
pub(crate) const PEERS: [&str; 2] = ["rclone", "restic"];
/// The seed of the file's bytes, so that the file is the same in every run, everywhere.
const SEED: u64 = 2013;
/// Files up to this size, in bytes, lie in memory. For larger ones, only the daemon's memory is
/// worth measuring.
const IN_MEMORY: u64 = 2 << 30;
/// The unit of CPU time in `/proc`, which is the same on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that is killed when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The programs that a rig runs.
pub(crate) struct Programs {
    pub(crate) raic: PathBuf,
    pub(crate) lean_cloud: PathBuf,
    pub(crate) connector: PathBuf,
}

/// How fast the four services are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Services {
    /// As fast as loopback.
    Near,
    /// Each waits for [`ROUND_TRIP`] before it answers.
    Far,
    /// The last one waits for 200 ms before each answer, and sends and takes 1 MB/s.
    OneSlow,
}

/// The latency of services that are far.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(20);

/// What the services have had for the array and its peers, and hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) requests: u64,
    pub(crate) taken: u64,
    pub(crate) given: u64,
    pub(crate) stored: u64,
}

pub(crate) struct Rig {
    programs: Programs,
    services: Vec<(u16, Option<Process>)>,
    daemon: Option<Process>,
    folder: tempfile::TempDir,
}

/// What a command took.
#[derive(Default)]
pub(crate) struct Usage {
    /// Seconds from its start to its end.
    pub(crate) wall: f64,
    /// CPU seconds of the command, and of the daemon meanwhile.
    pub(crate) cpu: f64,
    /// CPU seconds of the services meanwhile.
    pub(crate) servers_cpu: f64,
    /// Requests to the services meanwhile.
    pub(crate) requests: u64,
}

pub(crate) fn access_key(service: &str) -> String {
    format!("{service}-key")
}

pub(crate) fn secret_key(service: &str) -> String {
    format!("the-secret-of-{service}")
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> String {
    let path = path.display().to_string();
    move |e| format!("{path}: {e}")
}

impl Rig {
    /// Starts services and daemon, for files of `size` bytes.
    pub(crate) fn start(programs: Programs, size: u64, services: Services) -> Outcome<Self> {
        let memory = Path::new("/dev/shm");
        let fits = memory.is_dir() && size <= IN_MEMORY;
        let parent = if fits {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let folder = tempfile::Builder::new()
            .prefix("raic-bench-")
            .tempdir_in(&parent)
            .map_err(io(&parent))?;
        let mut rig = Self {
            programs,
            services: Vec::new(),
            daemon: None,
            folder,
        };
        for (i, service) in SERVICES.iter().enumerate() {
            let is_slow = services == Services::OneSlow && i + 1 == SERVICES.len();
            let options: &[&str] = match services {
                Services::Far => &["--latency", "20"],
                _ if is_slow => &["--latency", "200", "--rate", "1000000"],
                _ => &[],
            };
            rig.start_service(service, options)?;
        }
        rig.run(&mut rig.raic(["init"]))?;
        let mut approve = rig.raic(["connector", "approve", "--yes"]);
        rig.run(approve.arg(&rig.programs.connector))?;
        for (i, service) in SERVICES.iter().enumerate() {
            rig.add_cloud(i, service)?;
        }
        // What one run removes is to be gone before the next.
        let config = rig.folder().join("home/config.toml");
        let text = fs::read_to_string(&config).map_err(io(&config))?;
        let fast = text.replace("[storage]\n", "[storage]\ndeletions_per_second = 100000\n");
        fs::write(&config, fast).map_err(io(&config))?;
        let log = rig.folder().join("daemon.log");
        let log = fs::File::create(&log).map_err(io(&log))?;
        let daemon = rig.raic(["serve"]).stderr(log).spawn();
        let daemon = daemon.map_err(io(&rig.programs.raic))?;
        rig.daemon = Some(Process(daemon));
        wait(
            || rig.folder().join("home/raic.sock").exists(),
            "the daemon to come up",
        )?;
        Ok(rig)
    }

    fn start_service(&mut self, service: &str, options: &[&str]) -> Outcome {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
        let port = free.map_err(|e| format!("no port: {e}"))?.port();
        let mut command = Command::new(&self.programs.lean_cloud);
        command.arg(port.to_string()).arg(BUCKET).args(PEERS);
        command.args(options);
        let child = command
            .env("RAIC_LEAN_ACCESS_KEY", access_key(service))
            .env("RAIC_LEAN_SECRET_KEY", secret_key(service))
            .stdin(Stdio::null())
            .spawn()
            .map_err(io(&self.programs.lean_cloud))?;
        self.services.push((port, Some(Process(child))));
        wait(
            || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
            "a service to come up",
        )
    }

    fn add_cloud(&self, i: usize, service: &str) -> Outcome {
        let keys = self.folder().join(format!("{service}.json"));
        let document = format!(
            r#"{{"AccessKeyId":"{}","SecretAccessKey":"{}"}}"#,
            access_key(service),
            secret_key(service)
        );
        fs::write(&keys, document).map_err(io(&keys))?;
        let endpoint = format!("endpoint=http://127.0.0.1:{}", self.services[i].0);
        let mut add = self.raic([
            "cloud",
            "add",
            service,
            "--connector",
            "s3",
            "--set",
            "bucket=raic",
            "--set",
        ]);
        add.arg(endpoint)
            .arg("--credential")
            .arg(format!("keys={}", keys.display()));
        self.run(add.arg("--replace").arg(format!("local-{}", i + 1)))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.services.iter().map(|(port, _)| *port)
    }

    pub(crate) fn raic<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new(&self.programs.raic);
        command
            .arg("--home")
            .arg(self.folder().join("home"))
            .args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Reads a range of a file from the daemon. Returns its bytes, and how long it took.
    pub(crate) fn read_range(
        &self,
        name: &str,
        start: u64,
        bytes: u64,
    ) -> Outcome<(Vec<u8>, Duration)> {
        let socket = self.folder().join("home/raic.sock");
        let began = Instant::now();
        let mut stream = UnixStream::connect(&socket).map_err(io(&socket))?;
        let request = format!(
            "GET /v1/files/{name} HTTP/1.1\r\nhost: localhost\r\nrange: bytes={start}-{}\r\n\
             connection: close\r\n\r\n",
            start + bytes - 1
        );
        stream.write_all(request.as_bytes()).map_err(io(&socket))?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(io(&socket))?;
        let took = began.elapsed();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let body = end.map(|end| answer.split_off(end + 4)).unwrap_or_default();
        match answer.starts_with(b"HTTP/1.1 206") && body.len() as u64 == bytes {
            true => Ok((body, took)),
            false => Err(format!(
                "a range was answered by {:?}",
                String::from_utf8_lossy(&answer)
            )),
        }
    }

    /// The port of the first service.
    pub(crate) fn first_port(&self) -> u16 {
        self.services.first().map_or(0, |(port, _)| *port)
    }

    pub(crate) fn stop_service(&mut self, i: usize) {
        self.services[i].1 = None;
    }

    pub(crate) fn run(&self, command: &mut Command) -> Outcome {
        let out = command
            .stderr(Stdio::piped())
            .output()
            .map_err(|e| format!("{command:?}: {e}"))?;
        if out.status.success() {
            return Ok(());
        }
        Err(format!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        ))
    }

    pub(crate) fn measure(&self, command: &mut Command) -> Outcome<Usage> {
        let ours =
            || Ok::<_, String>(children_cpu()? + self.daemon.as_ref().map_or(Ok(0.0), cpu_of)?);
        let servers = || {
            self.services
                .iter()
                .filter_map(|(_, p)| p.as_ref())
                .map(cpu_of)
                .sum::<Outcome<f64>>()
        };
        let (ours_before, servers_before, began) = (ours()?, servers()?, Instant::now());
        let requests = self.traffic().requests;
        self.run(command)?;
        let wall = began.elapsed().as_secs_f64();
        Ok(Usage {
            requests: self.traffic().requests.saturating_sub(requests),
            wall,
            cpu: ours()? - ours_before,
            servers_cpu: servers()? - servers_before,
        })
    }

    /// What all services that run have had, and hold.
    pub(crate) fn traffic(&self) -> Traffic {
        let running = self
            .services
            .iter()
            .filter(|(_, process)| process.is_some());
        let counts = running.filter_map(|(port, _)| counts_of(*port));
        counts.fold(Traffic::default(), |sum, one| Traffic {
            requests: sum.requests + one.requests,
            taken: sum.taken + one.taken,
            given: sum.given + one.given,
            stored: sum.stored + one.stored,
        })
    }

    /// Waits until deletions have freed what was stored, but for less than 1 MiB.
    pub(crate) fn wait_until_empty(&self) -> Outcome {
        wait(
            || self.traffic().stored < 1 << 20,
            "removed files to be deleted",
        )
    }

    /// The daemon's peak resident memory, in bytes; 0 if there is no daemon.
    pub(crate) fn peak_rss(&self) -> Outcome<u64> {
        let Some(daemon) = &self.daemon else {
            return Ok(0);
        };
        let path = PathBuf::from(format!("/proc/{}/status", daemon.0.id()));
        let status = fs::read_to_string(&path).map_err(io(&path))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kibibytes
            .map(|k| k << 10)
            .ok_or_else(|| format!("{} has no VmHWM", path.display()))
    }
}

fn wait(until: impl Fn() -> bool, what: &str) -> Outcome {
    let began = Instant::now();
    while !until() {
        if began.elapsed() > Duration::from_secs(60) {
            return Err(format!("waited a minute in vain for {what}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Asks a service for its counts; `None` if it does not answer.
fn counts_of(port: u16) -> Option<Traffic> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    let request = "GET /.counts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let counts: Value = serde_json::from_str(body).ok()?;
    let requests = counts["requests"].as_object()?.values();
    Some(Traffic {
        requests: requests.filter_map(Value::as_u64).sum(),
        taken: counts["taken"].as_u64()?,
        given: counts["given"].as_u64()?,
        stored: counts["stored"].as_u64()?,
    })
}

/// The sum, in seconds, of the field `first` of a `stat` file of `/proc` and of the next. The first
/// field after the process's name has the number 3.
fn cpu_fields(path: &str, first: usize) -> Outcome<f64> {
    let stat = fs::read_to_string(path).map_err(io(Path::new(path)))?;
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or_default()
    };
    Ok((field(first) + field(first + 1)) / TICKS_PER_SECOND)
}

fn cpu_of(process: &Process) -> Outcome<f64> {
    cpu_fields(&format!("/proc/{}/stat", process.0.id()), 14)
}

/// CPU seconds of the commands that have ended.
fn children_cpu() -> Outcome<f64> {
    cpu_fields("/proc/self/stat", 16)
}

/// Writes a file of pseudo-random bytes; returns its SHA-256 in hexadecimal.
pub(crate) fn random_file(path: &Path, size: u64) -> Outcome<String> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut file = fs::File::create(path).map_err(io(path))?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let now = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        random.fill_bytes(&mut piece[..now]);
        digest.update(&piece[..now]);
        file.write_all(&piece[..now]).map_err(io(path))?;
        left -= now as u64;
    }
    Ok(hex(digest))
}

/// Writes files of 0.5 to 16 KiB into a folder, in folders of 100; returns their bytes.
pub(crate) fn small_files(folder: &Path, count: u32) -> Outcome<u64> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut bytes = 0;
    for number in 0..count {
        let below = folder.join(format!("{:03}", number / 100));
        fs::create_dir_all(&below).map_err(io(&below))?;
        let mut content = vec![0; random.random_range(512..=16 << 10)];
        random.fill_bytes(&mut content);
        bytes += content.len() as u64;
        let file = below.join(format!("{number:05}"));
        fs::write(&file, content).map_err(io(&file))?;
    }
    Ok(bytes)
}

/// The SHA-256 of all files below a folder, in the order of their names.
pub(crate) fn sha256_below(folder: &Path) -> Outcome<String> {
    let mut digest = Sha256::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(io(&folder))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<_> = paths.collect::<Result<_, _>>().map_err(io(&folder))?;
        paths.sort_unstable();
        for path in paths {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            digest.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            digest.update(fs::read(&path).map_err(io(&path))?);
        }
    }
    Ok(hex(digest))
}

pub(crate) fn sha256_of(path: &Path) -> Outcome<String> {
    let mut file = fs::File::open(path).map_err(io(path))?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(io(path))? {
            0 => return Ok(hex(digest)),
            n => digest.update(&piece[..n]),
        }
    }
}

fn hex(digest: Sha256) -> String {
    digest
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}
