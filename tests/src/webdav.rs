//! A WebDAV server on loopback: Apache's mod_dav.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::free_port;

/// A user who may only read.
pub const READER: &str = "reader";
/// The user to sign in as.
pub const USER: &str = "me";
/// The password of both users.
pub const PASSWORD: &str = "a-pass:word of dav";

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct WebDavServer {
    /// The URL of the server's root folder.
    pub url: String,
    process: Child,
    folder: tempfile::TempDir,
}

/// Apache's configuration. FOLDER, PORT and MODULES stand for those of the test.
const CONFIGURATION: &str = r#"
ServerRoot FOLDER
ServerName localhost
Listen 127.0.0.1:PORT
PidFile FOLDER/pid
ErrorLog FOLDER/error.log
DocumentRoot FOLDER/root
LoadModule mpm_event_module MODULES/mod_mpm_event.so
LoadModule authn_core_module MODULES/mod_authn_core.so
LoadModule authn_file_module MODULES/mod_authn_file.so
LoadModule authz_core_module MODULES/mod_authz_core.so
LoadModule authz_user_module MODULES/mod_authz_user.so
LoadModule auth_basic_module MODULES/mod_auth_basic.so
LoadModule dav_module MODULES/mod_dav.so
LoadModule dav_fs_module MODULES/mod_dav_fs.so
DavLockDB FOLDER/locks/db
User www-data
Group www-data
<Location />
  Dav On
  AuthType Basic
  AuthName raic
  AuthBasicProvider file
  AuthUserFile FOLDER/users
  AuthzSendForbiddenOnFailure On
  <Limit GET HEAD OPTIONS PROPFIND>
    Require valid-user
  </Limit>
  <LimitExcept GET HEAD OPTIONS PROPFIND>
    Require user me
  </LimitExcept>
</Location>
"#;

impl WebDavServer {
    /// Starts the server, which takes less than a second.
    ///
    /// # Panics
    /// If Apache is not installed or does not come up.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("raic-webdav-")
            .tempdir()
            .expect("a folder");
        let (home, port) = (folder.path(), free_port());
        for part in ["root", "locks"] {
            fs::create_dir(home.join(part)).expect("a folder");
            // If root starts Apache, it drops root's rights.
            fs::set_permissions(home.join(part), fs::Permissions::from_mode(0o777))
                .expect("its mode");
        }
        fs::set_permissions(home, fs::Permissions::from_mode(0o755)).expect("its mode");
        let users = [USER, READER].map(|user| {
            let line = Command::new("htpasswd")
                .args(["-nbBC4", user, PASSWORD])
                .output();
            line.unwrap_or_else(|e| panic!("htpasswd: {e}; `cargo xtask test` installs it"))
                .stdout
        });
        fs::write(home.join("users"), users.concat()).expect("its users");
        let configuration = CONFIGURATION
            .replace("FOLDER", &home.display().to_string())
            .replace("PORT", &port.to_string())
            .replace("MODULES", "/usr/lib/apache2/modules");
        fs::write(home.join("httpd.conf"), configuration).expect("its configuration");
        let process = Command::new("/usr/sbin/apache2")
            .arg("-f")
            .arg(home.join("httpd.conf"))
            .arg("-DFOREGROUND")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("Apache: {e}; `cargo xtask test` installs it"));
        let mut server = Self {
            url: format!("http://127.0.0.1:{port}"),
            process,
            folder,
        };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = server.process.try_wait().expect("its state");
            let log =
                || fs::read_to_string(server.folder.path().join("error.log")).unwrap_or_default();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_secs(30),
                "Apache: {}",
                log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        server
    }
}

impl Drop for WebDavServer {
    fn drop(&mut self) {
        // Apache ends its workers if it is terminated, but not if it is killed.
        let sent = Command::new("kill")
            .arg(self.process.id().to_string())
            .status();
        if !sent.is_ok_and(|sent| sent.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}
