//! Routes that move shares between a storage server and a storage folder of Tahoe-LAFS on this
//! machine.
//!
//! A move goes on if the client goes away, and may be begun again after it was stopped: what is
//! there already is passed over.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Json, extract::State};
use bytes::{Bytes, BytesMut};
use cap_std::{ambient_authority, fs::Dir};
use futures::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use raic_array::ArrayError;
use raic_storage::{
    AccountId, EventKind, FileKind, Imported, LeaseDb, NewEvent, ShareFile, ShareId, ShareKind,
    ShareNum, StorageError, StorageIndex, StorageServer, TahoeIds,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    admin::{Answer, Refused, Shared},
    tahoe::lower_base32,
    wire::{FolderMove, FolderRequest, MoveDirection},
};

/// Shares that are moved at once.
const AT_ONCE: usize = 4;
/// Most problems that are kept. More are counted only.
const MOST_PROBLEMS: usize = 100;
/// Bytes that are read from a file at once.
const PIECE: usize = 1 << 20;
/// Mutable shares longer than this are taken over one at a time, in bytes.
const LARGE: u64 = 8 << 20;
/// Shares of a page.
const PAGE: u32 = 256;

/// The move that was begun last, if there was one. At most one runs.
#[derive(Default)]
pub(crate) struct Moves {
    begun: Mutex<Option<Begun>>,
    /// Held by a request while it begins a move.
    beginning: tokio::sync::Mutex<()>,
}

struct Begun {
    request: FolderRequest,
    progress: Arc<Progress>,
    task: AbortOnDropHandle<()>,
}

/// Progress of a move.
#[derive(Default)]
struct Progress {
    found: AtomicU64,
    moved: AtomicU64,
    known: AtomicU64,
    bytes: AtomicU64,
    read_only: AtomicU64,
    failed: AtomicU64,
    problems: Mutex<Vec<String>>,
    /// Ids of the servers that the folder's mutable shares name.
    servers: Mutex<std::collections::BTreeSet<[u8; 20]>>,
    /// Held while a large mutable share is taken over, which is held in memory.
    large: tokio::sync::Mutex<()>,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Progress {
    fn problem(&self, what: String) {
        add(&self.failed, 1);
        let mut problems = self.problems.lock();
        if problems.len() < MOST_PROBLEMS {
            problems.push(what);
        }
    }

    fn report(&self, is_running: bool) -> FolderMove {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let servers = self.servers.lock();
        FolderMove {
            is_running,
            found: count(&self.found),
            moved: count(&self.moved),
            known: count(&self.known),
            bytes: count(&self.bytes),
            read_only: count(&self.read_only),
            failed: count(&self.failed),
            problems: self.problems.lock().clone(),
            named_ids: servers.iter().map(|id| lower_base32(id)).collect(),
        }
    }
}

/// Returns the sentence of a wrong request.
fn wrong(why: String) -> Refused {
    ArrayError::from(StorageError::Unusable { reason: why }).into()
}

pub(crate) async fn moved(State(admin): Shared) -> Json<FolderMove> {
    let begun = admin.moves.begun.lock();
    Json(begun.as_ref().map_or_else(FolderMove::default, |begun| {
        begun.progress.report(!begun.task.is_finished())
    }))
}

/// Begins a move, and returns its progress. If the same one is under way, that goes on; another one
/// must end first.
pub(crate) async fn begin(
    State(admin): Shared,
    Json(request): Json<FolderRequest>,
) -> Answer<FolderMove> {
    let now = admin.live.now();
    let mut servers = now.servers.iter();
    let server = servers
        .find(|server| server.name() == request.cloud)
        .cloned();
    let server = server.ok_or_else(|| StorageError::NoCloud(request.cloud.clone()))?;
    let account = now.leasedb.storing_account(&request.account).await?.id;
    let folder = PathBuf::from(&request.folder);
    if !folder.is_absolute() {
        return Err(wrong(format!(
            "{:?} is not an absolute path",
            request.folder
        )));
    }
    let ids = match (&request.furl_id, &request.server_id) {
        (Some(furl_id), Some(server_id)) => Some(tahoe_ids(furl_id, server_id)?),
        (None, None) => None,
        _ => {
            return Err(wrong(
                "a FURL id and a server id belong together".to_owned(),
            ));
        }
    };
    let _one_at_a_time = admin.moves.beginning.lock().await;
    if let Some(begun) = &*admin.moves.begun.lock()
        && !begun.task.is_finished()
    {
        return match begun.request == request {
            true => Ok(Json(begun.progress.report(true))),
            false => Err(wrong(
                "shares are being moved between another folder and a cloud; wait for the end"
                    .to_owned(),
            )),
        };
    }
    let direction = request.direction;
    let dir = tokio::task::spawn_blocking(move || open(&folder, direction)).await;
    let dir = dir
        .map_err(|e| StorageError::Task(e.to_string()))?
        .map_err(|e| wrong(format!("folder {:?}: {e}", request.folder)))?;
    if let Some(ids) = ids {
        now.leasedb.set_tahoe_ids(server.id(), ids).await?;
    }
    let dir = Arc::new(dir);
    let furl_id = server_bytes(&admin, &server).await?;
    let progress = Arc::<Progress>::default();
    let (leasedb, counted) = (now.leasedb.clone(), progress.clone());
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        match direction {
            MoveDirection::Import => import(&server, account, dir, &counted).await,
            MoveDirection::Export => export(&server, furl_id, dir, &counted).await,
        }
        record(&leasedb, &server, direction, &counted).await;
    }));
    let report = progress.report(true);
    *admin.moves.begun.lock() = Some(Begun {
        request,
        progress,
        task,
    });
    Ok(Json(report))
}

