//! Amazon S3, and every service that speaks its API.
//!
//! Sources: the Amazon S3 API reference (REST), and "Signature Version 4" of the AWS general
//! reference.

mod answer;
mod signing;

use raic_sdk::{
    BASE64, Body, ByteRange, Capabilities, Connector, CreateOnly, Digests as _, Error, ErrorKind,
    Extra, Listed, ObjectInfo, Page, Payload, Response, Result, WriteMode,
    answer::{bare_etag, quoted, range_header},
    conditions, error, required_setting, setting, uri,
    xml::Element,
};

use crate::signing::Unsigned;

/// The S3 connector.
#[derive(Debug)]
pub struct S3;

/// The most that is read of a listing, in bytes: 1000 keys, with room to spare.
const MAX_LISTING: u32 = 4 << 20;

raic_sdk::connector!(S3);

impl Connector for S3 {
    fn describe() -> Result<Extra> {
        let capabilities = Capabilities::new(create_only()?);
        let capabilities = match setting("if-match").as_deref() {
            Some("none") => capabilities,
            _ => capabilities.if_match(),
        };
        // One PutObject takes 5 GiB.
        Ok(capabilities
            .ordered()
            .strong()
            .max_object_size(5 << 30)
            .describe())
    }

    fn probe() -> Result<()> {
        list_page("", None, 1).map(drop)
    }

    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let mut request =
            Unsigned::object("PUT", &key).header("content-type", "application/octet-stream");
        match &mode {
            WriteMode::Overwrite => {}
            WriteMode::IfMatch(_) if setting("if-match").as_deref() == Some("none") => {
                return Err(error(
                    ErrorKind::Unsupported,
                    "this service does not replace by etag (its setting if-match is none)",
                ));
            }
            WriteMode::IfMatch(etag) => request = request.header("if-match", quoted(etag)),
            WriteMode::CreateOnly => match create_only()? {
                CreateOnly::None => {}
                CreateOnly::Emulated => conditions::is_absent(Self::head(key))?,
                CreateOnly::Native => request = request.header("if-none-match", "*"),
            },
        }
        if setting("checksum").as_deref() == Some("md5") {
            request = request.header("content-md5", BASE64.encode(&content.md5()));
        }
        let answer = request.send(Some(content))?;
        answer::expect(&answer, &[200]).map_err(|e| conditions::of_put(e, &mode))?;
        let etag = answer.header("etag").as_deref().and_then(bare_etag);
        let last_modified_unix_ms = None;
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
        let mut request = Unsigned::object("GET", &key);
        if let Some(range) = range {
            request = request.header("range", range_header(range));
        }
        if let Some(etag) = if_match {
            request = request.header("if-match", quoted(&etag));
        }
        let answer = request.send(None)?;
        answer::expect(&answer, &[200, 206])?;
        Ok((info(&answer)?, Response::into_body(answer)?))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        let answer = Unsigned::object("HEAD", &key).send(None)?;
        match answer::expect(&answer, &[200]) {
            // A HEAD has no error document. An expired token is a bare 400; a revoked key or a
            // wrong clock is a bare 403. The error of a listing says which it is.
            Err(e) if matches!(e.http_status, Some(400 | 403)) && e.provider_code.is_none() => {
                list_page("", None, 1)?;
                Err(e)
            }
            Err(e) => Err(e),
            // Some proxies drop the length of an answer that has no content.
            Ok(()) if answer.header("content-length").is_none() => size_by_range(&key, &answer),
            Ok(()) => info(&answer),
        }
    }

    fn delete(key: String, if_match: Option<String>) -> Result<()> {
        // Only Amazon's DeleteObject takes If-Match, so a HEAD checks the etag before. That is not
        // atomic.
        if let Some(etag) = if_match
            && !conditions::still_has(Self::head(key.clone()), &etag)?
        {
            return Ok(());
        }
        let answer = Unsigned::object("DELETE", &key).send(None)?;
        conditions::or_gone(
            answer::expect(&answer, &[200, 202, 204]),
            ErrorKind::NotFound,
        )
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        list_page(&prefix, cursor, limit)
    }

    fn create_container() -> Result<()> {
        let region = required_setting("region")?;
        let endpoint = required_setting("endpoint")?;
        // Amazon's partitions: worldwide, China, and the European Sovereign Cloud.
        let amazon = [".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu"]
            .iter()
            .any(|end| endpoint.ends_with(end));
        let content = if amazon && region != "us-east-1" {
            format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            )
        } else {
            String::new()
        };
        let answer = Unsigned::container("PUT")
            .content(content.into_bytes())
            .send(None)?;
        match answer::expect(&answer, &[200]) {
            Err(e) if e.provider_code.as_deref() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            other => other,
        }
    }

    fn delete_container() -> Result<()> {
        let answer = Unsigned::container("DELETE").send(None)?;
        conditions::or_gone(
            answer::expect(&answer, &[200, 204]),
            ErrorKind::ContainerNotFound,
        )
    }

    fn delete_many(keys: Vec<String>) -> Result<Vec<(String, Error)>> {
        if setting("batch-delete").as_deref() == Some("none") {
            return Err(error(
                ErrorKind::Unsupported,
                "this service removes objects one by one (its setting batch-delete is none)",
            ));
        }
        let content = deletion(&keys).into_bytes();
        // Amazon also takes checksums of other kinds; other services want this one.
        let answer = Unsigned::container("POST")
            .query("delete", "")
            .header("content-md5", BASE64.encode(&raic_sdk::md5(&content)))
            .content(content)
            .send(None)?;
        answer::expect(&answer, &[200]).map_err(|e| {
            // What services answer that lack DeleteObjects.
            let lacks = e.http_status == Some(405)
                || matches!(
                    e.provider_code.as_deref(),
                    Some("MethodNotAllowed" | "InvalidArgument" | "InvalidRequest")
                );
            if lacks {
                Error {
                    kind: ErrorKind::Unsupported,
                    ..e
                }
            } else {
                e
            }
        })?;
        parse_deletion(&answer.read(MAX_LISTING)?)
    }
}

