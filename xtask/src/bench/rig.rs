//! The rig: four S3 services, a home and a daemon, in one temporary folder in memory. It measures
//! what a command costs there.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};
use sha2::{Digest as _, Sha256};

use crate::stage::Outcome;

pub(crate) const SERVICES: [&str; 4] = ["one", "two", "three", "four"];
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

pub(crate) struct Rig {
    raic: PathBuf,
    services: Vec<(u16, Option<Process>)>,
    daemon: Option<Process>,
    folder: tempfile::TempDir,
}

/// What a command took.
pub(crate) struct Usage {
    /// Seconds from its start to its end.
    pub(crate) wall: f64,
    /// CPU seconds of the command, and of the daemon meanwhile.
    pub(crate) cpu: f64,
    /// CPU seconds of the services meanwhile.
    pub(crate) servers_cpu: f64,
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
    pub(crate) fn start(raic: &Path, connector: &Path, size: u64) -> Outcome<Self> {
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
            raic: raic.to_owned(),
            services: Vec::new(),
            daemon: None,
            folder,
        };
        for service in SERVICES {
            rig.start_service(service)?;
        }
        rig.run(&mut rig.raic(["init"]))?;
        rig.run(rig.raic(["connector", "approve", "--yes"]).arg(connector))?;
        for (i, service) in SERVICES.iter().enumerate() {
            rig.add_cloud(i, service)?;
        }
        let log = rig.folder().join("daemon.log");
        let log = fs::File::create(&log).map_err(io(&log))?;
        let daemon = rig.raic(["serve"]).stderr(log).spawn().map_err(io(raic))?;
        rig.daemon = Some(Process(daemon));
        wait(
            || rig.folder().join("home/raic.sock").exists(),
            "the daemon to come up",
        )?;
        Ok(rig)
    }

    fn start_service(&mut self, service: &str) -> Outcome {
        let root = self.root(service);
        fs::create_dir_all(root.join("raic")).map_err(io(&root))?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
        let port = free.map_err(|e| format!("no port: {e}"))?.port();
        let child = Command::new(&self.raic)
            .arg("demo-service")
            .arg(&root)
            .arg(port.to_string())
            .env("RAIC_DEMO_ACCESS_KEY", access_key(service))
            .env("RAIC_DEMO_SECRET_KEY", secret_key(service))
            .stdin(Stdio::null())
            .spawn()
            .map_err(io(&self.raic))?;
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

    /// The folder of a service; the folders in it are the service's buckets.
    pub(crate) fn root(&self, service: &str) -> PathBuf {
        self.folder().join(service)
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.services.iter().map(|(port, _)| *port)
    }

    pub(crate) fn raic<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new(&self.raic);
        command
            .arg("--home")
            .arg(self.folder().join("home"))
            .args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
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
        self.run(command)?;
        let wall = began.elapsed().as_secs_f64();
        Ok(Usage {
            wall,
            cpu: ours()? - ours_before,
            servers_cpu: servers()? - servers_before,
        })
    }

    /// Bytes that the services hold for the array.
    pub(crate) fn stored(&self) -> Outcome<u64> {
        SERVICES
            .iter()
            .map(|service| size_below(&self.root(service).join("raic")))
            .sum()
    }

    /// Waits until deletions have freed what was stored, but for less than 1 MiB.
    pub(crate) fn wait_until_empty(&self) -> Outcome {
        wait(
            || self.stored().is_ok_and(|left| left < 1 << 20),
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

fn size_below(folder: &Path) -> Outcome<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let entry = entry.map_err(io(folder))?;
        // A file that was removed meanwhile does not count.
        let Ok(meta) = entry.metadata() else { continue };
        size += if meta.is_dir() {
            size_below(&entry.path()).unwrap_or(0)
        } else {
            meta.len()
        };
    }
    Ok(size)
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