fn tahoe_ids(furl_id: &str, server_id: &str) -> Result<TahoeIds, Refused> {
    let is_base32 = |text: &str, length: usize| {
        let decoded = data_encoding::BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes());
        text.len() == length && text == text.to_ascii_lowercase() && decoded.is_ok()
    };
    let in_server = server_id.strip_prefix("v0-").unwrap_or_default();
    if !is_base32(furl_id, 32) || !is_base32(in_server, 52) {
        return Err(wrong(
            "the FURL id has 32, and the server id `v0-` and 52 characters of a-z and 2-7"
                .to_owned(),
        ));
    }
    Ok(TahoeIds {
        furl_id: furl_id.to_owned(),
        server_id: server_id.to_owned(),
    })
}

/// Returns the id of a server, as it stands in files of mutable shares.
async fn server_bytes(
    admin: &crate::admin::Admin,
    server: &StorageServer,
) -> Result<[u8; 20], Refused> {
    let now = admin.live.now();
    let ids = now.leasedb.tahoe_ids().await?.remove(&server.id());
    let ids = match (ids, &admin.tahoe) {
        (Some(ids), _) => ids,
        (None, Some(door)) => door.ids(server.id()),
        (None, None) => return Ok([0; 20]),
    };
    let decoded = data_encoding::BASE32_NOPAD.decode(ids.furl_id.to_ascii_uppercase().as_bytes());
    Ok(decoded
        .ok()
        .and_then(|id| id.try_into().ok())
        .unwrap_or([0; 20]))
}

/// Opens the folder that has, or will have, `shares/`.
fn open(folder: &Path, direction: MoveDirection) -> io::Result<Dir> {
    if direction == MoveDirection::Export {
        std::fs::create_dir_all(folder)?;
    }
    let dir = Dir::open_ambient_dir(folder, ambient_authority())?;
    match direction {
        MoveDirection::Import if !dir.is_dir("shares") => Err(io::Error::other(
            "it has no folder shares/, so it is not a storage folder of Tahoe-LAFS",
        )),
        MoveDirection::Import => Ok(dir),
        MoveDirection::Export => {
            dir.create_dir_all("shares/incoming")?;
            Ok(dir)
        }
    }
}

async fn record(
    leasedb: &LeaseDb,
    server: &StorageServer,
    direction: MoveDirection,
    progress: &Progress,
) {
    let done = progress.report(false);
    let (kind, verb) = match direction {
        MoveDirection::Import => (EventKind::Imported, "taken over from"),
        MoveDirection::Export => (EventKind::Exported, "written to"),
    };
    let event = NewEvent {
        kind,
        server: Some(server.id()),
        account: None,
        text: format!(
            "{} shares were {verb} a Tahoe-LAFS storage folder, {} were there already, {} failed",
            done.moved, done.known, done.failed
        ),
    };
    if let Err(e) = leasedb.record_events(vec![event]).await {
        tracing::warn!("the end of a move of shares is not recorded: {e}");
    }
}

