//! Listings: folders are walked in the order of keys, from the place where the previous page ended.

use raic_sdk::{
    Error, ErrorKind, Listed, ObjectInfo, Page, Result, answer, error, required_setting, time, uri,
    xml::Element,
};

use crate::{INCOMING, expect, request};

/// The most that is read of a folder's entries, in bytes.
const MAX_FOLDER: u32 = 4 << 20;
/// The most folders that one call asks for. A call may send 32 requests, and a missing folder costs
/// one more.
const MAX_FOLDERS: usize = 24;
/// How long to wait for a server that is still processing an upload, in milliseconds.
const PROCESSING_MS: u64 = 2_000;
/// The content of a PROPFIND: the properties that are asked for.
const PROPERTIES: &[u8] =
    b"<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/>\
    <getcontentlength/><getetag/><getlastmodified/></prop></propfind>";

/// An entry of a folder: a file, or a folder, whose name ends with `/`.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The name below what was asked for; empty for what was asked for itself.
    name: String,
    is_folder: bool,
    info: ObjectInfo,
}

/// Corrects the error of a request for this cloud's own folder.
fn of_folder(mut e: Error) -> Error {
    if e.kind == ErrorKind::NotFound {
        e.kind = ErrorKind::ContainerNotFound;
    }
    e
}

/// Checks that this cloud's own folder is there.
///
/// # Errors
/// `container-not-found` if it is missing, and whatever else the request fails with.
pub(crate) fn own_folder() -> Result<()> {
    expect(&ask("", "0")?, &[207]).map_err(of_folder)
}

