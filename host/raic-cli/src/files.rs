//! `put`, `get`, `ls`, `rm` and `stat`.

use std::{
    fs::Permissions,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, OnceLock},
};

use futures::{StreamExt as _, TryStreamExt as _};
use hyper::Method;
use raic_gateway::wire::{Code, File};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    signal::unix::SignalKind,
};
use tokio_util::io::ReaderStream;

use crate::{
    client::{Client, encode, nothing, path_of, pieces, streamed},
    error::{Failed, Outcome},
    home::Home,
    output::{as_json, say, tell},
    progress::{self, Progress},
};

/// Bytes that are read from a file at once.
const PIECE: usize = 256 << 10;

pub(crate) async fn put(
    home: &Home,
    json: bool,
    file: &Path,
    name: Option<String>,
    account: &str,
) -> Outcome {
    let from_input = file == Path::new("-");
    let own_name = file.file_name().map(|name| {
        name.to_str().map(str::to_owned).ok_or_else(|| {
            Failed::other(format!(
                "the name of {} is not UTF-8; name the file with `raic put FILE NAME`",
                file.display()
            ))
        })
    });
    let name = match name {
        None if !from_input => own_name.transpose()?,
        name => name,
    };
    let name = name.ok_or_else(|| Failed {
        code: Code::Usage,
        sentence: if from_input {
            "standard input has no name; give it one with `raic put - NAME`".to_owned()
        } else {
            format!(
                "{} has no name; give it one with `raic put FILE NAME`",
                file.display()
            )
        },
    })?;
    let (content, total): (Pin<Box<dyn AsyncRead + Send + Sync>>, _) = if from_input {
        (Box::pin(tokio::io::stdin()), None)
    } else {
        let cannot = |e: io::Error| Failed::other(format!("cannot read {}: {e}", file.display()));
        let opened = tokio::fs::File::open(file).await.map_err(cannot)?;
        let meta = opened.metadata().await.map_err(cannot)?;
        if meta.is_dir() {
            return Err(Failed::other(format!(
                "{} is a folder; raic stores only files",
                file.display()
            )));
        }
        (Box::pin(opened), meta.is_file().then_some(meta.len()))
    };
    let progress = Progress::new(home, total)?;
    let counted = progress.whole().clone();
    // Why the file cannot be read. The daemon knows only that the content broke off.
    let unreadable = Arc::new(OnceLock::new());
    let noted = unreadable.clone();
    let content = ReaderStream::with_capacity(content, PIECE)
        .inspect_ok(move |piece| counted.inc(piece.len() as u64))
        .inspect_err(move |e| {
            // This is the first error; no other follows it.
            let _ = noted.set(e.to_string());
        });
    let size = total.map_or(String::new(), |total| format!("&size={total}"));
    let path = path_of("files", &name)
        + &progress.query()
        + &format!("&account={}", encode(account))
        + &size;
    let stored: Outcome<File> = Client(home)
        .ask(Method::PUT, &path, streamed(content))
        .await;
    drop(progress);
    if let Some(why) = unreadable.get() {
        return Err(Failed::other(format!(
            "not stored: cannot read {}: {why}",
            file.display()
        )));
    }
    let stored = stored?;
    if json {
        return print_json(&stored);
    }
    let did = if stored.replaced {
        "replaced"
    } else {
        "stored"
    };
    let shares = progress::counted(stored.shares.len() as u64, "share");
    say!(
        "{did} {} ({}) as {shares}",
        stored.name,
        progress::bytes(stored.size)
    );
    lacking(&stored);
    Ok(())
}

/// Prints a warning for each share that a file lacks.
fn lacking(file: &File) {
    for lacking in &file.lacking {
        tell!(
            "warning: share {} is missing: {}",
            lacking.share,
            lacking.reason
        );
    }
}

pub(crate) async fn get(home: &Home, json: bool, name: &str, file: Option<PathBuf>) -> Outcome {
    let last = name
        .rsplit('/')
        .next()
        .filter(|last| !last.is_empty() && *last != "." && *last != "..");
    let in_folder = |folder: PathBuf| match last {
        Some(last) => Ok(folder.join(last)),
        None => Err(Failed {
            code: Code::Usage,
            sentence: format!(
                "{name:?} ends without a file's name; name the file with `raic get NAME FILE`"
            ),
        }),
    };
    let file = match file {
        None => in_folder(PathBuf::new())?,
        Some(file) if file.is_dir() => in_folder(file)?,
        Some(file) if file.as_os_str().as_encoded_bytes().ends_with(b"/") => {
            return Err(Failed::other(format!(
                "there is no folder {}",
                file.display()
            )));
        }
        Some(file) => file,
    };
    // At a signal to stop, the transfer is dropped, and its unfinished file with it.
    tokio::select! {
        got = fetch(home, json, name, &file) => got,
        stopped = stopped() => Err(stopped),
    }
}

