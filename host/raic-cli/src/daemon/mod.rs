//! `raic serve`: the daemon.
//!
//! [`wiring`] opens the array that the configuration describes. This module has everything around
//! it: the lock, the socket, the signals, the reloads and the stop.

mod tahoe;
mod wiring;

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use hyper::Method;
use raic_gateway::{
    Control, Live, Reload,
    admin::Admin,
    wire::{ConnectorVersions, Failure, Traffic, WaitingConnector},
};
use raic_storage::{ChunkBudget, Holds, LeaseDb, Pin, Pins, Spool};
use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::wiring::{Process, Wired};
use crate::{
    client::{Client, nothing},
    config::Config,
    connector_watch::{self, WaitingConnectors},
    error::{Failed, Outcome},
    home::Home,
    offline::{lock, open_database},
    opener::Opener,
};

/// How long requests under way may take to end after a signal to stop.
const GRACE: Duration = Duration::from_secs(30);

/// The daemon, as its doors know it.
struct Daemon {
    process: Process,
    live: Live,
    /// Everything that the last configuration opened. The lock is held during a reload, so that a
    /// second reload sees what the first one left.
    wired: tokio::sync::Mutex<Wired>,
    waiting: WaitingConnectors,
}

impl Control for Daemon {
    fn reload(&self, versions: ConnectorVersions) -> Reload<'_> {
        let versions = versions.into_iter().map(|(cloud, version)| {
            let pin = Pin {
                connector: version.connector,
                sha256: version.sha256,
            };
            (cloud, pin)
        });
        let versions: Pins = versions.collect();
        Box::pin(async move {
            let mut wired = self.wired.lock().await;
            let before = self.live.now();
            let opened = wiring::open(&self.process, Some((&before, &wired)), versions).await;
            let (now, opened) = opened.map_err(|failed| Failure {
                error: failed.sentence,
                code: failed.code,
            })?;
            // The work of the configuration before ends here.
            *wired = opened;
            wired.start_work(&now);
            self.live.replace(now);
            Ok(())
        })
    }

    fn waiting_connectors(&self) -> Vec<WaitingConnector> {
        self.waiting.now()
    }

    fn traffic(&self, cloud: &str) -> Option<Traffic> {
        let metering = self.process.opener.meters().get(cloud)?;
        Some(Traffic::of(&metering))
    }
}

/// Removes the parts of uploads from the spool that the database does not know any more.
async fn tidy_spool(leasedb: &LeaseDb, spool: &Spool) -> Outcome {
    let uploads = leasedb.uploads().await.map_err(Failed::configuration)?;
    let kept = uploads
        .into_iter()
        .map(|(server, id)| Spool::name(&server, id));
    let kept: std::collections::BTreeSet<String> = kept.collect();
    let spool = spool.clone();
    let tidied = tokio::task::spawn_blocking(move || spool.tidy(|name| kept.contains(name)));
    tidied
        .await
        .map_err(Failed::other)?
        .map_err(|e| Failed::configuration(format!("cannot tidy the spool: {e}")))
}

/// Reads the configuration again at each SIGHUP, as daemons do. Never returns.
async fn reload_on_hangup(home: Home, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let path = "/v1/reload";
        match Client(&home).send(Method::POST, path, &[], nothing()).await {
            Ok(_) => tracing::info!("the configuration was read again at SIGHUP"),
            Err(failed) => {
                tracing::error!("no reload at SIGHUP: {}", failed.sentence)
            }
        }
    }
    std::future::pending().await
}

/// Listens at the home's socket, which only its owner may use.
fn listen(home: &Home) -> Outcome<UnixListener> {
    let socket = home.socket();
    // A daemon that was killed left it. No daemon runs, because this one has the lock.
    let _ = fs::remove_file(&socket);
    UnixListener::bind(&socket)
        .and_then(|listener| {
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map(|()| listener)
        })
        .map_err(|e| Failed::other(format!("cannot listen at {}: {e}", socket.display())))
}

/// Waits for a signal to stop, and cancels `stop`. Returns when the requests under way have had
/// [`GRACE`] to end, or at a second signal.
async fn end_of_grace(stop: CancellationToken) -> Outcome {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failed::other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failed::other)?;
    let mut stop_asked = async move || {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    stop_asked().await;
    tracing::info!(
        "stopping when the requests under way have ended, in {} s, or at a second signal",
        GRACE.as_secs()
    );
    stop.cancel();
    tokio::select! { () = stop_asked() => {}, () = tokio::time::sleep(GRACE) => {} }
    Ok(())
}

/// Runs the daemon until a signal to stop.
pub(crate) async fn serve(home: Home) -> Outcome {
    home.require_short()?;
    // Before anything that takes long: without a handler the signal would end the process.
    let hangup = signal(SignalKind::hangup()).map_err(Failed::other)?;
    // The lock is taken before the database is opened, because two daemons on one home would delete
    // each other's uploads.
    let _lock = lock(&home)?.ok_or_else(|| Failed::busy(home.path()))?;
    home.close_to_others()?;

    let config = Config::load(&home)?;
    let storage = config.storage;
    let spool = Spool::open(&home.spool(), storage.spool.as_u64())
        .map_err(|e| Failed::configuration(format!("{}: {e}", home.spool().display())))?;
    let process = Process {
        home: home.clone(),
        opener: Opener::for_daemon(&home)?,
        database: open_database(&home).await?,
        holds: Holds::default(),
        spool,
        budget: ChunkBudget::new(storage.memory.as_u64()),
        read_budget: ChunkBudget::new(storage.read_memory.as_u64()),
    };
    let database = process.database.clone();
    let (opened, mut wired) = wiring::open(&process, None, Pins::new()).await?;
    tidy_spool(&opened.leasedb, &process.spool).await?;
    wired.start_work(&opened);
    let listener = listen(&home)?;
    let hangups = reload_on_hangup(home.clone(), hangup);
    let waiting = WaitingConnectors::default();
    let watch = connector_watch::watch(process.opener.approved().clone(), waiting.clone());
    let live = Live::new(opened);
    let tahoe = tahoe::listen(&home, config.tahoe.as_ref(), &live).await?;
    let door = tahoe.as_ref().map(|(door, _)| door.clone());
    let daemon = Arc::new(Daemon {
        process,
        live: live.clone(),
        wired: tokio::sync::Mutex::new(wired),
        waiting,
    });
    tracing::info!("serving {}", home.path().display());
    // The check runs beside the requests, because it takes minutes for a large database.
    let checked = database.clone();
    let check = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(e) = checked.check().await {
            tracing::error!("{e}");
        }
    }));
    let stop = CancellationToken::new();
    let admin = Admin::new(live, daemon, door).serve(listener, stop.clone().cancelled_owned());
    let admin = async {
        admin.await;
        Ok(())
    };
    let tahoe = tahoe::serve(tahoe, stop.clone().cancelled_owned());
    let served = tokio::select! {
        served = async { tokio::try_join!(admin, tahoe) } => served.map(drop),
        // Uploads that are cut off here are tidied up at the next start, as after a crash.
        ended = end_of_grace(stop) => ended,
        () = watch => Ok(()),
        () = hangups => Ok(()),
        // A daemon that went on would refuse every write until an operator noticed.
        () = database.closed() => Err(Failed::other(
            "the database's writer has ended, so nothing can be stored; the log has the reason",
        )),
    };
    drop(check);
    let _ = fs::remove_file(home.socket());
    served
}
