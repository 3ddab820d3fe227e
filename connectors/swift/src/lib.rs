//! OpenStack Swift (API reference, "Object Storage API").
//!
//! A put sends an object whole, with its MD5 as the etag that the service must find. Listings go on
//! by markers. Swift checks `If-None-Match: *` before it writes the object, so writers that race
//! may all pass: create-only is emulated.

mod answer;
mod login;
mod request;

use answer::expect;
use raic_sdk::{
    Body, ByteRange, Capabilities, Connector, CreateOnly, Digests as _, Error, ErrorKind, Extra,
    Listed, ObjectInfo, Page, Payload, Response, Result, Usage, WriteMode,
    answer::{quoted, range_header},
    conditions, error, hex, json, setting, time,
};
use request::Unauthorised;

/// The most that is read of a listing, in bytes: 1000 names of the longest kind, with room to
/// spare.
const MAX_LISTING: u32 = 4 << 20;

/// The Swift connector.
#[derive(Debug)]
pub struct Swift;

raic_sdk::connector!(Swift);

impl Connector for Swift {
    fn describe() -> Result<Extra> {
        let described = match create_only()? {
            CreateOnly::None => CreateOnly::None,
            CreateOnly::Native | CreateOnly::Emulated => CreateOnly::Emulated,
        };
        Ok(Capabilities::new(described)
            .ordered()
            .eventual()
            .max_object_size(5 << 30)
            .describe())
    }

    fn probe() -> Result<()> {
        list_page("", None, 1).map(drop)
    }

    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let digest = hex(&content.md5());
        let mut request = Unauthorised::object("PUT", &key)
            .header("content-type", "application/octet-stream")
            .header("etag", &digest);
        match &mode {
            WriteMode::Overwrite => {}
            WriteMode::IfMatch(_) => {
                return Err(error(
                    ErrorKind::Unsupported,
                    "Swift does not replace by etag",
                ));
            }
            WriteMode::CreateOnly => match create_only()? {
                CreateOnly::None => {}
                CreateOnly::Emulated => conditions::is_absent(Self::head(key))?,
                CreateOnly::Native => request = request.header("if-none-match", "*"),
            },
        }
        let answer = request.send(Some(content))?;
        expect(&answer, &[201]).map_err(|e| conditions::of_put(e, &mode))?;
        Ok(ObjectInfo {
            size: content.size(),
            etag: Some(digest),
            last_modified_unix_ms: None,
            extra: Vec::new(),
        })
    }

    fn get(
        key: String,
        range: Option<ByteRange>,
        if_match: Option<String>,
    ) -> Result<(ObjectInfo, Body)> {
        let mut request = Unauthorised::object("GET", &key);
        if let Some(range) = range {
            request = request.header("range", range_header(range));
        }
        if let Some(etag) = if_match {
            request = request.header("if-match", quoted(&etag));
        }
        let answer = request.send(None)?;
        expect(&answer, &[200, 206])?;
        Ok((info(&answer)?, Response::into_body(answer)?))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        let answer = Unauthorised::object("HEAD", &key).send(None)?;
        expect(&answer, &[200, 204])?;
        info(&answer)
    }

    fn delete(key: String, if_match: Option<String>) -> Result<()> {
        // Swift deletes whatever is there, so a HEAD checks the etag before. That is not atomic.
        if let Some(etag) = if_match
            && !conditions::still_has(Self::head(key.clone()), &etag)?
        {
            return Ok(());
        }
        let answer = Unauthorised::object("DELETE", &key).send(None)?;
        conditions::or_gone(expect(&answer, &[200, 204]), ErrorKind::NotFound)
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        list_page(&prefix, cursor, limit)
    }

    fn create_container() -> Result<()> {
        let answer = Unauthorised::container("PUT").send(None)?;
        expect(&answer, &[201, 202])
    }

    fn delete_container() -> Result<()> {
        let answer = Unauthorised::container("DELETE").send(None)?;
        let removed = expect(&answer, &[204]).map_err(|mut e| {
            if e.kind == ErrorKind::Conflict {
                (e.kind, e.message) = (
                    ErrorKind::PreconditionFailed,
                    "the container is not empty".to_owned(),
                );
            }
            e
        });
        conditions::or_gone(removed, ErrorKind::NotFound)
    }

    fn usage() -> Result<Usage> {
        let container = Unauthorised::container("HEAD").send(None)?;
        expect(&container, &[200, 204])?;
        let account = Unauthorised::account("HEAD").send(None)?;
        match expect(&account, &[200, 204]) {
            Ok(()) => {}
            // A user of one container alone may not see the account.
            Err(e) if matches!(e.kind, ErrorKind::PermissionDenied | ErrorKind::NotFound) => {
                return Ok(used(&container, "container"));
            }
            Err(e) => return Err(e),
        }
        let in_container = used(&container, "container");
        let pairs = [
            ("container-bytes-used", in_container.bytes_used),
            ("container-objects", in_container.objects),
            ("container-quota-bytes", in_container.quota_bytes),
        ];
        let extra = pairs
            .into_iter()
            .filter_map(|(name, n)| Some((name.to_owned(), n?.to_string())));
        let of_account = used(&account, "account");
        // The smaller of the two quotas counts.
        let quota_bytes = [of_account.quota_bytes, in_container.quota_bytes]
            .into_iter()
            .flatten()
            .min();
        Ok(Usage {
            quota_bytes,
            extra: extra.collect(),
            ..of_account
        })
    }
}

