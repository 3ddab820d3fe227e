//! Azure Blob Storage ("Blob Storage REST API"): block blobs, each put whole.

mod answer;
mod login;
mod signing;

use answer::expect;
use raic_sdk::{
    BASE64, Body, ByteRange, Capabilities, Connector, CreateOnly, Digests as _, Error, ErrorKind,
    Extra, Listed, ObjectInfo, Page, Payload, Response, Result, WriteMode,
    answer::{quoted, range_header},
    conditions, error, required_setting, time,
    xml::Element,
};
use signing::Unsigned;

/// The most that is read of a listing, in bytes: 1000 blobs with their properties.
const MAX_LISTING: u32 = 4 << 20;
/// The most pages that are read in search of an object. With what else the call sends, that is
/// fewer than the 32 requests it may send.
const MAX_PAGES: usize = 24;

/// The Azure connector.
#[derive(Debug)]
pub struct Azure;

raic_sdk::connector!(Azure);

/// An etag without quotes: headers have them, listings do not.
fn bare(etag: &str) -> String {
    etag.trim().trim_matches('"').to_owned()
}

fn info(answer: &Response) -> Result<ObjectInfo> {
    let info = raic_sdk::answer::info(answer)?;
    Ok(ObjectInfo {
        etag: info.etag.as_deref().map(bare),
        ..info
    })
}

/// Adds the condition that the object has that etag.
fn conditional(request: Unsigned, if_match: Option<&str>) -> Unsigned {
    match if_match {
        Some(etag) => request.header("if-match", quoted(etag)),
        None => request,
    }
}

impl Connector for Azure {
    fn describe() -> Result<Extra> {
        let capabilities = Capabilities::new(CreateOnly::Native).if_match();
        // One Put Blob takes 5,000 MiB.
        Ok(capabilities
            .ordered()
            .strong()
            .max_object_size(5000 << 20)
            .describe())
    }

    fn probe() -> Result<()> {
        list_page("", None, 1).map(drop)
    }

    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let mut request = Unsigned::object("PUT", &key)
            .header("x-ms-blob-type", "BlockBlob")
            .header("content-type", "application/octet-stream");
        // TLS protects the bytes; without it their digest does.
        if required_setting("endpoint")?.starts_with("http:") {
            request = request.header("content-md5", BASE64.encode(&content.md5()));
        }
        let request = match &mode {
            WriteMode::Overwrite => request,
            WriteMode::CreateOnly => request.header("if-none-match", "*"),
            WriteMode::IfMatch(etag) => conditional(request, Some(etag)),
        };
        let answer = request.send(Some(content))?;
        expect(&answer, &[201]).map_err(|e| conditions::of_put(e, &mode))?;
        let last_modified_unix_ms = answer
            .header("last-modified")
            .and_then(|d| time::parse_http(&d));
        let etag = raic_sdk::answer::etag(&answer).as_deref().map(bare);
        Ok(ObjectInfo {
            size: content.size(),
            etag,
            last_modified_unix_ms,
            extra: Vec::new(),
        })
    }

    fn get(
        key: String,
        range: Option<ByteRange>,
        if_match: Option<String>,
    ) -> Result<(ObjectInfo, Body)> {
        let mut request = conditional(Unsigned::object("GET", &key), if_match.as_deref());
        if let Some(range) = range {
            request = request.header("x-ms-range", range_header(range));
        }
        let answer = request.send(None)?;
        expect(&answer, &[200, 206])?;
        let info = info(&answer)?;
        // Azurite does not refuse such a range: it answers without bytes.
        if range.is_some_and(|range| range.offset >= info.size) {
            let why = format!(
                "the range begins past the end of the object ({} bytes)",
                info.size
            );
            return Err(error(ErrorKind::RangeNotSatisfiable, why));
        }
        Ok((info, Response::into_body(answer)?))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        let answer = Unsigned::object("HEAD", &key).send(None)?;
        expect(&answer, &[200])?;
        info(&answer)
    }

    fn delete(key: String, if_match: Option<String>) -> Result<()> {
        // The blob's snapshots, if somebody made some, are deleted with it: else it could never be
        // deleted.
        let request = Unsigned::object("DELETE", &key).header("x-ms-delete-snapshots", "include");
        let answer = conditional(request, if_match.as_deref()).send(None)?;
        conditions::or_gone(expect(&answer, &[202]), ErrorKind::NotFound)
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        list_page(&prefix, cursor, limit)
    }

    fn create_container() -> Result<()> {
        let answer = Unsigned::container("PUT")
            .query("restype", "container")
            .send(None)?;
        // A container of that name belongs to this account, since names are per account.
        conditions::or_gone(expect(&answer, &[201]), ErrorKind::AlreadyExists)
    }

    fn delete_container() -> Result<()> {
        // Delete Container removes all that is in the container, so objects are looked for before.
        // Folders of an account with a hierarchical namespace do not count: a page that has only
        // folders is empty, and the next may have objects.
        let mut cursor = None;
        for _ in 0..MAX_PAGES {
            cursor = match list_page("", cursor, 1000) {
                Ok(page) if !page.entries.is_empty() => {
                    return Err(error(
                        ErrorKind::PreconditionFailed,
                        "the container is not empty",
                    ));
                }
                Ok(page) => page.next,
                Err(e) if e.kind == ErrorKind::ContainerNotFound => return Ok(()),
                Err(e) => return Err(e),
            };
            if cursor.is_none() {
                break;
            }
        }
        if cursor.is_some() {
            let why = "the container has thousands of folders; remove them first";
            return Err(error(ErrorKind::PreconditionFailed, why));
        }
        let answer = Unsigned::container("DELETE")
            .query("restype", "container")
            .send(None)?;
        conditions::or_gone(expect(&answer, &[202]), ErrorKind::ContainerNotFound)
    }
}

