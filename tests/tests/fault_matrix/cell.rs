//! One cell of the matrix: a misbehaviour of some of the clouds.

use std::{fmt, future::Future, time::Duration};

use bytes::Bytes;
use raic_array::ArrayError;
use raic_lean_cloud::{Fault, Misbehaviour, Moment};

use crate::rig::{Connector, Rig};

/// The longest that anything may take. A daemon's own limits are longer, since its patience is.
const DEADLINE: Duration = Duration::from_secs(120);
/// Bytes of each file: several segments, and several objects in each share.
const SIZE: usize = 25_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) misbehaviour: Misbehaviour,
    /// Number of faulty clouds, of four.
    pub(crate) faulty: usize,
}

/// What came of a cell that is as it should be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    is_stored: bool,
    is_read: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} clouds", self.misbehaviour, self.faulty)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |is: bool, yes: &'static str| if is { yes } else { "refused" };
        let (stored, read) = (word(self.is_stored, "stored"), word(self.is_read, "read"));
        write!(f, "written: {stored}, read: {read}")
    }
}

fn content(seed: usize) -> Bytes {
    (0..SIZE).map(|i| ((i * 7 + seed) % 253) as u8).collect()
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> Result<T, String> {
    let done = tokio::time::timeout(DEADLINE, work).await;
    done.map_err(|_| format!("{what} hangs"))
}

/// Requires that an error says what is wrong with the clouds.
fn clear(what: &str, e: &ArrayError) -> Result<(), String> {
    match e {
        ArrayError::TooFewClouds { faults, .. } | ArrayError::Unreadable { faults, .. }
            if !faults.is_empty() =>
        {
            Ok(())
        }
        e => Err(format!("{what} fails, but not with a clear error: {e}")),
    }
}

impl Cell {
    /// Cells that always run: each moment and each fault comes once, and none of them waits long.
    pub(crate) fn is_quick(self) -> bool {
        let Misbehaviour { at, fault } = self.misbehaviour;
        let faulty = match (at, fault) {
            (Moment::Connect, Fault::Refuse) => 3,
            (Moment::Headers, Fault::Reset | Fault::TooManyRequests) => 2,
            (Moment::Headers, Fault::Stale) => 1,
            (Moment::MidBody, Fault::Short | Fault::BitFlip) => 2,
            (Moment::MidBody, Fault::TimeOut) => 1,
            (Moment::AfterBody, Fault::Lost | Fault::WrongObject) => 2,
            (Moment::List, Fault::ServerError) => 3,
            (Moment::Delete, Fault::Lost) => 3,
            _ => 0,
        };
        self.faulty == faulty
    }

    /// Returns whether a write to a faulty cloud shows its fault at once.
    fn write_fails(self) -> bool {
        let Misbehaviour { at, fault } = self.misbehaviour;
        let is_open = !matches!(
            fault,
            Fault::BitFlip | Fault::Stale | Fault::WrongObject | Fault::Lost
        );
        is_open && !matches!(at, Moment::List | Moment::Delete)
    }

    /// Returns whether a read from a faulty cloud fails: its bytes are not there, or not right.
    fn read_fails(self) -> bool {
        let Misbehaviour { at, fault } = self.misbehaviour;
        match (at, fault) {
            (Moment::List | Moment::Delete, _) => false,
            // What was stored before is not recent, and is given as it is.
            (_, Fault::Stale | Fault::Lost) => false,
            // The answer's body has begun.
            (Moment::MidBody, Fault::TooManyRequests | Fault::ServerError) => false,
            _ => true,
        }
    }

    /// Returns whether the fault may destroy what a faulty cloud holds.
    fn destroys(self) -> bool {
        self.misbehaviour.at == Moment::Delete && self.misbehaviour.fault == Fault::WrongObject
    }

    /// The faulty clouds.
    fn chosen(self, seed: u64) -> Vec<usize> {
        let Misbehaviour { at, fault } = self.misbehaviour;
        let mixed = seed
            .wrapping_add(at as u64 * 31 + fault as u64 * 7 + self.faulty as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let first = (mixed >> 40) as usize;
        (0..self.faulty).map(|i| (first + i) % 4).collect()
    }

    pub(crate) async fn run(self, connector: &Connector, seed: u64) -> Result<Outcome, String> {
        let rig = Rig::start(connector).await;
        let (old, new, other) = (content(1), content(2), content(3));
        for name in ["kept", "replaced", "doomed"] {
            let stored = rig.put(name, &old).await;
            stored.map_err(|e| format!("with four sound clouds: {e}"))?;
        }
        let chosen = self.chosen(seed);
        for cloud in &chosen {
            rig.clouds[*cloud].misbehave(Some(self.misbehaviour)).await;
        }
        let outcome = self.with_faults(&rig, (&old, &new, &other)).await;
        for cloud in &chosen {
            rig.clouds[*cloud].misbehave(None).await;
        }
        let outcome = outcome.map_err(|what| format!("{what} (faulty: {chosen:?})"))?;
        // The breaker lets a request through after a pause.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // A file may be lost only if three clouds destroyed it, or lied when it was written.
        let is_destroyed = self.faulty == 3 && self.destroys();
        let has_lied = self.faulty == 3 && !self.write_fails();
        let afterwards = ("afterwards, kept", "kept");
        self.right(&rig, afterwards, &old, is_destroyed).await?;
        let afterwards = ("afterwards, replaced", "replaced");
        match outcome.is_stored {
            true => self.right(&rig, afterwards, &new, has_lied).await?,
            false => self.right(&rig, afterwards, &old, false).await?,
        }
        if outcome.is_stored {
            let afterwards = ("afterwards, added", "added");
            self.right(&rig, afterwards, &other, has_lied).await?;
        }
        let names = rig.names().await.map_err(|e| format!("names: {e}"))?;
        match names.iter().any(|name| name == "doomed") {
            true => Err("a removed file is back".to_owned()),
            false => Ok(outcome),
        }
    }

    /// Reads a file, of which nothing but its own bytes may come.
    async fn right(
        self,
        rig: &Rig,
        (what, name): (&str, &str),
        expected: &Bytes,
        may_be_lost: bool,
    ) -> Result<(), String> {
        match in_time(what, rig.get(name)).await? {
            Ok(bytes) if bytes == *expected => Ok(()),
            Ok(_) => Err(format!("{what}: wrong bytes")),
            Err(e) => match may_be_lost {
                true => clear(what, &e),
                false => Err(format!("{what}: {e}")),
            },
        }
    }

    async fn with_faults(
        self,
        rig: &Rig,
        (old, new, other): (&Bytes, &Bytes, &Bytes),
    ) -> Result<Outcome, String> {
        let few = self.faulty < 3;
        let is_read = match in_time("a read", rig.get("kept")).await? {
            Ok(bytes) if bytes == *old => true,
            Ok(_) => return Err("a read gives wrong bytes".to_owned()),
            Err(e) if few => return Err(format!("a read fails: {e}")),
            Err(e) => {
                clear("a read", &e)?;
                false
            }
        };
        if !few && is_read && self.read_fails() {
            return Err("a read of one sound share of two gave a file".to_owned());
        }
        let stored = in_time("a replacing write", rig.put("replaced", new)).await?;
        let is_stored = stored.is_ok();
        match stored {
            Err(e) if few => return Err(format!("a write fails: {e}")),
            Err(e) => clear("a write", &e)?,
            Ok(()) if !few && self.write_fails() => {
                return Err("a write to one sound cloud was acknowledged".to_owned());
            }
            Ok(()) => {}
        }
        if is_stored {
            let added = in_time("a further write", rig.put("added", other)).await?;
            added.map_err(|e| format!("a further write fails: {e}"))?;
        }
        let expected = if is_stored { new } else { old };
        if few {
            let meanwhile = ("replaced meanwhile", "replaced");
            self.right(rig, meanwhile, expected, false).await?;
        }
        // What the clouds do has no part in names.
        let removed = tokio::time::timeout(Duration::from_secs(5), rig.remove("doomed")).await;
        removed
            .map_err(|_| "a removal waits for clouds".to_owned())?
            .map_err(|e| format!("a removal fails: {e}"))?;
        let names = rig.names().await.map_err(|e| format!("names: {e}"))?;
        if names.iter().any(|name| name == "doomed") {
            return Err("a removed file is listed".to_owned());
        }
        if matches!(self.misbehaviour.at, Moment::List) {
            for cloud in 0..4 {
                // It may fail, but forgets nothing.
                let _ = in_time("a reconciliation", rig.reconcile(cloud)).await?;
            }
            self.right(rig, ("after a reconciliation", "kept"), old, false)
                .await?;
        }
        if self.misbehaviour.at == Moment::Delete {
            // The collectors delete what was replaced and removed.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(Outcome { is_stored, is_read })
    }
}
