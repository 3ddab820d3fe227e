//! Listings: folders are walked in the order of keys, from where the page before ended.

use raic_sdk::{
    Error, ErrorKind, Listed, ObjectInfo, Page, Result, answer, error, required_setting, time, uri,
    xml::Element,
};

use crate::{INCOMING, expect, request};

/// The most that is read of a folder's entries.
const MAX_FOLDER: u32 = 4 << 20;
const PROPERTIES: &[u8] =
    b"<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/>\
    <getcontentlength/><getetag/><getlastmodified/></prop></propfind>";

/// What lies in a folder: a file, or a folder, whose name ends with `/`.
#[derive(Debug)]
pub(crate) struct Entry {
    name: String,
    info: ObjectInfo,
}

/// The error of a request for this cloud's own folder.
fn of_folder(mut e: Error) -> Error {
    if e.kind == ErrorKind::NotFound {
        e.kind = ErrorKind::ContainerNotFound;
    }
    e
}

/// That this cloud's own folder is there.
///
/// # Errors
/// `container-not-found`, and whatever else the request fails with.
pub(crate) fn own_folder() -> Result<()> {
    expect(&ask("", "0")?, &[207]).map_err(of_folder)
}

/// The entries of a folder (`""`, or a key's beginning that ends with `/`), in the order of the keys below them.
pub(crate) fn entries(folder: &str) -> Result<Vec<Entry>> {
    let path = uri::encode_path(folder.trim_end_matches('/'));
    // With its slash, or Apache answers with a redirect.
    let path = if path.is_empty() { path } else { format!("{path}/") };
    let answer = ask(&path, "1")?;
    match expect(&answer, &[207]) {
        // A folder may go while its parent is listed, or have never been; unless all of them have not.
        Err(e) if e.kind == ErrorKind::NotFound && !folder.is_empty() => {
            return own_folder().map(|()| Vec::new());
        }
        other => other.map_err(of_folder)?,
    }
    parse(&answer.read(MAX_FOLDER)?, &path_of(folder)?)
}

/// What is known of a file.
pub(crate) fn properties(key: &str) -> Result<ObjectInfo> {
    let answer = ask(&uri::encode_path(key), "0")?;
    expect(&answer, &[207])?;
    let (folder, name) =
        key.rsplit_once('/').map_or(("", key), |(folder, name)| (&key[..=folder.len()], name));
    let found = parse(&answer.read(MAX_FOLDER)?, &path_of(folder)?)?;
    let found = found.into_iter().find(|entry| entry.name == name).map(|entry| entry.info);
    found.ok_or_else(|| error(ErrorKind::NotFound, "a folder is there, and no file"))
}

fn ask(path: &str, depth: &str) -> Result<raic_sdk::Response> {
    let request = request("PROPFIND", path)?.header("depth", depth).header("content-type", "application/xml");
    request.content(PROPERTIES.to_vec()).send(None)
}

/// The path of a folder's URL, decoded.
fn path_of(folder: &str) -> Result<String> {
    let url = required_setting("url")?;
    let (_, _, base) = uri::split(&url).unwrap_or_default();
    uri::decode(&format!("{base}/{folder}")).ok_or_else(|| protocol("the folder's name is not UTF-8"))
}

fn protocol(why: &str) -> Error {
    error(ErrorKind::Protocol, why)
}

/// Reads a multistatus (RFC 4918 section 14.16) of the folder that has the path `base`, which ends with `/`.
fn parse(document: &[u8], base: &str) -> Result<Vec<Entry>> {
    let document = Element::parse(document)?;
    if document.name != "multistatus" {
        return Err(protocol("a folder was asked for, and something else answered"));
    }
    let mut entries = Vec::new();
    for response in document.all("response") {
        let href = response.text_of("href").ok_or_else(|| protocol("an entry has no href"))?.trim();
        // A path, or a whole URL.
        let path = if href.contains("://") { uri::split(href).unwrap_or_default().2 } else { href };
        let path = uri::decode(path).ok_or_else(|| protocol("an entry's name is not UTF-8"))?;
        let Some(name) = path.strip_prefix(base).filter(|name| !name.is_empty()) else { continue };
        let found = |p: &&Element| p.text_of("status").is_none_or(|status| status.contains(" 200"));
        let property = response.all("propstat").filter(found).filter_map(|p| p.child("prop"));
        let properties: Vec<_> = property.collect();
        let property = |name| properties.iter().find_map(|p| p.child(name));
        let is_folder = property("resourcetype").is_some_and(|kind| kind.child("collection").is_some());
        let text = |name| property(name).map(|p| p.text.trim());
        let size = text("getcontentlength").and_then(|size| size.parse().ok());
        if !is_folder && size.is_none() {
            return Err(protocol("a file's size is not told"));
        }
        entries.push(Entry {
            name: if is_folder { format!("{}/", name.trim_end_matches('/')) } else { name.to_owned() },
            info: ObjectInfo {
                size: size.unwrap_or(0),
                etag: text("getetag").and_then(answer::strong_etag),
                last_modified_unix_ms: text("getlastmodified").and_then(time::parse_http),
                extra: Vec::new(),
            },
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// At most `limit` objects whose keys begin with `prefix`, after the key `after`.
pub(crate) fn page(prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
    let mut found = Vec::new();
    // One more than asked tells whether there is a next page.
    let folder = prefix.rfind('/').map_or("", |end| &prefix[..=end]);
    walk(folder, prefix, after, limit + 1, &mut found)?;
    let is_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| is_more).map(|last| last.key.clone());
    Ok(Page { entries: found, next })
}

fn walk(
    folder: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    found: &mut Vec<Listed>,
) -> Result<()> {
    for entry in entries(folder)? {
        if found.len() >= limit {
            break;
        }
        let key = format!("{folder}{}", entry.name);
        let is_folder = key.ends_with('/');
        let is_below = key.starts_with(prefix) || (is_folder && prefix.starts_with(&key));
        // A folder that `after` lies in may have more.
        let is_past =
            after.is_some_and(|after| key.as_str() <= after && !(is_folder && after.starts_with(&key)));
        if !is_below || is_past || key.strip_prefix(INCOMING).is_some_and(|rest| rest.starts_with('/')) {
            continue;
        }
        match is_folder {
            true => walk(&key, prefix, after, limit, found)?,
            false => found.push(Listed { key, info: entry.info }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let names: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.info.size)).collect();
        assert_eq!(names, [("a/", 0), ("b", 5)]);
        assert_eq!(entries[1].info.etag.as_deref(), Some("\"x\""));
    }
}
