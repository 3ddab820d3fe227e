//! What logins gave, shared by all calls on one cloud: a token is fetched once for all that wait
//! for it.
//!
//! **Invariant:** of one name at most one ticket is out. A ticket that is dropped unfilled wakes
//! the next who waits. Who holds a ticket waits only for names that the manifest lists before it,
//! so that no two wait for each other.

#![allow(
    unreachable_pub,
    reason = "the generated bindings name the ticket's type"
)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{bindings::raic::connector::types::Error, secrets::SecretValue};

/// The longest a failure is kept: a password that is corrected at the provider's should work soon.
const LONGEST_FAILURE: Duration = Duration::from_secs(60);
/// The longest a login is kept.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Values of one login.
const MAX_VALUES: usize = 16;
/// Where a login is refused that was fresh, the next waits so long.
const SPACING: Duration = Duration::from_secs(2);

/// One value of a login.
#[derive(Clone)]
pub(crate) enum LoginValue {
    Text(String),
    Secret(Arc<SecretValue>),
}

/// What one login gave, together.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) values: Arc<Vec<(String, LoginValue)>>,
    pub(crate) generation: u64,
}

/// All logins of a cloud, by name.
#[derive(Default)]
pub(crate) struct Logins {
    // A std lock: held while fields are read and set.
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

/// What a call gets that asks for a login.
pub(crate) enum Acquired {
    Hit(Login),
    Refresh(LoginTicket),
}

/// The right, and the duty, to log in for all. Dropped unfilled it wakes the next.
pub struct LoginTicket {
    logins: Arc<Logins>,
    name: String,
}

impl Logins {
    /// Others that begin with the same logins, and without the failures.
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
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The login of that name, the right to make it, or a failure that was recorded (not where
    /// `is_probe`). Waits for whoever is logging in.
    ///
    /// Cancelled, it takes nothing.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        name: &str,
        is_probe: bool,
    ) -> Result<Acquired, Error> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look: what changes after it is not missed.
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
                    .filter(|at| *at > now);
                if !entry.is_refreshing && spaced.is_none() {
                    entry.is_refreshing = true;
                    (entry.login, entry.failure) = (None, None);
                    let (logins, name) = (self.clone(), name.to_owned());
                    return Ok(Acquired::Refresh(LoginTicket { logins, name }));
                }
                spaced.filter(|_| !entry.is_refreshing)
            };
            match spaced {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => changed.await,
            }
        }
    }

    /// Drops a login that was refused, only if it is still that generation.
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
    /// The login that it is for.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Keeps what the login gave. What is too much or too long is cut.
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

    /// Gives the error to all who wait, and to others for a while.
    pub(crate) fn fail(self, error: Error, ttl: Duration) {
        let mut entries = self.logins.entries();
        let entry = entries.entry(self.name.clone()).or_default();
        // At least until those who wait have heard it.
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
