//! The account's login, and the bucket's id, which needs that login and is kept like one.

use raic_sdk::{
    ErrorKind, Login, Made, Payload, Request, Response, Result,
    bindings::raic::connector::cloud::{self, Acquired},
    endpoint, error, json, login, required_setting, secrets, with_login_judging,
};

use crate::answer::{code, document, expect, has_ended, text};

/// How long the account's login is kept, in milliseconds: its token lasts a day
/// ("b2_authorize_account").
const ACCOUNT_MS: u64 = 23 * 60 * 60 * 1000;
/// How long the bucket's id is kept, in milliseconds. It never changes, and the service reports an
/// id that is no longer right.
const BUCKET_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a missing bucket is not looked for again, in milliseconds.
const NO_BUCKET_MS: u64 = 5_000;

/// The names of the two logins.
const ACCOUNT: &str = "account";
const BUCKET: &str = "bucket";
/// The names of their values.
const TOKEN: &str = "token";
const ID: &str = "id";
const API: &str = "api";
const DOWNLOAD: &str = "download";

fn log_in() -> Result<Made> {
    let id = raic_sdk::setting("key.id").ok_or_else(|| raic_sdk::lacks("applicationKeyId"))?;
    let basic = secrets::required("key.secret")?.basic_auth(&id)?;
    let url = format!(
        "{}/b2api/v3/b2_authorize_account",
        required_setting("endpoint")?
    );
    let answer = Request::new("GET", url)
        .header("authorization", &format!("Basic {basic}"))
        .send(None)?;
    expect(&answer, &[200]).map_err(|mut e| {
        // A login needs no permission: a key that is refused here is wrong.
        if e.http_status == Some(401) {
            e.kind = ErrorKind::Unauthenticated;
        }
        e
    })?;
    let account = document(&answer)?;
    let storage = |name: &str, place: &str| endpoint(name, text(&account, place)?);
    Ok(Made::lasting(ACCOUNT_MS)
        .text(ID, text(&account, "/accountId")?.to_owned())
        .text(API, storage(API, "/apiInfo/storageApi/apiUrl")?)
        .text(
            DOWNLOAD,
            storage(DOWNLOAD, "/apiInfo/storageApi/downloadUrl")?,
        )
        .secret(TOKEN, answer.take_secret("account")?))
}

/// Asks for the bucket's id by its name. If there is no such bucket, the id is empty: an error here
/// would be that of a failed login.
fn find_bucket() -> Result<Made> {
    let name = required_setting("bucket")?;
    let answer = call("b2_list_buckets", |account| {
        Ok(json::json!({ "accountId": account, "bucketName": name }))
    })?;
    let buckets = document(&answer)?;
    Ok(match json::text(&buckets, "/buckets/0/bucketId") {
        Some(id) => Made::lasting(BUCKET_MS).text(ID, id.to_owned()),
        None => Made::lasting(NO_BUCKET_MS).text(ID, String::new()),
    })
}

fn authorized(account: &Login, method: &str, url: String) -> Result<Request> {
    let token = account.secret(TOKEN)?.placeholder("raw")?;
    Ok(Request::new(method, url).header("authorization", &token))
}

/// Makes a call of the API. `fields` gets the account's id and returns the call's fields.
pub(crate) fn call(name: &str, fields: impl Fn(&str) -> Result<json::Value>) -> Result<Response> {
    let send = |account: &Login| {
        let request = authorized(
            account,
            "POST",
            format!("{}/b2api/v3/{name}", account.text(API)?),
        )?;
        let content = fields(account.text(ID)?)?.to_string().into_bytes();
        request
            .header("content-type", "application/json")
            .content(content)
            .send(None)
    };
    with_login_judging(ACCOUNT, log_in, send, has_ended)
}

/// Makes a call of the API about the bucket. `fields` gets the bucket's id and returns the call's
/// fields.
pub(crate) fn call_bucket(name: &str, fields: impl Fn(&str) -> json::Value) -> Result<Response> {
    let send = |bucket: &Login| {
        let id = bucket.text(ID)?;
        if id.is_empty() {
            return Err(error(
                ErrorKind::ContainerNotFound,
                "the account has no bucket of that name",
            ));
        }
        call(name, |_| Ok(fields(id)))
    };
    // A bucket that was created again under the same name has another id.
    let is_stale = |answer: &Response| {
        answer.status() == 400 && code(answer).as_deref() == Some("bad_bucket_id")
    };
    with_login_judging(BUCKET, find_bucket, send, is_stale)
}

/// The bucket's id; `None` if there is no bucket of that name.
pub(crate) fn bucket_id() -> Result<Option<String>> {
    let id = login(BUCKET, find_bucket)?.text(ID)?.to_owned();
    Ok((!id.is_empty()).then_some(id))
}

/// Drops the bucket's id if the host keeps one, so that the next call that needs it asks for it
/// again. Sends nothing.
pub(crate) fn forget_bucket() {
    // If the host keeps no id, the ticket to ask for it is dropped, and any other call may have it.
    // If the host keeps an error, there is no id to drop.
    if let Ok(Acquired::Hit(bucket)) = cloud::cache_acquire(BUCKET) {
        cloud::cache_invalidate(BUCKET, bucket.generation);
    }
}

/// Reads the object at a path; `build` adds what the request needs.
pub(crate) fn download(path: &str, build: impl Fn(Request) -> Request) -> Result<Response> {
    let send = |account: &Login| {
        let url = format!("{}/file/{path}", account.text(DOWNLOAD)?);
        build(authorized(account, "GET", url)?).send(None)
    };
    with_login_judging(ACCOUNT, log_in, send, has_ended)
}

/// Uploads an object, to the host and with the token that the service names for this one upload.
/// `build` adds what the request needs.
pub(crate) fn upload(content: &Payload, build: impl Fn(Request) -> Request) -> Result<Response> {
    let answer = call_bucket(
        "b2_get_upload_url",
        |bucket| json::json!({ "bucketId": bucket }),
    )?;
    let target = document(&answer)?;
    let url = text(&target, "/uploadUrl")?;
    let (scheme, host, _) = raic_sdk::uri::split(url).unwrap_or_default();
    endpoint("upload", &format!("{scheme}://{host}"))?;
    let token = answer.take_secret("upload")?.placeholder("raw")?;
    build(Request::new("POST", url.to_owned()).header("authorization", &token)).send(Some(content))
}
