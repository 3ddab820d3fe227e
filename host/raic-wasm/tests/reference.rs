//! Makes `docs/connector-toml.md` from the comments of the manifest's types, so that the page and
//! the code are one.
//!
//! `RAIC_WRITE=1 cargo nextest run -p raic-wasm -E 'binary(reference)'` writes the page anew.

use std::fmt::Write as _;

const SOURCE: &str = include_str!("../src/manifest.rs");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connector-toml.md");

/// Each type of the manifest, and the place of its keys in the file.
const PLACES: [(&str, &str); 11] = [
    ("Manifest", "At the top"),
    ("Setting", "`[settings.NAME]`"),
    ("Credential", "`[credentials.NAME]`"),
    ("Part", "`[credentials.NAME.parts.PART]`"),
    ("Network", "`[[network]]`"),
    (
        "Document",
        "`[[documents]]`, `[[objects]]`, and `answers` of a token",
    ),
    ("Token", "`[tokens.NAME]`"),
    ("Endpoint", "`[endpoints.NAME]`"),
    ("Signing", "`sign = [{ form = \"..\" }]`"),
    ("Sending", "`send = [{ .. }]`"),
    ("SettingType", "`type` of a setting"),
];

/// Returns the fields or variants of a type, each with its comment as one line.
fn items(name: &str) -> Vec<(String, String)> {
    let kind = ["struct", "enum"]
        .into_iter()
        .find(|kind| SOURCE.contains(&format!("pub {kind} {name} {{")));
    let begins = format!("pub {} {name} {{", kind.expect("the type"));
    let body = SOURCE.split_once(&begins).expect("its beginning").1;
    let body = body.split_once("\n}\n").expect("its end").0;
    let (mut items, mut comment) = (Vec::new(), String::new());
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment += if comment.is_empty() { "" } else { " " };
            comment += text;
        } else if !comment.is_empty() && !line.starts_with("#[") {
            items.push((
                name_of(line, kind == Some("enum")),
                std::mem::take(&mut comment),
            ));
        }
    }
    items
}

fn name_of(line: &str, is_enum: bool) -> String {
    let line = line.trim_start_matches("pub ");
    let name = line
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default();
    match name {
        // The key's name in the file is a keyword in Rust.
        "kind" => "type".to_owned(),
        name if is_enum && name.starts_with(char::is_uppercase) => {
            let mut kebab = String::new();
            for c in name.chars() {
                if c.is_uppercase() && !kebab.is_empty() {
                    kebab.push('-');
                }
                kebab.push(c.to_ascii_lowercase());
            }
            format!("\"{kebab}\"")
        }
        name => name.to_owned(),
    }
}

fn page() -> String {
    let mut page = "# connector.toml, key by key\n\n\
                    This page is made from the host's code. \
                    [connector-guide.md](connector-guide.md) shows how the keys are used \
                    together. A key that is not listed here is an error.\n"
        .to_owned();
    for (name, place) in PLACES {
        let _ = write!(page, "\n## {place}\n\n| key | meaning |\n| --- | --- |\n");
        for (key, comment) in items(name) {
            let comment = comment
                .replace("[`MEMORY_MIB`]", "64 MiB")
                .replace('|', "\\|");
            let _ = writeln!(page, "| `{key}` | {comment} |");
        }
    }
    page
}

#[test]
fn the_reference_is_what_the_code_says() {
    let page = page();
    if std::env::var_os("RAIC_WRITE").is_some() {
        std::fs::write(PAGE, &page).expect("the page is written");
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "docs/connector-toml.md is not what the code says; RAIC_WRITE=1 writes it"
    );
}

/// The page lists the keys of every type of the manifest. A new type must be added to `PLACES`.
#[test]
fn no_type_of_the_manifest_is_left_out() {
    let types = SOURCE
        .split("#[derive(")
        .filter(|part| part.contains("Deserialize") && part.contains("deny_unknown_fields"));
    for text in types {
        let name = text
            .split("pub struct ")
            .nth(1)
            .or_else(|| text.split("pub enum ").nth(1))
            .unwrap_or_default();
        let name = name.split([' ', '<']).next().unwrap_or_default();
        assert!(PLACES.iter().any(|(known, _)| *known == name), "{name}");
    }
}
