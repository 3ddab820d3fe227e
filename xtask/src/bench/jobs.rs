//! The jobs over four lean loopback clouds, each beside its peers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    rclone::Rclone,
    report::{Report, percentile},
    restic::Restic,
    rig::{ROUND_TRIP, Rig, random_file, sha256_below, sha256_of, small_files},
};
use crate::stage::Outcome;

/// Bytes of a range that is read.
const RANGE: u64 = 64 << 10;
/// Number of ranges in each run.
const RANGES: usize = 100;

/// Runs that are not measured.
const WARM: usize = 2;

/// How jobs are measured.
pub(crate) struct Measuring {
    pub(crate) runs: usize,
    /// Whether peers are left out.
    pub(crate) alone: bool,
    /// Bytes of the file.
    pub(crate) size: u64,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn remove(folder: &Path) -> Outcome {
    fs::remove_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))
}

impl Measuring {
    fn rclone(&self, rig: &Rig) -> Outcome<Option<Rclone>> {
        match self.alone {
            true => Ok(None),
            false => Rclone::find(rig),
        }
    }

    /// Makes the file. Returns its path and its SHA-256.
    fn file(&self, rig: &Rig) -> Outcome<(PathBuf, String)> {
        let file = rig.folder().join("original");
        let sha256 = random_file(&file, self.size)?;
        Ok((file, sha256))
    }

    /// Stores a file under a name of its own, and removes it again.
    fn put_once(&self, rig: &Rig, file: &Path, what: &str, report: &mut Report) -> Outcome {
        let name = "file";
        let usage = rig.measure(&mut rig.raic(["put", &text(file), "--as", name]))?;
        report.add(what, usage);
        let stored = rig.traffic().stored;
        report.note("stored, times the file", stored as f64 / self.size as f64);
        rig.run(&mut rig.raic(["rm", name]))?;
        rig.wait_until_empty()
    }

    pub(crate) fn up(&self, rig: &Rig) -> Outcome<Report> {
        let (peer, mut report) = (self.rclone(rig)?, Report::default());
        let (file, _) = self.file(rig)?;
        for _ in 0..WARM {
            self.put_once(rig, &file, "", &mut Report::default())?;
        }
        for _ in 0..self.runs {
            self.put_once(rig, &file, "raic put", &mut report)?;
            if let Some(peer) = &peer {
                report.add("rclone put", rig.measure(&mut peer.put(&file, "file"))?);
                peer.empty(rig)?;
            }
        }
        report.peak_rss = rig.peak_rss()?;
        Ok(report)
    }

    pub(crate) fn one_down(&self, mut rig: Rig) -> Outcome<Report> {
        let mut report = Report::default();
        let (file, _) = self.file(&rig)?;
        for _ in 0..WARM {
            self.put_once(&rig, &file, "", &mut Report::default())?;
        }
        for _ in 0..self.runs {
            self.put_once(&rig, &file, "raic put, all up", &mut report)?;
        }
        rig.stop_service(0);
        // The upload that finds the service down is reported apart.
        self.put_once(&rig, &file, "raic put, one down, the first", &mut report)?;
        for _ in 0..self.runs {
            self.put_once(&rig, &file, "raic put, one down", &mut report)?;
        }
        report.peak_rss = rig.peak_rss()?;
        Ok(report)
    }

    pub(crate) fn down(&self, mut rig: Rig) -> Outcome<Report> {
        let (peer, mut report) = (self.rclone(&rig)?, Report::default());
        let (file, sha256) = self.file(&rig)?;
        let copy = rig.folder().join("copy");
        let verify = || match sha256_of(&copy)? == sha256 {
            true => Ok(()),
            false => Err("these are not the bytes that were stored".to_owned()),
        };
        rig.run(&mut rig.raic(["put", &text(&file), "--as", "file"]))?;
        if let Some(peer) = &peer {
            rig.run(&mut peer.put(&file, "file"))?;
        }
        // Memory that is used for the first time is slower.
        for _ in 0..WARM {
            rig.run(&mut rig.raic(["get", "file", &text(&copy)]))?;
        }
        for (lost, what) in [(0, "all up"), (1, "one down"), (2, "two down")] {
            if lost > 0 {
                rig.stop_service(lost - 1);
                // The read that finds the service down is reported apart.
                let first = rig.measure(&mut rig.raic(["get", "file", &text(&copy)]))?;
                report.add(&format!("raic get, {what}, the first"), first);
                verify()?;
            }
            for _ in 0..self.runs {
                let usage = rig.measure(&mut rig.raic(["get", "file", &text(&copy)]))?;
                report.add(&format!("raic get, {what}"), usage);
                verify()?;
                // With services down, rclone's union gives an error or the file, depending on its
                // policy. So only the case with all services up is fair.
                if let Some(peer) = peer.as_ref().filter(|_| lost == 0) {
                    let usage = rig.measure(&mut peer.get("file", &copy))?;
                    report.add("rclone get, all up", usage);
                    verify()?;
                }
            }
        }
        report.peak_rss = rig.peak_rss()?;
        Ok(report)
    }

