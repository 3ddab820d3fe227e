//! `get` and `cat`.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, Instant, UNIX_EPOCH},
};

use clap::Args;
use futures::StreamExt as _;
use hyper::{Method, Response, body::Incoming};
use raic_gateway::wire::{Code, MODIFIED};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{
    Bucket, Pace, Selecting, Transferring, Version,
    folder::Folder,
    last_part, prefix_of, print_json,
    remote::{Pages, Remote},
    several::Several,
    stopped,
};
use crate::{
    client::{Client, nothing, pieces},
    error::{Failed, Outcome},
    home::Home,
    output::say,
    progress::{self, Progress, counted},
};

/// The time after which the daemon ends the stream of a reader that takes nothing.
const READER_PATIENCE: Duration = raic_array::READER_PATIENCE;
/// A pause of the reader that may have ended the stream: what is in buffers was taken before.
const LONG_PAUSE: Duration = READER_PATIENCE.saturating_sub(Duration::from_secs(5));

#[derive(Args)]
pub(crate) struct GetArguments {
    /// The name of the file; with -r, of a folder
    name: String,
    /// The file or folder to write to; replaces an existing file; - is standard output [default:
    /// the last part of NAME, in the current folder]
    file: Option<PathBuf>,
    /// Read all files of a folder, into a folder that is made if it does not exist
    #[arg(long, short, requires = "file")]
    recursive: bool,
    #[command(flatten)]
    version: Version,
    #[command(flatten)]
    bucket: Bucket,
    #[command(flatten)]
    selecting: Selecting,
    #[command(flatten)]
    transferring: Transferring,
}

#[derive(Args)]
pub(crate) struct CatArguments {
    /// The names of the files, which are written to standard output one after the other
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    version: Version,
    #[command(flatten)]
    bucket: Bucket,
}

/// How files are read.
struct Reading<'a> {
    home: &'a Home,
    bucket: Bucket,
    version: Version,
    pace: Pace,
}

pub(crate) async fn cat(home: &Home, arguments: CatArguments) -> Outcome {
    if arguments.version.version_id.is_some() && arguments.names.len() > 1 {
        return Err(Failed::usage("--version-id needs the name of one file"));
    }
    let reading = Reading {
        home,
        bucket: arguments.bucket,
        version: arguments.version,
        pace: Pace::default(),
    };
    for name in &arguments.names {
        let progress = Progress::new(home, None)?;
        reading
            .fetch(name, Destination::Output, Path::new("-"), &progress)
            .await?;
    }
    Ok(())
}

