//! Writes files below a folder of this machine, and never outside of it: names in the array may be
//! anything, and there may be links in the folder.

use std::{
    io,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions},
};
use raic_storage::StorageIndex;

use super::{last_part, not_below_a_folder};
use crate::error::{Failed, Outcome};

/// A folder that files are written below.
pub(super) struct Folder(Dir);

/// A file that is written beside its place, and moved there when it is whole.
pub(super) struct Unfinished {
    parent: Dir,
    temporary: String,
    name: String,
    /// Where the content goes.
    pub(super) file: std::fs::File,
}

impl Folder {
    /// Opens a folder, and makes it if it does not exist.
    pub(super) fn open(path: &Path) -> Outcome<Self> {
        let cannot = |e: io::Error| Failed::io(format!("cannot write into {}", path.display()), &e);
        std::fs::create_dir_all(path).map_err(cannot)?;
        Dir::open_ambient_dir(path, ambient_authority())
            .map(Self)
            .map_err(cannot)
    }

    /// Begins a file with that path below the folder.
    ///
    /// # Errors
    /// Fails with [`raic_gateway::wire::Code::BadName`] if the name is no path below a folder.
    pub(super) fn begin(&self, relative: &str) -> Outcome<Unfinished> {
        let is_plain = |part: &str| !part.contains('\0') && last_part(part) == Some(part);
        if !relative.split('/').all(is_plain) {
            return Err(not_below_a_folder());
        }
        let cannot = |e: io::Error| Failed::io(format!("cannot write {relative}"), &e);
        let (folder, name) = relative.rsplit_once('/').unwrap_or((".", relative));
        self.0.create_dir_all(folder).map_err(cannot)?;
        let parent = self.0.open_dir(folder).map_err(cannot)?;
        let id = StorageIndex::random().map_err(Failed::other)?;
        let temporary = format!(".raic-{id}");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let file = parent.open_with(&temporary, &options).map_err(cannot)?;
        // A file that is replaced keeps its mode.
        if let Ok(old) = parent.symlink_metadata(name)
            && old.is_file()
        {
            file.set_permissions(old.permissions()).map_err(cannot)?;
        }
        Ok(Unfinished {
            parent,
            temporary,
            name: name.to_owned(),
            file: file.into_std(),
        })
    }
}

impl Unfinished {
    /// Moves the file to its place.
    pub(super) fn settle(self, modified_ms: Option<i64>) -> io::Result<()> {
        if let Some(ms) = modified_ms.and_then(|ms| u64::try_from(ms).ok()) {
            self.file
                .set_modified(UNIX_EPOCH + Duration::from_millis(ms))?;
        }
        self.parent
            .rename(&self.temporary, &self.parent, &self.name)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After it was moved, there is nothing under this name.
        let _ = self.parent.remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raic_gateway::wire::Code;
    use std::{
        fs,
        io::Write as _,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    #[test]
    fn nothing_is_written_outside_of_the_folder() {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("in/side");
        let folder = Folder::open(&path).unwrap();
        for name in ["", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/."] {
            let refused = folder.begin(name).err().unwrap();
            assert_eq!(refused.code, Code::BadName, "{name}");
        }
        symlink(outside.path(), path.join("link")).unwrap();
        assert!(folder.begin("link/file").is_err());

        let mut begun = folder.begin("a/b/c").unwrap();
        begun.file.write_all(b"content").unwrap();
        begun.settle(Some(1_500)).unwrap();
        assert_eq!(fs::read(path.join("a/b/c")).unwrap(), b"content");
        let modified = fs::metadata(path.join("a/b/c"))
            .unwrap()
            .modified()
            .unwrap();
        assert_eq!(modified, UNIX_EPOCH + Duration::from_millis(1_500));
        // A file that is replaced keeps its mode.
        let place = path.join("a/b/c");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o600)).unwrap();
        folder.begin("a/b/c").unwrap().settle(None).unwrap();
        assert_eq!(
            fs::metadata(&place).unwrap().permissions().mode() & 0o777,
            0o600
        );
        // What is given up leaves nothing, and a file is no folder.
        drop(folder.begin("a/b/d").unwrap());
        assert!(folder.begin("a/b/c/d").is_err());
        assert_eq!(fs::read_dir(path.join("a/b")).unwrap().count(), 1);
    }
}