/// Waits for a signal to stop, and returns the error of a command that was stopped.
pub(crate) async fn stopped() -> Failed {
    let listen = |kind| tokio::signal::unix::signal(kind).map_err(Failed::other);
    let signals = listen(SignalKind::interrupt()).and_then(|i| {
        Ok((
            i,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ))
    });
    let (mut interrupt, mut terminate, mut hangup) = match signals {
        Ok(signals) => signals,
        Err(failed) => return failed,
    };
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
    Failed::other("stopped before the file was whole")
}

async fn fetch(home: &Home, json: bool, name: &str, file: &Path) -> Outcome {
    let progress = Progress::new(home, None)?;
    let path = path_of("files", name) + &progress.query();
    let answer = Client(home)
        .send(Method::GET, &path, &[], nothing())
        .await?;
    let length = answer
        .headers()
        .get("content-length")
        .and_then(|l| l.to_str().ok())
        .and_then(|l| l.parse().ok());
    let length: u64 =
        length.ok_or_else(|| Failed::other("the daemon's answer lacks the file's length"))?;
    progress.set_length(length);
    let cannot = |e: io::Error| {
        // The error may name the unfinished file, which means nothing to people. So only the kind
        // of the error is kept.
        let e = e
            .get_ref()
            .and_then(|inner| inner.source())
            .and_then(|s| s.downcast_ref::<io::Error>())
            .map_or(e.kind().into(), |inner| io::Error::from(inner.kind()));
        Failed::io(format!("cannot write {}", file.display()), &e)
    };
    let destination = Destination::new(file).map_err(cannot)?;
    let mut out = destination.open().map_err(cannot)?;
    let mut pieces = pieces(answer);
    let mut received = 0;
    while let Some(piece) = pieces.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(_) => break,
        };
        match out.write_all(&piece).await {
            // The reader has closed the pipe and wants no more.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(cannot)?,
        }
        received += piece.len() as u64;
        progress.whole().set_position(received);
    }
    match out.flush().await {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        flushed => flushed.map_err(cannot)?,
    }
    drop(progress);
    if received != length {
        return Err(why_it_broke_off(home, name, received, length).await);
    }
    let to_output = matches!(destination, Destination::Output);
    destination.settle().map_err(cannot)?;
    // On standard output, the document would be taken for the file's content.
    if json && !to_output {
        print_json(&serde_json::json!({"name": name, "size": length, "file": file}))?;
    }
    Ok(())
}

/// The destination of a file that is read.
enum Destination {
    /// Standard output.
    Output,
    /// A path that exists and is not a file, such as a pipe or a device. It is written to and never
    /// replaced.
    Special(PathBuf),
    /// A file. It is written beside its place and moved there when it is whole. An older file stays
    /// until then.
    File {
        new: tempfile::NamedTempFile,
        path: PathBuf,
    },
}

