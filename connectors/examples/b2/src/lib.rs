//! Backblaze B2, by its native API (v3).
//!
//! Every put makes a version. The newest version is the object, and its id is the object's etag. A
//! delete removes all versions, the oldest first, so that no older one comes to light. In a bucket
//! that `create_container` made, the service removes older versions after a day.

mod answer;
mod login;

use answer::{document, expect, text};
use login::{bucket_id, call, call_bucket, download, forget_bucket, upload};
use raic_sdk::{
    Body, ByteRange, Capabilities, Connector, CreateOnly, Digests as _, Error, ErrorKind, Extra,
    Listed, ObjectInfo, Page, Payload, Response, Result, WriteMode,
    answer::range_header,
    conditions, error, hex,
    json::{self, json},
    required_setting, uri,
};

/// The most versions of an object that one call deletes. A call may send 32 requests, and some of
/// them may be logins.
const DELETES: usize = 24;
/// The most versions that a delete lists.
const VERSIONS: u32 = 100;

/// The B2 connector.
#[derive(Debug)]
pub struct B2;

raic_sdk::connector!(B2);

impl Connector for B2 {
    fn describe() -> Result<Extra> {
        // "Maximum file size", of a file that is sent in one request.
        Ok(Capabilities::new(CreateOnly::Emulated)
            .ordered()
            .strong()
            .max_object_size(5_000_000_000)
            .describe())
    }

    fn probe() -> Result<()> {
        Self::list(String::new(), None, 1).map(drop)
    }

    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
        match mode {
            WriteMode::Overwrite => {}
            WriteMode::CreateOnly => conditions::is_absent(Self::head(key.clone()))?,
            WriteMode::IfMatch(_) => {
                return Err(error(ErrorKind::Unsupported, "B2 does not replace by etag"));
            }
        }
        let (name, sha1) = (uri::encode_path(&key), hex(&content.sha1()));
        let answer = upload(content, |request| {
            let request = request
                .header("x-bz-file-name", &name)
                .header("x-bz-content-sha1", &sha1);
            request.header("content-type", "application/octet-stream")
        })?;
        info_of(&document(&answer).map_err(of_upload)?)
    }

    fn get(
        key: String,
        range: Option<ByteRange>,
        if_match: Option<String>,
    ) -> Result<(ObjectInfo, Body)> {
        let path = format!(
            "{}/{}",
            uri::encode(&required_setting("bucket")?),
            uri::encode_path(&key)
        );
        let answer = download(&path, |request| match range {
            Some(range) => request.header("range", &range_header(range)),
            None => request,
        })?;
        expect(&answer, &[200, 206])?;
        let id = answer.header("x-bz-file-id");
        let id =
            id.ok_or_else(|| error(ErrorKind::Protocol, "the answer lacks the version's id"))?;
        if if_match.is_some_and(|wanted| wanted != id) {
            return Err(error(
                ErrorKind::PreconditionFailed,
                "the object has another version",
            ));
        }
        let uploaded = answer
            .header("x-bz-upload-timestamp")
            .and_then(|ms| ms.parse().ok());
        let info = ObjectInfo {
            etag: Some(id),
            last_modified_unix_ms: uploaded,
            ..raic_sdk::answer::info(&answer)?
        };
        Ok((info, Response::into_body(answer)?))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        // A HEAD of the object has no document, so it would not tell an expired token from a key
        // that may not read. A listing does.
        let page = names(&key, Some(&key), 1)?;
        let entry = page.entries.into_iter().find(|entry| entry.key == key);
        entry
            .map(|entry| entry.info)
            .ok_or_else(|| error(ErrorKind::NotFound, "there is no such object"))
    }

    fn delete(key: String, if_match: Option<String>) -> Result<()> {
        if let Some(etag) = if_match
            && !conditions::still_has(Self::head(key.clone()), &etag)?
        {
            return Ok(());
        }
        let answer = call_bucket("b2_list_file_versions", |bucket| {
            json!({
                "bucketId": bucket, "prefix": key, "startFileName": key, "maxFileCount": VERSIONS,
            })
        })?;
        let page = document(&answer)?;
        // The newest version comes first. Longer names that begin with the key are listed, too.
        let ids: Vec<_> = files(&page)
            .filter(|file| json::text(file, "/fileName") == Some(&key))
            .map(|file| text(file, "/fileId"))
            .collect::<Result<_>>()?;
        let has_more = json::text(&page, "/nextFileName") == Some(&key);
        for id in ids.iter().rev().take(DELETES) {
            let answer = call("b2_delete_file_version", |_| {
                Ok(json!({ "fileName": key, "fileId": id }))
            })?;
            conditions::or_gone(expect(&answer, &[200]), ErrorKind::NotFound)?;
        }
        match has_more || ids.len() > DELETES {
            // The host retries a conflict, and so deletes more versions.
            true => Err(error(
                ErrorKind::Conflict,
                "more versions of the object are left",
            )),
            false => Ok(()),
        }
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        names(&prefix, cursor.as_deref(), limit)
    }

    fn create_container() -> Result<()> {
        let name = required_setting("bucket")?;
        let answer = call("b2_create_bucket", |account| {
            // The service removes older versions after a day.
            let rule = json!({
                "fileNamePrefix": "",
                "daysFromHidingToDeleting": 1,
                "daysFromUploadingToHiding": null,
            });
            Ok(json!({
                "accountId": account,
                "bucketName": name,
                "bucketType": "allPrivate",
                "lifecycleRules": [rule],
            }))
        })?;
        forget_bucket();
        match expect(&answer, &[200]) {
            // All accounts share one space of names, so the bucket may be another account's.
            Err(e) if e.kind == ErrorKind::AlreadyExists && bucket_id()?.is_some() => Ok(()),
            other => other,
        }
    }

    fn delete_container() -> Result<()> {
        // The id is asked for again: the bucket's name may be another bucket's by now.
        forget_bucket();
        let Some(id) = bucket_id()? else {
            return Ok(());
        };
        let answer = call("b2_delete_bucket", |account| {
            Ok(json!({ "accountId": account, "bucketId": id }))
        })?;
        forget_bucket();
        conditions::or_gone(expect(&answer, &[200]), ErrorKind::ContainerNotFound)
    }
}

