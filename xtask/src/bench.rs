//! `cargo xtask bench`: measures jobs beside a peer in the same run, interleaved, and prints
//! medians.
//!
//! The clouds are lean loopback clouds: processes that cost as little as a server can. Clouds and
//! files of up to 2 GiB lie in memory (`/dev/shm`): otherwise the disk would be measured. Contents
//! are verified by SHA-256 after every read. A job prints a table for people and, apart from
//! `sandbox`, one line of JSON for programs.

mod jobs;
mod plot;
mod rclone;
mod report;
mod restic;
mod rig;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use self::{
    jobs::Measuring,
    rig::{Programs, Services},
};
use crate::stage::{Outcome, cargo, stage, target_folder};

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// The job to measure
    job: Job,
    /// The file's size in MiB; 64 for the job slow, and else 1024
    #[arg(long)]
    size: Option<u64>,
    /// The number of runs, of which the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Measure without the peer, for a quick look
    #[arg(long)]
    alone: bool,
    /// Draw the results to an SVG file in this folder
    #[arg(long, value_name = "FOLDER")]
    plot: Option<PathBuf>,
    /// The most shares that the job leasedb measures
    #[arg(long, default_value_t = 10_000_000)]
    shares: u64,
    /// The most files that the job catalog measures
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// The number of files of the job small
    #[arg(long, default_value_t = 10_000)]
    small_files: u32,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Job {
    /// Uploads a file to four S3 services; the peer is rclone, with crypt over a union of the four
    Up,
    /// Uploads a file with all four services up, and with one of them down
    OneDown,
    /// Stores and reads a folder of small files; the peers are rclone's union and restic
    Small,
    /// Stores and reads a file with one slow service (200 ms, 1 MB/s), and without that service
    Slow,
    /// Reads ranges of 64 KiB at random
    Ranges,
    /// Downloads the file again: with all four services up, with one down, with two down
    Down,
    /// Leases: renewal, usage, collection and the database's size at 10^4 to --shares shares
    Leasedb,
    /// The catalog: copies, look-ups and lists at 10^3 to --files files
    Catalog,
    /// Each backend: MB/s of a share of --size MiB, patches of a mutable one, allocations, peak
    /// memory
    Backend,
    /// What the sandbox costs: the S3 connector beside object_store's native client, on one server,
    /// with objects of 4 KiB to 4 MiB
    Sandbox,
    /// The Tahoe door beside the reference's storage server: writes and reads of a share of --size
    /// MiB, and small mutable shares, over one TLS connection; in memory, and then on the disk
    Tahoe,
}

pub(crate) fn bench(arguments: &BenchArguments) -> Outcome {
    match arguments.job {
        Job::Leasedb => {
            return measure(
                "raic-storage",
                "leasedb",
                &[arguments.shares.to_string().into()],
            );
        }
        Job::Backend => {
            return measure(
                "raic-storage",
                "backend",
                &[arguments.size.unwrap_or(1024).to_string().into()],
            );
        }
        Job::Catalog => {
            return measure(
                "raic-array",
                "catalog",
                &[arguments.files.to_string().into()],
            );
        }
        Job::Sandbox => return sandbox(arguments.runs),
        Job::Tahoe => return tahoe(arguments),
        Job::Up | Job::OneDown | Job::Down | Job::Small | Job::Slow | Job::Ranges => {}
    }
    let default = match arguments.job {
        Job::Slow => 64,
        _ => 1024,
    };
    let measuring = Measuring {
        runs: arguments.runs,
        alone: arguments.alone,
        size: arguments.size.unwrap_or(default) << 20,
    };
    let connectors = crate::connectors::connectors(false)?;
    let (raic, lean_cloud) = optimised_with_clouds()?;
    let programs = || Programs {
        raic: raic.clone(),
        lean_cloud: lean_cloud.clone(),
        connector: connectors.join("s3.wasm"),
    };
    let start = |services| rig::Rig::start(programs(), measuring.size, services);
    let (name, report) = match arguments.job {
        Job::Up => ("up", measuring.up(&start(Services::Near)?)?),
        Job::OneDown => ("one-down", measuring.one_down(start(Services::Near)?)?),
        Job::Small => {
            let small = measuring.small(&start(Services::Near)?, arguments.small_files)?;
            ("small", small)
        }
        Job::Slow => ("slow", measuring.slow(start(Services::OneSlow)?)?),
        Job::Ranges => {
            let near = start(Services::Near)?;
            ("ranges", measuring.ranges(&near, || start(Services::Far))?)
        }
        _ => ("down", measuring.down(start(Services::Near)?)?),
    };
    report.print(name, measuring.size >> 20);
    match &arguments.plot {
        Some(folder) => report.plot(name, folder),
        None => Ok(()),
    }
}

/// Builds the optimised `raic` and the lean loopback cloud, and returns their paths.
fn optimised_with_clouds() -> Outcome<(PathBuf, PathBuf)> {
    let raic = optimised()?;
    let lean = [
        "build",
        "--release",
        "--package",
        "raic-lean-cloud",
        "--locked",
    ];
    stage("build the lean cloud", cargo().args(lean))?;
    let lean = raic.with_file_name("raic-lean-cloud");
    Ok((raic, lean))
}

/// Builds the optimised `raic`, and returns its path.
fn optimised() -> Outcome<PathBuf> {
    stage(
        "build raic, optimised",
        cargo().args([
            "build",
            "--release",
            "--workspace",
            "--bin",
            "raic",
            "--all-features",
            "--locked",
        ]),
    )?;
    Ok(target_folder().join("release/raic"))
}

/// Measures the Tahoe door beside the reference, in memory and on the disk.
fn tahoe(arguments: &BenchArguments) -> Outcome {
    crate::clouds::tahoe()?;
    let raic = optimised()?;
    let python = target_folder().join("clouds/tahoe/bin/python");
    // The peer's server holds shares of this size in memory, and a larger one tells nothing more.
    let size = arguments.size.unwrap_or(256).min(256).to_string();
    for parent in [Path::new("/dev/shm"), &target_folder().join("tmp")] {
        println!("below {}:", parent.display());
        measure(
            "raic-tests",
            "tahoe",
            &[
                arguments.runs.to_string().into(),
                size.clone().into(),
                raic.clone().into(),
                python.clone().into(),
                parent.into(),
            ],
        )?;
    }
    Ok(())
}

/// Measures the connector beside the native client, in one process.
fn sandbox(runs: usize) -> Outcome {
    crate::connectors::connectors(false)?;
    let folder = target_folder().join("tmp");
    measure(
        "raic-tests",
        "sandbox",
        &[runs.to_string().into(), folder.into()],
    )
}

/// Builds and runs a bench target of a package.
fn measure(package: &str, name: &str, arguments: &[OsString]) -> Outcome {
    let run = ["bench", "--locked", "--package", package, "--bench", name];
    stage(
        &format!("bench {name}"),
        cargo().args(run).arg("--").args(arguments),
    )
}
