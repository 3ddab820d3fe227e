//! `put`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, OnceLock},
};

use clap::Args;
use futures::TryStreamExt as _;
use hyper::Method;
use raic_gateway::wire::{File, FileDetails};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::{
    Bucket, Pace, Selecting, Transferring, lacking, last_part, prefix_of, print_json,
    remote::Remote,
    selection::Selection,
    several::Several,
    tell_links,
    tree::{Links, LocalFile, Tree, modified_ms},
};
use crate::{
    client::{Client, streamed},
    error::{Failed, Outcome},
    home::Home,
    output::{as_json, say, tell},
    progress::{self, Progress, counted},
};

/// Bytes that are read from a file at once.
const PIECE: usize = 256 << 10;

#[derive(Args)]
pub(crate) struct PutArguments {
    /// The files to store, under the last parts of their paths; with -r, folders too. For standard
    /// input: - and the name to store it under
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The name to store a single file under
    #[arg(long = "as", value_name = "NAME", conflicts_with = "into")]
    name: Option<String>,
    /// The folder to store files into, such as "photos/2026"
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "",
        hide_default_value = true
    )]
    into: String,
    /// Store folders, with all that is below them
    #[arg(long, short)]
    recursive: bool,
    /// Store what links in folders lead to; otherwise links are left out
    #[arg(long, requires = "recursive")]
    links: bool,
    /// Keep a file that has the name already, and fail
    #[arg(long)]
    no_replace: bool,
    /// The name of the account that pays for the files
    #[arg(long, default_value = "anonymous")]
    account: String,
    /// The class of the files, as in config.toml; that of the bucket if it is left out
    #[arg(long)]
    class: Option<String>,
    #[command(flatten)]
    keeping: Keeping,
    #[command(flatten)]
    bucket: Bucket,
    #[command(flatten)]
    selecting: Selecting,
    #[command(flatten)]
    transferring: Transferring,
}

/// What is kept beside the content of the files.
#[derive(Args)]
struct Keeping {
    /// The media type of the files, such as image/jpeg
    #[arg(long = "type", value_name = "TYPE")]
    content_type: Option<String>,
    /// Metadata to keep beside the files; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// A tag for the files; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
    tags: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no =")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Keeping {
    fn details(self) -> Outcome<FileDetails> {
        let map = |pairs: Vec<(String, String)>| {
            let mut map = BTreeMap::new();
            for (name, value) in pairs {
                if map.insert(name.clone(), value).is_some() {
                    return Err(Failed::usage(format!("{name:?} is given twice")));
                }
            }
            Ok(map)
        };
        Ok(FileDetails {
            content_type: self.content_type,
            metadata: map(self.metadata)?,
            tags: map(self.tags)?,
            ..FileDetails::default()
        })
    }
}

/// How files are stored.
pub(super) struct Storing<'a> {
    pub(super) home: &'a Home,
    pub(super) bucket: Bucket,
    pub(super) account: String,
    pub(super) class: Option<String>,
    pub(super) details: FileDetails,
    pub(super) no_replace: bool,
    pub(super) pace: Pace,
}

/// What is stored.
enum Source<'a> {
    Input,
    Path(&'a Path),
}

impl Storing<'_> {
    /// Stores a file of this machine.
    pub(super) async fn store(
        &self,
        path: &Path,
        name: &str,
        progress: &Progress,
    ) -> Outcome<File> {
        self.send(Source::Path(path), name, progress).await
    }

    async fn send(&self, source: Source<'_>, name: &str, progress: &Progress) -> Outcome<File> {
        let mut pairs = vec![("account", self.account.clone())];
        pairs.extend(progress.id().map(|id| ("transfer", id.to_owned())));
        pairs.extend(self.class.clone().map(|class| ("class", class)));
        if self.details != FileDetails::default() {
            pairs.push(("details", as_json(&self.details)?));
        }
        if self.no_replace {
            pairs.push(("no_replace", "true".to_owned()));
        }
        let (content, shown): (Pin<Box<dyn AsyncRead + Send + Sync>>, _) = match source {
            Source::Input => (Box::pin(tokio::io::stdin()), "standard input".to_owned()),
            Source::Path(path) => {
                let shown = path.display().to_string();
                let cannot = |e: io::Error| Failed::other(format!("cannot read {shown}: {e}"));
                let opened = tokio::fs::File::open(path).await.map_err(cannot)?;
                let meta = opened.metadata().await.map_err(cannot)?;
                if meta.is_dir() {
                    return Err(Failed::other(format!(
                        "{shown} is a folder; `raic put -r` stores folders"
                    )));
                }
                if meta.is_file() {
                    pairs.push(("size", meta.len().to_string()));
                    progress.expect(meta.len());
                    let modified = modified_ms(&meta);
                    pairs.extend(modified.map(|ms| ("modified_ms", ms.to_string())));
                }
                (Box::pin(opened), shown)
            }
        };
        let (counted, pace) = (progress.whole().clone(), self.pace.clone());
        // Why the file cannot be read. The daemon knows only that the content broke off.
        let unreadable = Arc::new(OnceLock::new());
        let noted = unreadable.clone();
        let content = ReaderStream::with_capacity(content, PIECE)
            .inspect_err(move |e| {
                // This is the first error; no other follows it.
                let _ = noted.set(e.to_string());
            })
            .and_then(move |piece| {
                counted.inc(piece.len() as u64);
                let pace = pace.clone();
                async move {
                    pace.keep(piece.len()).await;
                    Ok(piece)
                }
            });
        let path = Remote::new(&self.bucket, name).path("files", &pairs);
        let stored: Outcome<File> = Client(self.home)
            .ask(Method::PUT, &path, streamed(content))
            .await;
        match unreadable.get() {
            Some(why) => Err(Failed::other(format!(
                "not stored: cannot read {shown}: {why}"
            ))),
            None => stored,
        }
    }
}

