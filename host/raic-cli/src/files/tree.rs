//! The files below a folder of this machine.

use std::{
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use walkdir::WalkDir;

use super::selection::Selection;
use crate::error::{Failed, Outcome};

/// A file below a folder.
#[derive(Clone, Debug)]
pub(super) struct LocalFile {
    pub(super) path: PathBuf,
    /// Its path below the folder, with `/` between the parts.
    pub(super) relative: String,
    /// Bytes of content.
    pub(super) size: u64,
    /// When it was last modified, in milliseconds since 1970.
    pub(super) modified_ms: Option<i64>,
}

/// What is below a folder.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<LocalFile>,
    /// What cannot be stored, with the reasons.
    pub(super) refused: Vec<(PathBuf, String)>,
    /// Links that were left out, with their paths below the folder.
    pub(super) links: Vec<String>,
}

/// When a file was last modified, in milliseconds since 1970.
pub(super) fn modified_ms(meta: &std::fs::Metadata) -> Option<i64> {
    let since = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// What links lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Links are followed.
    Follow,
    /// Links are left out.
    Skip,
}

impl Tree {
    /// Reads what is below a folder, in the order of the names. Empty folders are nothing.
    ///
    /// # Errors
    /// Fails if the folder itself cannot be read.
    pub(super) fn read(folder: &Path, links: Links, selection: &Selection) -> Outcome<Self> {
        let cannot = |e: &dyn std::fmt::Display| {
            Failed::other(format!("cannot read {}: {e}", folder.display()))
        };
        std::fs::read_dir(folder).map_err(|e| cannot(&e))?;
        let mut tree = Self::default();
        let walk = WalkDir::new(folder)
            .follow_links(links == Links::Follow)
            .follow_root_links(true)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| {
                let path = relative(folder, entry.path());
                path.is_none_or(|path| path.is_empty() || !selection.excludes(&path))
            });
        for entry in walk {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    let path = e.path().unwrap_or(folder).to_owned();
                    let why = match (e.loop_ancestor(), e.io_error()) {
                        (Some(_), _) => "the link leads to a folder that it is in".to_owned(),
                        (None, Some(e)) => e.to_string(),
                        (None, None) => e.to_string(),
                    };
                    tree.refused.push((path, why));
                    continue;
                }
            };
            let kind = entry.file_type();
            if kind.is_dir() {
                continue;
            }
            let Some(relative) = relative(folder, entry.path()) else {
                let why = "its path is not UTF-8".to_owned();
                tree.refused.push((entry.into_path(), why));
                continue;
            };
            if !selection.has(&relative) {
                continue;
            }
            if kind.is_symlink() {
                tree.links.push(relative);
                continue;
            }
            match entry.metadata() {
                Ok(meta) if meta.is_file() => tree.files.push(LocalFile {
                    relative,
                    size: meta.len(),
                    modified_ms: modified_ms(&meta),
                    path: entry.into_path(),
                }),
                Ok(_) => {
                    let why = "it is a pipe, a socket or a device".to_owned();
                    tree.refused.push((entry.into_path(), why));
                }
                Err(e) => tree.refused.push((entry.into_path(), e.to_string())),
            }
        }
        Ok(tree)
    }
}

fn relative(folder: &Path, path: &Path) -> Option<String> {
    let parts = path.strip_prefix(folder).ok()?.iter();
    let parts: Option<Vec<&str>> = parts.map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn a_folder_is_read_with_what_cannot_be_stored_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("b/empty")).unwrap();
        fs::write(path("b/two"), b"2").unwrap();
        fs::write(path("a"), b"1").unwrap();
        symlink("a", path("link")).unwrap();
        symlink("..", path("b/loop")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let selection = Selection::new(&[], &[]).unwrap();
        let names = |tree: &Tree| -> Vec<String> {
            tree.files
                .iter()
                .map(|file| file.relative.clone())
                .collect()
        };
        let tree = Tree::read(folder.path(), Links::Skip, &selection).unwrap();
        assert_eq!(names(&tree), ["a", "b/two"]);
        assert_eq!((tree.links.len(), tree.refused.len()), (2, 1), "{tree:?}");
        let tree = Tree::read(folder.path(), Links::Follow, &selection).unwrap();
        assert_eq!(names(&tree), ["a", "b/two", "link"]);
        assert_eq!(tree.refused.len(), 2, "the loop and the socket: {tree:?}");
        assert!(Tree::read(&path("nothing"), Links::Skip, &selection).is_err());
    }
}
