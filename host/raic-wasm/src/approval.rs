//! What the operator approved: components by their hash, in a folder of the daemon's home. And what
//! waits to be: any file that is dropped into the folder above.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{ConnectorError, Manifest, Package};

/// The approved connectors: `approved/SHA256.wasm` in a folder of mode 0700, and what was compiled
/// of them.
///
/// Beside them in that folder lies what was dropped in: a name there approves nothing.
///
/// **Invariant:** what is loaded is what was approved: the bytes are hashed when they are approved
/// and again each time they are read.
#[derive(Clone, Debug)]
pub struct ApprovalStore {
    /// Where connectors are dropped.
    incoming: PathBuf,
    folder: PathBuf,
    compiled: PathBuf,
}

/// The most files that are looked at of those that were dropped in.
const MAX_WAITING: usize = 64;
/// The most files of the folder, approved ones among them, that are looked at.
const MAX_FILES: usize = 1024;

/// A file that was dropped in and is not approved.
#[derive(Debug)]
pub struct Waiting {
    /// Which.
    pub file: PathBuf,
    /// What it is, or why it is no connector.
    pub package: Result<Dropped, ConnectorError>,
}

/// What a dropped file was when it was looked at. Its bytes are read again when it is approved, and
/// may be others then.
#[derive(Debug)]
pub struct Dropped {
    /// The connector's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the file, in lower-case hex.
    pub sha256: String,
}

impl ApprovalStore {
    /// Opens the store, making its folders.
    ///
    /// # Errors
    /// [`ConnectorError::Io`].
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
        // What lies in them is run as native code: nobody else may have made them, or may put other
        // folders in their place.
        for (place, others) in [(folder, 0o022), (&approved, 0o077), (&compiled, 0o077)] {
            let meta = fs::symlink_metadata(place).map_err(ConnectorError::io(place))?;
            let is_ours = meta.uid() == rustix::process::geteuid().as_raw();
            if !meta.is_dir() || !is_ours || meta.mode() & others != 0 {
                let why =
                    "it must be a folder of this user, that others cannot write to (chmod 700)";
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

    /// The files that were dropped in and are not approved, by their names; 64 of them at most, out
    /// of 1024. One at a time is in memory.
    ///
    /// # Errors
    /// [`ConnectorError::Io`] for the folder's.
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

    /// What changes when something is dropped in, taken away or approved: cheap to ask for.
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

    /// Where compiled components are kept.
    pub fn compiled(&self) -> &Path {
        &self.compiled
    }

    /// Keeps a connector. Approving it again changes nothing.
    ///
    /// # Errors
    /// [`ConnectorError::Io`].
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
        // Approved once it survives a power cut: a cloud's pin may name it.
        fs::File::open(&self.folder)
            .and_then(|f| f.sync_all())
            .map_err(ConnectorError::io(&self.folder))?;
        let revoked = self.revoked(&package.sha256);
        match fs::remove_file(&revoked) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ConnectorError::io(&revoked)(e)),
            _ => Ok(()),
        }
    }

    /// Whether a connector of that SHA-256 is approved, or was until the operator revoked it.
    pub fn is_known(&self, sha256: &str) -> bool {
        self.file(sha256).is_file() || self.revoked(sha256).is_file()
    }

    fn file(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{sha256}.wasm"))
    }

    /// What is left of one that was revoked: an empty file.
    fn revoked(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{sha256}.revoked"))
    }

    /// Takes the approval of a connector back: its bytes go. What was compiled of them is never
    /// loaded without them.
    ///
    /// # Errors
    /// [`ConnectorError::Io`].
    pub fn revoke(&self, package: &Package) -> Result<(), ConnectorError> {
        let file = self.file(&package.sha256);
        // First: a release that has this connector in it must not bring it back.
        let revoked = self.revoked(&package.sha256);
        fs::write(&revoked, "").map_err(ConnectorError::io(&revoked))?;
        fs::remove_file(&file).map_err(ConnectorError::io(&file))?;
        fs::File::open(&self.folder)
            .and_then(|f| f.sync_all())
            .map_err(ConnectorError::io(&self.folder))
    }

    /// Every approved connector, the latest approved first; an error in the place of a file that is
    /// none any longer.
    ///
    /// # Errors
    /// [`ConnectorError::Io`] for the folder's.
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

    /// The connector of that name approved last, or the one whose SHA-256 begins so (8 digits or
    /// more).
    ///
    /// # Errors
    /// [`ConnectorError::NotApproved`] where there is none, [`ConnectorError::Tampered`] where the
    /// file of that SHA-256 is not what its name says.
    pub fn find(&self, name: &str) -> Result<Package, ConnectorError> {
        // No connector has such a name, so that none can pass for another's hash.
        if is_hash(name) {
            let file = self.file(name);
            if name.len() == 64 && file.is_file() {
                return read(file);
            }
        }
        // One that cannot be read must not keep the others from serving.
        let readable =
            |read: Result<Package, _>| read.inspect_err(|e| tracing::warn!("left out: {e}")).ok();
        // Read one by one: the one that is looked for is mostly the latest.
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

/// Whether a word is a SHA-256, or the beginning of one, rather than a connector's name.
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
