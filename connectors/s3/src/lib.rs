//! Amazon S3, and every service that speaks its API.
//!
//! Sources: the Amazon S3 API reference (REST), and "Signature Version 4" of the AWS general reference.

mod answer;
mod signing;

use raic_sdk::{
    BASE64, Body, ByteRange, Connector, Error, ErrorKind, Extra, Listed, ObjectInfo, Page, Payload, Request,
    Result, WriteMode, conditions, error, required_setting, setting, uri, xml::Element,
};

use crate::signing::Target;

/// The connector.
#[derive(Debug)]
pub struct S3;

/// The largest answer to a listing of 1000 keys, with room to spare.
const MAX_LISTING: u32 = 4 << 20;

raic_sdk::connector!(S3);

impl Connector for S3 {
    fn describe() -> Result<Extra> {
        let pairs = [
            ("create-only", setting("create-only").unwrap_or_else(|| "native".to_owned())),
            ("if-match", setting("if-match").unwrap_or_else(|| "native".to_owned())),
            ("max-object-size", (5_u64 << 30).to_string()),
            ("ordered-list", "yes".to_owned()),
            ("consistency", "strong".to_owned()),
        ];
        Ok(pairs.map(|(name, value)| (name.to_owned(), value)).into())
    }

    fn probe() -> Result<()> {
        list_page("", None, 1).map(drop)
    }

    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let target = Target::object(&key)?;
        let mut headers = vec![("content-type", "application/octet-stream".to_owned())];
        match &mode {
            WriteMode::Overwrite => {}
            WriteMode::IfMatch(_) if setting("if-match").as_deref() == Some("none") => {
                return Err(error(
                    ErrorKind::Unsupported,
                    "this service does not replace by etag (setting if-match)",
                ));
            }
            WriteMode::IfMatch(etag) => headers.push(("if-match", etag.clone())),
            WriteMode::CreateOnly => match setting("create-only").as_deref() {
                Some("none") => {}
                Some("emulated") => conditions::is_absent(Self::head(key.clone()))?,
                _ => headers.push(("if-none-match", "*".to_owned())),
            },
        }
        let digest = || content.sha256();
        let answer = target.request("PUT", &[], headers, digest)?.send(Some(content))?;
        answer::expect(&answer, &[200]).map_err(|e| conditions::of_put(e, &mode))?;
        let (etag, last_modified_unix_ms) = (raic_sdk::answer::etag(&answer), None);
        Ok(ObjectInfo { size: content.size(), etag, last_modified_unix_ms, extra: Vec::new() })
    }

    fn get(key: String, range: Option<ByteRange>, if_match: Option<String>) -> Result<(ObjectInfo, Body)> {
        let mut headers = Vec::new();
        if let Some(range) = range {
            headers.push(("range", raic_sdk::answer::range_header(range)));
        }
        if let Some(etag) = if_match {
            headers.push(("if-match", etag));
        }
        let answer = Target::object(&key)?.request("GET", &[], headers, Vec::new)?.send(None)?;
        answer::expect(&answer, &[200, 206])?;
        let info = raic_sdk::answer::info(&answer)?;
        Ok((info, raic_sdk::Response::into_body(answer)?))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        let answer = Target::object(&key)?.request("HEAD", &[], Vec::new(), Vec::new)?.send(None)?;
        answer::expect(&answer, &[200])?;
        raic_sdk::answer::info(&answer)
    }

    fn delete(key: String, if_match: Option<String>) -> Result<()> {
        // DeleteObject takes If-Match at Amazon only, so it is checked before: not atomic, and not said to be.
        if let Some(etag) = if_match
            && !conditions::still_has(Self::head(key.clone()), &etag)?
        {
            return Ok(());
        }
        let answer = Target::object(&key)?.request("DELETE", &[], Vec::new(), Vec::new)?.send(None)?;
        conditions::or_gone(answer::expect(&answer, &[200, 202, 204]), ErrorKind::NotFound)
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        list_page(&prefix, cursor, limit)
    }

    fn create_container() -> Result<()> {
        let region = required_setting("region")?;
        let amazon = required_setting("endpoint")?.ends_with(".amazonaws.com");
        let content = if amazon && region != "us-east-1" {
            format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            )
        } else {
            String::new()
        };
        let digest = || raic_sdk::sha256(content.as_bytes());
        let request = Target::bucket()?.request("PUT", &[], Vec::new(), digest)?;
        let answer = request.content(content.clone().into_bytes()).send(None)?;
        match answer::expect(&answer, &[200]) {
            Err(e) if e.provider_code.as_deref() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            other => other,
        }
    }

    fn delete_container() -> Result<()> {
        let answer = Target::bucket()?.request("DELETE", &[], Vec::new(), Vec::new)?.send(None)?;
        conditions::or_gone(answer::expect(&answer, &[200, 204]), ErrorKind::ContainerNotFound)
    }

    fn delete_many(keys: Vec<String>) -> Result<Vec<(String, Error)>> {
        if setting("batch-delete").as_deref() == Some("none") {
            return Err(error(
                ErrorKind::Unsupported,
                "setting batch-delete: the service removes one by one",
            ));
        }
        let content = deletion(&keys).into_bytes();
        // Amazon takes a checksum of other kinds too; other services want this one.
        let headers = vec![("content-md5", BASE64.encode(&raic_sdk::md5(&content)))];
        let digest = || raic_sdk::sha256(&content);
        let request = Target::bucket()?.request("POST", &[("delete", "")], headers, digest)?;
        let answer = request.content(content.clone()).send(None)?;
        answer::expect(&answer, &[200])?;
        parse_deletion(&answer.read(MAX_LISTING)?)
    }
}

