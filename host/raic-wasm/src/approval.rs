//! Keeps the connectors that the operator approved, by their hash, in a folder of the daemon's
//! home. Files in the folder above it wait for approval.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{ConnectorError, Manifest, Package};

/// The approved connectors: `approved/SHA256.wasm` in a folder of mode 0700, and beside it their
/// native code in `compiled`.
///
/// The folder above has the files that were dropped in. A file's name there approves nothing.
///
/// **Invariant:** only approved bytes are loaded. They are hashed when they are approved, and again
/// each time they are read.
#[derive(Clone, Debug)]
pub struct ApprovalStore {
    /// Folder into which connectors are dropped.
    incoming: PathBuf,
    folder: PathBuf,
    compiled: PathBuf,
}

/// Most files that are reported as waiting.
const MAX_WAITING: usize = 64;
/// Most files of the folder, approved ones included, that are looked at.
const MAX_FILES: usize = 1024;

/// A file that was dropped in and is not approved.
#[derive(Debug)]
pub struct Waiting {
    /// Path of the file.
    pub file: PathBuf,
    /// The connector in the file, or why it is not a connector.
    pub package: Result<Dropped, ConnectorError>,
}

/// What a dropped file held when it was looked at. Its bytes are read again when it is approved,
/// and may be others then.
#[derive(Debug)]
pub struct Dropped {
    /// The connector's name.
    pub name: String,
    /// The connector's version.
    pub version: String,
    /// SHA-256 of the file, in lower-case hex.
    pub sha256: String,
}

