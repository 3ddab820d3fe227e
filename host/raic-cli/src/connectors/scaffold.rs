//! `raic connector new`: begins a connector as a crate.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use crate::{
    error::{Failed, Outcome},
    output::say,
};

/// The files that a new connector begins with. They are those of the example `practice`, and its
/// tests keep them right.
const FILES: [(&str, &str); 5] = [
    (
        "Cargo.toml",
        include_str!("../connector_template/Cargo.toml.txt"),
    ),
    ("README.md", include_str!("../connector_template/README.md")),
    (
        ".gitignore",
        include_str!("../connector_template/gitignore"),
    ),
    (
        "connector.toml",
        include_str!("../../../../connectors/examples/practice/connector.toml"),
    ),
    (
        "src/lib.rs",
        include_str!("../../../../connectors/examples/practice/src/lib.rs"),
    ),
];

/// Names that the template imports, so that the connector's type cannot have them.
const IMPORTED: [&str; 14] = [
    "Answer",
    "Body",
    "Connector",
    "Described",
    "Error",
    "Extra",
    "Host",
    "Listed",
    "Ok",
    "Page",
    "Payload",
    "Request",
    "Response",
    "Result",
];

/// The folder of the SDK in the source tree that this program was built from.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk");

#[derive(Args)]
pub(crate) struct NewArguments {
    /// The name of the connector: a letter, then a-z, 0-9 and -, 48 characters at most
    name: String,
    /// The folder to make [default: NAME]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The folder of the crate raic-sdk [default: that of raic's source tree, if it still exists;
    /// else the crate from the registry]
    #[arg(long)]
    sdk: Option<PathBuf>,
}

pub(super) fn new(json: bool, arguments: &NewArguments) -> Outcome {
    let name = arguments.name.as_str();
    let is_crate_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 48
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !is_crate_name {
        return Err(Failed::configuration(format!(
            "{name:?} cannot be a connector's name: a letter, then a-z, 0-9 and -, 48 characters \
             at most"
        )));
    }
    let manifest = renamed(FILES[3].1, name, "");
    raic_wasm::Manifest::parse(manifest.as_bytes()).map_err(Failed::configuration)?;
    let folder = arguments
        .folder
        .clone()
        .unwrap_or_else(|| PathBuf::from(name));
    let cannot =
        |e: std::io::Error| Failed::other(format!("cannot write {}: {e}", folder.display()));
    if folder.exists() {
        return Err(Failed::other(format!(
            "{} exists already; choose another --folder",
            folder.display()
        )));
    }
    let sdk = sdk(arguments.sdk.as_deref())?;
    fs::create_dir_all(folder.join("src")).map_err(cannot)?;
    for (file, text) in FILES {
        fs::write(folder.join(file), renamed(text, name, &sdk)).map_err(cannot)?;
    }
    if json {
        return crate::files::print_json(&json!({"connector": name, "folder": folder}));
    }
    say!(
        "{} is a connector that speaks to the service of `raic connector practice`",
        folder.display()
    );
    say!(
        "  raic connector build {0}     makes {0}/{name}.wasm",
        folder.display()
    );
    say!("  raic connector practice      runs the service, and prints how to test the connector");
    say!(
        "then make it speak to yours: src/lib.rs has the requests, connector.toml the settings and \
         hosts"
    );
    Ok(())
}

/// Returns how the crate's Cargo.toml names the SDK: by a path, or by a version.
fn sdk(named: Option<&Path>) -> Outcome<String> {
    let in_tree = Path::new(SDK);
    let folder = match named {
        Some(folder) if !folder.join("Cargo.toml").is_file() => {
            return Err(Failed::configuration(format!(
                "{} is not a crate: it has no Cargo.toml",
                folder.display()
            )));
        }
        Some(folder) => folder,
        None if in_tree.join("Cargo.toml").is_file() => in_tree,
        None => return Ok(format!("{:?}", env!("CARGO_PKG_VERSION"))),
    };
    let folder = folder
        .canonicalize()
        .map_err(|e| Failed::other(format!("{}: {e}", folder.display())))?;
    Ok(format!("{{ path = {:?} }}", folder.display().to_string()))
}

/// Returns a file of the template for a connector of the name `name`.
fn renamed(text: &str, name: &str, sdk: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    let mut type_name: String = words.collect();
    // The template imports types of these names.
    if IMPORTED.contains(&type_name.as_str()) {
        type_name += "Store";
    }
    // The name of the service's command stays.
    text.replace("raic connector practice", "raic connector PRACTICE")
        .replace("practice", name)
        .replace("raic connector PRACTICE", "raic connector practice")
        .replace("Practice", &type_name)
        .replace("raic-sdk = SDK", &format!("raic-sdk = {sdk}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connector_has_its_own_name_throughout() {
        for (file, text) in FILES {
            let text = renamed(text, "my-store", "\"0.1.0\"");
            let left = text.replace("raic connector practice", "");
            assert!(
                !left.contains("practice") && !left.contains("Practice"),
                "{file}: {left}"
            );
        }
        let manifest = renamed(FILES[3].1, "my-store", "");
        let manifest = raic_wasm::Manifest::parse(manifest.as_bytes()).expect("a manifest");
        assert_eq!(manifest.name, "my-store");
        assert!(renamed(FILES[4].1, "my-store", "").contains("raic_sdk::connector!(MyStore);"));
    }
}