/// The entries of a folder (`""`, or a key's beginning that ends with `/`), in the order of the
/// keys below them.
pub(crate) fn entries(folder: &str) -> Result<Vec<Entry>> {
    let path = uri::encode_path(folder.trim_end_matches('/'));
    // Without the slash at the end, Apache answers with a redirect.
    let path = if path.is_empty() {
        path
    } else {
        format!("{path}/")
    };
    let answer = ask(&path, "1")?;
    match expect(&answer, &[207]) {
        // A missing folder is an empty one: it was removed while its parent was listed, or never
        // made. But this cloud's own folder must be there.
        Err(e) if e.kind == ErrorKind::NotFound && !folder.is_empty() => {
            return own_folder().map(|()| Vec::new());
        }
        other => other.map_err(of_folder)?,
    }
    let document = answer.read(MAX_FOLDER)?;
    // The host's copy counts as this call's memory.
    drop(answer);
    let base = path_of(folder)?;
    let mut is_itself = false;
    let mut entries = parse(&document, &base)?;
    entries.retain(|entry| {
        let own = entry.name.is_empty();
        is_itself |= own;
        !own
    });
    // Entries that lie elsewhere were skipped. If the folder itself was among them, the server
    // knows all of them by another path.
    if !is_itself {
        return Err(other_path(&base));
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// What is known of a file.
pub(crate) fn properties(key: &str) -> Result<ObjectInfo> {
    let answer = ask(&uri::encode_path(key), "0")?;
    expect(&answer, &[207])?;
    let path = path_of(key)?;
    let parsed = parse(&answer.read(MAX_FOLDER)?, &path)?;
    let own = parsed.into_iter().next().ok_or_else(|| other_path(&path))?;
    match own.is_folder {
        true => Err(error(ErrorKind::NotFound, "this is a folder, not a file")),
        false => Ok(own.info),
    }
}

/// Asks for the properties of what is at a path (`depth` 0), or also of what is in it (1).
fn ask(path: &str, depth: &str) -> Result<raic_sdk::Response> {
    let request = request("PROPFIND", path)?
        .header("depth", depth)
        .header("content-type", "application/xml");
    request.content(PROPERTIES.to_vec()).send(None)
}

/// The decoded path of the URL of a folder or file below this cloud's own folder.
fn path_of(folder: &str) -> Result<String> {
    let url = required_setting("url")?;
    let (_, _, base) = uri::split(&url).unwrap_or_default();
    let base = base.trim_end_matches('/');
    uri::decode(&format!("{base}/{folder}"))
        .ok_or_else(|| protocol("the folder's name is not UTF-8"))
}

fn protocol(why: &str) -> Error {
    error(ErrorKind::Protocol, why)
}

fn other_path(asked: &str) -> Error {
    let why = format!(
        "the server was asked for {asked} and names its files by another path; set url to the \
         path that it knows itself by, or let the proxy before it rewrite nothing"
    );
    error(ErrorKind::Misconfigured, why)
}

/// The decoded path that an href means; `None` if it is not UTF-8. An href is a whole URL, a path
/// (some servers double its first slash), or relative to what was asked for.
fn path_in(href: &str, base: &str) -> Option<String> {
    let path = match href.split_once("://") {
        Some(_) => uri::split(href)?.2.to_owned(),
        None if href.starts_with('/') => format!("/{}", href.trim_start_matches('/')),
        None => {
            let folder = base.rfind('/').map_or("", |end| &base[..=end]);
            let href = href.strip_prefix("./").unwrap_or(href);
            return uri::decode(href).map(|href| format!("{folder}{href}"));
        }
    };
    uri::decode(&path)
}

/// Reads a multistatus (RFC 4918 section 14.16). The name of an entry is the rest of its path after
/// `base`, which ends with `/` for a folder. Entries that lie elsewhere are skipped.
fn parse(document: &[u8], base: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let document = Element::each(document, "response", |response| {
        let href = response
            .text_of("href")
            .ok_or_else(|| protocol("an entry has no href"))?
            .trim();
        let path = path_in(href, base).ok_or_else(|| protocol("an entry's name is not UTF-8"))?;
        // What was asked for may be listed without its slash, or with one that was not asked for.
        let is_itself = path.trim_end_matches('/') == base.trim_end_matches('/');
        let name = if is_itself {
            Some("")
        } else {
            path.strip_prefix(base)
        };
        let Some(name) = name else { return Ok(()) };
        let is_early = |p: &Element| {
            p.text_of("status")
                .is_some_and(|status| status.contains(" 425"))
        };
        if is_early(&response) || response.all("propstat").any(is_early) {
            let e = error(
                ErrorKind::Unavailable,
                "the server is still processing a file that was uploaded",
            );
            return Err(Error {
                retry_after_ms: Some(PROCESSING_MS),
                ..e
            });
        }
        let is_found = |p: &&Element| {
            p.text_of("status")
                .is_none_or(|status| status.contains(" 200"))
        };
        let property = response
            .all("propstat")
            .filter(is_found)
            .filter_map(|p| p.child("prop"));
        let properties: Vec<_> = property.collect();
        let property = |name| properties.iter().find_map(|p| p.child(name));
        let is_folder =
            property("resourcetype").is_some_and(|kind| kind.child("collection").is_some());
        let text = |name| property(name).map(|p| p.text.trim());
        let size = text("getcontentlength").and_then(|size| size.parse().ok());
        if !is_folder && size.is_none() {
            return Err(protocol("an entry lacks the file's size"));
        }
        let is_folder_below = is_folder && !is_itself;
        entries.push(Entry {
            name: if is_folder_below {
                format!("{}/", name.trim_end_matches('/'))
            } else {
                name.to_owned()
            },
            is_folder,
            info: ObjectInfo {
                size: size.unwrap_or(0),
                etag: text("getetag").and_then(answer::strong_etag),
                last_modified_unix_ms: text("getlastmodified").and_then(time::parse_http),
                extra: Vec::new(),
            },
        });
        Ok(())
    })?;
    if document.name != "multistatus" {
        return Err(protocol(
            "the answer to a request for a folder is not a multistatus",
        ));
    }
    Ok(entries)
}

/// The last character of a cursor that names a folder which was walked to its end. No key has that
/// character.
const DONE: char = '~';

/// A page of at most `limit` objects whose keys begin with `prefix` and come after `after`: a key,
/// or a folder that was walked to its end. A short or empty page may have a next one, since one
/// call asks for at most [`MAX_FOLDERS`] folders.
pub(crate) fn page(prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
    let folder = prefix.rfind('/').map_or("", |end| &prefix[..=end]);
    let mut walk = Walk {
        prefix,
        after,
        limit,
        folders: MAX_FOLDERS,
        found: Vec::new(),
        last: None,
    };
    let is_whole = walk.folder(folder)?;
    let next = walk.last.filter(|_| !is_whole);
    if !is_whole && next.is_none() {
        return Err(protocol("the folders nest deeper than a call may ask for"));
    }
    Ok(Page {
        entries: walk.found,
        next,
    })
}

struct Walk<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    /// How many folders may still be asked for.
    folders: usize,
    found: Vec<Listed>,
    /// How far the walk came: a key, or a folder with [`DONE`].
    last: Option<String>,
}

impl Walk<'_> {
    /// Walks a folder. Returns false if the page is full, or if it may ask for no more folders.
    fn folder(&mut self, folder: &str) -> Result<bool> {
        if self.folders == 0 {
            return Ok(false);
        }
        self.folders -= 1;
        for entry in entries(folder)? {
            let key = format!("{folder}{}", entry.name);
            let is_below =
                key.starts_with(self.prefix) || (entry.is_folder && self.prefix.starts_with(&key));
            // A folder that `after` lies in may have more, unless it was walked to its end.
            let has_more = |after: &str| {
                entry.is_folder
                    && after
                        .strip_prefix(&key)
                        .is_some_and(|rest| !rest.starts_with(DONE))
            };
            let is_past = self
                .after
                .is_some_and(|after| key.as_str() <= after && !has_more(after));
            if !is_below
                || is_past
                || key
                    .strip_prefix(INCOMING)
                    .is_some_and(|rest| rest.starts_with('/'))
            {
                continue;
            }
            if self.found.len() >= self.limit {
                return Ok(false);
            }
            if entry.is_folder {
                if !self.folder(&key)? {
                    return Ok(false);
                }
                self.last = Some(format!("{key}{DONE}"));
            } else {
                self.last = Some(key.clone());
                self.found.push(Listed {
                    key,
                    info: entry.info,
                });
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use raic_sdk::{
        Connector as _,
        testing::{Answer, Host},
    };

    use super::*;
    use crate::WebDav;

    fn host() -> Host {
        Host::new()
            .setting("url", "https://dav.example.com/my%20dav/raic")
            .setting("user", "me")
            .secret("account.password", "password")
    }

    fn folder(href: &str) -> String {
        format!(
            "<response><href>{href}</href><propstat><prop><resourcetype><collection/></resourcetype></prop><status>HTTP/1.1 200 OK</status></propstat></response>"
        )
    }

    fn file(href: &str) -> String {
        format!(
            "<response><href>{href}</href><propstat><prop><resourcetype/><getcontentlength>5</getcontentlength></prop><status>HTTP/1.1 200 OK</status></propstat></response>"
        )
    }

    fn multistatus(responses: &[String]) -> Answer {
        Answer::new(207).body(format!(
            "<multistatus xmlns=\"DAV:\">{}</multistatus>",
            responses.concat()
        ))
    }

    #[test]
    fn a_folders_entries_are_files_and_folders() {
        let entries = parse(
            br#"<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">
            <D:response><D:href>/my%20dav/raic/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop>
              <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
            <D:response><D:href>http://h:1/my%20dav/raic/b</D:href><D:propstat><D:prop><D:getcontentlength>5</D:getcontentlength>
              <D:getetag>"x"</D:getetag><D:resourcetype/></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
            <D:response><D:href>/my%20dav/raic/a</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop>
              <D:status>HTTP/1.1 200 OK</D:status></D:propstat>
              <D:propstat><D:prop><D:getetag/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat></D:response>
            </D:multistatus>"#,
            "/my dav/raic/",
        )
        .unwrap();
        let names: Vec<_> = entries
            .iter()
            .map(|e| (e.name.as_str(), e.info.size))
            .collect();
        assert_eq!(names, [("", 0), ("b", 5), ("a/", 0)]);
        assert_eq!(entries[1].info.etag.as_deref(), Some("\"x\""));
    }

    #[test]
    fn hrefs_may_be_relative_or_begin_with_two_slashes() {
        let own = folder("/my%20dav/raic/");
        for href in [
            "/my%20dav/raic/a",
            "//my%20dav/raic/a",
            "a",
            "./a",
            "https://other.name/my%20dav/raic/a",
        ] {
            let (entries, _) = host()
                .answer(multistatus(&[own.clone(), file(href)]))
                .run(|| entries(""));
            assert_eq!(entries.unwrap()[0].name, "a", "{href}");
        }
    }

    /// A proxy that rewrites paths once made every folder count as empty, and every file as
    /// missing.
    #[test]
    fn a_server_that_knows_itself_by_another_path_is_an_error_and_no_empty_folder() {
        let other = || multistatus(&[folder("/internal/raic/"), file("/internal/raic/a")]);
        let (listed, _) = host()
            .answer(other())
            .run(|| WebDav::list(String::new(), None, 10));
        assert_eq!(listed.unwrap_err().kind, ErrorKind::Misconfigured);
        let found = || multistatus(&[file("/internal/raic/a")]);
        let (head, _) = host().answer(found()).run(|| WebDav::head("a".to_owned()));
        assert_eq!(head.unwrap_err().kind, ErrorKind::Misconfigured);
    }

    /// Every shareset is a folder. A prefix with 32 of them could once never be listed again.
    #[test]
    fn a_hundred_folders_are_listed_by_pages_that_each_ask_for_a_few() {
        let base = "/my%20dav/raic/";
        let top: Vec<String> = (0..100)
            .map(|i| folder(&format!("{base}shares/aa/{i:03}/")))
            .collect();
        let top = || multistatus(&[&[folder(&format!("{base}shares/aa/"))], &top[..]].concat());
        // Every third folder is empty, as deletions leave them.
        let below = |i: usize| {
            let own = format!("{base}shares/aa/{i:03}/");
            let files = if i.is_multiple_of(3) {
                vec![]
            } else {
                vec![file(&format!("{own}0")), file(&format!("{own}1"))]
            };
            multistatus(&[vec![folder(&own)], files].concat())
        };
        let (mut keys, mut cursor, mut next_folder, mut pages) = (Vec::new(), None::<String>, 0, 0);
        loop {
            let mut host = host().answer(top());
            let asked = (100 - next_folder).min(MAX_FOLDERS - 1);
            for i in next_folder..next_folder + asked {
                host = host.answer(below(i));
            }
            let after = cursor.clone();
            let (page, sent) = host.run(|| WebDav::list("shares/aa/".to_owned(), after, 1000));
            let page = page.unwrap();
            assert!(sent.len() <= MAX_FOLDERS);
            keys.extend(page.entries.into_iter().map(|e| e.key));
            (cursor, next_folder, pages) = (page.next, next_folder + asked, pages + 1);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((keys.len(), pages), (132, 5));
        assert!(keys.is_sorted());
    }

    #[test]
    fn a_file_that_the_server_still_looks_at_is_waited_for() {
        let early = "<response><href>/my%20dav/raic/a</href><propstat><prop><getcontentlength/></prop><status>HTTP/1.1 425 Too Early</status></propstat></response>";
        let answer = multistatus(&[folder("/my%20dav/raic/"), early.to_owned()]);
        let (listed, _) = host()
            .answer(answer)
            .run(|| WebDav::list(String::new(), None, 10));
        let e = listed.unwrap_err();
        assert_eq!(
            (e.kind, e.retry_after_ms),
            (ErrorKind::Unavailable, Some(PROCESSING_MS)),
            "it takes seconds, and all tries would be over in one"
        );
        let (e, _) = host()
            .answer(Answer::new(425))
            .run(|| WebDav::head("a".to_owned()));
        assert_eq!(e.unwrap_err().kind, ErrorKind::Unavailable);
    }
}