/// Runs `work` on a folder, on the blocking pool.
async fn on_disk<T: Send + 'static>(
    dir: &Arc<Dir>,
    work: impl FnOnce(&Dir) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let dir = dir.clone();
    let done = tokio::task::spawn_blocking(move || work(&dir)).await;
    done.unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// A file that may be a share, by its path below the folder.
struct Named {
    id: ShareId,
    path: String,
}

/// Lists the files of one prefix that may be shares. Reports those that are named wrongly.
fn named(dir: &Dir, prefix: &str, progress: &Progress) -> io::Result<Vec<Named>> {
    let mut all = Vec::new();
    for entry in dir.read_dir(format!("shares/{prefix}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let path = format!("shares/{prefix}/{name}");
        let index = name
            .parse::<StorageIndex>()
            .ok()
            .filter(|_| name.starts_with(prefix));
        let Some(index) = index else {
            progress.problem(format!("{path}: it is not a storage index"));
            continue;
        };
        let entries = match dir.read_dir(&path) {
            Ok(entries) => entries,
            Err(e) => {
                progress.problem(format!("{path}: {e}"));
                continue;
            }
        };
        for entry in entries {
            let share = entry?.file_name().to_string_lossy().into_owned();
            let path = format!("{path}/{share}");
            // The reference passes over every other name, too.
            if !share.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let number = share
                .parse::<u8>()
                .ok()
                .filter(|number| number.to_string() == share);
            match number {
                Some(number) => all.push(Named {
                    id: ShareId {
                        index,
                        share: ShareNum(number),
                    },
                    path,
                }),
                None => progress.problem(format!("{path}: it is not a share number from 0 to 255")),
            }
        }
    }
    all.sort_by_key(|named| named.id);
    Ok(all)
}

async fn import(
    server: &Arc<StorageServer>,
    account: AccountId,
    dir: Arc<Dir>,
    progress: &Arc<Progress>,
) {
    let prefixes = on_disk(&dir, |dir| {
        let mut prefixes = Vec::new();
        for entry in dir.read_dir("shares")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // Not `incoming`, which has what is being uploaded, nor what others put there.
            if name.len() == 2 {
                prefixes.push(name);
            }
        }
        prefixes.sort();
        Ok(prefixes)
    });
    let prefixes = match prefixes.await {
        Ok(prefixes) => prefixes,
        Err(e) => return progress.problem(format!("shares: {e}")),
    };
    for prefix in prefixes {
        let (counted, shown) = (progress.clone(), prefix.clone());
        let listed = on_disk(&dir, move |dir| named(dir, &prefix, &counted)).await;
        let files = match listed {
            Ok(files) => files,
            Err(e) => {
                progress.problem(format!("shares/{shown}: {e}"));
                continue;
            }
        };
        add(&progress.found, files.len() as u64);
        let moves = files
            .into_iter()
            .map(|file| import_one(server, account, &dir, file, progress));
        stream::iter(moves)
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<()>>()
            .await;
    }
}

