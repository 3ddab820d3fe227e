//! `raic connector build`: makes a connector from a crate, or from a component and its manifest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use raic_sdk_build::{ConnectorCrate, Toolchain};
use raic_wasm::{Engine, Manifest, Package};
use serde_json::json;

use crate::{
    error::{Failed, Outcome},
    output::say,
    progress,
};

#[derive(Args)]
pub(crate) struct BuildArguments {
    /// The folder of the crate, with its Cargo.toml and connector.toml
    #[arg(default_value = ".", conflicts_with_all = ["component", "manifest"])]
    folder: PathBuf,
    /// The file of a component that another language's tools made, or of a module with the types of
    /// its world
    #[arg(long, value_name = "FILE", requires = "manifest")]
    component: Option<PathBuf>,
    /// The connector.toml of that component
    #[arg(long, value_name = "FILE", requires = "component")]
    manifest: Option<PathBuf>,
    /// The file to write the connector to [default: NAME.wasm, beside its connector.toml]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn check_manifest(path: &Path, text: &[u8]) -> Outcome {
    let checked = Manifest::parse(text);
    checked
        .map(drop)
        .map_err(|e| Failed::configuration(format!("{}: {e}", path.display())))
}

pub(super) fn build(json: bool, arguments: &BuildArguments) -> Outcome {
    let read = |path: &Path| {
        fs::read(path)
            .map_err(|e| Failed::configuration(format!("cannot read {}: {e}", path.display())))
    };
    let (bytes, beside) = match (&arguments.component, &arguments.manifest) {
        (Some(component), Some(manifest)) => {
            check_manifest(manifest, &read(manifest)?)?;
            let built = raic_sdk_build::connector(&read(component)?, &read(manifest)?);
            let built = built
                .map_err(|e| Failed::configuration(format!("{}: {e}", component.display())))?;
            (built, manifest.parent().unwrap_or(Path::new("")).to_owned())
        }
        _ => {
            let folder = &arguments.folder;
            for file in ["Cargo.toml", "connector.toml"] {
                if !folder.join(file).is_file() {
                    return Err(Failed::configuration(format!(
                        "{} has no {file}; `raic connector new NAME` begins a connector",
                        folder.display()
                    )));
                }
            }
            // Checked before minutes of compiling, so that an error is reported at once.
            check_manifest(
                &folder.join("connector.toml"),
                &read(&folder.join("connector.toml"))?,
            )?;
            let target =
                std::path::absolute(folder.join("target/connector")).map_err(Failed::other)?;
            let connector = ConnectorCrate {
                folder,
                profile: "release",
                target_folder: &target,
                locked: false,
            };
            let built = Toolchain::find()
                .map_err(Into::into)
                .and_then(|toolchain| connector.build(toolchain));
            (built.map_err(Failed::configuration)?, folder.clone())
        }
    };
    // Checked as `approve` does, so that its refusal is reported now.
    let package = Package::read(bytes).map_err(Failed::configuration)?;
    Engine::new()
        .and_then(|engine| engine.load(&package, None))
        .map_err(Failed::configuration)?;
    let file = arguments.output.clone();
    let file = file.unwrap_or_else(|| beside.join(format!("{}.wasm", package.manifest.name)));
    fs::write(&file, &package.bytes)
        .map_err(|e| Failed::other(format!("cannot write {}: {e}", file.display())))?;
    if json {
        return crate::files::print_json(&json!({
            "file": file, "sha256": package.sha256, "size": package.bytes.len(), "imports": package.imports,
        }));
    }
    let size = progress::bytes(package.bytes.len() as u64);
    say!(
        "{}: {} {}, {size}",
        file.display(),
        package.manifest.name,
        package.manifest.version
    );
    say!("  sha-256   {}", package.sha256);
    say!("  imports   {}", package.imports.join(" "));
    say!(
        "`raic connector inspect {}` shows what it asks for",
        file.display()
    );
    Ok(())
}
