//! What happened, for the operator: reports of clients, lease activity, revoked secrets.

use rusqlite::params;

use super::{AccountId, LeaseDb, ServerId, int, uint};
use crate::{Moment, Result};

/// Most events of each kind that are kept. The oldest go first.
const MOST_EVENTS: u64 = 10_000;
/// Longest text of an event, in bytes. Longer texts are cut: they come from clients.
const LONGEST_TEXT: usize = 2048;

/// The kind of an event. The database stores its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A client reports that a share is corrupt.
    Advisory,
    /// Clients added or renewed leases.
    Leases,
    /// An account's secrets were revoked.
    Revoked,
    /// Shares were taken over from a storage folder of Tahoe-LAFS.
    Imported,
    /// Shares were written to a storage folder of Tahoe-LAFS.
    Exported,
    /// A kind that a newer program recorded.
    Other,
}

impl EventKind {
    const ALL: [Self; 6] = [
        Self::Advisory,
        Self::Leases,
        Self::Revoked,
        Self::Imported,
        Self::Exported,
        Self::Other,
    ];

    /// The name of the kind, as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Advisory => "advisory",
            Self::Leases => "leases",
            Self::Revoked => "revoked",
            Self::Imported => "imported",
            Self::Exported => "exported",
            Self::Other => "other",
        }
    }
}

/// Something that is about to be recorded as an event.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The kind of the event.
    pub kind: EventKind,
    /// The storage server that it is about; `None` if it is about none.
    pub server: Option<ServerId>,
    /// The account that it is about; `None` if it is about none.
    pub account: Option<AccountId>,
    /// What happened, as a sentence. It may have a client's words.
    pub text: String,
}

/// An event, as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number of the event. Later events have higher numbers.
    pub number: u64,
    /// When it was recorded.
    pub at: Moment,
    /// The kind of the event.
    pub kind: EventKind,
    /// Name of the storage server that it is about; `None` if it is about none.
    pub server: Option<String>,
    /// Name of the account that it is about; `None` if it is about none.
    pub account: Option<String>,
    /// What happened, as a sentence. It may have a client's words.
    pub text: String,
}

/// Cuts a text to at most `most` bytes, at the border of a character.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

impl LeaseDb {
    /// Records events. Of more than 10,000 events of a kind the oldest are forgotten.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn record_events(&self, events: Vec<NewEvent>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let now = self.now();
        self.write(move |tx| {
            let sql = "INSERT INTO events(at_ms, kind, server, account, text)
                       VALUES(?1, ?2, ?3, ?4, ?5)";
            let mut statement = tx.prepare_cached(sql)?;
            for event in &events {
                statement.execute(params![
                    now,
                    event.kind.name(),
                    event.server.map(|server| server.0),
                    event.account.map(|account| account.0),
                    cut(&event.text, LONGEST_TEXT),
                ])?;
            }
            let forget = "DELETE FROM events WHERE kind = ?1 AND id <= (
                            SELECT id FROM events WHERE kind = ?1
                            ORDER BY id DESC LIMIT 1 OFFSET ?2)";
            let mut forget = tx.prepare_cached(forget)?;
            for kind in EventKind::ALL {
                forget.execute(params![kind.name(), int(MOST_EVENTS)])?;
            }
            Ok(())
        })
        .await
    }

    /// Reads up to `limit` events that come after event number `after`, oldest first. With `None`,
    /// reads the newest `limit` events.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn events(&self, after: Option<u64>, limit: u32) -> Result<Vec<Event>> {
        self.read(move |c| {
            let sql = "SELECT events.id, at_ms, kind, servers.name, accounts.name, text FROM events
                       LEFT JOIN servers ON servers.id = server
                       LEFT JOIN accounts ON accounts.id = account
                       WHERE events.id > coalesce(?1, (SELECT max(id) FROM events) - ?2)
                       ORDER BY events.id LIMIT ?2";
            let mut statement = c.prepare_cached(sql)?;
            let rows = statement.query_map(params![after.map(int), limit], |r| {
                let kind: String = r.get(2)?;
                let kind = EventKind::ALL
                    .into_iter()
                    .find(|known| known.name() == kind);
                Ok(Event {
                    number: uint(r.get(0)?),
                    at: r.get(1)?,
                    kind: kind.unwrap_or(EventKind::Other),
                    server: r.get(3)?,
                    account: r.get(4)?,
                    text: r.get(5)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