/// A page of the newest versions, in the order of their names, from the name `from` on.
fn names(prefix: &str, from: Option<&str>, limit: u32) -> Result<Page> {
    let answer = call_bucket("b2_list_file_names", |bucket| {
        let mut fields = json!({ "bucketId": bucket, "prefix": prefix, "maxFileCount": limit });
        if let Some(from) = from {
            fields["startFileName"] = from.into();
        }
        fields
    })?;
    let page = document(&answer)?;
    let entry = |file| {
        Ok(Listed {
            key: text(file, "/fileName")?.to_owned(),
            info: info_of(file)?,
        })
    };
    Ok(Page {
        entries: files(&page).map(entry).collect::<Result<_>>()?,
        next: json::text(&page, "/nextFileName").map(str::to_owned),
    })
}

fn files(page: &json::Value) -> impl Iterator<Item = &json::Value> {
    page.pointer("/files")
        .and_then(|files| files.as_array())
        .into_iter()
        .flatten()
}

/// What a version's record says of it.
fn info_of(file: &json::Value) -> Result<ObjectInfo> {
    let size = json::number(file, "/contentLength");
    Ok(ObjectInfo {
        size: size
            .ok_or_else(|| error(ErrorKind::Protocol, "the answer lacks the object's size"))?,
        etag: Some(text(file, "/fileId")?.to_owned()),
        last_modified_unix_ms: json::number(file, "/uploadTimestamp"),
        extra: Vec::new(),
    })
}

/// Corrects the error of an upload. A host that refuses the token it was named with is full or
/// about to go, and the next upload gets another host ("Uploading files"). If something is not
/// found, it can only be the bucket.
fn of_upload(mut e: Error) -> Error {
    e.kind = match (e.kind, e.provider_code.as_deref()) {
        (_, Some("expired_auth_token" | "bad_auth_token")) => ErrorKind::Unavailable,
        (ErrorKind::NotFound, _) => ErrorKind::ContainerNotFound,
        // "Checksum did not match data received", or the same of "Sha1".
        (ErrorKind::Misconfigured, _) if e.message.contains("did not match data received") => {
            ErrorKind::Integrity
        }
        (kind, _) => kind,
    };
    e
}

#[cfg(test)]
mod tests {
    use raic_sdk::testing::{Answer, Host, Sent, payload};

    use super::*;

