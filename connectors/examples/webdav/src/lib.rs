//! A folder of a WebDAV server (RFC 4918) as a cloud.
//!
//! A key's segments are folders. A put uploads to a name of its own and then moves the file into
//! place, since servers show files that are not whole yet. A listing walks the folders, since
//! WebDAV lists one folder at a time and has no pages.

mod listing;

use raic_sdk::{
    Body, ByteRange, Capabilities, Connector, CreateOnly, Error, ErrorKind, Extra, ObjectInfo,
    Page, Payload, Request, Response, Result, WriteMode,
    answer::{self, Described},
    conditions, error, hex, random_bytes, required_setting, secrets, uri,
    xml::Element,
};

/// The folder, below the cloud's own, in which uploads wait until they are whole. No object's key
/// begins so.
const INCOMING: &str = ".incoming";

/// The WebDAV connector.
#[derive(Debug)]
pub struct WebDav;

raic_sdk::connector!(WebDav);

/// Makes a request for a path below the cloud's folder. `path` is encoded, and empty for the folder
/// itself.
fn request(method: &str, path: &str) -> Result<Request> {
    let user = required_setting("user")?;
    let basic = secrets::required("account.password")?.basic_auth(&user)?;
    Ok(Request::new(method, url_of(path)?).header("authorization", &format!("Basic {basic}")))
}

fn url_of(path: &str) -> Result<String> {
    let separator = if path.is_empty() { "" } else { "/" };
    Ok(format!("{}{separator}{path}", required_setting("url")?))
}

/// The place that a file is moved to: a URL, or the path alone. A server needs the path if it knows
/// itself by another name than the proxy before it does.
fn destination(path: &str) -> Result<String> {
    let url = url_of(path)?;
    if required_setting("destination")? == "url" {
        return Ok(url);
    }
    let (_, _, path) = uri::split(&url).unwrap_or_default();
    Ok(path.to_owned())
}

fn expect(answer: &Response, wanted: &[u16]) -> Result<()> {
    answer::expect(answer, wanted, "x-request-id", |answer, document| {
        // Sabre, which Nextcloud is built on, gives a message; others answer with a page.
        let message = Element::parse(document).ok();
        let message = message
            .and_then(|e| e.text_of("message").map(str::to_owned))
            .unwrap_or_default();
        let digest = |way: String| way.to_ascii_lowercase().starts_with("digest");
        match answer.status() {
            // A folder is locked while another request moves something into it.
            423 => Described {
                kind: Some(ErrorKind::Conflict),
                code: String::new(),
                message,
            },
            401 if answer.header("www-authenticate").is_some_and(digest) => Described {
                kind: Some(ErrorKind::Unsupported),
                code: String::new(),
                message: "the server wants Digest authentication, which is not supported; \
                          let it take Basic over https"
                    .to_owned(),
            },
            _ => Described {
                kind: None,
                code: String::new(),
                message,
            },
        }
    })
}

/// Makes the folders that a path lies in.
fn make_folders(path: &str) -> Result<()> {
    for (end, _) in path.match_indices('/') {
        // nginx wants the slash at the end.
        let folder = format!("{}/", &path[..end]);
        let made = request("MKCOL", &folder)?.send(None)?;
        // 405 means that the folder is there. If two requests make it at once, servers answer the
        // later one in different ways.
        if !matches!(made.status(), 201 | 405) {
            let answer = request("PROPFIND", &folder)?
                .header("depth", "0")
                .send(None)?;
            if answer.status() != 207 {
                expect(&made, &[201])?;
            }
        }
    }
    Ok(())
}

/// Sends a request that needs the folders of a path. If they are missing, it makes them and sends
/// the request again.
fn with_folders(path: &str, send: impl Fn() -> Result<Response>) -> Result<Response> {
    let answer = send()?;
    // Apache answers 500 if a folder is missing.
    if !matches!(answer.status(), 403 | 404 | 409 | 500) {
        return Ok(answer);
    }
    // A folder is missing that can be made, unless it is this cloud's own.
    listing::own_folder()?;
    make_folders(path)?;
    send()
}

