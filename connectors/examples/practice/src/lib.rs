//! A connector for the service that `raic connector practice` runs.
//!
//! | request | answer |
//! | --- | --- |
//! | `PUT /objects/KEY` | 201, `etag`; 412 if `if-none-match: *` or `if-match` does not hold |
//! | `GET`, `HEAD /objects/KEY` | the object, or the part that `range` names |
//! | `DELETE /objects/KEY` | 204 |
//! | `GET /objects?prefix=&after=&limit=` | `{"objects": [{"key", "size", ..}], "next"}` |
//!
//! Every request has `authorization: Bearer TOKEN`. Errors are `{"code", "message"}`.

use raic_sdk::{
    Body, ByteRange, Capabilities, Connector, CreateOnly, ErrorKind, Extra, Listed, ObjectInfo,
    Page, Payload, Request, Response, Result, WriteMode,
    answer::{self, Described},
    conditions, error, json, required_setting, secrets, time, uri,
};

/// The connector.
#[derive(Debug)]
pub struct Practice;

raic_sdk::connector!(Practice);

/// The most that is read of a listing, in bytes.
const MAX_LISTING: u32 = 4 << 20;

/// Makes a request for what is below `/objects`.
fn request(method: &str, below: &str) -> Result<Request> {
    let url = format!("{}/objects{below}", required_setting("endpoint")?);
    // Not the token itself: as the host sends, it replaces this text with the token.
    let token = secrets::required("account.token")?.placeholder("raw")?;
    Ok(Request::new(method, url).header("authorization", &format!("Bearer {token}")))
}

fn object(method: &str, key: &str) -> Result<Request> {
    request(method, &format!("/{}", uri::encode_path(key)))
}

/// Returns `Ok` if the status is one of those wanted, else the error that the service's own words
/// describe.
fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
    answer::expect(answer, wanted, "x-request-id", |_, document| {
        let Ok(document) = json::parse(document) else {
            return Described::text(document);
        };
        let text = |pointer| {
            json::text(&document, pointer)
                .unwrap_or_default()
                .to_owned()
        };
        let code = text("/code");
        // Only codes that say more than the status does.
        let kind = match code.as_str() {
            "quota" => Some(ErrorKind::QuotaExceeded),
            _ => None,
        };
        Described {
            kind,
            code,
            message: text("/message"),
        }
    })
}

/// Adds the condition that the object has that etag.
fn conditional(request: Request, if_match: Option<&str>) -> Request {
    match if_match {
        Some(etag) => request.header("if-match", etag),
        None => request,
    }
}

impl Connector for Practice {
    fn describe() -> Result<Extra> {
        // State only what is true: `raic connector test` tries it.
        Ok(Capabilities::new(CreateOnly::Native)
            .if_match()
            .ordered()
            .strong()
            .describe())
    }

