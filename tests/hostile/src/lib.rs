//! A connector that misbehaves in the way that the object's key names. Every way must end its own
//! call, and nothing else.

use raic_sdk::{
    Body, ByteRange, Connector, Error, ErrorKind, Extra, Listed, Made, ObjectInfo, Page, Payload,
    Request, Response, Result, WriteMode, bindings::raic::connector::cloud, error, log,
    required_setting, secrets,
};

/// The hostile connector.
#[derive(Debug)]
pub struct Hostile;

raic_sdk::connector!(Hostile);

fn object(size: u64) -> ObjectInfo {
    ObjectInfo {
        size,
        etag: None,
        last_modified_unix_ms: None,
        extra: Vec::new(),
    }
}

fn own(path: &str) -> Result<String> {
    Ok(format!("{}/own/{path}", required_setting("endpoint")?))
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(depth + 1)) + depth
}

/// A token that the connector's own service gives.
fn issued() -> Result<secrets::Secret> {
    Request::new("GET", own("login")?)
        .send(None)?
        .take_secret("issued")
}

impl Connector for Hostile {
    fn describe() -> Result<Extra> {
        Ok(Vec::new())
    }

    fn probe() -> Result<()> {
        // So that it can misbehave in `raic status`, too.
        match required_setting("forbidden")?.strip_prefix("probe:") {
            Some(way) => Self::head(way.to_owned()).map(drop),
            None => Ok(()),
        }
    }

    fn put(key: String, content: &Payload, _: WriteMode) -> Result<ObjectInfo> {
        match key.as_str() {
            "lies-about-size" => Ok(object(content.size() + 1)),
            "lies-about-etag" => Ok(ObjectInfo {
                etag: Some("\"a\"\r\nforged: b".to_owned()),
                ..object(content.size())
            }),
            "uploads" => {
                Request::new("PUT", own("object")?).send(Some(content))?;
                Ok(object(content.size()))
            }
            _ => panic!("trapped in put"),
        }
    }

