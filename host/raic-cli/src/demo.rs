//! `raic demo`: shows RAIC on one machine, with four S3 services of which some fail.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use rustix::process::Pid;

use crate::{
    error::{Failed, Outcome},
    output::say,
    progress::bytes,
};

#[derive(Args)]
pub(crate) struct DemoArguments {
    /// The file of the S3 connector, as `cargo xtask connectors` builds it
    #[arg(long, value_name = "FILE")]
    connector: PathBuf,
    /// The size of the file that is stored, in MiB
    #[arg(long, default_value_t = 256)]
    size: u64,
    /// Leave everything running at the end, and print how to use and end it
    #[arg(long)]
    keep: bool,
}

/// Names of the clouds of the demo.
const CLOUDS: [&str; 4] = ["amsterdam", "berlin", "cairo", "delhi"];

/// A process of the demo. Dropping it kills the process, unless that was taken out to be kept.
struct Process(Option<Child>);

/// The processes that run, so that an interruption can end them.
static PROCESSES: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

impl Process {
    fn new(child: Child) -> Self {
        let mut processes = PROCESSES.lock();
        processes.push(Pid::from_child(&child));
        Self(Some(child))
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let mut processes = PROCESSES.lock();
            processes.retain(|process| *process != Pid::from_child(&child));
            // The process may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An S3 service of the demo.
struct Service {
    name: &'static str,
    port: u16,
    root: PathBuf,
    process: Process,
}

struct Demo {
    folder: PathBuf,
    home: PathBuf,
    services: Vec<Service>,
    daemon: Process,
    /// The folder, removed at the end; `None` if it is kept.
    _temporary: Option<tempfile::TempDir>,
}

pub(crate) async fn demo(arguments: DemoArguments) -> Outcome {
    let temporary = tempfile::Builder::new()
        .prefix("raic-demo-")
        .tempdir()
        .map_err(Failed::other)?;
    let folder = temporary.path().to_owned();
    // The demo starts processes and waits for them, so it blocks a thread.
    let running = tokio::task::spawn_blocking(move || run(&arguments, temporary));
    tokio::select! {
        outcome = running => outcome.map_err(Failed::other)?,
        _ = tokio::signal::ctrl_c() => {
            for process in std::mem::take(&mut *PROCESSES.lock()) {
                // The process may have ended by itself.
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
            let _ = fs::remove_dir_all(folder);
            Err(Failed::other("interrupted; everything that was started is ended and removed"))
        }
    }
}

fn run(arguments: &DemoArguments, temporary: tempfile::TempDir) -> Outcome {
    let began = Instant::now();
    let folder = temporary.path().to_owned();
    let mut demo = Demo {
        home: folder.join("home"),
        services: Vec::new(),
        daemon: Process(None),
        _temporary: if arguments.keep {
            drop(temporary.keep());
            None
        } else {
            Some(temporary)
        },
        folder,
    };

    step("Four S3 services, each with its own credentials, on this machine");
    for name in CLOUDS {
        demo.start_service(name)?;
    }
    step("A home, the S3 connector approved, and the four services as its clouds");
    demo.set_up(&arguments.connector)?;
    step("The daemon");
    demo.start_daemon()?;

    step(&format!(
        "A file of {} MiB of random bytes is stored",
        arguments.size
    ));
    let original = demo.folder.join("original");
    let sha256 = random_file(&original, arguments.size << 20)?;
    say!("    SHA-256 {sha256}");
    let took = demo.timed(&["put", &text(&original), "--as", "holiday.mkv"])?;
    say!("    stored in {took:.1} s");
    demo.show_clouds();

    step("Two of the four services are stopped, and the file is read back");
    demo.services[0].process.stop();
    demo.services[2].process.stop();
    say!("    {} and {} are down", CLOUDS[0], CLOUDS[2]);
    demo.read_back(&sha256)?;

    step(
        "Both run again; every object of a third is overwritten in the middle, and the file is \
         read back",
    );
    demo.restart_service(0)?;
    demo.restart_service(2)?;
    let damaged = damage(&demo.services[1].root)?;
    say!(
        "    {damaged} objects of {} now hold other bytes than were stored",
        CLOUDS[1]
    );
    demo.read_back(&sha256)?;

    step("One more service is stopped beside the damaged one, and the file is read back");
    demo.services[3].process.stop();
    say!("    {} is down", CLOUDS[3]);
    demo.read_back(&sha256)?;
    demo.restart_service(3)?;

    say!(
        "\nDone in {:.0} s: every read gave the bytes that were stored.",
        began.elapsed().as_secs_f64()
    );
    if arguments.keep {
        demo.keep();
    }
    Ok(())
}

fn step(title: &str) {
    say!("\n==> {title}");
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Demo {
    fn start_service(&mut self, name: &'static str) -> Outcome {
        let root = self.folder.join(name);
        fs::create_dir_all(root.join("raic")).map_err(Failed::other)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|l| l.local_addr())
            .map_err(Failed::other)?
            .port();
        let process = spawn_service(name, &root, port)?;
        say!("    {name:<10} http://127.0.0.1:{port}  bucket raic");
        self.services.push(Service {
            name,
            port,
            root,
            process,
        });
        Ok(())
    }

    fn restart_service(&mut self, number: usize) -> Outcome {
        let Service {
            name,
            port,
            root,
            process,
        } = &mut self.services[number];
        *process = spawn_service(name, root, *port)?;
        Ok(())
    }

    fn set_up(&self, connector: &Path) -> Outcome {
        self.raic(&["init"])?;
        self.raic(&["connector", "approve", "--yes", &text(connector)])?;
        for (i, Service { name, port, .. }) in self.services.iter().enumerate() {
            let keys = self.home.join(format!("secrets/{name}.json"));
            let document = format!(
                r#"{{"AccessKeyId":"{}","SecretAccessKey":"{}"}}"#,
                access_key(name),
                secret_key(name)
            );
            crate::home::private_file(&keys, document.as_bytes())?;
            let settings = [
                format!("endpoint=http://127.0.0.1:{port}"),
                "bucket=raic".to_owned(),
            ];
            self.raic(&[
                "cloud",
                "add",
                name,
                "--connector",
                "s3",
                "--set",
                &settings[0],
                "--set",
                &settings[1],
                "--credential",
                &format!("keys={}", text(&keys)),
                "--replace",
                &format!("local-{}", i + 1),
            ])?;
            say!("    cloud {name}: connector s3, {}", settings[0]);
        }
        Ok(())
    }

    fn start_daemon(&mut self) -> Outcome {
        let log = fs::File::create(self.folder.join("daemon.log")).map_err(Failed::other)?;
        let daemon = self
            .command(&["serve"])?
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .map_err(Failed::other)?;
        self.daemon = Process::new(daemon);
        let began = Instant::now();
        while !self.home.join("raic.sock").exists() {
            if began.elapsed() > Duration::from_secs(60) {
                let log = fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default();
                return Err(Failed::other(format!("the daemon does not come up: {log}")));
            }
            thread::sleep(Duration::from_millis(50));
        }
        say!("    listens at {}", text(&self.home.join("raic.sock")));
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Outcome<Command> {
        let program = std::env::current_exe().map_err(Failed::other)?;
        let mut command = Command::new(program);
        command
            .arg("--home")
            .arg(&self.home)
            .args(arguments)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs the command `raic`. Its errors are shown if it fails.
    fn raic(&self, arguments: &[&str]) -> Outcome {
        let out = self.command(arguments)?.output().map_err(Failed::other)?;
        if out.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&out.stderr);
        Err(Failed::other(format!(
            "`raic {}` failed: {}",
            arguments.join(" "),
            errors.trim()
        )))
    }

    /// Runs the command `raic`, and returns how long it took, in seconds.
    fn timed(&self, arguments: &[&str]) -> Outcome<f64> {
        let began = Instant::now();
        self.raic(arguments)?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Reads the file, and compares its SHA-256 with that of the stored bytes.
    fn read_back(&self, sha256: &str) -> Outcome {
        let copy = self.folder.join("copy");
        let took = self.timed(&["get", "holiday.mkv", &text(&copy)])?;
        let read = sha256_of(&copy)?;
        say!("    SHA-256 {read}, read in {took:.1} s");
        if read != sha256 {
            return Err(Failed::other("these are not the bytes that were stored"));
        }
        say!("    the same bytes");
        fs::remove_file(&copy).map_err(Failed::other)
    }

    fn show_clouds(&self) {
        for Service { name, root, .. } in &self.services {
            let objects = objects(root);
            let size: u64 = objects
                .iter()
                .filter_map(|f| fs::metadata(f).ok())
                .map(|m| m.len())
                .sum();
            say!(
                "    {name:<10} holds {} objects, {}: ciphertext, one share of four",
                objects.len(),
                bytes(size)
            );
        }
    }

    /// Leaves everything running, and prints how to use and end it.
    fn keep(mut self) {
        let program = std::env::current_exe().unwrap_or_default();
        say!("\nEverything still runs. Play with it:");
        say!(
            "    {} --home {} status",
            program.display(),
            self.home.display()
        );
        let processes = self
            .services
            .iter_mut()
            .map(|s| &mut s.process)
            .chain([&mut self.daemon]);
        let ids: Vec<_> = processes
            .filter_map(|p| p.0.take())
            .map(|child| child.id().to_string())
            .collect();
        say!(
            "and end it:\n    kill {}; rm -r {}",
            ids.join(" "),
            self.folder.display()
        );
    }
}

fn access_key(name: &str) -> String {
    format!("{}-KEY", name.to_uppercase())
}

fn secret_key(name: &str) -> String {
    format!("the-secret-of-{name}")
}

fn spawn_service(name: &str, root: &Path, port: u16) -> Outcome<Process> {
    let program = std::env::current_exe().map_err(Failed::other)?;
    let child = Command::new(program)
        .arg("demo-service")
        .arg(root)
        .arg(port.to_string())
        .env("RAIC_DEMO_ACCESS_KEY", access_key(name))
        .env("RAIC_DEMO_SECRET_KEY", secret_key(name))
        .stdin(Stdio::null())
        .spawn()
        .map_err(Failed::other)?;
    let process = Process::new(child);
    let began = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if began.elapsed() > Duration::from_secs(20) {
            return Err(Failed::other(format!(
                "the service {name} does not come up at port {port}"
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}

/// Makes a file of `size` random bytes, and returns its SHA-256 in hex.
fn random_file(path: &Path, size: u64) -> Outcome<String> {
    let written = || -> std::io::Result<String> {
        let mut random = fs::File::open("/dev/urandom")?;
        let mut file = fs::File::create(path)?;
        let mut digest = Context::new(&SHA256);
        let mut piece = vec![0; 1 << 20];
        let mut left = size;
        while left > 0 {
            let now = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            random.read_exact(&mut piece[..now])?;
            digest.update(&piece[..now]);
            file.write_all(&piece[..now])?;
            left -= now as u64;
        }
        Ok(hex(digest))
    };
    written().map_err(Failed::other)
}

fn sha256_of(path: &Path) -> Outcome<String> {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        let mut digest = Context::new(&SHA256);
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(hex(digest)),
                n => digest.update(&piece[..n]),
            }
        }
    };
    read().map_err(Failed::other)
}

fn hex(digest: Context) -> String {
    digest
        .finish()
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Lists the files of a service that are objects of shares.
fn objects(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root.join("raic/shares")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files
}

/// Overwrites bytes in the middle of every object. Returns the number of objects.
fn damage(root: &Path) -> Outcome<usize> {
    use std::os::unix::fs::FileExt as _;
    let objects = objects(root);
    for path in &objects {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(Failed::other)?;
        let length = file.metadata().map_err(Failed::other)?.len();
        file.write_all_at(b"these are other bytes", length / 2)
            .map_err(Failed::other)?;
    }
    Ok(objects.len())
}
