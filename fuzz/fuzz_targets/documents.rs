//! XML, JSON, dates, etags and URLs, as the SDK reads them for every connector.

#![no_main]

use raic_sdk::{
    answer::{bare_etag, quoted},
    json, time, uri,
    xml::Element,
};

fn run(data: &[u8]) {
    check_xml(data);
    match json::parse(data) {
        Ok(document) => assert!(json::parse(document.to_string().as_bytes()).is_ok()),
        Err(e) => assert!(e.message.len() < 120, "{}", e.message),
    }
    if let Some(moment) = data.first_chunk::<8>() {
        check_moment(u64::from_be_bytes(*moment));
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let moments = [time::parse_http(text), time::parse_rfc3339(text)];
    for moment in moments.into_iter().flatten() {
        assert_eq!(moment % 1000, 0);
        check_moment(moment);
    }
    let read = json::parse(json::quote(text).as_bytes()).expect("a quoted text");
    assert_eq!(read.as_str(), Some(text));
    assert_eq!(uri::decode(&uri::encode(text)).as_deref(), Some(text));
    assert_eq!(uri::decode(&uri::encode_path(text)).as_deref(), Some(text));
    assert_eq!(uri::decode_form(&uri::encode(text)).as_deref(), Some(text));
    if let Some((scheme, authority, path)) = uri::split(text) {
        assert_eq!(format!("{scheme}://{authority}{path}"), text);
    }
    if let Some(bare) = bare_etag(text) {
        assert!(!bare.is_empty());
        assert_eq!(bare_etag(&quoted(&bare)), Some(bare));
    }
}

/// The beginning of the year 10000, which dates do not reach, in milliseconds since 1970.
const END: u64 = 253_402_300_800_000;

fn check_moment(unix_ms: u64) {
    let (http, basic) = (time::http(unix_ms), time::basic(unix_ms));
    if unix_ms < END {
        assert_eq!(
            time::parse_http(&http),
            Some(unix_ms / 1000 * 1000),
            "{http}"
        );
        assert_eq!(basic.len(), 16, "{basic}");
    }
}

/// What is in an element: elements, bytes of names and texts, and levels.
fn measure(element: &Element) -> (usize, usize, usize) {
    let (mut elements, mut levels) = (1, 0);
    let mut bytes = element.name.len() + element.text.len();
    for child in &element.children {
        let inner = measure(child);
        elements += inner.0;
        bytes += inner.1;
        levels = inner.2.max(levels);
    }
    (elements, bytes, levels + 1)
}

fn check_xml(data: &[u8]) {
    let mut taken = 0;
    let each = Element::each(data, "K", |element| {
        taken += measure(&element).0;
        Ok(())
    });
    let Ok(root) = Element::parse(data) else {
        return;
    };
    let (elements, bytes, levels) = measure(&root);
    assert!(bytes <= data.len());
    // An empty element counts as no level of its own.
    assert!(levels <= 33, "{levels} levels");
    if root.name != "K" {
        let rest = each.expect("it is a document");
        assert!(measure(&rest).0 + taken >= elements);
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
