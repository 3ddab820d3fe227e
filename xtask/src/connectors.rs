//! `cargo xtask connectors`: the connectors of this tree as components, in one folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use wasm_encoder::{ComponentSection as _, CustomSection};

use crate::{
    stage::{Outcome, root, stage, target_folder},
    wasm_toolchain::WasmToolchain,
};

/// The custom section that holds `connector.toml`.
const MANIFEST_SECTION: &str = "raic:connector.toml";

/// Builds every connector, `for_tests` the hostile one too; returns the folder they are in.
pub(crate) fn connectors(for_tests: bool) -> Outcome<PathBuf> {
    let toolchain = WasmToolchain::find()?;
    let out = target_folder().join("connectors");
    fs::create_dir_all(&out).map_err(|e| format!("cannot create {}: {e}", out.display()))?;
    // Its own target folder: another compiler, and no waiting for the host's build.
    let build = target_folder().join("guests");
    let sources = root().join("connectors");
    let listed = fs::read_dir(&sources).map_err(|e| format!("cannot list {}: {e}", sources.display()))?;
    let mut folders: Vec<_> =
        listed.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.join("connector.toml").is_file()).collect();
    folders.sort();
    if for_tests {
        folders.push(root().join("tests/hostile"));
    }
    for folder in folders {
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut cargo = toolchain.cargo_rustc();
        cargo
            .args(["--package", &format!("raic-connector-{name}"), "--profile", "connector"])
            .args(["--crate-type", "cdylib"])
            .arg("--target-dir")
            .arg(&build)
            // Rust's default stack of 1 MiB would be reset for every call.
            .args(["--", "-C", "link-arg=-zstack-size=65536"]);
        stage(&format!("connector {name}"), &mut cargo)?;
        let core = build
            .join("wasm32-unknown-unknown/connector")
            .join(format!("raic_connector_{}.wasm", name.replace('-', "_")));
        let component = componentize(&core, &folder.join("connector.toml"))?;
        let file = out.join(format!("{name}.wasm"));
        fs::write(&file, &component).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        println!("   {} ({} KiB)", file.display(), component.len() / 1024);
    }
    Ok(out)
}

/// Makes a component of a core module, and puts the manifest into it.
fn componentize(core: &Path, manifest: &Path) -> Outcome<Vec<u8>> {
    let read = |file: &Path| fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()));
    let module = read(core)?;
    let mut component = wit_component::ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|e| format!("{} cannot be made a component: {e:#}", core.display()))?;
    let manifest = read(manifest)?;
    CustomSection { name: MANIFEST_SECTION.into(), data: manifest.into() }
        .append_to_component(&mut component);
    Ok(component)
}