async fn import_one(
    server: &Arc<StorageServer>,
    account: AccountId,
    dir: &Arc<Dir>,
    named: Named,
    progress: &Progress,
) {
    let path = named.path.clone();
    let opened = on_disk(dir, move |dir| {
        // A pipe would be waited for.
        if !dir.symlink_metadata(&path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut file = dir.open(&path)?.into_std();
        let size = file.metadata()?.len();
        Ok((ShareFile::read(&mut file, size), file))
    });
    let (share, file) = match opened.await {
        Ok((Ok(share), file)) => (share, file),
        Ok((Err(e), _)) => return progress.problem(format!("{}: {e}", named.path)),
        Err(e) => return progress.problem(format!("{}: {e}", named.path)),
    };
    if let FileKind::Mutable { server, .. } = share.kind {
        progress.servers.lock().insert(server);
    }
    let length = share.length;
    let is_held = matches!(share.kind, FileKind::Mutable { .. }) && length > LARGE;
    let _large = match is_held {
        true => Some(progress.large.lock().await),
        false => None,
    };
    let content = content(Arc::new(file), share.offset, length);
    match server.import_share(account, named.id, share, content).await {
        Ok(Imported::Stored) => {
            add(&progress.moved, 1);
            add(&progress.bytes, length);
        }
        Ok(Imported::Known) => add(&progress.known, 1),
        Err(e) => progress.problem(format!("{}: {e}", named.path)),
    }
}

/// Reads a part of a file, piece by piece.
fn content(
    file: Arc<std::fs::File>,
    offset: u64,
    length: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin {
    let end = offset + length;
    Box::pin(stream::try_unfold(offset, move |at| {
        let file = file.clone();
        async move {
            if at >= end {
                return Ok(None);
            }
            let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let read = tokio::task::spawn_blocking(move || {
                use std::os::unix::fs::FileExt as _;
                let mut piece = BytesMut::zeroed(wanted);
                file.read_exact_at(&mut piece, at)?;
                Ok::<_, io::Error>(piece.freeze())
            });
            let piece = read.await.unwrap_or_else(|e| Err(io::Error::other(e)))?;
            Ok(Some((piece, at + wanted as u64)))
        }
    }))
}

async fn export(
    server: &Arc<StorageServer>,
    id: [u8; 20],
    dir: Arc<Dir>,
    progress: &Arc<Progress>,
) {
    let mut after = None;
    loop {
        let rows = match server.client_shares(after, PAGE).await {
            Ok(rows) => rows,
            Err(e) => return progress.problem(e.to_string()),
        };
        let Some(last) = rows.last() else {
            return;
        };
        after = Some(last.id);
        add(&progress.found, rows.len() as u64);
        let moves = rows
            .into_iter()
            .map(|row| export_one(server, row, id, &dir, progress));
        stream::iter(moves)
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<()>>()
            .await;
    }
}

async fn export_one(
    server: &Arc<StorageServer>,
    row: raic_storage::ShareRow,
    id: [u8; 20],
    dir: &Arc<Dir>,
    progress: &Progress,
) {
    let index = row.id.index.to_string();
    let folder = format!("shares/{}/{index}", &index[..2]);
    let path = format!("{folder}/{}", row.id.share);
    let target = path.clone();
    match on_disk(dir, move |dir| dir.try_exists(&target)).await {
        // Files get their names when they are whole. A mutable share may have changed since.
        Ok(true) if row.kind != ShareKind::Mutable => return add(&progress.known, 1),
        Ok(_) => {}
        Err(e) => return progress.problem(format!("{path}: {e}")),
    }
    let exported = match server.export_share(&row, id).await {
        Ok(exported) => exported,
        Err(e) => return progress.problem(format!("{path}: {e}")),
    };
    let length = exported.file.length;
    if exported.is_read_only {
        add(&progress.read_only, 1);
    }
    let incoming = format!("shares/incoming/{index}.{}", row.id.share);
    let written = write(dir, exported, incoming, (folder, path.clone())).await;
    match written {
        Ok(()) => {
            add(&progress.moved, 1);
            add(&progress.bytes, length);
        }
        Err(e) => progress.problem(format!("{path}: {e}")),
    }
}

async fn write(
    dir: &Arc<Dir>,
    exported: raic_storage::Exported,
    incoming: String,
    (folder, path): (String, String),
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (before, after) = exported.file.around();
    let name = incoming.clone();
    let file = on_disk(dir, move |dir| {
        let mut file = dir.create(&name)?;
        file.write_all(&before)?;
        Ok(Arc::new(Mutex::new(file)))
    });
    let file = file.await?;
    let mut content = exported.content;
    let mut written = 0;
    while let Some(piece) = content.next().await {
        let (piece, file) = (piece?, file.clone());
        written += piece.len() as u64;
        on_disk(dir, move |_| file.lock().write_all(&piece)).await?;
    }
    if written != exported.file.length {
        return Err("it is shorter than its length".into());
    }
    on_disk(dir, move |dir| {
        let mut file = file.lock();
        file.write_all(&after)?;
        file.sync_all()?;
        dir.create_dir_all(&folder)?;
        dir.rename(&incoming, dir, &path)?;
        // Each folder may be new.
        let folders = Path::new(&folder)
            .ancestors()
            .filter(|f| !f.as_os_str().is_empty());
        folders
            .into_iter()
            .try_for_each(|folder| dir.open(folder)?.sync_all())
    })
    .await?;
    Ok(())
}
