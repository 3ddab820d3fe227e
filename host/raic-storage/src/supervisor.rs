//! Background work: the collector and the reconciler of each storage server, and the daily record
//! of usage.
//!
//! Each cloud has workers of its own, so that a cloud that hangs does not hold up the others.

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::task::AbortOnDropHandle;

use crate::{LeaseDb, StorageServer};

/// How long a worker that panicked rests before it begins anew.
const RESTART: Duration = Duration::from_secs(60);
/// Pause between two checks whether a new day has begun, whose usage is then recorded.
const DAY_CHECK: Duration = Duration::from_secs(60);

/// Runs the workers of storage servers, whether an array uses the servers or not. Dropping the
/// supervisor stops them. Nothing is lost, because each of their steps is recorded.
#[derive(Debug)]
pub struct Supervisor {
    _workers: Vec<AbortOnDropHandle<()>>,
}

impl Supervisor {
    /// Starts the workers of `servers`, whose leases are in `leasedb`. Each server is reconciled
    /// with its container once in every `reconcile_every`; with `None`, only at an operator's
    /// request.
    pub fn start(
        leasedb: LeaseDb,
        servers: &[Arc<StorageServer>],
        reconcile_every: Option<Duration>,
    ) -> Self {
        let mut workers = vec![worker("the record of usage".to_owned(), move || {
            record_days(leasedb.clone())
        })];
        for server in servers {
            let collected = server.clone();
            workers.push(worker(
                format!("the collector of cloud {:?}", server.name()),
                move || collected.clone().collect_for_ever(),
            ));
            if let Some(every) = reconcile_every {
                let reconciled = server.clone();
                workers.push(worker(
                    format!("the reconciler of cloud {:?}", server.name()),
                    move || reconciled.clone().reconcile_for_ever(every),
                ));
            }
        }
        Self { _workers: workers }
    }
}

/// Runs a worker until its handle is dropped. A worker that panics begins anew after a rest.
/// Otherwise a cloud would not be collected until the next start, and nobody would know.
fn worker<W: Future<Output = ()> + Send + 'static>(
    name: String,
    work: impl Fn() -> W + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let running = AbortOnDropHandle::new(tokio::spawn(work()));
            if let Err(e) = running.await {
                tracing::error!(
                    "{name} failed, and begins anew in {} s: {e}",
                    RESTART.as_secs()
                );
            }
            tokio::time::sleep(RESTART).await;
        }
    }))
}

/// Records the usage of each day, for ever.
async fn record_days(leasedb: LeaseDb) {
    loop {
        if let Err(e) = leasedb.record_day().await {
            tracing::warn!("the day's usage is not recorded yet: {e}");
        }
        tokio::time::sleep(DAY_CHECK).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_panics_begins_anew_and_ends_with_its_handle() {
        let begun = Arc::new(AtomicU32::new(0));
        let count = begun.clone();
        let handle = worker("a worker".to_owned(), move || {
            let count = count.clone();
            async move {
                assert_ne!(count.fetch_add(1, Ordering::SeqCst), 0, "the first fails");
                std::future::pending().await
            }
        });
        tokio::time::sleep(RESTART + Duration::from_secs(1)).await;
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        drop(handle);
        tokio::time::sleep(RESTART * 2).await;
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