/// What the setting `create-only` says; `native` unless it is set.
fn create_only() -> Result<CreateOnly> {
    let way = setting("create-only").unwrap_or_else(|| "native".to_owned());
    CreateOnly::of_setting("create-only", &way)
}

/// What the headers of an object's answer say. The etag is kept without its quotes, which some
/// services write here but not in listings.
fn info(answer: &Response) -> Result<ObjectInfo> {
    let info = raic_sdk::answer::info(answer)?;
    Ok(ObjectInfo {
        etag: info.etag.as_deref().and_then(bare_etag),
        ..info
    })
}

/// What is known of an object whose HEAD gives no size: a GET of its first byte gives it.
fn size_by_range(key: &str, head: &Response) -> Result<ObjectInfo> {
    let answer = Unsigned::object("GET", key)
        .header("range", "bytes=0-0")
        .send(None)?;
    // An empty object has no first byte.
    if answer.status() == 416 {
        return Ok(ObjectInfo {
            size: 0,
            etag: head.header("etag").as_deref().and_then(bare_etag),
            last_modified_unix_ms: head
                .header("last-modified")
                .and_then(|d| raic_sdk::time::parse_http(&d)),
            extra: Vec::new(),
        });
    }
    answer::expect(&answer, &[200, 206])?;
    info(&answer)
}

/// The content of a DeleteObjects request. Asked to be quiet, the service answers only with the
/// objects that it could not remove.
fn deletion(keys: &[String]) -> String {
    let objects: String = keys
        .iter()
        .map(|key| format!("<Object><Key>{key}</Key></Object>"))
        .collect();
    format!(
        "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{objects}\
         <Quiet>true</Quiet></Delete>"
    )
}

