//! Decides whether the wall clock can be believed (decision 0009). A clock that was set wrong
//! destroys nothing.
//!
//! **Invariant:** the difference between the wall clock and the machine's own clock was accepted
//! once. While it has changed by more than [`TOLERATED`] since, nothing expires, no rest ends and
//! nothing is destroyed. `raic clock accept` ends that. Every moment of a wait then moves with the
//! clock, also of the waits for late requests. So the rest of each wait stays the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::LeaseDb;
use crate::{Clock, Moment, Result, clock::millis};

/// How far the wall clock may be corrected without the operator's consent. It is less than what is
/// left of every rest after the longest request.
const TOLERATED: Duration = Duration::from_secs(5 * 60);
/// How often the latest moment is recorded in the database.
const WRITTEN: Duration = Duration::from_secs(10 * 60);

/// The accepted clock: how far the wall clock is ahead of the machine's own. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepted(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Milliseconds by which the wall clock is ahead of the machine's own clock, as accepted.
    ahead_ms: AtomicI64,
    /// The moment of the last record in the database, in milliseconds since 1970.
    written_ms: AtomicI64,
    /// Whether the log already reports that the clock is off.
    is_told: AtomicBool,
    /// Whether the machine started anew with a wall clock that is behind. Then only a moment is
    /// known that has certainly passed.
    is_lower_bound: AtomicBool,
}

/// Returns how far the wall clock is ahead of the machine's own clock now, in milliseconds.
fn ahead(clock: &Clock) -> i64 {
    clock.now_ms().saturating_sub(clock.boot_ms())
}

impl Accepted {
    /// Compares the clocks with what the database recorded, and accepts them if they agree.
    /// Otherwise the clock is off, and time goes on from what was recorded.
    pub(super) fn open(&self, tx: &Transaction<'_>, clock: &Clock) -> rusqlite::Result<()> {
        let (boot_id, now, ahead) = (clock.boot_id(), clock.now_ms(), ahead(clock));
        let tolerated = millis(TOLERATED);
        let known = tx
            .query_row("SELECT boot_id, ahead_ms, high_ms FROM clock", [], |r| {
                Ok((
                    r.get::<_, String>(0)?,
                    r.get::<_, i64>(1)?,
                    r.get::<_, i64>(2)?,
                ))
            })
            .optional()?;
        let is_same_start = |id: &str| !id.is_empty() && id == boot_id;
        let accepted = match known {
            // The machine was not started anew, so its own clock has measured the time that passed.
            Some((id, was, _))
                if is_same_start(&id) && ahead.abs_diff(was) > tolerated.unsigned_abs() =>
            {
                was
            }
            // The machine was started anew. Nothing is known but that the wall clock went back.
            Some((id, _, high)) if !is_same_start(&id) && now < high.saturating_sub(tolerated) => {
                self.0.is_lower_bound.store(true, Ordering::Relaxed);
                ahead.saturating_add(high.saturating_sub(now))
            }
            _ => ahead,
        };
        self.0.ahead_ms.store(accepted, Ordering::Relaxed);
        if accepted == ahead {
            self.write(tx, clock)?;
        }
        Ok(())
    }

    fn write(&self, tx: &Connection, clock: &Clock) -> rusqlite::Result<()> {
        let (now, accepted) = (clock.now_ms(), self.0.ahead_ms.load(Ordering::Relaxed));
        tx.execute(
            "INSERT INTO clock VALUES(1, ?1, ?2, ?3) ON CONFLICT DO UPDATE SET boot_id = ?1, ahead_ms = ?2, high_ms = ?3",
            params![clock.boot_id(), accepted, now],
        )?;
        self.0.written_ms.store(now, Ordering::Relaxed);
        Ok(())
    }
}

impl LeaseDb {
    /// Returns how far the wall clock is ahead of the accepted one, in milliseconds (negative if it
    /// is behind). Returns `None` if the difference can be tolerated. While the clock is off,
    /// nothing may expire or be destroyed.
    pub fn clock_is_off(&self) -> Option<i64> {
        let off =
            ahead(&self.clock).saturating_sub(self.accepted.0.ahead_ms.load(Ordering::Relaxed));
        if off.unsigned_abs() <= millis(TOLERATED).unsigned_abs() {
            self.accepted.0.is_told.store(false, Ordering::Relaxed);
            return None;
        }
        if !self.accepted.0.is_told.swap(true, Ordering::Relaxed) {
            tracing::error!("{}", self.clock_fault_of(off));
        }
        Some(off)
    }

    /// Now. While the wall clock is off, this is the accepted clock, as
    /// it has gone on since. Moments that are recorded meanwhile move with the others when the
    /// clock is accepted.
    pub fn now(&self) -> Moment {
        let millis = match self.clock_is_off() {
            None => self.clock.now_ms(),
            Some(_) => self
                .clock
                .boot_ms()
                .saturating_add(self.accepted.0.ahead_ms.load(Ordering::Relaxed)),
        };
        Moment::from_millis(millis)
    }

    /// The moment that lies `by` after now.
    pub fn after(&self, by: Duration) -> Moment {
        self.now().after(by)
    }

    /// Returns a sentence for the operator that says how far the clock is off and what to do, or
    /// `None` if the clock is right.
    pub fn clock_fault(&self) -> Option<String> {
        self.clock_is_off().map(|off| self.clock_fault_of(off))
    }

