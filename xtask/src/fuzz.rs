//! Builds the fuzz targets of `fuzz/` and runs each of them for a while.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use crate::stage::{Outcome, cargo, root, stage, target_folder};

/// Flags by which a program tells libFuzzer which code an input reached. They need no sanitizer, so
/// that stable Rust has them.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Clink-dead-code --cfg fuzzing";

/// Builds all targets and runs each for so many seconds, also after one has failed.
///
/// The corpora and the inputs that failed are kept in `fuzz` below the target folder.
pub(crate) fn fuzz(seconds: u64) -> Outcome {
    let (names, host) = (targets()?, host()?);
    let folder = target_folder().join("fuzz");
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--manifest-path",
        "fuzz/Cargo.toml",
        // With a target named, build scripts and macros are built without the flags.
        "--target",
        &host,
    ]);
    build.arg("--target-dir").arg(&folder);
    stage("fuzz targets", build.env("RUSTFLAGS", RUSTFLAGS))?;
    let programs = folder.join(&host).join("release");
    let failed: Vec<String> = names
        .iter()
        .filter_map(|name| run(name, &programs.join(name), &folder, seconds).err())
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("; "))
    }
}

/// Returns the names of all targets, in order.
fn targets() -> Outcome<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let listed =
        fs::read_dir(&folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut names: Vec<String> = listed
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".rs")?.to_owned())
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Returns the triple of this machine's target.
fn host() -> Outcome<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output();
    let output = output.map_err(|e| format!("cannot run rustc: {e}"))?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .ok_or_else(|| "rustc -vV names no host".to_owned())
}

fn run(name: &str, program: &Path, folder: &Path, seconds: u64) -> Outcome {
    let corpus = folder.join("corpus").join(name);
    let artifacts = folder.join("artifacts");
    for made in [&corpus, &artifacts] {
        fs::create_dir_all(made).map_err(|e| format!("cannot create {}: {e}", made.display()))?;
    }
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(artifacts.join(format!("{name}-")));
    let mut fuzzer = Command::new(program);
    // What is found goes into the first folder; the seeds are only read.
    fuzzer.arg(&corpus);
    let seeds = root().join("fuzz/seeds").join(name);
    if seeds.is_dir() {
        fuzzer.arg(seeds);
    }
    fuzzer
        .arg(format!("-max_total_time={seconds}"))
        // An input that takes so many seconds is a failure, too.
        .arg("-timeout=20")
        .args(["-rss_limit_mb=2048", "-verbosity=0", "-print_final_stats=1"])
        .arg(prefix);
    let began = SystemTime::now();
    stage(&format!("fuzz {name}"), &mut fuzzer).map_err(|why| {
        match artifact(&artifacts, name, began) {
            Some(file) => format!("{why}; the input is {}", file.display()),
            None => why,
        }
    })
}

/// Returns the file that a target wrote last since it began, of the input that it failed on.
fn artifact(folder: &Path, name: &str, began: SystemTime) -> Option<PathBuf> {
    let prefix = format!("{name}-");
    // The clock of files may be a little behind.
    let began = began.checked_sub(Duration::from_secs(1))?;
    let written = fs::read_dir(folder).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let is_own = entry.file_name().to_str()?.starts_with(&prefix);
        let modified = entry.metadata().ok()?.modified().ok()?;
        (is_own && modified >= began).then(|| (modified, entry.path()))
    });
    written.max().map(|(_, file)| file)
}
