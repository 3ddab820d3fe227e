//! Answers of Swift and Keystone.

#![no_main]

use raic_connector_swift::Swift;
use raic_fuzz::Given;
use raic_sdk::{
    ByteRange, Connector as _, WriteMode,
    testing::{Answer, Host, payload},
};

fn host(auth: &str) -> Host {
    Host::new()
        .setting("container", "c")
        .setting("auth", auth)
        .setting("auth-url", "https://k.example/v3")
        .setting("interface", "public")
        .setting("project", "p")
        .setting("project-domain", "Default")
        .setting("user-domain", "Default")
        .setting("account.user", "u")
        .secret("account.password", "p4ssword")
        .token("token-v1", "t0ken-of-some-length")
        .token("token-v2", "t0ken-of-some-length")
        .token("token-v3", "t0ken-of-some-length")
        .now(1_700_000_000_000)
}

fn run(data: &[u8]) {
    let Some((call, rest)) = data.split_first() else {
        return;
    };
    let given = Given::new(rest);
    let login = Answer::new(200).header("x-storage-url", "https://s.example/v1/AUTH_u");
    let (v1, key) = (host("v1"), || "k".to_owned());
    let range = ByteRange {
        offset: 1,
        length: 9,
    };
    match call % 10 {
        0 => given.run_after(v1, &login, || {
            given.checked(Swift::list(String::new(), None, 1000))
        }),
        1 => given.run_after(v1, &login, || Swift::get(key(), Some(range), None)),
        2 => given.run_after(v1, &login, || {
            Swift::put(key(), &payload("x"), WriteMode::Overwrite)
        }),
        3 => given.run_after(v1, &login, || Swift::delete(key(), None)),
        4 => given.run_after(v1, &login, || Swift::head(key())),
        5 => given.run_after(v1, &login, Swift::create_container),
        // A token that is refused is made anew, and the account is not asked.
        6 if given.status == 401 => {}
        6 => given.run_two(v1.answer(login), Swift::usage),
        // The login's answer is the one of the input.
        7 => given.run_two(v1, Swift::probe),
        8 => given.run_two(host("v2"), Swift::probe),
        _ => given.run_two(host("v3"), Swift::probe),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
