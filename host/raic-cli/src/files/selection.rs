//! Selects files by their paths below a folder.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Failed, Outcome};

/// Which files are meant: those that match a pattern, if there are any, and none that is excluded.
#[derive(Debug)]
pub(super) struct Selection {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

fn globs(patterns: &[String]) -> Outcome<GlobSet> {
    let wrong = |pattern: &str, e: globset::Error| {
        Failed::usage(format!("{pattern:?} is no pattern: {}", e.kind()))
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        // As in a .gitignore: a pattern without a slash is about any part of a path, and one that
        // ends with a slash about a folder.
        let pattern = pattern.strip_suffix('/').unwrap_or(pattern);
        let anchored = match pattern.contains('/') {
            true => pattern.trim_start_matches('/').to_owned(),
            false => format!("**/{pattern}"),
        };
        let glob = GlobBuilder::new(&anchored)
            .literal_separator(true)
            .build()
            .map_err(|e| wrong(pattern, e))?;
        set.add(glob);
    }
    set.build().map_err(|e| wrong(&patterns.join(" "), e))
}

impl Selection {
    pub(super) fn new(include: &[String], exclude: &[String]) -> Outcome<Self> {
        Ok(Self {
            include: match include {
                [] => None,
                patterns => Some(globs(patterns)?),
            },
            exclude: globs(exclude)?,
        })
    }

    /// Returns whether the file with that path below the folder is meant.
    pub(super) fn has(&self, path: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(path)) && !self.excludes(path)
    }

    /// Returns whether a file or folder is excluded, or a folder that it is in.
    pub(super) fn excludes(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at);
        ends.chain([path.len()])
            .any(|end| self.exclude.is_match(&path[..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(include: &[&str], exclude: &[&str]) -> Vec<&'static str> {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let selection = Selection::new(&texts(include), &texts(exclude)).unwrap();
        let all = [
            "a.jpg",
            "a.txt",
            "2026/a.jpg",
            "2026/raw/b.jpg",
            "2026/raw/c.txt",
        ];
        all.into_iter().filter(|path| selection.has(path)).collect()
    }

    #[test]
    fn patterns_select_by_the_last_part_or_by_the_whole_path() {
        assert_eq!(selected(&[], &[]).len(), 5);
        assert_eq!(selected(&["*.txt"], &[]), ["a.txt", "2026/raw/c.txt"]);
        assert_eq!(selected(&["2026/*.jpg"], &[]), ["2026/a.jpg"]);
        assert_eq!(
            selected(&["2026/**"], &["*.txt"]),
            ["2026/a.jpg", "2026/raw/b.jpg"]
        );
        assert_eq!(selected(&["/a.*"], &["*.jpg"]), ["a.txt"]);
        // What is in an excluded folder is excluded.
        for folder in ["raw", "raw/", "2026/raw"] {
            assert_eq!(selected(&[], &[folder]).len(), 3, "{folder}");
        }
        assert!(Selection::new(&["[".to_owned()], &[]).is_err());
    }
}
