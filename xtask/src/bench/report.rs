//! What was measured, as a table for people and a line of JSON for programs.

use std::{path::Path, time::Duration};

use serde_json::json;

use super::{
    plot::{Bar, bars},
    rig::Usage,
};
use crate::stage::Outcome;

/// The measurements of each command, in the order of the first runs.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<(String, Vec<Usage>)>,
    notes: Vec<(String, f64)>,
    pub(crate) peak_rss: u64,
}

impl Report {
    pub(crate) fn add(&mut self, what: &str, usage: Usage) {
        eprintln!("{what}: {:.3} s", usage.wall);
        match self.rows.iter_mut().find(|(known, _)| known == what) {
            Some((_, runs)) => runs.push(usage),
            None => self.rows.push((what.to_owned(), vec![usage])),
        }
    }

    /// Adds what was timed without a command of its own.
    pub(crate) fn add_wall(&mut self, what: &str, took: Duration) {
        let usage = Usage {
            wall: took.as_secs_f64(),
            ..Usage::default()
        };
        match self.rows.iter_mut().find(|(known, _)| known == what) {
            Some((_, runs)) => runs.push(usage),
            None => self.rows.push((what.to_owned(), vec![usage])),
        }
    }

    /// Notes a number; the last one counts.
    pub(crate) fn note(&mut self, what: &str, value: f64) {
        match self.notes.iter_mut().find(|(known, _)| known == what) {
            Some((_, known)) => *known = value,
            None => self.notes.push((what.to_owned(), value)),
        }
    }

    /// The wall times of a command, in seconds.
    pub(crate) fn walls(&self, what: &str) -> Vec<f64> {
        let row = self.rows.iter().find(|(known, _)| known == what);
        row.map_or_else(Vec::new, |(_, runs)| runs.iter().map(|u| u.wall).collect())
    }

    pub(crate) fn print(&self, name: &str, mebibytes: u64) {
        println!(
            "\n{:<34} {:>8} {:>8} {:>8} {:>9}   ({mebibytes} MiB; medians)",
            name, "wall s", "CPU s", "servers'", "requests"
        );
        let mut json = Vec::new();
        for (what, runs) in &self.rows {
            let middle =
                |value: fn(&Usage) -> f64| percentile(runs.iter().map(value).collect(), 50.0);
            let (wall, cpu) = (middle(|u| u.wall), middle(|u| u.cpu));
            let (servers, requests) = (middle(|u| u.servers_cpu), middle(|u| u.requests as f64));
            println!("{what:<34} {wall:>8.3} {cpu:>8.2} {servers:>8.2} {requests:>9}");
            json.push(json!({
                "what": what, "runs": runs.len(), "wall_s": wall, "cpu_s": cpu,
                "servers_cpu_s": servers, "requests": requests,
            }));
        }
        for (what, value) in &self.notes {
            println!("{what}: {value:.3}");
        }
        println!("peak memory of the daemon: {} MiB", self.peak_rss >> 20);
        let notes: serde_json::Map<_, _> = self
            .notes
            .iter()
            .map(|(what, value)| (what.clone(), json!(value)))
            .collect();
        let line = json!({
            "job": name, "mebibytes": mebibytes, "daemon_peak_rss_bytes": self.peak_rss,
            "rows": json, "notes": notes,
        });
        println!("{line}");
    }

    /// Draws the median of each command.
    pub(crate) fn plot(&self, name: &str, folder: &Path) -> Outcome {
        let bar = |(what, runs): &(String, Vec<Usage>)| Bar {
            label: what.clone(),
            seconds: percentile(runs.iter().map(|u| u.wall).collect(), 50.0),
            is_ours: !what.starts_with("rclone") && !what.starts_with("restic"),
        };
        let file = folder.join(format!("{name}.svg"));
        let drawn = bars(&self.rows.iter().map(bar).collect::<Vec<_>>());
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&file, drawn))
            .map_err(|e| format!("{}: {e}", file.display()))
    }
}

/// The value below which `percent` of all lie: the nearest of them.
pub(crate) fn percentile(mut values: Vec<f64>, percent: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = (values.len() as f64 * percent / 100.0) as usize;
    let last = values.len().saturating_sub(1);
    values.get(at.min(last)).copied().unwrap_or_default()
}