impl Connector for WebDav {
    fn describe() -> Result<Extra> {
        let name = "max-object-size";
        let largest = required_setting(name)?.parse();
        let largest = largest.map_err(|_| {
            error(
                ErrorKind::Misconfigured,
                format!("{name} is not a number of bytes"),
            )
        })?;
        Ok(Capabilities::new(CreateOnly::Emulated)
            .ordered()
            .strong()
            .max_object_size(largest)
            .describe())
    }

    fn probe() -> Result<()> {
        listing::own_folder()
    }

    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
        if let WriteMode::IfMatch(_) = mode {
            return Err(error(
                ErrorKind::Unsupported,
                "WebDAV does not replace by etag",
            ));
        }
        let incoming = format!("{INCOMING}/{}", hex(&random_bytes(16)));
        let upload = || request("PUT", &incoming)?.send(Some(content));
        expect(&with_folders(&incoming, upload)?, &[200, 201, 204])?;
        let path = uri::encode_path(&key);
        let overwrite = if matches!(mode, WriteMode::CreateOnly) {
            "F"
        } else {
            "T"
        };
        let rename = || {
            let request = request("MOVE", &incoming)?.header("destination", &destination(&path)?);
            request.header("overwrite", overwrite).send(None)
        };
        let moved = with_folders(&path, rename).and_then(|answer| {
            expect(&answer, &[201, 204]).map_err(|e| match answer.status() {
                // What a server answers to a destination at another server (RFC 4918 section
                // 9.9.4): behind a proxy that ends TLS it takes its own URL for one.
                502 => Error {
                    message: format!(
                        "{}: it may not know itself by this URL; if it is behind a proxy, set \
                         destination=path",
                        e.message
                    ),
                    ..e
                },
                _ => e,
            })
        });
        if let Err(e) = moved {
            // An upload that cannot be moved is of no use. Why it cannot matters more than an error
            // of this request.
            let _ = request("DELETE", &incoming)?.send(None);
            return Err(conditions::of_put(e, &mode));
        }
        Ok(ObjectInfo {
            size: content.size(),
            etag: None,
            last_modified_unix_ms: None,
            extra: Vec::new(),
        })
    }

    fn get(
        key: String,
        range: Option<ByteRange>,
        if_match: Option<String>,
    ) -> Result<(ObjectInfo, Body)> {
        let mut request = request("GET", &uri::encode_path(&key))?;
        if let Some(range) = range {
            request = request.header("range", &answer::range_header(range));
        }
        if let Some(etag) = &if_match {
            request = request.header("if-match", etag);
        }
        let answer = request.send(None)?;
        expect(&answer, &[200, 206])?;
        Ok((answer::info(&answer)?, Response::into_body(answer)?))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        // Apache's HEAD does not give the size of an empty file.
        listing::properties(&key)
    }

    fn delete(key: String, if_match: Option<String>) -> Result<()> {
        if let Some(etag) = if_match
            && !conditions::still_has(Self::head(key.clone()), &etag)?
        {
            return Ok(());
        }
        let answer = request("DELETE", &uri::encode_path(&key))?.send(None)?;
        conditions::or_gone(expect(&answer, &[200, 204]), ErrorKind::NotFound)
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        listing::page(&prefix, cursor.as_deref(), limit as usize)
    }

    fn create_container() -> Result<()> {
        expect(&request("MKCOL", "")?.send(None)?, &[201, 405])
    }

    fn delete_container() -> Result<()> {
        // DELETE of a folder removes all that is in it (RFC 4918 section 9.6.1), so objects are
        // looked for before.
        match listing::page("", None, 1) {
            Ok(page) if page.entries.is_empty() && page.next.is_none() => {}
            Ok(page) if page.entries.is_empty() => {
                let why = "the folder has dozens of empty folders; remove them first";
                return Err(error(ErrorKind::PreconditionFailed, why));
            }
            Ok(_) => {
                return Err(error(
                    ErrorKind::PreconditionFailed,
                    "the folder is not empty",
                ));
            }
            Err(e) if e.kind == ErrorKind::ContainerNotFound => return Ok(()),
            Err(e) => return Err(e),
        }
        let answer = request("DELETE", "")?.send(None)?;
        conditions::or_gone(expect(&answer, &[200, 204]), ErrorKind::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host, payload};

    use super::*;

    fn host() -> Host {
        let host = Host::new()
            .setting("url", "https://dav.example.com/raic")
            .setting("user", "me")
            .setting("destination", "url");
        host.secret("account.password", "pässword")
    }

    #[test]
    fn an_upload_is_moved_into_place_when_it_is_whole() {
        let (info, sent) = host()
            .answer(Answer::new(201))
            .answer(Answer::new(409))
            .answer(Answer::new(207))
            .answer(Answer::new(201))
            .answer(Answer::new(405))
            .answer(Answer::new(201))
            .run(|| WebDav::put("a/b/c".to_owned(), &payload("hello"), WriteMode::CreateOnly));
        assert_eq!(info.unwrap().size, 5);
        let methods: Vec<_> = sent.iter().map(|sent| sent.method.as_str()).collect();
        assert_eq!(
            methods,
            ["PUT", "MOVE", "PROPFIND", "MKCOL", "MKCOL", "MOVE"]
        );
        assert_eq!(
            sent[0].header("authorization"),
            Some("Basic bWU6cMOkc3N3b3Jk")
        );
        assert_eq!(
            sent[5].header("destination"),
            Some("https://dav.example.com/raic/a/b/c")
        );
        assert_eq!(sent[5].header("overwrite"), Some("F"));
        // nginx makes a folder only if its name ends with a slash.
        assert!(
            sent[3].url.ends_with("/raic/a/") && sent[4].url.ends_with("/raic/a/b/"),
            "{sent:?}"
        );
    }

    /// A server behind a proxy that ends TLS knows itself by http, and by another name.
    #[test]
    fn a_move_may_go_to_a_path() {
        let (stored, sent) = host()
            .setting("destination", "path")
            .answer(Answer::new(201))
            .answer(Answer::new(201))
            .run(|| WebDav::put("a b".to_owned(), &payload("hello"), WriteMode::Overwrite));
        stored.unwrap();
        assert_eq!(sent[1].header("destination"), Some("/raic/a%20b"));
    }

    #[test]
    fn a_move_that_a_proxy_keeps_from_its_place_names_the_setting() {
        let (e, _) = host()
            .answer(Answer::new(201))
            .answer(Answer::new(502))
            .answer(Answer::new(204))
            .run(|| WebDav::put("a".to_owned(), &payload("hello"), WriteMode::Overwrite));
        let e = e.unwrap_err();
        assert!(e.message.contains("destination=path"), "{}", e.message);
    }

    #[test]
    fn a_server_that_wants_digest_is_told_apart_from_a_wrong_password() {
        let wants = Answer::new(401).header("www-authenticate", "Digest realm=\"x\", nonce=\"y\"");
        let (e, _) = host().answer(wants).run(WebDav::probe);
        assert_eq!(e.unwrap_err().kind, ErrorKind::Unsupported);
    }

    #[test]
    fn an_upload_that_finds_an_object_is_taken_away_again() {
        let (e, sent) = host()
            .answer(Answer::new(201))
            .answer(Answer::new(412))
            .answer(Answer::new(204))
            .run(|| WebDav::put("a".to_owned(), &payload("hello"), WriteMode::CreateOnly));
        assert_eq!(e.unwrap_err().kind, ErrorKind::AlreadyExists);
        assert_eq!(sent[2].method, "DELETE");
        assert_eq!(sent[2].url, sent[0].url);
    }
}
