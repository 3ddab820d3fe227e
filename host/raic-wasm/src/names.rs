//! Name look-ups of one cloud: bounded, shared, and kept for a moment.
//!
//! The system's resolver blocks a thread for as long as a name server stays silent, and cannot be
//! cancelled. A guest may give up its request at once and begin another. So the permit of a look-up
//! moves into the thread that blocks, and a look-up that was given up counts until it ends. One
//! [`Names`] never has more than [`LOOK_UPS`] threads of the pool, which all disk and database work
//! shares.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, watch};

/// Most look-ups of one cloud that may block a thread at one time.
const LOOK_UPS: usize = 4;
/// How long an answer is reused.
const KEPT: Duration = Duration::from_secs(10);
/// How long a failure is reused.
const FAILURE_KEPT: Duration = Duration::from_secs(2);
/// Most names that are remembered. A connector may make up names below a domain.
const REMEMBERED: usize = 64;

/// A function that asks for the addresses of a name. It blocks.
type Ask = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The outcome of a look-up. The error is shared, because several callers get it and it cannot be
/// cloned.
type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// The names of one cloud. It is cheap to clone, and clones share all entries.
#[derive(Clone)]
pub(crate) struct Names {
    ask: Arc<Ask>,
    kept: (Duration, Duration),
    permits: Arc<Semaphore>,
    // A blocking lock, because it is only held while an entry is read or set.
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
}

enum Entry {
    UnderWay(watch::Receiver<Option<Found>>),
    Known(Found, Instant),
}

impl Default for Names {
    fn default() -> Self {
        Self::new(
            Arc::new(|name: &str| Ok((name, 0).to_socket_addrs()?.collect())),
            (KEPT, FAILURE_KEPT),
        )
    }
}

impl Names {
    fn new(ask: Arc<Ask>, kept: (Duration, Duration)) -> Self {
        Self {
            ask,
            kept,
            permits: Arc::new(Semaphore::new(LOOK_UPS)),
            entries: Arc::default(),
        }
    }

    /// Answers by `ask` and remembers nothing, for tests.
    #[cfg(test)]
    pub(crate) fn by(
        ask: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Arc::new(ask), (Duration::ZERO, Duration::ZERO))
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock()
    }

    /// Returns the outcome that is known of a name, or the receiver of a look-up under way. Returns
    /// `None` if there is neither.
    fn known(&self, name: &str) -> Option<Result<Found, watch::Receiver<Option<Found>>>> {
        match self.entries().get(name)? {
            Entry::UnderWay(receiver) => Some(Err(receiver.clone())),
            Entry::Known(found, until) => (*until > Instant::now()).then(|| Ok(found.clone())),
        }
    }

    /// Returns the addresses of a name. Names below `localhost` are not looked up.
    ///
    /// If the future is dropped, the look-up goes on for other callers, and counts until it ends.
    ///
    /// # Errors
    /// The resolver's error.
    pub(crate) async fn look_up(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        if is_local(name) {
            return Ok(vec![
                (Ipv4Addr::LOCALHOST, 0).into(),
                (Ipv6Addr::LOCALHOST, 0).into(),
            ]);
        }
        let mut receiver = match self.known(name) {
            Some(Ok(found)) => return addresses(found),
            Some(Err(receiver)) => receiver,
            None => {
                let permit = self
                    .permits
                    .clone()
                    .acquire_owned()
                    .await
                    .map_err(io::Error::other)?;
                // Another caller may have begun the look-up meanwhile.
                match self.known(name) {
                    Some(Ok(found)) => return addresses(found),
                    Some(Err(receiver)) => receiver,
                    None => {
                        let (sender, receiver) = watch::channel(None);
                        self.entries()
                            .insert(name.to_owned(), Entry::UnderWay(receiver.clone()));
                        let (names, name) = (self.clone(), name.to_owned());
                        tokio::task::spawn_blocking(move || {
                            let found = (names.ask)(&name).map_err(Arc::new);
                            names.remember(name, found.clone());
                            // All callers may have gone.
                            let _ = sender.send(Some(found));
                            drop(permit);
                        });
                        receiver
                    }
                }
            }
        };
        let found = receiver
            .wait_for(Option::is_some)
            .await
            .map_err(io::Error::other)?;
        addresses(found.clone().unwrap_or_else(|| Ok(Vec::new())))
    }

    fn remember(&self, name: String, found: Found) {
        let now = Instant::now();
        let kept = if found.is_ok() {
            self.kept.0
        } else {
            self.kept.1
        };
        let mut entries = self.entries();
        entries.insert(name, Entry::Known(found, now + kept));
        entries.retain(|_, entry| !matches!(entry, Entry::Known(_, until) if *until <= now));
        while entries.len() > REMEMBERED {
            let known = entries
                .iter()
                .find(|(_, entry)| matches!(entry, Entry::Known(..)));
            let Some(name) = known.map(|(name, _)| name.clone()) else {
                break;
            };
            entries.remove(&name);
        }
    }
}

fn addresses(found: Found) -> io::Result<Vec<SocketAddr>> {
    found.map_err(|e| io::Error::new(e.kind(), e.to_string()))
}

/// Whether a name lies below `localhost` and so means this machine (RFC 6761 section 6.3), whatever
/// the system's resolver returns for it. So a service on loopback can have virtual hosts without a
/// name server.
fn is_local(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A silent name server once took every thread that the database and the disks need.
    #[tokio::test]
    async fn look_ups_that_are_given_up_take_four_threads_and_no_more() {
        let under_way = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (counted, highest) = (under_way.clone(), most.clone());
        let names = Names::by(move |_| {
            highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(3));
            counted.fetch_sub(1, Ordering::SeqCst);
            Err(io::Error::other("no answer"))
        });
        for i in 0..1000 {
            let name = format!("host-{i}.example");
            let _ = tokio::time::timeout(Duration::from_micros(100), names.look_up(&name)).await;
        }
        let began = Instant::now();
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(most.load(Ordering::SeqCst), LOOK_UPS);
    }

    #[tokio::test]
    async fn all_who_ask_for_a_name_at_once_share_one_look_up() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let names = Names::by(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
            Ok(vec!["192.0.2.1:0".parse().unwrap()])
        });
        let all = futures::future::join_all((0..50).map(|_| names.look_up("store.example"))).await;
        assert!(all.iter().all(|found| found.as_ref().unwrap().len() == 1));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn names_that_a_connector_makes_up_are_forgotten() {
        let names = Names::new(Arc::new(|_: &str| Ok(Vec::new())), (KEPT, KEPT));
        for i in 0..500 {
            names
                .look_up(&format!("made-up-{i}.example"))
                .await
                .unwrap();
        }
        assert!(names.entries().len() <= REMEMBERED);
    }
}
