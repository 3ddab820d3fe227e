//! The home: one folder with configuration, keys, database and socket.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::error::{Failed, Outcome};

/// The folder of a daemon's configuration, keys, database and socket.
#[derive(Clone, Debug)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// Finds the home: the folder `named`, else `$RAIC_HOME`, else `$XDG_DATA_HOME/raic`, else
    /// `~/.local/share/raic`.
    pub(crate) fn find(named: Option<PathBuf>) -> Outcome<Self> {
        // A path that is not absolute counts as not set, as the XDG specification has it.
        let data = || {
            env::var_os("XDG_DATA_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let user = || {
            let home = env::var_os("HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute());
            home.map(|home| home.join(".local/share"))
        };
        let set = || {
            env::var_os("RAIC_HOME")
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let path = match named.or_else(set) {
            Some(path) => path,
            None => data()
                .or_else(user)
                .map(|data| data.join("raic"))
                .ok_or_else(|| {
                    Failed::configuration(
                        "there is no home: set HOME to an absolute path, or use --home FOLDER",
                    )
                })?,
        };
        std::path::absolute(&path)
            .map(Self)
            .map_err(|e| Failed::configuration(format!("{}: {e}", path.display())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("raic.db")
    }

    /// The folder with parts of uploads that wait.
    pub(crate) fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("raic.sock")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("raic.lock")
    }

    pub(crate) fn connectors(&self) -> PathBuf {
        self.0.join("connectors")
    }

    /// The file of the keyring in clear, with which the daemon reads and writes files.
    pub(crate) fn keyring(&self) -> PathBuf {
        self.0.join("secrets/keyring.json")
    }

    /// The file of the sealed keyring, as the clouds get it.
    pub(crate) fn sealed_keyring(&self) -> PathBuf {
        self.0.join("secrets/keyring.sealed")
    }

    /// The file of the recovery key, until the operator has moved it to a safe place.
    pub(crate) fn recovery_key(&self) -> PathBuf {
        self.0.join("secrets/recovery-key.txt")
    }
}

/// Longest path of a socket that the system takes, in bytes.
const LONGEST_SOCKET: usize = 107;

/// The mode of folders in which everybody may make files.
const STICKY: u32 = 0o1000;

impl Home {
    /// Requires that the home's path is short enough for the socket in it.
    pub(crate) fn require_short(&self) -> Outcome {
        let (whole, here) = (self.socket().as_os_str().len(), self.0.as_os_str().len());
        if whole <= LONGEST_SOCKET {
            return Ok(());
        }
        Err(Failed::configuration(format!(
            "the home's path is {here} bytes long, and its socket allows {}; choose a shorter \
             --home",
            LONGEST_SOCKET - (whole - here)
        )))
    }

    /// Closes the home to everyone but its owner, because it has the names and sizes of files in
    /// clear.
    pub(crate) fn close_to_others(&self) -> Outcome {
        let failed = |e: io::Error| Failed::io(self.0.display(), &e);
        let mode = fs::metadata(&self.0).map_err(failed)?.permissions().mode();
        // Such as /tmp: closed, nobody else could work any longer.
        if mode & STICKY != 0 {
            return Err(Failed::configuration(format!(
                "{} is a folder for everybody; choose a folder of its own with --home",
                self.0.display()
            )));
        }
        if mode & 0o077 != 0 {
            fs::set_permissions(&self.0, fs::Permissions::from_mode(mode & !0o077))
                .map_err(failed)?;
            tracing::warn!(
                "others could enter {}, and cannot any more",
                self.0.display()
            );
        }
        Ok(())
    }
}

/// Makes a folder, and the missing folders above it, for their owner alone.
pub(crate) fn private_folder(path: &Path) -> Outcome {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|e| Failed::io(format!("cannot create {}", path.display()), &e))
}

/// Writes a new file for its owner alone, durably. Fails if the file exists.
pub(crate) fn private_file(path: &Path, content: &[u8]) -> Outcome {
    let written = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()?;
        // The file's name is durable once its folder is.
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().map_err(|e| Failed::io(format!("cannot write {}", path.display()), &e))
}

/// Reads a file. An error names the file, and the remedy if a file of the home is missing.
pub(crate) fn read(path: &Path) -> Outcome<Vec<u8>> {
    fs::read(path).map_err(|e| {
        let hint = match path.file_name().and_then(|name| name.to_str()) {
            _ if e.kind() != io::ErrorKind::NotFound => "",
            Some("config.toml") => "; `raic init` makes a home",
            Some("keyring.json" | "keyring.sealed") => {
                "; it belongs to this home's keys, without which no file opens; put it back from a \
                 backup"
            }
            _ => "",
        };
        Failed::configuration(format!("cannot read {}: {e}{hint}", path.display()))
    })
}
