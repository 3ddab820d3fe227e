//! Connectors, their manifests and their signatures: files that anybody may have made.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

use super::{S3, is_visible, parts, text};
use crate::{
    CONTRACT, ConnectorError, MANIFEST_SECTION, MEMORY_MIB, Manifest, Network, Package,
    SettingType, gate::Gate, shown, signature_file, verify_signature,
};

/// Reads a manifest, and shows the input.
///
/// What is shown has no hidden characters. A manifest is within its limits and reads as it was
/// written. A place counts as typed by the operator only if it is a host that was typed or pinned.
pub fn manifest(data: &[u8]) {
    let lossy = String::from_utf8_lossy(data);
    let visible = shown(&lossy);
    assert!(is_visible(&visible) && shown(&visible) == visible);

    let manifest = match Manifest::parse(data) {
        Ok(manifest) => manifest,
        Err(e) => {
            assert!(is_visible(&e.to_string()), "{e:?}");
            return;
        }
    };
    let written = serde_json::to_value(&manifest).expect("a manifest is data");
    check_texts(&written);
    let read: Manifest = serde_json::from_value(written.clone()).expect("it was written");
    assert_eq!(serde_json::to_value(&read).expect("it is data"), written);
    assert!((1..=MEMORY_MIB).contains(&manifest.memory_mib));
    assert!(manifest.network.len() <= 16 && manifest.settings.len() <= 32);
    assert!(manifest.documents.len() + manifest.objects.len() <= 32);
    assert!(manifest.tokens.len() <= 8 && manifest.credentials.len() <= 8);
    assert!(manifest.logins.len() <= 8 && manifest.endpoints.len() <= 8);
    check_grants(&manifest);
}

/// Checks every text of a manifest, which the operator sees.
fn check_texts(value: &Value) {
    let check = |text: &str| {
        let is_hidden = text.chars().any(crate::hides);
        assert!(text.len() <= 1024 && !is_hidden, "{text:?}");
    };
    match value {
        Value::String(text) => check(text),
        Value::Array(values) => values.iter().for_each(check_texts),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            check(key);
            check_texts(value);
        }),
        _ => {}
    }
}

