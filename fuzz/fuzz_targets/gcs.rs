//! Answers of Google Cloud Storage, by both of its APIs, and of its logins.

#![no_main]

use raic_connector_gcs::Gcs;
use raic_fuzz::Given;
use raic_sdk::{
    ByteRange, Connector as _, WriteMode,
    testing::{Answer, Host, payload},
};

fn host(auth: &str) -> Host {
    Host::new()
        .setting("endpoint", "https://storage.googleapis.com")
        .setting("bucket", "b")
        .setting("auth", auth)
        .setting("metadata", "http://169.254.169.254")
        .setting("hmac-key.access-id", "GOOGID")
        .secret("hmac-key.secret", "secret")
        .token("access-token", "t0ken-of-some-length")
        .now(1_700_000_000_000)
}

fn run(data: &[u8]) {
    let Some((call, rest)) = data.split_first() else {
        return;
    };
    let given = Given::new(rest);
    let login = Answer::new(200).body(r#"{"access_token":"***","expires_in":3599}"#);
    let (xml, json) = (host("hmac"), host("metadata"));
    let key = || "k".to_owned();
    let range = ByteRange {
        offset: 1,
        length: 9,
    };
    match call % 10 {
        0 => given.run(xml, || given.checked(Gcs::list(String::new(), None, 1000))),
        1 => given.run(xml, || Gcs::get(key(), Some(range), None)),
        2 => given.run(xml, || {
            Gcs::put(key(), &payload("x"), WriteMode::CreateOnly)
        }),
        3 => given.run(xml, || Gcs::delete(key(), None)),
        4 => given.run_two(xml, || Gcs::head(key())),
        5 => given.run_after(json, &login, || {
            given.checked(Gcs::list(String::new(), None, 1000))
        }),
        6 => given.run_after(json, &login, || Gcs::get(key(), Some(range), None)),
        7 => given.run_after(json, &login, || {
            Gcs::put(key(), &payload("x"), WriteMode::CreateOnly)
        }),
        8 => given.run_after(json, &login, || Gcs::delete(key(), None)),
        // The login's answer is the one of the input.
        _ => given.run_two(json, Gcs::probe),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