fn tell_stored(json: bool, stored: &File) -> Outcome {
    if json {
        return print_json(stored);
    }
    let did = match stored.replaced {
        true => "replaced",
        false => "stored",
    };
    // A large file has several extents, whose shares are elsewhere each.
    let (shares, _) = shares_and_clouds(stored);
    let shares = counted(shares.len() as u64, "share");
    say!(
        "{did} {} ({}) as {shares}",
        stored.name,
        progress::bytes(stored.size)
    );
    lacking(stored);
    beside(stored);
    Ok(())
}

/// The shares of a file, and the clouds that have them.
fn shares_and_clouds(stored: &File) -> (BTreeSet<u8>, BTreeSet<&str>) {
    let shares = stored.shares.iter().map(|placed| placed.share).collect();
    let clouds = stored.shares.iter().map(|placed| &*placed.cloud).collect();
    (shares, clouds)
}

/// Warns of a file whose shares lie beside each other, because other clouds were down.
fn beside(stored: &File) {
    let (shares, clouds) = shares_and_clouds(stored);
    if clouds.len() < shares.len() {
        tell!(
            "warning: {}: its {} shares are on {}, since others are down or there are too few; store \
             it anew when there are more",
            stored.name,
            shares.len(),
            counted(clouds.len() as u64, "cloud")
        );
    }
}

pub(crate) async fn put(home: &Home, json: bool, arguments: PutArguments) -> Outcome {
    let PutArguments {
        files,
        name,
        into,
        recursive,
        links,
        no_replace,
        account,
        class,
        keeping,
        bucket,
        selecting,
        transferring,
    } = arguments;
    let storing = Storing {
        home,
        bucket,
        account,
        class,
        details: keeping.details()?,
        no_replace,
        pace: transferring.pace()?,
    };
    if files.iter().any(|file| file == Path::new("-")) {
        let name = prefix_of(into.trim_start_matches('/')) + &name_of_input(&files, name)?;
        let progress = Progress::new(home, None)?;
        let stored = storing.send(Source::Input, &name, &progress).await;
        drop(progress);
        return tell_stored(json, &stored?);
    }
    let links = match links {
        true => Links::Follow,
        false => Links::Skip,
    };
    if !recursive {
        selecting.require_none()?;
    }
    let selection = selecting.selection()?;
    let folder = prefix_of(into.trim_start_matches('/'));
    let mut all = Chosen::default();
    for file in &files {
        if recursive && file.is_dir() {
            all.add_folder(file, &folder, links, &selection)?;
        } else {
            let name = match &name {
                Some(name) => name.clone(),
                None => folder.clone() + &own_name(file)?,
            };
            all.files.push((file.clone(), name));
        }
    }
    match &name {
        Some(_) if recursive || files.len() > 1 => {
            return Err(Failed::usage("--as names a single file, and no folder"));
        }
        Some(name) if name.ends_with('/') => {
            return Err(Failed::usage(format!(
                "{name:?} is a folder; --into stores into one"
            )));
        }
        _ => all.require_distinct()?,
    }
    match &*all.files {
        [(file, name)] if !recursive => {
            let progress = Progress::new(home, None)?;
            let stored = storing.store(file, name, &progress).await;
            drop(progress);
            tell_stored(json, &stored?)
        }
        _ => put_several(&storing, json, transferring.jobs, recursive, all).await,
    }
}

/// The files that a put stores.
#[derive(Default)]
struct Chosen {
    /// Paths, with the names to store them under.
    files: Vec<(PathBuf, String)>,
    refused: Vec<(PathBuf, String)>,
    links: Vec<String>,
}

