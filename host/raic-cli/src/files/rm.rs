//! `rm`.

use clap::Args;
use hyper::Method;
use raic_gateway::wire::Code;

use super::{
    Bucket, Selecting, Version, prefix_of, print_json,
    remote::{Pages, Remote},
    several::Several,
};
use crate::{
    client::{Client, nothing},
    error::{Failed, Outcome},
    home::Home,
    output::say,
    progress::counted,
};

/// Files that are removed at once. Each costs one transaction, and those that wait share one.
const AT_ONCE: u8 = 16;

#[derive(Args)]
pub(crate) struct RmArguments {
    /// The names of the files; with -r, of folders
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// Remove folders, with all that is in them
    #[arg(long, short)]
    recursive: bool,
    /// With -r: remove all files of the bucket
    #[arg(long, requires = "recursive", conflicts_with = "names")]
    all: bool,
    /// Print the names of the files that would be removed
    #[arg(long)]
    dry_run: bool,
    /// With -r: remove all versions for good, also old ones, and delete marks
    #[arg(long, requires = "recursive")]
    versions: bool,
    /// Remove only this version of the file, or this delete mark, for good
    #[arg(long, value_name = "ID", conflicts_with_all = ["recursive", "all"])]
    version_id: Option<String>,
    #[command(flatten)]
    bucket: Bucket,
    #[command(flatten)]
    selecting: Selecting,
}

/// Removes a file, or one of its versions.
pub(super) async fn remove(home: &Home, bucket: &Bucket, name: &str, version: &Version) -> Outcome {
    let path = Remote::new(bucket, name).at(version).path("files", &[]);
    Client(home)
        .send(Method::DELETE, &path, &[], nothing())
        .await
        .map(drop)
}

fn name_of((name, _): &(String, Version)) -> String {
    name.clone()
}

pub(crate) async fn rm(home: &Home, json: bool, arguments: RmArguments) -> Outcome {
    let RmArguments {
        mut names,
        recursive,
        all,
        dry_run,
        versions,
        version_id,
        bucket,
        selecting,
    } = arguments;
    let version = Version { version_id };
    if version.version_id.is_some() && names.len() > 1 {
        return Err(Failed::usage("--version-id needs the name of one file"));
    }
    if !recursive {
        selecting.require_none()?;
    } else if names.iter().any(|name| name.is_empty()) {
        // As a variable that is not set would be.
        return Err(Failed::usage(
            "an empty name is no folder; --all removes all files of the bucket",
        ));
    }
    if all {
        names.push(String::new());
    }
    let work = async |(name, version): (String, Version)| {
        if !dry_run {
            remove(home, &bucket, &name, &version).await?;
        }
        let shown = version.version_id.map(|id| format!(" (version {id})"));
        let name = name + &shown.unwrap_or_default();
        match (json, dry_run) {
            (true, true) => print_json(&serde_json::json!({"would_remove": name})),
            (true, false) => print_json(&serde_json::json!({"removed": name})),
            (false, true) => {
                say!("would remove {name}");
                Ok(())
            }
            (false, false) => Ok(()),
        }
    };
    if let ([name], false) = (&*names, recursive) {
        return work((name.clone(), version)).await;
    }
    let mut several = Several::default();
    if !recursive {
        let names = names.into_iter().map(|name| (name, Version::default()));
        several.run(json, 1, names, name_of, work).await?;
        return several.end("were removed");
    }
    let selection = selecting.selection()?;
    for name in names {
        let (prefix, before) = (prefix_of(&name), several.done + several.failed);
        let mut pages = Pages::new(home, &bucket, &prefix, "");
        if versions {
            pages = pages.with_versions();
        }
        while let Some(page) = pages.next().await? {
            let files = page.files.into_iter().map(|file| {
                let version_id = versions.then_some(file.version);
                (file.name, Version { version_id })
            });
            let files = files.filter(|(name, _)| selection.has(&name[prefix.len()..]));
            several.run(json, AT_ONCE, files, name_of, &work).await?;
        }
        if several.done + several.failed == before {
            let failed = Failed {
                code: Code::NoSuchFile,
                sentence: "there is no such file in this folder; see `raic ls -r`".to_owned(),
            };
            let shown = if name.is_empty() { "the bucket" } else { &name };
            several.fail(json, shown, failed)?;
        }
    }
    if !json && !dry_run {
        let what = if versions { "version" } else { "file" };
        say!("removed {}", counted(several.done, what));
    }
    several.end("were removed")
}
