//! Ceph RADOS Gateway on loopback: one monitor, one OSD in memory, one gateway with HTTP and TLS
//! ports.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{certificates::Certificates, free_port};

/// The user's access key.
pub const ACCESS_KEY: &str = "RGWACCESSKEY00000001";
/// The user's secret key.
pub const SECRET_KEY: &str = "rgwsecretkey0000000000000000000000000001";

/// The user's name in the Swift API.
pub const SWIFT_USER: &str = "rgwuser:swift";
/// The user's key in the Swift API.
pub const SWIFT_KEY: &str = "swiftsecretkey0000001";

/// A role whose temporary keys permit everything with objects.
pub const WRITER: &str = "writer";
/// A role whose temporary keys permit reading only.
pub const READER: &str = "reader";
/// The actions that [`READER`] permits.
const READS: &str = r#""s3:GetObject","s3:ListBucket""#;

/// A running gateway. Dropping it stops what it started, gateway first, and removes its folder.
#[derive(Debug)]
pub struct Radosgw {
    /// The gateway's HTTP endpoint.
    pub url: String,
    /// The gateway's TLS endpoint, with a certificate for 127.0.0.1 by an authority that nobody
    /// trusts.
    pub tls_url: String,
    /// That authority, in PEM.
    pub ca: Vec<u8>,
    /// The endpoint of a second gateway, which gives temporary keys and takes them. It is apart
    /// because such a gateway has no error code for a wrong signature.
    pub sts_url: String,
    /// Gateways, OSD and monitor, in the order in which they are stopped.
    processes: Vec<Child>,
    folder: tempfile::TempDir,
}

impl Radosgw {
    /// Starts the gateway, which takes about 12 s.
    ///
    /// # Panics
    /// If the packages are missing, or if a daemon does not come up. If that is radosgw, the
    /// message has its output.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("raic-rgw-")
            .tempdir()
            .expect("a folder");
        let (port, tls_port, sts_port, monitor) =
            (free_port(), free_port(), free_port(), free_port());
        let home = folder.path();
        let Certificates {
            ca,
            certificate,
            key,
        } = Certificates::new(&["127.0.0.1"]);
        fs::write(home.join("tls.pem"), certificate + &key).expect("the certificate");
        let fsid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a UUID");
        for part in ["mon", "osd", "rgw", "sts"] {
            fs::create_dir(home.join(part)).expect("a folder");
        }
        fs::write(
            home.join("ceph.conf"),
            configuration(home, fsid.trim(), monitor, port, tls_port, sts_port),
        )
        .expect("ceph.conf");
        let mut gateway = Self {
            url: format!("http://127.0.0.1:{port}"),
            tls_url: format!("https://127.0.0.1:{tls_port}"),
            sts_url: format!("http://127.0.0.1:{sts_port}"),
            ca,
            processes: Vec::new(),
            folder,
        };
        gateway.bring_up(fsid.trim(), monitor);
        gateway.wait_for(port);
        gateway.wait_for(tls_port);
        gateway.with_sessions(sts_port);
        let user = ["user", "create", "--uid=rgwuser", "--display-name=rgwuser"];
        let keys = [
            format!("--access-key={ACCESS_KEY}"),
            format!("--secret={SECRET_KEY}"),
        ];
        let admin = || {
            let mut command = gateway.command("radosgw-admin");
            command.args(["-n", "client.rgw"]);
            command
        };
        gateway.run(admin().args(user).args(keys));
        let subuser = [
            "subuser",
            "create",
            "--uid=rgwuser",
            "--access=full",
            "--key-type=swift",
        ];
        let names = [
            format!("--subuser={SWIFT_USER}"),
            format!("--secret={SWIFT_KEY}"),
        ];
        gateway.run(admin().args(subuser).args(names));
        for (role, allowed) in [(READER, READS), (WRITER, r#""s3:*""#)] {
            let name = format!("--role-name={role}");
            let assume = format!(
                "--assume-role-policy-doc={}",
                policy(r#""sts:AssumeRole""#, true)
            );
            gateway.run(admin().args(["role", "create", &name, "--path=/", &assume]));
            let allowed = format!("--policy-doc={}", policy(allowed, false));
            gateway.run(admin().args([
                "role-policy",
                "put",
                &name,
                "--policy-name=objects",
                &allowed,
            ]));
        }
        gateway
    }

    /// Gets temporary keys of a role by AssumeRole, as the connector takes them. They expire after
    /// `seconds`. curl makes the request, since it signs on its own.
    ///
    /// # Panics
    /// If the service gives no keys.
    pub fn session(&self, role: &str, seconds: u32) -> String {
        let form = format!(
            "Action=AssumeRole&Version=2011-06-15&RoleSessionName=tests&DurationSeconds={seconds}&RoleArn=arn:aws:iam:::role/{role}"
        );
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--aws-sigv4",
            "aws:amz:default:sts",
        ]);
        curl.args([
            "--user",
            &format!("{ACCESS_KEY}:{SECRET_KEY}"),
            "--data",
            &form,
            &self.sts_url,
        ]);
        let out = curl.output().unwrap_or_else(|e| panic!("curl: {e}"));
        let answer = String::from_utf8_lossy(&out.stdout).into_owned();
        let part = |name: &str| {
            let (start, end) = (format!("<{name}>"), format!("</{name}>"));
            let found = answer
                .split_once(&start)
                .and_then(|(_, rest)| rest.split_once(&end));
            found
                .unwrap_or_else(|| panic!("no {name}: {answer}"))
                .0
                .to_owned()
        };
        let names = ["AccessKeyId", "SecretAccessKey", "SessionToken"];
        let parts = names.map(|name| (name.to_owned(), serde_json::Value::String(part(name))));
        serde_json::Value::Object(parts.into_iter().collect()).to_string()
    }

    fn home(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.home().join("ceph.conf"));
        command
    }

    fn bring_up(&mut self, fsid: &str, monitor: u16) {
        let home = self.home();
        let keyring = home.join("keyring");
        let tool = |args: &[&str]| {
            self.run(Command::new("ceph-authtool").arg(&keyring).args(args));
        };
        tool(&[
            "--create-keyring",
            "--gen-key",
            "-n",
            "mon.",
            "--cap",
            "mon",
            "allow *",
        ]);
        let caps = [
            "--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *",
        ];
        tool(&[&["--gen-key", "-n", "client.admin"][..], &caps].concat());
        let address = format!("v1:127.0.0.1:{monitor}");
        let map = home.join("monmap");
        let args = [
            "--create",
            "--clobber",
            "--addv",
            "a",
            &address,
            "--fsid",
            fsid,
        ];
        self.run(Command::new("monmaptool").args(args).arg(&map));
        let mkfs = ["--mkfs", "-i", "a"];
        self.run(
            self.command("ceph-mon")
                .args(mkfs)
                .arg("--monmap")
                .arg(&map)
                .arg("--keyring")
                .arg(&keyring),
        );
        self.spawn("ceph-mon", &["-i", "a", "-f"]);
        let osd = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a UUID");
        self.run(self.command("ceph").args(["osd", "new", osd.trim(), "0"]));
        self.run(
            self.command("ceph-osd")
                .args(["-i", "0", "--mkfs", "--osd-uuid", osd.trim()]),
        );
        self.run(self.command("ceph").args([
            "osd",
            "crush",
            "add",
            "osd.0",
            "1.0",
            "root=default",
            "host=localhost",
        ]));
        self.spawn("ceph-osd", &["-i", "0", "-f"]);
        let began = Instant::now();
        loop {
            let stat = self
                .command("ceph")
                .args(["osd", "stat"])
                .output()
                .expect("ceph");
            if String::from_utf8_lossy(&stat.stdout).contains("1 up") {
                break;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the OSD does not come up"
            );
            thread::sleep(Duration::from_millis(300));
        }
        self.spawn("radosgw", &["-n", "client.rgw", "-f"]);
    }

    /// Brings up the gateway with temporary keys. It finds the pools that the first gateway made.
    fn with_sessions(&mut self, port: u16) {
        self.spawn("radosgw", &["-n", "client.sts", "-f"]);
        self.wait_for(port);
    }

    fn spawn(&mut self, program: &str, args: &[&str]) {
        let out = fs::File::create(self.home().join(format!("{program}.out"))).expect("a log");
        let errors = out.try_clone().expect("a log");
        let mut command = self.command(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors);
        self.processes
            .insert(0, command.spawn().unwrap_or_else(|e| missing(program, &e)));
    }

    fn run(&self, command: &mut Command) {
        let program = command.get_program().display().to_string();
        let out = command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| missing(&program, &e));
        assert!(
            out.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    fn wait_for(&self, port: u16) {
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let log = || fs::read_to_string(self.home().join("radosgw.out")).unwrap_or_default();
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "radosgw does not listen: {}",
                log()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }
}

