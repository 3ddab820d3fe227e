//! The JSON API ("Cloud Storage JSON API", v1).

use raic_sdk::{
    BASE64, Body, ByteRange, Digests as _, ErrorKind, Listed, ObjectInfo, Page, Payload, Request,
    Response, Result, error,
    json::{self, quote},
    required_setting, setting, time, uri,
};

use crate::{answer::expect, info, login::send};

/// The most that is read of a listing, or of an object's metadata, in bytes.
const MAX_LISTING: u32 = 4 << 20;
/// The most pages that are asked for in search of one object: an empty page may have a next one.
const MAX_PAGES: usize = 8;
/// The fields that a listing asks for.
const FIELDS: &str = "items(name,size,generation,updated),nextPageToken";

fn bucket_url() -> Result<String> {
    Ok(format!(
        "{}/storage/v1/b/{}",
        required_setting("endpoint")?,
        uri::encode(&required_setting("bucket")?)
    ))
}

fn object_url(key: &str) -> Result<String> {
    Ok(format!("{}/o/{}", bucket_url()?, uri::encode(key)))
}

/// The query of a request, of the items that have a value. If the setting `user-project` names the
/// project that pays, it is added.
fn query(items: &[(&str, Option<&str>)]) -> String {
    let payer = setting("user-project");
    let payer = [("userProject", payer.as_deref())];
    let items = items.iter().chain(&payer);
    let given =
        items.filter_map(|(name, value)| Some(format!("{name}={}", uri::encode((*value)?))));
    given.collect::<Vec<_>>().join("&")
}

pub(crate) fn put(key: &str, content: &Payload, generation: Option<&str>) -> Result<ObjectInfo> {
    let (endpoint, bucket) = (
        required_setting("endpoint")?,
        uri::encode(&required_setting("bucket")?),
    );
    let query = query(&[
        ("ifGenerationMatch", generation),
        ("name", Some(key)),
        ("uploadType", Some("media")),
    ]);
    let url = format!("{endpoint}/upload/storage/v1/b/{bucket}/o?{query}");
    let build =
        || Ok(Request::new("POST", url.clone()).header("content-type", "application/octet-stream"));
    let answer = send(build, Some(content))?;
    expect(&answer, &[200])?;
    let stored = json::parse(&answer.read(MAX_LISTING)?)?;
    // TLS protects the bytes; without it their digest does.
    let digest = json::text(&stored, "/md5Hash").filter(|_| endpoint.starts_with("http:"));
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
    let url = format!(
        "{}?{}",
        object_url(key)?,
        query(&[("alt", Some("media")), ("ifGenerationMatch", generation)])
    );
    let build = || {
        let request = Request::new("GET", url.clone());
        Ok(match range {
            Some(range) => request.header("range", &raic_sdk::answer::range_header(range)),
            None => request,
        })
    };
    let answer = send(build, None)?;
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
            _ => break,
        }
    }
    Err(error(ErrorKind::NotFound, "there is no such object"))
}

pub(crate) fn delete(key: &str, generation: Option<&str>) -> Result<()> {
    let query = query(&[("ifGenerationMatch", generation)]);
    let separator = if query.is_empty() { "" } else { "?" };
    let url = format!("{}{separator}{query}", object_url(key)?);
    expect(
        &send(|| Ok(Request::new("DELETE", url.clone())), None)?,
        &[200, 204],
    )
}

pub(crate) fn list(prefix: &str, cursor: Option<String>, limit: u32) -> Result<Page> {
    let query = query(&[
        ("fields", Some(FIELDS)),
        ("maxResults", Some(&limit.to_string())),
        ("pageToken", cursor.as_deref()),
        ("prefix", Some(prefix)),
    ]);
    let url = format!("{}/o?{query}", bucket_url()?);
    let answer = send(|| Ok(Request::new("GET", url.clone())), None)?;
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
    let content = format!(
        r#"{{"name":{},"location":{}}}"#,
        quote(&required_setting("bucket")?),
        quote(&required_setting("location")?)
    );
    let project = setting("project");
    let project = project.ok_or_else(|| {
        error(
            ErrorKind::Misconfigured,
            "a bucket is created in a project; set `project` to the project's id",
        )
    })?;
    let url = format!(
        "{}/storage/v1/b?project={}",
        required_setting("endpoint")?,
        uri::encode(&project)
    );
    let build = || {
        let request = Request::new("POST", url.clone()).header("content-type", "application/json");
        Ok(request.content(content.clone().into_bytes()))
    };
    expect(&send(build, None)?, &[200])
}

pub(crate) fn delete_bucket() -> Result<()> {
    let url = bucket_url()?;
    expect(
        &send(|| Ok(Request::new("DELETE", url.clone())), None)?,
        &[200, 204],
    )
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
            "https://storage.googleapis.com/upload/storage/v1/b/b/o?ifGenerationMatch=0&name=a%2Fb&uploadType=media"
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
}