/// The request of DeleteObjects, which answers with those it could not remove.
fn deletion(keys: &[String]) -> String {
    let objects: String = keys.iter().map(|key| format!("<Object><Key>{key}</Key></Object>")).collect();
    format!("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{objects}<Quiet>true</Quiet></Delete>")
}

/// Keys that could not be removed. An answer of 200 may be an error all the same.
fn parse_deletion(document: &[u8]) -> Result<Vec<(String, Error)>> {
    let result = Element::parse(document)?;
    let text = |of: &Element, name| of.text_of(name).unwrap_or_default().trim().to_owned();
    let described = |of: &Element| {
        let code = text(of, "Code");
        let kind = answer::kind_of(&code).unwrap_or(ErrorKind::Protocol);
        Error { provider_code: Some(code), ..error(kind, text(of, "Message")) }
    };
    match result.name.as_str() {
        "DeleteResult" => {
            let failed = result.all("Error").map(|e| (text(e, "Key"), described(e)));
            Ok(failed.filter(|(_, e)| e.kind != ErrorKind::NotFound).collect())
        }
        "Error" => Err(described(&result)),
        other => Err(error(ErrorKind::Protocol, format!("a deletion was asked, <{other}> answered"))),
    }
}

/// A page by ListObjectsV2.
fn list_page(prefix: &str, cursor: Option<String>, limit: u32) -> Result<Page> {
    let limit = limit.to_string();
    // Names in the order the signature wants. `encoding-type`: a key may hold what XML cannot.
    let mut query =
        vec![("encoding-type", "url"), ("list-type", "2"), ("max-keys", &limit), ("prefix", prefix)];
    if let Some(cursor) = &cursor {
        query.insert(0, ("continuation-token", cursor));
    }
    let request: Request = Target::bucket()?.request("GET", &query, Vec::new(), Vec::new)?;
    let answer = request.send(None)?;
    answer::expect(&answer, &[200])?;
    parse_listing(&answer.read(MAX_LISTING)?)
}

fn parse_listing(document: &[u8]) -> Result<Page, Error> {
    let lacks = |what| error(ErrorKind::Protocol, format!("the listing lacks {what}"));
    let result = Element::parse(document)?;
    if result.name != "ListBucketResult" {
        return Err(error(ErrorKind::Protocol, format!("a listing was asked, <{}> answered", result.name)));
    }
    let encoded = result.text_of("EncodingType") == Some("url");
    let entries = result
        .all("Contents")
        .map(|entry| {
            let key = entry.text_of("Key").ok_or_else(|| lacks("a Key"))?;
            let key = if encoded { uri::decode_form(key) } else { Some(key.to_owned()) };
            let size = entry.text_of("Size").and_then(|s| s.trim().parse().ok());
            Ok(Listed {
                key: key.ok_or_else(|| lacks("a readable Key"))?,
                info: ObjectInfo {
                    size: size.ok_or_else(|| lacks("a Size"))?,
                    etag: entry.text_of("ETag").and_then(raic_sdk::answer::strong_etag),
                    last_modified_unix_ms: entry
                        .text_of("LastModified")
                        .and_then(raic_sdk::time::parse_rfc3339),
                    extra: Vec::new(),
                },
            })
        })
        .collect::<Result<_>>()?;
    let truncated = result.text_of("IsTruncated").map(str::trim) == Some("true");
    let next = result.text_of("NextContinuationToken").filter(|token| !token.is_empty());
    if truncated && next.is_none() {
        return Err(lacks("a NextContinuationToken though it is truncated"));
    }
    Ok(Page { entries, next: next.filter(|_| truncated).map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_removed_is_told_and_what_was_gone_is_not() {
        assert_eq!(
            deletion(&["a/b".to_owned()]),
            "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Object><Key>a/b</Key></Object><Quiet>true</Quiet></Delete>"
        );
        let failed = parse_deletion(
            b"<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>no</Message></Error>
            <Error><Key>gone</Key><Code>NoSuchKey</Code></Error></DeleteResult>",
        );
        let failed = failed.unwrap();
        assert_eq!(failed.len(), 1);
        assert_eq!((failed[0].0.as_str(), failed[0].1.kind), ("k", ErrorKind::PermissionDenied));
        assert!(parse_deletion(b"<DeleteResult/>").unwrap().is_empty());
        let e = parse_deletion(b"<Error><Code>SlowDown</Code></Error>").unwrap_err();
        assert_eq!(e.kind, ErrorKind::Throttled);
    }

    #[test]
    fn a_listing_gives_keys_sizes_etags_and_the_next_page() {
        let page = parse_listing(
            br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Name>b</Name><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
              <NextContinuationToken>t=/+</NextContinuationToken>
              <Contents><Key>shares/a%20b+c</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified>
                <ETag>&quot;fba9&quot;</ETag><Size>434234</Size></Contents>
            </ListBucketResult>"#,
        )
        .unwrap();
        assert_eq!(page.next.as_deref(), Some("t=/+"));
        let [entry] = &page.entries[..] else { panic!("one entry") };
        assert_eq!(entry.key, "shares/a b c");
        assert_eq!((entry.info.size, entry.info.etag.as_deref()), (434_234, Some("\"fba9\"")));
        assert_eq!(entry.info.last_modified_unix_ms, Some(1_255_369_830_000));
    }

    #[test]
    fn a_listing_that_cannot_go_on_is_no_end() {
        let page = parse_listing(b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>");
        assert_eq!(page.unwrap_err().kind, ErrorKind::Protocol);
    }
}