    pub(crate) fn small(&self, rig: &Rig, files: u32) -> Outcome<Report> {
        let (rclone, mut report) = (self.rclone(rig)?, Report::default());
        let restic = match self.alone {
            true => None,
            false => Restic::find(rig)?,
        };
        let (folder, back) = (rig.folder().join("small"), rig.folder().join("back"));
        small_files(&folder, files)?;
        let sha256 = sha256_below(&folder)?;
        let verify = |back: &Path| {
            let read = sha256_below(back)?;
            remove(back)?;
            match read == sha256 {
                true => Ok(()),
                false => Err("these are not the files that were stored".to_owned()),
            }
        };
        for run in 0..self.runs {
            let put = ["put", "-r", &text(&folder), "-j", "64"];
            report.add("raic put", rig.measure(&mut rig.raic(put))?);
            let get = ["get", "-r", "small", &text(&back), "-j", "64"];
            report.add("raic get", rig.measure(&mut rig.raic(get))?);
            verify(&back)?;
            rig.run(&mut rig.raic(["rm", "-r", "small"]))?;
            rig.wait_until_empty()?;
            if let Some(restic) = &restic {
                report.add("restic backup", rig.measure(&mut restic.put(&folder))?);
                report.add("restic restore", rig.measure(&mut restic.get(&back))?);
                verify(&back)?;
                rig.run(&mut restic.forget())?;
            }
            // One run: it takes minutes, and its median would say the same.
            if let Some(rclone) = rclone.as_ref().filter(|_| run == 0) {
                report.add(
                    "rclone put",
                    rig.measure(&mut rclone.put_folder(&folder, "small"))?,
                );
                report.add(
                    "rclone get",
                    rig.measure(&mut rclone.get_folder("small", &back))?,
                );
                verify(&back)?;
                rclone.empty(rig)?;
            }
        }
        report.peak_rss = rig.peak_rss()?;
        Ok(report)
    }

    pub(crate) fn slow(&self, mut rig: Rig) -> Outcome<Report> {
        let mut report = Report::default();
        let (file, sha256) = self.file(&rig)?;
        let copy = rig.folder().join("copy");
        for what in ["one slow", "without it"] {
            if what == "without it" {
                rig.stop_service(3);
            }
            for run in 0..self.runs {
                let put = ["put", &text(&file), "--as", "file"];
                report.add(
                    &format!("raic put, {what}"),
                    rig.measure(&mut rig.raic(put))?,
                );
                let get = ["get", "file", &text(&copy)];
                let usage = rig.measure(&mut rig.raic(get))?;
                if sha256_of(&copy)? != sha256 {
                    return Err("these are not the bytes that were stored".to_owned());
                }
                let first = if run == 0 { ", the first" } else { "" };
                report.add(&format!("raic get, {what}{first}"), usage);
            }
        }
        let p95 = |what: &str| percentile(report.walls(what), 95.0);
        let reads = p95("raic get, one slow") / p95("raic get, without it");
        let writes = p95("raic put, one slow") / p95("raic put, without it");
        report.note("p95 of reads, times those without it", reads);
        report.note("p95 of writes, times those without it", writes);
        report.peak_rss = rig.peak_rss()?;
        Ok(report)
    }

    /// Reads ranges from services that are near, for the time and the bytes, and from services that
    /// are far, for the round trips.
    pub(crate) fn ranges(&self, near: &Rig, far: impl FnOnce() -> Outcome<Rig>) -> Outcome<Report> {
        let mut report = Report::default();
        let bytes_before = self.read_ranges(near, &mut report, "a range of 64 KiB, near")?;
        report.note("bytes read, times those asked for", bytes_before);
        let far = far()?;
        self.read_ranges(&far, &mut report, "a range of 64 KiB, far")?;
        for (what, percent) in [("p50", 50.0), ("p95", 95.0)] {
            let took = percentile(report.walls("a range of 64 KiB, far"), percent);
            let trips = took / ROUND_TRIP.as_secs_f64();
            report.note(&format!("{what} of a range, in round trips"), trips);
        }
        report.peak_rss = near.peak_rss()?;
        Ok(report)
    }

    /// Reads ranges. Returns how many times their bytes the services gave.
    fn read_ranges(&self, rig: &Rig, report: &mut Report, what: &str) -> Outcome<f64> {
        let (file, _) = self.file(rig)?;
        rig.run(&mut rig.raic(["put", &text(&file), "--as", "file"]))?;
        let content = fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut random = StdRng::seed_from_u64(64);
        let before = rig.traffic().given;
        for _ in 0..RANGES {
            let start = random.random_range(0..=self.size - RANGE);
            let (bytes, took) = rig.read_range("file", start, RANGE)?;
            if content.get(start as usize..(start + RANGE) as usize) != Some(&bytes[..]) {
                return Err("these are not the bytes that were stored".to_owned());
            }
            report.add_wall(what, took);
        }
        let given = rig.traffic().given - before;
        Ok(given as f64 / (RANGES as u64 * RANGE) as f64)
    }
}