impl Destination {
    fn new(file: &Path) -> io::Result<Self> {
        // These names mean the output that the shell opened, at its position. If it were opened
        // again, writing would begin at its first byte.
        let output = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
        if output.iter().any(|name| file == Path::new(name)) {
            return Ok(Self::Output);
        }
        // A path of the system is opened, whatever it leads to, and never replaced.
        if ["/dev", "/proc"]
            .iter()
            .any(|system| file.starts_with(system))
        {
            return Ok(Self::Special(file.to_owned()));
        }
        // A link stays a link. The file that it leads to is replaced or made.
        let led_to = |link: PathBuf| file.parent().unwrap_or(Path::new("")).join(link);
        let path = std::fs::canonicalize(file)
            .or_else(|_| std::fs::read_link(file).map(led_to))
            .unwrap_or_else(|_| file.to_owned());
        let existing = std::fs::metadata(&path).ok();
        if existing.as_ref().is_some_and(|meta| !meta.is_file()) {
            return Ok(Self::Special(path));
        }
        let folder = path
            .parent()
            .filter(|f| !f.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let new = tempfile::Builder::new()
            .prefix(".raic-")
            .tempfile_in(folder)?;
        // A temporary file is open to its owner alone. This file gets the mode of the file that it
        // replaces, or that of any new file.
        let permissions = existing.map_or_else(
            || {
                let umask = rustix::process::umask(rustix::fs::Mode::empty());
                rustix::process::umask(umask);
                Permissions::from_mode(0o666 & !umask.bits())
            },
            |meta| meta.permissions(),
        );
        new.as_file().set_permissions(permissions)?;
        Ok(Self::File { new, path })
    }

    fn open(&self) -> io::Result<Pin<Box<dyn AsyncWrite + Send>>> {
        Ok(match self {
            Self::Output => Box::pin(tokio::io::stdout()),
            Self::Special(path) => {
                let file = std::fs::OpenOptions::new().write(true).open(path)?;
                Box::pin(tokio::fs::File::from_std(file))
            }
            Self::File { new, .. } => Box::pin(tokio::fs::File::from_std(new.reopen()?)),
        })
    }

    fn settle(self) -> io::Result<()> {
        match self {
            Self::Output | Self::Special(_) => Ok(()),
            Self::File { new, path } => new.persist(path).map(drop).map_err(|e| e.error),
        }
    }
}

/// Returns why the content of a file broke off. The head of the answer went out before the fault
/// was known. So the first missing byte is requested again, to get the error.
async fn why_it_broke_off(home: &Home, name: &str, received: u64, length: u64) -> Failed {
    let range = [("range", format!("bytes={received}-{received}"))];
    let again = Client(home)
        .send(Method::GET, &path_of("files", name), &range, nothing())
        .await;
    let head = format!("{name:?} broke off after {received} of {length} bytes");
    match again {
        Err(failed) => Failed {
            sentence: format!("{head}: {}", failed.sentence),
            ..failed
        },
        Ok(_) => Failed {
            code: Code::TooFewClouds,
            sentence: format!("{head}; the daemon's log names each cloud and its fault"),
        },
    }
}

pub(crate) async fn ls(home: &Home, json: bool, prefix: &str) -> Outcome {
    let mut after = String::new();
    let mut out = io::stdout().lock();
    let mut print = |line: std::fmt::Arguments<'_>| match out.write_fmt(line) {
        // The reader has closed the pipe and wants no more.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other
            .map(|()| true)
            .map_err(|e| Failed::io("cannot write the output", &e)),
    };
    loop {
        let path = format!(
            "/v1/files?prefix={}&after={}&limit=1000",
            encode(prefix),
            encode(&after)
        );
        let page: Vec<File> = Client(home).ask(Method::GET, &path, nothing()).await?;
        for file in &page {
            let more = if json {
                let line = as_json(file)?;
                print(format_args!("{line}\n"))?
            } else {
                print(format_args!(
                    "{:>14}  {}  {}\n",
                    file.size,
                    when(file.modified_ms),
                    raic_wasm::shown(&file.name)
                ))?
            };
            if !more {
                return Ok(());
            }
        }
        match page.last() {
            Some(last) if page.len() == 1000 => after.clone_from(&last.name),
            _ => return Ok(()),
        }
    }
}

pub(crate) async fn rm(home: &Home, json: bool, names: &[String]) -> Outcome {
    let (mut first, mut removed) = (None, 0);
    for name in names {
        match Client(home)
            .send(Method::DELETE, &path_of("files", name), &[], nothing())
            .await
        {
            Ok(_) if json => print_json(&serde_json::json!({"removed": name}))?,
            Ok(_) => {}
            // Without a daemon no file can be removed.
            Err(failed) if failed.code == Code::NoDaemon => return Err(failed),
            Err(failed) => {
                if names.len() > 1 && json {
                    let error = serde_json::json!({
                        "name": name, "error": failed.sentence, "code": failed.code,
                    });
                    tell!("{}", as_json(&error)?);
                } else if names.len() > 1 {
                    tell!("{name:?}: {}", failed.sentence);
                }
                first.get_or_insert(failed);
                continue;
            }
        }
        removed += 1;
    }
    match first {
        None => Ok(()),
        Some(failed) if names.len() == 1 => Err(failed),
        Some(failed) => {
            let sentence = format!("{removed} of {} files were removed", names.len());
            Err(Failed { sentence, ..failed })
        }
    }
}

pub(crate) async fn stat(home: &Home, json: bool, name: &str) -> Outcome {
    let file: File = Client(home)
        .ask(Method::GET, &path_of("stat", name), nothing())
        .await?;
    if json {
        return print_json(&file);
    }
    say!("name           {}", file.name);
    say!(
        "size           {} ({})",
        file.size,
        progress::bytes(file.size)
    );
    say!("stored         {}", when(file.modified_ms));
    say!("blake3         {}", file.blake3.as_deref().unwrap_or("-"));
    say!(
        "storage index  {}",
        file.storage_index.as_deref().unwrap_or("-")
    );
    for placed in &file.shares {
        say!("share {:<8} {}", placed.share, placed.cloud);
    }
    lacking(&file);
    Ok(())
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Outcome {
    say!("{}", as_json(value)?);
    Ok(())
}

/// Formats a moment, in milliseconds since 1970, for people.
pub(crate) fn when(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| "-".to_owned(),
        |t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    )
}