fn missing(program: &str, e: &std::io::Error) -> ! {
    panic!("{program}: {e}; `cargo xtask test` installs radosgw, ceph-mon and ceph-osd")
}

impl Drop for Radosgw {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // There is nothing to keep: what they hold is in memory.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A policy that allows actions: if `of_role`, to the user who assumes a role; else on everything.
fn policy(actions: &str, of_role: bool) -> String {
    let to = if of_role {
        r#""Principal":{"AWS":["arn:aws:iam:::user/rgwuser"]}"#
    } else {
        r#""Resource":"*""#
    };
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow",{to},"Action":[{actions}]}}]}}"#
    )
}

fn configuration(
    home: &Path,
    fsid: &str,
    monitor: u16,
    port: u16,
    tls_port: u16,
    sts_port: u16,
) -> String {
    let home = home.display();
    format!(
        "[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{monitor}
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
auth supported = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd crush update on start = false
mon warn on pool no redundancy = false
mon allow pool size one = true
mon max pg per osd = 1000
mon data = {home}/mon
mon data avail crit = 1
osd data = {home}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd class load list = *
osd class default list = *
osd class update on start = false
keyring = {home}/keyring
log file = {home}/$name.log
pid file = {home}/$name.pid
admin socket = {home}/$name.asok
run dir = {home}
crash dir = {home}
[client.rgw]
rgw data = {home}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} ssl_endpoint=127.0.0.1:{tls_port} ssl_certificate={home}/tls.pem
rgw dns name = localhost
rgw enable usage log = false
rgw thread pool size = 64
[client.sts]
rgw data = {home}/sts
rgw frontends = beast endpoint=127.0.0.1:{sts_port}
rgw enable usage log = false
rgw thread pool size = 16
rgw s3 auth use sts = true
rgw sts key = abcdefghijklmnop
rgw sts min session duration = 1
"
    )
}