    fn get(key: String, _: Option<ByteRange>, _: Option<String>) -> Result<(ObjectInfo, Body)> {
        let answer = Request::new("GET", own("object")?).send(None)?;
        match key.as_str() {
            "reads-object" => answer.read(1024).map(|_| ())?,
            "lies-about-object" => return Ok((object(1), Response::into_body(answer)?)),
            _ => {}
        }
        Ok((object(7), Response::into_body(answer)?))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        match key.as_str() {
            "loops" => loop {
                std::hint::black_box(());
            },
            "eats-memory" => {
                let mut all = Vec::new();
                loop {
                    all.push(vec![1_u8; 1 << 20]);
                    std::hint::black_box(&all);
                }
            }
            "recurses" => Ok(object(recurse(0))),
            "lies-about-etag" => Ok(ObjectInfo {
                etag: Some("e".repeat(5000)),
                ..object(7)
            }),
            "reads-encoded" => {
                let answer = Request::new("GET", own("encoded")?).send(None)?;
                Ok(object(answer.read(4096)?.len() as u64))
            }
            "hoards-answers" => {
                let mut all = Vec::new();
                loop {
                    let answer = Request::new("GET", own("document")?).send(None)?;
                    answer.read(4 << 20)?;
                    all.push(answer);
                }
            }
            "reads-a-part" => Request::new("GET", own("document?part")?)
                .header("range", "bytes=0-3")
                .send(None)?
                .read(64)
                .map(|_| object(0)),
            "leaks-handles" => {
                let mut all = Vec::new();
                loop {
                    all.push(secrets::open("token.value")?);
                }
            }
            "floods-the-log" => {
                for line in 0..100_000 {
                    log::write(log::Level::Debug, &format!("line {line}\n\u{1b}[31mforged"));
                }
                Ok(object(0))
            }
            "goes-elsewhere" => Request::new("GET", required_setting("forbidden")?)
                .send(None)
                .map(|_| object(0)),
            "follows-a-redirect" => {
                let answer = Request::new("GET", own("redirect")?).send(None)?;
                Ok(object(answer.status().into()))
            }
            "smuggles-a-header" => {
                let headers = [
                    "transfer-encoding",
                    "accept-encoding",
                    "host",
                    "connection",
                    "X-HTTP-Method-Override",
                    "proxy-x",
                ];
                for header in headers {
                    let sent = Request::new("GET", own("x")?)
                        .header(header, "gzip")
                        .send(None);
                    if !sent.is_err_and(|e| e.kind == ErrorKind::RefusedByHost) {
                        return Ok(object(0));
                    }
                }
                Err(error(ErrorKind::RefusedByHost, "all of them"))
            }
            "sends-the-secret-elsewhere" => {
                let token = secrets::open("token.value")?
                    .expect("the secret")
                    .placeholder("raw")?;
                Request::new("GET", own("x")?)
                    .header("x-other", &token)
                    .send(None)
                    .map(|_| object(0))
            }
            "sends-the-secret-to-another-host" => {
                let token = secrets::open("token.value")?
                    .expect("the secret")
                    .placeholder("raw")?;
                Request::new("GET", required_setting("forbidden")?)
                    .header("x-token", &token)
                    .send(None)
                    .map(|_| object(0))
            }
            "puts-the-secret-everywhere" => {
                let secret = secrets::open("token.value")?.expect("the secret");
                let (raw, json) = (secret.placeholder("raw")?, secret.placeholder("json")?);
                let url = own("x")?;
                let tried = [
                    Request::new("GET", url.clone()).header("x-amz-meta-a", &raw),
                    Request::new("GET", url.clone()).header("x-token", &json),
                    Request::new("POST", url.clone()).content(raw.clone().into_bytes()),
                    Request::new("GET", format!("{url}?{raw}")),
                    Request::new("GET", format!("{url}?a={json}")),
                    Request::new("GET", own(&raw)?),
                    Request::new("GET", own(&format!("objects/{json}"))?),
                    Request::new("GET", url.replace("://", &format!("://{raw}@"))),
                    Request::new(&raw, url.clone()),
                ];
                let refused = |request: Request| {
                    request
                        .send(None)
                        .is_err_and(|e| e.kind == ErrorKind::RefusedByHost)
                };
                Ok(object(tried.into_iter().map(refused).map(u64::from).sum()))
            }
            "tells-the-secret" => {
                let token = secrets::open("token.value")?
                    .expect("the secret")
                    .placeholder("raw")?;
                for level in [
                    log::Level::Trace,
                    log::Level::Debug,
                    log::Level::Info,
                    log::Level::Warn,
                ] {
                    log::write(level, &format!("the secret is {token}"));
                }
                let answer = Request::new("GET", own("reflect")?)
                    .header("x-token", &token)
                    .send(None)?;
                log::write(
                    log::Level::Error,
                    &String::from_utf8_lossy(&answer.read(4096)?),
                );
                let mut e = error(ErrorKind::Protocol, format!("the secret is {token}"));
                e.provider_code = Some(token.clone());
                e.request_id = Some(token);
                Err(e)
            }
            "reads-the-secret-back" => {
                let token = secrets::open("token.value")?
                    .expect("the secret")
                    .placeholder("raw")?;
                let answer = Request::new("GET", own("reflect")?)
                    .header("x-token", &token)
                    .send(None)?;
                let seen = String::from_utf8_lossy(&answer.read(4096)?).into_owned();
                let header = answer.header("x-reflected").unwrap_or_default();
                Err(error(ErrorKind::Protocol, format!("{seen} {header}")))
            }
            "signs-with-it" => {
                let token = secrets::open("token.value")?.expect("the secret");
                token.hmac("sha256", b"x").map(|_| object(0))
            }
            "reads-an-issued-token" => {
                let answer = Request::new("GET", own("login")?).send(None)?;
                // The header is read before the body is.
                let header = answer.header("x-issued").unwrap_or_default();
                let seen = String::from_utf8_lossy(&answer.read(4096)?).into_owned();
                Err(error(ErrorKind::Protocol, format!("{seen} {header}")))
            }
            "asks-for-a-token-otherwise" => {
                // A lenient service may take these requests for logins; the manifest does not.
                let mut seen = String::new();
                for (method, path) in [
                    ("GET", "login/"),
                    ("GET", "login?x=y"),
                    ("GET", "%6Cogin"),
                    ("HEAD", "login"),
                    ("POST", "login"),
                ] {
                    let answer = Request::new(method, own(path)?).send(None)?;
                    seen += &answer.header("x-issued").unwrap_or_default();
                    seen += &String::from_utf8_lossy(&answer.read(4096).unwrap_or_default());
                    seen += &answer
                        .header("x-account-meta-temp-url-key")
                        .unwrap_or_default();
                }
                Err(error(ErrorKind::Protocol, seen))
            }
            "reads-a-token-that-is-none" => Request::new("GET", own("short-login")?)
                .send(None)?
                .read(4096)
                .map(|_| object(0)),
            "reads-a-kept-token-back" => {
                let login = raic_sdk::login("issued", || {
                    Ok(Made::lasting(60_000).secret("token", issued()?))
                })?;
                let token = login.secret("token")?.placeholder("raw")?;
                let answer = Request::new("GET", own("reflect")?)
                    .header("x-issued", &token)
                    .send(None)?;
                let seen = String::from_utf8_lossy(&answer.read(4096)?).into_owned();
                Err(error(ErrorKind::Protocol, seen))
            }
            "sends-an-issued-token-elsewhere" => {
                let token = issued()?.placeholder("raw")?;
                let url = own("x")?;
                let in_header = Request::new("GET", url.clone()).header("x-other", &token);
                let in_body = Request::new("POST", url.clone()).content(token.clone().into_bytes());
                let in_query = Request::new("GET", format!("{url}?{token}"));
                let in_part_of_it = Request::new("GET", format!("{url}?a={token}"));
                let in_path = Request::new("GET", own(&token)?);
                let mut refused = 0;
                for request in [in_header, in_body, in_query, in_part_of_it, in_path] {
                    refused += u64::from(
                        request
                            .send(None)
                            .is_err_and(|e| e.kind == ErrorKind::RefusedByHost),
                    );
                }
                Ok(object(refused))
            }
            "uses-an-issued-token-otherwise" => {
                let token = issued()?;
                let tried = [
                    token.placeholder("json").map(|_| ()),
                    token.placeholder("query").map(|_| ()),
                    token.placeholder("basic").map(|_| ()),
                    token.basic_auth("user").map(|_| ()),
                    token.hmac("sha256", b"x").map(|_| ()),
                    token.rsa_sha256(b"x").map(|_| ()),
                ];
                let refused = |e: &Result<()>| {
                    e.as_ref()
                        .is_err_and(|e| e.kind == ErrorKind::RefusedByHost)
                };
                Ok(object(
                    tried.iter().filter(|tried| refused(tried)).count() as u64
                ))
            }
            "expands-placeholders" => {
                let secret = secrets::open("token.value")?.expect("the secret");
                let long = secret.basic_auth(&"u".repeat(1_000_000));
                let token = secret.basic_auth(&"u".repeat(250))?;
                let tried = [
                    long.map(drop),
                    Request::new("GET", own("x")?)
                        .header("authorization", &token.repeat(900))
                        .send(None)
                        .map(drop),
                    Request::new("POST", own("x")?)
                        .content(token.repeat(900).into_bytes())
                        .send(None)
                        .map(drop),
                    secrets::open("token.signing-key")?
                        .expect("the secret")
                        .sigv4(
                            "AWS4",
                            "20260101T000000Z",
                            "r",
                            "s",
                            token.repeat(29_000).as_bytes(),
                        )
                        .map(drop),
                ];
                match tried.iter().position(Result::is_ok) {
                    None => Ok(object(tried.len() as u64)),
                    Some(passed) => Err(error(
                        ErrorKind::Protocol,
                        format!("number {passed} passed"),
                    )),
                }
            }
            "signs-access-for-years" => {
                let key = secrets::open("token.account-key")?.expect("the secret");
                let date = raic_sdk::time::http(raic_sdk::now_unix_ms());
                let request = |path: &str, date: &str| {
                    format!(
                        "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\n/account{path}\ncomp:list"
                    )
                };
                let tried = [
                    "account\nrwdl\nb\nsco\n2020-01-01\n2099-01-01\n\nhttps\n2023-11-03\n\n"
                        .to_owned(),
                    "rwdl\n\n2099-01-01\n/blob/account/own\n\n\nhttps\n2023-11-03\nc\n\n\n\n\n\n"
                        .to_owned(),
                    request("/other/x", &date),
                    request("/own/x", "Thu, 01 Jan 2099 00:00:00 GMT"),
                    "x".to_owned(),
                ];
                key.hmac("sha256", request("/own/x", &date).as_bytes())?;
                let refused = |text: &String| {
                    key.hmac("sha256", text.as_bytes())
                        .is_err_and(|e| e.kind == ErrorKind::RefusedByHost)
                };
                Ok(object(
                    tried.iter().filter(|text| refused(text)).count() as u64
                ))
            }
            "has-others-fetch" => {
                let url = required_setting("forbidden")?;
                let headers = [
                    ("x-ms-copy-source", url.as_str()),
                    ("destination", url.as_str()),
                    ("referer", url.as_str()),
                    ("x-amz-copy-source", "/payroll/all.csv"),
                    ("x-goog-copy-source", "payroll/all.csv"),
                    ("x-copy-from", "/payroll/all.csv"),
                    ("x-object-manifest", "payroll/a"),
                    ("x-ms-rename-source", "/payroll/all.csv"),
                ];
                let refused = headers.iter().filter(|(header, source)| {
                    let request =
                        Request::new("PUT", own("x").unwrap_or_default()).header(header, source);
                    request
                        .send(None)
                        .is_err_and(|e| e.kind == ErrorKind::RefusedByHost)
                });
                Ok(object(refused.count() as u64))
            }
            "hoards-connections" => {
                let mut all = Vec::new();
                for _ in 0..30 {
                    all.push(Request::new("GET", own("slow")?).send(None)?);
                }
                Ok(object(all.len() as u64))
            }
            "keeps-a-long-name" => {
                let name = "n".repeat(1 << 19);
                raic_sdk::login("first", || {
                    Ok(Made::lasting(60_000).text(&name, "x".to_owned()))
                })
                .map(|_| object(0))
            }
            "keeps-a-long-error" => raic_sdk::login("first", || {
                Err(error(ErrorKind::Unauthenticated, "e".repeat(1 << 19)))
            })
            .map(|_| object(0)),
            "logs-in-in-turn" => {
                let nested = || {
                    let first = raic_sdk::login("first", || {
                        Ok(Made::lasting(60_000).text("a", "1".to_owned()))
                    })?;
                    Ok(Made::lasting(60_000).text("b", first.text("a")?.to_owned()))
                };
                raic_sdk::login("issued", nested).map(|_| object(1))
            }
            "logs-in-out-of-turn" => {
                let nested = || {
                    raic_sdk::login("issued", || Ok(Made::lasting(60_000)))
                        .map(|_| Made::lasting(60_000))
                };
                raic_sdk::login("first", nested).map(|_| object(0))
            }
            "names-an-endpoint" => {
                raic_sdk::endpoint("storage", "http://127.0.0.1:1/x").map(|_| object(0))
            }
            "names-an-endpoint-of-its-own" => {
                raic_sdk::endpoint("other", "http://127.0.0.1:1/x").map(|_| object(0))
            }
            "waits-for-itself" => {
                let _first = cloud::cache_acquire("issued")?;
                cloud::cache_acquire("issued").map(|_| object(0))
            }
            "asks-for-intermediate-keys" => {
                // Tries to get what the chain of SigV4 begins with, and keys that would sign
                // everything for a day.
                let key = secrets::open("token.signing-key")?.expect("the secret");
                let url = required_setting("endpoint")?;
                let (_, own, _) = raic_sdk::uri::split(&url).unwrap_or_default();
                let request = |host: &str| {
                    format!("GET\n/own\n\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD").into_bytes()
                };
                let now = raic_sdk::time::basic(raic_sdk::now_unix_ms());
                let of = |line: &str, query: &str| {
                    format!("{line}\n{query}\nhost:{own}\n\nhost\nUNSIGNED-PAYLOAD").into_bytes()
                };
                let tried = [
                    key.hmac("sha256", b"20260101").map(drop),
                    key.placeholder("raw").map(drop),
                    key.rsa_sha256(b"x").map(drop),
                    key.sigv4("", &now, "r", "s", &request(own)).map(drop),
                    key.sigv4("AWS4", "20260101", "r", "s", &request(own))
                        .map(drop),
                    key.sigv4("AWS4", &now, "r", "s", b"20260101").map(drop),
                    key.sigv4("AWS4", &now, "r", "s", &request("evil.example"))
                        .map(drop),
                    // A request of another time, presigned URLs for others, and paths that are not
                    // granted.
                    key.sigv4("AWS4", "20350101T000000Z", "r", "s", &request(own))
                        .map(drop),
                    key.sigv4(
                        "AWS4",
                        &now,
                        "r",
                        "s",
                        &of("GET\n/own/x", "X-Amz-Expires=604800"),
                    )
                    .map(drop),
                    key.sigv4(
                        "AWS4",
                        &now,
                        "r",
                        "s",
                        &of("GET\n/own/x", "x%2Damz-credential=x"),
                    )
                    .map(drop),
                    key.sigv4("AWS4", &now, "r", "s", &of("GET\n/other/x", ""))
                        .map(drop),
                    key.sigv4("AWS4", &now, "r", "s", &of("GET\n/own/../other/x", ""))
                        .map(drop),
                ];
                let refused = tried.iter().filter(|e| {
                    e.as_ref()
                        .is_err_and(|e| e.kind == ErrorKind::RefusedByHost)
                });
                key.sigv4("AWS4", &now, "r", "s", &request(own))?;
                Ok(object(refused.count() as u64))
            }
            "moves-elsewhere" => {
                let request = Request::new("MOVE", own("x")?)
                    .header("destination", &required_setting("forbidden")?);
                request.send(None).map(|_| object(0))
            }
            "repeats-a-key" => {
                let token = secrets::open("token.value")?
                    .expect("the secret")
                    .placeholder("json")?;
                let body = format!(r#"{{"a":"{token}","a":"x"}}"#);
                Request::new("POST", own("x")?)
                    .content(body.into_bytes())
                    .send(None)
                    .map(|_| object(0))
            }
            "asks-without-end" => loop {
                Request::new("GET", own("x")?).send(None)?;
            },
            _ => panic!("trapped in head"),
        }
    }

    fn delete(_: String, _: Option<String>) -> Result<()> {
        Ok(())
    }

    fn delete_many(keys: Vec<String>) -> Result<Vec<(String, Error)>> {
        let first = keys.first().cloned().unwrap_or_default();
        match first.as_str() {
            "has-none" => Err(error(ErrorKind::Unsupported, "one by one")),
            "tells-of-another" => Ok(vec![(
                "never/asked".to_owned(),
                error(ErrorKind::Throttled, "later"),
            )]),
            _ => Ok(vec![(first, error(ErrorKind::Throttled, "later"))]),
        }
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        let entry = |key: String| Listed {
            key,
            info: object(0),
        };
        match prefix.as_str() {
            "reads-objects/" => {
                let answer = Request::new("GET", own("object")?).send(None)?;
                let seen = String::from_utf8_lossy(&answer.read(64)?).into_owned();
                Err(error(ErrorKind::Protocol, seen))
            }
            // A listing that never ends.
            _ if prefix.starts_with("shares/") => {
                let number: u64 = cursor.and_then(|c| c.parse().ok()).unwrap_or_default();
                Ok(Page {
                    entries: Vec::new(),
                    next: Some((number + 1).to_string()),
                })
            }
            _ if prefix.starts_with("made-up/") => {
                let page: u64 = cursor.and_then(|c| c.parse().ok()).unwrap_or_default();
                let keys = (0..u64::from(limit))
                    .map(|i| entry(format!("{prefix}{:020}", page * 1000 + i)));
                Ok(Page {
                    entries: keys.collect(),
                    next: Some((page + 1).to_string()),
                })
            }
            "same-cursor/" => Ok(Page {
                entries: Vec::new(),
                next: Some(cursor.unwrap_or_else(|| "c".to_owned())),
            }),
            "flood/" => Ok(Page {
                entries: (0..1_000_000)
                    .map(|i| entry(format!("flood/{i}")))
                    .collect(),
                next: None,
            }),
            "too-many/" => Ok(Page {
                entries: (0..=limit)
                    .map(|i| entry(format!("too-many/{i}")))
                    .collect(),
                next: None,
            }),
            _ => Ok(Page {
                entries: vec![
                    entry("../../etc/passwd".to_owned()),
                    entry(format!("{prefix}ok")),
                ],
                next: None,
            }),
        }
    }
}
