//! `cargo xtask connectors`: the connectors of this tree as components, in one folder.

use std::{fs, path::PathBuf, time::Instant};

use raic_sdk_build::ConnectorCrate;

use crate::{
    componentize,
    stage::{Outcome, root, target_folder},
    wasm_toolchain,
};

/// Builds every connector, and `for_tests` also the examples and the hostile one. Returns the
/// folder that they are in.
pub(crate) fn connectors(for_tests: bool) -> Outcome<PathBuf> {
    let toolchain = wasm_toolchain::find()?;
    let out = target_folder().join("connectors");
    fs::create_dir_all(&out).map_err(|e| format!("cannot create {}: {e}", out.display()))?;
    // A target folder of its own: the compiler is another one, and no build waits for the host's.
    let build = target_folder().join("guests");
    let mut folders = crates_in("connectors")?;
    if for_tests {
        folders.extend(crates_in("connectors/examples")?);
        folders.push(root().join("tests/hostile"));
    }
    for folder in folders {
        let start = Instant::now();
        let name = folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let built = ConnectorCrate {
            folder: &folder,
            profile: "connector",
            target_folder: &build,
            locked: true,
        };
        let component = built
            .build(toolchain)
            .map_err(|e| format!("connector {name}: {e}"))?;
        let file = out.join(format!("{name}.wasm"));
        fs::write(&file, &component)
            .map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        let (size, seconds) = (component.len() / 1024, start.elapsed().as_secs_f64());
        println!(
            "== connector {name}: {seconds:.1} s, {} ({size} KiB)",
            file.display()
        );
    }
    if for_tests {
        componentize::python(&out)?;
        componentize::javascript(&out)?;
    }
    Ok(out)
}

/// Lists the folders below `folder` that are connectors in Rust.
fn crates_in(folder: &str) -> Outcome<Vec<PathBuf>> {
    let sources = root().join(folder);
    let listed =
        fs::read_dir(&sources).map_err(|e| format!("cannot list {}: {e}", sources.display()))?;
    let is_crate =
        |path: &PathBuf| path.join("connector.toml").is_file() && path.join("Cargo.toml").is_file();
    let mut folders: Vec<_> = listed
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(is_crate)
        .collect();
    folders.sort();
    Ok(folders)
}