/// Reads the answer to DeleteObjects: the keys that could not be removed, each with its reason. An
/// answer of 200 may be an error all the same.
fn parse_deletion(document: &[u8]) -> Result<Vec<(String, Error)>> {
    // Asked to be quiet, some services answer with no document at all if nothing failed.
    if document.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let result = Element::parse(document)?;
    let text = |e: &Element, name| e.text_of(name).unwrap_or_default().trim().to_owned();
    let described = |e: &Element| {
        let code = text(e, "Code");
        let kind = answer::kind_of(&code).unwrap_or(ErrorKind::Protocol);
        Error {
            provider_code: Some(code),
            ..error(kind, text(e, "Message"))
        }
    };
    match result.name.as_str() {
        "DeleteResult" => {
            let failed = result.all("Error").map(|e| (text(e, "Key"), described(e)));
            Ok(failed
                .filter(|(_, e)| e.kind != ErrorKind::NotFound)
                .collect())
        }
        "Error" => Err(described(&result)),
        other => Err(error(
            ErrorKind::Protocol,
            format!("a deletion was answered by <{other}> instead of <DeleteResult>"),
        )),
    }
}

/// Corrects the error of a request for the bucket: nothing else can be missing, whatever words the
/// service has for it.
fn of_bucket(e: Error) -> Error {
    match e.kind {
        ErrorKind::NotFound => Error {
            kind: ErrorKind::ContainerNotFound,
            ..e
        },
        _ => e,
    }
}

/// A page by ListObjectsV2.
fn list_page(prefix: &str, cursor: Option<String>, limit: u32) -> Result<Page> {
    let mut request = Unsigned::container("GET")
        .query("list-type", "2")
        // A key may hold what XML cannot.
        .query("encoding-type", "url")
        .query("max-keys", limit.to_string())
        .query("prefix", prefix);
    if let Some(token) = cursor {
        request = request.query("continuation-token", token);
    }
    let answer = request.send(None)?;
    answer::expect(&answer, &[200]).map_err(of_bucket)?;
    parse_listing(&answer.read(MAX_LISTING)?)
}

