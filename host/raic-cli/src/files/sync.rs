//! `sync`: makes a folder in the array like a folder of this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use raic_gateway::wire::{File, FileDetails};

use super::{
    Bucket, Selecting, Transferring, Version, prefix_of, print_json,
    put::{Stored, Storing},
    remote::Pages,
    rm::remove,
    selection::Selection,
    several::Several,
    tell_links, told,
    tree::{Links, LocalFile, Tree},
};
use crate::{
    error::{Failed, Outcome},
    home::Home,
    output::{say, tell},
    progress::{Progress, counted},
};

#[derive(Args)]
pub(crate) struct SyncArguments {
    /// The folder of this machine
    folder: PathBuf,
    /// The folder in the array, such as "photos"; an empty text is the folder of all files
    prefix: String,
    /// Compare contents and not only sizes and times
    #[arg(long)]
    checksum: bool,
    /// Remove files from the array that are not in the folder
    #[arg(long)]
    delete: bool,
    /// Print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Store what links lead to; otherwise links are left out
    #[arg(long)]
    links: bool,
    /// The name of the account that pays for the files
    #[arg(long, default_value = "anonymous")]
    account: String,
    /// The class of files that are stored, as in config.toml; that of the bucket if it is left out
    #[arg(long)]
    class: Option<String>,
    #[command(flatten)]
    bucket: Bucket,
    #[command(flatten)]
    selecting: Selecting,
    #[command(flatten)]
    transferring: Transferring,
}

/// What has to be done.
#[derive(Debug, Default)]
struct Plan {
    store: Vec<LocalFile>,
    /// Names in the array.
    remove: Vec<String>,
    same: u64,
}

/// Returns whether a name is that of a link that was left out, or below it. What it leads to may be
/// what is stored there.
fn is_of_link(links: &[String], name: &str) -> bool {
    links.iter().any(|link| {
        let rest = name.strip_prefix(link.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Returns whether a file is stored as it is. A file whose content is compared is read whole.
async fn is_same(local: &LocalFile, stored: &File, checksum: bool) -> Outcome<bool> {
    if local.size != stored.size {
        return Ok(false);
    }
    if !checksum {
        return Ok(local.modified_ms.is_some() && local.modified_ms == stored.source_modified_ms);
    }
    let path = local.path.clone();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(path)?)?;
        Ok::<_, std::io::Error>(hasher.finalize().to_hex().to_string())
    });
    let hash = hashed.await.map_err(Failed::other)?;
    // A file that cannot be read is told when it is stored.
    Ok(hash.is_ok_and(|hash| stored.blake3.as_deref() == Some(&hash)))
}

impl Plan {
    async fn make(
        home: &Home,
        arguments: &SyncArguments,
        prefix: &str,
        selection: &Selection,
        (files, links): (Vec<LocalFile>, &[String]),
    ) -> Outcome<Self> {
        let files = files.into_iter().map(|file| (file.relative.clone(), file));
        let mut local: BTreeMap<String, LocalFile> = files.collect();
        let mut plan = Self::default();
        let mut pages = Pages::new(home, &arguments.bucket, prefix, "");
        while let Some(page) = pages.next().await? {
            for stored in page.files {
                let relative = &stored.name[prefix.len()..];
                match local.remove(relative) {
                    Some(file) if is_same(&file, &stored, arguments.checksum).await? => {
                        plan.same += 1;
                    }
                    Some(file) => plan.store.push(file),
                    None if arguments.delete
                        && selection.has(relative)
                        && !is_of_link(links, relative) =>
                    {
                        plan.remove.push(stored.name);
                    }
                    None => {}
                }
            }
        }
        plan.store.extend(local.into_values());
        Ok(plan)
    }

    fn tell(&self, json: bool, prefix: &str) -> Outcome {
        for file in &self.store {
            let name = format!("{prefix}{}", file.relative);
            match json {
                true => print_json(&serde_json::json!({"would_store": name, "size": file.size}))?,
                false => say!("would store {name}"),
            }
        }
        for name in &self.remove {
            match json {
                true => print_json(&serde_json::json!({ "would_remove": name }))?,
                false => say!("would remove {name}"),
            }
        }
        Ok(())
    }
}

pub(crate) async fn sync(home: &Home, json: bool, arguments: SyncArguments) -> Outcome {
    let prefix = prefix_of(&arguments.prefix);
    let links = match arguments.links {
        true => Links::Follow,
        false => Links::Skip,
    };
    let pace = arguments.transferring.pace()?;
    let selection = arguments.selecting.selection()?;
    let tree = Tree::read(Path::new(&arguments.folder), links, &selection)?;
    let (refused, left_out) = (tree.refused, tree.links);
    let Plan {
        store,
        remove: gone,
        same,
    } = {
        let found = (tree.files, &*left_out);
        let mut plan = Plan::make(home, &arguments, &prefix, &selection, found).await?;
        if arguments.dry_run {
            if !refused.is_empty() {
                plan.remove.clear();
            }
            plan.tell(json, &prefix)?;
            if !json {
                say!("{} as before", counted(plan.same, "file"));
            }
            tell_links(json, &left_out);
            return tell_refused(json, refused);
        }
        plan
    };
    let storing = Storing {
        home,
        bucket: arguments.bucket.clone(),
        account: arguments.account,
        class: arguments.class,
        details: FileDetails::default(),
        no_replace: false,
        pace,
    };
    let progress = Progress::of_files(store.len() as u64);
    let stored = parking_lot::Mutex::new(Stored::default());
    let work = async |file: LocalFile| {
        let name = format!("{prefix}{}", file.relative);
        let file = storing.store(&file.path, &name, &progress).await?;
        progress.ended();
        stored.lock().add(&file);
        if json {
            return print_json(&file);
        }
        Ok(())
    };
    let mut several = Several::default();
    let (jobs, name) = (arguments.transferring.jobs, |file: &LocalFile| {
        file.path.display().to_string()
    });
    let ran = several.run(json, jobs, store, name, work).await;
    drop(progress);
    ran?;
    for (path, why) in refused {
        let failed = Failed::other(why);
        several.fail(json, &path.display().to_string(), failed)?;
    }
    let mut removed = Several::default();
    // What the folder seems to lack may be what could not be read.
    if several.failed == 0 {
        let work = async |name: String| {
            remove(home, &arguments.bucket, &name, &Version::default()).await?;
            match json {
                true => print_json(&serde_json::json!({ "removed": name })),
                false => Ok(()),
            }
        };
        removed.run(json, jobs, gone, String::clone, work).await?;
    } else if !gone.is_empty() {
        tell!("nothing was removed, because some files could not be stored");
    }
    if !json {
        stored.into_inner().tell();
        say!(
            "{} as before, {} removed",
            counted(same, "file"),
            counted(removed.done, "file")
        );
    }
    tell_links(json, &left_out);
    several.done += same;
    several.end("are stored")?;
    removed.end("were removed")
}

fn tell_refused(json: bool, refused: Vec<(PathBuf, String)>) -> Outcome {
    let count = refused.len() as u64;
    for (path, why) in refused {
        told(json, &path.display().to_string(), &Failed::other(why))?;
    }
    match count {
        0 => Ok(()),
        count => Err(Failed::other(format!(
            "{} could not be stored",
            counted(count, "file")
        ))),
    }
}
