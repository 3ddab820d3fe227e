//! Answers of Azure and of Microsoft Entra.

#![no_main]

use raic_connector_azure::Azure;
use raic_fuzz::Given;
use raic_sdk::{
    ByteRange, Connector as _, WriteMode,
    testing::{Host, payload},
};

fn host(auth: &str) -> Host {
    Host::new()
        .setting("auth", auth)
        .setting("account", "a")
        .setting("container", "c")
        .setting("endpoint", "https://a.blob.core.windows.net")
        .setting("auth-url", "https://login.microsoftonline.com")
        .setting("tenant", "t")
        .setting("application.client-id", "id")
        .secret("application.client-secret", "s")
        .secret("key.account-key", "a2V5")
        .secret("sas.signature", "sig=x")
        .token("access-token", "t0ken-of-some-length")
        .now(1_700_000_000_000)
}

fn run(data: &[u8]) {
    let Some((call, rest)) = data.split_first() else {
        return;
    };
    let given = Given::new(rest);
    let auth = if call & 8 == 0 { "shared-key" } else { "sas" };
    let key = || "k".to_owned();
    let range = ByteRange {
        offset: 1,
        length: 9,
    };
    match call % 8 {
        0 => given.run(host(auth), || {
            given.checked(Azure::list(String::new(), None, 1000))
        }),
        1 => given.run(host(auth), || Azure::get(key(), Some(range), None)),
        2 => given.run(host(auth), || {
            Azure::put(key(), &payload("x"), WriteMode::CreateOnly)
        }),
        3 => given.run(host(auth), || Azure::delete(key(), None)),
        4 => given.run(host(auth), || Azure::head(key())),
        5 => given.run(host(auth), Azure::create_container),
        // The login's answer is the one of the input.
        _ => given.run_two(host("oauth"), Azure::probe),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
