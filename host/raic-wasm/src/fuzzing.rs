//! Entry points of the fuzz targets in `fuzz/`. Each function gives foreign bytes to a parser, and
//! asserts what must hold of the outcome.

mod answers;
mod packages;
mod requests;

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::{
    Manifest, Settings, Token,
    gate::Gate,
    secrets::{Credentials, SecretValue},
};

pub use answers::{redaction, token};
pub use packages::{manifest, package, signature};
pub use requests::{gate, placeholders, signing};

const S3: &[u8] = include_bytes!("../../../connectors/s3/connector.toml");
const AZURE: &[u8] = include_bytes!("../../../connectors/azure/connector.toml");

/// Returns the parts of an input. The byte between them never occurs in UTF-8.
fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == 0xff)
}

/// Returns the next part as text: an empty one if there is no part, or if it is not UTF-8.
fn text<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) -> &'a str {
    let part = parts.next().unwrap_or_default();
    std::str::from_utf8(part).unwrap_or_default()
}

/// Whether a text has no hidden characters, except line feeds.
fn is_visible(text: &str) -> bool {
    !text.chars().any(|c| crate::hides(c) && c != '\n')
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Returns a segment of a path without its escapes.
fn decoded(segment: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(segment).collect()
}

/// Returns a token that is at one place and may be used for nothing.
fn token_at(place: &str, optional: bool) -> Token {
    Token {
        answers: Vec::new(),
        from: vec![place.to_owned()],
        optional,
        sign: Vec::new(),
        send: Vec::new(),
    }
}

fn secret(text: &str) -> SecretValue {
    SecretValue::taken(Zeroizing::new(text.to_owned()), &token_at("text", true))
}

/// Returns the gate of a cloud with these settings, and the settings with their defaults.
fn gate_of(manifest: &[u8], given: &[(&str, &str)]) -> (Gate, Settings) {
    let manifest = Manifest::parse(manifest).expect("a manifest");
    let given: BTreeMap<_, _> = given
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let settings = manifest.resolve(&given).expect("settings");
    let gate = Gate::new(&manifest, &settings, &BTreeMap::new(), &BTreeMap::new());
    (gate.expect("a gate"), settings)
}

/// Returns the credentials of the S3 connector with this session token.
fn s3_credentials(session_token: &str) -> Credentials {
    let document = serde_json::json!({
        "AccessKeyId": "AKIAIOSFODNN7EXAMPLE",
        "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "SessionToken": session_token,
    });
    let document = Zeroizing::new(document.to_string().into_bytes());
    Credentials::new(
        &Manifest::parse(S3).expect("a manifest"),
        &Settings::default(),
        &BTreeMap::from([("keys".to_owned(), document)]),
    )
    .expect("credentials")
}
