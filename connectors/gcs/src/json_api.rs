//! The JSON API ("Cloud Storage JSON API", v1).

use raic_sdk::{
    BASE64, Body, ByteRange, Digests as _, ErrorKind, Listed, ObjectInfo, Page, Payload, Response,
    Result,
    answer::range_header,
    error,
    json::{self, json},
    required_setting, setting, time,
};

use crate::{answer::expect, info, request::Unauthorised};

/// The most that is read of a listing, or of an object's metadata, in bytes.
const MAX_LISTING: u32 = 4 << 20;
/// The most pages that are asked for in search of one object: an empty page may have a next one.
const MAX_PAGES: usize = 8;
/// The fields that a listing asks for.
const FIELDS: &str = "items(name,size,generation,updated),nextPageToken";

/// Adds the condition that the object has that generation; 0 means that there is no object.
fn conditional(request: Unauthorised, generation: Option<&str>) -> Unauthorised {
    match generation {
        Some(generation) => request.query("ifGenerationMatch", generation),
        None => request,
    }
}

pub(crate) fn put(key: &str, content: &Payload, generation: Option<&str>) -> Result<ObjectInfo> {
    let answer = conditional(Unauthorised::upload("POST"), generation)
        .query("name", key)
        .query("uploadType", "media")
        .header("content-type", "application/octet-stream")
        .send(Some(content))?;
    expect(&answer, &[200])?;
    let stored = json::parse(&answer.read(MAX_LISTING)?)?;
    // TLS protects the bytes; without it their digest does.
    let is_plain = required_setting("endpoint")?.starts_with("http:");
    let digest = json::text(&stored, "/md5Hash").filter(|_| is_plain);
    if digest.is_some_and(|digest| digest != BASE64.encode(&content.md5())) {
        return Err(error(
            ErrorKind::Integrity,
            "the service stored other bytes than were sent",
        ));
    }
    info_of(&stored)
}

pub(crate) fn get(
    key: &str,
    range: Option<ByteRange>,
    generation: Option<&str>,
) -> Result<(ObjectInfo, Body)> {
    let request = Unauthorised::object("GET", key).query("alt", "media");
    let mut request = conditional(request, generation);
    if let Some(range) = range {
        request = request.header("range", range_header(range));
    }
    let answer = request.send(None)?;
    expect(&answer, &[200, 206])?;
    Ok((info(&answer)?, Response::into_body(answer)?))
}

/// Asks for an object by a listing. Its own URL lies below the bucket, where answers are objects
/// and not documents that a connector may read.
pub(crate) fn head(key: &str) -> Result<ObjectInfo> {
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        // Of all names that begin with the key, the key itself comes first.
        let page = list(key, cursor, 1)?;
        match (page.entries.into_iter().next(), page.next) {
            (Some(entry), _) if entry.key == key => return Ok(entry.info),
            (None, Some(next)) => cursor = Some(next),
            _ => return Err(error(ErrorKind::NotFound, "there is no such object")),
        }
    }
    // The object may still be on a later page.
    Err(error(
        ErrorKind::Unavailable,
        format!("{MAX_PAGES} pages of the listing are empty, and it goes on"),
    ))
}

pub(crate) fn delete(key: &str, generation: Option<&str>) -> Result<()> {
    let answer = conditional(Unauthorised::object("DELETE", key), generation).send(None)?;
    expect(&answer, &[200, 204])
}

pub(crate) fn list(prefix: &str, cursor: Option<String>, limit: u32) -> Result<Page> {
    let mut request = Unauthorised::objects("GET")
        .query("fields", FIELDS)
        .query("maxResults", limit.to_string());
    if let Some(token) = cursor {
        request = request.query("pageToken", token);
    }
    let answer = request.query("prefix", prefix).send(None)?;
    expect(&answer, &[200]).map_err(|mut e| {
        // A missing object is the same 404, but only the bucket can be missing here.
        if e.kind == ErrorKind::NotFound {
            e.kind = ErrorKind::ContainerNotFound;
        }
        e
    })?;
    parse_listing(&answer.read(MAX_LISTING)?)
}

pub(crate) fn create_bucket() -> Result<()> {
    let content = json!({
        "name": required_setting("bucket")?,
        "location": required_setting("location")?,
    });
    let project = setting("project");
    let project = project.ok_or_else(|| {
        error(
            ErrorKind::Misconfigured,
            "a bucket is created in a project; set `project` to the project's id",
        )
    })?;
    let answer = Unauthorised::containers("POST")
        .query("project", project)
        .header("content-type", "application/json")
        .content(content.to_string().into_bytes())
        .send(None)?;
    expect(&answer, &[200])
}

pub(crate) fn delete_bucket() -> Result<()> {
    expect(&Unauthorised::container("DELETE").send(None)?, &[200, 204])
}

