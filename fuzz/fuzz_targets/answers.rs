//! Status, headers and body of any answer, as the SDK reads them for every connector.

#![no_main]

use raic_fuzz::Given;
use raic_sdk::{
    ErrorKind, Request,
    answer::{self, Described},
    json, oauth,
    testing::Host,
};

fn run(data: &[u8]) {
    let given = Given::new(data);
    let host = Host::new()
        .token("t", "t0ken-of-some-length")
        .now(1_700_000_000_000)
        .answer(given.answer);
    host.run(|| {
        let request = Request::new("GET", "https://h.example/".to_owned());
        let answer = request.send(None).expect("the answer");
        let expected = answer::expect(&answer, &[200], "x-trans-id", |_, text| {
            Described::text(text)
        });
        match expected {
            Ok(()) => assert_eq!(given.status, 200),
            Err(e) => {
                assert_eq!(e.http_status, Some(given.status));
                assert_eq!(e.kind, answer::kind_of_status(given.status));
                assert!(e.message.chars().count() <= 200 && !e.message.contains('\n'));
                let kind = e.kind;
                let dated = answer::dated(&answer, e).kind;
                assert!(dated == kind || dated == ErrorKind::ClockSkew);
            }
        }
        let is_strong = |etag: &String| !etag.is_empty() && !etag.starts_with("W/");
        if let Ok(info) = answer::info(&answer) {
            assert!(info.etag.as_ref().is_none_or(is_strong), "{info:?}");
        }
        if let Ok(made) = oauth(&answer, "t", 60) {
            let body = answer.read(u32::MAX).expect("it was read");
            let document = json::parse(&body).expect("it was read");
            let seconds = json::number(&document, "/expires_in").expect("it was read");
            assert!(made.ttl_ms() <= seconds.saturating_mul(1000));
        }
    });
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
