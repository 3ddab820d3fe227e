//! Whether the wall clock can be believed: nothing is destroyed by one that somebody has set wrong.
//!
//! **Invariant:** while the wall clock and the machine's own disagree by more than [`TOLERATED`]
//! with what was accepted, nothing expires, no rest ends and nothing is destroyed.
//! `raic clock accept` ends that: every moment that protects against late requests, or that
//! somebody waits for, moves with the clock, so that what is left of each wait stays what it was.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::LeaseDb;
use crate::{Clock, Result, clock::millis};

/// How far a clock may be corrected without anybody being asked: less than what is left of every
/// rest after the longest request.
const TOLERATED: Duration = Duration::from_secs(5 * 60);
/// How often the latest moment is written down.
const WRITTEN: Duration = Duration::from_secs(10 * 60);

/// How far the wall clock is ahead of the machine's own, as it was accepted.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepted(Arc<State>);

#[derive(Debug, Default)]
struct State {
    ahead_ms: AtomicI64,
    written_ms: AtomicI64,
    is_told: AtomicBool,
    /// Whether the machine started anew with a clock that is behind: then only how early it cannot
    /// be is known.
    is_lower_bound: AtomicBool,
}

fn ahead(clock: &Clock) -> i64 {
    clock.now_ms().saturating_sub(clock.boot_ms())
}

impl Accepted {
    /// Compares the clocks with what the database has, and takes them over if they agree.
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
            // The machine was not started anew: its own clock tells what passed.
            Some((id, was, _))
                if is_same_start(&id) && ahead.abs_diff(was) > tolerated.unsigned_abs() =>
            {
                was
            }
            // It was; that time went back is all that can be known.
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
    /// How far the wall clock is ahead of what was accepted, in milliseconds, if that is more than
    /// can be tolerated: then nothing may expire or be destroyed.
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

    /// Now, in milliseconds since 1970: by the wall clock, or, while that is off, by what was
    /// accepted and has passed since. What is written down then is moved with the rest when the
    /// clock is accepted.
    pub fn now_ms(&self) -> i64 {
        match self.clock_is_off() {
            None => self.clock.now_ms(),
            Some(_) => self
                .clock
                .boot_ms()
                .saturating_add(self.accepted.0.ahead_ms.load(Ordering::Relaxed)),
        }
    }

    /// So long from now.
    pub fn after(&self, by: Duration) -> i64 {
        self.now_ms().saturating_add(millis(by))
    }

    /// How far the clock is off, as a sentence for the operator.
    pub fn clock_fault(&self) -> Option<String> {
        self.clock_is_off().map(|off| self.clock_fault_of(off))
    }

    fn clock_fault_of(&self, off: i64) -> String {
        let (way, by) = (
            if off > 0 { "forward" } else { "back" },
            Duration::from_millis(off.unsigned_abs()),
        );
        format!(
            "the clock was set {way} by {} minutes: nothing expires or is deleted until it is right again; if it is right now, `raic clock \
             accept` says so",
            by.as_secs() / 60
        )
    }

    /// Writes the latest moment down now and then, and follows small corrections.
    pub(crate) async fn keep_time(&self) -> Result<()> {
        // Read once: a step of the clock between two readings would be taken for right.
        let (now, ahead) = (self.clock.now_ms(), ahead(&self.clock));
        let off = ahead.saturating_sub(self.accepted.0.ahead_ms.load(Ordering::Relaxed));
        if off.unsigned_abs() > millis(TOLERATED).unsigned_abs() {
            // A start with a late clock, which is past that now: as right as any start's.
            if off > 0 && self.accepted.0.is_lower_bound.load(Ordering::Relaxed) {
                tracing::info!("the clock, which was behind at the start, is right again");
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

    /// Takes the wall clock for right: what waits goes on waiting for as long as it had to. Leases
    /// keep their dates. Returns how far the clock had moved, in milliseconds; 0 if it was right.
    ///
    /// # Errors
    /// The database's.
    pub async fn accept_clock(&self) -> Result<i64> {
        let this = self.clone();
        let before = self.accepted.0.ahead_ms.load(Ordering::Relaxed);
        let accepted = self.write(move |tx| {
            // Asked in the transaction: two that accept at once would move all twice.
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
                    moments.iter().map(|m| format!("{m} = CASE WHEN {m} > 0 THEN max(1, {m} + ?1) ELSE {m} END")).collect();
                tx.execute(&format!("UPDATE {table} SET {}", sets.join(", ")), [off])?;
            }
            // Uploads' leases end with their uploads.
            tx.execute(
                "UPDATE leases SET expires_ms = expires_ms + ?1 WHERE renew_secret = ?2 AND expires_ms IS NOT NULL",
                params![off, super::RenewSecret::UPLOAD.0],
            )?;
            // By so much as all was moved, whatever the clock did meanwhile.
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
                // Nothing was moved, so that the clock is as far off as before.
                self.accepted.0.ahead_ms.store(before, Ordering::Relaxed);
                Err(e)
            }
        }
    }

    /// Moments further ahead than anything waits for are of a clock that was wrong when they were
    /// written: they are cut back to their own waits.
    pub(crate) async fn cut_back(&self, server: super::ServerId) -> Result<()> {
        let (now, late) = (self.now_ms(), self.after(self.patience.late));
        let (upload, claim) = (
            self.after(self.patience.upload),
            self.after(super::collection::LONGEST_WAIT),
        );
        let cap = claim.max(late);
        let rest = self.after(self.patience.suspicion);
        self.write(move |tx| {
            tx.prepare_cached(
                "UPDATE going SET next_ms = ?3, until_ms = min(until_ms, ?4), deleted_ms = min(deleted_ms, ?3), fence = fence + 1
                 WHERE server = ?1 AND next_ms > ?2",
            )?
            .execute(params![server.0, cap, now, late])?;
            // Those of earlier runs that were found whole rest for a day.
            tx.prepare_cached(
                "UPDATE coming SET expires_ms = CASE WHEN owner = zeroblob(16) THEN min(expires_ms, ?3) ELSE ?2 END
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