impl Chosen {
    /// Requires that no two files have one name: the last to come would replace the others.
    fn require_distinct(&self) -> Outcome {
        let mut names = BTreeMap::new();
        for (path, name) in &self.files {
            if let Some(other) = names.insert(name, path) {
                return Err(Failed::usage(format!(
                    "{} and {} would both be stored as {name:?}",
                    other.display(),
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// Adds what is below a folder, under the folder's own name, as `cp -r` does.
    fn add_folder(
        &mut self,
        folder: &Path,
        into: &str,
        links: Links,
        selection: &Selection,
    ) -> Outcome {
        let tree = Tree::read(folder, links, selection)?;
        // `.` and `..` have no name of their own.
        let own = match folder.file_name() {
            Some(_) => own_name(folder)? + "/",
            None => String::new(),
        };
        let files = tree.files.into_iter();
        self.files
            .extend(files.map(|LocalFile { path, relative, .. }| {
                let name = format!("{into}{own}{relative}");
                (path, name)
            }));
        self.refused.extend(tree.refused);
        self.links.extend(tree.links);
        Ok(())
    }
}

async fn put_several(
    storing: &Storing<'_>,
    json: bool,
    jobs: u8,
    is_quiet: bool,
    chosen: Chosen,
) -> Outcome {
    let Chosen {
        files,
        refused,
        links,
    } = chosen;
    let progress = Progress::of_files(files.len() as u64);
    let mut several = Several::default();
    for (path, why) in refused {
        let failed = Failed::other(why);
        several.fail(json, &path.display().to_string(), failed)?;
    }
    let stored = parking_lot::Mutex::new(Stored::default());
    let work = async |(path, name): (PathBuf, String)| {
        let file = storing.store(&path, &name, &progress).await?;
        progress.ended();
        stored.lock().add(&file);
        match is_quiet && !json {
            true => Ok(()),
            false => progress.suspend(|| tell_stored(json, &file)),
        }
    };
    let name = |(path, _): &(PathBuf, String)| path.display().to_string();
    let ran = several.run(json, jobs, files, name, work).await;
    drop(progress);
    ran?;
    let stored = stored.into_inner();
    if !json && is_quiet {
        stored.tell();
    }
    tell_links(json, &links);
    several.end("were stored")
}

/// What several puts stored.
#[derive(Debug, Default)]
pub(super) struct Stored {
    files: u64,
    bytes: u64,
    replaced: u64,
    /// Files that lack shares, and the reason of the last.
    lacking: (u64, String),
    /// Files whose shares lie beside each other.
    beside: u64,
}

impl Stored {
    pub(super) fn add(&mut self, file: &File) {
        self.files += 1;
        self.bytes += file.size;
        self.replaced += u64::from(file.replaced);
        if let Some(lacking) = file.lacking.last() {
            self.lacking.0 += 1;
            self.lacking.1.clone_from(&lacking.reason);
        }
        let (shares, clouds) = shares_and_clouds(file);
        self.beside += u64::from(clouds.len() < shares.len());
    }

    pub(super) fn tell(&self) {
        let replaced = match self.replaced {
            0 => String::new(),
            count => format!(", {count} of them replaced"),
        };
        say!(
            "stored {} ({}){replaced}",
            counted(self.files, "file"),
            progress::bytes(self.bytes)
        );
        // A warning for each of thousands of files would hide what went wrong with one.
        if self.lacking.0 > 0 {
            let (count, reason) = &self.lacking;
            let files = counted(*count, "file");
            tell!("warning: shares of {files} are missing, such as: {reason}");
        }
        if self.beside > 0 {
            let files = counted(self.beside, "file");
            tell!(
                "warning: shares of {files} lie beside each other, since clouds are down or too few; \
                 store them anew when there are more"
            );
        }
    }
}

fn name_of_input(files: &[PathBuf], name: Option<String>) -> Outcome<String> {
    let positional = match files {
        [input, text] if name.is_none() && input == Path::new("-") => {
            text.to_str().map(str::to_owned)
        }
        [_] => None,
        _ => {
            let sentence = "standard input is stored alone: `raic put - NAME`";
            return Err(Failed::usage(sentence));
        }
    };
    name.or(positional).ok_or_else(|| {
        Failed::usage("standard input has no name; give it one with `raic put - NAME`")
    })
}

fn own_name(file: &Path) -> Outcome<String> {
    let name = file.file_name().ok_or_else(|| {
        Failed::usage(format!(
            "{} has no name; give it one with `raic put FILE --as NAME`",
            file.display()
        ))
    })?;
    let name = name.to_str().filter(|name| last_part(name).is_some());
    name.map(str::to_owned).ok_or_else(|| {
        Failed::other(format!(
            "the name of {} is not UTF-8; name the file with `raic put FILE --as NAME`",
            file.display()
        ))
    })
}