    const LOGIN: &str = r#"{"accountId":"a","authorizationToken":"***","apiInfo":{"storageApi":{
        "apiUrl":"https://api005.backblazeb2.com","downloadUrl":"https://f005.backblazeb2.com"}}}"#;
    const BUCKETS: &str = r#"{"buckets":[{"bucketId":"b1","bucketName":"bucket"}]}"#;
    const UPLOAD: &str = r#"{"uploadUrl":"https://pod-1.backblaze.com/b2api/v3/b2_upload_file/b1/x",
        "authorizationToken":"***"}"#;

    fn answered(status: u16, body: &str) -> Answer {
        Answer::new(status).body(body)
    }

    fn host() -> Host {
        Host::new()
            .setting("bucket", "bucket")
            .setting("endpoint", "https://api.backblazeb2.com")
            .setting("key.id", "id")
            .secret("key.secret", "s3cret")
            .token("account", "t0ken")
            .token("upload", "upl0ad")
            .answer(answered(200, LOGIN))
    }

    fn error_body(code: &str) -> String {
        format!(r#"{{"status":0,"code":"{code}","message":"why"}}"#)
    }

    #[test]
    fn an_upload_goes_where_and_with_the_token_that_it_is_told() {
        let stored = r#"{"fileId":"4_z1","fileName":"a b","contentLength":5,"uploadTimestamp":17}"#;
        let (info, sent) = host()
            .answer(answered(200, BUCKETS))
            .answer(answered(200, UPLOAD))
            .answer(answered(200, stored))
            .run(|| B2::put("a b".to_owned(), &payload("hello"), WriteMode::Overwrite));
        let info = info.unwrap();
        assert_eq!((info.size, info.etag.as_deref()), (5, Some("4_z1")));
        assert_eq!(sent[0].header("authorization"), Some("Basic aWQ6czNjcmV0"));
        assert_eq!(
            sent[1].url,
            "https://api005.backblazeb2.com/b2api/v3/b2_list_buckets"
        );
        assert_eq!(
            sent[3].url,
            "https://pod-1.backblaze.com/b2api/v3/b2_upload_file/b1/x"
        );
        assert_eq!(sent[3].header("authorization"), Some("upl0ad"));
        assert_eq!(sent[3].header("x-bz-file-name"), Some("a%20b"));
        assert_eq!(
            sent[3].header("x-bz-content-sha1"),
            Some("aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d")
        );
    }

    /// "Uploading files": 401 and 503 of a host mean that another should be asked for.
    #[test]
    fn a_host_that_takes_no_more_uploads_is_one_that_is_down() {
        for (status, code) in [(401, "expired_auth_token"), (503, "service_unavailable")] {
            let (e, _) = host()
                .answer(answered(200, BUCKETS))
                .answer(answered(200, UPLOAD))
                .answer(answered(status, &error_body(code)))
                .run(|| B2::put("k".to_owned(), &payload("hello"), WriteMode::Overwrite));
            assert_eq!(e.unwrap_err().kind, ErrorKind::Unavailable, "{code}");
        }
    }

    #[test]
    fn bytes_that_changed_on_their_way_are_no_wrong_setting() {
        for text in [
            "Checksum did not match data received",
            "Sha1 did not match data received",
        ] {
            let error = error_body("bad_request").replace("why", text);
            let (e, _) = host()
                .answer(answered(200, BUCKETS))
                .answer(answered(200, UPLOAD))
                .answer(answered(400, &error))
                .run(|| B2::put("k".to_owned(), &payload("hello"), WriteMode::Overwrite));
            assert_eq!(e.unwrap_err().kind, ErrorKind::Integrity, "{text}");
        }
    }

    #[test]
    fn a_token_that_has_ended_is_made_anew_and_one_that_may_not_is_kept() {
        let refused = |code: &str| {
            host()
                .answer(answered(200, BUCKETS))
                .answer(answered(401, &error_body(code)))
        };
        let (page, sent) = refused("expired_auth_token")
            .answer(answered(200, LOGIN))
            .answer(answered(200, r#"{"files":[]}"#))
            .run(|| B2::list(String::new(), None, 1));
        assert!(page.is_ok() && sent.len() == 5);
        let (page, sent) = refused("unauthorized").run(|| B2::list(String::new(), None, 1));
        assert_eq!(
            (page.unwrap_err().kind, sent.len()),
            (ErrorKind::PermissionDenied, 3)
        );
    }

    #[test]
    fn a_bucket_that_was_made_anew_is_found_by_its_name_again() {
        let (page, sent) = host()
            .answer(answered(200, BUCKETS))
            .answer(answered(400, &error_body("bad_bucket_id")))
            .answer(answered(200, &BUCKETS.replace("b1", "b2")))
            .answer(answered(200, r#"{"files":[]}"#))
            .run(|| B2::list(String::new(), None, 1));
        assert!(page.unwrap().entries.is_empty());
        assert!(String::from_utf8_lossy(&sent[4].body).contains(r#""bucketId":"b2""#));
    }

    #[test]
    fn a_delete_takes_all_versions_the_oldest_first_and_no_other_name() {
        let file = |name: &str, id: &str| {
            format!(r#"{{"fileName":"{name}","fileId":"{id}","contentLength":1}}"#)
        };
        let files = [
            file("k", "3"),
            file("k", "2"),
            file("k", "1"),
            file("kk", "9"),
        ]
        .join(",");
        let (deleted, sent) = host()
            .answer(answered(200, BUCKETS))
            .answer(answered(
                200,
                &format!(r#"{{"files":[{files}],"nextFileName":null}}"#),
            ))
            .answer(answered(200, "{}"))
            .answer(answered(400, &error_body("file_not_present")))
            .answer(answered(200, "{}"))
            .run(|| B2::delete("k".to_owned(), None));
        deleted.unwrap();
        let bodies: Vec<_> = sent[3..]
            .iter()
            .map(|sent| String::from_utf8_lossy(&sent.body).into_owned())
            .collect();
        let id = |body: &String| {
            json::text(&json::parse(body.as_bytes()).unwrap(), "/fileId")
                .unwrap()
                .to_owned()
        };
        assert_eq!(bodies.iter().map(id).collect::<Vec<_>>(), ["1", "2", "3"]);
    }

    #[test]
    fn an_object_of_more_versions_than_a_call_deletes_is_asked_for_again() {
        let file = |id: u32| format!(r#"{{"fileName":"k","fileId":"{id}","contentLength":1}}"#);
        let files = (0..30).map(file).collect::<Vec<_>>().join(",");
        let host = host()
            .answer(answered(200, BUCKETS))
            .answer(answered(200, &format!(r#"{{"files":[{files}]}}"#)));
        let host = (0..DELETES).fold(host, |host, _| host.answer(answered(200, "{}")));
        let (deleted, sent) = host.run(|| B2::delete("k".to_owned(), None));
        assert_eq!(
            (deleted.unwrap_err().kind, sent.len()),
            (ErrorKind::Conflict, 3 + DELETES)
        );
    }

    fn calls(sent: &[Sent]) -> Vec<&str> {
        sent.iter()
            .filter_map(|sent| sent.url.rsplit('/').next())
            .collect()
    }

    /// A listing was once sent only for its answer to be dropped.
    #[test]
    fn a_bucket_is_forgotten_without_a_request() {
        let (made, sent) = host()
            .answer(answered(200, r#"{"bucketId":"b1"}"#))
            .run(B2::create_container);
        made.unwrap();
        assert_eq!(calls(&sent), ["b2_authorize_account", "b2_create_bucket"]);
        let (removed, sent) = host()
            .answer(answered(200, BUCKETS))
            .answer(answered(200, r#"{"bucketId":"b1"}"#))
            .run(B2::delete_container);
        removed.unwrap();
        assert_eq!(
            calls(&sent),
            [
                "b2_authorize_account",
                "b2_list_buckets",
                "b2_delete_bucket"
            ]
        );
    }

    #[test]
    fn an_id_that_is_forgotten_is_asked_for_again() {
        let (found, sent) = host()
            .answer(answered(200, r#"{"buckets":[]}"#))
            .answer(answered(200, BUCKETS))
            .run(|| {
                assert_eq!(bucket_id().unwrap(), None);
                forget_bucket();
                bucket_id()
            });
        assert_eq!(found.unwrap().as_deref(), Some("b1"));
        assert_eq!(sent.len(), 3);
    }

    #[test]
    fn there_is_no_bucket_of_that_name() {
        let none = answered(200, r#"{"buckets":[]}"#);
        let (e, _) = host().answer(none).run(B2::probe);
        assert_eq!(e.unwrap_err().kind, ErrorKind::ContainerNotFound);
    }

    #[test]
    fn a_wrong_key_is_no_lack_of_permission() {
        let host = Host::new()
            .setting("bucket", "b")
            .setting("endpoint", "https://api.backblazeb2.com");
        let host = host.setting("key.id", "id").secret("key.secret", "s3cret");
        let (e, _) = host
            .answer(answered(401, &error_body("unauthorized")))
            .run(B2::probe);
        assert_eq!(e.unwrap_err().kind, ErrorKind::Unauthenticated);
    }
}