/// What an object's resource, as the JSON API gives it, says of the object.
fn info_of(resource: &json::Value) -> Result<ObjectInfo> {
    let lacks = |what: &str| {
        error(
            ErrorKind::Protocol,
            format!("the object's metadata lacks {what}"),
        )
    };
    Ok(ObjectInfo {
        size: json::number(resource, "/size").ok_or_else(|| lacks("a size"))?,
        etag: Some(
            json::text(resource, "/generation")
                .ok_or_else(|| lacks("a generation"))?
                .to_owned(),
        ),
        last_modified_unix_ms: json::text(resource, "/updated").and_then(time::parse_rfc3339),
        extra: Vec::new(),
    })
}

fn parse_listing(document: &[u8]) -> Result<Page> {
    let document = json::parse(document)?;
    let items = document
        .pointer("/items")
        .and_then(|items| items.as_array());
    let entry = |item: &json::Value| {
        let name = json::text(item, "/name");
        let name = name.ok_or_else(|| error(ErrorKind::Protocol, "the listing lacks a name"))?;
        Ok(Listed {
            key: name.to_owned(),
            info: info_of(item)?,
        })
    };
    // An empty page may have a next one.
    Ok(Page {
        entries: items
            .into_iter()
            .flatten()
            .map(entry)
            .collect::<Result<_>>()?,
        next: json::text(&document, "/nextPageToken").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host, payload};

    use super::*;

    fn host() -> Host {
        Host::new()
            .setting("endpoint", "https://storage.googleapis.com")
            .setting("bucket", "b")
            .setting("auth", "metadata")
            .setting("metadata", "http://169.254.169.254")
            .token("access-token", "t0ken")
            .answer(Answer::new(200).body(r#"{"access_token":"***","expires_in":3599}"#))
    }

    #[test]
    fn an_upload_is_named_and_conditional_in_its_query() {
        let stored = r#"{"size":"5","generation":"17","updated":"2026-01-02T03:04:05.678Z"}"#;
        let (info, sent) = host()
            .answer(Answer::new(200).body(stored))
            .run(|| put("a/b", &payload("hello"), Some("0")));
        let info = info.unwrap();
        assert_eq!((info.size, info.etag.as_deref()), (5, Some("17")));
        assert_eq!(
            sent[1].url,
            "https://storage.googleapis.com/upload/storage/v1/b/b/o\
             ?ifGenerationMatch=0&name=a%2Fb&uploadType=media"
        );
        assert_eq!(sent[1].body, b"hello");
    }

    #[test]
    fn the_project_that_pays_is_named_in_every_call() {
        let (_, sent) = host()
            .setting("user-project", "payer")
            .answer(Answer::new(204))
            .answer(Answer::new(200).body("{}"))
            .run(|| {
                delete("k", None)
                    .and_then(|()| list("", None, 1).map(drop))
                    .unwrap()
            });
        assert!(
            sent[1].url.ends_with("/o/k?userProject=payer"),
            "{}",
            sent[1].url
        );
        assert!(
            sent[2].url.ends_with("&userProject=payer"),
            "{}",
            sent[2].url
        );
    }

    #[test]
    fn a_head_is_a_listing_that_may_have_empty_pages() {
        let item = r#"{"items":[{"name":"k","size":"0","generation":"2"}],"nextPageToken":"more"}"#;
        let (info, sent) = host()
            .answer(Answer::new(200).body(r#"{"nextPageToken":"on"}"#))
            .answer(Answer::new(200).body(item))
            .run(|| head("k"));
        assert_eq!(info.unwrap().etag.as_deref(), Some("2"));
        assert!(
            sent[2].url.contains("&pageToken=on&prefix=k"),
            "{}",
            sent[2].url
        );
        let longer = item.replace("\"k\"", "\"kk\"");
        let (info, _) = host()
            .answer(Answer::new(200).body(longer))
            .run(|| head("k"));
        assert_eq!(info.unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn a_head_that_does_not_see_the_end_does_not_say_that_there_is_nothing() {
        let empty = || Answer::new(200).body(r#"{"nextPageToken":"on"}"#);
        let host = (0..MAX_PAGES).fold(host(), |host, _| host.answer(empty()));
        let (info, sent) = host.run(|| head("k"));
        assert_eq!(info.unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(sent.len(), 1 + MAX_PAGES);
        let last = Answer::new(200).body("{}");
        let (info, _) = self::host().answer(empty()).answer(last).run(|| head("k"));
        assert_eq!(info.unwrap_err().kind, ErrorKind::NotFound);
    }

    /// The machine's clock has no part in a token. The test's clock stands in 1970.
    #[test]
    fn a_token_that_may_not_is_no_matter_of_the_clock() {
        let denied = Answer::new(403).header("date", "Tue, 14 Nov 2023 22:13:00 GMT");
        let (e, _) = host().answer(denied).run(|| list("", None, 1));
        assert_eq!(e.unwrap_err().kind, ErrorKind::PermissionDenied);
    }
}
