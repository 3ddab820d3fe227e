//! The progress of a transfer on a terminal: a bar for the whole, and a line for each cloud. If
//! standard error is not a terminal, nothing is shown.

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use hyper::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use raic_storage::StorageIndex;
use tokio::task::JoinHandle;

use crate::{
    client::{Client, nothing},
    error::{Failed, Outcome},
    home::Home,
};

/// How often the daemon is asked for the bytes of each cloud.
const PAUSE: Duration = Duration::from_millis(300);

/// How often the bar is drawn although no bytes arrive.
const TICK: Duration = Duration::from_millis(500);

/// Template of the bar of a transfer whose total is known.
const WITH_TOTAL: &str = "{bar:32} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";

/// Template of the bar of several files.
const OF_FILES: &str = "{bar:32} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {prefix}";

/// The progress of transfers on the terminal. Dropping it clears the terminal.
pub(crate) struct Progress {
    /// Id of the transfer at the daemon; `None` if there are several.
    id: Option<String>,
    /// Files that were moved, and all that are known.
    files: parking_lot::Mutex<(u64, u64)>,
    bars: MultiProgress,
    whole: ProgressBar,
    asking: Option<JoinHandle<()>>,
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Progress {
    /// Begins to show a transfer of `total` bytes; `None` if the total is not known yet.
    pub(crate) fn new(home: &Home, total: Option<u64>) -> Outcome<Self> {
        let id = StorageIndex::random().map_err(Failed::other)?.to_string();
        if !std::io::stderr().is_terminal() {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
            return Ok(Self {
                id: Some(id),
                files: parking_lot::Mutex::default(),
                bars,
                whole: ProgressBar::hidden(),
                asking: None,
            });
        }
        let bars = MultiProgress::new();
        let whole = bars.add(styled(
            ProgressBar::new_spinner(),
            "{spinner} {bytes}  {bytes_per_sec}",
        ));
        // So that speed and remaining time go on changing while no bytes arrive.
        whole.enable_steady_tick(TICK);
        let asking = tokio::spawn(show_clouds(home.clone(), id.clone(), bars.clone()));
        let progress = Self {
            id: Some(id),
            files: parking_lot::Mutex::default(),
            bars,
            whole,
            asking: Some(asking),
        };
        if let Some(total) = total {
            progress.expect(total);
        }
        Ok(progress)
    }

    /// Begins to show the transfers of `count` files.
    pub(crate) fn of_files(count: u64) -> Self {
        let is_shown = std::io::stderr().is_terminal();
        let target = match is_shown {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        let whole = bars.add(styled(ProgressBar::new(0), OF_FILES));
        let progress = Self {
            id: None,
            files: parking_lot::Mutex::new((0, count)),
            bars,
            whole,
            asking: None,
        };
        progress.show_files();
        progress
    }

    fn show_files(&self) {
        let (moved, all) = *self.files.lock();
        self.whole.set_prefix(format!("{moved} of {all} files"));
    }

    /// Counts a file as moved.
    pub(crate) fn ended(&self) {
        self.files.lock().0 += 1;
        self.show_files();
    }

    /// Sets the number of files that are known.
    pub(crate) fn expect_files(&self, all: u64) {
        self.files.lock().1 = all;
        self.show_files();
    }

    /// Adds to the total in bytes. From now on a bar and the remaining time are shown.
    pub(crate) fn expect(&self, bytes: u64) {
        if self.id.is_some()
            && let Ok(style) = ProgressStyle::with_template(WITH_TOTAL)
        {
            self.whole.set_style(style);
        }
        self.whole
            .set_length(self.whole.length().unwrap_or(0) + bytes);
    }

    /// The id by which the daemon counts the bytes of this transfer; `None` if there are several.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Runs `print`, which writes to the terminal, with nothing shown meanwhile.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bars.suspend(print)
    }

    /// The bar of the whole transfer.
    pub(crate) fn whole(&self) -> &ProgressBar {
        &self.whole
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        self.whole.finish_and_clear();
        // The clouds' lines go too. If the terminal cannot be written to, nothing is lost.
        let _ = self.bars.clear();
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// Shows a line for each cloud of a transfer, until the task is aborted.
async fn show_clouds(home: Home, id: String, bars: MultiProgress) {
    let mut clouds: BTreeMap<String, ProgressBar> = BTreeMap::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        let path = format!("/v1/transfers/{id}");
        // If the daemon does not know the transfer yet, or any more, the lines stay as they are.
        let counted = Client(&home)
            .ask::<BTreeMap<String, u64>>(Method::GET, &path, nothing())
            .await;
        for (cloud, bytes) in counted.unwrap_or_default() {
            let bar = clouds.entry(cloud).or_insert_with_key(|cloud| {
                let line = styled(
                    ProgressBar::new_spinner(),
                    "  {prefix:<16} {bytes}  {bytes_per_sec}",
                );
                bars.add(line.with_prefix(cloud.clone()))
            });
            bar.set_position(bytes);
        }
    }
}

/// Formats a number of bytes for people, such as `3.00 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// Formats a number of things, such as `1 share` and `2 shares`.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}
