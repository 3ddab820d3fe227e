//! `ls`.

use std::io::{self, Write as _};

use clap::Args;
use raic_gateway::wire::File;

use super::{Bucket, remote::Pages, when};
use crate::{
    error::{Failed, Outcome},
    home::Home,
    output::as_json,
    progress::{bytes, counted},
};

#[derive(Args)]
pub(crate) struct LsArguments {
    /// The text that names begin with, such as "photos/"; an empty text lists all files
    #[arg(default_value = "")]
    prefix: String,
    /// Show size and time of each file, and the total
    #[arg(long, short)]
    long: bool,
    /// List what is in folders, too
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    bucket: Bucket,
}

/// An entry of a list.
enum Entry {
    File(File),
    Folder(String),
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Self::File(file) => &file.name,
            Self::Folder(name) => name,
        }
    }

    fn line(&self, json: bool, long: bool) -> Outcome<String> {
        let name = raic_wasm::shown(self.name());
        Ok(match self {
            Self::File(file) if json => as_json(file)?,
            Self::Folder(name) if json => as_json(&serde_json::json!({ "folder": name }))?,
            Self::File(file) if long => {
                let modified = file.source_modified_ms.unwrap_or(file.modified_ms);
                format!("{:>11}  {}  {name}", bytes(file.size), when(modified))
            }
            Self::Folder(_) if long => format!("{:>11}  {:20}  {name}", "folder", ""),
            _ => name.to_string(),
        })
    }
}

pub(crate) async fn ls(home: &Home, json: bool, arguments: LsArguments) -> Outcome {
    let LsArguments {
        prefix,
        long,
        recursive,
        bucket,
    } = arguments;
    let delimiter = if recursive { "" } else { "/" };
    let mut out = io::stdout().lock();
    let mut print = |line: &str| match writeln!(out, "{line}") {
        // The reader has closed the pipe and wants no more.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other
            .map(|()| true)
            .map_err(|e| Failed::io("cannot write the output", &e)),
    };
    let (mut files, mut folders, mut total) = (0, 0_u64, 0);
    let mut pages = Pages::new(home, &bucket, &prefix, delimiter);
    while let Some(page) = pages.next().await? {
        files += page.files.len() as u64;
        folders += page.prefixes.len() as u64;
        total += page.files.iter().map(|file| file.size).sum::<u64>();
        let of_files = page.files.into_iter().map(Entry::File);
        let of_folders = page.prefixes.into_iter().map(Entry::Folder);
        let mut entries: Vec<Entry> = of_files.chain(of_folders).collect();
        entries.sort_by(|a, b| a.name().cmp(b.name()));
        for entry in entries {
            if !print(&entry.line(json, long)?)? {
                return Ok(());
            }
        }
    }
    if long && !json {
        let folders = match folders {
            0 => String::new(),
            count => format!(", {}", counted(count, "folder")),
        };
        let files = counted(files, "file");
        print(&format!("{:>11}  in {files}{folders}", bytes(total)))?;
    }
    Ok(())
}
