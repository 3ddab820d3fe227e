//! The results of logins, shared by all calls on one cloud. A token is fetched once for all calls
//! that wait for it.
//!
//! **Invariant:** of one login at most one ticket is out. A ticket that is dropped unfilled wakes
//! the next call that waits. A call that holds a ticket waits only for logins that the manifest
//! lists before it, so that no two calls wait for each other.

#![allow(
    unreachable_pub,
    reason = "the generated bindings name the ticket's type"
)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::{bindings::raic::connector::types::Error, secrets::SecretValue};

/// Longest time for which a failure is kept. A password that is corrected at the provider should
/// work soon.
const LONGEST_FAILURE: Duration = Duration::from_secs(60);
/// Longest time for which a login is kept.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most values of one login.
const MAX_VALUES: usize = 16;
/// Shortest time between two logins of one name, if a service refuses a fresh login.
const SPACING: Duration = Duration::from_secs(2);

/// One value that a login returned.
#[derive(Clone)]
pub(crate) enum LoginValue {
    Text(String),
    Secret(Arc<SecretValue>),
}

/// The values that one login returned, and their generation.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) values: Arc<Vec<(String, LoginValue)>>,
    pub(crate) generation: u64,
}

/// All logins of a cloud, by name.
#[derive(Default)]
pub(crate) struct Logins {
    // A blocking lock, because it is only held while fields are read and set.
    entries: Mutex<BTreeMap<String, Entry>>,
    changed: Notify,
}

#[derive(Default)]
struct Entry {
    generation: u64,
    is_refreshing: bool,
    login: Option<(Login, Instant)>,
    failure: Option<(Error, Instant)>,
    filled: Option<Instant>,
}

/// What a call gets if it asks for a login: the login, or the ticket to make it.
pub(crate) enum Acquired {
    Hit(Login),
    Refresh(LoginTicket),
}

/// The right, and the duty, to log in for all calls. A ticket that is dropped unfilled wakes the
/// next call that waits.
pub struct LoginTicket {
    logins: Arc<Logins>,
    name: String,
}

impl Logins {
    /// Returns a copy that begins with the same logins, without the failures. Later changes to
    /// either do not change the other.
    pub(crate) fn copy(&self) -> Self {
        let entries = self.entries();
        let kept = entries.iter().map(|(name, entry)| {
            let login = entry.login.clone();
            (
                name.clone(),
                Entry {
                    generation: entry.generation,
                    login,
                    ..Entry::default()
                },
            )
        });
        Self {
            entries: Mutex::new(kept.collect()),
            changed: Notify::new(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock()
    }

    /// Returns the login of a name, or the ticket to make it. Waits while another call is logging
    /// in. If the future is dropped while it waits, no ticket is taken.
    ///
    /// # Errors
    /// The failure that was recorded for the login, unless `is_probe`.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        name: &str,
        is_probe: bool,
    ) -> Result<Acquired, Error> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Enabled before the entry is read, so that no later change is missed.
            changed.as_mut().enable();
            let spaced = {
                let mut entries = self.entries();
                let entry = entries.entry(name.to_owned()).or_default();
                let now = Instant::now();
                match (&entry.login, &entry.failure) {
                    (Some((login, until)), _) if *until > now => {
                        return Ok(Acquired::Hit(login.clone()));
                    }
                    (_, Some((failure, until))) if *until > now && !is_probe => {
                        return Err(failure.clone());
                    }
                    _ => {}
                }
                let spaced = entry
                    .filled
                    .map(|filled| filled + SPACING)
                    .filter(|next| *next > now);
                if !entry.is_refreshing && spaced.is_none() {
                    entry.is_refreshing = true;
                    (entry.login, entry.failure) = (None, None);
                    let (logins, name) = (self.clone(), name.to_owned());
                    return Ok(Acquired::Refresh(LoginTicket { logins, name }));
                }
                spaced.filter(|_| !entry.is_refreshing)
            };
            match spaced {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => changed.await,
            }
        }
    }

    /// Drops a login that a service refused, if it still has that generation.
    pub(crate) fn invalidate(&self, name: &str, generation: u64) {
        if let Some(entry) = self.entries().get_mut(name)
            && entry
                .login
                .as_ref()
                .is_some_and(|(login, _)| login.generation == generation)
        {
            entry.login = None;
        }
    }
}

