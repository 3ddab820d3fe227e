//! Servers of `tests/clouds/`: scripts in Python, in an environment that `cargo xtask test`
//! installs.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct PythonServer {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    /// The folder that the script writes to.
    pub(crate) folder: tempfile::TempDir,
}

impl PythonServer {
    /// Starts a script of `tests/clouds` in a Python environment, and waits for a line of its
    /// output that `is_ready`. Returns the server and that line.
    pub(crate) fn start(
        target_tmp: &str,
        environment_name: &str,
        script: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        is_ready: impl Fn(&str) -> bool,
    ) -> (Self, String) {
        let folder = tempfile::Builder::new()
            .prefix(&format!("raic-{environment_name}-"))
            .tempdir()
            .expect("a folder");
        let python = Path::new(target_tmp)
            .with_file_name("clouds")
            .join(environment_name)
            .join("bin/python");
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("clouds")
            .join(script);
        let log = folder.path().join("errors.log");
        let mut process = Command::new(&python)
            .args(["-W", "ignore"])
            .arg(&script)
            .arg(folder.path())
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{}: {e}; `cargo xtask test` installs it", python.display())
            });
        let output = process.stdout.take().expect("its output");
        let mut output = BufReader::new(output).lines();
        let ready = output
            .by_ref()
            .map_while(Result::ok)
            .find(|line| is_ready(line));
        let server = Self {
            process,
            output,
            folder,
        };
        let ready = ready.unwrap_or_else(|| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("{} ended: {log}", script.display())
        });
        (server, ready)
    }

    /// Writes a line to the script's input, and waits for a line of its output that `is_done`.
    pub(crate) fn tell(&mut self, line: &str, is_done: impl Fn(&str) -> bool) {
        let input = self.process.stdin.as_mut().expect("its input");
        writeln!(input, "{line}").expect("it takes the line");
        let done = self
            .output
            .by_ref()
            .map_while(Result::ok)
            .find(|line| is_done(line));
        assert!(done.is_some(), "it ended after {line:?}");
    }

    /// Waits until the server listens on a port: some servers print that they are ready a moment
    /// before.
    pub(crate) fn wait_for(&self, port: u16) {
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "nobody listens on port {port}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        // Keystone's script ends when its input ends, and ends its workers then.
        drop(self.process.stdin.take());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