pub(crate) async fn get(home: &Home, json: bool, arguments: GetArguments) -> Outcome {
    let GetArguments {
        name,
        file,
        recursive,
        version,
        bucket,
        selecting,
        transferring,
    } = arguments;
    if recursive && version.version_id.is_some() {
        return Err(Failed::usage("--version-id needs the name of one file"));
    }
    let reading = Reading {
        home,
        bucket,
        version,
        pace: transferring.pace()?,
    };
    if let (true, Some(folder)) = (recursive, &file) {
        // At a signal to stop, the transfers are dropped, and their unfinished files with them.
        return tokio::select! {
            got = reading.get_folder(json, &name, folder, &selecting, transferring.jobs) => got,
            stopped = stopped() => Err(stopped),
        };
    }
    selecting.require_none()?;
    let in_folder = |folder: PathBuf| match last_part(&name) {
        Some(last) => Ok(folder.join(last)),
        None => Err(Failed::usage(format!(
            "{name:?} ends without a file's name; name the file with `raic get NAME FILE`"
        ))),
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
    tokio::select! {
        got = reading.get_file(json, &name, &file) => got,
        stopped = stopped() => Err(stopped),
    }
}

impl Reading<'_> {
    async fn get_file(&self, json: bool, name: &str, file: &Path) -> Outcome {
        let progress = Progress::new(self.home, None)?;
        let destination = Destination::new(file).map_err(|e| cannot_write(file, &e))?;
        let to_output = matches!(destination, Destination::Output);
        let fetched = self.fetch(name, destination, file, &progress).await;
        drop(progress);
        let Some(length) = fetched? else {
            return Ok(());
        };
        // On standard output, the document would be taken for the file's content.
        if json && !to_output {
            print_json(&serde_json::json!({"name": name, "size": length, "file": file}))?;
        }
        Ok(())
    }

    async fn get_folder(
        &self,
        json: bool,
        name: &str,
        path: &Path,
        selecting: &Selecting,
        jobs: u8,
    ) -> Outcome {
        let (selection, prefix) = (selecting.selection()?, prefix_of(name));
        let folder = Folder::open(path)?;
        let progress = Progress::of_files(0);
        let mut several = Several::default();
        let bytes = parking_lot::Mutex::new(0);
        let mut pages = Pages::new(self.home, &self.bucket, &prefix, "");
        let mut listed = 0_u64;
        while let Some(page) = pages.next().await? {
            let names = page.files.into_iter().map(|file| file.name);
            let names = names.filter(|name| selection.has(&name[prefix.len()..]));
            let names: Vec<String> = names.collect();
            listed += names.len() as u64;
            progress.expect_files(listed);
            let work = async |name: String| {
                let relative = &name[prefix.len()..];
                let length = self
                    .fetch_below(&name, relative, &folder, &progress)
                    .await?;
                progress.ended();
                *bytes.lock() += length;
                match json {
                    true => print_json(&serde_json::json!({
                        "name": name, "size": length, "file": path.join(relative),
                    })),
                    false => Ok(()),
                }
            };
            several.run(json, jobs, names, String::clone, work).await?;
        }
        drop(progress);
        if listed == 0 {
            return Err(Failed {
                code: Code::NoSuchFile,
                sentence: format!("there is no file in the folder {prefix:?}; see `raic ls`"),
            });
        }
        if !json {
            say!(
                "read {} ({}) into {}",
                counted(several.done, "file"),
                progress::bytes(*bytes.lock()),
                path.display()
            );
        }
        several.end("were read")
    }

    fn remote<'b>(&'b self, name: &'b str) -> Remote<'b> {
        Remote::new(&self.bucket, name).at(&self.version)
    }

    async fn ask(&self, name: &str, progress: &Progress) -> Outcome<Head> {
        let id = progress.id().map(|id| ("transfer", id.to_owned()));
        let pairs: Vec<_> = id.into_iter().collect();
        let path = self.remote(name).path("files", &pairs);
        let answer = Client(self.home)
            .send(Method::GET, &path, &[], nothing())
            .await?;
        let header = |name: &str| answer.headers().get(name)?.to_str().ok();
        let length = header("content-length").and_then(|text| text.parse().ok());
        Ok(Head {
            length: length
                .ok_or_else(|| Failed::other("the daemon's answer lacks the file's length"))?,
            modified_ms: header(MODIFIED).and_then(|text| text.parse().ok()),
            answer,
        })
    }

    /// Reads a file into its destination. Returns its length; `None` if the reader of a pipe wants
    /// no more.
    async fn fetch(
        &self,
        name: &str,
        destination: Destination,
        file: &Path,
        progress: &Progress,
    ) -> Outcome<Option<u64>> {
        let head = self.ask(name, progress).await?;
        let (length, modified_ms) = (head.length, head.modified_ms);
        let mut out = destination.open().map_err(|e| cannot_write(file, &e))?;
        let written = self.copy(name, head, &mut out, progress).await;
        let written = written.map_err(|e| e.of(file))?;
        drop(out);
        if !written {
            return Ok(None);
        }
        let settled = destination.settle(modified_ms);
        settled.map_err(|e| cannot_write(file, &e))?;
        Ok(Some(length))
    }

    async fn fetch_below(
        &self,
        name: &str,
        relative: &str,
        folder: &Folder,
        progress: &Progress,
    ) -> Outcome<u64> {
        // Before the daemon is asked: a name that cannot be written costs nothing.
        let unfinished = folder.begin(relative)?;
        let head = self.ask(name, progress).await?;
        let (length, modified_ms) = (head.length, head.modified_ms);
        let file = Path::new(relative);
        let clone = unfinished.file.try_clone();
        let out = clone.map_err(|e| cannot_write(file, &e))?;
        let mut out: Pin<Box<dyn AsyncWrite + Send>> = Box::pin(tokio::fs::File::from_std(out));
        let written = self.copy(name, head, &mut out, progress).await;
        written.map_err(|e| e.of(file))?;
        drop(out);
        let settled = unfinished.settle(modified_ms);
        settled.map_err(|e| cannot_write(file, &e))?;
        Ok(length)
    }

    /// Copies a content. Returns false if the reader of a pipe wants no more.
    async fn copy(
        &self,
        name: &str,
        head: Head,
        out: &mut Pin<Box<dyn AsyncWrite + Send>>,
        progress: &Progress,
    ) -> Result<bool, CopyFault> {
        progress.expect(head.length);
        let mut pieces = pieces(head.answer);
        let (mut received, mut longest) = (0, Duration::ZERO);
        // What follows a break is told below.
        while let Some(Ok(piece)) = pieces.next().await {
            let began = Instant::now();
            match out.write_all(&piece).await {
                // The reader has closed the pipe and wants no more.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                written => written.map_err(CopyFault::Write)?,
            }
            received += piece.len() as u64;
            progress.whole().inc(piece.len() as u64);
            longest = longest.max(began.elapsed());
            self.pace.keep(piece.len()).await;
        }
        match out.flush().await {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            flushed => flushed.map_err(CopyFault::Write)?,
        }
        if received != head.length {
            let why = match longest >= LONG_PAUSE {
                true => Failed::other(format!(
                    "{name:?} broke off after {received} of {} bytes: whoever reads them took \
                     nothing for {} s, and the daemon waits for {} s",
                    head.length,
                    longest.as_secs(),
                    READER_PATIENCE.as_secs()
                )),
                false => self.why_it_broke_off(name, received, head.length).await,
            };
            return Err(CopyFault::Read(why));
        }
        Ok(true)
    }

    /// Returns why the content of a file broke off. The head of the answer went out before the
    /// fault was known. So the first missing byte is requested again, to get the error.
    async fn why_it_broke_off(&self, name: &str, received: u64, length: u64) -> Failed {
        let range = [("range", format!("bytes={received}-{received}"))];
        let path = self.remote(name).path("files", &[]);
        let again = Client(self.home)
            .send(Method::GET, &path, &range, nothing())
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
}

/// The head of an answer that has a file's content.
struct Head {
    length: u64,
    modified_ms: Option<i64>,
    answer: Response<Incoming>,
}

/// Why a content was not copied.
enum CopyFault {
    Write(io::Error),
    Read(Failed),
}

impl CopyFault {
    fn of(self, file: &Path) -> Failed {
        match self {
            Self::Write(e) => cannot_write(file, &e),
            Self::Read(failed) => failed,
        }
    }
}

/// Makes the error of a file that cannot be written. The error may name the unfinished file, which
/// means nothing to people. So only the kind of the error is kept.
fn cannot_write(file: &Path, e: &io::Error) -> Failed {
    let e = e
        .get_ref()
        .and_then(|inner| inner.source())
        .and_then(|s| s.downcast_ref::<io::Error>())
        .map_or(e.kind().into(), |inner| io::Error::from(inner.kind()));
    Failed::io(format!("cannot write {}", file.display()), &e)
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
        // A path of the system is opened, whatever it leads to, and never replaced. /dev/shm is a
        // folder like others.
        let is_of_system = ["/dev", "/proc"].iter().any(|own| file.starts_with(own));
        if is_of_system && !file.starts_with("/dev/shm") {
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

    /// Moves a file to its place, with the time at which its source was modified.
    fn settle(self, modified_ms: Option<i64>) -> io::Result<()> {
        let Self::File { new, path } = self else {
            return Ok(());
        };
        if let Some(ms) = modified_ms.and_then(|ms| u64::try_from(ms).ok()) {
            new.as_file()
                .set_modified(UNIX_EPOCH + Duration::from_millis(ms))?;
        }
        new.persist(path).map(drop).map_err(|e| e.error)
    }
}