/// A page by List Blobs.
fn list_page(prefix: &str, cursor: Option<String>, limit: u32) -> Result<Page> {
    let mut request = Unsigned::container("GET")
        .query("comp", "list")
        .query("maxresults", limit.to_string());
    if !prefix.is_empty() {
        request = request.query("prefix", prefix);
    }
    request = request.query("restype", "container");
    if let Some(marker) = cursor {
        request = request.query("marker", marker);
    }
    let answer = request.send(None)?;
    expect(&answer, &[200])?;
    parse_listing(&answer.read(MAX_LISTING)?)
}

fn parse_listing(document: &[u8]) -> Result<Page, Error> {
    let lacks = |what: &str| error(ErrorKind::Protocol, format!("the listing lacks {what}"));
    let mut entries = Vec::new();
    let result = Element::each(document, "Blob", |blob| {
        let key = blob
            .text_of("Name")
            .ok_or_else(|| lacks("a Name"))?
            .to_owned();
        let properties = blob
            .child("Properties")
            .ok_or_else(|| lacks("Properties"))?;
        // Accounts with a hierarchical namespace list folders too, which are not objects.
        if properties.text_of("ResourceType") == Some("directory") {
            return Ok(());
        }
        let size = properties
            .text_of("Content-Length")
            .and_then(|s| s.trim().parse().ok());
        let info = ObjectInfo {
            size: size.ok_or_else(|| lacks("a Content-Length"))?,
            etag: properties.text_of("Etag").map(bare),
            last_modified_unix_ms: properties
                .text_of("Last-Modified")
                .and_then(time::parse_http),
            extra: Vec::new(),
        };
        entries.push(Listed { key, info });
        Ok(())
    })?;
    if result.name != "EnumerationResults" {
        return Err(error(
            ErrorKind::Protocol,
            format!(
                "a listing was answered by <{}> instead of <EnumerationResults>",
                result.name
            ),
        ));
    }
    result.child("Blobs").ok_or_else(|| lacks("Blobs"))?;
    // An empty page may have a next one.
    let next = result
        .text_of("NextMarker")
        .filter(|marker| !marker.is_empty())
        .map(str::to_owned);
    Ok(Page { entries, next })
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host};

    use super::*;

    fn host() -> Host {
        Host::new()
            .setting("auth", "shared-key")
            .setting("account", "a")
            .setting("container", "c")
            .setting("endpoint", "https://a.blob.core.windows.net")
            .secret("key.account-key", "a2V5")
            .now(1_700_000_000_000)
    }

    fn by_token() -> Host {
        host()
            .setting("auth", "oauth")
            .setting("auth-url", "https://login.microsoftonline.com")
            .setting("tenant", "nowhere")
            .setting("application.client-id", "id")
            .secret("application.client-secret", "s")
            .token("access-token", "t0ken")
    }

    fn blob(name: &str, kind: &str) -> String {
        format!(
            "<Blob><Name>{name}</Name><Properties><Content-Length>0</Content-Length>\
             <ResourceType>{kind}</ResourceType></Properties></Blob>"
        )
    }

    #[test]
    fn folders_of_a_hierarchical_namespace_are_no_objects() {
        let page = |blobs: String, next: &str| {
            format!(
                "<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{next}</NextMarker>\
                 </EnumerationResults>"
            )
        };
        let both = page(blob("shares", "directory") + &blob("shares/x", "file"), "");
        let listed = parse_listing(both.as_bytes()).unwrap();
        assert_eq!(
            listed
                .entries
                .iter()
                .map(|e| e.key.as_str())
                .collect::<Vec<_>>(),
            ["shares/x"]
        );
        let (removed, sent) = host()
            .answer(Answer::new(200).body(page(blob("a", "directory"), "more")))
            .answer(Answer::new(200).body(page(blob("b", "directory"), "")))
            .answer(Answer::new(202))
            .run(Azure::delete_container);
        removed.unwrap();
        assert_eq!(sent[2].method, "DELETE");
    }

    #[test]
    fn a_blob_goes_with_its_snapshots() {
        let (removed, sent) = host()
            .answer(Answer::new(202))
            .run(|| Azure::delete("k".to_owned(), None));
        removed.unwrap();
        assert_eq!(sent[0].header("x-ms-delete-snapshots"), Some("include"));
    }

    /// A login for an unknown tenant or application was once retried five times.
    #[test]
    fn what_entra_does_not_know_is_a_setting() {
        let unknown = r#"{"error":"invalid_request",
            "error_description":"AADSTS90002: Tenant 'nowhere' not found."}"#;
        let (e, _) = by_token()
            .answer(Answer::new(400).body(unknown))
            .run(Azure::probe);
        let e = e.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Misconfigured);
        assert!(e.message.contains("AADSTS90002"), "{}", e.message);
    }

    /// A token has no time of this host's clock, so a wrong clock is not why one is refused.
    #[test]
    fn a_wrong_clock_is_named_only_if_it_signs() {
        let denied = || Answer::new(403).header("date", "Tue, 14 Nov 2023 23:13:00 GMT");
        let (e, _) = host().answer(denied()).run(Azure::probe);
        assert_eq!(e.unwrap_err().kind, ErrorKind::ClockSkew);
        let token = Answer::new(200).body(r#"{"access_token":"***","expires_in":3599}"#);
        let (e, _) = by_token().answer(token).answer(denied()).run(Azure::probe);
        assert_eq!(e.unwrap_err().kind, ErrorKind::PermissionDenied);
        let by_signature = host()
            .setting("auth", "sas")
            .secret("sas.signature", "sig=x");
        let (e, _) = by_signature.answer(denied()).run(Azure::probe);
        assert_eq!(e.unwrap_err().kind, ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_listing_gives_names_properties_and_the_next_marker() {
        let page = parse_listing(
            br#"<?xml version="1.0" encoding="utf-8"?>
            <EnumerationResults ServiceEndpoint="x" ContainerName="c">
            <Blobs><Blob><Name>a/b</Name><Properties>
            <Last-Modified>Mon, 12 Oct 2009 17:50:30 GMT</Last-Modified>
            <Etag>0x8CBFF45D8A29A19</Etag><Content-Length>5</Content-Length>
            </Properties></Blob></Blobs>
            <NextMarker>2!80!x</NextMarker></EnumerationResults>"#,
        )
        .unwrap();
        assert_eq!(page.next.as_deref(), Some("2!80!x"));
        assert_eq!(
            (page.entries[0].key.as_str(), page.entries[0].info.size),
            ("a/b", 5)
        );
        assert_eq!(
            page.entries[0].info.etag.as_deref(),
            Some("0x8CBFF45D8A29A19")
        );
        assert_eq!(
            page.entries[0].info.last_modified_unix_ms,
            Some(1_255_369_830_000)
        );
        let empty = b"<EnumerationResults><Blobs/><NextMarker>m</NextMarker></EnumerationResults>";
        assert_eq!(parse_listing(empty).unwrap().next.as_deref(), Some("m"));
    }
}
