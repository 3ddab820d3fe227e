//! The XML API ("Cloud Storage XML API"), with Google's own headers rather than Amazon's: together
//! with Amazon's, its conditions are ignored.

use raic_sdk::{
    Body, ByteRange, Error, ErrorKind, Listed, ObjectInfo, Page, Payload, Response, Result,
    answer::range_header, error, time, xml::Element,
};

use crate::{answer::expect_signed, info, signing::Unsigned};

/// The most that is read of a listing, in bytes.
const MAX_LISTING: u32 = 4 << 20;

/// Adds the condition that the object has that generation; 0 means that there is no object.
fn conditional(request: Unsigned, generation: Option<&str>) -> Unsigned {
    match generation {
        Some(generation) => request.header("x-goog-if-generation-match", generation),
        None => request,
    }
}

pub(crate) fn put(key: &str, content: &Payload, generation: Option<&str>) -> Result<ObjectInfo> {
    let request = Unsigned::object("PUT", key).header("content-type", "application/octet-stream");
    let answer = conditional(request, generation).send(Some(content))?;
    expect_signed(&answer, &[200])?;
    Ok(ObjectInfo {
        size: content.size(),
        etag: answer.header("x-goog-generation"),
        last_modified_unix_ms: None,
        extra: Vec::new(),
    })
}

pub(crate) fn get(
    key: &str,
    range: Option<ByteRange>,
    generation: Option<&str>,
) -> Result<(ObjectInfo, Body)> {
    let mut request = conditional(Unsigned::object("GET", key), generation);
    if let Some(range) = range {
        request = request.header("range", range_header(range));
    }
    let answer = request.send(None)?;
    expect_signed(&answer, &[200, 206])?;
    Ok((info(&answer)?, Response::into_body(answer)?))
}

pub(crate) fn head(key: &str) -> Result<ObjectInfo> {
    let answer = Unsigned::object("HEAD", key).send(None)?;
    match expect_signed(&answer, &[200]) {
        // A HEAD has no document that says what is wrong with a key or a clock. The error of a
        // listing has one.
        Err(e) if matches!(e.http_status, Some(400 | 403)) && e.provider_code.is_none() => {
            list("", None, 1)?;
            Err(e)
        }
        outcome => outcome.and_then(|()| info(&answer)),
    }
}

pub(crate) fn delete(key: &str, generation: Option<&str>) -> Result<()> {
    let answer = conditional(Unsigned::object("DELETE", key), generation).send(None)?;
    expect_signed(&answer, &[200, 204])
}

pub(crate) fn list(prefix: &str, cursor: Option<String>, limit: u32) -> Result<Page> {
    let mut request = Unsigned::container("GET")
        .query("list-type", "2")
        .query("max-keys", limit.to_string())
        .query("prefix", prefix);
    if let Some(token) = cursor {
        request = request.query("continuation-token", token);
    }
    let answer = request.send(None)?;
    // Nothing but the bucket can be missing.
    expect_signed(&answer, &[200]).map_err(|e| match e.kind {
        ErrorKind::NotFound => Error {
            kind: ErrorKind::ContainerNotFound,
            ..e
        },
        _ => e,
    })?;
    parse_listing(&answer.read(MAX_LISTING)?)
}

pub(crate) fn create_bucket() -> Result<()> {
    expect_signed(&Unsigned::container("PUT").send(None)?, &[200])
}

pub(crate) fn delete_bucket() -> Result<()> {
    expect_signed(&Unsigned::container("DELETE").send(None)?, &[200, 204])
}

fn parse_listing(document: &[u8]) -> Result<Page> {
    let lacks = |what: &str| error(ErrorKind::Protocol, format!("the listing lacks {what}"));
    let mut entries = Vec::new();
    let result = Element::each(document, "Contents", |entry| {
        let text = |name| entry.text_of(name).map(str::trim);
        let size = text("Size").and_then(|size| size.parse().ok());
        let info = ObjectInfo {
            size: size.ok_or_else(|| lacks("a Size"))?,
            etag: Some(
                text("Generation")
                    .ok_or_else(|| lacks("a Generation"))?
                    .to_owned(),
            ),
            last_modified_unix_ms: text("LastModified").and_then(time::parse_rfc3339),
            extra: Vec::new(),
        };
        entries.push(Listed {
            key: entry
                .text_of("Key")
                .ok_or_else(|| lacks("a Key"))?
                .to_owned(),
            info,
        });
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
    let is_truncated = result.text_of("IsTruncated").map(str::trim) == Some("true");
    let next = result
        .text_of("NextContinuationToken")
        .map(str::to_owned)
        .filter(|_| is_truncated);
    if is_truncated && next.is_none() {
        return Err(lacks("a NextContinuationToken though it is truncated"));
    }
    Ok(Page { entries, next })
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host, payload};

    use super::*;

    fn host() -> Host {
        Host::new()
            .setting("endpoint", "https://storage.googleapis.com")
            .setting("bucket", "b")
            .setting("hmac-key.access-id", "GOOGID")
            .secret("hmac-key.secret", "secret")
            .now(1_700_000_000_000)
    }

    #[test]
    fn a_clock_by_which_requests_are_signed_may_be_wrong() {
        let denied = Answer::new(403).header("date", "Tue, 14 Nov 2023 23:13:00 GMT");
        let (e, _) = host().answer(denied).run(|| list("", None, 1));
        assert_eq!(e.unwrap_err().kind, ErrorKind::ClockSkew);
    }

    #[test]
    fn a_body_is_signed_unless_it_is_put_over_tls() {
        let put = || put("k", &payload("x"), None);
        let header = "x-goog-content-sha256";
        let (_, sent) = host().answer(Answer::new(200)).run(put);
        assert_eq!(sent[0].header(header), Some("UNSIGNED-PAYLOAD"));
        let plain = host().setting("endpoint", "http://127.0.0.1:9000");
        let (_, sent) = plain.answer(Answer::new(200)).run(put);
        let digest = raic_sdk::hex(&raic_sdk::sha256(b"x"));
        assert_eq!(sent[0].header(header), Some(digest.as_str()));
    }
}
