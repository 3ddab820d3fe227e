//! Builds the examples that are not in Rust. Their tools are installed below the target folder, in
//! pinned versions.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::stage::{Outcome, root, stage, target_folder};

/// The tool that makes components of Python.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

/// Builds the example in Python. Needs `python3`.
pub(crate) fn python(out: &Path) -> Outcome {
    let tools = target_folder().join("tools/componentize-py");
    let marker = tools.join(COMPONENTIZE_PY);
    if !marker.is_file() {
        println!(
            "installing {COMPONENTIZE_PY} into {}, for the example in Python",
            tools.display()
        );
        stage(
            "python environment",
            Command::new("python3").args(["-m", "venv"]).arg(&tools),
        )?;
        stage(
            "install componentize-py",
            Command::new(tools.join("bin/pip")).args(["install", "--quiet", COMPONENTIZE_PY]),
        )?;
        mark(&marker)?;
    }
    build("swift-v1-python", out, |folder, component| {
        let mut command = Command::new(tools.join("bin/componentize-py"));
        command.args(["--quiet", "-d"]).arg(wit()?).args([
            "-w",
            "connector",
            "componentize",
            "--stub-wasi",
        ]);
        // `PYTHONDONTWRITEBYTECODE` keeps files from being written beside the source.
        command
            .arg("-p")
            .arg(folder)
            .arg("-o")
            .arg(component)
            .arg("app")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(command)
    })
}

/// Builds the example in JavaScript. Needs `node` and `npm`.
pub(crate) fn javascript(out: &Path) -> Outcome {
    let tools = target_folder().join("tools/componentize-js");
    let sources = folder("azure-sas-js")?;
    let read =
        |file: PathBuf| fs::read(&file).map_err(|e| format!("cannot read {}: {e}", file.display()));
    let lock = read(sources.join("package-lock.json"))?;
    if read(tools.join("installed.json")).ok().as_ref() != Some(&lock) {
        println!(
            "installing componentize-js into {}, for the example in JavaScript",
            tools.display()
        );
        let cannot = |e: std::io::Error| format!("cannot write below {}: {e}", tools.display());
        fs::create_dir_all(&tools).map_err(cannot)?;
        for file in ["package.json", "package-lock.json"] {
            fs::copy(sources.join(file), tools.join(file)).map_err(cannot)?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--silent", "--prefix"])
            .arg(&tools);
        stage("install componentize-js", &mut npm)?;
        fs::write(tools.join("installed.json"), &lock).map_err(cannot)?;
    }
    build("azure-sas-js", out, |folder, component| {
        // node looks for what a script imports beside the script, so it must lie with the tools.
        for file in ["app.js", "build.mjs"] {
            let copied = fs::copy(folder.join(file), tools.join(file));
            copied.map_err(|e| format!("cannot write below {}: {e}", tools.display()))?;
        }
        let mut command = Command::new("node");
        command
            .arg(tools.join("build.mjs"))
            .arg(component)
            .env("RAIC_WIT", wit()?);
        Ok(command)
    })
}

fn mark(file: &Path) -> Outcome {
    fs::write(file, "").map_err(|e| format!("cannot write {}: {e}", file.display()))
}

fn folder(name: &str) -> Outcome<PathBuf> {
    let folder = root().join("connectors/examples").join(name);
    folder
        .canonicalize()
        .map_err(|e| format!("cannot find {}: {e}", folder.display()))
}

fn wit() -> Outcome<PathBuf> {
    root()
        .join("wit/connector.wit")
        .canonicalize()
        .map_err(|e| format!("cannot find the contract: {e}"))
}

/// Runs the command that makes a component of an example, and makes a connector of that component.
fn build(
    name: &str,
    out: &Path,
    command: impl FnOnce(&Path, &Path) -> Outcome<Command>,
) -> Outcome {
    let start = Instant::now();
    let (folder, component) = (
        folder(name)?,
        target_folder()
            .join("tools")
            .join(format!("{name}.component.wasm")),
    );
    stage(name, &mut command(&folder, &component)?)?;
    let read =
        |file: &Path| fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()));
    let connector =
        raic_sdk_build::connector(&read(&component)?, &read(&folder.join("connector.toml"))?);
    let connector = connector.map_err(|e| format!("{name}: {e}"))?;
    let file = out.join(format!("{name}.wasm"));
    fs::write(&file, &connector).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    let (size, seconds) = (connector.len() / 1024, start.elapsed().as_secs_f64());
    println!(
        "== connector {name}: {seconds:.1} s, {} ({size} KiB)",
        file.display()
    );
    Ok(())
}
