//! OpenStack Swift (API reference, "Object Storage API").
//!
//! An object is put whole, with its MD5 as the etag that the service must find, and listed by markers. `If-None-Match: *` is
//! checked before the object is written, so that writers who race may all pass: create-only is emulated.

mod answer;
mod login;

use answer::expect;
use raic_sdk::{
    Body, ByteRange, Connector, Error, ErrorKind, Extra, Listed, ObjectInfo, Page, Payload, Request, Result,
    Usage, WriteMode, conditions, error, hex, json, setting, time, uri,
};

/// The most that is read of a listing: 1000 names of the longest kind, with room to spare.
const MAX_LISTING: u32 = 4 << 20;

/// The connector.
#[derive(Debug)]
pub struct Swift;

raic_sdk::connector!(Swift);

fn object(container: &str, key: &str) -> String {
    format!("{container}/{}", uri::encode_path(key))
}

impl Connector for Swift {
    fn describe() -> Result<Extra> {
        let is_none = setting("create-only").as_deref() == Some("none");
        let pairs = [
            ("create-only", if is_none { "none" } else { "emulated" }),
            ("max-object-size", "5368709120"),
            ("ordered-list", "yes"),
            ("consistency", "eventual"),
        ];
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    fn probe() -> Result<()> {
        list_page("", None, 1).map(drop)
    }

    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
        if let WriteMode::IfMatch(_) = mode {
            return Err(error(ErrorKind::Unsupported, "Swift does not replace by etag"));
        }
        let way = setting("create-only").unwrap_or_default();
        let creates = matches!(mode, WriteMode::CreateOnly) && way != "none";
        if creates && way == "head" {
            conditions::is_absent(Self::head(key.clone()))?;
        }
        let digest = hex(&content.md5());
        let build = |container: &str| {
            let request = Request::new("PUT", object(container, &key))
                .header("content-type", "application/octet-stream")
                .header("etag", &digest);
            if creates && way == "header" { request.header("if-none-match", "*") } else { request }
        };
        let answer = login::send(build, Some(content))?;
        expect(&answer, &[201]).map_err(|e| conditions::of_put(e, &mode))?;
        Ok(ObjectInfo {
            size: content.size(),
            etag: Some(digest),
            last_modified_unix_ms: None,
            extra: Vec::new(),
        })
    }

    fn get(key: String, range: Option<ByteRange>, if_match: Option<String>) -> Result<(ObjectInfo, Body)> {
        let build = |container: &str| {
            let mut request = Request::new("GET", object(container, &key));
            if let Some(range) = range {
                request = request.header("range", &raic_sdk::answer::range_header(range));
            }
            match &if_match {
                Some(etag) => request.header("if-match", &format!("\"{etag}\"")),
                None => request,
            }
        };
        let answer = login::send(build, None)?;
        expect(&answer, &[200, 206])?;
        Ok((info(&answer)?, raic_sdk::Response::into_body(answer)?))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        let answer = login::send(|container| Request::new("HEAD", object(container, &key)), None)?;
        expect(&answer, &[200, 204])?;
        info(&answer)
    }

    fn delete(key: String, if_match: Option<String>) -> Result<()> {
        // Not atomic, and not said to be: Swift deletes whatever is there.
        if let Some(etag) = if_match
            && !conditions::still_has(Self::head(key.clone()), &etag)?
        {
            return Ok(());
        }
        let answer = login::send(|container| Request::new("DELETE", object(container, &key)), None)?;
        conditions::or_gone(expect(&answer, &[200, 204]), ErrorKind::NotFound)
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        list_page(&prefix, cursor, limit)
    }

    fn create_container() -> Result<()> {
        let answer = login::send(|container| Request::new("PUT", container.to_owned()), None)?;
        expect(&answer, &[201, 202])
    }

    fn delete_container() -> Result<()> {
        let answer = login::send(|container| Request::new("DELETE", container.to_owned()), None)?;
        let removed = expect(&answer, &[204]).map_err(|mut e| {
            if e.kind == ErrorKind::Conflict {
                (e.kind, e.message) =
                    (ErrorKind::PreconditionFailed, "the container is not empty".to_owned());
            }
            e
        });
        conditions::or_gone(removed, ErrorKind::NotFound)
    }