/// What the setting `create-only` says; `native` unless it is set.
fn create_only() -> Result<CreateOnly> {
    let way = setting("create-only").unwrap_or_else(|| "native".to_owned());
    CreateOnly::of_setting("create-only", &way)
}

/// What the headers of a `container` or an `account`, as `holder` says, report of its usage.
fn used(answer: &Response, holder: &str) -> Usage {
    let number = |name: &str| {
        answer
            .header(&format!("x-{holder}-{name}"))
            .and_then(|n| n.trim().parse().ok())
    };
    Usage {
        bytes_used: number("bytes-used"),
        objects: number("object-count"),
        quota_bytes: number("meta-quota-bytes"),
        extra: Vec::new(),
    }
}

/// What the headers of an object's answer say. Etags are the content's MD5, which some services put
/// in quotes.
fn info(answer: &Response) -> Result<ObjectInfo> {
    let info = raic_sdk::answer::info(answer)?;
    Ok(ObjectInfo {
        etag: info.etag.map(|etag| etag.trim_matches('"').to_owned()),
        ..info
    })
}

fn list_page(prefix: &str, cursor: Option<String>, limit: u32) -> Result<Page> {
    let mut request = Unauthorised::container("GET")
        .query("format", "json")
        .query("limit", limit.to_string())
        .query("prefix", prefix);
    if let Some(marker) = cursor {
        request = request.query("marker", marker);
    }
    let answer = request.send(None)?;
    expect(&answer, &[200, 204]).map_err(|mut e| {
        // A missing object is the same 404, but only the container can be missing here.
        if e.kind == ErrorKind::NotFound {
            e.kind = ErrorKind::ContainerNotFound;
        }
        e
    })?;
    if answer.status() == 204 {
        return Ok(Page {
            entries: Vec::new(),
            next: None,
        });
    }
    parse_listing(&answer.read(MAX_LISTING)?)
}