impl LoginTicket {
    /// Name of the login that the ticket is for.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the values that the login returned, for `ttl` at most. Values beyond the allowed
    /// number are dropped, and a longer time is shortened.
    pub(crate) fn fill(self, mut values: Vec<(String, LoginValue)>, ttl: Duration) -> Login {
        values.truncate(MAX_VALUES);
        let mut entries = self.logins.entries();
        let entry = entries.entry(self.name.clone()).or_default();
        entry.generation += 1;
        let login = Login {
            values: Arc::new(values),
            generation: entry.generation,
        };
        let now = Instant::now();
        entry.login = Some((login.clone(), now + ttl.min(LONGEST)));
        (entry.failure, entry.filled) = (None, Some(now));
        login
    }

    /// Records the error for all calls that wait, and for other calls during `ttl`.
    pub(crate) fn fail(self, error: Error, ttl: Duration) {
        let mut entries = self.logins.entries();
        let entry = entries.entry(self.name.clone()).or_default();
        // At least until the calls that wait have read it.
        let ttl = ttl.clamp(Duration::from_millis(100), LONGEST_FAILURE);
        entry.failure = Some((error, Instant::now() + ttl));
    }
}

impl Drop for LoginTicket {
    fn drop(&mut self) {
        if let Some(entry) = self.logins.entries().get_mut(&self.name) {
            entry.is_refreshing = false;
        }
        self.logins.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{bindings::raic::connector::types::ErrorKind, imports::error};

    fn text(value: &str) -> Vec<(String, LoginValue)> {
        vec![("token".to_owned(), LoginValue::Text(value.to_owned()))]
    }

    fn value(login: &Login) -> String {
        match &login.values[0].1 {
            LoginValue::Text(text) => text.clone(),
            LoginValue::Secret(_) => panic!("a text was stored"),
        }
    }

    #[tokio::test]
    async fn a_hundred_calls_log_in_once() {
        let logins = Arc::new(Logins::default());
        let count = AtomicUsize::new(0);
        let calls = (0..100).map(|_| async {
            match logins.acquire("token", false).await.unwrap() {
                Acquired::Hit(login) => value(&login),
                Acquired::Refresh(ticket) => {
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    value(&ticket.fill(text(&number.to_string()), Duration::from_secs(60)))
                }
            }
        });
        let got = futures::future::join_all(calls).await;
        assert!(got.iter().all(|value| value == "0"), "{got:?}");
    }

    #[tokio::test]
    async fn a_ticket_that_is_dropped_wakes_the_next() {
        let logins = Arc::new(Logins::default());
        let Acquired::Refresh(ticket) = logins.acquire("token", false).await.unwrap() else {
            panic!("a hit")
        };
        let waits = {
            let logins = logins.clone();
            tokio::spawn(async move { logins.acquire("token", false).await })
        };
        tokio::task::yield_now().await;
        drop(ticket);
        assert!(matches!(waits.await.unwrap(), Ok(Acquired::Refresh(_))));
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_who_wait_and_a_probe_tries_again() {
        let logins = Arc::new(Logins::default());
        let Acquired::Refresh(ticket) = logins.acquire("token", false).await.unwrap() else {
            panic!("a hit")
        };
        let waits: Vec<_> = (0..5)
            .map(|_| {
                let logins = logins.clone();
                tokio::spawn(async move { logins.acquire("token", false).await.err() })
            })
            .collect();
        tokio::task::yield_now().await;
        ticket.fail(
            error(ErrorKind::Unauthenticated, "wrong password"),
            Duration::ZERO,
        );
        for waited in waits {
            assert_eq!(waited.await.unwrap().unwrap().message, "wrong password");
        }
        assert!(matches!(
            logins.acquire("token", true).await,
            Ok(Acquired::Refresh(_))
        ));
    }

    #[tokio::test]
    async fn only_the_refused_generation_is_dropped_and_the_next_login_is_spaced() {
        let logins = Arc::new(Logins::default());
        let Acquired::Refresh(ticket) = logins.acquire("token", false).await.unwrap() else {
            panic!("a hit")
        };
        let first = ticket.fill(text("first"), Duration::from_secs(60));
        logins.invalidate("token", first.generation + 1);
        assert!(matches!(
            logins.acquire("token", false).await,
            Ok(Acquired::Hit(_))
        ));
        logins.invalidate("token", first.generation);
        let began = Instant::now();
        let Ok(Acquired::Refresh(ticket)) = logins.acquire("token", false).await else {
            panic!("a hit")
        };
        assert!(began.elapsed() >= Duration::from_secs(1), "spaced");
        let second = ticket.fill(text("second"), Duration::from_secs(60));
        logins.invalidate("token", first.generation);
        let Ok(Acquired::Hit(hit)) = logins.acquire("token", false).await else {
            panic!("dropped")
        };
        assert_eq!(
            (hit.generation, value(&hit)),
            (second.generation, "second".to_owned())
        );
    }
}