fn parse_listing(document: &[u8]) -> Result<Page, Error> {
    let lacks = |what| error(ErrorKind::Protocol, format!("the listing lacks {what}"));
    let mut entries = Vec::new();
    // `EncodingType` may follow the entries, so keys are decoded after all of them.
    let result = Element::each(document, "Contents", |entry| {
        let key = entry
            .text_of("Key")
            .ok_or_else(|| lacks("a Key"))?
            .to_owned();
        let size = entry.text_of("Size").and_then(|s| s.trim().parse().ok());
        let info = ObjectInfo {
            size: size.ok_or_else(|| lacks("a Size"))?,
            etag: entry.text_of("ETag").and_then(bare_etag),
            last_modified_unix_ms: entry
                .text_of("LastModified")
                .and_then(raic_sdk::time::parse_rfc3339),
            extra: Vec::new(),
        };
        entries.push(Listed { key, info });
        Ok(())
    })?;
    if result.name != "ListBucketResult" {
        return Err(error(
            ErrorKind::Protocol,
            format!(
                "a listing was answered by <{}> instead of <ListBucketResult>",
                result.name
            ),
        ));
    }
    if result.text_of("EncodingType") == Some("url") {
        for entry in &mut entries {
            entry.key = uri::decode_form(&entry.key).ok_or_else(|| lacks("a readable Key"))?;
        }
    }
    let truncated = result.text_of("IsTruncated").map(str::trim) == Some("true");
    let next = result
        .text_of("NextContinuationToken")
        .filter(|token| !token.is_empty());
    if truncated && next.is_none() {
        return Err(lacks("a NextContinuationToken though it is truncated"));
    }
    Ok(Page {
        entries,
        next: next.filter(|_| truncated).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host, payload};

    use super::*;

    #[test]
    fn what_could_not_be_removed_is_told_and_what_was_gone_is_not() {
        assert_eq!(
            deletion(&["a/b".to_owned()]),
            "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Object><Key>a/b</Key></Object><Quiet>true</Quiet></Delete>"
        );
        let failed = parse_deletion(
            b"<DeleteResult>
            <Error><Key>k</Key><Code>AccessDenied</Code><Message>no</Message></Error>
            <Error><Key>gone</Key><Code>NoSuchKey</Code></Error></DeleteResult>",
        );
        let failed = failed.unwrap();
        assert_eq!(failed.len(), 1);
        assert_eq!(
            (failed[0].0.as_str(), failed[0].1.kind),
            ("k", ErrorKind::PermissionDenied)
        );
        assert!(parse_deletion(b"<DeleteResult/>").unwrap().is_empty());
        let e = parse_deletion(b"<Error><Code>SlowDown</Code></Error>").unwrap_err();
        assert_eq!(e.kind, ErrorKind::Throttled);
    }

    fn host() -> Host {
        Host::new()
            .setting("endpoint", "https://s3.example.com")
            .setting("addressing", "path")
            .setting("bucket", "b")
            .setting("region", "us-east-1")
            .setting("keys.access-key-id", "AKID")
            .secret("keys.secret-access-key", "secret")
            .now(1_700_000_000_000)
    }

    /// A HEAD, which has no document, answers 400 or 403 whatever is wrong.
    #[test]
    fn a_head_that_fails_without_a_code_asks_for_one() {
        let ended = "<Error><Code>ExpiredToken</Code><Message>ended</Message></Error>";
        let (found, sent) = host()
            .answer(Answer::new(400))
            .answer(Answer::new(400).body(ended))
            .run(|| S3::head("k".to_owned()));
        assert_eq!(found.unwrap_err().kind, ErrorKind::Unauthenticated);
        assert!(
            sent[1].url.contains("list-type=2") && sent[1].url.contains("max-keys=1"),
            "{}",
            sent[1].url
        );
        let listing = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        let (found, _) = host()
            .answer(Answer::new(403))
            .answer(Answer::new(200).body(listing))
            .run(|| S3::head("k".to_owned()));
        assert_eq!(found.unwrap_err().kind, ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_head_without_a_length_is_asked_again_by_a_range() {
        let head = || Answer::new(200).header("etag", "\"e\"");
        let part = Answer::new(206)
            .header("content-range", "bytes 0-0/77")
            .header("content-length", "1");
        let (found, _) = host()
            .answer(head())
            .answer(part)
            .run(|| S3::head("k".to_owned()));
        assert_eq!(found.unwrap().size, 77);
        let (found, _) = host()
            .answer(head())
            .answer(Answer::new(416))
            .run(|| S3::head("k".to_owned()));
        let found = found.unwrap();
        assert_eq!((found.size, found.etag.as_deref()), (0, Some("e")));
    }

    #[test]
    fn etags_are_the_same_with_quotes_and_without() {
        let put = host().answer(Answer::new(200).header("etag", "\"e\""));
        let (stored, _) = put.run(|| S3::put("k".to_owned(), &payload("x"), WriteMode::Overwrite));
        let listing = parse_listing(
            b"<ListBucketResult><Contents><Key>k</Key><ETag>e</ETag><Size>1</Size></Contents>\
              </ListBucketResult>",
        );
        assert_eq!(stored.unwrap().etag, listing.unwrap().entries[0].info.etag);
        let (_, sent) = host().answer(Answer::new(412)).run(|| {
            S3::put(
                "k".to_owned(),
                &payload("x"),
                WriteMode::IfMatch("e".to_owned()),
            )
        });
        assert_eq!(sent[0].header("if-match"), Some("\"e\""));
    }

    /// One service answers 304 instead of 412.
    #[test]
    fn a_create_that_is_not_modified_found_something() {
        for status in [304, 412] {
            let (stored, _) = host()
                .answer(Answer::new(status))
                .run(|| S3::put("k".to_owned(), &payload("x"), WriteMode::CreateOnly));
            assert_eq!(
                stored.unwrap_err().kind,
                ErrorKind::AlreadyExists,
                "{status}"
            );
        }
    }

    #[test]
    fn a_service_without_delete_objects_removes_one_by_one() {
        let code = |code: &str| format!("<Error><Code>{code}</Code></Error>");
        for (status, code) in [
            (405, code("MethodNotAllowed")),
            (400, code("InvalidArgument")),
            (501, code("NotImplemented")),
            (405, String::new()),
        ] {
            let (removed, _) = host()
                .answer(Answer::new(status).body(code))
                .run(|| S3::delete_many(vec!["k".to_owned()]));
            assert_eq!(
                removed.unwrap_err().kind,
                ErrorKind::Unsupported,
                "{status}"
            );
        }
        let (removed, _) = host()
            .answer(Answer::new(200))
            .run(|| S3::delete_many(vec!["k".to_owned()]));
        assert!(removed.unwrap().is_empty(), "quiet, and nothing failed");
    }

    #[test]
    fn a_bucket_that_wants_a_checksum_gets_one_or_says_how() {
        let wants = "<Error><Code>InvalidRequest</Code><Message>Content-MD5 OR x-amz-checksum- \
            HTTP header is required for Put Object requests with Object Lock parameters</Message>\
            </Error>";
        let put = || S3::put("k".to_owned(), &payload("x"), WriteMode::Overwrite);
        let (stored, _) = host().answer(Answer::new(400).body(wants)).run(put);
        let e = stored.unwrap_err();
        assert!(
            e.kind == ErrorKind::Misconfigured && e.message.contains("checksum = md5"),
            "{}",
            e.message
        );
        let (_, sent) = host()
            .setting("checksum", "md5")
            .answer(Answer::new(200))
            .run(put);
        assert_eq!(
            sent[0].header("content-md5"),
            Some(BASE64.encode(&raic_sdk::md5(b"x")).as_str())
        );
    }

    #[test]
    fn a_body_is_signed_unless_it_is_put_over_tls() {
        let put = || S3::put("k".to_owned(), &payload("x"), WriteMode::Overwrite);
        let digest_of = |body: &[u8]| raic_sdk::hex(&raic_sdk::sha256(body));
        let header = "x-amz-content-sha256";
        let (_, sent) = host().answer(Answer::new(200)).run(put);
        assert_eq!(sent[0].header(header), Some("UNSIGNED-PAYLOAD"));
        let plain = host().setting("endpoint", "http://127.0.0.1:9000");
        let (_, sent) = plain.answer(Answer::new(200)).run(put);
        assert_eq!(sent[0].header(header), Some(digest_of(b"x").as_str()));
        let (_, sent) = host()
            .answer(Answer::new(200))
            .run(|| S3::delete_many(vec!["k".to_owned()]));
        let digest = digest_of(&sent[0].body);
        assert_eq!(sent[0].header(header), Some(digest.as_str()));
    }

    #[test]
    fn buckets_of_every_partition_are_made_in_their_region() {
        for (endpoint, region) in [
            ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
            ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("https://s3.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
        ] {
            let host = host()
                .setting("endpoint", endpoint)
                .setting("region", region)
                .answer(Answer::new(200));
            let (made, sent) = host.run(S3::create_container);
            made.unwrap();
            assert!(
                String::from_utf8_lossy(&sent[0].body).contains(region),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn a_listing_gives_keys_sizes_etags_and_the_next_page() {
        let page = parse_listing(
            br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Name>b</Name><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
              <NextContinuationToken>t=/+</NextContinuationToken>
              <Contents><Key>shares/a%20b+c</Key>
                <LastModified>2009-10-12T17:50:30.000Z</LastModified>
                <ETag>&quot;fba9&quot;</ETag><Size>434234</Size></Contents>
            </ListBucketResult>"#,
        )
        .unwrap();
        assert_eq!(page.next.as_deref(), Some("t=/+"));
        let [entry] = &page.entries[..] else {
            panic!("one entry")
        };
        assert_eq!(entry.key, "shares/a b c");
        assert_eq!(
            (entry.info.size, entry.info.etag.as_deref()),
            (434_234, Some("fba9"))
        );
        assert_eq!(entry.info.last_modified_unix_ms, Some(1_255_369_830_000));
    }

    #[test]
    fn a_listing_that_cannot_go_on_is_no_end() {
        let page =
            parse_listing(b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>");
        assert_eq!(page.unwrap_err().kind, ErrorKind::Protocol);
    }
}
