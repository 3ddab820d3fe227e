//! What the operator approved: components by their hash, in a folder of the daemon's home.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::{ConnectorError, Package};

/// The approved connectors: `SHA256.wasm` files in a folder of mode 0700, and what was compiled of them.
///
/// **Invariant:** what is loaded is what was approved: the bytes are hashed when they are approved and again each
/// time they are read.
#[derive(Clone, Debug)]
pub struct ApprovalStore {
    folder: PathBuf,
    compiled: PathBuf,
}

impl ApprovalStore {
    /// Opens the store, making its folders.
    ///
    /// # Errors
    /// [`ConnectorError::Io`].
    pub fn open(folder: &Path) -> Result<Self, ConnectorError> {
        let compiled = folder.join("compiled");
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&compiled).map_err(ConnectorError::io(&compiled))?;
        Ok(Self { folder: folder.to_owned(), compiled })
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
        let file = self.folder.join(format!("{}.wasm", package.sha256));
        let mut new =
            tempfile::NamedTempFile::new_in(&self.folder).map_err(ConnectorError::io(&self.folder))?;
        new.write_all(&package.bytes).map_err(ConnectorError::io(&file))?;
        new.as_file().sync_all().map_err(ConnectorError::io(&file))?;
        new.persist(&file).map_err(|e| ConnectorError::io(&file)(e.error))?;
        // Approved once it survives a power cut: a cloud's pin may name it.
        fs::File::open(&self.folder).and_then(|f| f.sync_all()).map_err(ConnectorError::io(&self.folder))
    }

    /// Every approved connector, the latest approved first; an error in the place of a file that is none any longer.
    ///
    /// # Errors
    /// [`ConnectorError::Io`] for the folder's.
    pub fn list(&self) -> Result<Vec<Result<Package, ConnectorError>>, ConnectorError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(ConnectorError::io(&self.folder))? {
            let path = entry.map_err(ConnectorError::io(&self.folder))?.path();
            if path.extension().is_some_and(|e| e == "wasm") {
                let modified =
                    fs::metadata(&path).and_then(|m| m.modified()).map_err(ConnectorError::io(&path))?;
                files.push((modified, path));
            }
        }
        files.sort();
        Ok(files.into_iter().rev().map(|(_, path)| read(path)).collect())
    }

    /// The connector of that name approved last, or the one whose SHA-256 begins so (8 digits or more).
    ///
    /// # Errors
    /// [`ConnectorError::NotApproved`] where there is none, [`ConnectorError::Tampered`] where the file of that SHA-256
    /// is not what its name says.
    pub fn find(&self, name: &str) -> Result<Package, ConnectorError> {
        // No connector has such a name, so that none can pass for another's hash.
        if is_hash(name) {
            let file = self.folder.join(format!("{name}.wasm"));
            if name.len() == 64 && file.is_file() {
                return read(file);
            }
        }
        // One that cannot be read must not keep the others from serving.
        let readable = |read: Result<Package, _>| read.inspect_err(|e| tracing::warn!("left out: {e}")).ok();
        let mut readable = self.list()?.into_iter().filter_map(readable);
        let found = readable
            .find(|p| if is_hash(name) { p.sha256.starts_with(name) } else { p.manifest.name == name });
        found.ok_or_else(|| ConnectorError::NotApproved(name.to_owned()))
    }
}

impl ApprovalStore {
    /// Takes the approval of a connector back: its bytes go. What was compiled of them is never loaded without them.
    ///
    /// # Errors
    /// [`ConnectorError::Io`].
    pub fn revoke(&self, package: &Package) -> Result<(), ConnectorError> {
        let file = self.folder.join(format!("{}.wasm", package.sha256));
        fs::remove_file(&file).map_err(ConnectorError::io(&file))?;
        fs::File::open(&self.folder).and_then(|f| f.sync_all()).map_err(ConnectorError::io(&self.folder))
    }
}

/// Whether a word is a SHA-256, or the beginning of one, rather than a connector's name.
pub(crate) fn is_hash(word: &str) -> bool {
    (8..=64).contains(&word.len()) && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn read(path: PathBuf) -> Result<Package, ConnectorError> {
    let package = Package::read(fs::read(&path).map_err(ConnectorError::io(&path))?)?;
    if path.file_stem().is_some_and(|stem| *stem == *package.sha256) {
        Ok(package)
    } else {
        Err(ConnectorError::Tampered { path })
    }
}