    fn clock_fault_of(&self, off: i64) -> String {
        let (way, by) = (
            if off > 0 { "forward" } else { "back" },
            Duration::from_millis(off.unsigned_abs()),
        );
        format!(
            "the clock was set {way} by {} minutes: nothing expires or is deleted until it is \
             right again; if it is right now, run `raic clock accept`",
            by.as_secs() / 60
        )
    }

    /// Records the latest moment if the last record is [`WRITTEN`] ago, and follows small
    /// corrections of the clock. It is called again and again.
    pub(crate) async fn keep_time(&self) -> Result<()> {
        // Read once: a step of the clock between two readings would be taken for right.
        let (now, ahead) = (self.clock.now_ms(), ahead(&self.clock));
        let off = ahead.saturating_sub(self.accepted.0.ahead_ms.load(Ordering::Relaxed));
        if off.unsigned_abs() > millis(TOLERATED).unsigned_abs() {
            // The wall clock was behind at the start and is past the latest moment now. It is as
            // right as the clock of any other start.
            if off > 0 && self.accepted.0.is_lower_bound.load(Ordering::Relaxed) {
                tracing::info!("the clock was behind at the start and is right again");
                self.accept_clock().await?;
            }
            return Ok(());
        }
        if now.abs_diff(self.accepted.0.written_ms.load(Ordering::Relaxed))
            < millis(WRITTEN).unsigned_abs()
        {
            return Ok(());
        }
        self.accepted.0.ahead_ms.store(ahead, Ordering::Relaxed);
        let (accepted, clock) = (self.accepted.clone(), self.clock.clone());
        self.write(move |tx| Ok(accepted.write(tx, &clock)?)).await
    }

    /// Accepts the wall clock as right. Every wait takes as long as it would have taken. Leases
    /// keep their dates. Returns how far the clock had moved, in milliseconds; 0 if it was right.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn accept_clock(&self) -> Result<i64> {
        let this = self.clone();
        let before = self.accepted.0.ahead_ms.load(Ordering::Relaxed);
        let accepted = self.write(move |tx| {
            // Asked inside the transaction: two callers at once would move every moment twice.
            let Some(off) = this.clock_is_off() else { return Ok(0) };
            for (table, moments) in [
                ("going", &["until_ms", "next_ms", "deleted_ms"][..]),
                ("coming", &["expires_ms"]),
                ("superseded", &["until_ms"]),
                ("suspects", &["since_ms"]),
                ("walks", &["ended_ms"]),
                ("servers", &["taken_ms"]),
            ] {
                let sets: Vec<_> =
                    moments.iter().map(|m| format!("{m} = max(1, {m} + ?1)")).collect();
                tx.execute(&format!("UPDATE {table} SET {}", sets.join(", ")), [off])?;
            }
            // Uploads' leases end with their uploads.
            tx.execute(
                "UPDATE leases SET expires_ms = expires_ms + ?1 WHERE renew_secret = ?2 AND expires_ms IS NOT NULL",
                params![off, super::RenewSecret::UPLOAD.0],
            )?;
            // Exactly by as much as the moments were moved, whatever the clock did meanwhile.
            this.accepted.0.ahead_ms.fetch_add(off, Ordering::Relaxed);
            this.accepted.write(tx, &this.clock)?;
            Ok(off)
        });
        match accepted.await {
            Ok(off) => {
                self.accepted
                    .0
                    .is_lower_bound
                    .store(false, Ordering::Relaxed);
                Ok(off)
            }
            Err(e) => {
                // No moment was moved, so the clock is as far off as before.
                self.accepted.0.ahead_ms.store(before, Ordering::Relaxed);
                Err(e)
            }
        }
    }

    /// Cuts back a server's moments that lie further ahead than any wait: the clock was wrong when
    /// they were recorded. Each is cut back to its own wait.
    pub(crate) async fn cut_back(&self, server: super::ServerId) -> Result<()> {
        let (now, late) = (self.now(), self.after(self.grace_periods.late));
        let (upload, claim) = (
            self.after(self.grace_periods.upload),
            self.after(super::collection::LONGEST_WAIT),
        );
        let cap = claim.max(late);
        let rest = self.after(self.grace_periods.suspicion);
        self.write(move |tx| {
            tx.prepare_cached(
                "UPDATE going SET next_ms = ?3, until_ms = min(until_ms, ?4), deleted_ms = min(deleted_ms, ?3), fence = fence + 1
                 WHERE server = ?1 AND next_ms > ?2",
            )?
            .execute(params![server.0, cap, now, late])?;
            // Uploads of earlier runs that were found whole rest for a day.
            tx.prepare_cached(
                "UPDATE coming SET expires_ms = CASE WHEN is_examined THEN min(expires_ms, ?3) ELSE ?2 END
                 WHERE server = ?1 AND expires_ms > ?2",
            )?
            .execute(params![server.0, upload, rest])?;
            tx.prepare_cached("UPDATE superseded SET until_ms = ?2 WHERE server = ?1 AND until_ms > ?2")?
                .execute(params![server.0, late])?;
            tx.prepare_cached("UPDATE servers SET taken_ms = ?2 WHERE id = ?1 AND taken_ms > ?2")?
                .execute(params![server.0, now])?;
            tx.prepare_cached("UPDATE suspects SET since_ms = ?2 WHERE server = ?1 AND since_ms > ?2")?
                .execute(params![server.0, now])?;
            Ok(())
        })
        .await
    }
}
