//! The commands for files: `put`, `get`, `cat`, `ls`, `stat`, `rm`, `cp`, `mv` and `sync`.

mod copy;
mod folder;
mod get;
mod ls;
mod pace;
mod put;
mod remote;
mod rm;
mod selection;
mod several;
mod sync;
mod tree;

use clap::Args;
use hyper::Method;
use raic_gateway::wire::{Code, File};
use tokio::signal::unix::SignalKind;

pub(crate) use self::{
    copy::{CopyArguments, CpArguments, cp, mv},
    get::{CatArguments, GetArguments, cat, get},
    ls::{LsArguments, ls},
    put::{PutArguments, put},
    rm::{RmArguments, rm},
    sync::{SyncArguments, sync},
};
use self::{pace::Pace, remote::Remote, selection::Selection};
use crate::{
    client::{Client, nothing},
    error::{Failed, Outcome},
    home::Home,
    output::{as_json, say, tell},
    progress,
};

/// The bucket that a command is about.
#[derive(Clone, Args)]
pub(crate) struct Bucket {
    /// The bucket of the files
    #[arg(long, value_name = "NAME", default_value = raic_array::DEFAULT_BUCKET)]
    pub(crate) bucket: String,
}

/// The version of a file that a command is about.
#[derive(Clone, Default, Args)]
pub(crate) struct Version {
    /// An older version, by the id that `raic ls --versions` shows
    #[arg(long, value_name = "ID")]
    version_id: Option<String>,
}

/// Which files of a folder are meant.
#[derive(Args)]
struct Selecting {
    /// Only files that match, such as "*.jpg" (in any folder) or "2026/**" (from the top); several
    /// are told by several options
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No files that match
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
}

impl Selecting {
    /// Requires that nothing is selected, where files are named one by one.
    fn require_none(&self) -> Outcome {
        match self.include.is_empty() && self.exclude.is_empty() {
            true => Ok(()),
            false => Err(Failed::usage("--include and --exclude need --recursive")),
        }
    }

    fn selection(&self) -> Outcome<Selection> {
        Selection::new(&self.include, &self.exclude)
    }
}

/// How files are moved.
#[derive(Args)]
struct Transferring {
    /// Most bytes a second, such as "5 MiB"; for all files together
    #[arg(long, value_name = "SIZE")]
    bwlimit: Option<String>,
    /// How many files are moved at once
    #[arg(long, short, value_name = "COUNT", default_value_t = 4,
          value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
}

impl Transferring {
    fn pace(&self) -> Outcome<Pace> {
        Pace::new(self.bwlimit.as_deref())
    }
}

#[derive(Args)]
pub(crate) struct StatArguments {
    /// The name of the file
    name: String,
    #[command(flatten)]
    version: Version,
    #[command(flatten)]
    bucket: Bucket,
}

pub(crate) async fn stat(home: &Home, json: bool, arguments: StatArguments) -> Outcome {
    let StatArguments {
        name,
        version,
        bucket,
    } = arguments;
    let path = Remote::new(&bucket, &name).at(&version).path("stat", &[]);
    let file: File = Client(home).ask(Method::GET, &path, nothing()).await?;
    if json {
        return print_json(&file);
    }
    say!("name           {}", file.name);
    say!(
        "size           {} ({})",
        file.size,
        progress::bytes(file.size)
    );
    if let Some(modified) = file.source_modified_ms {
        say!("modified       {}", when(modified));
    }
    say!("stored         {}", when(file.modified_ms));
    say!(
        "version        {}{}",
        file.version,
        if file.is_old { " (an old one)" } else { "" }
    );
    if let (Some(class), Some(k), Some(n)) = (&file.class, file.k, file.n) {
        say!("class          {class} ({k} of {n} shares suffice)");
    }
    let details = &file.details;
    for (what, text) in [("type", &details.content_type), ("etag", &details.etag)] {
        if let Some(text) = text {
            say!("{what:<14} {text}");
        }
    }
    let kept = [
        ("metadata", &details.metadata),
        ("tag", &details.tags),
        ("checksum", &details.checksums),
    ];
    for (what, texts) in kept {
        for (name, text) in texts {
            say!("{what:<14} {name}={text}");
        }
    }
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

/// Returns the last part of a name, if a file can have it.
fn last_part(name: &str) -> Option<&str> {
    let last = name.rsplit('/').next()?;
    (!last.is_empty() && last != "." && last != "..").then_some(last)
}

/// Returns what the names in a folder begin with. The empty text is the folder of all files.
fn prefix_of(folder: &str) -> String {
    match folder.is_empty() || folder.ends_with('/') {
        true => folder.to_owned(),
        false => format!("{folder}/"),
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

/// Tells of links that were left out.
fn tell_links(json: bool, links: &[String]) {
    if !links.is_empty() && !json {
        tell!(
            "{} left out; --links stores what they lead to",
            progress::counted(links.len() as u64, "link")
        );
    }
}

/// Tells why one of several files failed.
fn told(json: bool, name: &str, failed: &Failed) -> Outcome {
    if json {
        let error = serde_json::json!({
            "name": name, "error": failed.sentence, "code": failed.code,
        });
        tell!("{}", as_json(&error)?);
    } else {
        tell!("{name:?}: {}", failed.sentence);
    }
    Ok(())
}

/// The error of a name that is no path below a folder.
fn not_below_a_folder() -> Failed {
    Failed {
        code: Code::BadName,
        sentence:
            "its name is no path below a folder: it has an empty part, . or .., or begins or \
                   ends with /"
                .to_owned(),
    }
}
