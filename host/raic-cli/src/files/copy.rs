//! `cp` and `mv`, within the array. What is stored is shared, and not stored anew.

use clap::Args;
use hyper::Method;
use raic_gateway::wire::File;

use super::{Bucket, Version, last_part, print_json, remote::Remote};
use crate::{
    client::{Client, nothing},
    error::{Failed, Outcome},
    home::Home,
    output::say,
};

#[derive(Args)]
pub(crate) struct CopyArguments {
    /// The name of the file
    from: String,
    /// The name of the new file; one that ends with / is a folder
    to: String,
    /// The bucket of the new file [default: that of the file]
    #[arg(long, value_name = "NAME")]
    to_bucket: Option<String>,
    /// Keep a file that has the new name already, and fail
    #[arg(long)]
    no_replace: bool,
    #[command(flatten)]
    bucket: Bucket,
}

#[derive(Args)]
pub(crate) struct CpArguments {
    #[command(flatten)]
    version: Version,
    #[command(flatten)]
    copy: CopyArguments,
}

pub(crate) async fn cp(home: &Home, json: bool, arguments: CpArguments) -> Outcome {
    copy(home, json, arguments.copy, Work::Copy(arguments.version)).await
}

/// Whether the old file stays.
enum Work {
    Copy(Version),
    Move,
}

pub(crate) async fn mv(home: &Home, json: bool, arguments: CopyArguments) -> Outcome {
    copy(home, json, arguments, Work::Move).await
}

async fn copy(home: &Home, json: bool, arguments: CopyArguments, work: Work) -> Outcome {
    let CopyArguments {
        from,
        mut to,
        to_bucket,
        no_replace,
        bucket,
    } = arguments;
    if to.is_empty() || to.ends_with('/') {
        to += last_part(&from)
            .ok_or_else(|| Failed::usage(format!("{from:?} ends without a file's name")))?;
    }
    let (moves, version) = match work {
        Work::Copy(version) => (false, version),
        Work::Move => (true, Version::default()),
    };
    let mut pairs = vec![
        ("from", from.clone()),
        ("from_bucket", bucket.bucket.clone()),
        ("moves", moves.to_string()),
        ("no_replace", no_replace.to_string()),
    ];
    if let Some(id) = version.version_id {
        pairs.push(("version", id));
    }
    let bucket = Bucket {
        bucket: to_bucket.unwrap_or(bucket.bucket),
    };
    let path = Remote::new(&bucket, &to).path("copies", &pairs);
    let made: File = Client(home).ask(Method::POST, &path, nothing()).await?;
    if json {
        return print_json(&made);
    }
    let did = if moves { "moved" } else { "copied" };
    let replaced = if made.replaced {
        ", which replaced a file"
    } else {
        ""
    };
    say!("{did} {from} to {to}{replaced}");
    Ok(())
}