/// Fills settings into the networks, and checks what is granted.
fn check_grants(manifest: &Manifest) {
    let value = |kind: SettingType, choices: &[String]| match kind {
        SettingType::Text => "typed.example".to_owned(),
        SettingType::Url => "https://typed.example:9000/path".to_owned(),
        SettingType::Choice => choices.first().cloned().unwrap_or_default(),
    };
    let given: BTreeMap<_, _> = manifest
        .settings
        .iter()
        .map(|(name, setting)| (name.clone(), value(setting.kind, &setting.choices)))
        .collect();
    let Ok(settings) = manifest.resolve(&given) else {
        return;
    };
    let pin = vec!["https://pinned.example/path".to_owned()];
    let pins = manifest
        .endpoints
        .keys()
        .map(|name| (name.clone(), pin.clone()));
    let Ok(gate) = Gate::new(manifest, &settings, &BTreeMap::new(), &pins.collect()) else {
        return;
    };
    for grant in gate.grants() {
        assert!(matches!(grant.scheme.as_str(), "http" | "https") && !grant.host.is_empty());
        assert!(!grant.path.ends_with('/'));
        let is_or_below = |host: &str| {
            let rest = grant.host.strip_suffix(host);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if grant.typed && !grant.below {
            assert_eq!(grant.scheme, "https", "{grant:?}");
            assert!(
                grant.port == 9000 && is_or_below("typed.example")
                    || grant.port == 443 && is_or_below("pinned.example"),
                "{grant:?}"
            );
        }
        let is_of_manifest = |network: &Network| network.name == grant.name;
        assert!(manifest.network.iter().any(is_of_manifest));
    }
}

/// Reads a package. The first byte says what the rest is: a whole file, the manifest of a
/// component, the name of the component's import, or the sections of a component.
///
/// A component with the right export is a package exactly if its manifest is one. A package imports
/// nothing but the contract, and has one manifest.
pub fn package(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    match mode % 4 {
        0 => check_package(rest.to_vec()),
        1 => {
            let manifest = Manifest::parse(rest);
            let whole = component(None, &[rest]);
            let is_package = manifest.is_ok() && rest.len() <= 64 << 10;
            assert_eq!(Package::read(whole.clone()).is_ok(), is_package);
            check_package(whole);
            let twice = Package::read(component(None, &[rest, rest]));
            assert!(matches!(twice, Err(ConnectorError::Manifest(_))));
        }
        2 => check_package(component(Some(rest), &[S3])),
        _ => check_package([&PREAMBLE[..], rest].concat()),
    }
}

fn check_package(bytes: Vec<u8>) {
    let package = match Package::read(bytes.clone()) {
        Ok(package) => package,
        Err(e) => {
            let quotes = matches!(
                e,
                ConnectorError::Malformed(_) | ConnectorError::Manifest(_)
            );
            assert!(!quotes || is_visible(&e.to_string()), "{e:?}");
            return;
        }
    };
    assert!(package.bytes == bytes && crate::is_hash(&package.sha256));
    for import in &package.imports {
        let interface = import.strip_prefix("raic:connector/");
        let interface = interface.and_then(|rest| rest.strip_suffix("@0.1.0"));
        assert!(
            matches!(
                interface,
                Some("types" | "payloads" | "secrets" | "http" | "cloud" | "log")
            ),
            "{import:?}"
        );
    }
}

/// Magic, version and layer of a component.
const PREAMBLE: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// Returns a component that exports an empty `object-store` and perhaps imports an instance. Source
/// of the bytes: the component model's Binary.md.
fn component(import: Option<&[u8]>, manifests: &[&[u8]]) -> Vec<u8> {
    let mut out = PREAMBLE.to_vec();
    if let Some(import) = import {
        // The type of an instance without exports, and the import of such an instance.
        out.extend(section(7, &[1, 0x42, 0]));
        out.extend(section(
            10,
            &[&[1_u8, 0][..], &named(import), &[5, 0]].concat(),
        ));
    }
    let export = named(format!("raic:connector/object-store@{CONTRACT}").as_bytes());
    let instance = u8::from(import.is_some());
    out.extend(section(5, &[1, 1, 0]));
    out.extend(section(
        11,
        &[&[1_u8, 0][..], &export, &[5, instance, 0]].concat(),
    ));
    for manifest in manifests {
        let custom = [&named(MANIFEST_SECTION.as_bytes())[..], manifest].concat();
        out.extend(section(0, &custom));
    }
    out
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &named(content)].concat()
}

/// Returns bytes behind their length in LEB128.
fn named(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut length = content.len();
    while length > 0x7f {
        out.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

/// The key and the lines of a signature of `test`, from minisign-verify's documentation.
const PUBLIC_KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
const SIGNATURE: [&str; 4] = [
    "untrusted comment: signature from minisign secret key",
    "RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/\
     z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=",
    "trusted comment: timestamp:1633700835\tfile:test\tprehashed",
    "wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==",
];

static SIGNED: LazyLock<Package> = LazyLock::new(|| Package {
    bytes: b"test".to_vec(),
    sha256: String::new(),
    manifest: Manifest::parse(S3).expect("a manifest"),
    imports: Vec::new(),
});

/// Reads the input as a signature's file, and again as the lines of one, where an empty part is the
/// true line. What verifies has the comment that was signed.
pub fn signature(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("x.wasm");
    let mut parts = parts(data);
    let lines = SIGNATURE.map(|line| match text(&mut parts) {
        "" => line,
        other => other,
    });
    let keys = [PUBLIC_KEY.to_owned()];
    let joined = lines.join("\n");
    for written in [data, joined.as_bytes()] {
        std::fs::write(signature_file(&file), written).expect("a file is written");
        match verify_signature(&SIGNED, &file, &keys) {
            Ok((key, comment)) => {
                let signed = SIGNATURE[2].strip_prefix("trusted comment: ");
                assert_eq!((key, Some(comment.as_str())), (0, signed));
            }
            Err(ConnectorError::Signature { problem, .. }) => {
                assert!(is_visible(&problem), "{problem:?}");
                assert_ne!(written, SIGNATURE.join("\n").as_bytes(), "{problem}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}
