//! `ls`.

use std::io::{self, Write as _};

use clap::Args;
use raic_gateway::wire::{Code, File};

use super::{Bucket, remote::Pages, when};
use crate::{
    error::{Failed, Outcome},
    home::Home,
    output::as_json,
    progress::{bytes, counted},
};

#[derive(Args)]
pub(crate) struct LsArguments {
    /// A folder, or the text that names begin with; an empty text lists all files
    #[arg(default_value = "")]
    prefix: String,
    /// Show size and time of each file, and the total
    #[arg(long, short)]
    long: bool,
    /// List what is in folders, too
    #[arg(long, short)]
    recursive: bool,
    /// List every version of each file, the newest first, with its id
    #[arg(long)]
    versions: bool,
    #[command(flatten)]
    bucket: Bucket,
}

/// How entries are shown.
#[derive(Clone, Copy)]
struct Form {
    json: bool,
    long: bool,
    versions: bool,
}

/// An entry of a list.
enum Entry {
    File(Box<File>),
    Folder(String),
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Self::File(file) => &file.name,
            Self::Folder(name) => name,
        }
    }

    fn line(&self, form: Form) -> Outcome<String> {
        let Form {
            json,
            long,
            versions,
        } = form;
        let name = raic_wasm::shown(self.name());
        let version = match self {
            Self::File(file) if versions => format!("{}  ", file.version),
            Self::Folder(_) if versions => format!("{:26}  ", ""),
            _ => String::new(),
        };
        Ok(match self {
            Self::File(file) if json => as_json(&**file)?,
            Self::Folder(name) if json => as_json(&serde_json::json!({ "folder": name }))?,
            Self::File(file) if long => {
                let (size, modified) = match file.is_delete_mark {
                    true => ("removed".to_owned(), file.modified_ms),
                    false => (
                        bytes(file.size),
                        file.source_modified_ms.unwrap_or(file.modified_ms),
                    ),
                };
                format!("{size:>11}  {}  {version}{name}", when(modified))
            }
            Self::Folder(_) if long => format!("{:>11}  {:20}  {version}{name}", "folder", ""),
            Self::File(file) if file.is_delete_mark => format!("{version}{name} (removed)"),
            _ => format!("{version}{name}"),
        })
    }
}

/// Returns the prefix of what is in a folder, if `prefix` is its whole name without the slash and
/// nothing else begins so: `raic ls photos` shows what is in photos/.
async fn within_folder(
    home: &Home,
    bucket: &Bucket,
    prefix: String,
    form: Form,
) -> Outcome<String> {
    if prefix.is_empty() || prefix.ends_with('/') {
        return Ok(prefix);
    }
    let mut pages = Pages::new(home, bucket, &prefix, "/");
    if form.versions {
        pages = pages.with_versions();
    }
    let page = pages.next().await?.unwrap_or_default();
    let folder = format!("{prefix}/");
    match page.files.is_empty() && page.prefixes == [folder.clone()] {
        true => Ok(folder),
        false => Ok(prefix),
    }
}

pub(crate) async fn ls(home: &Home, json: bool, arguments: LsArguments) -> Outcome {
    let LsArguments {
        prefix,
        long,
        recursive,
        versions,
        bucket,
    } = arguments;
    let form = Form {
        json,
        long,
        versions,
    };
    let delimiter = if recursive { "" } else { "/" };
    let mut out = io::stdout().lock();
    let mut print = |line: &str| match writeln!(out, "{line}") {
        // The reader has closed the pipe and wants no more.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other
            .map(|()| true)
            .map_err(|e| Failed::io("cannot write the output", &e)),
    };
    let prefix = within_folder(home, &bucket, prefix, form).await?;
    let (mut files, mut folders, mut total) = (0, 0_u64, 0);
    let mut pages = Pages::new(home, &bucket, &prefix, delimiter);
    if versions {
        pages = pages.with_versions();
    }
    while let Some(page) = pages.next().await? {
        files += page.files.len() as u64;
        folders += page.prefixes.len() as u64;
        total += page.files.iter().map(|file| file.size).sum::<u64>();
        let of_files = page
            .files
            .into_iter()
            .map(|file| Entry::File(Box::new(file)));
        let of_folders = page.prefixes.into_iter().map(Entry::Folder);
        let mut entries: Vec<Entry> = of_files.chain(of_folders).collect();
        // Stable: the versions of a name keep their order.
        entries.sort_by(|a, b| a.name().cmp(b.name()));
        for entry in entries {
            if !print(&entry.line(form)?)? {
                return Ok(());
            }
        }
    }
    if files + folders == 0 && !prefix.is_empty() {
        return Err(Failed {
            code: Code::NoSuchFile,
            sentence: format!("no name begins with {prefix:?}; see `raic ls`"),
        });
    }
    if long && !json {
        let folders = match folders {
            0 => String::new(),
            count => format!(", {}", counted(count, "folder")),
        };
        let files = counted(files, if versions { "version" } else { "file" });
        print(&format!("{:>11}  in {files}{folders}", bytes(total)))?;
    }
    Ok(())
}
