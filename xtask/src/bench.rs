//! `cargo xtask bench`: measures jobs beside a peer in the same run, interleaved, and prints
//! medians.
//!
//! Clouds and files of up to 2 GiB lie in memory (`/dev/shm`): otherwise the disk would be
//! measured. Contents are verified by SHA-256 after every read. A job prints a table for people
//! and, apart from `sandbox`, one line of JSON for programs.

mod rclone;
mod rig;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use self::{
    rclone::Rclone,
    rig::{Rig, Usage, random_file, sha256_of},
};
use crate::stage::{Outcome, cargo, stage, target_folder};

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// The job to measure
    job: Job,
    /// The file's size in MiB
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// The number of runs, of which the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Measure without the peer, for a quick look
    #[arg(long)]
    alone: bool,
    /// The most shares that the job leasedb measures
    #[arg(long, default_value_t = 10_000_000)]
    shares: u64,
    /// The most files that the job catalog measures
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Job {
    /// Uploads a file to four S3 services; the peer is rclone, with crypt over a union of the four
    Up,
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
                &[arguments.size.to_string().into()],
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
        Job::Up | Job::Down => {}
    }
    let connectors = crate::connectors::connectors(false)?;
    let raic = optimised()?;
    let rig = Rig::start(&raic, &connectors.join("s3.wasm"), arguments.size << 20)?;
    let peer = if arguments.alone {
        None
    } else {
        Rclone::find(&rig)?
    };
    let file = rig.folder().join("original");
    let sha256 = random_file(&file, arguments.size << 20)?;
    let mut report = Report::default();
    match arguments.job {
        Job::Up => up(&rig, peer.as_ref(), &file, arguments.runs, &mut report)?,
        Job::Down => down(
            rig,
            peer.as_ref(),
            &file,
            &sha256,
            arguments.runs,
            &mut report,
        )?,
        Job::Leasedb | Job::Backend | Job::Catalog | Job::Sandbox | Job::Tahoe => {}
    }
    report.print(arguments.size);
    Ok(())
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
    let size = arguments.size.min(256).to_string();
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

fn up(rig: &Rig, peer: Option<&Rclone>, file: &Path, runs: usize, report: &mut Report) -> Outcome {
    for run in 0..runs {
        // Each run has a new name, so nothing is overwritten. What the previous run stored is gone.
        let name = format!("file-{run}");
        report.add(
            "raic put",
            rig.measure(&mut rig.raic(["put", &text(file), "--as", &name]))?,
        );
        if run == 0 {
            println!(
                "stored: {:.3} x the file",
                rig.stored()? as f64 / size_of(file)? as f64
            );
        }
        rig.run(&mut rig.raic(["rm", &name]))?;
        rig.wait_until_empty()?;
        if let Some(peer) = peer {
            report.add("rclone put", rig.measure(&mut peer.put(file, &name))?);
            peer.empty(rig)?;
        }
    }
    report.peak_rss = rig.peak_rss()?;
    Ok(())
}

fn down(
    mut rig: Rig,
    peer: Option<&Rclone>,
    file: &Path,
    sha256: &str,
    runs: usize,
    report: &mut Report,
) -> Outcome {
    let copy = rig.folder().join("copy");
    let verify = || {
        let read = sha256_of(&copy)?;
        if read == sha256 {
            Ok(())
        } else {
            Err("these are not the bytes that were stored".to_owned())
        }
    };
    rig.run(&mut rig.raic(["put", &text(file), "--as", "file"]))?;
    if let Some(peer) = peer {
        rig.run(&mut peer.put(file, "file"))?;
    }
    for (lost, what) in [(0, "all up"), (1, "one down"), (2, "two down")] {
        if lost > 0 {
            rig.stop_service(lost - 1);
            // The read that finds the service down is reported apart.
            let first = rig.measure(&mut rig.raic(["get", "file", &text(&copy)]))?;
            report.add(&format!("raic get, {what}, the first"), first);
            verify()?;
        }
        for _ in 0..runs {
            report.add(
                &format!("raic get, {what}"),
                rig.measure(&mut rig.raic(["get", "file", &text(&copy)]))?,
            );
            verify()?;
            // With services down, rclone's union gives an error or the file, depending on its
            // policy. So only the case with all services up is fair.
            if let Some(peer) = peer.filter(|_| lost == 0) {
                report.add(
                    "rclone get, all up",
                    rig.measure(&mut peer.get("file", &copy))?,
                );
                verify()?;
            }
        }
    }
    report.peak_rss = rig.peak_rss()?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn size_of(path: &Path) -> Outcome<u64> {
    std::fs::metadata(path)
        .map(|m| m.len())
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// The measurements of each command, in the order of the first runs.
#[derive(Default)]
struct Report {
    rows: Vec<(String, Vec<Usage>)>,
    peak_rss: u64,
}

impl Report {
    fn add(&mut self, what: &str, usage: Usage) {
        eprintln!("{what}: {:.2} s", usage.wall);
        match self.rows.iter_mut().find(|(known, _)| known == what) {
            Some((_, runs)) => runs.push(usage),
            None => self.rows.push((what.to_owned(), vec![usage])),
        }
    }

    fn print(&self, mebibytes: u64) {
        println!(
            "\n{:<32} {:>8} {:>10} {:>10}   ({mebibytes} MiB; medians)",
            "", "wall s", "CPU s", "servers'"
        );
        let mut json = Vec::new();
        for (what, runs) in &self.rows {
            let middle = |value: fn(&Usage) -> f64| median(runs.iter().map(value).collect());
            let (wall, cpu, servers) = (
                middle(|u| u.wall),
                middle(|u| u.cpu),
                middle(|u| u.servers_cpu),
            );
            println!("{what:<32} {wall:>8.2} {cpu:>10.2} {servers:>10.2}");
            json.push(format!(
                r#"{{"what":"{what}","runs":{},"wall_s":{wall:.3},"cpu_s":{cpu:.3},"servers_cpu_s":{servers:.3}}}"#,
                runs.len()
            ));
        }
        println!("peak memory of the daemon: {} MiB", self.peak_rss >> 20);
        println!(
            r#"{{"mebibytes":{mebibytes},"daemon_peak_rss_bytes":{},"rows":[{}]}}"#,
            self.peak_rss,
            json.join(",")
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