    fn probe() -> Result<()> {
        Self::list(String::new(), None, 1).map(drop)
    }

    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let request = object("PUT", &key)?;
        let request = match &mode {
            WriteMode::Overwrite => request,
            WriteMode::CreateOnly => request.header("if-none-match", "*"),
            WriteMode::IfMatch(etag) => conditional(request, Some(etag)),
        };
        // The payload stays in the host, which sends it.
        let answer = request.send(Some(content))?;
        expect(&answer, &[201]).map_err(|e| conditions::of_put(e, &mode))?;
        let etag = answer::etag(&answer);
        Ok(ObjectInfo {
            size: content.size(),
            etag,
            last_modified_unix_ms: None,
            extra: Vec::new(),
        })
    }

    fn get(
        key: String,
        range: Option<ByteRange>,
        if_match: Option<String>,
    ) -> Result<(ObjectInfo, Body)> {
        let mut request = conditional(object("GET", &key)?, if_match.as_deref());
        if let Some(range) = range {
            request = request.header("range", &answer::range_header(range));
        }
        let answer = request.send(None)?;
        expect(&answer, &[200, 206])?;
        // The bytes are handed on, and never seen here.
        Ok((answer::info(&answer)?, Response::into_body(answer)?))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        let answer = object("HEAD", &key)?.send(None)?;
        expect(&answer, &[200])?;
        answer::info(&answer)
    }

    fn delete(key: String, if_match: Option<String>) -> Result<()> {
        let answer = conditional(object("DELETE", &key)?, if_match.as_deref()).send(None)?;
        conditions::or_gone(expect(&answer, &[204]), ErrorKind::NotFound)
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        let mut query = format!("?limit={limit}&prefix={}", uri::encode(&prefix));
        if let Some(after) = cursor {
            query += &format!("&after={}", uri::encode(&after));
        }
        let answer = request("GET", &query)?.send(None)?;
        expect(&answer, &[200])?;
        let document = json::parse(&answer.read(MAX_LISTING)?)?;
        let objects = document
            .pointer("/objects")
            .and_then(|objects| objects.as_array());
        let listed = |object: &json::Value| {
            let key = json::text(object, "/key").ok_or_else(|| lacks("a key"))?;
            Ok(Listed {
                key: key.to_owned(),
                info: ObjectInfo {
                    size: json::number(object, "/size").ok_or_else(|| lacks("a size"))?,
                    etag: json::text(object, "/etag").map(str::to_owned),
                    last_modified_unix_ms: json::text(object, "/modified")
                        .and_then(time::parse_rfc3339),
                    extra: Vec::new(),
                },
            })
        };
        let objects = objects.ok_or_else(|| lacks("its objects"))?;
        Ok(Page {
            entries: objects.iter().map(listed).collect::<Result<_>>()?,
            next: json::text(&document, "/next").map(str::to_owned),
        })
    }
}

fn lacks(what: &str) -> raic_sdk::Error {
    error(ErrorKind::Protocol, format!("the listing lacks {what}"))
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host, payload};

    use super::*;

    fn host() -> Host {
        Host::new()
            .setting("endpoint", "http://127.0.0.1:1")
            .secret("account.token", "t0ken")
    }

    #[test]
    fn a_put_sends_the_token_and_the_condition() {
        let (info, sent) = host()
            .answer(Answer::new(201).header("etag", "\"1\""))
            .run(|| Practice::put("a/b c".to_owned(), &payload("hello"), WriteMode::CreateOnly));
        let info = info.unwrap();
        assert_eq!((info.size, info.etag.as_deref()), (5, Some("\"1\"")));
        assert_eq!(sent[0].url, "http://127.0.0.1:1/objects/a/b%20c");
        assert_eq!(sent[0].header("authorization"), Some("Bearer t0ken"));
        assert_eq!(sent[0].header("if-none-match"), Some("*"));
    }

    #[test]
    fn a_refused_put_is_told_in_the_services_words() {
        let refused = Answer::new(507).body(r#"{"code":"quota","message":"the account is full"}"#);
        let (e, _) = host()
            .answer(refused)
            .run(|| Practice::put("k".to_owned(), &payload("hello"), WriteMode::Overwrite));
        let e = e.unwrap_err();
        assert_eq!(
            (e.kind, e.message.as_str()),
            (ErrorKind::QuotaExceeded, "the account is full")
        );
    }

    #[test]
    fn a_listing_goes_on_after_its_cursor() {
        let page = r#"{"objects":[
            {"key":"a","size":3,"etag":"\"1\"","modified":"2026-01-02T03:04:05Z"}],"next":"a"}"#;
        let (listed, sent) = host()
            .answer(Answer::new(200).body(page))
            .run(|| Practice::list("p/".to_owned(), Some("0".to_owned()), 1));
        let listed = listed.unwrap();
        assert_eq!(
            (listed.entries[0].key.as_str(), listed.next.as_deref()),
            ("a", Some("a"))
        );
        assert_eq!(
            sent[0].url,
            "http://127.0.0.1:1/objects?limit=1&prefix=p%2F&after=0"
        );
    }
}
