//! A home in a temporary folder, and the real binary.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A home made by `raic init` in a temporary folder, its daemon, and services that clouds use.
pub struct Rig {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
    services: Vec<Child>,
}

/// The end of a command: its exit code and its output.
pub struct Ended {
    pub code: i32,
    pub out: Vec<u8>,
    pub text: String,
    pub errors: String,
}

impl Rig {
    /// Makes a home with `raic init`. No daemon runs yet.
    pub fn new() -> Self {
        let rig = Self {
            folder: tempfile::tempdir().expect("a folder"),
            daemon: None,
            services: Vec::new(),
        };
        rig.raic(&["init"]).ok();
        rig
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn home(&self, name: &str) -> PathBuf {
        self.folder.path().join("home").join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raic"));
        command
            .arg("--home")
            .arg(self.folder.path().join("home"))
            .args(arguments)
            .stdin(Stdio::null());
        command.env_remove("RAIC_HOME").env_remove("RAIC_LOG");
        command
    }

    pub fn raic(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments).output().expect("raic starts"))
    }

    /// Runs a command with `input` at its standard input.
    pub fn raic_with(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("raic starts");
        // The command may end before it has read all of its input.
        let _ = child.stdin.take().expect("its input").write_all(input);
        ended(child.wait_with_output().expect("raic ends"))
    }

    /// Starts the daemon and waits until it answers.
    pub fn serve(&mut self) {
        self.serve_logging("info");
    }

    /// Starts the daemon with its log at this level, and waits until it answers.
    pub fn serve_logging(&mut self, level: &str) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("a log");
        let mut serve = self.command(&["serve"]);
        let serve = serve
            .stderr(log)
            .stdout(Stdio::null())
            .env("RAIC_LOG", level);
        let mut daemon = serve.spawn().expect("raic serve");
        let began = Instant::now();
        while self.raic(&["account", "list"]).code != 0 {
            let ended = daemon.try_wait().expect("a state");
            let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_secs(60),
                "no daemon: {}",
                log()
            );
            thread::sleep(Duration::from_millis(20));
        }
        self.daemon = Some(daemon);
    }

    /// Ends the daemon by `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // The daemon may have ended by itself.
            let _ = daemon.kill();
            daemon.wait().expect("the daemon ends");
        }
    }

    /// Sends a signal to the daemon, by the name that `kill` takes.
    pub fn signal(&self, signal: &str) {
        let id = self.daemon.as_ref().expect("a daemon").id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .expect("kill")
                .success()
        );
    }

    /// Returns whether the daemon runs.
    pub fn runs(&mut self) -> bool {
        self.daemon
            .as_mut()
            .is_some_and(|daemon| daemon.try_wait().expect("a state").is_none())
    }

    /// Waits until a condition holds, and fails after 30 s.
    #[track_caller]
    pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "waited in vain: {what}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the peak resident memory of the daemon, in KiB.
    pub fn peak_memory(&self) -> u64 {
        self.kibibytes("VmHWM:")
    }

    /// Returns the resident memory of the daemon now, in bytes.
    pub fn memory(&self) -> u64 {
        self.kibibytes("VmRSS:") << 10
    }

    fn kibibytes(&self, field: &str) -> u64 {
        let id = self.daemon.as_ref().expect("a daemon").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .expect("the field");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number")
    }

    /// Starts an S3 service with one bucket named `bucket`, and returns its URL.
    pub fn service(&mut self, name: &str) -> String {
        let root = self.path(name);
        fs::create_dir_all(root.join("bucket")).expect("a bucket");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        drop(listener);
        let mut command = Command::new(env!("CARGO_BIN_EXE_raic"));
        command.arg("demo-service").arg(&root).arg(port.to_string());
        command
            .env("RAIC_DEMO_ACCESS_KEY", "ACCESS")
            .env("RAIC_DEMO_SECRET_KEY", "SECRET");
        self.services.push(command.spawn().expect("a service"));
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "the service does not come up"
            );
            thread::sleep(Duration::from_millis(20));
        }
        format!("http://127.0.0.1:{port}")
    }

    /// Lists every file below a folder.
    pub fn files(folder: &Path) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
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
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.kill();
        for service in &mut self.services {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

fn ended(out: Output) -> Ended {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = out.status.code().unwrap_or(-1);
    Ended {
        code,
        text: text(&out.stdout),
        errors: text(&out.stderr),
        out: out.stdout,
    }
}

impl Ended {
    /// Asserts that the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.text, self.errors);
        self
    }

    /// Asserts that the command failed with this exit code, without a panic, and with an error that
    /// has all of `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}{}", self.text, self.errors);
        assert!(
            self.errors.lines().any(|line| line.starts_with("raic: ")),
            "{}",
            self.errors
        );
        assert!(!self.errors.contains("panicked"), "{}", self.errors);
        for word in words {
            assert!(
                self.errors.contains(word),
                "lacks {word:?}: {}",
                self.errors
            );
        }
        self
    }
}

/// Makes `length` bytes that look random and depend on `seed` alone.
pub fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Returns the path of the S3 connector that `cargo xtask connectors` built.
pub fn component() -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("connectors")
        .join("s3.wasm");
    assert!(
        file.is_file(),
        "{} is not there; `cargo xtask test` builds it",
        file.display()
    );
    file.display().to_string()
}
