//! `raic serve`: the daemon.
//!
//! [`wiring`] opens what the configuration describes. This module has what runs around it: the
//! lock, the socket, signals, reloads and the stop.

mod wiring;

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use hyper::Method;
use raic_array::Array;
use raic_gateway::{
    Control, Live, Reload,
    admin::Admin,
    wire::{ConnectorVersions, Traffic, WaitingConnector},
};
use raic_storage::{ChunkBudget, Holds, Pin, Pins, Spool};
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

/// How long requests under way may take to end when the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(30);

/// The daemon, as its doors know it.
struct Daemon {
    process: Process,
    live: Live,
    /// What the configuration that was read last opened. Held during a reload, so that of two the
    /// second sees what the first left.
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
            let before = self.live.array();
            let opened = wiring::open(&self.process, Some((&before, &wired)), versions).await;
            let (array, opened) = opened.map_err(|failed| failed.sentence)?;
            *wired = opened;
            self.live.replace(array);
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

/// Removes the parts of uploads that no row knows any longer.
async fn tidy_spool(array: &Array, spool: &Spool) -> Outcome {
    let uploads = array
        .leasedb()
        .uploads()
        .await
        .map_err(Failed::configuration)?;
    let kept = uploads
        .into_iter()
        .map(|(server, id)| Spool::name(&server, id));
    let kept: std::collections::BTreeSet<String> = kept.collect();
    let spool = spool.clone();
    let tidied = tokio::task::spawn_blocking(move || spool.tidy(|name| kept.contains(name)));
    tidied
        .await
        .map_err(Failed::other)?
        .map_err(|e| Failed::configuration(format!("the spool: {e}")))
}

/// Reads the configuration again at each hang-up, as daemons do. Never ends.
async fn reload_on_hangup(home: Home, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let path = "/v1/reload";
        match Client(&home).send(Method::POST, path, &[], nothing()).await {
            Ok(_) => tracing::info!("told to by SIGHUP, the configuration was read again"),
            Err(failed) => {
                tracing::error!("told to by SIGHUP, not read again: {}", failed.sentence)
            }
        }
    }
    std::future::pending().await
}

/// Listens at the home's socket, which only its owner may use.
fn listen(home: &Home) -> Outcome<UnixListener> {
    let socket = home.socket();
    // Left by a daemon that was killed; the lock says that none runs.
    let _ = fs::remove_file(&socket);
    UnixListener::bind(&socket)
        .and_then(|listener| {
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map(|()| listener)
        })
        .map_err(|e| Failed::other(format!("cannot listen at {}: {e}", socket.display())))
}

/// Ends when requests under way have had their time: some time after the daemon is told to stop, or
/// at once if it is told again. Cancels `stop` when it is told first.
async fn end_of_grace(stop: CancellationToken) -> Outcome {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failed::other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failed::other)?;
    let mut stop_asked = async move || {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    stop_asked().await;
    tracing::info!(
        "stopping when the requests under way have ended, in {} s, or when told again",
        GRACE.as_secs()
    );
    stop.cancel();
    tokio::select! { () = stop_asked() => {}, () = tokio::time::sleep(GRACE) => {} }
    Ok(())
}

/// Runs the daemon until it is told to stop.
pub(crate) async fn serve(home: Home) -> Outcome {
    home.require_short()?;
    // Before the database: two daemons on one home would delete each other's uploads.
    let _lock = lock(&home)?.ok_or_else(|| Failed::busy(home.path()))?;
    home.close_to_others()?;

    let storage = Config::load(&home)?.storage;
    let spool = Spool::open(&home.spool(), storage.spool.as_u64())
        .map_err(|e| Failed::configuration(format!("{}: {e}", home.spool().display())))?;
    let process = Process {
        home: home.clone(),
        opener: Opener::for_daemon(&home)?,
        database: open_database(&home).await?,
        holds: Holds::default(),
        spool,
        budget: ChunkBudget::new(storage.memory.as_u64()),
    };
    let database = process.database.clone();
    let (array, wired) = wiring::open(&process, None, Pins::new()).await?;
    tidy_spool(&array, &process.spool).await?;
    let listener = listen(&home)?;
    let hangups = reload_on_hangup(
        home.clone(),
        signal(SignalKind::hangup()).map_err(Failed::other)?,
    );
    let waiting = WaitingConnectors::default();
    let watch = connector_watch::watch(process.opener.approved().clone(), waiting.clone());
    let live = Live::new(array);
    let daemon = Arc::new(Daemon {
        process,
        live: live.clone(),
        wired: tokio::sync::Mutex::new(wired),
        waiting,
    });
    tracing::info!("serving {}", home.path().display());
    // Beside the work: of a large database it takes minutes.
    let checked = database.clone();
    let check = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(e) = checked.check().await {
            tracing::error!("{e}");
        }
    }));
    let stop = CancellationToken::new();
    let admin = Admin::new(live, daemon).serve(listener, stop.clone().cancelled_owned());
    let served = tokio::select! {
        served = admin => served.map_err(Failed::other),
        // What is cut off here is tidied up at the next start, as after a crash.
        ended = end_of_grace(stop) => ended,
        () = watch => Ok(()),
        () = hangups => Ok(()),
        // Alive, it would refuse every write until somebody looked.
        () = database.closed() => Err(Failed::other(
            "the database's writer has ended: nothing can be stored any more; its log says why",
        )),
    };
    drop(check);
    let _ = fs::remove_file(home.socket());
    served
}
