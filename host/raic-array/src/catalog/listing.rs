//! Lists files. A page costs the same however many files there are: each step is one look-up in the
//! index of names, and what has a common prefix is skipped.

use rusqlite::{Connection, OptionalExtension as _};

use super::{Catalog, VersionId, buckets, files};
use crate::{FileInfo, Result};

/// What is listed of each file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listed {
    /// What its name stands for now, unless that is a delete mark.
    #[default]
    Current,
    /// Each of its versions, the newest first, and delete marks.
    Versions,
}

/// Which files to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// What is listed of each file.
    pub listed: Listed,
    /// Name of the bucket.
    pub bucket: String,
    /// The text that names begin with.
    pub prefix: String,
    /// What ends a common prefix: names that have it behind `prefix` are told once, as the text up
    /// to it. Empty if every file is to be listed.
    pub delimiter: String,
    /// The last entry of the page before; empty for the first page.
    pub after: String,
    /// The version of `after` that was the last entry of the page before, if versions are listed.
    pub after_version: Option<VersionId>,
    /// Most entries of the page.
    pub limit: usize,
}

/// A page of a list of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The files, in the order of the bytes of their names. They do not have their shares.
    pub files: Vec<FileInfo>,
    /// The common prefixes, in the order of their bytes.
    pub prefixes: Vec<String>,
    /// What [`ListRequest::after`] is for the next page; `None` on the last one.
    pub next: Option<String>,
    /// What [`ListRequest::after_version`] is for the next page.
    pub next_version: Option<VersionId>,
}

/// Returns the first text behind all that begin with `prefix`; `None` if there is none.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Behind the last code point before the surrogates comes the first one after them.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// Where a list goes on.
enum From {
    /// With the name itself, if there is one.
    At(String),
    Behind(String),
    /// With the versions of a name that are older than the one of this number.
    Within(String, i64),
}

impl ListRequest {
    /// Returns the common prefix of a name; `None` if the name is listed itself.
    fn common<'a>(&self, name: &'a str) -> Option<&'a str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = name.get(self.prefix.len()..)?;
        let end = self.prefix.len() + rest.find(&self.delimiter)? + self.delimiter.len();
        name.get(..end)
    }

    /// Returns where the page begins; `None` if nothing is left.
    fn start(&self) -> Option<From> {
        if self.after < self.prefix || self.after.is_empty() {
            return Some(From::At(self.prefix.clone()));
        }
        match self.common(&self.after) {
            // The page before ended with a common prefix, or within one that it told.
            Some(common) => successor(common).map(From::At),
            None => Some(From::Behind(self.after.clone())),
        }
    }

    /// Returns where the page begins among the versions of the last name of the page before.
    fn start_within(&self, c: &Connection, bucket: i64) -> Result<Option<From>> {
        let Some(version) = self
            .after_version
            .filter(|_| self.listed == Listed::Versions)
        else {
            return Ok(None);
        };
        let sql = "SELECT sequence FROM files WHERE version = ?1 AND bucket = ?2 AND name = ?3";
        let sequence = c
            .prepare_cached(sql)?
            .query_row((version, bucket, &self.after), |row| row.get(0))
            .optional()?;
        Ok(Some(match sequence {
            Some(sequence) => From::Within(self.after.clone(), sequence),
            // It was removed since. Some versions of its name may be told again, but none is left
            // out.
            None => From::Within(self.after.clone(), i64::MAX),
        }))
    }
}

fn list(c: &Connection, request: &ListRequest) -> Result<ListPage> {
    let bucket = buckets::find(c, &request.bucket)?;
    let mut page = ListPage::default();
    let mut last: Option<(String, Option<VersionId>)> = None;
    let end = successor(&request.prefix);
    let (of_each, order) = match request.listed {
        Listed::Current => (
            "INDEXED BY files_current WHERE is_current AND NOT is_delete_mark",
            "name",
        ),
        Listed::Versions => (
            "INDEXED BY files_versions WHERE true",
            "name, sequence DESC",
        ),
    };
    let mut from = request.start();
    let mut next = None;
    // A marker that this list never gave may lie before the prefix, or within a common one.
    if matches!(from, Some(From::Behind(_)))
        && let Some(within) = request.start_within(c, bucket.id)?
    {
        next = from.replace(within);
    }
    'seek: while let Some(start) = from.take() {
        from = next.take();
        let (start, comparison, older) = match start {
            From::At(name) => (name, ">=", i64::MAX),
            From::Behind(name) => (name, ">", i64::MAX),
            From::Within(name, older) => (name, "=", older),
        };
        // The end is a bound of the index, too, so that nothing behind it is read.
        let (bound, end) = match &end {
            Some(end) => ("AND name < ?3", end.as_str()),
            None => ("AND ?3 = ''", ""),
        };
        let sql = format!(
            "SELECT {} FROM files {of_each}
               AND bucket = ?1 AND name {comparison} ?2 {bound} AND sequence < ?4
             ORDER BY {order}",
            files::COLUMNS
        );
        let mut statement = c.prepare_cached(&sql)?;
        let mut rows = statement.query((bucket.id, start, end, older))?;
        while let Some(row) = rows.next()? {
            if page.files.len() + page.prefixes.len() == request.limit {
                if let Some((name, version)) = last {
                    page.next = Some(name);
                    page.next_version = version.filter(|_| request.listed == Listed::Versions);
                }
                return Ok(page);
            }
            let name: String = row.get("name")?;
            match request.common(&name) {
                Some(common) => {
                    page.prefixes.push(common.to_owned());
                    last = Some((common.to_owned(), None));
                    from = successor(common).map(From::At);
                    continue 'seek;
                }
                None => {
                    let info = files::info(row)?;
                    last = Some((name, Some(info.version)));
                    page.files.push(info);
                }
            }
        }
    }
    Ok(page)
}

impl Catalog {
    /// Lists a page of a bucket's files.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchBucket`] if there is no such bucket.
    pub(crate) async fn list(&self, request: ListRequest) -> Result<ListPage> {
        if request.limit == 0 {
            return Ok(ListPage::default());
        }
        self.database.read(move |c| list(c, &request)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_successor_is_behind_all_that_begin_with_the_prefix(prefix in ".{1,4}", rest in ".{0,4}", other in ".{0,6}") {
            let Some(successor) = successor(&prefix) else {
                return Ok(());
            };
            prop_assert!(prefix.clone() + &rest < successor);
            if other >= prefix && other < successor {
                prop_assert!(other.starts_with(&prefix));
            }
        }
    }

    #[test]
    fn successors_step_over_what_is_no_character() {
        let of = |text: &str| successor(text);
        assert_eq!(of("a").as_deref(), Some("b"));
        assert_eq!(of("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(of("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(of("\u{10ffff}"), None);
        assert_eq!(of(""), None);
    }
}