fn parse_listing(document: &[u8]) -> Result<Page, Error> {
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
                // The date is in UTC, but the listing does not say so.
                last_modified_unix_ms: modified
                    .and_then(|m| time::parse_rfc3339(&format!("{}Z", m.trim_end_matches('Z')))),
                extra: Vec::new(),
            },
        });
    }
    // Only an empty page is the last: sharded containers, proxies that filter, and RADOSGW give
    // short pages that go on.
    let next = entries.last().map(|last| last.key.clone());
    Ok(Page { entries, next })
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host, Sent, payload};

    use super::*;

    /// A host whose first answer is that of a login.
    fn by_v1() -> Host {
        Host::new()
            .setting("container", "c")
            .setting("auth", "v1")
            .setting("auth-url", "https://h/auth/v1.0")
            .setting("account.user", "u")
            .secret("account.password", "p4ssword")
            .token("token-v1", "t0ken-of-some-length")
            .answer(Answer::new(200).header("x-storage-url", "https://h/v1/AUTH_u"))
    }

    fn create(host: Host) -> (Result<ObjectInfo>, Vec<Sent>) {
        host.run(|| Swift::put("a b".to_owned(), &payload("x"), WriteMode::CreateOnly))
    }

    #[test]
    fn an_object_is_created_in_the_way_that_is_set() {
        let (stored, sent) = create(by_v1().answer(Answer::new(412)));
        assert_eq!(stored.unwrap_err().kind, ErrorKind::AlreadyExists);
        assert_eq!(sent[1].url, "https://h/v1/AUTH_u/c/a%20b");
        assert_eq!(sent[1].header("if-none-match"), Some("*"));

        let emulated = || by_v1().setting("create-only", "emulated");
        let found = Answer::new(200).header("content-length", "1");
        let (stored, sent) = create(emulated().answer(found));
        assert_eq!(stored.unwrap_err().kind, ErrorKind::AlreadyExists);
        assert_eq!((sent.len(), sent[1].method.as_str()), (2, "HEAD"));
        let absent = emulated().answer(Answer::new(404));
        let (stored, sent) = create(absent.answer(Answer::new(201)));
        assert_eq!(stored.unwrap().size, 1);
        assert_eq!(sent[2].header("if-none-match"), None);

        let none = by_v1().setting("create-only", "none");
        let (stored, sent) = create(none.answer(Answer::new(201)));
        assert!(stored.is_ok() && sent.len() == 2);
        assert_eq!(sent[1].header("if-none-match"), None);
    }

    #[test]
    fn what_is_described_is_what_the_service_does_and_not_how() {
        for (way, described) in [
            ("native", "emulated"),
            ("emulated", "emulated"),
            ("none", "none"),
        ] {
            let host = Host::new().setting("create-only", way);
            let (pairs, _) = host.run(Swift::describe);
            assert_eq!(pairs.unwrap()[0].1, described, "{way}");
        }
    }

    #[test]
    fn a_page_goes_on_after_its_last_name_until_one_is_empty() {
        let document = br#"[{"name":"a/b","bytes":5,"hash":"5d41402abc4b2a76b9719d911017c592",
            "content_type":"x","last_modified":"2009-10-12T17:50:30.123450"}]"#;
        let page = parse_listing(document).unwrap();
        assert_eq!(page.next.as_deref(), Some("a/b"));
        assert_eq!(
            page.entries[0].info.last_modified_unix_ms,
            Some(1_255_369_830_000)
        );
        assert_eq!(page.entries[0].info.size, 5);
        assert_eq!(parse_listing(b"[]").unwrap().next, None);
        assert_eq!(parse_listing(b"{}").unwrap_err().kind, ErrorKind::Protocol);
    }

    /// In the midst of a listing, RADOSGW gives pages shorter than it was asked for.
    #[test]
    fn short_pages_are_followed_to_the_last_name() {
        let rows = |names: &[&str]| {
            let row = |name: &&str| format!(r#"{{"name":"{name}","bytes":1}}"#);
            format!("[{}]", names.iter().map(row).collect::<Vec<_>>().join(","))
        };
        let host = by_v1()
            .answer(Answer::new(200).body(rows(&["a", "b", "c"])))
            .answer(Answer::new(200).body(rows(&["d"])))
            .answer(Answer::new(200).body(rows(&[])));
        let (names, sent) = host.run(|| {
            let (mut names, mut cursor) = (Vec::new(), None);
            loop {
                let page = Swift::list(String::new(), cursor, 3).unwrap();
                names.extend(page.entries.into_iter().map(|e| e.key));
                cursor = page.next;
                if cursor.is_none() {
                    return names;
                }
            }
        });
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert!(sent[3].url.ends_with("&marker=d"), "{}", sent[3].url);
    }

    /// For example a Keystone URL without /v3, or with a path too many.
    #[test]
    fn a_login_that_leads_nowhere_names_itself_and_not_the_container() {
        let host = Host::new()
            .setting("container", "c")
            .setting("auth", "v3")
            .setting("auth-url", "https://keystone.example.com:5000")
            .setting("project", "p")
            .setting("project-domain", "Default")
            .setting("user-domain", "Default")
            .setting("account.user", "u")
            .secret("account.password", "p4ssword")
            .answer(Answer::new(404).body("not found"));
        let (e, _) = host.run(Swift::probe);
        let e = e.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Misconfigured);
        assert!(
            e.message.contains("login") && e.message.contains("auth-url"),
            "{}",
            e.message
        );
    }

    /// The token's end is given by the service's clock, so its life counts from the moment of issue
    /// that the service gives.
    #[test]
    fn a_clock_that_is_ahead_does_not_log_in_at_every_call() {
        let document = r#"{"token":{
            "issued_at":"2023-11-14T22:13:20.000000Z","expires_at":"2023-11-14T23:13:20.000000Z",
            "catalog":[{"type":"object-store","endpoints":[
            {"interface":"public","region_id":"r","url":"https://h/v1/AUTH_p"}]}]}}"#;
        let host = Host::new()
            .setting("container", "c")
            .setting("auth", "v3")
            .setting("auth-url", "https://k/v3")
            .setting("interface", "public")
            .setting("project-id", "p")
            .setting("user-domain", "Default")
            .setting("account.user", "u")
            .secret("account.password", "p4ssword")
            .token("token-v3", "t0ken-of-some-length")
            // This host's clock is three hours ahead.
            .now(1_700_000_000_000 + 3 * 3_600_000)
            .answer(Answer::new(201).body(document));
        let (ttl, _) = host.run(|| login::log_in_for_tests().unwrap());
        assert!(ttl > 50 * 60_000, "{ttl}");
    }
}