    fn usage() -> Result<Usage> {
        let container = login::send(|container| Request::new("HEAD", container.to_owned()), None)?;
        expect(&container, &[200, 204])?;
        let account = login::send_to_account(|account| Request::new("HEAD", account.to_owned()), None)?;
        match expect(&account, &[200, 204]) {
            Ok(()) => {}
            // Who may use one container only is not told of the account.
            Err(e) if matches!(e.kind, ErrorKind::PermissionDenied | ErrorKind::NotFound) => {
                return Ok(used(&container, "container"));
            }
            Err(e) => return Err(e),
        }
        let in_container = used(&container, "container");
        let told = [
            ("container-bytes-used", in_container.bytes_used),
            ("container-objects", in_container.objects),
            ("container-quota-bytes", in_container.quota_bytes),
        ];
        let told = told.into_iter().filter_map(|(name, n)| Some((name.to_owned(), n?.to_string())));
        let of_account = used(&account, "account");
        // Whichever is reached first.
        let quota_bytes = [of_account.quota_bytes, in_container.quota_bytes].into_iter().flatten().min();
        Ok(Usage { quota_bytes, extra: told.collect(), ..of_account })
    }
}

/// What the headers of a container or an account say.
fn used(answer: &raic_sdk::Response, of: &str) -> Usage {
    let number = |name: &str| answer.header(&format!("x-{of}-{name}")).and_then(|n| n.trim().parse().ok());
    Usage {
        bytes_used: number("bytes-used"),
        objects: number("object-count"),
        quota_bytes: number("meta-quota-bytes"),
        extra: Vec::new(),
    }
}

/// Etags are the content's MD5; some services put them in quotes.
fn info(answer: &raic_sdk::Response) -> Result<ObjectInfo> {
    let info = raic_sdk::answer::info(answer)?;
    Ok(ObjectInfo { etag: info.etag.map(|etag| etag.trim_matches('"').to_owned()), ..info })
}

fn list_page(prefix: &str, cursor: Option<String>, limit: u32) -> Result<Page> {
    let build = |container: &str| {
        let mut url = format!("{container}?format=json&limit={limit}&prefix={}", uri::encode(prefix));
        if let Some(marker) = &cursor {
            url += &format!("&marker={}", uri::encode(marker));
        }
        Request::new("GET", url)
    };
    let answer = login::send(build, None)?;
    expect(&answer, &[200, 204]).map_err(|mut e| {
        // Of an object it would be the same; this was the container.
        if e.kind == ErrorKind::NotFound {
            e.kind = ErrorKind::ContainerNotFound;
        }
        e
    })?;
    if answer.status() == 204 {
        return Ok(Page { entries: Vec::new(), next: None });
    }
    parse_listing(&answer.read(MAX_LISTING)?, limit)
}

fn parse_listing(document: &[u8], limit: u32) -> Result<Page, Error> {
    let document = json::parse(document)?;
    let lacks = |what: &str| error(ErrorKind::Protocol, format!("the listing lacks {what}"));
    let rows = document.as_array().ok_or_else(|| lacks("its rows"))?;
    let mut entries = Vec::new();
    for row in rows {
        let key = json::text(row, "/name").ok_or_else(|| lacks("a name"))?;
        let modified = json::text(row, "/last_modified");
        entries.push(Listed {
            key: key.to_owned(),
            info: ObjectInfo {
                size: json::number(row, "/bytes").ok_or_else(|| lacks("a size"))?,
                etag: json::text(row, "/hash").map(str::to_owned),
                // UTC, and not said to be.
                last_modified_unix_ms: modified
                    .and_then(|m| time::parse_rfc3339(&format!("{}Z", m.trim_end_matches('Z')))),
                extra: Vec::new(),
            },
        });
    }
    // A page that is not full is the last.
    let is_full = rows.len() >= limit as usize;
    let next = entries.last().filter(|_| is_full).map(|last| last.key.clone());
    Ok(Page { entries, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_page_goes_on_after_its_last_name() {
        let document =
            br#"[{"name":"a/b","bytes":5,"hash":"5d41402abc4b2a76b9719d911017c592","content_type":"x",
            "last_modified":"2009-10-12T17:50:30.123450"}]"#;
        let page = parse_listing(document, 1).unwrap();
        assert_eq!(page.next.as_deref(), Some("a/b"));
        assert_eq!(page.entries[0].info.last_modified_unix_ms, Some(1_255_369_830_000));
        assert_eq!(page.entries[0].info.size, 5);
        assert_eq!(parse_listing(document, 2).unwrap().next, None);
        assert_eq!(parse_listing(b"{}", 2).unwrap_err().kind, ErrorKind::Protocol);
    }
}
