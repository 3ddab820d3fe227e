//! Runs commands, and prints how long each takes.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// A result whose error is one sentence for the person who runs xtask.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// Runs a command to its end, from the workspace's root, and prints how long it took.
pub(crate) fn stage(name: &str, command: &mut Command) -> Outcome {
    let start = Instant::now();
    let status = command.current_dir(root()).status().map_err(|e| {
        format!(
            "{name}: cannot start {}: {e}",
            command.get_program().display()
        )
    })?;
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    if status.success() {
        Ok(())
    } else {
        Err(format!(
            "{name} failed ({status}); its output above says why"
        ))
    }
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The root of the workspace in which `cargo xtask` was called. Clones that share a target folder
/// may share the binary too, so the place where it was compiled does not count.
pub(crate) fn root() -> PathBuf {
    let here =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&here).join("..")
}

/// The folder that everything built goes to.
pub(crate) fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
