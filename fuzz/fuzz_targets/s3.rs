//! Answers of S3 services.

#![no_main]

use raic_connector_s3::S3;
use raic_fuzz::Given;
use raic_sdk::{
    ByteRange, Connector as _, WriteMode,
    testing::{Host, payload},
};

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

fn run(data: &[u8]) {
    let Some((call, rest)) = data.split_first() else {
        return;
    };
    let given = Given::new(rest);
    let key = || "k".to_owned();
    let range = ByteRange {
        offset: 1,
        length: 9,
    };
    match call % 8 {
        0 => given.run(host(), || {
            given.checked(S3::list(String::new(), None, 1000))
        }),
        1 => given.run(host(), || S3::get(key(), Some(range), None)),
        2 => given.run(host(), || {
            S3::put(key(), &payload("x"), WriteMode::CreateOnly)
        }),
        3 => given.run(host(), || S3::delete(key(), None)),
        4 => given.run(host(), || S3::delete_many(vec![key()])),
        5 => given.run(host(), S3::create_container),
        6 => given.run(host(), S3::delete_container),
        _ => given.run_two(host(), || S3::head(key())),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