impl ApprovalStore {
    /// Opens the store. Makes its folders if they are missing.
    ///
    /// # Errors
    /// [`ConnectorError::Io`] if a folder cannot be made, or if others can write to it.
    pub fn open(folder: &Path) -> Result<Self, ConnectorError> {
        let (approved, compiled) = (folder.join("approved"), folder.join("compiled"));
        for made in [&approved, &compiled] {
            let mut builder = fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(made)
                .map_err(ConnectorError::io(made))?;
        }
        // The files in these folders are run as native code. So no other user may have made the
        // folders, or may put others in their place.
        for (place, others) in [(folder, 0o022), (&approved, 0o077), (&compiled, 0o077)] {
            let meta = fs::symlink_metadata(place).map_err(ConnectorError::io(place))?;
            let is_ours = meta.uid() == rustix::process::geteuid().as_raw();
            if !meta.is_dir() || !is_ours || meta.mode() & others != 0 {
                let why =
                    "it must be a folder of this user that others cannot write to (chmod 700)";
                return Err(ConnectorError::io(place)(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    why,
                )));
            }
        }
        Ok(Self {
            incoming: folder.to_owned(),
            folder: approved,
            compiled,
        })
    }

    /// Returns the files that were dropped in and are not approved, in the order of their names: at
    /// most 64, of the first 1024. Only one file at a time is in memory.
    ///
    /// # Errors
    /// [`ConnectorError::Io`] if the folder cannot be read.
    pub fn waiting(&self) -> Result<Vec<Waiting>, ConnectorError> {
        let mut waiting = Vec::new();
        let mut files = wasm_files(&self.incoming)?;
        files.sort();
        for file in files.into_iter().take(MAX_FILES) {
            let package = Package::open(&file).map(|package| {
                let Manifest { name, version, .. } = package.manifest;
                Dropped {
                    name,
                    version,
                    sha256: package.sha256,
                }
            });
            let is_approved = |p: &Dropped| self.file(&p.sha256).is_file();
            if !package.as_ref().is_ok_and(is_approved) {
                waiting.push(Waiting { file, package });
            }
            if waiting.len() == MAX_WAITING {
                break;
            }
        }
        Ok(waiting)
    }

    /// Returns a list of the files and their times of change. It differs after a connector was
    /// dropped in, taken away or approved, and is cheap to make.
    pub fn seen(&self) -> Vec<(PathBuf, Option<SystemTime>)> {
        let files = [&self.incoming, &self.folder]
            .into_iter()
            .flat_map(|folder| wasm_files(folder).unwrap_or_default());
        let mut seen: Vec<_> = files
            .map(|file| (fs::metadata(&file).and_then(|m| m.modified()).ok(), file))
            .map(|(m, f)| (f, m))
            .collect();
        seen.sort();
        seen
    }

    /// Returns the folder with compiled components.
    pub fn compiled(&self) -> &Path {
        &self.compiled
    }

    /// Keeps a connector as approved. Approving it again changes nothing.
    ///
    /// # Errors
    /// [`ConnectorError::Io`] if the connector cannot be written.
    pub fn approve(&self, package: &Package) -> Result<(), ConnectorError> {
        let file = self.file(&package.sha256);
        if read(file.clone()).is_err() {
            let mut new = tempfile::NamedTempFile::new_in(&self.folder)
                .map_err(ConnectorError::io(&self.folder))?;
            new.write_all(&package.bytes)
                .map_err(ConnectorError::io(&file))?;
            new.as_file()
                .sync_all()
                .map_err(ConnectorError::io(&file))?;
            new.persist(&file)
                .map_err(|e| ConnectorError::io(&file)(e.error))?;
        }
        // The connector is approved only once its file survives a power cut, since a cloud's pin
        // may name it.
        fs::File::open(&self.folder)
            .and_then(|f| f.sync_all())
            .map_err(ConnectorError::io(&self.folder))?;
        let revoked = self.revoked(&package.sha256);
        match fs::remove_file(&revoked) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ConnectorError::io(&revoked)(e)),
            _ => Ok(()),
        }
    }

    /// Whether the connector with a SHA-256 is approved, or was until the operator revoked it.
    pub fn is_known(&self, sha256: &str) -> bool {
        self.file(sha256).is_file() || self.revoked(sha256).is_file()
    }

    fn file(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{sha256}.wasm"))
    }

    /// Returns the path of the empty file that is kept for a revoked connector.
    fn revoked(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{sha256}.revoked"))
    }

    /// Revokes the approval of a connector and deletes its bytes. Without them its native code is
    /// never loaded.
    ///
    /// # Errors
    /// [`ConnectorError::Io`] if a file cannot be written or deleted.
    pub fn revoke(&self, package: &Package) -> Result<(), ConnectorError> {
        let file = self.file(&package.sha256);
        // Written first, so that a release that contains this connector does not bring it back.
        let revoked = self.revoked(&package.sha256);
        fs::write(&revoked, "").map_err(ConnectorError::io(&revoked))?;
        fs::remove_file(&file).map_err(ConnectorError::io(&file))?;
        fs::File::open(&self.folder)
            .and_then(|f| f.sync_all())
            .map_err(ConnectorError::io(&self.folder))
    }

    /// Returns every approved connector, the latest approved first. A file that cannot be used any
    /// longer is an error in the list.
    ///
    /// # Errors
    /// [`ConnectorError::Io`] if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Result<Package, ConnectorError>>, ConnectorError> {
        Ok(self.latest_first()?.map(read).collect())
    }

    fn latest_first(&self) -> Result<impl Iterator<Item = PathBuf>, ConnectorError> {
        let mut files = Vec::new();
        for path in wasm_files(&self.folder)? {
            let modified = fs::metadata(&path)
                .and_then(|m| m.modified())
                .map_err(ConnectorError::io(&path))?;
            files.push((modified, path));
        }
        files.sort();
        Ok(files.into_iter().rev().map(|(_, path)| path))
    }

    /// Returns the connector with this name that was approved last, or the one whose SHA-256 begins
    /// with these digits (8 or more).
    ///
    /// # Errors
    /// [`ConnectorError::NotApproved`] if there is none; [`ConnectorError::Tampered`] if the file
    /// of a whole SHA-256 has other content; [`ConnectorError::Io`] if the folder or that file
    /// cannot be read.
    pub fn find(&self, name: &str) -> Result<Package, ConnectorError> {
        // No connector has such a name, so no connector can pass for another's hash.
        if is_hash(name) {
            let file = self.file(name);
            if name.len() == 64 && file.is_file() {
                return read(file);
            }
        }
        // A connector that cannot be read must not keep the others from serving.
        let readable =
            |read: Result<Package, _>| read.inspect_err(|e| tracing::warn!("left out: {e}")).ok();
        // Read one by one, since the wanted connector is mostly the latest.
        let mut readable = self.latest_first()?.map(read).filter_map(readable);
        let found = readable.find(|p| {
            if is_hash(name) {
                p.sha256.starts_with(name)
            } else {
                p.manifest.name == name
            }
        });
        found.ok_or_else(|| ConnectorError::NotApproved(name.to_owned()))
    }
}

/// Whether a word is a SHA-256 or the beginning of one, rather than a connector's name.
pub fn is_hash(word: &str) -> bool {
    (8..=64).contains(&word.len()) && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn wasm_files(folder: &Path) -> Result<Vec<PathBuf>, ConnectorError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(ConnectorError::io(folder))? {
        let path = entry.map_err(ConnectorError::io(folder))?.path();
        if path.extension().is_some_and(|e| e == "wasm") {
            files.push(path);
        }
    }
    Ok(files)
}

fn read(path: PathBuf) -> Result<Package, ConnectorError> {
    let package = Package::read(fs::read(&path).map_err(ConnectorError::io(&path))?)?;
    if path
        .file_stem()
        .is_some_and(|stem| *stem == *package.sha256)
    {
        Ok(package)
    } else {
        Err(ConnectorError::Tampered { path })
    }
}
