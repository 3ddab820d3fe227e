//! Does the same with several files at once. One that fails stops no other.

use futures::{StreamExt as _, stream};
use raic_gateway::wire::Code;

use super::told;
use crate::{
    error::{Failed, Outcome},
    progress::counted,
};

/// The outcome of several files.
#[derive(Debug, Default)]
pub(super) struct Several {
    pub(super) done: u64,
    pub(super) failed: u64,
    first: Option<Failed>,
}

impl Several {
    /// Does `work` with each file, `at_once` at a time, until all are done. Tells of those that
    /// fail. It stops at once if the others would fail alike: without a daemon, or because of what
    /// is configured, such as an unknown class.
    pub(super) async fn run<T, F: Future<Output = Outcome>>(
        &mut self,
        json: bool,
        at_once: u8,
        files: impl IntoIterator<Item = T>,
        name: impl Fn(&T) -> String,
        work: impl Fn(T) -> F,
    ) -> Outcome {
        let begun = files.into_iter().map(|file| {
            let name = name(&file);
            let done = work(file);
            async move { (name, done.await) }
        });
        let mut ended = stream::iter(begun).buffer_unordered(at_once.into());
        while let Some((name, outcome)) = ended.next().await {
            match outcome {
                Ok(()) => self.done += 1,
                Err(failed) if matches!(failed.code, Code::NoDaemon | Code::Configuration) => {
                    return Err(failed);
                }
                Err(failed) => self.fail(json, &name, failed)?,
            }
        }
        Ok(())
    }

    /// Tells of a file that failed.
    pub(super) fn fail(&mut self, json: bool, name: &str, failed: Failed) -> Outcome {
        told(json, name, &failed)?;
        self.failed += 1;
        self.first.get_or_insert(failed);
        Ok(())
    }

    /// Ends with the first error, if there was one. `verb` is what was to be done.
    pub(super) fn end(self, verb: &str) -> Outcome {
        match self.first {
            None => Ok(()),
            Some(first) => Err(Failed {
                sentence: format!(
                    "{} of {} {verb}",
                    self.done,
                    counted(self.done + self.failed, "file")
                ),
                ..first
            }),
        }
    }
}
