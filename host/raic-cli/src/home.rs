//! The home: one folder with configuration, keys, database and socket.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::error::{Failed, Outcome};

/// Where a daemon lives.
#[derive(Clone, Debug)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// The one named, else `$XDG_DATA_HOME/raic`, else `~/.local/share/raic`.
    pub(crate) fn find(named: Option<PathBuf>) -> Outcome<Self> {
        let data = || env::var_os("XDG_DATA_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
        let user = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        let path = match named {
            Some(path) => path,
            None => data()
                .or_else(user)
                .map(|data| data.join("raic"))
                .ok_or_else(|| Failed::configuration("no home: set HOME or name one with --home"))?,
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

    /// Parts of uploads that wait.
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

    /// The keyring in clear: what the daemon reads and writes files with.
    pub(crate) fn keyring(&self) -> PathBuf {
        self.0.join("secrets/keyring.json")
    }

    /// The keyring as the clouds get it.
    pub(crate) fn sealed_keyring(&self) -> PathBuf {
        self.0.join("secrets/keyring.sealed")
    }

    /// The recovery key, until a person has put it somewhere safe.
    pub(crate) fn recovery_key(&self) -> PathBuf {
        self.0.join("secrets/recovery-key.txt")
    }
}

/// Makes a folder, and those above it, for its owner alone.
pub(crate) fn private_folder(path: &Path) -> Outcome {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Failed::configuration(format!("cannot create {}: {e}", path.display())))
}

/// Writes a new file for its owner alone, durably. One that is there is an error.
pub(crate) fn private_file(path: &Path, content: &[u8]) -> Outcome {
    let written = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()?;
        // Its name is durable once its folder is.
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    written().map_err(|e| Failed::configuration(format!("cannot write {}: {e}", path.display())))
}

/// Reads a file, or says which cannot be read.
pub(crate) fn read(path: &Path) -> Outcome<Vec<u8>> {
    fs::read(path).map_err(|e| {
        let hint = if e.kind() == io::ErrorKind::NotFound { "; `raic init` makes a home" } else { "" };
        Failed::configuration(format!("cannot read {}: {e}{hint}", path.display()))
    })
}
